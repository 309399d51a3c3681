"""The news, in the order of commits."""

from collections.abc import Mapping
from uuid import UUID

import msgspec

from voltledger.services.catalog.store import CatalogWork, certain
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.views.feed import FeedPlace, FeedRow


class Feed(Subject):
    """What has happened since a place that a reader remembers."""

    async def feed_end(self) -> FeedPlace:
        """The place after everything that is committed now."""
        async with self._store.unit_of_work() as work:
            return certain(await work.one("catalog_feed_end", FeedPlace), "the feed has no end")

    async def feed(self, after: FeedPlace, *, limit: int = 500) -> list[FeedRow]:
        """News after a place, in the order of commits; a row that commits late is never skipped."""
        async with self._store.unit_of_work() as work:
            return await work.many("catalog_feed", FeedRow, str(after.xid), after.id, limit)


async def announce(
    work: CatalogWork,
    kind: str,
    news: Mapping[str, object],
    *,
    station: str | None = None,
    session: UUID | None = None,
) -> None:
    """Adds a piece of news, seen when the caller's unit of work commits."""
    await work.run("catalog_feed_insert", kind, station, session, msgspec.json.encode(news).decode())
