"""Sessions, what was measured in them, and why their amounts are what they are."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from voltledger.domain.errors import InvalidInput, NotFound
from voltledger.domain.session.states import State
from voltledger.services.catalog.amounts import money_sentence, session_of
from voltledger.services.catalog.books import with_postings
from voltledger.services.catalog.pages import MAX_PAGE, Slice, read_page
from voltledger.services.catalog.store import CatalogWork
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.views.base import Page
from voltledger.services.catalog.views.books import EntryView, FindingView
from voltledger.services.catalog.views.sessions import (
    AskedOf,
    FactView,
    ReadingRow,
    Session,
    SessionRow,
    SessionStory,
    SettlementView,
)


class Sessions(Subject):
    """Sessions and their stories."""

    async def session_rows(
        self,
        *,
        status: Sequence[str] | None = None,
        station: str | None = None,
        user: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[SessionRow]:
        """Sessions, newest first, with everything that a page shows of them."""
        part = Slice.of(cursor, limit, datetime, UUID)
        wanted = _states(status)
        async with self._store.unit_of_work() as work:
            return await read_page(
                work, "catalog_sessions", SessionRow, part, wanted, station, user, key=lambda s: (s.created_at, s.id)
            )

    async def sessions(
        self,
        *,
        status: Sequence[str] | None = None,
        station: str | None = None,
        user: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Page[Session]:
        """Sessions, newest first, as the contract shows them."""
        page = await self.session_rows(status=status, station=station, user=user, cursor=cursor, limit=limit)
        return Page(items=[session_of(row) for row in page.items], next_cursor=page.next_cursor)

    async def session(self, id: UUID, *, user: str | None = None) -> Session:
        """One session; with `user`, somebody else's looks like one that does not exist. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            return session_of(await _session(work, id, user))

    async def readings(
        self, session: UUID, *, user: str | None = None, cursor: str | None = None, limit: int = 200
    ) -> Page[ReadingRow]:
        """What the meter said in a session, in order of time. Raises: NotFound."""
        part = Slice.of(cursor, limit, datetime, str)
        async with self._store.unit_of_work() as work:
            await _session(work, session, user)
            return await read_page(
                work, "catalog_readings", ReadingRow, part, key=lambda r: (r.at, r.context), within=(session,)
            )

    async def explain(self, id: UUID, *, user: str | None = None) -> SessionStory:
        """Why a session's amounts are what they are. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            row = await _session(work, id, user)
            entries = await work.many("catalog_entries", EntryView, None, None, id, MAX_PAGE)
            facts = await work.many("catalog_facts_of_session", FactView, row.station, id, MAX_PAGE)
            return SessionStory(
                session=session_of(row),
                sentence=money_sentence(row),
                created_at=row.created_at,
                facts=facts,
                settlements=await work.many("catalog_settlements", SettlementView, id),
                entries=list(reversed(await with_postings(work, entries))),
                findings=await work.many("catalog_findings", FindingView, None, None, None, None, id, MAX_PAGE),
                commands=await work.many("catalog_commands_of_session", AskedOf, id),
            )


def _states(words: Sequence[str] | None) -> list[str] | None:
    """The states to look for; None means all. Raises: InvalidInput."""
    for word in words or ():
        if word not in {s.value for s in State}:
            raise InvalidInput("status", f"must be one of {', '.join(s.value for s in State)}")
    return list(words) if words else None


async def _session(work: CatalogWork, id: UUID, user: str | None) -> SessionRow:
    row = await work.one("catalog_session", SessionRow, id)
    if row is None or (user is not None and row.user != user):
        raise NotFound(f"there is no session {id}")
    return row
