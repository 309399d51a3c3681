"""Sessions, what was measured in them, and why their amounts are what they are."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from voltledger.services.catalog.views.base import View
from voltledger.services.catalog.views.books import EntryView, FindingView


class Session(View, frozen=True, kw_only=True):
    """One visit, with the members that the contract names.

    cost, fee and share are settled ones when `settled_at` is set; before that what they would be now.
    """

    id: UUID
    status: str
    station: str
    connector: int
    user: str | None
    transaction_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    stop_reason: str | None
    energy_wh: int
    paid_minor: int
    cost_minor: int
    refund_minor: int
    fee_minor: int
    share_minor: int
    currency: str
    estimated: bool
    settled_at: datetime | None


class SessionRow(View, frozen=True, kw_only=True):
    """A session with everything that a page shows of it."""

    id: UUID
    status: str
    station: str
    connector: int
    user: str | None
    transaction_id: str | None
    started_at: datetime | None
    ended_at: datetime | None
    stop_reason: str | None
    energy_wh: int
    paid_minor: int
    refunded_minor: int
    currency: str
    estimated: bool
    settled_at: datetime | None
    price_per_kwh_minor: Decimal
    fee_percent: Decimal
    power_w: float | None
    soc_percent: float | None
    heard_at: datetime | None
    created_at: datetime
    organization: str
    suspect: bool
    cost_minor: int | None
    fee_minor: int | None
    share_minor: int | None
    refund_minor: int | None
    owed_minor: int | None


class ReadingRow(View, frozen=True, kw_only=True):
    """What the meter said of one instant in one context."""

    at: datetime
    context: str
    register_wh: int | None
    power_w: float | None
    current_a: float | None
    soc_percent: float | None
    others: Mapping[str, Any] | None


class SettlementView(View, frozen=True, kw_only=True):
    """One settlement of a session: what was priced, and all versions' totals up to it."""

    version: int
    energy_wh: int
    price_per_kwh_minor: Decimal
    fee_percent: Decimal
    currency: str
    paid_minor: int
    cost_minor: int
    covered_minor: int
    refund_minor: int
    owed_minor: int
    fee_minor: int
    share_minor: int
    entry_id: int | None
    settled_at: datetime


class AskedOf(View, frozen=True, kw_only=True):
    """What we asked of a station for a session."""

    id: UUID
    action: str
    state: str
    created_at: datetime
    sent_at: datetime | None
    answered_at: datetime | None


class FactView(View, frozen=True, kw_only=True):
    """Something that the station reported of a session; `received_at` is our clock."""

    action: str
    state: str
    received_at: datetime
    repeats: int


class SessionStory(View, frozen=True, kw_only=True):
    """Why a session's amounts are what they are: the sentence, and everything behind it.

    `created_at`, `facts` and what follows are times of our clock; `started_at` and `ended_at` are the station's.
    """

    session: Session
    sentence: str
    created_at: datetime
    facts: list[FactView]
    settlements: list[SettlementView]
    entries: list[EntryView]
    findings: list[FindingView]
    commands: list[AskedOf]
