"""T2 in memory: one settlement a unit of work, its job locked by the same one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import msgspec

from voltledger.domain.identifiers import SessionId
from voltledger.domain.ledger.settlement import Settled, Settlement
from voltledger.domain.quantities import Minor
from voltledger.domain.session.session import ChargingSession
from voltledger.storage.effects import clear_events, settled_news
from voltledger.storage.errors import StoreContention
from voltledger.storage.memory.database import Access, ConstraintBroken, KeyTaken, MemoryDatabase, Transaction
from voltledger.storage.memory.ledger import EntryKey, post_entries
from voltledger.storage.memory.rows import FeedRow, JobRow, OutboxRow, SettlementRow
from voltledger.storage.ports import DueSettlement

REPAIRED = frozenset({"ghost", "orphaned", "will_not_stop"})


class MemorySettlementStore:
    """Where settlements are done; see `SettlementStore`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator["MemorySettlementWork"]:
        """One T2. A rival that was first, or in the way, shows as StoreContention."""
        try:
            async with self._access.transaction("t2") as work:
                yield MemorySettlementWork(self._access, work)
        except KeyTaken as error:
            raise StoreContention("settled by another worker meanwhile") from error

    async def put_off(self, due: DueSettlement, problem: str) -> None:
        """Tries a settlement that failed again later, and later each time."""
        async with self._access.transaction("t2.put_off") as work:
            found = await _lock_job(work, due)
            if found is not None:
                key, row = found
                wait_s = min(600, 2 ** min(row.attempts, 10))
                again = msgspec.structs.replace(
                    row,
                    attempts=row.attempts + 1,
                    last_error=problem,
                    run_after=work.database.now() + timedelta(seconds=wait_s),
                )
                work.put(work.database.jobs, key, again)


class MemorySettlementWork:
    """One T2; see `SettlementWork`."""

    def __init__(self, access: Access, work: Transaction) -> None:
        self._access = access
        self._work = work

    @property
    def _database(self) -> MemoryDatabase:
        return self._work.database

    async def next_due(self) -> DueSettlement | None:
        """The next settlement that is due and that nobody else does, or None."""
        now = self._database.now()
        due = [
            (row.run_after, row.id, key)
            for key, row in self._work.scan(self._database.jobs)
            if row.kind == "settle" and row.state == "waiting" and row.run_after <= now
        ]
        for _, number, key in sorted(due):
            lock = ("job", number)
            if self._database.lock_owner(lock) is None:
                await self._work.lock(lock)
                return DueSettlement(job_id=number, session_id=UUID(key[1]), version=key[2])
        return None

    async def load(self, due: DueSettlement) -> tuple[ChargingSession | None, Settled | None]:
        """The session, locked, and what has been settled for it so far."""
        await self._access.point("t2.load")
        session_id = SessionId(due.session_id)
        await self._work.lock(("session", session_id))
        session = self._work.get(self._database.sessions, session_id)
        settled = [row for key, row in self._work.scan(self._database.settlements) if key[0] == session_id]
        newest = max(settled, key=lambda row: row.version, default=None)
        return session, (None if newest is None else _settled_of(newest))

    async def forget(self, due: DueSettlement) -> None:
        """Removes a job whose session is active again; its end makes a new one."""
        found = await _lock_job(self._work, due)
        if found is not None:
            self._work.remove(self._database.jobs, found[0])

    async def hold(self, due: DueSettlement, reason: str) -> None:
        """Leaves a settlement to a person."""
        found = await _lock_job(self._work, due)
        if found is not None:
            key, row = found
            self._work.put(self._database.jobs, key, msgspec.structs.replace(row, state="held", last_error=reason))

    async def done(self, due: DueSettlement) -> None:
        """Marks a job whose effect exists already."""
        found = await _lock_job(self._work, due)
        if found is not None:
            key, row = found
            done = msgspec.structs.replace(row, state="done", attempts=row.attempts + 1)
            self._work.put(self._database.jobs, key, done)

    async def record(self, due: DueSettlement, session: ChargingSession, settlement: Settlement) -> None:
        """Posts the entry, writes the settlement, marks session and job, leaves word for the cache."""
        await self._access.point("t2.save")
        work, database = self._work, self._database
        entries = () if settlement.entry is None else (settlement.entry,)
        posted = await post_entries(work, entries)
        settled = settlement.settled
        key = (session.id, settled.version)
        await work.lock(("settlement_once", key))
        if work.get(database.settlements, key) is not None:
            raise KeyTaken("settlement_once")
        work.put(database.settlements, key, _settlement_row(session, settled, posted[0] if posted else None))
        await work.lock(("session", session.id))
        row = work.get(database.sessions, session.id)
        if row is not None:
            marked = msgspec.structs.replace(row, settle_version=settled.version, refunded_minor=settled.refund)
            if not 0 <= marked.refunded_minor <= marked.paid_minor:
                raise ConstraintBroken("session_refund_within_paid")
            work.put(database.sessions, session.id, marked)
            work.put(database.settled_at, session.id, database.now())
        self._leave_word(session, settled)
        for finding_key, finding in work.scan(database.findings):
            known = finding.kind == "unknown_energy" and not session.estimated
            repaired = known or finding.kind in REPAIRED
            if finding.session_id == session.id and finding.state == "open" and repaired:
                work.put(database.findings, finding_key, msgspec.structs.replace(finding, state="repaired"))
        await self.done(due)

    def _leave_word(self, session: ChargingSession, settled: Settled) -> None:
        effect_key = f"clear_events:{session.id}:{settled.version}"
        if self._work.get(self._database.outbox, effect_key) is None:
            word = OutboxRow(effect_key=effect_key, target="clear_events", payload=clear_events(session))
            self._work.put(self._database.outbox, effect_key, word)
        news = FeedRow(
            kind="settled", station_id=session.station_id, session_id=session.id, payload=settled_news(session, settled)
        )
        self._work.append(self._database.feed, news)


async def _lock_job(work: Transaction, due: DueSettlement) -> tuple[tuple[str, str, int], JobRow] | None:
    await work.lock(("job", due.job_id))
    for key, row in work.scan(work.database.jobs):
        if row.id == due.job_id:
            return key, row
    return None


def _settlement_row(session: ChargingSession, settled: Settled, entry: EntryKey | None) -> SettlementRow:
    row = SettlementRow(
        session_id=session.id,
        version=settled.version,
        energy_wh=session.energy_wh,
        price_per_kwh_minor=session.price.per_kwh_minor,
        fee_percent=session.fee_percent,
        currency=session.price.currency,
        paid=settled.paid,
        cost=settled.cost,
        covered=settled.covered,
        refund=settled.refund,
        owed=settled.owed,
        fee=settled.fee,
        share=settled.share,
        entry=entry,
    )
    if row.refund < 0:
        raise ConstraintBroken("settlement_refund_not_negative")
    if row.cost != row.fee + row.share:
        raise ConstraintBroken("settlement_cost_is_split")
    if row.cost != row.covered + row.owed:
        raise ConstraintBroken("settlement_cost_is_covered")
    if row.paid != row.covered + row.refund:
        raise ConstraintBroken("settlement_paid_is_accounted")
    return row


def _settled_of(row: SettlementRow) -> Settled:
    return Settled(
        version=row.version,
        paid=Minor(row.paid),
        cost=Minor(row.cost),
        covered=Minor(row.covered),
        refund=Minor(row.refund),
        owed=Minor(row.owed),
        fee=Minor(row.fee),
        share=Minor(row.share),
    )
