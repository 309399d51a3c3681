"""Ends: always answered, believed for this station's own sessions, corrected when they come late."""

from __future__ import annotations

import msgspec
import pytest

from tests.unit.domain.make import (
    T0,
    TOKEN,
    book,
    end,
    meter,
    now,
    orphan,
    pending,
    reading,
    running,
    start,
    time,
    token_record,
)
from voltledger.domain.events import AuthorizationStatus, EndReason, FactUnreadable, Reading
from voltledger.domain.identifiers import TokenValue, TransactionRef
from voltledger.domain.quantities import Minor, Wh
from voltledger.domain.reconciliation.findings import FindingKind, FindingState
from voltledger.domain.session.conclude import ask_to_stop, conclude
from voltledger.domain.session.decide import decide
from voltledger.domain.session.decision import FactState
from voltledger.domain.session.ends import EARLY_REASONS
from voltledger.domain.session.finding import transaction_of
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import Happening, State

NORMAL_REASONS = [
    EndReason.LOCAL,
    EndReason.REMOTE,
    EndReason.EV_DISCONNECTED,
    EndReason.ENERGY_LIMIT,
    EndReason.TIME_LIMIT,
    EndReason.SOC_LIMIT,
    EndReason.COST_LIMIT,
    EndReason.STOPPED_BY_EV,
    EndReason.MASTER_PASS,
    EndReason.OTHER,
]


def test_an_end_completes_the_session_at_its_final_register_and_has_it_settled() -> None:
    session = running()
    decision = decide(book(session), end(60, 13_345), now(61))
    (ended,) = decision.sessions
    assert (ended.state, ended.energy_wh, ended.meter_stop_wh) == (State.COMPLETED, 12_345, 13_345)
    assert (ended.ended_at, ended.stop_reason, ended.power_w) == (time(60), "Local", None)
    assert (ended.concluded, ended.estimated, ended.suspect) == (False, False, False)
    assert decision.settle == (ended,)
    assert decision.findings == ()
    assert decision.fact_state is FactState.APPLIED


@pytest.mark.parametrize("reason", EndReason)
def test_an_end_before_its_time_terminates_and_any_other_completes(reason: EndReason) -> None:
    assert (reason in EARLY_REASONS) != (reason in NORMAL_REASONS), "every reason is one or the other"
    ended = decide(book(running()), end(reason=reason), now(61)).sessions[0]
    assert ended.state is (State.TERMINATED if reason in EARLY_REASONS else State.COMPLETED)
    assert ended.stop_reason == reason.value
    assert ended.energy_wh == 12_345


def test_an_end_touches_no_other_connector() -> None:
    other = running(evse_id=2, transaction_ref=TransactionRef("4712"))
    b = book(running(), other)
    decide(b, end(), now(61))
    assert b.sessions[other.id] == other


def test_an_end_names_its_connector_by_its_transaction_and_not_by_1() -> None:
    second = running(evse_id=2, transaction_ref=TransactionRef("4712"))
    decision = decide(book(running(), second), end(ref="4712"), now(61))
    assert [s.evse_id for s in decision.sessions] == [2]


# --- second ends -----------------------------------------------------------------------------------------


def test_the_same_end_again_changes_nothing_and_is_answered() -> None:
    b = book(running())
    decide(b, end(60, 13_345), now(61))
    again = decide(b, end(60, 13_345), now(62))
    assert (again.sessions, again.settle, again.findings) == ((), (), ())
    assert again.fact_state is FactState.APPLIED
    assert again.answer.at == time(62)


@pytest.mark.parametrize("second", [end(60, 20_000), end(61, 13_345), end(60, None)])
def test_another_end_of_the_same_transaction_is_a_conflict_and_the_first_stands(second: object) -> None:
    b = book(running())
    decide(b, end(60, 13_345), now(61))
    before = dict(b.sessions)
    decision = decide(b, second, now(62))  # type: ignore[arg-type]
    assert b.sessions == before
    assert (decision.sessions, decision.settle) == ((), ())
    assert decision.fact_state is FactState.CONFLICT
    assert [f.kind for f in decision.findings] == [FindingKind.CONFLICTING_STOP]


# --- ends that name no transaction of ours -----------------------------------------------------------------


def test_an_end_of_an_unknown_transaction_is_answered_kept_and_touches_nothing() -> None:
    session = running()
    b = book(session)
    decision = decide(b, end(ref="31337"), now(61))
    assert decision.fact_state is FactState.QUARANTINED
    assert [f.kind for f in decision.findings] == [FindingKind.UNMATCHED_STOP]
    assert decision.findings[0].evidence["register_wh"] == "13345"
    assert decision.session_id is None
    assert b.sessions == {session.id: session}


def test_an_end_of_a_transaction_that_only_another_station_has_ends_nothing() -> None:
    # A book holds one station's sessions; a guessed number of a neighbour is unknown to it.
    mine = running(transaction_ref=TransactionRef("1"))
    decision = decide(book(mine), end(ref="4711"), now(61))
    assert decision.sessions == ()


def test_an_end_without_a_transaction_ends_the_only_session_it_can_mean() -> None:
    session = running()
    decision = decide(book(session, pending()), end(ref=None), now(61))
    assert [s.id for s in decision.sessions] == [session.id]
    assert decision.sessions[0].energy_wh == 12_345


def test_an_end_without_a_transaction_can_end_an_orphan() -> None:
    found = orphan()
    decision = decide(book(found), end(ref=None), now(61))
    assert (decision.session_id, decision.sessions[0].state) == (found.id, State.COMPLETED)


@pytest.mark.parametrize(
    ("what", "sessions"),
    [
        ("two sessions", [running(), running(evse_id=2, transaction_ref=TransactionRef("4712"))]),
        ("no session", []),
        ("a session whose transaction the station knows", [running(id_confirmed=True)]),
        ("a session that began after it", [running(started_at=time(90))]),
        ("a session that began at a higher register", [running(meter_start_wh=Wh(20_000), register_wh=Wh(20_000))]),
        ("a session of another token", [running(token=TokenValue("BEN"))]),
    ],
)
def test_an_end_without_a_transaction_is_not_matched_with(what: str, sessions: list[ChargingSession]) -> None:
    b = book(*sessions)
    decision = decide(b, end(ref=None, token=TOKEN), now(61))
    assert decision.fact_state is FactState.QUARANTINED, what
    assert list(b.sessions.values()) == sessions


def test_an_end_that_was_only_matched_is_corrected_by_the_transactions_own() -> None:
    """The station meant another transaction, whose start never reached us: the guess must not stand for money."""
    b = book(running())
    guessed = decide(b, end(30, 2_294, ref=None), now(31))
    (matched,) = guessed.sessions
    assert [f.kind for f in guessed.findings] == [FindingKind.UNMATCHED_STOP]
    assert (matched.state, matched.energy_wh, matched.concluded) == (State.COMPLETED, 1_294, True)
    own = decide(b, end(60, 15_623), now(61))
    (corrected,) = own.sessions
    assert (corrected.energy_wh, corrected.concluded, own.fact_state) == (14_623, False, FactState.APPLIED)
    assert own.settle == (corrected,)
    assert [(f.kind, f.state) for f in own.findings] == [
        (FindingKind.CORRECTED, FindingState.NOTED),
        (FindingKind.UNMATCHED_STOP, FindingState.OPEN),
    ]
    assert own.findings[1].evidence["register_wh"] == "2294"


def test_a_ghost_that_was_closed_at_what_was_measured_goes_on_from_there() -> None:
    """A meter that began anew in the middle: what was measured before still counts, and nobody else's end is sought."""
    ghost = running(
        state=State.GHOST,
        concluded=True,
        estimated=True,
        register_wh=Wh(300),
        energy_wh=Wh(5_000),
        meter_stop_wh=Wh(300),
        ended_at=time(30),
    )
    decision = decide(book(ghost), end(60, 1_300), now(61))
    assert decision.sessions[0].energy_wh == 6_000
    assert [f.kind for f in decision.findings] == [FindingKind.CORRECTED]


def test_a_foreign_register_leaves_nothing_behind_when_the_own_end_comes() -> None:
    """Seed 3861 of the simulation: the own end, with its closing reading, is far below the one that was matched."""
    b = book(running())
    decide(b, end(30, 61_618, ref=None), now(31))
    (own,) = decide(b, end(60, 1_000, readings=(reading(60, 1_000),)), now(61)).sessions
    assert (own.energy_wh, own.register_wh, own.concluded, own.suspect) == (0, 1_000, False, False)


def test_a_matched_end_said_again_changes_nothing() -> None:
    other = running(evse_id=2, transaction_ref=TransactionRef("4712"), id_confirmed=True)
    b = book(running(), other)
    (matched,) = decide(b, end(30, 2_294, ref=None), now(31)).sessions
    again = decide(b, end(30, 2_294, ref=None), now(32))
    assert (again.session_id, again.sessions, again.settle, again.findings) == (matched.id, (), (), ())


def test_an_end_without_a_transaction_picks_by_connector_where_it_names_one() -> None:
    second = running(evse_id=2, transaction_ref=TransactionRef("4712"))
    decision = decide(book(running(), second), end(ref=None, evse_id=2), now(61))
    assert decision.session_id == second.id


def test_an_end_that_comes_once_more_without_its_transaction_is_a_replay() -> None:
    # MicroOcpp #50: a stop was sent first as 58 and then as -1.
    open_one = running(evse_id=2, transaction_ref=TransactionRef("4712"))
    b = book(running(), open_one)
    decide(b, end(60, 13_345), now(61))
    decision = decide(b, end(60, 13_345, ref=None), now(62))
    assert (decision.sessions, decision.findings) == ((), ())
    assert b.sessions[open_one.id] == open_one


# --- what the final register is worth ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "final", "energy", "findings", "suspect"),
    [
        ("above the last reading", 6_500, 5_500, [], False),
        ("at the last reading", 6_000, 5_000, [], False),
        ("between start and last reading: the final wins", 5_800, 4_800, [FindingKind.REGISTER_FELL], False),
        ("at the start: the final wins", 1_000, 0, [FindingKind.REGISTER_FELL], False),
        ("below the start: what was measured stands", 12, 5_000, [FindingKind.REGISTER_FELL], False),
        ("-1 for unknown", -1, 5_000, [FindingKind.REGISTER_FELL], False),
        ("missing", None, 5_000, [FindingKind.UNKNOWN_ENERGY], False),
        ("beyond physics", 900_000, 5_000, [FindingKind.IMPLAUSIBLE_ENERGY], True),
    ],
)
def test_a_final_register(what: str, final: int | None, energy: int, findings: list[object], suspect: bool) -> None:
    session = running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30))
    decision = decide(book(session), end(31, final), now(31))
    (ended,) = decision.sessions
    assert ended.energy_wh == energy, what
    assert [f.kind for f in decision.findings] == findings
    assert ended.suspect is suspect
    assert decision.fact_state is FactState.APPLIED


def test_energy_is_never_negative_after_a_reset_and_a_lower_final_register() -> None:
    session = running(meter_start_wh=Wh(0), register_wh=Wh(9_000), energy_wh=Wh(100), register_at=time(30))
    assert decide(book(session), end(31, 10), now(31)).sessions[0].energy_wh == 0


def test_an_end_that_cannot_be_believed_still_makes_a_settlement_that_a_person_decides() -> None:
    # Without one, the next pass takes the session for one that a person ended with SQL.
    decision = decide(book(running()), end(1, 900_000), now(1))
    assert decision.sessions[0].suspect
    assert decision.settle == decision.sessions


def test_readings_in_an_end_are_counted_before_its_final_register() -> None:
    decision = decide(book(running()), end(60, 13_000, readings=(reading(0, 1_000), reading(59, 12_900))), now(61))
    assert decision.sessions[0].energy_wh == 12_000
    assert decision.findings == ()


def test_an_end_of_a_session_that_never_had_a_register_counts_nothing() -> None:
    session = running(meter_start_wh=None, register_wh=None, register_at=None)
    decision = decide(book(session), end(60, 13_000), now(61))
    (ended,) = decision.sessions
    assert (ended.energy_wh, ended.meter_stop_wh) == (0, 13_000)
    assert ended.suspect, "what was used is not known: its money must not go back as if it were nothing"
    assert [f.kind for f in decision.findings] == [FindingKind.UNKNOWN_ENERGY]


def test_an_end_without_a_register_is_settled_at_what_was_measured_as_an_estimate_with_an_open_finding() -> None:
    session = running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30))
    decision = decide(book(session), end(60, None), now(61))
    (ended,) = decision.sessions
    assert (ended.state, ended.energy_wh, ended.meter_stop_wh) == (State.COMPLETED, 5_000, None)
    assert (ended.estimated, ended.suspect) == (True, False)
    assert decision.settle == (ended,)
    assert [(f.kind, f.state) for f in decision.findings] == [(FindingKind.UNKNOWN_ENERGY, FindingState.OPEN)]
    assert "meterStop" in decision.findings[0].summary


@pytest.mark.parametrize(
    ("what", "final", "readings", "suspect"),
    [
        ("no register, nothing measured", None, (), True),
        ("no register, only the register of the start again", None, (reading(0, 1_000),), True),
        ("no register, a register in between", None, (reading(30, 4_000),), False),
        ("no register, and the car took nothing for half an hour", None, (reading(30, 1_000),), False),
        ("a placeholder, nothing measured", 0, (), True),
        ("-1 for unknown, nothing measured", -1, (), True),
        ("a placeholder, a register in between", 0, (reading(30, 4_000),), False),
    ],
)
def test_money_waits_where_nothing_says_what_was_used(
    what: str, final: int | None, readings: tuple[Reading, ...], suspect: bool
) -> None:
    decision = decide(book(running()), end(60, final, readings=readings), now(61))
    (ended,) = decision.sessions
    assert ended.suspect is suspect, what
    assert decision.settle == (ended,), "a job exists that a person, or a later fact, lets go"
    assert (FindingKind.UNKNOWN_ENERGY in [f.kind for f in decision.findings]) is (suspect or final is None)


def test_a_second_end_that_brings_the_register_completes_the_first() -> None:
    b = book(running())
    decide(b, end(60, None), now(61))
    decision = decide(b, end(60, 13_345), now(62))
    (ended,) = decision.sessions
    assert (ended.energy_wh, ended.meter_stop_wh, ended.estimated, ended.suspect) == (12_345, 13_345, False, False)
    assert ended.ended_at == time(60)
    assert decision.settle == (ended,)
    assert [f.kind for f in decision.findings] == [FindingKind.CORRECTED]
    assert decide(b, end(60, 20_000), now(63)).fact_state is FactState.CONFLICT, "the first register stands"


def test_closing_readings_after_an_end_without_a_register_are_what_there_is_to_bill() -> None:
    b = book(running())
    decide(b, end(60, None), now(61))
    decision = decide(b, meter(reading(61, 13_345)), now(62))
    (ended,) = decision.sessions
    assert (ended.state, ended.energy_wh, ended.estimated, ended.suspect) == (State.COMPLETED, 12_345, True, False)
    assert decision.settle == (ended,)
    assert [f.kind for f in decision.findings] == [FindingKind.CORRECTED], (
        "without one it is saved as a running session"
    )
    again = decide(b, meter(reading(61, 13_345)), now(63))
    assert (again.sessions, again.settle) == ((), ())


def test_a_true_end_without_a_register_says_that_a_ghosts_energy_is_still_an_estimate() -> None:
    decision = decide(book(ghost()), end(50, None), now(55))
    assert (decision.sessions[0].energy_wh, decision.sessions[0].estimated) == (5_000, True)
    assert FindingKind.UNKNOWN_ENERGY in [f.kind for f in decision.findings]


def test_a_sentence_about_a_transaction_without_a_name_says_so() -> None:
    closed = msgspec.structs.replace(ghost(), transaction_ref=None)
    assert transaction_of(closed, begins=True) == "A transaction that the station did not name"
    assert transaction_of(ghost()) == "transaction 4711"


def test_a_stop_is_asked_again_after_a_session_was_closed_and_went_on() -> None:
    first = running(stop_requested_at=time(10), stop_attempts=1)
    again = msgspec.structs.replace(first, stop_requested_at=time(50))
    assert ask_to_stop(first, "paid amount used up").key != ask_to_stop(again, "paid amount used up").key
    assert ask_to_stop(first, "x") == ask_to_stop(first, "x"), "one request is one effect"


def test_an_end_older_than_the_last_reading_still_decides_the_energy() -> None:
    session = running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30))
    assert decide(book(session), end(20, 6_200), now(31)).sessions[0].energy_wh == 5_200


# --- ends that correct what we had concluded ---------------------------------------------------------------


def ghost(**changes: object) -> ChargingSession:
    """Closed by us at 6,000 Wh and settled."""
    session = running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30))
    closed = conclude(session, Happening.GHOST_CLOSED, time(40), "Ghost")
    return msgspec.structs.replace(closed, meter_stop_wh=Wh(6_000), settle_version=1, **changes)


@pytest.mark.parametrize(("final", "energy"), [(7_000, 6_000), (6_000, 5_000), (5_500, 4_500)])
def test_the_true_end_of_a_ghost_corrects_its_energy_in_both_directions(final: int, energy: int) -> None:
    decision = decide(book(ghost()), end(50, final), now(55))
    (session,) = decision.sessions
    assert (session.state, session.energy_wh) == (State.COMPLETED, energy)
    assert (session.concluded, session.estimated) == (False, False)
    assert (session.ended_at, session.stop_reason) == (time(50), "Local")
    assert decision.settle == (session,)
    assert FindingKind.CORRECTED in [f.kind for f in decision.findings]


def test_the_true_end_of_a_ghost_stands_like_any_other() -> None:
    b = book(ghost())
    decide(b, end(50, 7_000), now(55))
    assert decide(b, end(50, 8_000), now(56)).fact_state is FactState.CONFLICT


def test_an_end_without_a_transaction_does_not_correct_a_ghost_by_guessing() -> None:
    closed = ghost()
    decision = decide(book(closed), end(50, 7_000, ref=None), now(55))
    assert decision.fact_state is FactState.QUARANTINED


def test_a_ghost_that_goes_on_and_ends_is_counted_once() -> None:
    b = book(ghost())
    decide(b, meter(reading(45, 6_400)), now(45))
    decision = decide(b, end(50, 7_000), now(50))
    assert decision.sessions[0].energy_wh == 6_000


# --- the answer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "records", "status"),
    [
        (None, [token_record()], None),
        (TOKEN, [token_record()], AuthorizationStatus.ACCEPTED),
        (TOKEN, [token_record(status=AuthorizationStatus.BLOCKED)], AuthorizationStatus.BLOCKED),
        (TOKEN, [], AuthorizationStatus.ACCEPTED),
        (TokenValue("STRANGER"), [], AuthorizationStatus.INVALID),
    ],
)
def test_an_end_is_answered_about_its_token_only_where_it_has_one(
    token: TokenValue | None, records: list[object], status: AuthorizationStatus | None
) -> None:
    decision = decide(book(running(), tokens=records), end(token=token), now(61))  # type: ignore[arg-type]
    given = decision.answer.authorization
    assert (None if given is None else given.status) is status
    assert decision.sessions[0].state is State.COMPLETED


def test_an_end_with_another_token_bills_the_token_of_the_start() -> None:
    decision = decide(book(running()), end(token=TokenValue("ECHOED-TOO-LONG-22CHRS")), now(61))
    assert (decision.sessions[0].token, decision.sessions[0].user_id) == (TOKEN, "anna")


def test_a_fact_that_cannot_be_read_is_answered_with_a_transaction_and_kept() -> None:
    event = FactUnreadable(action="StartTransaction", problem="connectorId: 'x'")
    decision = decide(book(), event, now(0, ref="55"))
    assert decision.answer.transaction_ref == "55"
    assert decision.fact_state is FactState.QUARANTINED
    assert [f.kind for f in decision.findings] == [FindingKind.UNREADABLE]


def test_a_session_cannot_be_concluded_twice_nor_stopped_without_a_transaction() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        conclude(ghost(), Happening.GHOST_CLOSED, T0, "Ghost")
    with pytest.raises(ValueError, match="no transaction"):
        ask_to_stop(orphan(), "orphaned")


def test_a_session_from_start_to_end_costs_what_its_registers_say() -> None:
    b = book()
    first = decide(b, start(0, 1_000), now(0))
    ref = str(first.answer.transaction_ref)
    decide(b, meter(reading(30, 7_000), ref=ref), now(30))
    ended = decide(b, end(60, 13_345, ref=ref), now(60)).sessions[0]
    assert (ended.energy_wh, ended.paid_minor) == (12_345, Minor(50_000))
