"""Findings, and what people decide about them."""

from typing import Literal
from uuid import UUID

from voltledger.domain.errors import NotPossibleNow
from voltledger.services.catalog.feed import announce
from voltledger.services.catalog.pages import Slice, read_page
from voltledger.services.catalog.store import CatalogWork, found
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.views.base import Page, Value
from voltledger.services.catalog.views.books import FindingView

_MOST_ID = 2**63


class Findings(Subject):
    """Reasons to doubt data."""

    async def findings(
        self,
        *,
        state: str | None = None,
        kind: str | None = None,
        station: str | None = None,
        session: UUID | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[FindingView]:
        """Findings, newest first."""
        part = Slice.of(cursor, limit, int)
        filters = (state, kind, station, session)
        async with self._store.unit_of_work() as work:
            return await read_page(work, "catalog_findings", FindingView, part, *filters, key=lambda f: (f.id,))

    async def finding(self, id: int) -> FindingView:
        """One finding. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return await _finding(work, id)

    async def close_finding(self, id: int, decision: Literal["accept", "dismiss"]) -> FindingView:
        """A person's decision: `accept` notes it, `dismiss` says it is nothing; again, it changes nothing.

        Raises: NotFound, NotPossibleNow when it was closed otherwise.
        """
        state = {"accept": "noted", "dismiss": "dismissed"}[decision]
        async with self._store.unit_of_work() as work:
            closed = await work.one("catalog_finding_close", Value, id, state) is not None
            finding = await _finding(work, id)
            if closed:
                news = {"id": id, "kind": finding.kind, "state": state}
                await announce(work, "finding", news, station=finding.station, session=finding.session)
            elif finding.state != state:
                raise NotPossibleNow(f"finding {id} is {finding.state} already")
            return finding


async def _finding(work: CatalogWork, id: int) -> FindingView:
    row = await work.one("catalog_finding", FindingView, id) if abs(id) < _MOST_ID else None
    return found(row, f"finding {id}")
