"""What a connector's reported status means, and what a station's status follows from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from voltledger.domain.events import ConnectorStatus, StatusReported

FRESH = timedelta(seconds=60)
"""A report that arrives within this time of its own timestamp is news, whatever came before."""

DRAWING = frozenset({ConnectorStatus.CHARGING, ConnectorStatus.SUSPENDED_EV, ConnectorStatus.SUSPENDED_EVSE})
"""Statuses that only a running transaction has."""

BUSY = DRAWING | {ConnectorStatus.OCCUPIED, ConnectorStatus.PREPARING, ConnectorStatus.FINISHING}


class StationStatus(StrEnum):
    """A charge point's status, in the words of the user's document."""

    AVAILABLE = "AVAILABLE"
    OCCUPIED = "OCCUPIED"
    RESERVED = "RESERVED"
    UNAVAILABLE = "UNAVAILABLE"
    OUT_OF_ORDER = "OUT_OF_ORDER"
    OFFLINE = "OFFLINE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorRecord:
    """The last believed report of one connector; evse_id 0 is the station as a whole."""

    evse_id: int
    connector_id: int
    status: ConnectorStatus
    occurred_at: datetime | None
    received_at: datetime


def is_stale(recorded: ConnectorRecord | None, report: StatusReported, received_at: datetime) -> bool:
    """Whether a report tells of a time before the recorded one, as replays after an offline time do.

    A report close to its receipt is never stale: a station whose clock was set back must be heard.
    """
    if recorded is None or recorded.occurred_at is None or report.at is None or report.at.suspect:
        return False
    return report.at.at < recorded.occurred_at and received_at - report.at.at > FRESH


def station_status(
    connectors: Iterable[ConnectorRecord], *, connected: bool, out_of_order: bool, sessions_running: bool
) -> StationStatus:
    """The one status of a charge point, from its connectors; connector 0 speaks for the whole."""
    if out_of_order:
        return StationStatus.OUT_OF_ORDER
    if not connected:
        return StationStatus.OFFLINE
    records = list(connectors)
    whole = {record.status for record in records if record.evse_id == 0}
    parts = [record.status for record in records if record.evse_id != 0]
    if ConnectorStatus.UNAVAILABLE in whole:
        return StationStatus.UNAVAILABLE
    if ConnectorStatus.FAULTED in whole:
        return StationStatus.OUT_OF_ORDER
    if sessions_running or any(status in BUSY for status in parts):
        return StationStatus.OCCUPIED
    if parts and all(status is ConnectorStatus.FAULTED for status in parts):
        return StationStatus.OUT_OF_ORDER
    if parts and all(status in (ConnectorStatus.UNAVAILABLE, ConnectorStatus.FAULTED) for status in parts):
        return StationStatus.UNAVAILABLE
    if any(status is ConnectorStatus.RESERVED for status in parts):
        return StationStatus.RESERVED
    return StationStatus.AVAILABLE
