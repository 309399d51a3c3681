"""A fact store in memory: atomic, with commits that can be slowed down, and a database that can go away."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import msgspec

from tests.unit.domain.make import POLICY, TERMS, token_record
from voltledger.domain.identifiers import SessionId, StationId, TransactionRef
from voltledger.domain.quantities import Minor
from voltledger.domain.session.book import Policy, StationBook
from voltledger.domain.session.connectors import ConnectorRecord
from voltledger.domain.session.session import ChargingSession
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.ports import AlreadyRecorded, AnsweredStart, BookWanted, Changes, FactKey, FactRecord


@dataclass
class FakeFactStore:
    """See `FactStore`. Everything that was committed can be looked at."""

    facts: dict[FactKey, FactRecord] = field(default_factory=dict)
    sessions: dict[SessionId, ChargingSession] = field(default_factory=dict)
    connectors: dict[tuple[str, int, int], ConnectorRecord] = field(default_factory=dict)
    commits: list[Changes] = field(default_factory=list)
    """What each unit of work wrote, oldest first; those that wrote nothing among them."""
    begin_errors: deque[Exception] = field(default_factory=deque)
    """Raised, one a unit of work, when it begins."""
    lost_answers: deque[Exception] = field(default_factory=deque)
    """Raised, one a unit of work, after its commit: the commit happened, its answer was lost."""
    away: bool = False
    may_commit: asyncio.Event = field(default_factory=asyncio.Event)
    committing: asyncio.Event = field(default_factory=asyncio.Event)
    loaded: list[BookWanted] = field(default_factory=list)
    numbers: int = 0
    reserved_blocks: list[int] = field(default_factory=list)
    aliases: dict[tuple[StationId, TransactionRef], SessionId] = field(default_factory=dict)
    """Transaction ids that sessions had before."""
    contended: set[str] = field(default_factory=set)
    """Stations of which somebody else holds a row."""
    probe_errors: deque[Exception] = field(default_factory=deque)
    """Raised, one a probe."""
    probes: int = 0

    def __post_init__(self) -> None:
        self.may_commit.set()

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[FakeFactWork]:
        """One unit of work: all of it, or nothing."""
        self._must_be_there()
        if self.begin_errors:
            raise self.begin_errors.popleft()
        work = FakeFactWork(self)
        yield work
        self.committing.set()
        await self.may_commit.wait()
        self._must_be_there()
        work.commit()
        if self.lost_answers:
            raise self.lost_answers.popleft()

    async def reserve_transaction_refs(self, count: int) -> list[TransactionRef]:
        """The numbers from 1 on."""
        await asyncio.sleep(0)
        self._must_be_there()
        self.reserved_blocks.append(count)
        first = self.numbers + 1
        self.numbers += count
        return [TransactionRef(str(number)) for number in range(first, first + count)]

    async def probe(self) -> None:
        """See `FactStore`."""
        await asyncio.sleep(0)
        self.probes += 1
        if self.probe_errors:
            raise self.probe_errors.popleft()
        self._must_be_there()

    def _must_be_there(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def session(self, station: str, ref: str) -> ChargingSession:
        """The one session of a transaction, by the id that it has now or had before."""
        (found,) = (
            one
            for one in self.sessions.values()
            if one.station_id == station
            and (one.transaction_ref == ref or self.aliases.get((one.station_id, TransactionRef(ref))) == one.id)
        )
        return found

    def response_of(self, station: str, key: bytes) -> str:
        """The stored answer of a fact."""
        return self.facts[FactKey(station_id=StationId(station), dedupe_key=key)].response


class FakeFactWork:
    """See `FactWork`."""

    def __init__(self, store: FakeFactStore) -> None:
        self._store = store
        self._changes = Changes()
        self._adopted: list[AnsweredStart] = []

    async def answered(self, keys: Sequence[FactKey]) -> dict[FactKey, str]:
        """The stored answers."""
        await asyncio.sleep(0)
        return {key: self._store.facts[key].response for key in keys if key in self._store.facts}

    async def load_books(self, wanted: Sequence[BookWanted], policy: Policy) -> dict[StationId, StationBook]:
        """All sessions of the stations; terms, tokens and connectors only where they are wanted."""
        await asyncio.sleep(0)
        books = {}
        for want in wanted:
            if want.station_id in self._store.contended:
                raise StoreContention("somebody has a row")
            self._store.loaded.append(want)
            book = StationBook(station_id=want.station_id, policy=policy, terms=TERMS if want.terms else None)
            for session in self._store.sessions.values():
                if session.station_id == want.station_id:
                    book.put(session)
            book.aliases = {
                ref: one for (station, ref), one in self._store.aliases.items() if station == want.station_id
            }
            book.tokens = {token_record().value: token_record()} if want.tokens else {}
            book.spendable = {"anna": Minor(100_000)}
            if want.state:
                book.connectors = {
                    (evse, connector): record
                    for (station, evse, connector), record in self._store.connectors.items()
                    if station == want.station_id
                }
            books[want.station_id] = book
        return books

    async def save(self, changes: Changes) -> None:
        """Keeps the changes for the commit."""
        await asyncio.sleep(0)
        keys = [FactKey(station_id=f.station_id, dedupe_key=f.dedupe_key) for f in changes.facts]
        if any(key in self._store.facts for key in keys) or len(set(keys)) < len(keys):
            raise AlreadyRecorded("inbox_once")
        self._changes = changes

    async def adopt_refs(self, starts: Sequence[AnsweredStart]) -> None:
        """Keeps for the commit which ids stations were told."""
        await asyncio.sleep(0)
        self._adopted = list(starts)

    def commit(self) -> None:
        """Makes it all true at once."""
        store, changes = self._store, self._changes
        store.commits.append(changes)
        for fact in changes.facts:
            store.facts[FactKey(station_id=fact.station_id, dedupe_key=fact.dedupe_key)] = fact
        store.sessions.update(changes.sessions)
        store.sessions.update(changes.metered)
        for status in changes.statuses:
            report = status.report
            store.connectors[(status.station_id, report.evse_id, report.connector_id)] = ConnectorRecord(
                evse_id=report.evse_id,
                connector_id=report.connector_id,
                status=report.status,
                occurred_at=None,
                received_at=status.received_at,
            )
        for start in self._adopted:
            self._adopt(start)

    def _adopt(self, start: AnsweredStart) -> None:
        store = self._store
        fact = store.facts[start.key]
        if fact.session_id is None or store.sessions[fact.session_id].transaction_ref == start.transaction_ref:
            return
        session = store.sessions[fact.session_id]
        if session.transaction_ref is not None:
            store.aliases.setdefault((session.station_id, session.transaction_ref), session.id)
        store.sessions[session.id] = msgspec.structs.replace(session, transaction_ref=start.transaction_ref)
        store.facts[start.key] = replace(fact, response=start.response)


__all__ = ["POLICY", "FakeFactStore", "FakeFactWork"]
