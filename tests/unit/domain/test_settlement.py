"""Settlements: what is posted for a session, version after version, is always the truth about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.domain.make import ANNA, book, running
from voltledger.domain.billing.charges import charge_session
from voltledger.domain.errors import CurrencyMismatch, InvariantBroken
from voltledger.domain.ledger.accounts import CHECKED, Account, AccountKind, held, platform_fee, wallet
from voltledger.domain.ledger.entries import (
    Entry,
    EntryKind,
    Side,
    check_balanced,
    credit,
    debit,
    make_entry,
)
from voltledger.domain.ledger.holds import hold_entry, topup_entry
from voltledger.domain.ledger.settlement import Settled, Settlement, settle
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.session.money import hold_again
from voltledger.domain.session.session import ChargingSession


def moved(*entries: Entry | None) -> dict[str, int]:
    """What entries add to each account: credit counts up. Accounts that end unchanged are left out."""
    sums: Counter[str] = Counter()
    for entry in entries:
        for line in () if entry is None else entry.postings:
            sums[line.account.code] += line.amount if line.side is Side.CREDIT else -line.amount
    return {code: amount for code, amount in sums.items() if amount}


def after(session: ChargingSession, settlement: Settlement) -> ChargingSession:
    """The session as the store marks it."""
    settled = settlement.settled
    return msgspec.structs.replace(session, settle_version=settled.version, refunded_minor=settled.refund)


def used(energy: int, **changes: object) -> ChargingSession:
    """An ended session that used some energy; 500.00 paid, 20.00 a kWh, 10 %."""
    return running(energy_wh=Wh(energy), **changes)


# --- version 1 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "session", "postings"),
    [
        (
            "the contract's own example",
            used(12_345),
            {
                "held:anna:INR": -50_000,
                "wallet:anna:INR": 25_310,
                "platform_fee::INR": 2_469,
                "payable:acme:INR": 22_221,
            },
        ),
        ("nothing used: all of it back", used(0), {"held:anna:INR": -50_000, "wallet:anna:INR": 50_000}),
        (
            "more used than paid: the rest is owed",
            used(30_000),
            {
                "held:anna:INR": -50_000,
                "receivable:anna:INR": -10_000,
                "platform_fee::INR": 6_000,
                "payable:acme:INR": 54_000,
            },
        ),
        (
            "nobody known: all of it is owed by nobody known",
            used(5_000, user_id=None, paid_minor=Minor(0)),
            {"receivable:unknown:INR": -10_000, "platform_fee::INR": 1_000, "payable:acme:INR": 9_000},
        ),
        ("nobody known and nothing used", used(0, user_id=None, paid_minor=Minor(0)), {}),
    ],
)
def test_the_first_settlement_charges_the_hold_and_splits_the_cost(
    what: str, session: ChargingSession, postings: dict[str, int]
) -> None:
    settlement = settle(session, already=None)
    assert moved(settlement.entry) == postings, what
    assert (settlement.entry is None) == (postings == {})
    assert settlement.settled.version == 1


# --- versions after it -------------------------------------------------------------------------------------


def _settled(energy: int, paid: int = 50_000) -> Settled:
    return settle(used(energy, paid_minor=Minor(paid)), already=None).settled


@pytest.mark.parametrize(
    ("what", "before", "now", "postings"),
    [
        (
            "more energy: the refund stays, the difference is owed",
            12_345,
            13_345,
            {"receivable:anna:INR": -2_000, "platform_fee::INR": 200, "payable:acme:INR": 1_800},
        ),
        (
            "less energy: the difference goes to the wallet",
            12_345,
            11_345,
            {"wallet:anna:INR": 2_000, "platform_fee::INR": -200, "payable:acme:INR": -1_800},
        ),
        ("the same energy: nothing moves", 12_345, 12_345, {}),
        (
            "less than what was owed: first against the receivable",
            30_000,
            27_000,
            {"receivable:anna:INR": 6_000, "platform_fee::INR": -600, "payable:acme:INR": -5_400},
        ),
        (
            "much less: the receivable first, then the wallet",
            30_000,
            20_000,
            {
                "receivable:anna:INR": 10_000,
                "wallet:anna:INR": 10_000,
                "platform_fee::INR": -2_000,
                "payable:acme:INR": -18_000,
            },
        ),
    ],
)
def test_a_later_version_posts_the_difference(what: str, before: int, now: int, postings: dict[str, int]) -> None:
    first = _settled(before)
    session = used(now, settle_version=1, refunded_minor=first.refund)
    second = settle(session, already=first)
    assert moved(second.entry) == postings, what
    assert second.settled.version == 2
    assert (second.entry is None) == (postings == {})


def test_a_later_version_charges_what_was_set_aside_again_before_anything_is_owed() -> None:
    first = _settled(5_000)  # cost 100.00, 400.00 back
    reopened, entries = hold_again(book(), used(15_000, settle_version=1, refunded_minor=first.refund))
    second = settle(reopened, already=first)
    assert moved(*entries) == {"wallet:anna:INR": -40_000, "held:anna:INR": 40_000}
    assert moved(second.entry) == {
        "held:anna:INR": -40_000,
        "wallet:anna:INR": 20_000,
        "platform_fee::INR": 2_000,
        "payable:acme:INR": 18_000,
    }
    assert (second.settled.paid, second.settled.covered, second.settled.refund) == (50_000, 30_000, 20_000)


def test_a_session_that_is_closed_and_goes_on_three_times_never_sets_aside_more_than_was_paid() -> None:
    session, already = used(5_000), None
    for energy in (6_000, 7_000, 8_000):
        settlement = settle(session, already=already)
        already = settlement.settled
        session, _ = hold_again(book(), after(session, settlement))
        assert session.available_minor == 50_000
        session = msgspec.structs.replace(session, energy_wh=Wh(energy))
    assert (session.paid_minor, settle(session, already=already).settled.refund) == (50_000, 34_000)


@st.composite
def _lives(draw: st.DrawFn) -> tuple[int, int, Decimal, Decimal, list[tuple[int, int, bool]]]:
    """What was paid, the wallet, price, fee, and versions: energy, a top-up before, whether it went on."""
    version = st.tuples(st.integers(0, 60_000), st.integers(0, 30_000), st.booleans())
    return (
        draw(st.integers(0, 80_000)),
        draw(st.integers(0, 80_000)),
        draw(st.integers(0, 50_000_000).map(lambda number: Decimal(number).scaleb(-4))),
        draw(st.integers(0, 100_000).map(lambda number: Decimal(number).scaleb(-3))),
        draw(st.lists(version, min_size=1, max_size=7)),
    )


@settings(max_examples=300, deadline=None)
@given(_lives())
def test_after_any_history_the_books_say_what_was_used(
    life: tuple[int, int, Decimal, Decimal, list[tuple[int, int, bool]]],
) -> None:
    paid, purse, price, fee, versions = life
    session = used(0, paid_minor=Minor(paid), price=Price(per_kwh_minor=price, currency="INR"), fee_percent=fee)
    opening = hold_entry(session_id=session.id, user=ANNA, currency="INR", amount=Minor(paid), version=1)
    entries: list[Entry | None] = [opening]
    already: Settled | None = None
    for energy, topup, went_on in versions:
        purse += topup
        if went_on and already is not None:
            b = book(spendable=purse + moved(*entries).get("wallet:anna:INR", 0) + paid)
            session, again = hold_again(b, session)
            entries.extend(again)
        session = msgspec.structs.replace(session, energy_wh=Wh(energy))
        settlement = settle(session, already=already)
        already = settlement.settled
        entries.append(settlement.entry)
        session = after(session, settlement)
    for entry in entries:
        if entry is not None:
            check_balanced(entry.postings)
    truth = charge_session(energy=session.energy_wh, price=session.price, paid=Minor(paid), fee_percent=fee)
    sums = moved(*entries)
    assert sum(sums.values()) == 0
    assert sums.get("platform_fee::INR", 0) == truth.fee
    assert sums.get("payable:acme:INR", 0) == truth.share
    assert sums.get("held:anna:INR", 0) == 0
    owed, drawn = -sums.get("receivable:anna:INR", 0), -sums.get("wallet:anna:INR", 0)
    assert drawn + owed == truth.cost
    assert (owed, drawn) == (already.owed if already else 0, already.covered if already else 0)
    assert already is not None
    assert owed >= 0
    assert 0 <= already.refund <= already.paid == paid
    assert already.cost == already.fee + already.share == already.covered + already.owed
    assert already.paid == already.covered + already.refund


# --- entries ---------------------------------------------------------------------------------------------


def test_an_entry_that_does_not_balance_cannot_be_built() -> None:
    with pytest.raises(InvariantBroken, match="does not balance"):
        make_entry(
            kind=EntryKind.TOPUP,
            source_id="x",
            version=1,
            reason="",
            lines=(debit(platform_fee("INR"), 2), credit(wallet(ANNA, "INR"), 1)),
        )


def test_a_line_below_zero_cannot_be_posted() -> None:
    with pytest.raises(InvariantBroken, match="not positive"):
        check_balanced((debit(platform_fee("INR"), -1), credit(wallet(ANNA, "INR"), -1)))


def test_two_currencies_cannot_meet_in_one_entry() -> None:
    with pytest.raises(CurrencyMismatch):
        check_balanced((debit(platform_fee("INR"), 1), credit(wallet(ANNA, "EUR"), 1)))


def test_lines_of_zero_are_left_out_and_an_entry_of_nothing_is_none() -> None:
    entry = topup_entry(key="k", user=ANNA, currency="INR", amount=Minor(5))
    assert entry is not None
    assert moved(entry) == {"provider::INR": -5, "wallet:anna:INR": 5}
    assert topup_entry(key="k", user=ANNA, currency="INR", amount=Minor(0)) is None


def test_accounts_of_one_owner_and_currency_have_one_name_each() -> None:
    assert wallet(ANNA, "INR").code == "wallet:anna:INR"
    assert held(ANNA, "INR") == Account(kind=AccountKind.HELD, owner="anna", currency="INR")
    assert {AccountKind.WALLET, AccountKind.HELD} == CHECKED


def test_a_settlement_that_is_asked_for_twice_gives_the_same_entry() -> None:
    session = used(12_345)
    assert settle(session, already=None) == settle(session, already=None)
    first = settle(session, already=None).settled
    assert settle(after(session, settle(session, already=None)), already=first).settled == replace(first, version=2)
