"""What energy costs and who gets which part."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltledger.domain.billing.charges import charge_session, energy_cost, paid_amount_used_up, platform_fee
from voltledger.domain.quantities import Minor, Price, Wh


def _price(per_kwh: str, currency: str = "INR") -> Price:
    return Price(per_kwh_minor=Decimal(per_kwh), currency=currency)


# energy Wh, price, paid, fee % -> cost, covered, refund, owed, fee, share
EXAMPLES = [
    ("the contract's own", 12_345, "2000", 50_000, "10", 24_690, 24_690, 25_310, 0, 2_469, 22_221),
    ("nothing used", 0, "2000", 50_000, "10", 0, 0, 50_000, 0, 0, 0),
    ("exactly used up", 25_000, "2000", 50_000, "10", 50_000, 50_000, 0, 0, 5_000, 45_000),
    ("one minor unit short", 25_000, "2000", 49_999, "10", 50_000, 49_999, 0, 1, 5_000, 45_000),
    ("more used than paid", 30_000, "2000", 50_000, "10", 60_000, 50_000, 0, 10_000, 6_000, 54_000),
    ("nothing paid", 5_000, "2000", 0, "10", 10_000, 0, 0, 10_000, 1_000, 9_000),
    ("a price with fractions", 1_000, "2049.5", 5_000, "10", 2_050, 2_050, 2_950, 0, 205, 1_845),
    ("half a unit rounds up", 250, "2", 10, "10", 1, 1, 9, 0, 0, 1),
    ("just under half rounds down", 249, "2", 10, "10", 0, 0, 10, 0, 0, 0),
    ("a fee of half a unit rounds up", 1_000, "5", 100, "10", 5, 5, 95, 0, 1, 4),
    ("no fee", 12_345, "2000", 50_000, "0", 24_690, 24_690, 25_310, 0, 0, 24_690),
    ("all fee", 12_345, "2000", 50_000, "100", 24_690, 24_690, 25_310, 0, 24_690, 0),
    ("a fee with fractions", 12_345, "2000", 50_000, "12.5", 24_690, 24_690, 25_310, 0, 3_086, 21_604),
    ("free energy", 99_999, "0", 50_000, "10", 0, 0, 50_000, 0, 0, 0),
    ("yen has no decimals", 12_345, "35.5", 1_000, "10", 438, 438, 562, 0, 44, 394),
]


@pytest.mark.parametrize(
    ("what", "energy", "price", "paid", "fee_percent", "cost", "covered", "refund", "owed", "fee", "share"), EXAMPLES
)
def test_a_session_is_charged_as_worked_out_by_hand(
    what: str,
    energy: int,
    price: str,
    paid: int,
    fee_percent: str,
    cost: int,
    covered: int,
    refund: int,
    owed: int,
    fee: int,
    share: int,
) -> None:
    charge = charge_session(energy=Wh(energy), price=_price(price), paid=Minor(paid), fee_percent=Decimal(fee_percent))
    assert (charge.cost, charge.covered, charge.refund, charge.owed, charge.fee, charge.share) == (
        cost,
        covered,
        refund,
        owed,
        fee,
        share,
    ), what


def _decimals(most: int, places: int) -> st.SearchStrategy[Decimal]:
    """Decimals from 0 on, made of whole numbers: drawing real ones is too slow on a busy machine."""
    return st.integers(0, most * 10**places).map(lambda number: Decimal(number).scaleb(-places))


@given(
    energy=st.integers(0, 10**9),
    price=_decimals(10**6, 4),
    paid=st.integers(0, 10**12),
    fee=_decimals(100, 3),
)
def test_parts_always_add_up_to_the_whole(energy: int, price: Decimal, paid: int, fee: Decimal) -> None:
    charge = charge_session(
        energy=Wh(energy), price=Price(per_kwh_minor=price, currency="INR"), paid=Minor(paid), fee_percent=fee
    )
    assert charge.fee + charge.share == charge.cost == charge.covered + charge.owed
    assert charge.covered + charge.refund == paid
    assert charge.refund == max(0, paid - charge.cost)
    assert min(charge.cost, charge.covered, charge.refund, charge.owed, charge.fee, charge.share) >= 0


def test_money_is_exact_where_floating_point_is_not() -> None:
    # 0.1 + 0.2, as kWh at a price of one: 300 Wh of a price that a float cannot hold.
    assert energy_cost(Wh(300), _price("1.1")) == 0
    assert energy_cost(Wh(10**15), _price("0.0001")) == 10**8
    assert platform_fee(Minor(10**17 + 5), Decimal(10)) == 10**16 + 1


@pytest.mark.parametrize(
    ("energy", "paid", "used_up"),
    [(2_499, 5_000, False), (2_500, 5_000, True), (2_501, 5_000, True), (0, 0, False), (9_999, 0, False)],
)
def test_a_paid_amount_is_used_up_when_the_energy_costs_as_much(energy: int, paid: int, used_up: bool) -> None:
    assert paid_amount_used_up(energy=Wh(energy), price=_price("2000"), paid=Minor(paid)) is used_up
