"""Sessions that we act on ourselves, in memory: what prepaid charging reads and writes."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from voltledger.domain.events import ConnectorStatus
from voltledger.domain.identifiers import SessionId, StationId, UserId
from voltledger.domain.ledger.accounts import held, wallet
from voltledger.domain.quantities import Minor
from voltledger.domain.reconciliation.evidence import Witness
from voltledger.domain.session.book import Policy, StationBook, Terms
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import State
from voltledger.storage.errors import StoreContention
from voltledger.storage.memory.database import Access, KeyTaken, MemoryDatabase, Transaction
from voltledger.storage.memory.facts import MemoryFactStore, MemoryFactWork
from voltledger.storage.ports import BookWanted, Changes, Payer


class MemorySessionStore:
    """See the port in `services.prepaid`."""

    def __init__(
        self, access: Access, *, currency: str, fee_percent: Decimal, policy: Policy, new_id: Callable[[], UUID]
    ) -> None:
        self._access = access
        self._policy = policy
        self._facts = MemoryFactStore(access, currency=currency, fee_percent=fee_percent, new_id=new_id, name="ours")

    @asynccontextmanager
    async def session_work(self) -> AsyncIterator["MemorySessionWork"]:
        """One unit of work. A rival that was first, or in the way, shows as StoreContention."""
        try:
            async with self._access.transaction("ours") as work:
                yield MemorySessionWork(work, self._facts.work_in(work), self._policy)
        except KeyTaken as error:
            raise StoreContention("done by another meanwhile") from error


class MemorySessionWork:
    """One unit of work over sessions that we act on ourselves."""

    def __init__(self, work: Transaction, facts: MemoryFactWork, policy: Policy) -> None:
        self._work = work
        self._facts = facts
        self._policy = policy

    @property
    def _database(self) -> MemoryDatabase:
        return self._work.database

    async def terms_of(self, station_id: StationId) -> tuple[Terms, int] | None:
        """What a session at a station is priced by, and its number of connectors."""
        station = self._work.get(self._database.stations, station_id)
        if station is None or station.disabled:
            return None
        book = await self.book(BookWanted(station_id=station_id, terms=True))
        return None if book.terms is None else (book.terms, station.connectors)

    async def payer(self, user_id: UserId) -> Payer | None:
        """A user and what they can spend, locked."""
        currency = self._database.drivers.rows.get(user_id)
        if currency is None:
            return None
        spendable = 0
        for code in (held(user_id, currency).code, wallet(user_id, currency).code):
            if self._work.get(self._database.accounts, code) is not None:
                await self._work.lock(("account", code))
                account = self._work.get(self._database.accounts, code)
                if account is not None and account.kind == "wallet":
                    spendable = account.balance or 0
        return Payer(user_id=user_id, currency=currency, spendable=Minor(spendable))

    async def lock_evse(self, station_id: StationId, evse_id: int) -> None:
        """Nobody else decides what begins on this EVSE until the unit of work ends."""
        await self._work.lock(("evse", station_id, evse_id))

    async def open_on(self, station_id: StationId, evse_id: int) -> ChargingSession | None:
        """The session that is open on an EVSE, the oldest of several."""
        found = [s for s in self._work.sessions_of(station_id) if s.is_open and s.evse_id == evse_id]
        return min(found, key=lambda s: s.created_at, default=None)

    async def session(self, session_id: SessionId) -> ChargingSession | None:
        """A session, locked."""
        if self._work.get(self._database.sessions, session_id) is None:
            return None
        await self._work.lock(("session", session_id))
        return self._work.get(self._database.sessions, session_id)

    async def witness(self, session_id: SessionId, now: datetime) -> Witness:
        """What is known of a session's connector now."""
        session = self._work.get(self._database.sessions, session_id)
        if session is None:
            return Witness(now=now, connected_since=None, status=None, status_since=None, status_at=None, heard_at=None)
        place = (session.station_id, session.evse_id)
        reports = [row for key, row in self._work.scan(self._database.connectors) if key[:2] == place]
        report = max(reports, key=lambda row: row.received_at, default=None)
        owner = self._work.get(self._database.owners, session.station_id)
        station = self._work.get(self._database.stations, session.station_id)
        return Witness(
            now=now,
            connected_since=None if owner is None or owner.disconnected_at is not None else owner.connected_at,
            status=None if report is None else ConnectorStatus(report.status),
            status_since=None if report is None else report.since,
            status_at=None if report is None else report.received_at,
            heard_at=session.heard_at,
            booted_at=None if station is None else station.booted_at,
        )

    async def overdue(self, now: datetime) -> list[ChargingSession]:
        """Sessions whose start is overdue, locked; those that others hold are left to them."""
        found = []
        for session_id, session in sorted(self._work.scan(self._database.sessions)):
            until = session.pending_until
            waits = session.state is State.PENDING and until is not None and until < now
            if waits and self._database.lock_owner(("session", session_id)) in (None, self._work):
                await self._work.lock(("session", session_id))
                found.append(session)
        return found

    async def book(self, wanted: BookWanted) -> StationBook:
        """A station's book, its open sessions locked."""
        return (await self._facts.load_books([wanted], self._policy))[wanted.station_id]

    async def save(self, changes: Changes) -> None:
        """Writes everything."""
        await self._facts.save(changes)
