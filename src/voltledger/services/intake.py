"""T1: recording what stations say, many facts in one unit of work, and answering after the commit.

Facts that arrive while the last commit is under way share the next one: batches grow with load and
cost little when there is none. A batch that fails because of its data is run again one by one, so
that a fact which we cannot digest harms only itself; it is then kept raw and answered (poison).
While the store is away facts are held, unanswered, up to `hold_s`; then the caller is told
(`NotRecorded`) and closes the connection, so that the station queues them: nothing is answered that
is not recorded.
"""

import asyncio
import random
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from voltledger.domain.events import (
    Answer,
    Booted,
    ConnectorStatus,
    FactUnreadable,
    MeterReported,
    StatusReported,
    TransactionEnded,
    TransactionFact,
    TransactionStarted,
)
from voltledger.domain.identifiers import SessionId, StationId, TransactionRef
from voltledger.domain.reconciliation.findings import Finding, FindingKind, FindingState
from voltledger.domain.session.book import Policy, StationBook
from voltledger.domain.session.connectors import ConnectorRecord, is_stale, station_status
from voltledger.domain.session.decide import decide
from voltledger.domain.session.decision import Circumstances, Decision, FactState
from voltledger.logs import get_logger, log_failure
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.ports import (
    AlreadyRecorded,
    BookWanted,
    BootRecord,
    Changes,
    FactKey,
    FactRecord,
    FactStore,
    FactWork,
    FeedItem,
    FrameRecord,
    StationState,
    StatusRecord,
    StrayReading,
)

log = get_logger(__name__)

MAX_BATCH = 400
MAX_REPEATS = 5
MAX_CONTENDED_S = 2.5
NO_SESSION = SessionId(UUID(int=0))
"""In place of a fresh id for facts that never open a session."""

NEEDS_REF = TransactionStarted | FactUnreadable
"""Events whose answer may need a fresh transaction id."""

RecordedEvent = TransactionFact | StatusReported | Booted
"""Events that are written before they are answered."""


class NotRecorded(Exception):
    """The fact is not recorded and must not be answered; close the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundFact:
    """One message of a station that must be recorded before it is answered.

    `dedupe_key` names the fact whatever frame it came in; None for status and boot, which are
    harmless to repeat. `encode` shapes the answer for the station's dialect (payload JSON).
    """

    station_id: StationId
    epoch: int
    action: str
    message_id: str
    payload: str
    event: RecordedEvent
    dedupe_key: bytes | None
    received_at: datetime
    encode: Callable[[Answer], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A fact whose unit of work has been committed; `decision` is None for status and boot.

    `repeated` facts were recorded before: they got the stored answer and changed nothing.
    """

    fact: InboundFact
    decision: Decision | None
    repeated: bool = False


class IdSource:
    """Fresh identifiers for decisions: session ids from memory, transaction ids from reserved blocks."""

    def __init__(
        self,
        *,
        new_session_id: Callable[[], SessionId],
        reserve: Callable[[int], Awaitable[list[TransactionRef]]],
        block: int = 200,
    ) -> None:
        self.new_session_id = new_session_id
        self._reserve = reserve
        self._block = block
        self._refs: deque[TransactionRef] = deque()

    async def take(self, count: int) -> deque[TransactionRef]:
        """That many transaction ids, for nobody else."""
        while len(self._refs) < count:
            self._refs.extend(await self._reserve(max(self._block, count)))

        # Nothing waits between here and the check above: two lanes cannot draw the same id.
        return deque(self._refs.popleft() for _ in range(count))


@dataclass(slots=True, kw_only=True)
class _Waiting:
    fact: InboundFact
    key: FactKey | None
    answer: "asyncio.Future[str]"
    since: float


class Intake:
    """The one door for facts. `submit` returns the answer when, and only when, it is recorded."""

    def __init__(
        self,
        store: FactStore,
        ids: IdSource,
        policy: Policy,
        *,
        hold_s: float,
        on_committed: Callable[[Sequence[Committed]], None],
        on_commit_size: Callable[[int], None] = lambda size: None,
        lanes: int = 2,
    ) -> None:
        self._store = store
        self._ids = ids
        self._policy = policy
        self._hold_s = hold_s
        self._on_committed = on_committed
        self._on_commit_size = on_commit_size
        self._queues: list[deque[_Waiting]] = [deque() for _ in range(lanes)]
        self._wake = [asyncio.Event() for _ in range(lanes)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Starts the lanes; facts of one station always use the same one, in order."""
        self._tasks = [asyncio.create_task(self._run(lane), name=f"intake-{lane}") for lane in range(len(self._queues))]

    async def stop(self) -> None:
        """Finishes what is waiting, for at most the hold time, then stops the lanes."""
        await self._drained(self._hold_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drained(self, limit_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + limit_s
        while any(self._queues) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)

    @property
    def hold_s(self) -> float:
        """How long a station may be kept waiting while the store is away."""
        return self._hold_s

    @property
    def waiting(self) -> int:
        """Facts that are not recorded yet."""
        return sum(len(queue) for queue in self._queues)

    async def submit(self, fact: InboundFact) -> str:
        """Records a fact and returns the answer's payload.

        Raises: NotRecorded when it could not be recorded in time. The recording itself goes on when
        the caller is cancelled: a station that hangs up has still said what it said.
        """
        loop = asyncio.get_running_loop()
        lane = zlib.crc32(fact.station_id.encode()) % len(self._queues)
        waiting = _Waiting(fact=fact, key=_key(fact), answer=loop.create_future(), since=loop.time())
        self._queues[lane].append(waiting)
        self._wake[lane].set()
        return await asyncio.shield(waiting.answer)

    async def _run(self, lane: int) -> None:
        queue, wake = self._queues[lane], self._wake[lane]
        while True:
            if not queue:
                wake.clear()
                await wake.wait()
            batch = _take(queue)
            try:
                await self._settle_batch(batch)
            except Exception as error:
                # Whatever goes wrong with one batch, the lane goes on: half of all stations wait in it.
                log_failure(log, "a batch could not be handled", facts=len(batch), exc_info=error)
                _refuse(batch)
            for _ in batch:
                queue.popleft()

    async def _settle_batch(self, batch: Sequence[_Waiting]) -> None:
        """Records a batch, or tells each of its facts that it is not recorded."""
        try:
            await self._record_patiently(batch)
        except Exception as error:
            contended = isinstance(error, StoreContention)
            if isinstance(error, StoreUnavailable) or (contended and len(batch) == 1):
                log_failure(log, "facts not recorded in time", facts=len(batch), problem=str(error))
                _refuse(batch)
            elif len(batch) > 1:
                for one in batch:
                    await self._settle_batch([one])
            else:
                await self._keep_poison(batch[0], error)

    async def _record_patiently(self, batch: Sequence[_Waiting]) -> None:
        """Records a batch, through contention, rivals and short outages of the store."""
        look_first, repeats, pause = False, 0, 0.05
        began = asyncio.get_running_loop().time()
        while True:
            try:
                await self._record(batch, look_first=look_first)
            except AlreadyRecorded:
                if look_first and repeats >= MAX_REPEATS:
                    raise
                look_first, repeats = True, repeats + 1
            except StoreContention:
                # Somebody has a row of this batch, for who knows how long: the others must not wait for it.
                repeats += 1
                contended_s = asyncio.get_running_loop().time() - began
                if len(batch) > 1 or repeats > MAX_REPEATS or contended_s > MAX_CONTENDED_S:
                    raise
                await asyncio.sleep(random.uniform(0.005, 0.05))
            except StoreUnavailable:
                loop = asyncio.get_running_loop()
                if loop.time() - batch[0].since + pause > self._hold_s:
                    raise
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)
                # The commit may have happened although its answer was lost.
                look_first = True
            else:
                return

    async def _record(self, batch: Sequence[_Waiting], *, look_first: bool) -> None:
        facts = [waiting.fact for waiting in batch]
        refs = await self._ids.take(sum(isinstance(f.event, NEEDS_REF) for f in facts))
        async with self._store.unit_of_work() as work:
            keys = [waiting.key for waiting in batch if waiting.key is not None]
            known = await work.answered(keys) if look_first else {}
            new = [waiting.fact for waiting in batch if waiting.key not in known]
            assembly = Assembly(self._ids.new_session_id, refs, self._policy)
            await assembly.run(work, new)
            await work.save(assembly.changes)
        self._on_commit_size(len(new))
        self._answer(batch, known, assembly)

    def _answer(self, batch: Sequence[_Waiting], known: dict[FactKey, str], assembly: "Assembly") -> None:
        committed = []
        for waiting in batch:
            key = waiting.key
            if key in known:
                _resolve(waiting, known[key])
                committed.append(Committed(fact=waiting.fact, decision=None, repeated=True))
            else:
                outcome = assembly.outcomes[id(waiting.fact)]
                _resolve(waiting, outcome.response)
                committed.append(Committed(fact=waiting.fact, decision=outcome.decision))
        try:
            self._on_committed(committed)
        except Exception as error:
            # Those who listen are told after the fact; what is recorded and answered stays so.
            log_failure(log, "a listener failed", exc_info=error)

    async def _keep_poison(self, waiting: _Waiting, error: Exception) -> None:
        """T1': our own code failed on this fact; it is kept raw and answered all the same."""
        fact = waiting.fact
        log_failure(
            log,
            "a fact made our code fail; kept raw",
            station=fact.station_id,
            action=fact.action,
            exc_info=error,
        )
        for _ in range(MAX_REPEATS):
            try:
                _resolve(waiting, await self._record_raw(waiting, error))
            except (AlreadyRecorded, StoreContention):
                continue
            except Exception as second:
                log_failure(log, "a fact could not even be kept raw", station=fact.station_id, exc_info=second)
                break
            else:
                return
        _refuse([waiting])

    async def _record_raw(self, waiting: _Waiting, error: Exception) -> str:
        """Records a fact as poison and returns its answer, or the one that it got before."""
        fact = waiting.fact
        (ref,) = await self._ids.take(1)
        answer = Answer(at=fact.received_at, transaction_ref=ref, heartbeat_s=self._policy.heartbeat_s)
        response = fact.encode(answer).decode()
        async with self._store.unit_of_work() as work:
            known = {} if waiting.key is None else await work.answered([waiting.key])
            if waiting.key in known:
                return known[waiting.key]
            await work.save(_poison_changes(fact, response, error))
        return response


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    response: str
    decision: Decision | None


class Assembly:
    """One batch's decisions, gathered into the changes of one unit of work."""

    def __init__(self, new_session_id: Callable[[], SessionId], refs: deque[TransactionRef], policy: Policy) -> None:
        self._new_session_id = new_session_id
        self._refs = refs
        self._policy = policy
        self.changes = Changes()
        self.outcomes: dict[int, _Outcome] = {}

    async def run(self, work: FactWork, facts: Sequence[InboundFact]) -> None:
        """Loads the books of the stations concerned and decides every fact in arrival order."""
        wanted = list(_wanted(facts).values())
        books = await work.load_books(wanted, self._policy) if wanted else {}
        for fact in facts:
            book = books[fact.station_id]
            if isinstance(fact.event, StatusReported):
                self._take_status(book, fact, fact.event)
            elif isinstance(fact.event, Booted):
                self._take_boot(fact, fact.event)
            else:
                self._take_fact(book, fact, fact.event)
        self._conclude_stations(books, wanted)

    def _take_fact(self, book: StationBook, fact: InboundFact, event: TransactionFact) -> None:
        starts = isinstance(event, NEEDS_REF)
        decision = decide(
            book,
            event,
            Circumstances(
                received_at=fact.received_at,
                fact_key=fact.dedupe_key or b"",
                fresh_id=self._new_session_id() if starts else NO_SESSION,
                fresh_ref=self._refs.popleft() if starts else None,
            ),
        )
        response = fact.encode(decision.answer).decode()
        self.outcomes[id(fact)] = _Outcome(response=response, decision=decision)
        self._gather(fact, event, decision, response)

    def _gather(self, fact: InboundFact, event: TransactionFact, decision: Decision, response: str) -> None:
        changes = self.changes
        changes.facts.append(_fact_record(fact, decision.fact_state, decision.session_id, response))
        changes.frames.append(_frame(fact))
        plain = isinstance(event, MeterReported) and not (decision.asks or decision.findings or decision.entries)
        for session in decision.sessions:
            if plain and session.id not in changes.sessions:
                changes.metered[session.id] = session
            else:
                changes.metered.pop(session.id, None)
                changes.sessions[session.id] = session
        if decision.session_id is not None:
            changes.readings.extend((decision.session_id, reading) for reading in decision.readings)
        elif isinstance(event, MeterReported):
            changes.strays.extend(_strays(fact, event))
        changes.entries.extend(decision.entries)
        changes.asks.extend((fact.station_id, ask) for ask in decision.asks)
        changes.settle.extend(decision.settle)
        changes.findings.extend(decision.findings)
        if not isinstance(event, MeterReported):
            changes.feed.extend(_news(fact, decision))

    def _take_status(self, book: StationBook, fact: InboundFact, event: StatusReported) -> None:
        recorded = book.connectors.get((event.evse_id, event.connector_id))
        self.changes.frames.append(_frame(fact))
        if not is_stale(recorded, event, fact.received_at):
            self.changes.statuses.append(
                StatusRecord(station_id=fact.station_id, report=event, received_at=fact.received_at)
            )
            book.connectors[(event.evse_id, event.connector_id)] = ConnectorRecord(
                evse_id=event.evse_id,
                connector_id=event.connector_id,
                status=event.status,
                occurred_at=None if event.at is None else event.at.at,
                received_at=fact.received_at,
            )
            self.changes.feed.append(
                FeedItem(
                    kind="status",
                    station_id=fact.station_id,
                    session_id=None,
                    payload=msgspec.json.encode({"evse": event.evse_id, "status": event.status.value}).decode(),
                )
            )
        self._answer_plainly(fact)

    def _take_boot(self, fact: InboundFact, event: Booted) -> None:
        self.changes.frames.append(_frame(fact))
        self.changes.boots.append(BootRecord(station_id=fact.station_id, boot=event, received_at=fact.received_at))
        self.changes.feed.append(FeedItem(kind="boot", station_id=fact.station_id, session_id=None, payload="{}"))
        self._answer_plainly(fact)

    def _answer_plainly(self, fact: InboundFact) -> None:
        response = fact.encode(Answer(at=fact.received_at, heartbeat_s=self._policy.heartbeat_s)).decode()
        self.outcomes[id(fact)] = _Outcome(response=response, decision=None)

    def _conclude_stations(self, books: dict[StationId, StationBook], wanted: Sequence[BookWanted]) -> None:
        """The stations' one status, wherever a connector or a session may have changed it."""
        for book in (books[w.station_id] for w in wanted if w.state):
            running = bool(book.running())
            parts = [c.status for c in book.connectors.values() if c.evse_id != 0]
            free = bool(parts) and all(status is ConnectorStatus.AVAILABLE for status in parts)
            out_of_order = book.out_of_order and not (free and not running)
            status = station_status(
                book.connectors.values(), connected=True, out_of_order=out_of_order, sessions_running=running
            )
            self.changes.stations.append(
                StationState(station_id=book.station_id, status=status, out_of_order=out_of_order)
            )


def _take(queue: deque[_Waiting]) -> list[_Waiting]:
    """The next batch, left in the queue until it is done: no fact twice in one batch."""
    batch: list[_Waiting] = []
    seen: set[FactKey | None] = set()
    for waiting in queue:
        key = waiting.key
        if len(batch) == MAX_BATCH or (key is not None and key in seen):
            break
        seen.add(key)
        batch.append(waiting)
    return batch


def _key(fact: InboundFact) -> FactKey | None:
    if fact.dedupe_key is None:
        return None
    return FactKey(station_id=fact.station_id, dedupe_key=fact.dedupe_key)


def _wanted(facts: Sequence[InboundFact]) -> dict[StationId, BookWanted]:
    wanted: dict[StationId, BookWanted] = {}
    for fact in facts:
        want = wanted.get(fact.station_id)
        if want is None:
            want = wanted[fact.station_id] = BookWanted(station_id=fact.station_id)
        if isinstance(fact.event, MeterReported):  # the hot path, spared the matching below
            if fact.event.transaction_ref is not None:
                want.refs.add(fact.event.transaction_ref)
            elif not fact.event.evse_id:
                want.state = True  # whose meter it is depends on how many connectors there are
            continue
        match fact.event:
            case TransactionStarted(token=token, transaction_ref=ref):
                want.terms = want.state = True
                want.start_keys.add(fact.dedupe_key or b"")
                if token is not None:
                    want.tokens.add(token)
                if ref is not None:
                    want.refs.add(ref)
            case TransactionEnded(transaction_ref=ref, token=token, at=at):
                want.state = True
                if token is not None:
                    want.tokens.add(token)
                if ref is not None:
                    want.refs.add(ref)
                else:
                    want.nameless_ends.add(at.at)
            case StatusReported() | Booted():
                want.state = True
            case FactUnreadable():
                pass
    return wanted


def _fact_record(fact: InboundFact, state: FactState, session_id: SessionId | None, response: str) -> FactRecord:
    return FactRecord(
        station_id=fact.station_id,
        dedupe_key=fact.dedupe_key or b"",
        action=fact.action,
        message_id=fact.message_id,
        payload=fact.payload,
        epoch=fact.epoch,
        received_at=fact.received_at,
        state=state,
        session_id=session_id,
        response=response,
    )


def _frame(fact: InboundFact) -> FrameRecord:
    return FrameRecord(
        station_id=fact.station_id,
        from_station=True,
        kind=2,
        action=fact.action,
        message_id=fact.message_id,
        payload=fact.payload,
        at=fact.received_at,
        dedupe_key=fact.dedupe_key,
    )


def _strays(fact: InboundFact, event: MeterReported) -> list[StrayReading]:
    return [
        StrayReading(
            station_id=fact.station_id,
            evse_id=event.evse_id or 0,
            transaction_ref=event.transaction_ref,
            reading=reading,
            received_at=fact.received_at,
        )
        for reading in event.readings
    ]


def _news(fact: InboundFact, decision: Decision) -> list[FeedItem]:
    return [
        FeedItem(
            kind="session",
            station_id=fact.station_id,
            session_id=session.id,
            payload=msgspec.json.encode(
                {"status": session.state.value, "energy_wh": session.energy_wh, "evse": session.evse_id}
            ).decode(),
        )
        for session in decision.sessions
    ]


def _poison_changes(fact: InboundFact, response: str, error: Exception) -> Changes:
    finding = Finding(
        kind=FindingKind.POISON,
        key=f"poison:{fact.station_id}:{(fact.dedupe_key or b'').hex()}:{fact.received_at.isoformat()}",
        summary=(
            f"{fact.action} made our own code fail ({type(error).__name__}). It was answered and is kept raw; "
            "report it with the log of that minute."
        ),
        station_id=fact.station_id,
        state=FindingState.OPEN,
    )
    changes = Changes(findings=[finding], frames=[_frame(fact)])
    if fact.dedupe_key is not None:
        changes.facts.append(_fact_record(fact, FactState.POISON, None, response))
    return changes


def _resolve(waiting: _Waiting, response: str) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(response)


def _refuse(batch: Sequence[_Waiting]) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(NotRecorded())
            # The station may have hung up: then nobody reads this exception, and that is fine.
            waiting.answer.exception()
