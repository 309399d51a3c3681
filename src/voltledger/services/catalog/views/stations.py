"""Stations, their connectors, and what was said on the wire."""

from datetime import datetime
from uuid import UUID

import msgspec

from voltledger.services.catalog.views.base import View


class OpenSession(View, frozen=True, kw_only=True):
    """A session that is not over, beside the connector it is on."""

    id: UUID
    station_id: str
    evse: int
    status: str
    user: str | None
    started_at: datetime | None
    created_at: datetime
    energy_wh: int
    power_w: float | None
    heard_at: datetime | None


class Connector(View, frozen=True, kw_only=True):
    """What a station last said of a connector, and our open session there. Connector 0 is the station."""

    station_id: str
    evse: int
    connector: int
    status: str
    raw_status: str
    error_code: str
    info: str
    occurred_at: datetime | None
    received_at: datetime
    since: datetime
    session: OpenSession | None = None


class Station(View, frozen=True, kw_only=True):
    """A station as recorded. `status` is the charge point status of the user's document."""

    id: str
    organization: str
    status: str
    security_profile: int
    ocpp_versions: list[str]
    connector_count: int
    vendor: str
    model: str
    serial: str
    firmware: str
    booted_at: datetime | None
    last_seen_at: datetime | None
    out_of_order_since: datetime | None
    disabled_at: datetime | None
    created_at: datetime
    connectors: list[Connector] = msgspec.field(default_factory=list)
    sessions: list[OpenSession] = msgspec.field(default_factory=list)


class StationAdded(View, frozen=True, kw_only=True):
    """A new station, or one with a new password, which is shown this once."""

    id: str
    url: str
    password: str | None


class Frame(View, frozen=True, kw_only=True):
    """One message as it was on the wire; kind 2 CALL, 3 CALLRESULT, 4 CALLERROR."""

    id: int
    from_station: bool
    kind: int
    action: str
    message_id: str
    payload: str
    at: datetime
