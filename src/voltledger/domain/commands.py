"""What we ask of a station, imperative, in words that hold for every OCPP version."""

from dataclasses import dataclass
from enum import StrEnum

from voltledger.domain.identifiers import TokenValue, TransactionRef


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCharging:
    """Start a transaction for a token. evse_id None lets the station choose."""

    token: TokenValue
    evse_id: int | None
    remote_start_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCharging:
    """End a transaction."""

    transaction_ref: TransactionRef


class ResetKind(StrEnum):
    """How hard a station restarts."""

    SOFT = "Soft"
    HARD = "Hard"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetStation:
    """Restart the station."""

    kind: ResetKind


@dataclass(frozen=True, slots=True, kw_only=True)
class UnlockConnector:
    """Free a plug that is held."""

    evse_id: int
    connector_id: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeAvailability:
    """Take an EVSE (0: the station) into or out of service."""

    evse_id: int
    operative: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerReport:
    """Ask for a message now: BootNotification, StatusNotification, MeterValues, Heartbeat."""

    message: str
    evse_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearTokenCache:
    """Forget the tokens remembered for use without a connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadConfiguration:
    """Read named settings, or all of them when `keys` is empty."""

    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteConfiguration:
    """Set one setting."""

    key: str
    value: str


Command = (
    StartCharging
    | StopCharging
    | ResetStation
    | UnlockConnector
    | ChangeAvailability
    | TriggerReport
    | ClearTokenCache
    | ReadConfiguration
    | WriteConfiguration
)
