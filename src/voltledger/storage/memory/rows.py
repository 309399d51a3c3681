"""Rows of the tables that have no domain value of their own; the columns are those of PostgreSQL."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec

from voltledger.domain.identifiers import OrganizationId, SessionId, StationId


class OrganizationRow(msgspec.Struct, kw_only=True, frozen=True):
    """`organization`; fee_percent None means the setting."""

    id: OrganizationId
    fee_percent: Decimal | None = None


class TariffRow(msgspec.Struct, kw_only=True, frozen=True):
    """`tariff`; the newest valid one of the nearest scope counts."""

    scope: str
    scope_id: str = ""
    currency: str
    price_per_kwh_minor: Decimal
    valid_from: datetime


class StationRow(msgspec.Struct, kw_only=True, frozen=True):
    """`station`."""

    id: StationId
    organization_id: OrganizationId = OrganizationId("default")
    status: str = "OFFLINE"
    derived_status: str = "OFFLINE"
    connectors: int = 1
    vendor: str = ""
    model: str = ""
    serial: str = ""
    firmware: str = ""
    booted_at: datetime | None = None
    last_seen_at: datetime | None = None
    out_of_order_since: datetime | None = None
    disabled: bool = False


class OwnerRow(msgspec.Struct, kw_only=True, frozen=True):
    """`station_owner`."""

    node: str
    epoch: int
    connected_at: datetime
    disconnected_at: datetime | None = None


class ConnectorRow(msgspec.Struct, kw_only=True, frozen=True):
    """`connector`."""

    station_id: StationId
    evse_id: int
    connector_id: int
    status: str
    raw_status: str
    error_code: str
    info: str
    occurred_at: datetime | None
    received_at: datetime
    since: datetime


class InboxRow(msgspec.Struct, kw_only=True, frozen=True):
    """`inbox`."""

    station_id: StationId
    dedupe_key: bytes
    action: str
    state: str
    session_id: SessionId | None
    epoch: int
    received_at: datetime
    response: str
    repeats: int = 0


class AccountRow(msgspec.Struct, kw_only=True, frozen=True):
    """`ledger_account`; `balance` is kept for wallets and held money only."""

    code: str
    kind: str
    owner: str
    currency: str
    balance: int | None


class EntryRow(msgspec.Struct, kw_only=True, frozen=True):
    """`ledger_entry`."""

    id: int
    kind: str
    source_id: str
    version: int
    session_id: SessionId | None
    reason: str


class PostingRow(msgspec.Struct, kw_only=True, frozen=True):
    """`ledger_posting`; `entry` is the key of its entry."""

    entry: tuple[str, str, int]
    line: int
    account: str
    side: str
    amount: int
    balance_after: int | None


class SettlementRow(msgspec.Struct, kw_only=True, frozen=True):
    """`settlement`; `entry` is the key of its entry."""

    session_id: SessionId
    version: int
    energy_wh: int
    price_per_kwh_minor: Decimal
    fee_percent: Decimal
    currency: str
    paid: int
    cost: int
    covered: int
    refund: int
    owed: int
    fee: int
    share: int
    entry: tuple[str, str, int] | None


class JobRow(msgspec.Struct, kw_only=True, frozen=True):
    """`job`."""

    id: int
    kind: str
    subject: str
    version: int
    run_after: datetime
    state: str = "waiting"
    attempts: int = 0
    last_error: str | None = None


class OutboxRow(msgspec.Struct, kw_only=True, frozen=True):
    """`outbox`."""

    effect_key: str
    target: str
    payload: str
    state: str = "waiting"


class CommandRow(msgspec.Struct, kw_only=True, frozen=True):
    """`command`."""

    id: UUID
    station_id: StationId
    effect_key: str | None
    session_id: UUID | None
    neutral: bool
    action: str
    payload: str
    state: str
    number: int
    expires_at: datetime
    epoch: int | None = None
    response: str | None = None
    sent_at: datetime | None = None


class FindingRow(msgspec.Struct, kw_only=True, frozen=True):
    """`finding`."""

    kind: str
    key: str
    state: str
    station_id: str
    evse_id: int | None
    session_id: SessionId | None
    summary: str
    evidence: dict[str, str]


class FeedRow(msgspec.Struct, kw_only=True, frozen=True):
    """`feed`."""

    kind: str
    station_id: StationId | None
    session_id: SessionId | None
    payload: str
