"""The catalogue on PostgreSQL: named queries, each row as the Struct that is asked for.

Rules: a query is named, never built; its columns carry the names of the Struct's fields. A constraint
that is violated comes back as an error of the domain.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeVar, get_origin
from uuid import UUID

import asyncpg
import msgspec

from voltledger.domain.errors import InvalidInput
from voltledger.domain.ledger.entries import Entry
from voltledger.storage.errors import StoreContention
from voltledger.storage.postgres.ledger import AlreadyPosted, post_entries
from voltledger.storage.postgres.pool import CONTENTION, Connection, Database, describe
from voltledger.storage.postgres.queries import SQL

T = TypeVar("T", bound=msgspec.Struct)

FIELDS_OF_CONSTRAINTS: Mapping[str, tuple[str, str]] = {
    "station_id_short": ("id", "must be 1 to 48 characters"),
    "station_organization_id_fkey": ("organization", "there is no such organisation"),
    "station_connectors_sane": ("connectors", "must be a number from 0 to 128"),
    "station_profile_known": ("security_profile", "must be a number from 0 to 3"),
    "organization_id_short": ("id", "must be 1 to 64 characters"),
    "organization_fee_is_percent": ("fee_percent", "must be a number from 0 to 100"),
    "driver_id_short": ("id", "must be 1 to 64 characters"),
    "driver_currency_is_code": ("currency", "must be three capital letters, like INR"),
    "tariff_currency_is_code": ("currency", "must be three capital letters, like INR"),
    "tariff_price_not_negative": ("price_per_kwh_minor", "must not be negative"),
    "token_value_short": ("value", "must be 1 to 255 characters"),
    "token_driver_id_fkey": ("user", "there is no such user"),
    "api_key_driver_id_fkey": ("user", "there is no such user"),
    "api_key_role_known": ("role", "must be viewer, operator, finance, admin or driver"),
}
"""Which field of a request a rule of the database speaks about."""


class PostgresCatalogStore:
    """Where the catalogue is kept; see `CatalogStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator["PostgresCatalogWork"]:
        """One database transaction: committed at the end, rolled back by an exception.

        Raises: StoreUnavailable, StoreContention, and InvalidInput where a rule names a field.
        """
        try:
            async with self._database.unit_of_work() as connection:
                yield PostgresCatalogWork(connection)
        except asyncpg.IntegrityConstraintViolationError as error:
            raise _as_input_problem(error) from error
        except asyncpg.DataError as error:
            raise InvalidInput(
                "value", "cannot be stored: a number is too large or a text holds a zero byte"
            ) from error
        except CONTENTION as error:
            raise StoreContention(describe(error)) from error


class PostgresCatalogWork:
    """One unit of work; see `CatalogWork`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def many(self, query: str, kind: type[T], *arguments: object) -> list[T]:
        """All rows of a query."""
        return [_as(kind, row) for row in await self._connection.fetch(SQL[query], *arguments)]

    async def one(self, query: str, kind: type[T], *arguments: object) -> T | None:
        """The first row of a query, or None."""
        row = await self._connection.fetchrow(SQL[query], *arguments)
        return None if row is None else _as(kind, row)

    async def run(self, query: str, *arguments: object) -> None:
        """A statement without rows."""
        await self._connection.execute(SQL[query], *arguments)

    async def post(self, entry: Entry) -> bool:
        """Posts an entry; false when its key exists, and then nothing was written."""
        try:
            async with self._connection.transaction():
                await post_entries(self._connection, [entry])
        except AlreadyPosted:
            return False
        return True


def _as(kind: type[T], row: Mapping[str, Any]) -> T:
    values = dict(row.items())
    for name, value in values.items():
        if isinstance(value, UUID):
            values[name] = UUID(int=value.int)  # the driver's own class is not encoded everywhere
    for name in _json_fields(kind):
        if isinstance(values.get(name), str):
            values[name] = msgspec.json.decode(values[name])
    return kind(**values)


@cache
def _json_fields(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    fields = msgspec.structs.fields(kind)
    return tuple(f.name for f in fields if get_origin(f.type) is Mapping or "Mapping" in str(f.type))


def _as_input_problem(error: asyncpg.IntegrityConstraintViolationError) -> Exception:
    named = FIELDS_OF_CONSTRAINTS.get(error.constraint_name or "")
    return InvalidInput(*named) if named is not None else error
