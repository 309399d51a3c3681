"""Energy and money as whole numbers, and the one place where each is rounded; durations for people."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal
from typing import NewType

Wh = NewType("Wh", int)
"""Energy in whole watt-hours."""

Minor = NewType("Minor", int)
"""Money in the currency's smallest unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one kWh costs, frozen on a session when it starts.

    Units: per_kwh_minor in minor units of `currency` a kWh, not negative, fractions allowed.
    """

    per_kwh_minor: Decimal
    currency: str


def whole_wh(value: Decimal) -> Wh:
    """A register in whole Wh: the last full Wh it has reached.

    Rounding a cumulative register down keeps differences within 1 Wh of the truth and never in
    one direction for every session, since both ends are cut alike.
    """
    return Wh(int(value.to_integral_value(ROUND_FLOOR)))


def round_minor(amount: Decimal) -> Minor:
    """The one rounding of money: to the nearest minor unit, halves away from zero."""
    return Minor(int(amount.quantize(Decimal(1), ROUND_HALF_UP)))


def duration_text(duration: timedelta) -> str:
    """A duration as people say it: the two largest units that it has, `2 minutes` or `1 hour 30 minutes`."""
    left = max(0, round(duration.total_seconds()))
    parts = []
    for name, seconds in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count} {name}" if count == 1 else f"{count} {name}s")
    return " ".join(parts[:2]) or "0 seconds"
