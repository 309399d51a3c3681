"""The oracle: worked examples by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from voltledger.checker.pricing import Totals, cost_of, fee_of, first_totals, next_totals


@pytest.mark.parametrize(
    ("energy_wh", "price", "cost"),
    [
        (0, "2000", 0),
        (12_345, "2000", 24_690),
        (1, "500", 1),
        (1, "499.9999", 0),
        (3, "500", 2),
        (10, "0.05", 0),
        (333, "33.3", 11),
    ],
)
def test_a_cost_is_rounded_once_halves_up(energy_wh: int, price: str, cost: int) -> None:
    assert cost_of(energy_wh, Decimal(price)) == cost


def test_a_fee_is_rounded_from_the_rounded_cost() -> None:
    assert [fee_of(cost, Decimal("10")) for cost in (4, 5, 14, 15)] == [0, 1, 1, 2]
    assert fee_of(1_000, Decimal("12.345")) == 123


def _totals(*values: int) -> Totals:
    return Totals(**dict(zip(("paid", "cost", "covered", "refund", "owed", "fee", "share"), values, strict=True)))


@pytest.mark.parametrize(
    ("energy_wh", "paid", "wanted"),
    [
        (12_345, 50_000, _totals(50_000, 24_690, 24_690, 25_310, 0, 2_469, 22_221)),
        (30_000, 50_000, _totals(50_000, 60_000, 50_000, 0, 10_000, 6_000, 54_000)),
        (0, 50_000, _totals(50_000, 0, 0, 50_000, 0, 0, 0)),
        (1_000, 0, _totals(0, 2_000, 0, 0, 2_000, 200, 1_800)),
    ],
)
def test_the_first_settlement(energy_wh: int, paid: int, wanted: Totals) -> None:
    assert first_totals(energy_wh=energy_wh, price=Decimal(2_000), fee_percent=Decimal(10), paid=paid) == wanted


@pytest.mark.parametrize(
    ("before_wh", "after_wh", "held_anew", "wanted"),
    [
        (5_000, 6_000, 0, _totals(50_000, 12_000, 10_000, 40_000, 2_000, 1_200, 10_800)),  # the refund stays
        (5_000, 6_000, 40_000, _totals(50_000, 12_000, 12_000, 38_000, 0, 1_200, 10_800)),  # held anew is charged first
        (5_000, 4_000, 0, _totals(50_000, 8_000, 8_000, 42_000, 0, 800, 7_200)),  # less goes back to the wallet
        (30_000, 28_000, 0, _totals(50_000, 56_000, 50_000, 0, 6_000, 5_600, 50_400)),  # first off the debt
        (30_000, 24_000, 0, _totals(50_000, 48_000, 48_000, 2_000, 0, 4_800, 43_200)),  # then to the wallet
        (5_000, 5_000, 40_000, _totals(50_000, 10_000, 10_000, 40_000, 0, 1_000, 9_000)),  # held anew comes back
    ],
)
def test_a_correction(before_wh: int, after_wh: int, held_anew: int, wanted: Totals) -> None:
    price, fee = Decimal(2_000), Decimal(10)
    before = first_totals(energy_wh=before_wh, price=price, fee_percent=fee, paid=50_000)
    after = next_totals(before, energy_wh=after_wh, price=price, fee_percent=fee, paid=50_000, held_anew=held_anew)
    assert after == wanted
    assert after.cost == after.fee + after.share == after.covered + after.owed
    assert after.paid == after.covered + after.refund
