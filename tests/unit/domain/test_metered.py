"""Readings: which session they belong to, what they are worth, when the paid amount is used up."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest

from tests.unit.domain.make import (
    ANNA,
    POLICY,
    STATION,
    book,
    end,
    meter,
    now,
    orphan,
    pending,
    reading,
    running,
    session_id,
    start,
    time,
)
from voltledger.domain.commands import StopCharging
from voltledger.domain.events import ConnectorStatus
from voltledger.domain.identifiers import TransactionRef
from voltledger.domain.ledger.entries import EntryKind
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.reconciliation.findings import FindingKind
from voltledger.domain.session.conclude import conclude
from voltledger.domain.session.connectors import ConnectorRecord
from voltledger.domain.session.decide import decide
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import Happening, State


def _connector(evse: int) -> ConnectorRecord:
    return ConnectorRecord(
        evse_id=evse,
        connector_id=1,
        status=ConnectorStatus.CHARGING,
        occurred_at=None,
        received_at=time(0),
    )


def test_a_reading_adds_its_step_and_confirms_the_transaction() -> None:
    b = book(running())
    decision = decide(b, meter(reading(5, 3_500, power_w=Decimal(30_000), soc_percent=Decimal(41))), now(6))
    (session,) = decision.sessions
    assert (session.energy_wh, session.register_wh, session.register_at) == (2_500, 3_500, time(5))
    assert (session.power_w, session.soc_percent, session.heard_at) == (Decimal(30_000), Decimal(41), time(6))
    assert session.id_confirmed
    assert decision.readings == (reading(5, 3_500, power_w=Decimal(30_000), soc_percent=Decimal(41)),)
    assert (decision.findings, decision.asks, decision.settle, decision.entries) == ((), (), (), ())


def test_readings_without_a_transaction_belong_to_the_session_of_their_connector() -> None:
    first, second = running(), running(evse_id=2, transaction_ref=TransactionRef("4712"))
    b = book(first, second)
    decision = decide(b, meter(reading(5, 3_500), ref=None, evse=2), now(5))
    assert decision.session_id == second.id
    assert b.sessions[first.id].energy_wh == 0
    assert b.sessions[second.id].energy_wh == 2_500
    assert not b.sessions[second.id].id_confirmed


def test_readings_of_a_connector_where_nothing_runs_belong_to_no_session() -> None:
    decision = decide(book(running()), meter(reading(5, 3_500), ref=None, evse=2), now(5))
    assert (decision.session_id, decision.sessions) == (None, ())
    assert decision.readings == (reading(5, 3_500),)


def test_readings_under_a_foreign_transaction_touch_no_session_and_are_kept() -> None:
    session = running()
    b = book(session)
    decision = decide(b, meter(reading(5, 9_999), ref="31337"), now(5))
    assert (decision.session_id, decision.sessions) == (None, ())
    assert decision.readings == (reading(5, 9_999),)
    assert b.sessions[session.id] == session


def test_readings_do_not_begin_a_session_that_was_asked_for() -> None:
    decision = decide(book(pending()), meter(reading(5, 3_500), ref=None), now(5))
    assert decision.session_id is None


def test_the_main_meter_of_a_station_with_two_connectors_is_no_sessions_meter() -> None:
    session = running(register_wh=Wh(2_000), energy_wh=Wh(1_000), register_at=time(5))
    b = book(session, connectors={(1, 1): _connector(1), (2, 1): _connector(2)})
    decide(b, meter(reading(6, 5_000_000), ref=None, evse=0), now(6))
    decide(b, end(10, 3_000), now(10))
    assert b.sessions[session.id].energy_wh == 2_000
    assert not b.sessions[session.id].suspect


def test_the_meter_of_a_station_with_one_connector_is_its_sessions_meter() -> None:
    session = running()
    b = book(session, connectors={(0, 0): _connector(0), (1, 1): _connector(1)})
    decide(b, meter(reading(6, 1_500), ref=None, evse=0), now(6))
    assert b.sessions[session.id].energy_wh == 500


def test_readings_of_connector_0_that_name_their_transaction_belong_to_it() -> None:
    b = book(running())
    assert decide(b, meter(reading(6, 1_500), evse=0), now(6)).sessions[0].energy_wh == 500


# --- order, repetition, absence -----------------------------------------------------------------------


def test_readings_of_one_message_count_in_the_order_of_their_times() -> None:
    b = book(running())
    decision = decide(b, meter(reading(3, 1_300), reading(1, 1_100), reading(2, 1_200)), now(3))
    assert decision.sessions[0].energy_wh == 300
    assert decision.findings == ()


def test_a_reset_inside_one_message_is_seen_in_the_order_of_the_times() -> None:
    b = book(running())
    decision = decide(b, meter(reading(3, 200), reading(1, 1_500), reading(2, 100)), now(3))
    assert decision.sessions[0].energy_wh == 500 + 100
    assert [f.kind for f in decision.findings] == [FindingKind.REGISTER_FELL]


def test_a_reading_older_than_the_last_one_is_kept_and_counts_nothing() -> None:
    b = book(running())
    decide(b, meter(reading(10, 2_000, power_w=Decimal(7000))), now(10))
    late = decide(b, meter(reading(5, 1_500, power_w=Decimal(11_000))), now(11))
    (session,) = late.sessions
    assert (session.energy_wh, session.register_wh, session.power_w) == (1_000, 2_000, Decimal(7000))
    assert late.readings == (reading(5, 1_500, power_w=Decimal(11_000)),)
    assert late.findings == ()


def test_the_same_reading_twice_counts_once() -> None:
    b = book(running())
    decisions = [decide(b, meter(reading(10, 2_000), reading(10, 2_000)), now(10)) for _ in range(3)]
    assert [d.sessions[0].energy_wh for d in decisions] == [1_000] * 3
    assert [d.findings for d in decisions] == [()] * 3


@pytest.mark.parametrize("empty", [(), (reading(6, None, power_w=Decimal(10)),)])
def test_a_batch_without_energy_changes_no_energy(empty: tuple[object, ...]) -> None:
    b = book(running())
    decide(b, meter(reading(5, 3_500)), now(5))
    decision = decide(b, meter(*empty), now(6))  # type: ignore[arg-type]
    assert (decision.sessions[0].energy_wh, decision.sessions[0].register_wh) == (2_500, 3_500)


def test_the_first_register_of_a_session_without_one_is_where_it_begins() -> None:
    b = book(running(meter_start_wh=None, register_wh=None, register_at=None))
    decide(b, meter(reading(5, 90_000)), now(5))
    decision = decide(b, meter(reading(6, 90_250)), now(6))
    assert (decision.sessions[0].meter_start_wh, decision.sessions[0].energy_wh) == (90_000, 250)


# --- registers that cannot be true ----------------------------------------------------------------------


def test_a_falling_register_is_a_reset_and_counting_goes_on_from_there() -> None:
    b = book(running())
    decide(b, meter(reading(5, 3_500)), now(5))
    fell = decide(b, meter(reading(6, 10)), now(6))
    after = decide(b, meter(reading(7, 310)), now(7))
    assert [f.kind for f in fell.findings] == [FindingKind.REGISTER_FELL]
    assert after.sessions[0].energy_wh == 2_500 + 300
    assert after.findings == ()


def test_a_placeholder_start_of_0_does_not_bill_the_lifetime_register() -> None:
    # An Iocharger in the field: 910.031 kWh were billed instead of 0.083 kWh.
    b = book(running(meter_start_wh=Wh(0), register_wh=Wh(0)))
    jump = decide(b, meter(reading(1, 909_948)), now(1))
    decide(b, end(2, 910_031), now(2))
    (session,) = b.sessions.values()
    assert [f.kind for f in jump.findings] == [FindingKind.IMPLAUSIBLE_ENERGY]
    assert (session.energy_wh, session.suspect) == (83, False)


def test_a_whole_offline_session_in_one_step_is_believed() -> None:
    b = book(running())
    decision = decide(b, meter(reading(0.1, 81_000)), now(300))
    assert decision.sessions[0].energy_wh == 80_000
    assert decision.findings == ()


def test_the_same_odd_register_told_twice_is_one_finding() -> None:
    b = book(running(register_wh=Wh(3_000)))
    first = decide(b, meter(reading(6, 10)), now(6))
    again = decide(b, meter(reading(6, 10)), now(7))
    assert len({f.key for f in (*first.findings, *again.findings)}) == 1


# --- the paid amount ------------------------------------------------------------------------------------


def test_a_stop_is_asked_once_when_what_was_paid_is_used_up() -> None:
    b = book(running(paid_minor=Minor(5_000)))  # 2.5 kWh at 20.00
    assert decide(b, meter(reading(5, 3_499)), now(5)).asks == ()
    used_up = decide(b, meter(reading(6, 3_500)), now(6))
    assert [ask.command for ask in used_up.asks] == [StopCharging(transaction_ref=TransactionRef("4711"))]
    assert used_up.sessions[0].stop_requested_at == time(6)
    assert used_up.sessions[0].is_running
    assert decide(b, meter(reading(7, 3_900)), now(7)).asks == ()


def test_energy_beyond_the_paid_amount_is_still_counted() -> None:
    b = book(running(paid_minor=Minor(5_000)))
    decide(b, meter(reading(5, 3_500)), now(5))
    assert decide(b, meter(reading(6, 4_500)), now(6)).sessions[0].energy_wh == 3_500


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("nothing was paid", {"paid_minor": Minor(0)}),
        ("it costs nothing", {"price": Price(per_kwh_minor=Decimal(0), currency="INR")}),
        ("there is no transaction to stop", {"transaction_ref": None}),
    ],
)
def test_no_stop_is_asked_where(what: str, changes: dict[str, object]) -> None:
    b = book(running(**{"paid_minor": Minor(5_000), **changes}))
    assert decide(b, meter(reading(5, 90_000), ref=None), now(5)).asks == (), what


# --- after an end ---------------------------------------------------------------------------------------


def ghost(**changes: object) -> ChargingSession:
    """Closed by us at 6,000 Wh (5.000 kWh, 100.00), settled, 400.00 given back."""
    session = running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30), heard_at=time(30))
    closed = conclude(session, Happening.GHOST_CLOSED, time(40), "Ghost")
    return msgspec.structs.replace(
        closed, meter_stop_wh=Wh(6_000), settle_version=1, refunded_minor=Minor(40_000), **changes
    )


def test_readings_after_the_stations_own_end_are_kept_and_change_nothing() -> None:
    ended = running(state=State.COMPLETED, ended_at=time(40), register_wh=Wh(6_000), meter_stop_wh=Wh(6_000))
    decision = decide(book(ended), meter(reading(41, 6_010)), now(41))
    assert (decision.session_id, decision.sessions, decision.findings) == (ended.id, (), ())
    assert decision.readings == (reading(41, 6_010),)


@pytest.mark.parametrize(
    ("what", "proof"),
    [("the same register later", reading(50, 6_000)), ("a higher register from before", reading(39, 6_500))],
)
def test_a_ghost_stays_closed_on(what: str, proof: object) -> None:
    decision = decide(book(ghost()), meter(proof), now(50))  # type: ignore[arg-type]
    assert decision.sessions == (), what


def test_energy_after_a_ghost_was_closed_makes_it_active_with_its_money_set_aside_again() -> None:
    b = book(ghost(), spendable=100_000)
    decision = decide(b, meter(reading(50, 6_500)), now(50))
    (session,) = decision.sessions
    assert (session.state, session.energy_wh, session.concluded) == (State.ONGOING, 5_500, False)
    assert (session.ended_at, session.stop_reason, session.meter_stop_wh) == (None, None, None)
    assert session.available_minor == 50_000
    assert [(e.kind, e.version) for e in decision.entries] == [(EntryKind.HOLD, 2)]
    assert b.spendable[ANNA] == 60_000
    assert [f.kind for f in decision.findings] == [FindingKind.REACTIVATED]


def test_a_reactivated_session_sets_aside_no_more_than_the_wallet_has() -> None:
    b = book(ghost(), spendable=1_000)
    decision = decide(b, meter(reading(50, 6_500)), now(50))
    assert decision.sessions[0].available_minor == 11_000
    assert b.spendable[ANNA] == 0


def test_a_ghost_that_was_not_settled_yet_goes_on_with_the_money_it_has() -> None:
    unsettled = msgspec.structs.replace(ghost(), settle_version=0, refunded_minor=Minor(0))
    decision = decide(book(unsettled), meter(reading(50, 6_500)), now(50))
    assert decision.entries == ()
    assert decision.sessions[0].available_minor == 50_000


def test_a_session_reopened_twice_before_it_is_settled_again_is_paid_once() -> None:
    b = book(ghost(), spendable=100_000)
    decide(b, meter(reading(50, 6_500)), now(50))
    (session,) = b.sessions.values()
    b.put(conclude(session, Happening.GHOST_CLOSED, time(60), "Ghost"))
    again = decide(b, meter(reading(70, 7_000)), now(70))
    assert again.entries == ()
    assert again.sessions[0].available_minor == 50_000


def test_each_time_a_session_goes_on_with_a_short_wallet_has_a_key_of_its_own() -> None:
    # The same key twice is refused by the books, and the fact behind it would be poison.
    b = book(ghost(), spendable=1_000)
    first = decide(b, meter(reading(50, 6_500)), now(50))
    (session,) = b.sessions.values()
    b.put(conclude(session, Happening.GHOST_CLOSED, time(60), "Ghost"))
    b.spendable[ANNA] = Minor(2_000)
    second = decide(b, meter(reading(70, 7_000)), now(70))
    assert [[line.amount for line in e.postings] for d in (first, second) for e in d.entries] == [
        [1_000] * 2,
        [2_000] * 2,
    ]
    assert len({(e.kind, e.source_id, e.version) for d in (first, second) for e in d.entries}) == 2
    assert second.sessions[0].available_minor == 13_000


@pytest.mark.parametrize("ahead_min", [6, 60, 24 * 60])
def test_a_reading_from_the_future_does_not_freeze_the_energy(ahead_min: int) -> None:
    b = book(running())
    decide(b, meter(reading(10 + ahead_min, 2_000)), now(10))
    decide(b, meter(reading(16, 3_000)), now(16))
    (session,) = b.sessions.values()
    assert (session.energy_wh, session.register_at) == (2_000, time(16))


def test_a_start_from_the_future_does_not_freeze_the_energy() -> None:
    b = book()
    ref = str(decide(b, start(24 * 60, 1_000), now(0)).answer.transaction_ref)
    decide(b, meter(reading(6, 3_000), ref=ref), now(6))
    assert next(iter(b.sessions.values())).energy_wh == 2_000


def test_a_session_whose_register_lies_in_the_future_already_counts_again() -> None:
    b = book(running(register_at=time(24 * 60)))
    assert decide(b, meter(reading(10, 3_000)), now(10)).sessions[0].energy_wh == 2_000


def test_an_older_register_of_a_clock_that_is_hours_ahead_is_not_counted_twice() -> None:
    b = book(running())
    decide(b, meter(reading(130, 3_000)), now(10))
    late = decide(b, meter(reading(129, 2_500)), now(11))
    assert late.findings == ()
    decide(b, meter(reading(132, 3_500)), now(12))
    assert next(iter(b.sessions.values())).energy_wh == 2_500


def test_a_clock_a_little_ahead_keeps_the_order_of_its_readings() -> None:
    b = book(running())
    decide(b, meter(reading(14, 3_000)), now(10))
    assert decide(b, meter(reading(13, 2_500)), now(10)).sessions[0].energy_wh == 2_000
    assert decide(b, meter(reading(15, 3_100)), now(11)).sessions[0].energy_wh == 2_100


def test_a_closed_session_does_not_go_on_beside_the_one_that_has_its_connector() -> None:
    successor = running(transaction_ref=TransactionRef("999"), id=session_id())
    b = book(ghost(), successor)
    decision = decide(b, meter(reading(50, 6_500)), now(50))
    assert decision.sessions == ()
    assert len(decision.readings) == 1, "the reading is kept"


def test_an_orphan_without_a_transaction_takes_the_readings_of_its_connector() -> None:
    b = book(orphan())
    decision = decide(b, meter(reading(20, 2_000), ref=None), now(20))
    assert (decision.sessions[0].state, decision.sessions[0].energy_wh) == (State.ORPHANED, 1_000)


def test_what_the_helpers_make_is_this_stations() -> None:
    assert {running().station_id, orphan().station_id} == {STATION}
    assert decide(book(), start(), now()).answer.heartbeat_s == POLICY.heartbeat_s
