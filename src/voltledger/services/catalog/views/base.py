"""What every view is, and the page that lists of them come in."""

from typing import Any, Generic, TypeVar

import msgspec

Item = TypeVar("Item")


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is shown; its fields are the contract's names."""


class Page(msgspec.Struct, Generic[Item], frozen=True, kw_only=True):
    """Part of a list; `next_cursor` is None on the last page."""

    items: list[Item]
    next_cursor: str | None = None


class Value(View, frozen=True, kw_only=True):
    """A row of one column."""

    value: Any
