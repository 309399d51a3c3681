"""T1: recording what stations say, many facts in one unit of work, and answering after the commit.

Facts that arrive while the last commit is under way share the next one: batches grow with load and
cost little when there is none. A batch that fails because of its data is run again one by one, so
that a fact which we cannot digest harms only itself; it is then kept raw and answered (poison).
While the store is away facts are held, unanswered, up to `hold_s`; then they go to the journal of the
outage ladder and are answered from there. Where that cannot be either, the caller is told (`NotRecorded`)
and closes the connection, so that the station queues them: nothing is answered that is not recorded.
"""

import asyncio
import random
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from voltledger.domain.events import Answer
from voltledger.domain.identifiers import TransactionRef
from voltledger.domain.session.book import Policy
from voltledger.failpoints import ARMED, fp, fp_now
from voltledger.logs import get_logger, log_failure
from voltledger.services.assembly import Assembly, poison_changes
from voltledger.services.facts import NEEDS_REF, Committed, IdSource, InboundFact, NotRecorded, RecordedEvent
from voltledger.services.ladder import Ladder
from voltledger.storage.errors import JournalUnavailable, StoreContention, StoreUnavailable
from voltledger.storage.ports import AlreadyRecorded, AnsweredStart, FactKey, FactStore, FactWork, JournaledFact

__all__ = ["Committed", "IdSource", "InboundFact", "Intake", "NotRecorded", "RecordedEvent"]

log = get_logger(__name__)

MAX_BATCH = 400
MAX_REPEATS = 5
MAX_CONTENDED_S = 2.5
LEAST_ATTEMPT_S = 2.0
"""A unit of work gets at least so long, however old its facts are: longer than it may wait for a lock."""
STARTS_REMEMBERED = 20_000
"""Answers to starts that are kept in mind, should one be repeated while the store is away."""


@dataclass(slots=True, kw_only=True)
class _Waiting:
    fact: InboundFact
    key: FactKey | None
    answer: "asyncio.Future[str]"
    since: float


class Intake:
    """The one door for facts. `submit` returns the answer when, and only when, it is recorded.

    Without a `ladder` facts that cannot be recorded in time are refused. `answer_unrecorded` says what a fact
    is answered from the journal, where nothing of its station's session is known.
    """

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
        ladder: Ladder | None = None,
        answer_unrecorded: Callable[[InboundFact], Answer] | None = None,
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
        self._stopping = False
        self._ladder = ladder
        self._answer_unrecorded = answer_unrecorded or self._answer_generally
        self._starts: OrderedDict[FactKey, tuple[TransactionRef, str]] = OrderedDict()

    def start(self) -> None:
        """Starts the lanes; facts of one station always use the same one, in order."""
        self._tasks = [self._start_lane(lane) for lane in range(len(self._queues))]
        if self._ladder is not None:
            self._tasks.append(asyncio.create_task(self._ladder.run(self._record_journaled), name="ladder"))
        self._tasks.append(asyncio.create_task(self._stock_up(), name="transaction-ids"))

    def _start_lane(self, lane: int) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._run(lane), name=f"intake-{lane}")
        task.add_done_callback(lambda ended: self._lane_ended(lane))
        return task

    def _lane_ended(self, lane: int) -> None:
        """Nothing may end a lane but `stop`: half of all stations wait in it."""
        if not self._stopping:
            log_failure(log, "a lane of the intake ended; it is started again", lane=lane)
            self._tasks[lane] = self._start_lane(lane)

    async def stop(self) -> None:
        """Finishes what is waiting, for at most the hold time, then stops the lanes."""
        await self._drained(self._hold_s)
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drained(self, limit_s: float) -> None:
        deadline = asyncio.get_running_loop().time() + limit_s
        while any(self._queues) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)

    async def _stock_up(self) -> None:
        """Keeps transaction ids in reserve for an outage."""
        while True:
            try:
                await self._ids.stock_up()
            except StoreUnavailable:
                pass
            except Exception as error:
                log_failure(log, "no transaction ids could be reserved", exc_info=error)
            await asyncio.sleep(2)

    @property
    def hold_s(self) -> float:
        """How long a station may be kept waiting while the store is away."""
        return self._hold_s

    @property
    def waiting(self) -> int:
        """Facts that are not recorded yet."""
        return sum(len(queue) for queue in self._queues)

    @property
    def away(self) -> bool:
        """Whether the store is believed to be away."""
        return self._ladder is not None and self._ladder.away

    @property
    def answers_from_memory(self) -> bool:
        """Whether stations are served while the store is away."""
        return self._ladder is not None and self._ladder.can_keep

    async def submit(self, fact: InboundFact) -> str:
        """Records a fact and returns the answer's payload.

        Raises: NotRecorded when it could not be recorded in time. The recording itself goes on when
        the caller is cancelled: a station that hangs up has still said what it said.
        """
        loop = asyncio.get_running_loop()
        if self._ladder is not None and self._ladder.keeps(fact.station_id):
            await self._ladder.caught_up(fact.station_id, self._hold_s / 2)
        lane = zlib.crc32(fact.station_id.encode()) % len(self._queues)
        waiting = _Waiting(fact=fact, key=fact.key, answer=loop.create_future(), since=loop.time())
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
                await self._handle(batch)
            except Exception as error:
                # Whatever goes wrong with one batch, the lane goes on: half of all stations wait in it.
                log_failure(log, "a batch could not be handled", facts=len(batch), exc_info=error)
                _refuse(batch)
            for _ in batch:
                queue.popleft()

    async def _handle(self, batch: Sequence[_Waiting]) -> None:
        """Sends each fact of a batch where its station's facts go now."""
        ladder = self._ladder
        if ladder is None or not (ladder.away or ladder.waiting):
            await self._settle_batch(batch)
            return
        kept = [waiting for waiting in batch if ladder.keeps(waiting.fact.station_id)]
        if kept:
            await self._journal(ladder, kept)
        handled = {id(waiting) for waiting in kept}
        rest = [waiting for waiting in batch if id(waiting) not in handled]
        if rest:
            await self._settle_batch(rest)

    # --- T1 ------------------------------------------------------------------------------------------

    async def _settle_batch(self, batch: Sequence[_Waiting]) -> None:
        """Records a batch, or puts it into the journal, or tells each of its facts that it is not recorded."""
        try:
            await self._record_patiently(batch)
        except Exception as error:
            contended = isinstance(error, StoreContention)
            if isinstance(error, StoreUnavailable) or (contended and len(batch) == 1):
                await self._hand_over(batch, error)
            elif len(batch) > 1:
                for one in batch:
                    await self._handle([one])
            else:
                await self._keep_poison(batch[0], error)

    async def _record_patiently(self, batch: Sequence[_Waiting]) -> None:
        """Records a batch, through contention, rivals and short outages of the store."""
        look_first, repeats, pause = False, 0, 0.05
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            try:
                async with asyncio.timeout_at(max(batch[0].since + self._hold_s, clock() + LEAST_ATTEMPT_S)):
                    await self._record(batch, look_first=look_first)
            except AlreadyRecorded:
                if look_first and repeats >= MAX_REPEATS:
                    raise
                look_first, repeats = True, repeats + 1
            except StoreContention:
                # Somebody has a row of this batch, for who knows how long: the others must not wait for it.
                repeats += 1
                if len(batch) > 1 or repeats > MAX_REPEATS or clock() - began > MAX_CONTENDED_S:
                    raise
                await asyncio.sleep(random.uniform(0.005, 0.05))
            except (StoreUnavailable, TimeoutError) as error:
                if clock() - batch[0].since + pause > self._hold_s:
                    raise StoreUnavailable(str(error) or "no answer in time") from error
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)
                # The commit may have happened although its answer was lost.
                look_first = True
            except (OSError, MemoryError):
                # These say nothing about the facts, unless they come again and again.
                repeats += 1
                if repeats > MAX_REPEATS:
                    raise
                await asyncio.sleep(pause)
                look_first = True
            else:
                return

    async def _record(self, batch: Sequence[_Waiting], *, look_first: bool) -> None:
        await self._give_refs(batch)
        if ARMED:
            await fp("t1.before_begin")
        async with self._store.unit_of_work() as work:
            keys = [waiting.key for waiting in batch if waiting.key is not None]
            known = await work.answered(keys) if look_first else {}
            new = [waiting.fact for waiting in batch if waiting.key not in known]
            assembly = Assembly(self._ids.new_session_id, self._policy)
            await assembly.run(work, new)
            await work.save(assembly.changes)
            await _adopt_refs(work, batch)
            if ARMED and assembly.changes.facts:
                await fp("t1.before_commit")
        if ARMED and assembly.changes.facts:
            await fp("t1.committed")
        self._on_commit_size(len(new))
        self._answer(batch, known, assembly)

    async def _give_refs(self, batch: Sequence[_Waiting]) -> None:
        """Each start gets its transaction id once: all attempts to record it name the same one."""
        bare = [w for w in batch if w.fact.ref is None and isinstance(w.fact.event, NEEDS_REF)]
        if bare:
            refs = await self._ids.take(len(bare))
            for waiting in bare:
                waiting.fact = replace(waiting.fact, ref=refs.popleft())

    def _answer(self, batch: Sequence[_Waiting], known: dict[FactKey, str], assembly: Assembly) -> None:
        committed = []
        for waiting in batch:
            fact, key = waiting.fact, waiting.key
            if key is not None and key in known:
                response = known[key]
                committed.append(Committed(fact=fact, decision=None, repeated=True))
            else:
                outcome = assembly.outcomes[id(fact)]
                response = outcome.response
                committed.append(Committed(fact=fact, decision=outcome.decision))
                if key is not None and outcome.decision is not None and fact.answered is None:
                    self._remember(key, outcome.decision.answer.transaction_ref, response)
            if key is not None and fact.answered is not None:
                self._remember(key, fact.ref, fact.answered)
            _resolve(waiting, response)
        if ARMED and any(one.decision is not None for one in committed):
            fp_now("t1.answered")
        try:
            self._on_committed(committed)
        except Exception as error:
            # Those who listen are told after the fact; what is recorded and answered stays so.
            log_failure(log, "a listener failed", exc_info=error)

    def _remember(self, key: FactKey, ref: TransactionRef | None, response: str) -> None:
        """Keeps what a start was answered in mind, should it be repeated while the store is away."""
        if ref is None:
            return
        self._starts[key] = (ref, response)
        if len(self._starts) > STARTS_REMEMBERED:
            self._starts.popitem(last=False)

    # --- T1' -----------------------------------------------------------------------------------------

    async def _keep_poison(self, waiting: _Waiting, error: Exception) -> None:
        """T1': our own code failed on this fact; it is kept raw and answered all the same."""
        self._log_poison(waiting.fact, error)
        for _ in range(MAX_REPEATS):
            try:
                _resolve(waiting, await self._record_raw(waiting, error))
            except (AlreadyRecorded, StoreContention):
                continue
            except StoreUnavailable as away:
                await self._hand_over([waiting], away)
                return
            except Exception as second:
                station = waiting.fact.station_id
                log_failure(log, "a fact could not even be kept raw", station=station, exc_info=second)
                break
            else:
                return
        _refuse([waiting])

    def _log_poison(self, fact: InboundFact, error: Exception) -> None:
        log_failure(
            log,
            "a fact made our code fail; kept raw",
            station=fact.station_id,
            action=fact.action,
            exc_info=error,
        )

    async def _record_raw(self, waiting: _Waiting, error: Exception) -> str:
        """Records a fact as poison and returns its answer, or the one that it got before."""
        await self._give_refs([waiting])
        fact = waiting.fact
        response = fact.answered
        if response is None:
            response = fact.encode(self._answer_generally(fact)).decode()
        async with self._store.unit_of_work() as work:
            known = {} if waiting.key is None else await work.answered([waiting.key])
            if waiting.key in known:
                return known[waiting.key]
            await work.save(poison_changes(fact, response, error))
            if ARMED:
                await fp("poison.before_commit")
        return response

    def _answer_generally(self, fact: InboundFact) -> Answer:
        return Answer(at=fact.received_at, transaction_ref=fact.ref, heartbeat_s=self._policy.heartbeat_s)

    # --- the journal -----------------------------------------------------------------------------------

    async def _hand_over(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """What to do with facts that were held for as long as they may be."""
        log_failure(log, "facts not recorded in time", facts=len(batch), problem=str(error))
        if self._ladder is None:
            _refuse(batch)
            return
        if isinstance(error, StoreUnavailable):
            self._ladder.fell(str(error))
        await self._journal(self._ladder, batch)

    async def _journal(self, ladder: Ladder, batch: Sequence[_Waiting]) -> None:
        """Keeps facts in the journal and answers them; refuses them where that is not possible."""
        ready: list[_Waiting] = []
        bare: list[_Waiting] = []
        for waiting in batch:
            (ready if self._has_ref(waiting) else bare).append(waiting)
        if bare:
            log_failure(log, "starts without a transaction id in reserve", facts=len(bare))
            _refuse(bare)
        if not ready:
            return
        try:
            answers = await ladder.keep([self._journaled(waiting) for waiting in ready])
        except JournalUnavailable as error:
            log_failure(log, "facts are neither recorded nor answered", facts=len(ready), problem=str(error))
            _refuse(ready)
            return
        for waiting, answer in zip(ready, answers, strict=True):
            _resolve(waiting, answer)

    def _has_ref(self, waiting: _Waiting) -> bool:
        """Whether a fact can be answered: a start needs an id, from the reserve, or from when it was said before."""
        fact = waiting.fact
        if fact.ref is not None or not isinstance(fact.event, NEEDS_REF) or waiting.key in self._starts:
            return True
        ref = self._ids.spare()
        if ref is not None:
            waiting.fact = replace(fact, ref=ref)
        return ref is not None

    def _journaled(self, waiting: _Waiting) -> JournaledFact:
        """A fact as the journal keeps it, with its answer: the one it got before, where that is remembered."""
        fact = waiting.fact
        earlier = None if waiting.key is None else self._starts.get(waiting.key)
        if earlier is not None:
            fact, response = replace(fact, ref=earlier[0]), earlier[1]
        else:
            response = self._encoded(fact)
        return JournaledFact(
            station_id=fact.station_id,
            version=fact.version,
            action=fact.action,
            message_id=fact.message_id,
            payload=fact.payload,
            epoch=fact.epoch,
            received_at=fact.received_at,
            dedupe_key=fact.dedupe_key,
            transaction_ref=fact.ref,
            response=response,
        )

    def _encoded(self, fact: InboundFact) -> str:
        try:
            return fact.encode(self._answer_unrecorded(fact)).decode()
        except Exception as error:
            # Our own mistake with this answer: the station gets a plainer one.
            log_failure(log, "an answer could not be made", station=fact.station_id, exc_info=error)
            return fact.encode(self._answer_generally(fact)).decode()

    async def _record_journaled(self, facts: Sequence[InboundFact]) -> None:
        """Records facts that were answered from the journal.

        Raises: StoreUnavailable, StoreContention; anything else for several facts, of which one makes our
        code fail.
        """
        loop = asyncio.get_running_loop()
        batch = [_Waiting(fact=f, key=f.key, answer=loop.create_future(), since=loop.time()) for f in facts]
        try:
            await self._record_patiently(batch)
        except (StoreUnavailable, StoreContention):
            raise
        except Exception as error:
            if len(batch) > 1:
                raise
            self._log_poison(batch[0].fact, error)
            await self._record_raw(batch[0], error)


async def _adopt_refs(work: FactWork, batch: Sequence[_Waiting]) -> None:
    """Starts that were answered before they were recorded: their stations know the id that they were told."""
    starts = [
        AnsweredStart(key=w.key, transaction_ref=w.fact.ref, response=w.fact.answered)
        for w in batch
        if w.fact.answered is not None and w.fact.ref is not None and w.key is not None
    ]
    if starts:
        await work.adopt_refs(starts)


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


def _resolve(waiting: _Waiting, response: str) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(response)


def _refuse(batch: Sequence[_Waiting]) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(NotRecorded())
            # The station may have hung up: then nobody reads this exception, and that is fine.
            waiting.answer.exception()
