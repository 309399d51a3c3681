"""What a session costs and who gets which part, in exact rational numbers.

Written from the documents: cost is energy times price, rounded once to the minor unit, halves up; the fee likewise from
the cost; the share is the rest. What was paid covers the cost, the rest is refunded; what is not covered is owed. When
the truth changes later, what was refunded stays refunded: more energy takes what was set aside anew and then becomes a
debt; less energy first lowers the debt, then goes back to the wallet.
Source: mission document (refunds, platform fee), ADR 0006.
"""

from decimal import Decimal
from fractions import Fraction

import msgspec

HALF = Fraction(1, 2)


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """A session's money, all versions up to one together.

    Units: minor units of one currency.
    """

    paid: int
    cost: int
    covered: int
    refund: int
    owed: int
    fee: int
    share: int


def half_up(amount: Fraction) -> int:
    """The nearest whole number, halves up."""
    return (amount + HALF).__floor__()


def cost_of(energy_wh: int, price_per_kwh_minor: Decimal) -> int:
    """What energy costs. Units: Wh, minor units a kWh, minor units."""
    return half_up(Fraction(price_per_kwh_minor) * energy_wh / 1000)


def fee_of(cost: int, fee_percent: Decimal) -> int:
    """The platform's part of a cost."""
    return half_up(Fraction(fee_percent) * cost / 100)


def first_totals(*, energy_wh: int, price: Decimal, fee_percent: Decimal, paid: int) -> Totals:
    """The first settlement of a session."""
    cost = cost_of(energy_wh, price)
    covered = min(cost, paid)
    return _totals(cost=cost, covered=covered, owed=cost - covered, paid=paid, fee_percent=fee_percent)


def next_totals(
    before: Totals, *, energy_wh: int, price: Decimal, fee_percent: Decimal, paid: int, held_anew: int
) -> Totals:
    """The settlement after another one; `held_anew` is what was set aside between them."""
    cost = cost_of(energy_wh, price)
    if cost >= before.cost:
        owed = before.owed + max(0, cost - before.cost - held_anew)
    else:
        owed = max(0, before.owed - (before.cost - cost))
    return _totals(cost=cost, covered=cost - owed, owed=owed, paid=paid, fee_percent=fee_percent)


def _totals(*, cost: int, covered: int, owed: int, paid: int, fee_percent: Decimal) -> Totals:
    fee = fee_of(cost, fee_percent)
    return Totals(paid=paid, cost=cost, covered=covered, refund=paid - covered, owed=owed, fee=fee, share=cost - fee)
