"""The books: accounts, entries, and the sums that the first page shows."""

from uuid import UUID

import msgspec

from voltledger.services.catalog.pages import Slice, read_page
from voltledger.services.catalog.store import CatalogWork, certain
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.views.base import Page, Value
from voltledger.services.catalog.views.books import (
    AccountView,
    Counts,
    EntryView,
    FindingCount,
    LoopRun,
    MoneyOf,
    Overview,
    PostingView,
    Refunded,
)

_NO_COUNT = "a count came back without a row"


class Books(Subject):
    """Accounts and entries, and how much there is of everything."""

    async def accounts(
        self,
        *,
        kind: str | None = None,
        owner: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[AccountView]:
        """Accounts by code, with their balances."""
        part = Slice.of(cursor, limit, str)
        async with self._store.unit_of_work() as work:
            return await read_page(work, "catalog_accounts", AccountView, part, kind, owner, key=lambda a: (a.code,))

    async def entries(
        self,
        *,
        kind: str | None = None,
        session: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[EntryView]:
        """Entries with their lines, newest first."""
        part = Slice.of(cursor, limit, int)
        async with self._store.unit_of_work() as work:
            page = await read_page(work, "catalog_entries", EntryView, part, kind, session, key=lambda e: (e.id,))
            return msgspec.structs.replace(page, items=await with_postings(work, page.items))

    async def overview(self) -> Overview:
        """Everything that the first page shows."""
        async with self._store.unit_of_work() as work:
            return Overview(
                counts=certain(await work.one("catalog_counts", Counts), _NO_COUNT),
                power_w=certain(await work.one("catalog_power", Value), _NO_COUNT).value,
                money=await _money(work),
                findings=await work.many("catalog_findings_by_kind", FindingCount),
                loops=await work.many("catalog_loops", LoopRun),
            )


async def with_postings(work: CatalogWork, entries: list[EntryView]) -> list[EntryView]:
    """The entries with their lines."""
    lines = await work.many("catalog_postings", PostingView, [e.id for e in entries])
    return [msgspec.structs.replace(e, postings=[line for line in lines if line.entry_id == e.id]) for e in entries]


async def _money(work: CatalogWork) -> list[MoneyOf]:
    refunded = {r.currency: r.refunded_minor for r in await work.many("catalog_refunded", Refunded)}
    money = await work.many("catalog_money", MoneyOf)
    return [msgspec.structs.replace(m, refunded_minor=refunded.get(m.currency, 0)) for m in money]
