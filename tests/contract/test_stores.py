"""What every store promises, held against each of them by the same tests."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.unit.domain.make import TERMS, end, now, start
from tools.simulation.histories import POLICY
from voltledger.domain.errors import InsufficientFunds
from voltledger.domain.events import Instant, Reading
from voltledger.domain.identifiers import SessionId, StationId, TokenValue, TransactionRef, UserId
from voltledger.domain.ledger.holds import hold_entry
from voltledger.domain.ledger.settlement import settle
from voltledger.domain.quantities import Minor, Wh
from voltledger.domain.reconciliation.findings import Finding, FindingKind
from voltledger.domain.session.conclude import ask_to_stop
from voltledger.domain.session.decide import decide
from voltledger.domain.session.decision import Circumstances, FactState
from voltledger.domain.session.session import ChargingSession
from voltledger.storage.errors import StoreContention
from voltledger.storage.ports import AlreadyRecorded, AnsweredStart, BookWanted, Changes, FactKey, FactRecord

H1 = StationId("H1")
AT = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
KEY = FactKey(station_id=H1, dedupe_key=b"a fact")


def fact(key: bytes = b"a fact", **changes: Any) -> FactRecord:
    """A recorded fact."""
    record = FactRecord(
        station_id=H1,
        dedupe_key=key,
        action="StartTransaction",
        message_id="1",
        payload="{}",
        epoch=1,
        received_at=AT,
        state=FactState.APPLIED,
        session_id=None,
        response='{"n":1}',
    )
    return replace(record, **changes)


def session(number: int = 1, **changes: Any) -> ChargingSession:
    """A session of Anna's card at H1 that has just begun."""
    import msgspec

    from tests.unit.domain.make import book

    made = decide(
        book(tokens=[], spendable=0),
        start(token=None),
        Circumstances(
            received_at=AT,
            fact_key=f"start-{number}".encode(),
            fresh_id=SessionId(UUID(int=number)),
            fresh_ref=TransactionRef(str(number)),
        ),
    ).sessions[-1]
    members = {"station_id": H1, "organization_id": "default", "user_id": UserId("anna"), "token": TokenValue("CARDA")}
    return msgspec.structs.replace(made, **{**members, **changes})


async def save(store: Any, changes: Changes) -> None:
    """Saves changes in a unit of work of their own."""
    async with store.facts.unit_of_work() as work:
        await work.save(changes)


async def count(store: Any, table: str) -> int:
    """How many rows a table has."""
    return len((await store.rows())[table])


async def test_a_fact_is_recorded_once_and_its_answer_can_be_looked_up(store: Any) -> None:
    await save(store, Changes(facts=[fact()]))
    with pytest.raises(AlreadyRecorded):
        await save(store, Changes(facts=[fact(response="other")]))
    async with store.facts.unit_of_work() as work:
        known = await work.answered([KEY, FactKey(station_id=H1, dedupe_key=b"another")])
    assert known == {KEY: '{"n":1}'}
    (row,) = (await store.rows())["inbox"]
    assert row[7] == 1, "the repeat is counted"


async def test_the_same_fact_twice_in_one_unit_of_work_saves_nothing(store: Any) -> None:
    with pytest.raises(AlreadyRecorded):
        await save(store, Changes(facts=[fact(), fact()]))
    assert await count(store, "inbox") == 0


async def test_a_unit_of_work_is_all_or_nothing(store: Any) -> None:
    await save(store, Changes(facts=[fact()]))
    changes = Changes(facts=[fact(b"new"), fact()], sessions={session().id: session()}, settle=[session()])
    with pytest.raises(AlreadyRecorded):
        await save(store, changes)
    rows = await store.rows()
    assert (len(rows["inbox"]), rows["session"], rows["job"]) == (1, [], [])


async def test_an_error_of_ours_rolls_back(store: Any) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # what is raised ends the unit of work
        async with store.facts.unit_of_work() as work:
            await work.save(Changes(facts=[fact()]))
            raise ZeroDivisionError
    assert await count(store, "inbox") == 0


async def test_a_rival_that_commits_between_our_look_and_our_save_is_noticed(store: Any) -> None:
    with pytest.raises(AlreadyRecorded):  # noqa: PT012  # at the save or at the commit
        async with store.facts.unit_of_work() as work:
            assert await work.answered([KEY]) == {}
            await save(store, Changes(facts=[fact()]))
            await work.save(Changes(facts=[fact(response="late")]))
    assert (await store.rows())["inbox"][0][8] == '{"n": 1}'


async def test_what_is_not_committed_is_not_seen_and_holds_up_whoever_wants_the_same_key(store: Any) -> None:
    async def rival() -> None:
        await save(store, Changes(facts=[fact(response="second")]))

    async with store.facts.unit_of_work() as work:
        await work.save(Changes(facts=[fact()]))
        assert await count(store, "inbox") == 0
        waiting = asyncio.create_task(rival())
        await asyncio.sleep(0.1)
        assert not waiting.done()
    with pytest.raises(AlreadyRecorded):
        await waiting


async def test_a_key_whose_unit_of_work_failed_is_free(store: Any) -> None:
    async def rival() -> None:
        await save(store, Changes(facts=[fact(response="second")]))

    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # what is raised ends the unit of work
        async with store.facts.unit_of_work() as work:
            await work.save(Changes(facts=[fact()]))
            waiting = asyncio.create_task(rival())
            await asyncio.sleep(0.1)
            raise ZeroDivisionError
    await waiting
    assert (await store.rows())["inbox"][0][8] == "second"


async def test_a_locked_session_is_waited_for_and_then_read_anew(store: Any) -> None:
    import msgspec

    one = session()
    await save(store, Changes(sessions={one.id: one}))
    wanted = [BookWanted(station_id=H1)]
    seen: list[int] = []

    async def rival() -> None:
        async with store.facts.unit_of_work() as work:
            books = await work.load_books(wanted, POLICY)
            seen.append(books[H1].sessions[one.id].energy_wh)

    async with store.facts.unit_of_work() as work:
        await work.load_books(wanted, POLICY)
        waiting = asyncio.create_task(rival())
        await asyncio.sleep(0.1)
        assert seen == []
        more = msgspec.structs.replace(one, energy_wh=Wh(77))
        await work.save(Changes(metered={one.id: more}))
    await waiting
    assert seen == [77]


async def test_a_lock_that_is_held_too_long_is_contention(store: Any) -> None:
    one = session()
    await save(store, Changes(sessions={one.id: one}))
    async with store.facts.unit_of_work() as work:
        await work.load_books([BookWanted(station_id=H1)], POLICY)
        with pytest.raises(StoreContention):
            async with store.facts.unit_of_work() as other:
                await other.load_books([BookWanted(station_id=H1)], POLICY)


@pytest.mark.parametrize("same", ["transaction_ref", "start_key"])
async def test_a_transaction_and_a_start_have_one_session_each(store: Any, same: str) -> None:
    one = session(1)
    two = session(2, **{same: getattr(one, same)})
    await save(store, Changes(sessions={one.id: one}))
    with pytest.raises(AlreadyRecorded):
        await save(store, Changes(sessions={two.id: two}))
    assert await count(store, "session") == 1


@pytest.mark.parametrize(
    "broken",
    [{"energy_wh": Wh(-1)}, {"paid_minor": Minor(-1)}, {"refunded_minor": Minor(5)}, {"station_id": StationId("H9")}],
)
async def test_rows_that_cannot_be_are_refused(store: Any, broken: dict[str, Any]) -> None:
    one = session(1, **broken)
    with pytest.raises(Exception, match=r".") as refused:
        await save(store, Changes(sessions={one.id: one}))
    assert not isinstance(refused.value, AlreadyRecorded | StoreContention)
    assert await count(store, "session") == 0


async def test_a_reading_counts_once_and_many_at_once_fail_for_one_that_exists(store: Any) -> None:
    one = session()
    readings = [(one.id, Reading(at=Instant(at=AT + timedelta(seconds=n)), register_wh=Wh(n))) for n in range(20)]
    await save(store, Changes(sessions={one.id: one}, readings=readings[:3]))
    await save(store, Changes(readings=[*readings[2:5], readings[4]]))
    assert await count(store, "reading") == 5
    with pytest.raises(AlreadyRecorded):
        await save(store, Changes(readings=readings))
    async with store.facts.unit_of_work() as work:
        await work.answered([KEY])
        await work.save(Changes(readings=readings))
    assert await count(store, "reading") == 20


async def test_jobs_commands_and_findings_are_made_once_a_key(store: Any) -> None:
    one = session()
    ask = ask_to_stop(one, "a test")
    finding = Finding(kind=FindingKind.GHOST, key="k", summary="s", station_id="H1", session_id=one.id)
    for _ in range(2):
        changes = Changes(sessions={one.id: one}, settle=[one], asks=[(H1, ask)], findings=[finding])
        await save(store, changes)
    rows = await store.rows()
    assert [len(rows[table]) for table in ("job", "command", "finding")] == [1, 1, 1]
    await save(store, Changes(withdraw=[ask.key]))
    assert (await store.rows())["command"][0][-1] == "expired"


async def test_a_wallet_is_never_overdrawn(store: Any) -> None:
    await store.top_up("t", "anna", 100)
    one = session()
    entry = hold_entry(session_id=one.id, user=UserId("anna"), currency="INR", amount=Minor(101), version=1)
    assert entry is not None
    with pytest.raises(InsufficientFunds):
        await save(store, Changes(sessions={one.id: one}, entries=[entry]))
    rows = await store.rows()
    assert (rows["session"], len(rows["entry"])) == ([], 1)


async def test_an_entry_is_posted_once_a_key(store: Any) -> None:
    await store.top_up("t", "anna", 100)
    await store.top_up("t", "anna", 100)
    one = session()
    entry = hold_entry(session_id=one.id, user=UserId("anna"), currency="INR", amount=Minor(40), version=1)
    assert entry is not None
    await save(store, Changes(sessions={one.id: one}, entries=[entry]))
    with pytest.raises(AlreadyRecorded):
        await save(store, Changes(entries=[entry]))
    balances = {row[0]: row[4] for row in (await store.rows())["account"]}
    assert (balances["wallet:anna:INR"], balances["held:anna:INR"]) == (60, 40)


async def _end(store: Any) -> ChargingSession:
    import msgspec

    from voltledger.domain.session.states import State

    ended = msgspec.structs.replace(
        session(), state=State.COMPLETED, energy_wh=Wh(1_000), ended_at=AT, price=TERMS.price
    )
    await save(store, Changes(sessions={ended.id: ended}, settle=[ended]))
    return ended


async def test_a_settlement_is_done_once_whoever_tries(store: Any) -> None:
    ended = await _end(store)
    async with store.settlements.unit_of_work() as work:
        due = await work.next_due()
        async with store.settlements.unit_of_work() as rival:
            assert await rival.next_due() is None, "a job that somebody has is passed over"
        loaded, already = await work.load(due)
        assert (loaded.id, already) == (ended.id, None)
        await work.record(due, loaded, settle(loaded, already=None))
    async with store.settlements.unit_of_work() as work:
        assert await work.next_due() is None
    with pytest.raises(StoreContention):
        async with store.settlements.unit_of_work() as work:
            await work.record(due, ended, settle(ended, already=None))
    rows = await store.rows()
    assert [len(rows[table]) for table in ("settlement", "outbox", "entry")] == [1, 1, 1]
    assert rows["job"][0][3:5] == ("done", 1)


async def test_a_second_version_builds_on_the_first(store: Any) -> None:
    import msgspec

    ended = await _end(store)
    async with store.settlements.unit_of_work() as work:
        due = await work.next_due()
        loaded, _ = await work.load(due)
        await work.record(due, loaded, settle(loaded, already=None))
    corrected = msgspec.structs.replace(ended, energy_wh=Wh(2_000), settle_version=1)
    await save(store, Changes(sessions={ended.id: corrected}, settle=[corrected]))
    async with store.settlements.unit_of_work() as work:
        due = await work.next_due()
        loaded, already = await work.load(due)
        assert (due.version, already.version, already.cost) == (2, 1, 2_000)
        await work.record(due, loaded, settle(loaded, already=already))
    costs = [row[7] for row in (await store.rows())["settlement"]]
    assert costs == [2_000, 4_000]


async def test_a_settlement_that_failed_is_put_off_and_one_that_is_doubted_waits_for_a_person(store: Any) -> None:
    await _end(store)
    async with store.settlements.unit_of_work() as work:
        due = await work.next_due()
    await store.settlements.put_off(due, "a problem")
    async with store.settlements.unit_of_work() as work:
        assert await work.next_due() is None
        await work.hold(due, "doubtful")
    assert (await store.rows())["job"] == [("settle", str(due.session_id), 1, "held", 1, "doubtful")]
    async with store.settlements.unit_of_work() as work:
        await work.forget(due)
    assert await count(store, "job") == 0


async def test_transaction_ids_are_given_once(store: Any) -> None:
    drawn = [ref for _ in range(5) for ref in await store.facts.reserve_transaction_refs(20)]
    assert len(set(drawn)) == 100
    assert all(0 < int(ref) < 2**31 for ref in drawn)


async def test_a_start_that_was_answered_from_the_journal_keeps_the_id_that_was_told(store: Any) -> None:
    one = session()
    await save(store, Changes(sessions={one.id: one}, facts=[fact(session_id=one.id)]))
    told = AnsweredStart(key=KEY, transaction_ref=TransactionRef("4242"), response='{"n":2}')
    async with store.facts.unit_of_work() as work:
        await work.adopt_refs([told])
    async with store.facts.unit_of_work() as work:
        assert await work.answered([KEY]) == {KEY: '{"n":2}'}
        wanted = BookWanted(station_id=H1, refs={TransactionRef("4242"), TransactionRef("1")})
        book = (await work.load_books([wanted], POLICY))[H1]
    known = [book.by_ref(TransactionRef(ref)) for ref in ("4242", "1", "2")]
    assert [s.id if s is not None else None for s in known] == [one.id, one.id, None]
    decision = decide(book, end(ref="1", token=None), now())
    assert decision.session_id == one.id


async def test_books_hold_what_was_asked_for(store: Any) -> None:
    one = session()
    await store.top_up("t", "anna", 100)
    await save(store, Changes(sessions={one.id: one}))
    async with store.facts.unit_of_work() as work:
        bare = (await work.load_books([BookWanted(station_id=H1)], POLICY))[H1]
        wanted = BookWanted(station_id=H1, terms=True, state=True, tokens={TokenValue("CARDA"), TokenValue("NOBODY")})
        full = (await work.load_books([wanted], POLICY))[H1]
    assert (bare.terms, bare.tokens, list(bare.sessions)) == (None, {}, [one.id])
    assert full.terms is not None
    assert (str(full.terms.price.per_kwh_minor), full.terms.fee_percent.normalize()) == ("1234.5678", 12.5)
    assert (list(full.tokens), full.spendable) == ([TokenValue("CARDA")], {"anna": 100})
