"""Tokens: what identifies a driver. One token, whatever the spelling."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from voltledger.domain.errors import InvalidInput
from voltledger.domain.events import AuthorizationStatus
from voltledger.domain.identifiers import normal_token
from voltledger.services.catalog.pages import Slice, read_page
from voltledger.services.catalog.store import CatalogWork, add, found
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.values import text_of
from voltledger.services.catalog.views.base import Page
from voltledger.services.catalog.views.people import Token, TokenRow


class Tokens(Subject):
    """Id tokens."""

    async def add_token(
        self,
        *,
        value: str,
        type: str = "ISO14443",
        status: str = "Accepted",
        group: str | None = None,
        user: str | None = None,
        expires_at: datetime | None = None,
    ) -> Token:
        """Registers an id token. Raises: InvalidInput, NotPossibleNow when it is registered already."""
        shown = text_of("value", value, most=255)
        key = normal_token(shown)
        taken = f"token {shown} is registered already; change it instead of adding it"
        async with self._store.unit_of_work() as work:
            values = (key, shown, text_of("type", type, most=40), _status(status), group, user, expires_at)
            await add(work, "catalog_token_add", *values, taken=taken)
            return await _token(work, key)

    async def tokens(
        self,
        *,
        status: str | None = None,
        user: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Token]:
        """Tokens by value."""
        part = Slice.of(cursor, limit, str)
        async with self._store.unit_of_work() as work:
            page = await read_page(work, "catalog_tokens", TokenRow, part, status, user, key=lambda t: (t.sort_key,))
        return Page(items=[_plain(row) for row in page.items], next_cursor=page.next_cursor)

    async def token(self, value: str) -> Token:
        """One token, in any spelling. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await _token(work, normal_token(value))

    async def change_token(self, value: str, changes: Mapping[str, Any]) -> Token:
        """Changes the named fields: `type`, `status`, `group`, `user`, `expires_at`; None clears the last
        three.

        Raises: NotFound, InvalidInput.
        """
        async with self._store.unit_of_work() as work:
            key = normal_token(value)
            new = msgspec.structs.replace(await _token(work, key), **changes)
            values = (new.type, _status(new.status), new.group, new.user, new.expires_at)
            await work.run("catalog_token_change", key, *values)
            return new


def _status(status: str) -> str:
    words = [s.value for s in AuthorizationStatus]
    if status not in words:
        raise InvalidInput("status", f"must be one of {', '.join(words)}")
    return status


def _plain(row: TokenRow) -> Token:
    return Token(**{name: getattr(row, name) for name in Token.__struct_fields__})


async def _token(work: CatalogWork, value: str) -> Token:
    return _plain(found(await work.one("catalog_token", TokenRow, value), f"token {value}"))
