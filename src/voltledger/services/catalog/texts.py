"""Amounts, energy and rates as people write them."""

from decimal import Decimal

_NO_DECIMALS = frozenset(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()  # noqa: SIM905 one list of codes
)
_THREE_DECIMALS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))


def money_text(amount_minor: int, currency: str) -> str:
    """Minor units as people write them: `12,345.60 INR`."""
    places = 0 if currency in _NO_DECIMALS else 3 if currency in _THREE_DECIMALS else 2
    return f"{Decimal(amount_minor).scaleb(-places):,.{places}f} {currency}"


def energy_text(energy_wh: int) -> str:
    """Whole Wh as people write them: `12.345 kWh`."""
    return f"{Decimal(energy_wh) / 1000:,.3f} kWh"


def rate_text(rate: Decimal) -> str:
    """A rate with at least two decimals, and as many more as it has."""
    exponent = rate.normalize().as_tuple().exponent
    return f"{rate:,.{max(2, -exponent if isinstance(exponent, int) else 2)}f}"
