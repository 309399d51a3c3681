"""Accounts and entries, the findings, and the sums of the first page."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from voltledger.services.catalog.views.base import View


class AccountView(View, frozen=True, kw_only=True):
    """A bucket of money; the balance grows on the side that is natural for its kind."""

    code: str
    kind: str
    owner: str
    currency: str
    balance_minor: int
    created_at: datetime


class PostingView(View, frozen=True, kw_only=True):
    """One line of an entry."""

    entry_id: int
    line: int
    account: str
    side: str
    amount_minor: int
    currency: str
    balance_after: int | None


class EntryView(View, frozen=True, kw_only=True):
    """One balanced journal record with its lines."""

    id: int
    kind: str
    source: str
    version: int
    session: UUID | None
    reason: str
    recorded_at: datetime
    postings: list[PostingView] = msgspec.field(default_factory=list)


class FindingView(View, frozen=True, kw_only=True):
    """A reason to doubt data, or something repaired, with its evidence."""

    id: int
    kind: str
    state: str
    station: str
    evse: int | None
    session: UUID | None
    summary: str
    evidence: Mapping[str, Any]
    found_at: datetime
    closed_at: datetime | None


class Counts(View, frozen=True, kw_only=True):
    """How much there is of everything that the first page shows."""

    stations: int
    sessions_active: int
    sessions_pending: int
    sessions_unsettled: int
    findings_open: int


class MoneyOf(View, frozen=True, kw_only=True):
    """Where the money of one currency is."""

    currency: str
    wallets_minor: int
    held_minor: int
    fees_minor: int
    payable_minor: int
    receivable_minor: int
    received_minor: int
    refunded_minor: int = 0

    @property
    def unexplained_minor(self) -> int:
        """What came in or is owed to us, less what we owe and earned: zero in books that balance."""
        have = self.received_minor + self.receivable_minor
        owe = self.wallets_minor + self.held_minor + self.fees_minor + self.payable_minor
        return have - owe


class Refunded(View, frozen=True, kw_only=True):
    """What has gone back to the drivers in one currency."""

    currency: str
    refunded_minor: int


class FindingCount(View, frozen=True, kw_only=True):
    """How many findings of a class are in a state."""

    kind: str
    state: str
    count: int


class LoopRun(View, frozen=True, kw_only=True):
    """The newest run of a periodic loop."""

    name: str
    last_run: datetime
    duration_s: float | None
    outcome: str | None


class Overview(View, frozen=True, kw_only=True):
    """Everything that the first page shows at once."""

    counts: Counts
    power_w: float
    money: list[MoneyOf]
    findings: list[FindingCount]
    loops: list[LoopRun]
