"""The news in the order of commits, and the answers that were given."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from voltledger.services.catalog.views.base import View


class FeedRow(View, frozen=True, kw_only=True):
    """One piece of news; its place in the order of commits is (xid, id)."""

    id: int
    xid: int
    kind: str
    station: str | None
    session: UUID | None
    payload: Mapping[str, Any]
    at: datetime


class FeedPlace(View, frozen=True, kw_only=True):
    """A place in the feed: everything up to it has been seen."""

    xid: int
    id: int

    def __str__(self) -> str:
        return f"{self.xid}-{self.id}"


class StoredAnswer(View, frozen=True, kw_only=True):
    """The answer that was given to a request with an idempotency key."""

    request_hash: bytes
    status: int
    response: bytes
