"""Where the catalogue is kept: named queries in a unit of work, and what a row that is not there means."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

import msgspec

from voltledger.domain.errors import InvariantBroken, NotFound, NotPossibleNow
from voltledger.domain.ledger.entries import Entry
from voltledger.services.catalog.views.base import Value

T = TypeVar("T", bound=msgspec.Struct)


class CatalogWork(Protocol):
    """One unit of work of named queries; each row comes as the Struct that is asked for."""

    async def many(self, query: str, kind: type[T], *arguments: object) -> list[T]:
        """All rows of a query."""

    async def one(self, query: str, kind: type[T], *arguments: object) -> T | None:
        """The first row of a query, or None."""

    async def run(self, query: str, *arguments: object) -> None:
        """A statement without rows."""

    async def post(self, entry: Entry) -> bool:
        """Posts an entry; false when its key exists, and then nothing was written."""


class CatalogStore(Protocol):
    """Where the catalogue is kept."""

    def unit_of_work(self) -> AbstractAsyncContextManager[CatalogWork]:
        """Begins one. Raises StoreUnavailable, StoreContention; InvalidInput where a rule names a field."""


def found(row: T | None, what: str) -> T:
    """The row that somebody asked for. Raises: NotFound."""
    if row is None:
        raise NotFound(f"there is no {what}")
    return row


def certain(row: T | None, broken: str) -> T:
    """A row that cannot be missing. Raises: InvariantBroken."""
    if row is None:
        raise InvariantBroken(broken)
    return row


async def add(work: CatalogWork, query: str, *values: object, taken: str) -> None:
    """Adds a row. Raises: NotPossibleNow when its name is taken already."""
    if await work.one(query, Value, *values) is None:
        raise NotPossibleNow(taken)


async def change(work: CatalogWork, query: str, *values: object, what: str) -> None:
    """Changes a row. Raises: NotFound."""
    found(await work.one(query, Value, *values), what)
