"""The buckets that money is in.

Every account belongs to one owner and one currency and is named by its code, so that two nodes
that need the same account for the first time mean the same row.
"""

from dataclasses import dataclass
from enum import StrEnum

from voltledger.domain.identifiers import OrganizationId, UserId


class AccountKind(StrEnum):
    """What an account is for; assets grow by debit, all others by credit."""

    PROVIDER = "provider"  # asset: money received from outside for top-ups
    WALLET = "wallet"  # liability: what a user can spend
    HELD = "held"  # liability: what a user has set aside for sessions
    RECEIVABLE = "receivable"  # asset: energy used beyond what was paid
    PAYABLE = "payable"  # liability: what an organisation is owed
    PLATFORM_FEE = "platform_fee"  # revenue: our part


CHECKED = frozenset({AccountKind.WALLET, AccountKind.HELD})
"""Accounts whose balance the database keeps and never lets fall below zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One bucket: kind, owner ("" for the platform's own) and currency."""

    kind: AccountKind
    owner: str
    currency: str

    @property
    def code(self) -> str:
        """The account's unique name, e.g. `wallet:anna:INR`."""
        return f"{self.kind}:{self.owner}:{self.currency}"


UNKNOWN_USER = "unknown"
"""Owner of the receivable for energy that nobody has been found for yet."""


def wallet(user: UserId, currency: str) -> Account:
    """What a user can spend."""
    return Account(kind=AccountKind.WALLET, owner=user, currency=currency)


def held(user: UserId, currency: str) -> Account:
    """What a user has set aside for sessions that run or are asked for."""
    return Account(kind=AccountKind.HELD, owner=user, currency=currency)


def receivable(user: UserId | None, currency: str) -> Account:
    """What a user, or nobody known, used beyond what was paid."""
    return Account(kind=AccountKind.RECEIVABLE, owner=user or UNKNOWN_USER, currency=currency)


def payable(organization: OrganizationId, currency: str) -> Account:
    """What an organisation is owed."""
    return Account(kind=AccountKind.PAYABLE, owner=organization, currency=currency)


def platform_fee(currency: str) -> Account:
    """The platform's own revenue."""
    return Account(kind=AccountKind.PLATFORM_FEE, owner="", currency=currency)


def provider(currency: str) -> Account:
    """Money that came in from outside for top-ups."""
    return Account(kind=AccountKind.PROVIDER, owner="", currency=currency)
