"""What a station told us, in words that hold for every OCPP version, past tense.

The wire layer builds these; services hand them to the core. An event carries the station's own
time where it gave a plausible one (`occurred_at`), else the time of receipt, and says which.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from voltledger.domain.identifiers import TokenValue, TransactionRef
from voltledger.domain.quantities import Wh


class ConnectorStatus(StrEnum):
    """What a station reports of one connector; the union of all versions' words."""

    AVAILABLE = "Available"
    OCCUPIED = "Occupied"
    PREPARING = "Preparing"
    CHARGING = "Charging"
    SUSPENDED_EV = "SuspendedEV"
    SUSPENDED_EVSE = "SuspendedEVSE"
    FINISHING = "Finishing"
    RESERVED = "Reserved"
    UNAVAILABLE = "Unavailable"
    FAULTED = "Faulted"
    UNKNOWN = "Unknown"


class EndReason(StrEnum):
    """Why a transaction ended, as the station says; the union of all versions' words."""

    LOCAL = "Local"
    REMOTE = "Remote"
    EV_DISCONNECTED = "EVDisconnected"
    DE_AUTHORIZED = "DeAuthorized"
    EMERGENCY_STOP = "EmergencyStop"
    HARD_RESET = "HardReset"
    SOFT_RESET = "SoftReset"
    IMMEDIATE_RESET = "ImmediateReset"
    POWER_LOSS = "PowerLoss"
    POWER_QUALITY = "PowerQuality"
    REBOOT = "Reboot"
    UNLOCK_COMMAND = "UnlockCommand"
    ENERGY_LIMIT = "EnergyLimitReached"
    TIME_LIMIT = "TimeLimitReached"
    SOC_LIMIT = "SOCLimitReached"
    COST_LIMIT = "CostLimitReached"
    STOPPED_BY_EV = "StoppedByEV"
    GROUND_FAULT = "GroundFault"
    OVERCURRENT = "OvercurrentFault"
    TIMEOUT = "Timeout"
    MASTER_PASS = "MasterPass"
    OTHER = "Other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """A time from a station, made safe.

    `at` is aware and UTC: the station's time if it lies in the sane window, else the time of
    receipt, and then `suspect` is true and `text` keeps what the station wrote.
    """

    at: datetime
    suspect: bool = False
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Everything one meter said of one instant in one context.

    Units: register_wh the cumulative import register in whole Wh; power_w, current_a, soc_percent
    exact as sent; `others` the remaining samples (measurand with phase -> text as sent).
    Absent is None, never zero.
    """

    at: Instant
    context: str = "Sample.Periodic"
    register_wh: Wh | None = None
    power_w: Decimal | None = None
    current_a: Decimal | None = None
    soc_percent: Decimal | None = None
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Booted:
    """The station started, or was asked to introduce itself."""

    vendor: str
    model: str
    serial: str = ""
    firmware: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReported:
    """A connector's status; evse_id 0 is the station as a whole."""

    evse_id: int
    connector_id: int
    status: ConnectorStatus
    raw_status: str
    error_code: str = "NoError"
    info: str = ""
    at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionStarted:
    """Energy may flow for a token.

    `transaction_ref` is None where the central system names the transaction (1.6).
    """

    evse_id: int
    connector_id: int
    token: TokenValue | None
    at: Instant
    register_wh: Wh | None
    transaction_ref: TransactionRef | None = None
    reservation_id: int | None = None
    readings: tuple[Reading, ...] = ()
    seq_no: int | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterReported:
    """Meter readings, inside a transaction or not.

    `transaction_ref` is None when the station named none, or named one that means none (0, -1).
    """

    evse_id: int | None
    transaction_ref: TransactionRef | None
    readings: tuple[Reading, ...]
    seq_no: int | None = None
    charging: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEnded:
    """A report that a transaction is over; it already happened and cannot be refused.

    `transaction_ref` is None when the station does not know it (0, -1); `evse_id` is None in 1.6.
    """

    transaction_ref: TransactionRef | None
    at: Instant
    register_wh: Wh | None
    reason: EndReason = EndReason.LOCAL
    token: TokenValue | None = None
    evse_id: int | None = None
    readings: tuple[Reading, ...] = ()
    seq_no: int | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FactUnreadable:
    """A transaction message that could not be read even tolerantly: kept raw, answered, quarantined."""

    action: str
    problem: str


TransactionFact = TransactionStarted | MeterReported | TransactionEnded | FactUnreadable
"""Facts that a station must not lose and that we must not answer before they are recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReceived:
    """The station is there and wants to know the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationAsked:
    """May this token charge here?"""

    token: TokenValue


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReceived:
    """A vendor's own message."""

    vendor_id: str
    message_id: str = ""
    data: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeReceived:
    """A message that is recorded and acknowledged and decides nothing yet (firmware, log, security)."""

    action: str


StationEvent = (
    Booted
    | StatusReported
    | TransactionStarted
    | MeterReported
    | TransactionEnded
    | FactUnreadable
    | HeartbeatReceived
    | AuthorizationAsked
    | DataReceived
    | NoticeReceived
)


class AuthorizationStatus(StrEnum):
    """What we answer about a token."""

    ACCEPTED = "Accepted"
    BLOCKED = "Blocked"
    EXPIRED = "Expired"
    INVALID = "Invalid"
    CONCURRENT_TX = "ConcurrentTx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """Our decision about a token, before it takes the shape of a version."""

    status: AuthorizationStatus
    group: str | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the core decided to tell the station; the wire layer gives it its shape.

    Only the members that the message's answer has are read. `at` is the server's time.
    """

    at: datetime
    transaction_ref: TransactionRef | None = None
    authorization: Authorization | None = None
    heartbeat_s: int = 300
    accepted: bool = True
