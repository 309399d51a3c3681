"""The outage ladder: held, then answered from the journal, then recorded in order; closed where nothing can be kept."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import pytest

from tests.unit.domain.make import POLICY, end, meter, reading, start
from tests.unit.services.fake_store import FakeFactStore
from tests.unit.services.test_intake import answer_text, fact, status
from voltledger.domain.events import TransactionStarted
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.domain.session.decide import decide
from voltledger.domain.session.decision import FactState
from voltledger.domain.session.states import State
from voltledger.services import assembly, ladder
from voltledger.services.facts import IdSource, InboundFact, NotRecorded
from voltledger.services.intake import Intake
from voltledger.services.ladder import Ladder, Rung
from voltledger.storage.errors import JournalUnavailable, StoreUnavailable
from voltledger.storage.memory.journal import JournalDisk, MemoryJournal
from voltledger.storage.ports import JournaledFact

Wait = Callable[..., Coroutine[Any, Any, Any]]
CP1, CP2 = StationId("CP-1"), StationId("CP-2")
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ladder looks for the store every few milliseconds, so that nobody waits in these tests."""

    class Soon:
        def uniform(self, _low: float, _high: float) -> float:
            return 0.005

    monkeypatch.setattr(ladder, "random", Soon())


@dataclass
class World:
    """What outlives a node: the store, the journal's disk, and what stations said."""

    store: FakeFactStore = field(default_factory=FakeFactStore)
    disk: JournalDisk = field(default_factory=JournalDisk)
    broken: dict[str, Exception] = field(default_factory=dict)
    """Raised by the journal at one of its points."""
    said: dict[str, InboundFact] = field(default_factory=dict)

    async def at_point(self, name: str) -> None:
        """Fails there, if it should."""
        await asyncio.sleep(0)
        if name in self.broken:
            raise self.broken[name]

    def revive(self, row: JournaledFact) -> InboundFact:
        """As the gateway does, without its dialects."""
        return replace(self.said[row.message_id], ref=row.transaction_ref, answered=row.response)

    @property
    def rows(self) -> list[JournaledFact]:
        """What waits on the disk, in order."""
        return list(self.disk.rows.values())

    @property
    def recorded(self) -> list[bytes]:
        """The keys of recorded facts, in order."""
        return [one.dedupe_key for changes in self.store.commits for one in changes.facts]


class Node:
    """An intake with its ladder."""

    def __init__(self, world: World, *, hold_s: float, with_journal: bool, block: int, keep: int, lanes: int) -> None:
        self.world = world
        self.rungs: list[Rung] = []
        self.ladder = Ladder(
            MemoryJournal(world.disk, world.at_point) if with_journal else None,
            probe=world.store.probe,
            revive=world.revive,
            now=lambda: self.clock,
            on_change=self.rungs.append,
        )
        ids = IdSource(
            new_session_id=lambda: SessionId(UUID(int=next(_numbers))),
            reserve=world.store.reserve_transaction_refs,
            block=block,
            keep=keep,
        )
        self.ids = ids
        self.intake = Intake(
            world.store,
            ids,
            POLICY,
            hold_s=hold_s,
            on_committed=lambda _done: None,
            lanes=lanes,
            ladder=self.ladder,
        )

    clock = fact(start()).received_at

    async def say(self, one: InboundFact) -> Any:
        """Says a fact; the answer."""
        self.world.said[one.message_id] = one
        return json.loads(await asyncio.wait_for(self.intake.submit(one), 10))["transaction"]

    async def fall(self) -> None:
        """The store goes away, and that is found out."""
        self.world.store.away = True
        await self.say(fact(status(), station="CP-ELSEWHERE"))
        assert self.ladder.rung == "journal"

    async def come_back(self, wait_until: Wait) -> None:
        """The store is back, and everything is recorded."""
        self.world.store.away = False
        await self.drained(wait_until)

    async def drained(self, wait_until: Wait) -> None:
        await wait_until(lambda: self.ladder.waiting == 0 and not self.ladder.away, what="an empty journal")
        assert self.world.rows == []


@asynccontextmanager
async def running(
    world: World | None = None,
    *,
    hold_s: float = 0.1,
    with_journal: bool = True,
    block: int = 50,
    keep: int = 50,
    lanes: int = 2,
) -> AsyncIterator[Node]:
    """A node that has ids in reserve."""
    node = Node(world or World(), hold_s=hold_s, with_journal=with_journal, block=block, keep=keep, lanes=lanes)
    await node.ladder.open()
    if not node.world.store.away:
        await node.ids.stock_up()
    node.intake.start()
    try:
        yield node
    finally:
        node.world.store.may_commit.set()
        await node.intake.stop()


# --- hold, journal ------------------------------------------------------------------------------------------


async def test_an_outage_shorter_than_the_hold_touches_no_journal() -> None:
    async with running(hold_s=5) as node:
        node.world.store.away = True
        saying = asyncio.create_task(node.say(fact(start())))
        await asyncio.sleep(0.15)
        assert not saying.done()
        node.world.store.away = False
        assert await saying == node.world.store.sessions.popitem()[1].transaction_ref
        assert (node.world.disk.last, node.rungs, node.ladder.outages) == (0, [], 0)


async def test_after_the_hold_a_fact_is_on_the_disk_and_then_answered() -> None:
    async with running() as node:
        node.world.store.away = True
        ref = await node.say(fact(start(), key=b"k"))
        (row,) = node.world.rows
        assert (row.dedupe_key, row.transaction_ref, json.loads(row.response)) == (b"k", ref, {"transaction": ref})
        assert node.world.store.facts == {}
        assert (node.ladder.waiting, node.ladder.rung, node.rungs) == (1, "journal", ["journal"])


async def test_once_the_store_is_known_to_be_away_nobody_is_held_any_more() -> None:
    async with running(hold_s=0.5) as node:
        await node.fall()
        began = asyncio.get_running_loop().time()
        await node.say(fact(start()))
        await node.say(fact(start(), station="CP-2"))
        assert asyncio.get_running_loop().time() - began < 0.25


async def test_a_whole_session_said_in_an_outage_is_recorded_to_the_watt_hour(wait_until: Wait) -> None:
    async with running() as node:
        await node.fall()
        ref = await node.say(fact(start(0, 1_000)))
        for minute in range(1, 20):
            await node.say(fact(meter(reading(minute, 1_000 + 10 * minute), ref=ref)))
        await node.say(fact(end(30, 1_345, ref=ref)))
        assert node.world.store.sessions == {}
        await node.come_back(wait_until)
        session = node.world.store.session("CP-1", ref)
        assert (session.state, session.energy_wh) == (State.COMPLETED, 345)
        assert {one.state for one in node.world.store.facts.values()} == {FactState.APPLIED}
        assert node.rungs == ["journal", "recording"]


async def test_the_order_of_a_station_is_kept_across_journal_drain_and_live(wait_until: Wait) -> None:
    async with running(hold_s=0.2) as node:
        keys = [f"{number:02}".encode() for number in range(12)]
        ref = await node.say(fact(start(0, 1_000), key=keys[0]))
        await node.fall()
        for number in range(1, 6):
            await node.say(fact(meter(reading(number, 1_000 + number), ref=ref), key=keys[number]))
        # The store is back but slow: what the station says meanwhile may not pass by what waits.
        node.world.store.may_commit.clear()
        node.world.store.away = False
        await wait_until(lambda: not node.ladder.away)
        for number in range(6, 9):
            await node.say(fact(meter(reading(number, 1_000 + number), ref=ref), key=keys[number]))
        assert [row.dedupe_key for row in node.world.rows if row.station_id == CP1] == keys[1:9]
        node.world.store.may_commit.set()
        for number in range(9, 11):
            await node.say(fact(meter(reading(number, 1_000 + number), ref=ref), key=keys[number]))
        await node.drained(wait_until)
        await node.say(fact(end(60, 1_100, ref=ref), key=keys[11]))
        assert node.world.recorded == keys
        assert node.world.disk.last < 1 + len(keys), "the last one went straight to the store"
        assert node.world.store.session("CP-1", ref).energy_wh == 100


async def test_a_station_with_waiting_facts_never_passes_itself_while_others_go_live(wait_until: Wait) -> None:
    async with running(hold_s=0.2) as node:
        await node.fall()
        await node.say(fact(status()))
        ref = await node.say(fact(start(0, 1_000), key=b"1"))
        node.world.store.contended.add("CP-1")
        node.world.store.away = False
        await wait_until(lambda: not node.ladder.away and node.ladder.waiting == 2, what="only CP-1 waits")
        other = await node.say(fact(start(0, 5), station="CP-2", key=b"other"))
        await node.say(fact(meter(reading(1, 1_010), ref=ref), key=b"2"))
        assert node.world.store.session("CP-2", other).energy_wh == 0
        assert node.world.recorded == [b"other"]
        assert [row.dedupe_key for row in node.world.rows] == [None, b"1", b"2"]
        node.world.store.contended.clear()
        await node.drained(wait_until)
        assert node.world.recorded == [b"other", b"1", b"2"]
        assert node.world.store.session("CP-1", ref).energy_wh == 10


async def test_a_row_that_somebody_has_locked_sends_only_its_station_to_the_journal(wait_until: Wait) -> None:
    async with running() as node:
        node.world.store.contended.add("CP-1")
        said = [fact(start(n), station=f"CP-{n}", key=f"{n}".encode()) for n in (1, 2, 3, 4)]
        await asyncio.gather(*(node.say(one) for one in said))
        assert [row.station_id for row in node.world.rows] == [CP1]
        assert sorted(node.world.recorded) == [b"2", b"3", b"4"]
        assert (node.ladder.away, node.ladder.rung, node.rungs) == (False, "recording", [])
        node.world.store.contended.clear()
        await node.drained(wait_until)
        assert sorted(node.world.recorded) == [b"1", b"2", b"3", b"4"]


async def test_more_facts_than_one_batch_of_many_stations_are_all_recorded(wait_until: Wait) -> None:
    async with running(keep=800) as node:
        await node.fall()
        refs = await asyncio.gather(*(node.say(fact(start(0, 0), station=f"S-{n}")) for n in range(300)))
        ends = (fact(end(9, n, ref=ref), station=f"S-{n}") for n, ref in enumerate(refs))
        await asyncio.gather(*(node.say(one) for one in ends))
        assert len(node.world.rows) == 601
        await node.come_back(wait_until)
        assert [node.world.store.session(f"S-{n}", ref).energy_wh for n, ref in enumerate(refs)] == list(range(300))
        assert max(len(changes.facts) for changes in node.world.store.commits) > 100, "they share units of work"


# --- said again, and other ids ------------------------------------------------------------------------------


async def test_a_waiting_fact_said_again_gets_its_first_answer_and_counts_once(wait_until: Wait) -> None:
    async with running() as node:
        await node.fall()
        first = await node.say(fact(start(), key=b"k"))
        again = await asyncio.gather(*(node.say(fact(start(), key=b"k")) for _ in range(3)))
        assert [*again] == [first] * 3
        assert node.ladder.waiting == len(node.world.rows) == 2
        await node.come_back(wait_until)
        assert len(node.world.store.sessions) == 1
        assert await node.say(fact(start(), key=b"k")) == first


async def test_a_recorded_start_said_again_in_an_outage_gets_its_recorded_answer(wait_until: Wait) -> None:
    async with running() as node:
        first = await node.say(fact(start(), key=b"k"))
        await node.fall()
        assert await node.say(fact(start(), key=b"k")) == first
        await node.come_back(wait_until)
        (session,) = node.world.store.sessions.values()
        assert session.transaction_ref == first
        assert node.world.store.aliases == {}


async def test_a_start_said_again_before_and_in_an_outage_keeps_its_id(wait_until: Wait) -> None:
    """The repeat that the store answers has drawn an id of its own, which nobody may be known by."""
    async with running() as node:
        first = await node.say(fact(start(), key=b"k"))
        assert await node.say(fact(start(), key=b"k")) == first
        await node.fall()
        assert await node.say(fact(start(), key=b"k")) == first
        await node.come_back(wait_until)
        (session,) = node.world.store.sessions.values()
        assert (session.transaction_ref, node.world.store.aliases) == (first, {})


async def test_a_start_whose_timestamp_moved_keeps_its_id_in_an_outage_too(wait_until: Wait) -> None:
    async with running() as node:
        first = await node.say(fact(start(0, 1_000), key=b"k"))
        assert await node.say(fact(start(3, 1_000), key=b"moved")) == first
        await node.fall()
        assert await node.say(fact(start(3, 1_000), key=b"moved")) == first
        await node.come_back(wait_until)
        (session,) = node.world.store.sessions.values()
        assert (session.transaction_ref, node.world.store.aliases) == (first, {})


async def test_the_id_that_the_station_was_told_wins_and_the_other_one_still_finds_the_session(
    wait_until: Wait,
) -> None:
    """A start reached the books through another node, whose answer never left; then the outage."""
    world = World()
    async with running(world) as other:
        recorded = await other.say(fact(start(0, 1_000), key=b"k"))
    async with running(world) as node:
        await node.fall()
        told = await node.say(fact(start(0, 1_000), key=b"k"))
        assert told != recorded
        await node.come_back(wait_until)
        (session,) = world.store.sessions.values()
        assert session.transaction_ref == told
        assert await node.say(fact(start(0, 1_000), key=b"k")) == told
        await node.say(fact(meter(reading(1, 1_100), ref=recorded)))
        await node.say(fact(meter(reading(2, 1_200), ref=told)))
        await node.say(fact(end(3, 1_300, ref=recorded)))
        (session,) = world.store.sessions.values()
        assert (session.state, session.energy_wh) == (State.COMPLETED, 300)
        # And in the next outage it is answered as it was told, not as the books had it first.
        await node.fall()
        assert await node.say(fact(start(0, 1_000), key=b"k")) == told
        await node.come_back(wait_until)
        (session,) = world.store.sessions.values()
        assert session.transaction_ref == told


async def test_a_start_whose_commit_nobody_saw_and_that_went_to_the_journal_is_one_session(wait_until: Wait) -> None:
    async with running() as node:
        store = node.world.store
        store.may_commit.clear()
        saying = asyncio.create_task(node.say(fact(start(0, 1_000), key=b"k")))
        await asyncio.wait_for(store.committing.wait(), 5)
        store.lost_answers.append(StoreUnavailable("the line broke"))
        store.may_commit.set()
        await wait_until(lambda: store.commits)
        store.away = True
        told = await saying
        assert [row.dedupe_key for row in node.world.rows] == [b"k"]
        await node.say(fact(end(9, 1_500, ref=told)))
        await node.come_back(wait_until)
        (session,) = store.sessions.values()
        assert (session.transaction_ref, session.state, session.energy_wh) == (told, State.COMPLETED, 500)
        assert store.response_of("CP-1", b"k") == json.dumps({"transaction": told})


# --- what may go wrong ----------------------------------------------------------------------------------------


async def test_poison_in_the_journal_harms_only_itself(wait_until: Wait, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(book: Any, event: Any, now: Any) -> Any:
        if isinstance(event, TransactionStarted) and event.register_wh == 666:
            raise ZeroDivisionError
        return decide(book, event, now)

    monkeypatch.setattr(assembly, "decide", failing)
    async with running() as node:
        await node.fall()
        poison = await node.say(fact(start(0, 666), key=b"poison"))
        ref = await node.say(fact(start(5, 1_000), key=b"good"))
        await node.say(fact(end(9, 1_200, ref=ref)))
        other = await node.say(fact(start(), station="CP-2"))
        await node.come_back(wait_until)
        assert node.world.store.session("CP-1", ref).energy_wh == 200
        assert node.world.store.session("CP-2", other).state is State.ONGOING
        assert node.world.store.response_of("CP-1", b"poison") == json.dumps({"transaction": poison})
        states = {one.dedupe_key: one.state for one in node.world.store.facts.values()}
        assert [key for key, state in states.items() if state is not FactState.APPLIED] == [b"poison"]
        assert states[b"poison"] is FactState.POISON


async def test_a_row_that_cannot_be_read_back_holds_up_its_own_station_only(wait_until: Wait) -> None:
    async with running() as node:
        await node.fall()
        lost = fact(status())
        await node.say(lost)
        await node.say(fact(start(), key=b"behind"))
        other = await node.say(fact(start(), station="CP-2"))
        del node.world.said[lost.message_id]
        node.world.store.away = False
        await wait_until(lambda: len(node.world.rows) == 2)
        assert node.world.store.session("CP-2", other).state is State.ONGOING
        assert b"behind" not in node.world.recorded, "its station's order is kept"
        node.world.said[lost.message_id] = lost
        await node.drained(wait_until)


@pytest.mark.parametrize("cause", ["no journal", "full"])
async def test_where_nothing_can_be_kept_nothing_is_answered_and_stations_are_sent_away(cause: str) -> None:
    world = World()
    if cause == "full":
        world.broken["journal.append"] = JournalUnavailable("full")
    async with running(world, with_journal=cause == "full") as node:
        world.store.away = True
        for one in (fact(start()), fact(meter(reading(1, 5), ref="1")), fact(status())):
            with pytest.raises(NotRecorded):
                await node.say(one)
        assert (node.ladder.rung, node.ladder.waiting, world.rows) == ("closed", 0, [])
        assert node.rungs[-1] == "closed"
        assert not node.intake.answers_from_memory


async def test_a_journal_that_can_be_written_again_takes_facts_again(wait_until: Wait) -> None:
    world = World(broken={"journal.append": JournalUnavailable("full")})
    async with running(world) as node:
        world.store.away = True
        with pytest.raises(NotRecorded):
            await node.say(fact(start()))
        world.broken.clear()
        await wait_until(lambda: node.ladder.rung == "journal", what="the disk is tried")
        ref = await node.say(fact(start(), key=b"k"))
        await node.come_back(wait_until)
        assert node.world.store.session("CP-1", ref).state is State.ONGOING
        assert node.rungs == ["journal", "closed", "journal", "recording"]


async def test_stations_may_come_back_as_soon_as_the_store_is_there_without_a_journal(wait_until: Wait) -> None:
    async with running(with_journal=False) as node:
        node.world.store.away = True
        with pytest.raises(NotRecorded):
            await node.say(fact(start()))
        node.world.store.away = False
        await wait_until(lambda: node.ladder.rung == "recording")
        assert await node.say(fact(start())) is not None


async def test_a_fact_that_the_journal_did_not_take_leaves_no_trace_in_the_count(wait_until: Wait) -> None:
    """Whatever the reason: a station counted for ever would go through the journal for ever."""
    world = World(broken={"journal.append": OverflowError("no such number")})
    async with running(world) as node:
        world.store.away = True
        with pytest.raises(NotRecorded):
            await node.say(fact(start()))
        assert (node.ladder.waiting, node.ladder.keeps(CP1)) == (0, node.ladder.away)
        world.broken.clear()
        await node.come_back(wait_until)
        assert not node.ladder.keeps(CP1)


async def test_a_crash_between_commit_and_removal_records_everything_once(wait_until: Wait) -> None:
    world = World()
    async with running(world) as node:
        await node.fall()
        ref = await node.say(fact(start(0, 1_000), key=b"1"))
        await node.say(fact(end(9, 1_500, ref=ref), key=b"2"))
        world.broken["journal.remove"] = JournalUnavailable("the power fails")
        world.store.away = False
        await wait_until(lambda: b"1" in world.recorded)
    assert len(world.rows) == 3
    world.broken.clear()
    async with running(world) as node:
        assert node.ladder.waiting == 3
        await node.drained(wait_until)
        session = world.store.session("CP-1", ref)
        assert (session.state, session.energy_wh, len(world.store.sessions)) == (State.COMPLETED, 500, 1)
        assert sorted(world.recorded) == [b"1", b"2"]


async def test_after_a_restart_what_waits_goes_before_what_the_station_says_next(wait_until: Wait) -> None:
    world = World()
    async with running(world) as node:
        await node.fall()
        ref = await node.say(fact(start(0, 1_000), key=b"1"))
    async with running(world, hold_s=0.3) as node:
        # Until a probe has shown that the database may be written, everybody goes through the journal.
        assert (node.ladder.waiting, node.ladder.keeps(CP1), node.ladder.keeps(CP2)) == (2, True, True)
        await node.say(fact(meter(reading(1, 1_010), ref=ref), key=b"2"))
        world.store.away = False
        await node.say(fact(meter(reading(2, 1_020), ref=ref), key=b"3"))
        await node.drained(wait_until)
        await node.say(fact(end(3, 1_030, ref=ref), key=b"4"))
        assert world.recorded == [b"1", b"2", b"3", b"4"]
        assert world.store.session("CP-1", ref).energy_wh == 30


@pytest.mark.parametrize("error", [RuntimeError("the database does not exist"), TimeoutError(), StoreUnavailable("no")])
async def test_a_probe_that_fails_for_any_reason_is_tried_again(wait_until: Wait, error: Exception) -> None:
    async with running() as node:
        await node.fall()
        node.world.store.probe_errors.append(error)
        await wait_until(lambda: not node.world.store.probe_errors)
        await node.come_back(wait_until)


async def test_starts_without_an_id_are_refused_and_nothing_else_is(wait_until: Wait) -> None:
    async with running(block=2, keep=2, lanes=1) as node:
        await node.fall()
        assert len({await node.say(fact(start(), station=f"CP-{n}")) for n in (1, 2)}) == 2
        said = [
            node.say(fact(start(), station="CP-3")),
            node.say(fact(meter(reading(1, 5), ref="1"), station="CP-4")),
            node.say(fact(status(), station="CP-5")),
        ]
        answers = await asyncio.gather(*said, return_exceptions=True)
        assert isinstance(answers[0], NotRecorded)
        assert answers[1:] == [None, None], "no id is needed for these"
        await node.come_back(wait_until)
        assert len(node.world.store.sessions) == 2


async def test_stations_are_judged_from_the_end_of_the_outage_on(wait_until: Wait) -> None:
    async with running() as node:
        before = node.ladder.quiet_since
        later = node.clock.replace(year=2031)
        await node.fall()
        assert (node.ladder.away_since, node.ladder.quiet_since, node.ladder.outages) == (before, before, 1)
        node.clock = later
        await node.come_back(wait_until)
        assert (node.ladder.away_since, node.ladder.quiet_since) == (None, later)


async def test_a_station_that_waits_for_the_journal_to_empty_waits_no_longer_than_half_the_hold(
    wait_until: Wait,
) -> None:
    async with running(hold_s=0.6) as node:
        await node.fall()
        await node.say(fact(status()))
        node.world.store.contended.add("CP-1")
        node.world.store.away = False
        await wait_until(lambda: not node.ladder.away)
        began = asyncio.get_running_loop().time()
        await node.say(fact(status()))
        assert 0.25 < asyncio.get_running_loop().time() - began < 0.6
        node.world.store.contended.clear()
        await node.drained(wait_until)


async def test_an_answer_that_cannot_be_made_is_made_plainer() -> None:
    async with running() as node:
        await node.fall()
        node.intake._answer_unrecorded = lambda _fact: 1 / 0  # type: ignore[return-value,assignment]
        assert await node.say(fact(start(), encode=answer_text)) is not None
