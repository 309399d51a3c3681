"""Starts: answered with a transaction whatever they are worth, and never counted twice."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from tests.unit.domain.make import (
    ANNA,
    T0,
    TOKEN,
    book,
    end,
    instant,
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
from voltledger.domain.errors import InvariantBroken
from voltledger.domain.events import AuthorizationStatus, Instant
from voltledger.domain.identifiers import TokenValue, TransactionRef, UserId
from voltledger.domain.ledger.entries import EntryKind
from voltledger.domain.quantities import Minor, Wh
from voltledger.domain.reconciliation.findings import FindingKind
from voltledger.domain.session.conclude import conclude
from voltledger.domain.session.decide import decide
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import Happening, State


def test_a_start_opens_a_session_with_price_and_fee_frozen_and_money_set_aside() -> None:
    b = book(spendable=60_000)
    decision = decide(b, start(0, 1_234), now(1, key=b"k", ref="77"))
    (session,) = decision.sessions
    assert session.state is State.ONGOING
    assert session.origin is Origin.LOCAL
    assert (session.transaction_ref, session.start_key) == ("77", b"k")
    assert (session.meter_start_wh, session.register_wh, session.energy_wh) == (1_234, 1_234, 0)
    assert (session.price.per_kwh_minor, session.fee_percent) == (Decimal(2000), Decimal(10))
    assert (session.user_id, session.paid_minor) == (ANNA, 50_000)
    assert (session.started_at, session.created_at) == (T0, time(1))
    assert [(e.kind, e.version) for e in decision.entries] == [(EntryKind.HOLD, 1)]
    assert b.spendable[ANNA] == 10_000
    assert decision.answer.transaction_ref == "77"
    assert decision.answer.authorization is not None
    assert decision.answer.authorization.status is AuthorizationStatus.ACCEPTED
    assert decision.findings == ()


@pytest.mark.parametrize(("spendable", "held"), [(100_000, 50_000), (50_000, 50_000), (120, 120), (0, 0)])
def test_a_local_start_sets_aside_the_usual_amount_or_what_there_is(spendable: int, held: int) -> None:
    decision = decide(book(spendable=spendable), start(), now())
    assert decision.sessions[0].paid_minor == held
    assert sum(p.amount for e in decision.entries for p in e.postings if p.side.value == "D") == held


def test_two_starts_of_one_batch_do_not_set_the_same_money_aside() -> None:
    b = book(spendable=70_000)
    first = decide(b, start(0, 1_000), now(0))
    second = decide(b, start(1, 5_000, evse_id=2), now(1))
    assert [first.sessions[0].paid_minor, second.sessions[0].paid_minor] == [50_000, 20_000]
    assert b.spendable[ANNA] == 0


def test_the_same_start_again_gets_the_same_transaction_and_changes_nothing() -> None:
    b = book()
    first = decide(b, start(), now(0, key=b"k"))
    again = decide(b, start(), now(5, key=b"k"))
    assert again.answer.transaction_ref == first.answer.transaction_ref
    assert again.session_id == first.session_id
    assert (again.sessions, again.entries, again.settle, again.findings) == ((), (), (), ())


def test_the_same_start_after_its_session_ended_gets_the_old_transaction_and_opens_nothing() -> None:
    ended = running(state=State.COMPLETED, ended_at=time(60), start_key=b"k")
    decision = decide(book(ended), start(), now(90, key=b"k"))
    assert decision.answer.transaction_ref == "4711"
    assert (decision.sessions, decision.entries) == ((), ())


def test_a_repeat_with_a_corrected_clock_is_the_same_start_while_nobody_used_its_transaction() -> None:
    b = book()
    first = decide(b, start(0), now(0, key=b"k1"))
    again = decide(b, start(3), now(3, key=b"k2"))
    assert again.answer.transaction_ref == first.answer.transaction_ref
    assert again.sessions == ()


def test_a_start_at_another_time_is_a_new_session_once_the_transaction_was_used() -> None:
    b = book()
    first = decide(b, start(0), now(0, key=b"k1"))
    ref = str(first.answer.transaction_ref)
    decide(b, meter(reading(1, 1_000), ref=ref), now(1))
    again = decide(b, start(3), now(3, key=b"k2"))
    assert again.answer.transaction_ref != ref
    assert len(again.sessions) == 2


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("another token", {"token": TokenValue("OTHER")}),
        ("another start register", {"register_wh": Wh(1_001)}),
        ("no start register", {"register_wh": None}),
        ("another connector", {"evse_id": 2}),
    ],
)
def test_a_start_that_differs_in_more_than_its_time_is_a_new_session(what: str, changes: dict[str, Any]) -> None:
    b = book()
    first = decide(b, start(0), now(0))
    other = decide(b, start(3, **changes), now(3))
    assert other.answer.transaction_ref != first.answer.transaction_ref, what


# --- starts that were paid for -----------------------------------------------------------------------


def test_a_prepaid_session_begins_when_its_token_starts() -> None:
    asked = pending()
    decision = decide(book(asked), start(1, 2_000, token=asked.token), now(1, ref="88"))
    (session,) = decision.sessions
    assert (session.id, session.state, session.origin) == (asked.id, State.ONGOING, Origin.PREPAID)
    assert (session.transaction_ref, session.meter_start_wh) == ("88", 2_000)
    assert (session.paid_minor, session.pending_until) == (50_000, None)
    assert decision.entries == ()
    assert decision.answer.authorization is not None
    assert decision.answer.authorization.status is AuthorizationStatus.ACCEPTED
    assert decision.findings == ()


def test_a_prepaid_start_is_for_its_own_connector_only() -> None:
    asked = pending(evse_id=2)
    decision = decide(book(asked), start(1, token=asked.token), now(1))
    assert decision.session_id != asked.id


def test_of_two_prepaid_sessions_of_one_token_the_older_waiting_one_begins() -> None:
    older = pending(created_at=time(0), token=TOKEN)
    newer = pending(created_at=time(1), token=TOKEN)
    decision = decide(book(newer, older), start(2), now(2))
    assert decision.session_id == older.id


def _not_started(settled: bool) -> ChargingSession:
    ended = conclude(pending(), Happening.NOT_STARTED, time(3), "NotStarted")
    if not settled:
        return ended
    return msgspec.structs.replace(ended, settle_version=1, refunded_minor=Minor(50_000))


def test_a_prepaid_start_after_its_money_went_back_sets_it_aside_again() -> None:
    b = book(_not_started(settled=True), spendable=80_000)
    decision = decide(b, start(10, token=TokenValue("VLPREPAID")), now(10))
    (session,) = decision.sessions
    assert session.state is State.ONGOING
    assert session.available_minor == 50_000
    assert not session.concluded
    assert [(e.kind, e.version) for e in decision.entries] == [(EntryKind.HOLD, 2)]
    assert b.spendable[ANNA] == 30_000


def test_a_prepaid_start_after_its_deadline_and_before_the_refund_keeps_its_money() -> None:
    b = book(_not_started(settled=False), spendable=80_000)
    decision = decide(b, start(10, token=TokenValue("VLPREPAID")), now(10))
    assert decision.sessions[0].available_minor == 50_000
    assert decision.entries == ()
    assert b.spendable[ANNA] == 80_000


def test_a_late_prepaid_start_with_an_empty_wallet_still_runs_and_is_recorded() -> None:
    b = book(_not_started(settled=True), spendable=0)
    decision = decide(b, start(10, token=TokenValue("VLPREPAID")), now(10))
    (session,) = decision.sessions
    assert session.state is State.ONGOING
    assert session.available_minor == 0
    assert decision.answer.transaction_ref == session.transaction_ref
    assert [type(ask.command).__name__ for ask in decision.asks] == ["StopCharging"], "nothing is left to spend"


def test_a_late_prepaid_start_that_finds_money_is_not_asked_to_stop() -> None:
    b = book(_not_started(settled=True), spendable=100_000)
    decision = decide(b, start(10, token=TokenValue("VLPREPAID")), now(10))
    assert decision.asks == ()


def test_a_prepaid_start_a_day_too_late_is_a_new_session() -> None:
    b = book(_not_started(settled=True))
    decision = decide(b, start(25 * 60, token=TokenValue("VLPREPAID")), now(25 * 60))
    assert decision.sessions[0].origin is Origin.LOCAL


# --- tokens that are worth nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "answer", "finding"),
    [
        ([token_record(status=AuthorizationStatus.BLOCKED)], AuthorizationStatus.BLOCKED, []),
        ([token_record(expires_at=T0 - timedelta(days=1))], AuthorizationStatus.EXPIRED, []),
        ([], AuthorizationStatus.INVALID, [FindingKind.UNKNOWN_TOKEN]),
    ],
)
def test_a_start_with_a_bad_token_is_recorded_with_a_transaction_and_no_money_is_touched(
    tokens: list[object], answer: AuthorizationStatus, finding: list[FindingKind]
) -> None:
    b = book(tokens=tokens)  # type: ignore[arg-type]
    decision = decide(b, start(), now(0, ref="99"))
    assert decision.answer.transaction_ref == "99"
    assert decision.answer.authorization is not None
    assert decision.answer.authorization.status is answer
    assert decision.sessions[0].state is State.ONGOING
    assert (decision.sessions[0].paid_minor, decision.entries) == (0, ())
    assert [f.kind for f in decision.findings] == finding
    assert b.spendable[ANNA] == 100_000


def test_a_start_without_any_token_is_recorded_and_answered() -> None:
    decision = decide(book(), start(token=None), now(0, ref="98"))
    assert decision.answer.transaction_ref == "98"
    assert decision.sessions[0].token is None


def test_a_start_for_which_no_terms_were_loaded_is_our_own_mistake() -> None:
    b = book()
    b.terms = None
    with pytest.raises(InvariantBroken):
        decide(b, start(), now())


# --- an open session on the connector ----------------------------------------------------------------


def test_a_start_ends_the_open_session_of_its_connector_at_its_last_register() -> None:
    older = running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30), id_confirmed=True)
    decision = decide(book(older), start(40, 6_100, token=TokenValue("BEN")), now(40))
    ended, started = decision.sessions
    assert (ended.id, ended.state, ended.energy_wh) == (older.id, State.TERMINATED, 5_000)
    assert (ended.concluded, ended.estimated) == (True, True)
    assert started.state is State.ONGOING
    assert [s.id for s in decision.settle] == [older.id]
    assert FindingKind.SUPERSEDED in [f.kind for f in decision.findings]


def test_a_start_leaves_the_session_of_another_connector_alone() -> None:
    other = running(evse_id=2, id_confirmed=True)
    decision = decide(book(other), start(40, 6_100), now(40))
    assert [s.evse_id for s in decision.sessions] == [1]
    assert decision.settle == ()
    assert decision.findings == ()


def test_a_superseded_session_takes_its_true_end_later() -> None:
    older = running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30), id_confirmed=True)
    b = book(older)
    decide(b, start(40, 6_100, token=TokenValue("BEN")), now(40))
    corrected = decide(b, end(35, 6_050), now(50))
    assert (corrected.sessions[0].id, corrected.sessions[0].energy_wh) == (older.id, 5_050)
    assert [f.kind for f in corrected.findings] == [FindingKind.CORRECTED]


def test_a_superseded_session_ended_when_its_successor_began() -> None:
    b = book(running(register_wh=Wh(6_000), energy_wh=Wh(5_000), register_at=time(30)))
    decision = decide(b, start(40, 6_100, token=TokenValue("BEN")), now(600))
    assert decision.sessions[0].ended_at == time(40), "an offline burst arrives late; its sessions do not overlap"


# --- orphans -----------------------------------------------------------------------------------------


def test_the_late_start_of_an_orphan_makes_it_the_drivers_session_with_all_its_energy() -> None:
    found = orphan()
    decision = decide(book(found), start(0, 900), now(15))
    (session,) = decision.sessions
    assert (session.id, session.state, session.user_id) == (found.id, State.ONGOING, ANNA)
    assert (session.meter_start_wh, session.register_wh, session.energy_wh) == (900, 1_500, 600)


def test_an_orphan_whose_meter_never_spoke_becomes_the_session_of_a_start() -> None:
    found = orphan(meter_start_wh=None, register_wh=None, register_at=None, energy_wh=Wh(0))
    decision = decide(book(found), start(0, 900), now(15))
    (session,) = decision.sessions
    assert (session.id, session.meter_start_wh, session.energy_wh) == (found.id, 900, 0)


@pytest.mark.parametrize(
    ("meter_kind", "register_wh"), [("lifetime register", 1_500), ("register from zero each time", 0)]
)
def test_the_next_driver_does_not_pay_for_the_orphan_before(meter_kind: str, register_wh: int) -> None:
    found = orphan()
    decision = decide(book(found), start(30, register_wh), now(30))
    ended, started = decision.sessions
    assert (ended.id, ended.state, ended.energy_wh) == (found.id, State.TERMINATED, 500), meter_kind
    assert (started.user_id, started.energy_wh, started.meter_start_wh) == (ANNA, 0, register_wh)


def test_energy_of_an_orphan_is_not_counted_twice_when_the_prepaid_start_behind_it_arrives_late() -> None:
    asked, found = _not_started(settled=True), orphan()
    b = book(asked, found)
    decision = decide(b, start(0, 1_000, token=TokenValue("VLPREPAID")), now(15))
    decide(b, meter(reading(20, 2_000), ref=str(decision.answer.transaction_ref)), now(20))
    assert sum(s.energy_wh for s in b.sessions.values()) == 1_000
    assert b.sessions[asked.id].energy_wh == 1_000


def test_an_orphan_under_another_transaction_is_not_taken_for_a_start() -> None:
    found = orphan(transaction_ref=TransactionRef("31337"))
    decision = decide(book(found), start(0, 900), now(15))
    assert decision.session_id != found.id


def test_a_start_with_a_time_that_cannot_be_believed_is_recorded_at_its_receipt() -> None:
    suspect = Instant(at=time(500), suspect=True, text="1970-01-01T00:00:11Z")
    decision = decide(book(), start(at=suspect), now(500))
    assert decision.sessions[0].started_at == time(500)


def test_readings_in_a_start_are_kept_and_counted() -> None:
    decision = decide(book(), start(0, 1_000, readings=(reading(1, 1_250),)), now(1))
    assert decision.sessions[0].energy_wh == 250
    assert decision.readings == (reading(1, 1_250),)


def test_a_start_of_a_user_who_is_not_known_to_the_wallets_holds_nothing() -> None:
    decision = decide(book(tokens=[token_record(user_id=UserId("nobody"))]), start(), now())
    assert decision.sessions[0].paid_minor == 0
    assert decision.entries == ()


def test_instants_of_the_helpers_are_what_they_say() -> None:
    assert instant(5).at - instant(0).at == timedelta(minutes=5)
