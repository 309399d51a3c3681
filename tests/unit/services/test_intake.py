"""The one door for facts: recorded first, answered after, each once, whatever happens in between."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from tests.unit.domain.make import POLICY, end, instant, meter, reading, start, time
from tests.unit.services.fake_store import FakeFactStore
from voltledger.domain.events import Answer, Booted, ConnectorStatus, FactUnreadable, StatusReported
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.domain.reconciliation.findings import FindingKind
from voltledger.domain.session.decision import FactState
from voltledger.domain.session.states import State
from voltledger.services.intake import Committed, IdSource, InboundFact, Intake, NotRecorded, RecordedEvent
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.ports import AlreadyRecorded

Wait = Callable[..., Coroutine[Any, Any, Any]]
_numbers = itertools.count(1)


def answer_text(answer: Answer) -> bytes:
    """An answer as some dialect would put it."""
    return json.dumps({"transaction": answer.transaction_ref}).encode()


def fact(
    event: RecordedEvent,
    *,
    station: str = "CP-1",
    key: bytes | None = None,
    encode: Callable[[Answer], bytes] = answer_text,
) -> InboundFact:
    """One message; the same key makes it the same fact."""
    plain = isinstance(event, StatusReported | Booted)
    return InboundFact(
        station_id=StationId(station),
        epoch=1,
        action=type(event).__name__,
        message_id=f"m-{next(_numbers)}",
        payload="{}",
        event=event,
        dedupe_key=None if plain else key or f"key-{next(_numbers)}".encode(),
        received_at=time(0),
        encode=encode,
    )


class Listener:
    """Collects what the intake tells."""

    def __init__(self) -> None:
        self.committed: list[Committed] = []
        self.sizes: list[int] = []

    def __call__(self, committed: Sequence[Committed]) -> None:
        self.committed.extend(committed)


@asynccontextmanager
async def running(
    store: FakeFactStore, *, hold_s: float = 0.3, lanes: int = 2, block: int = 50
) -> AsyncIterator[tuple[Intake, Listener]]:
    """An intake over the store."""
    listener = Listener()
    ids = IdSource(
        new_session_id=lambda: SessionId(UUID(int=next(_numbers))),
        reserve=store.reserve_transaction_refs,
        block=block,
    )
    intake = Intake(
        store, ids, POLICY, hold_s=hold_s, on_committed=listener, on_commit_size=listener.sizes.append, lanes=lanes
    )
    intake.start()
    try:
        yield intake, listener
    finally:
        store.away = False
        store.may_commit.set()
        await intake.stop()


def status(what: ConnectorStatus = ConnectorStatus.AVAILABLE, evse: int = 1) -> StatusReported:
    """A connector's report."""
    return StatusReported(evse_id=evse, connector_id=1, status=what, raw_status=what.value, at=instant(0))


# --- recorded, then answered ------------------------------------------------------------------------------


async def test_nothing_is_answered_before_it_is_committed(wait_until: Wait) -> None:
    store = FakeFactStore()
    store.may_commit.clear()
    async with running(store) as (intake, listener):
        task = asyncio.create_task(intake.submit(fact(start(), key=b"k")))
        await asyncio.wait_for(store.committing.wait(), 5)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        assert listener.committed == []
        assert intake.waiting == 1
        store.may_commit.set()
        answer = await asyncio.wait_for(task, 5)
        assert answer == store.response_of("CP-1", b"k")
        assert json.loads(answer)["transaction"] is not None
        await wait_until(lambda: intake.waiting == 0)


async def test_facts_that_arrive_during_a_slow_commit_share_the_next_one() -> None:
    store = FakeFactStore()
    store.may_commit.clear()
    async with running(store, lanes=1) as (intake, listener):
        first = asyncio.create_task(intake.submit(fact(start())))
        await asyncio.wait_for(store.committing.wait(), 5)
        others = [asyncio.create_task(intake.submit(fact(start(), station=f"CP-{n}"))) for n in range(2, 42)]
        await asyncio.sleep(0.01)
        store.may_commit.set()
        await asyncio.wait_for(asyncio.gather(first, *others), 5)
        assert listener.sizes == [1, 40]
        assert len(store.facts) == 41


async def test_facts_of_a_station_are_decided_in_the_order_in_which_they_came() -> None:
    store = FakeFactStore()
    async with running(store, block=5) as (intake, _):
        registers = list(range(1_000, 1_100))
        story = [fact(start(0, 1_000)), *(fact(meter(reading(n, r), ref="1")) for n, r in enumerate(registers))]
        story.append(fact(end(200, 1_200, ref="1")))
        await asyncio.gather(*(intake.submit(one) for one in story))
        (session,) = store.sessions.values()
        assert (session.state, session.energy_wh) == (State.COMPLETED, 200)
        keys = [f.dedupe_key for changes in store.commits for f in changes.facts]
        assert keys == [one.dedupe_key for one in story]
        assert all(f.state is FactState.APPLIED for f in store.facts.values())


async def test_a_slow_station_does_not_hold_up_one_on_another_lane() -> None:
    store = FakeFactStore()
    async with running(store, lanes=64) as (intake, _):
        store.may_commit.clear()
        slow = asyncio.create_task(intake.submit(fact(status())))
        await asyncio.wait_for(store.committing.wait(), 5)
        quick = asyncio.create_task(intake.submit(fact(status(), station="other")))
        await asyncio.sleep(0.01)
        assert not slow.done()
        store.may_commit.set()
        await asyncio.wait_for(asyncio.gather(slow, quick), 5)


# --- the same fact again ------------------------------------------------------------------------------------


async def test_a_repeated_fact_gets_the_stored_answer_and_changes_nothing() -> None:
    store = FakeFactStore()
    async with running(store) as (intake, listener):
        first = await intake.submit(fact(start(), key=b"k"))
        again = await intake.submit(fact(start(), key=b"k"))
        assert again == first
        assert len(store.sessions) == 1
        assert [c.repeated for c in listener.committed] == [False, True]


async def test_the_same_fact_three_times_at_once_is_recorded_once() -> None:
    store = FakeFactStore()
    async with running(store) as (intake, _):
        answers = await asyncio.gather(*(intake.submit(fact(start(), key=b"k")) for _ in range(3)))
        assert len(set(answers)) == 1
        assert (len(store.facts), len(store.sessions)) == (1, 1)


async def test_the_same_fact_through_two_intakes_at_once_has_one_answer() -> None:
    store = FakeFactStore()
    async with running(store) as (one, _), running(store) as (two, _):
        answers = await asyncio.gather(one.submit(fact(start(), key=b"k")), two.submit(fact(start(), key=b"k")))
        assert len(set(answers)) == 1
        assert (len(store.facts), len(store.sessions)) == (1, 1)


async def test_a_batch_with_one_repeated_fact_records_the_others() -> None:
    store = FakeFactStore()
    async with running(store, lanes=1) as (intake, listener):
        await intake.submit(fact(start(), key=b"old"))
        store.may_commit.clear()
        store.committing.clear()
        gate = asyncio.create_task(intake.submit(fact(status())))
        await asyncio.wait_for(store.committing.wait(), 5)
        again = asyncio.create_task(intake.submit(fact(start(), key=b"old")))
        new = asyncio.create_task(intake.submit(fact(start(evse_id=2), key=b"new")))
        await asyncio.sleep(0.01)
        store.may_commit.set()
        await asyncio.wait_for(asyncio.gather(gate, again, new), 5)
        assert await again == store.response_of("CP-1", b"old")
        assert await new == store.response_of("CP-1", b"new")
        assert [c.repeated for c in listener.committed] == [False, False, True, False]


async def test_a_commit_whose_answer_was_lost_is_not_done_twice() -> None:
    store = FakeFactStore()
    store.lost_answers.append(StoreUnavailable("connection lost after the commit"))
    async with running(store, hold_s=5) as (intake, listener):
        answer = await intake.submit(fact(start(), key=b"k"))
        assert answer == store.response_of("CP-1", b"k")
        assert len(store.sessions) == 1
        assert [c.repeated for c in listener.committed] == [True]


# --- facts that harm only themselves ------------------------------------------------------------------------


def _fails(answer: Answer) -> bytes:
    """Our own code fails on this fact, unless it is kept raw."""
    if answer.transaction_ref is None or answer.authorization is not None:
        raise ZeroDivisionError("a mistake of ours")
    return b'{"kept": "raw"}'


async def test_a_poison_fact_harms_only_itself_and_is_kept_and_answered() -> None:
    store = FakeFactStore()
    async with running(store, lanes=1) as (intake, _):
        store.may_commit.clear()
        gate = asyncio.create_task(intake.submit(fact(status())))
        await asyncio.wait_for(store.committing.wait(), 5)
        before = asyncio.create_task(intake.submit(fact(start(), station="CP-2", key=b"a")))
        poison = asyncio.create_task(intake.submit(fact(start(), station="CP-3", key=b"p", encode=_fails)))
        after = asyncio.create_task(intake.submit(fact(start(), station="CP-4", key=b"b")))
        await asyncio.sleep(0.01)
        store.may_commit.set()
        await asyncio.wait_for(asyncio.gather(gate, before, poison, after), 5)
        assert await poison == '{"kept": "raw"}'
        states = {f.station_id: f.state for f in store.facts.values()}
        assert states == {"CP-2": FactState.APPLIED, "CP-3": FactState.POISON, "CP-4": FactState.APPLIED}
        findings = [f.kind for changes in store.commits for f in changes.findings]
        assert findings == [FindingKind.POISON]
        assert {s.station_id for s in store.sessions.values()} == {"CP-2", "CP-4"}


@pytest.mark.parametrize("trouble", [MemoryError, OSError])
async def test_trouble_of_the_machine_is_no_poison_unless_it_stays(trouble: type[Exception]) -> None:
    """It says nothing about the fact; one that always meets it must not stop the others for ever either."""
    store = FakeFactStore()
    async with running(store, hold_s=5) as (intake, _):
        store.begin_errors.extend(trouble("for a moment") for _ in range(3))
        await asyncio.wait_for(intake.submit(fact(start(), key=b"lucky")), 5)
        store.begin_errors.extend(trouble("always") for _ in range(6))
        await asyncio.wait_for(intake.submit(fact(start(), station="CP-2", key=b"unlucky")), 5)
    states = {key.dedupe_key: record.state for key, record in store.facts.items()}
    assert states == {b"lucky": FactState.APPLIED, b"unlucky": FactState.POISON}


async def test_a_poison_fact_that_comes_again_gets_the_same_answer() -> None:
    store = FakeFactStore()
    attempts = 0

    def fails(answer: Answer) -> bytes:
        nonlocal attempts
        attempts += 1
        return b"gave up" if attempts > 40 else _fails(answer)

    async with running(store) as (intake, _):
        first = await intake.submit(fact(start(), key=b"p", encode=fails))
        assert await asyncio.wait_for(intake.submit(fact(start(), key=b"p", encode=fails)), 5) == first
        assert attempts < 10
        assert len(store.facts) == 1


async def test_an_unreadable_start_is_answered_with_a_transaction() -> None:
    store = FakeFactStore()
    async with running(store) as (intake, _):
        answer = await intake.submit(fact(FactUnreadable(action="StartTransaction", problem="no idTag")))
        assert int(json.loads(answer)["transaction"]) >= 1


async def test_a_listener_that_fails_does_not_harm_what_is_recorded() -> None:
    # What is told after the commit is not needed for correctness, so its failure may not turn facts into poison.
    store = FakeFactStore()
    ids = IdSource(new_session_id=lambda: SessionId(UUID(int=next(_numbers))), reserve=store.reserve_transaction_refs)

    told = 0

    def fails(committed: Sequence[Committed]) -> None:
        nonlocal told
        told += 1
        if told < 40:
            raise RuntimeError("the log is full")

    intake = Intake(store, ids, POLICY, hold_s=0.3, on_committed=fails)
    intake.start()
    try:
        answer = await asyncio.wait_for(intake.submit(fact(start(), key=b"k")), 5)
        assert answer == store.response_of("CP-1", b"k")
        await asyncio.wait_for(intake.submit(fact(meter(reading(1, 1_100), ref=json.loads(answer)["transaction"]))), 5)
        await asyncio.wait_for(intake.submit(fact(status())), 5)
    finally:
        await intake.stop()
    assert [f.state for f in store.facts.values()] == [FactState.APPLIED, FactState.APPLIED]
    assert [f.kind for changes in store.commits for f in changes.findings] == []
    assert told < 10


async def test_two_lanes_that_draw_the_last_transaction_id_at_once_poison_no_start() -> None:
    store = FakeFactStore()
    async with running(store, lanes=64, block=2) as (intake, _):
        await intake.submit(fact(start(), station="CP-1"))  # of two ids that were reserved, one is left
        await asyncio.gather(*(intake.submit(fact(start(), station=name)) for name in ("CP-2", "CP-3", "CP-4")))
        assert {f.station_id: f.state for f in store.facts.values()} == dict.fromkeys(
            ("CP-1", "CP-2", "CP-3", "CP-4"), FactState.APPLIED
        )
        assert len({s.transaction_ref for s in store.sessions.values()}) == 4


# --- while the store is away --------------------------------------------------------------------------------


async def test_a_short_outage_is_held_through_and_then_answered() -> None:
    store = FakeFactStore(away=True)
    async with running(store, hold_s=5) as (intake, _):
        task = asyncio.create_task(intake.submit(fact(start(), key=b"k")))
        await asyncio.sleep(0.1)
        assert not task.done()
        store.away = False
        assert await asyncio.wait_for(task, 5) == store.response_of("CP-1", b"k")


async def test_after_the_hold_time_the_caller_is_told_that_nothing_is_recorded() -> None:
    store = FakeFactStore(away=True)
    async with running(store, hold_s=0.2) as (intake, _):
        began = asyncio.get_running_loop().time()
        with pytest.raises(NotRecorded):
            await asyncio.wait_for(intake.submit(fact(start())), 5)
        assert 0.05 < asyncio.get_running_loop().time() - began < 2
        assert store.facts == {}


async def test_the_intake_works_again_after_a_long_outage() -> None:
    store = FakeFactStore(away=True)
    async with running(store, hold_s=0.1) as (intake, _):
        with pytest.raises(NotRecorded):
            await intake.submit(fact(start(), key=b"k"))
        store.away = False
        assert await intake.submit(fact(start(), key=b"k")) == store.response_of("CP-1", b"k")


async def test_a_store_that_goes_away_during_the_commit_answers_nothing_before_it_is_back() -> None:
    store = FakeFactStore()
    store.may_commit.clear()
    async with running(store, hold_s=5) as (intake, listener):
        task = asyncio.create_task(intake.submit(fact(start(), key=b"k")))
        await asyncio.wait_for(store.committing.wait(), 5)
        store.away = True
        store.may_commit.set()
        await asyncio.sleep(0.1)
        assert not task.done()
        assert listener.committed == []
        store.away = False
        await asyncio.wait_for(task, 5)
        assert len(store.sessions) == 1


async def test_contention_is_repeated_and_not_shown_to_the_station() -> None:
    store = FakeFactStore()
    store.begin_errors.extend(StoreContention("deadlock") for _ in range(4))
    async with running(store) as (intake, _):
        await asyncio.wait_for(intake.submit(fact(start())), 5)
        assert len(store.sessions) == 1


async def test_contention_without_end_tells_the_caller_that_nothing_is_recorded() -> None:
    store = FakeFactStore()
    store.begin_errors.extend(StoreContention("deadlock") for _ in range(1_000))
    async with running(store) as (intake, _):
        with pytest.raises(NotRecorded):
            await asyncio.wait_for(intake.submit(fact(start())), 10)


async def test_a_rival_that_is_never_found_does_not_hang_the_fact() -> None:
    store = FakeFactStore()
    store.begin_errors.extend(AlreadyRecorded("session_one_per_start") for _ in range(7))
    async with running(store) as (intake, _):
        await asyncio.wait_for(intake.submit(fact(start(), encode=answer_text)), 10)
        assert len(store.facts) == 1


# --- callers that hang up -------------------------------------------------------------------------------------


async def test_the_fact_of_a_station_that_hangs_up_is_recorded(wait_until: Wait) -> None:
    store = FakeFactStore()
    store.may_commit.clear()
    async with running(store) as (intake, _):
        task = asyncio.create_task(intake.submit(fact(start(), key=b"k")))
        await asyncio.wait_for(store.committing.wait(), 5)
        queued = asyncio.create_task(intake.submit(fact(end(60, 2_000, ref="1"), key=b"e")))
        await asyncio.sleep(0.01)
        task.cancel()
        queued.cancel()
        await asyncio.gather(task, queued, return_exceptions=True)
        store.may_commit.set()
        await wait_until(lambda: len(store.facts) == 2)
        assert [s.state for s in store.sessions.values()] == [State.COMPLETED]


async def test_a_fact_of_a_station_that_hung_up_and_cannot_be_recorded_is_nobodys_exception(
    wait_until: Wait,
) -> None:
    store = FakeFactStore(away=True)
    async with running(store, hold_s=0.1) as (intake, _):
        task = asyncio.create_task(intake.submit(fact(start())))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await wait_until(lambda: intake.waiting == 0)


async def test_stopping_finishes_what_is_waiting() -> None:
    store = FakeFactStore()
    async with running(store, hold_s=5) as (intake, _):
        tasks = [asyncio.create_task(intake.submit(fact(start(), station=f"CP-{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        await intake.stop()
        assert len(await asyncio.gather(*tasks)) == 10


# --- what is wanted, and what is told ---------------------------------------------------------------------------


async def test_a_station_with_one_connector_has_its_main_meter_counted() -> None:
    # KEBA and others report the meter of their only connector as connector 0.
    store = FakeFactStore()
    async with running(store) as (intake, _):
        await intake.submit(fact(status(ConnectorStatus.CHARGING)))
        await intake.submit(fact(start(0, 1_000)))
        await intake.submit(fact(meter(reading(5, 1_500), ref=None, evse=0)))
        (session,) = store.sessions.values()
        assert session.energy_wh == 500


async def test_meter_values_without_a_session_are_kept_as_strays() -> None:
    store = FakeFactStore()
    async with running(store) as (intake, _):
        await intake.submit(fact(meter(reading(5, 1_500), ref="31337", evse=2)))
        (stray,) = store.commits[-1].strays
        assert (stray.evse_id, stray.transaction_ref, stray.reading.register_wh) == (2, "31337", 1_500)


async def test_statuses_set_the_stations_one_status_and_old_ones_do_not() -> None:
    store = FakeFactStore()
    async with running(store) as (intake, _):
        await intake.submit(fact(status(ConnectorStatus.CHARGING)))
        assert [s.status.value for s in store.commits[-1].stations] == ["OCCUPIED"]
        await intake.submit(fact(status(ConnectorStatus.AVAILABLE)))
        assert [s.status.value for s in store.commits[-1].stations] == ["AVAILABLE"]


async def test_a_boot_ends_no_session() -> None:
    store = FakeFactStore()
    async with running(store) as (intake, _):
        await intake.submit(fact(start()))
        await intake.submit(fact(Booted(vendor="V", model="M")))
        assert [s.state for s in store.sessions.values()] == [State.ONGOING]


async def test_the_hot_path_of_a_reading_writes_meter_figures_only() -> None:
    store = FakeFactStore()
    async with running(store) as (intake, _):
        answer = json.loads(await intake.submit(fact(start(0, 1_000))))
        await intake.submit(fact(meter(reading(5, 1_500), ref=answer["transaction"])))
        changes = store.commits[-1]
        assert (len(changes.metered), len(changes.sessions)) == (1, 0)
        assert len(changes.readings) == 1


async def test_a_session_that_starts_and_is_metered_in_one_batch_is_written_once_and_whole() -> None:
    store = FakeFactStore()
    async with running(store, lanes=1) as (intake, listener):
        store.may_commit.clear()
        gate = asyncio.create_task(intake.submit(fact(status())))
        await asyncio.wait_for(store.committing.wait(), 5)
        both = [
            asyncio.create_task(intake.submit(fact(start(0, 1_000)))),
            asyncio.create_task(intake.submit(fact(meter(reading(5, 1_500), ref=None)))),
        ]
        await asyncio.sleep(0.01)
        store.may_commit.set()
        await asyncio.wait_for(asyncio.gather(gate, *both), 5)
        assert listener.sizes == [1, 2]
        assert [s.energy_wh for s in store.commits[-1].sessions.values()] == [500]
        assert store.commits[-1].metered == {}
