"""Lists in pages: an opaque cursor says where to go on, and a page is read with one row more than it holds."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import msgspec

from voltledger.domain.errors import InvalidInput
from voltledger.services.catalog.store import CatalogWork
from voltledger.services.catalog.views.base import Page

MAX_PAGE = 500

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Slice:
    """Which part of a list is wanted: what follows a sort key, or the beginning."""

    after: tuple[Any, ...]
    limit: int

    @classmethod
    def of(cls, cursor: str | None, limit: int, *kinds: type) -> Self:
        """The part after a cursor whose parts are of these kinds. Raises: InvalidInput."""
        after = decode_cursor(cursor, *kinds)
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput("limit", f"must be a number from 1 to {MAX_PAGE}")
        return cls(after, limit)


async def read_page(
    work: CatalogWork,
    query: str,
    kind: type[T],
    part: Slice,
    *filters: object,
    key: Callable[[T], tuple[object, ...]],
    within: Sequence[object] = (),
) -> Page[T]:
    """One page of a query whose arguments are: `within`, the sort key to go on from, the filters, how many."""
    rows = await work.many(query, kind, *within, *part.after, *filters, part.limit + 1)
    items = rows[: part.limit]
    more = len(rows) > part.limit
    return Page(items=items, next_cursor=encode_cursor(*key(items[-1])) if more else None)


def encode_cursor(*parts: object) -> str:
    """The sort key of the last item that was shown."""
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


def decode_cursor(cursor: str | None, *kinds: type) -> tuple[Any, ...]:
    """The parts of a cursor, or as many None as there would be. Raises: InvalidInput."""
    if cursor is None:
        return (None,) * len(kinds)
    try:
        raw = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        parts = msgspec.json.decode(raw, type=list[Any])
        if len(parts) != len(kinds):
            raise ValueError
        return tuple(msgspec.convert(part, kind) for part, kind in zip(parts, kinds, strict=True))
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise InvalidInput("cursor", "is not one that a list gave; start again without it") from None
