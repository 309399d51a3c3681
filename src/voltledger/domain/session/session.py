"""The charging session as the core sees it.

A msgspec Struct and not a dataclass: one is rebuilt for every meter reading, and replacing a
frozen dataclass of this size costs ten times as much (see ADR 0007).
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

import msgspec

from voltledger.domain.identifiers import (
    OrganizationId,
    SessionId,
    StationId,
    TokenValue,
    TransactionRef,
    UserId,
)
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.session.states import OPEN, RUNNING, State


class Origin(StrEnum):
    """How we came to know of a session."""

    PREPAID = "prepaid"  # through our API, money held first
    LOCAL = "local"  # the station started it for a token
    ORPHAN = "orphan"  # found by reconciliation


class ChargingSession(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of one vehicle, with the OCPP transaction in it.

    Units: *_wh whole Wh; *_minor minor units of price.currency; times aware UTC.
    `register_wh` is the last register believed, `energy_wh` the sum of believed steps since the
    start; paid_minor what was set aside for it, refunded_minor what of that settlements gave back and was not set
    aside again.
    `concluded`: its end was our conclusion. `estimated`: its energy may be less than the
    truth. `suspect`: evidence disagrees, so money waits for a person.
    """

    id: SessionId
    station_id: StationId
    evse_id: int
    connector_id: int
    state: State
    origin: Origin
    price: Price
    fee_percent: Decimal
    organization_id: OrganizationId
    created_at: datetime
    transaction_ref: TransactionRef | None = None
    start_key: bytes | None = None
    token: TokenValue | None = None
    user_id: UserId | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    meter_start_wh: Wh | None = None
    meter_stop_wh: Wh | None = None
    register_wh: Wh | None = None
    register_at: datetime | None = None
    energy_wh: Wh = Wh(0)
    power_w: Decimal | None = None
    soc_percent: Decimal | None = None
    heard_at: datetime | None = None
    paid_minor: Minor = Minor(0)
    refunded_minor: Minor = Minor(0)
    stop_reason: str | None = None
    concluded: bool = False
    estimated: bool = False
    suspect: bool = False
    id_confirmed: bool = False
    stop_requested_at: datetime | None = None
    stop_attempts: int = 0
    pending_until: datetime | None = None
    settle_version: int = 0

    @property
    def available_minor(self) -> Minor:
        """What may still be spent in this session."""
        return Minor(self.paid_minor - self.refunded_minor)

    @property
    def is_open(self) -> bool:
        """Whether anything may still happen to it in the ordinary course."""
        return self.state in OPEN

    @property
    def is_running(self) -> bool:
        """Whether we believe that the station charges."""
        return self.state in RUNNING
