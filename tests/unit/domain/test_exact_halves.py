"""Halves of a minor unit, where a binary fraction or a second rounding shows: compared with exact rationals (L-05)."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from math import floor

import pytest

from voltledger.domain.billing.charges import charge_session, energy_cost, platform_fee
from voltledger.domain.quantities import Minor, Price, Wh


def _rounded(exact: Fraction) -> int:
    """To the nearest whole number, halves up; amounts are never negative."""
    return floor(exact + Fraction(1, 2))


def test_half_a_minor_unit_of_energy_always_rounds_up() -> None:
    differing = []
    for tenths in range(1, 400, 2):  # prices of 0.1, 0.3, 0.5 ..., which no float holds, at odd multiples of 5 kWh
        price = Price(per_kwh_minor=Decimal(tenths) / 10, currency="INR")
        for energy in range(5_000, 250_000, 10_000):
            exact = Fraction(tenths, 10) * Fraction(energy, 1_000)
            assert exact.denominator == 2, "the case is a half"
            if energy_cost(Wh(energy), price) != _rounded(exact):
                differing.append((price.per_kwh_minor, energy))
    assert differing == []


@pytest.mark.parametrize("energy", [10**12 + 1, 10**15 + 3])
def test_a_price_times_more_energy_than_a_float_can_count_is_exact(energy: int) -> None:
    exact = Fraction(20_495_001, 10_000) * Fraction(energy, 1_000)
    assert energy_cost(Wh(energy), Price(per_kwh_minor=Decimal("2049.5001"), currency="INR")) == _rounded(exact)


@pytest.mark.parametrize("percent", ["0.5", "2.5", "10", "12.5", "33.3", "50", "99.9"])
def test_the_fee_is_rounded_once_and_the_rest_is_the_share(percent: str) -> None:
    price = Price(per_kwh_minor=Decimal(1), currency="INR")
    for cost in range(2_000):
        charge = charge_session(energy=Wh(1_000 * cost), price=price, paid=Minor(0), fee_percent=Decimal(percent))
        fee = _rounded(Fraction(percent) * cost / 100)
        assert (charge.cost, charge.fee, charge.share) == (cost, fee, cost - fee), f"{percent} % of {cost}"
        assert platform_fee(Minor(cost), Decimal(percent)) == fee
