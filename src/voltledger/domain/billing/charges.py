"""What energy costs, and who gets which part: each amount rounded once, parts always the whole."""

from dataclasses import dataclass
from decimal import Decimal

from voltledger.domain.quantities import Minor, Price, Wh, round_minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One session's money, derived from its energy and the price frozen at its start.

    cost = fee + share always; cost = covered + owed always; paid = covered + refund always.
    Units: minor units of one currency.
    """

    cost: Minor
    covered: Minor
    refund: Minor
    owed: Minor
    fee: Minor
    share: Minor


def energy_cost(energy: Wh, price: Price) -> Minor:
    """energy x price, rounded once to the nearest minor unit, halves up."""
    return round_minor(price.per_kwh_minor * energy / 1000)


def platform_fee(cost: Minor, fee_percent: Decimal) -> Minor:
    """The platform's part of what was actually used, rounded once to the nearest minor unit."""
    return round_minor(cost * fee_percent / 100)


def charge_session(*, energy: Wh, price: Price, paid: Minor, fee_percent: Decimal) -> Charge:
    """Splits a session's cost: `refund = max(0, paid - cost)`, `share = cost - fee`.

    What was used beyond the paid amount is `owed`: it goes to a receivable account, visible.
    """
    cost = energy_cost(energy, price)
    fee = platform_fee(cost, fee_percent)
    covered = Minor(min(cost, paid))
    return Charge(
        cost=cost,
        covered=covered,
        refund=Minor(paid - covered),
        owed=Minor(cost - covered),
        fee=fee,
        share=Minor(cost - fee),
    )


def paid_amount_used_up(*, energy: Wh, price: Price, paid: Minor) -> bool:
    """Whether the energy measured so far costs at least what was paid."""
    return paid > 0 and energy_cost(energy, price) >= paid
