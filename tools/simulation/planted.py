"""Servers with a planted bug each: the checker has to catch every one of them, or it proves nothing."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec

from tools.simulation.node import Shape
from voltledger.domain.identifiers import TransactionRef
from voltledger.domain.ledger.entries import credit, debit, make_entry
from voltledger.domain.ledger.settlement import Settled, Settlement
from voltledger.domain.session.session import ChargingSession
from voltledger.services.facts import InboundFact, NotRecorded
from voltledger.services.intake import Intake
from voltledger.storage.memory.database import Transaction
from voltledger.storage.memory.facts import MemoryFactStore, MemoryFactWork
from voltledger.storage.memory.settlements import MemorySettlementStore, MemorySettlementWork
from voltledger.storage.ports import Changes, DueSettlement, FactKey


class AnswerBeforeCommit(Shape):
    """Meter values and ends are answered at once and recorded later."""

    class intake(Intake):
        async def submit(self, fact: InboundFact) -> str:
            if fact.action not in ("MeterValues", "StopTransaction"):
                return await super().submit(fact)
            import asyncio

            later = asyncio.create_task(super().submit(fact))
            later.add_done_callback(lambda task: task.cancelled() or task.exception())
            return "{}"


class NoDedupe(Shape):
    """Every frame is a new fact."""

    class intake(Intake):
        async def submit(self, fact: InboundFact) -> str:
            return await super().submit(_with_key(fact, f"{fact.received_at}{id(fact)}"))


class DedupeByMessageId(Shape):
    """A frame's message id names the fact."""

    class intake(Intake):
        async def submit(self, fact: InboundFact) -> str:
            return await super().submit(_with_key(fact, fact.message_id))


def _with_key(fact: InboundFact, text: str) -> InboundFact:
    if fact.dedupe_key is None:
        return fact
    return replace(fact, dedupe_key=hashlib.blake2b(text.encode(), digest_size=16).digest())


class ErrorWhenAway(Shape):
    """What cannot be recorded is answered all the same, from nothing."""

    class intake(Intake):
        async def submit(self, fact: InboundFact) -> str:
            try:
                return await super().submit(fact)
            except NotRecorded:
                if fact.action == "StartTransaction":
                    raise
                return "{}"


class ForgetsWhatItReserved(Shape):
    """Transaction ids begin anew with each run of a server."""

    class fact_store(MemoryFactStore):
        _given = 0

        async def reserve_transaction_refs(self, count: int) -> list[TransactionRef]:
            first = self._given + 1
            self._given += count
            return [TransactionRef(str(number)) for number in range(first, first + count)]


class _HalfWork(MemoryFactWork):
    async def save(self, changes: Changes) -> None:
        settle, changes.settle = changes.settle, []
        await super().save(changes)
        if settle:
            self._work.commit()  # the end is recorded before its unit of work is over
            for session in settle:
                await self._queue_settlement(session)


class CommitsInHalves(Shape):
    """An end is committed before its settlement is asked for: a crash in between leaves a half."""

    class fact_store(MemoryFactStore):
        def work_in(self, work: Transaction) -> MemoryFactWork:
            return _HalfWork(self._access, work, self._name, self._currency, self._fee_percent, self._new_id)


class _NoJobs(MemoryFactWork):
    async def save(self, changes: Changes) -> None:
        late = [s for s in changes.settle if s.settle_version > 0]
        for session in late:
            changes.settle.remove(session)
        await super().save(changes)


class LateStopEdits(Shape):
    """The true end of a session that was settled already changes its row and posts nothing."""

    class fact_store(MemoryFactStore):
        def work_in(self, work: Transaction) -> MemoryFactWork:
            return _NoJobs(self._access, work, self._name, self._currency, self._fee_percent, self._new_id)


class _HeldApart(MemorySettlementWork):
    async def record(self, due: DueSettlement, session: ChargingSession, settlement: Settlement) -> None:
        if session.user_id is not None and settlement.entry is not None:
            await self._release_elsewhere(session)
        await super().record(due, session, settlement)

    async def _release_elsewhere(self, session: ChargingSession) -> None:
        from voltledger.domain.ledger.accounts import held, wallet
        from voltledger.domain.ledger.entries import EntryKind
        from voltledger.storage.memory.ledger import post_entries

        user, currency = session.user_id, session.price.currency
        if user is None or session.paid_minor == 0:
            return
        lines = (debit(held(user, currency), session.paid_minor), credit(wallet(user, currency), session.paid_minor))
        entry = make_entry(
            kind=EntryKind.RELEASE, source_id=str(session.id), version=1, reason="", lines=lines, session_id=session.id
        )
        async with self._access.transaction("release") as apart:
            await post_entries(apart, () if entry is None else (entry,))


class HoldReleasedOutsideT2(Shape):
    """Money that was set aside goes back in a unit of work of its own."""

    class settlement_store(MemorySettlementStore):
        @asynccontextmanager
        async def unit_of_work(self) -> AsyncIterator[MemorySettlementWork]:
            async with self._access.transaction("t2") as work:
                yield _HeldApart(self._access, work)


class _FloatPrice(MemorySettlementWork):
    async def record(self, due: DueSettlement, session: ChargingSession, settlement: Settlement) -> None:
        await super().record(due, session, _in_floats(session, settlement))


def _in_floats(session: ChargingSession, settlement: Settlement) -> Settlement:
    """The fee computed from the unrounded cost, in binary fractions, rounded down."""
    settled = settlement.settled
    entry = settlement.entry
    fee = int(float(session.price.per_kwh_minor) * session.energy_wh / 1000 * float(session.fee_percent) / 100)
    if entry is None or settled.version > 1 or fee == settled.fee or settled.fee == 0 or settled.share == 0 or fee == 0:
        return settlement
    moved = settled.fee - fee
    postings = []
    for posting in entry.postings:
        change = {"platform_fee": -moved, "payable": moved}.get(posting.account.kind.value, 0)
        postings.append(replace(posting, amount=posting.amount + change))  # type: ignore[arg-type]
    changed: Settled = replace(settled, fee=fee, share=settled.share + moved)  # type: ignore[arg-type]
    return Settlement(settled=changed, entry=replace(entry, postings=tuple(postings)))


class FloatPrice(Shape):
    """Money in binary fractions."""

    class settlement_store(MemorySettlementStore):
        @asynccontextmanager
        async def unit_of_work(self) -> AsyncIterator[MemorySettlementWork]:
            async with self._access.transaction("t2") as work:
                yield _FloatPrice(self._access, work)


class _SettledTwice(MemorySettlementWork):
    async def done(self, due: DueSettlement) -> None:
        """The job is marked in a unit of work of its own, which a crash may prevent."""

    async def load(self, due: DueSettlement) -> tuple[ChargingSession | None, Settled | None]:
        session, _ = await super().load(due)
        return session, None


class SettlesForEver(Shape):
    """A settlement's job is never marked as done."""

    class settlement_store(MemorySettlementStore):
        @asynccontextmanager
        async def unit_of_work(self) -> AsyncIterator[MemorySettlementWork]:
            async with self._access.transaction("t2") as work:
                yield _SettledTwice(self._access, work)


class _EveryMeterCounts(MemoryFactWork):
    async def save(self, changes: Changes) -> None:
        for session_id, session in list(changes.metered.items()):
            register = session.register_wh or 0
            more = min(1, register)
            changes.metered[session_id] = msgspec.structs.replace(session, energy_wh=session.energy_wh + more)
        await super().save(changes)


class MeterCountedTwice(Shape):
    """Meter values are added to the energy besides the registers."""

    class fact_store(MemoryFactStore):
        def work_in(self, work: Transaction) -> MemoryFactWork:
            return _EveryMeterCounts(self._access, work, self._name, self._currency, self._fee_percent, self._new_id)


class _OneStation(MemoryFactWork):
    async def answered(self, keys: Sequence[FactKey]) -> dict[FactKey, str]:
        found = await super().answered(keys)
        return dict.fromkeys(found, "{}")


class ForgetsItsAnswers(Shape):
    """A repeat is answered, though not as the first time."""

    class fact_store(MemoryFactStore):
        def work_in(self, work: Transaction) -> MemoryFactWork:
            return _OneStation(self._access, work, self._name, self._currency, self._fee_percent, self._new_id)


PLANTED: dict[str, type[Shape]] = {
    "answer before commit": AnswerBeforeCommit,
    "no dedupe": NoDedupe,
    "dedupe by message id": DedupeByMessageId,
    "answer although not recorded": ErrorWhenAway,
    "transaction ids begin anew": ForgetsWhatItReserved,
    "an end is committed in halves": CommitsInHalves,
    "late stop edits instead of adjusts": LateStopEdits,
    "hold released outside T2": HoldReleasedOutsideT2,
    "float price": FloatPrice,
    "settlement without a mark": SettlesForEver,
    "meter values counted into energy": MeterCountedTwice,
    "a repeat gets another answer": ForgetsItsAnswers,
}
