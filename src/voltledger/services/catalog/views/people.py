"""Users and their wallets, tokens, organisations, prices, and keys to the API."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from voltledger.services.catalog.views.base import View


class Token(View, frozen=True, kw_only=True):
    """An id token; `value` in the spelling it was given."""

    value: str
    type: str
    status: str
    group: str | None
    user: str | None
    expires_at: datetime | None
    created_at: datetime


class TokenRow(Token, frozen=True, kw_only=True):
    """A token, and what a list of them is sorted by."""

    sort_key: str


class User(View, frozen=True, kw_only=True):
    """Somebody whose money we hold."""

    id: str
    name: str
    currency: str
    balance_minor: int
    held_minor: int
    created_at: datetime


class Wallet(View, frozen=True, kw_only=True):
    """What a user can spend, and what is set aside."""

    user: str
    balance_minor: int
    held_minor: int
    currency: str


class WalletLine(View, frozen=True, kw_only=True):
    """One movement of a wallet; negative takes from it."""

    id: int
    line: int
    kind: str
    amount_minor: int
    balance_minor: int
    currency: str
    session: UUID | None
    reason: str
    recorded_at: datetime


class TopUp(View, frozen=True, kw_only=True):
    """Money that came in; `balance_minor` is the wallet right after it."""

    id: int
    user: str
    amount_minor: int
    balance_minor: int
    currency: str
    key: str
    recorded_at: datetime


class Organization(View, frozen=True, kw_only=True):
    """An owner of stations; `fee_percent` None means the setting."""

    id: str
    name: str
    fee_percent: Decimal | None
    created_at: datetime


class Tariff(View, frozen=True, kw_only=True):
    """A price a kWh in minor units, fractions allowed; `current` if it counts now in its scope."""

    id: int
    scope: str
    scope_id: str
    currency: str
    price_per_kwh_minor: Decimal
    valid_from: datetime
    current: bool
    created_at: datetime


class ApiKeyAdded(View, frozen=True, kw_only=True):
    """A new key, shown this once."""

    key: str
    id: str
    role: str


class ApiKey(View, frozen=True, kw_only=True):
    """A key without its secret."""

    id: str
    role: str
    name: str
    user: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Actor(View, frozen=True, kw_only=True):
    """Who is asking; `user` is whose things a `driver` may see."""

    id: str
    role: str
    user: str | None = None
