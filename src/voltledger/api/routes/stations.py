"""Stations: what is recorded and what is live side by side, the recorded conversation, and commands."""

import secrets
from typing import Annotated, Any

import msgspec
from litestar import Response, get, patch, post, put
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from voltledger.api.idempotency import once
from voltledger.api.inputs import (
    AvailabilityCommand,
    ClearCacheCommand,
    ConfigurationCommand,
    NewPassword,
    NewStation,
    ResetCommand,
    StartCommand,
    StationChange,
    StopCommand,
    TriggerCommand,
    UnlockCommand,
    VariableChange,
)
from voltledger.api.problems import NotConnected, SchemaProblem
from voltledger.api.wire import AnyRequest, compact, runtime_of
from voltledger.domain.commands import (
    ChangeAvailability,
    ClearTokenCache,
    Command,
    ReadConfiguration,
    ResetKind,
    ResetStation,
    StartCharging,
    StopCharging,
    TriggerReport,
    UnlockConnector,
    WriteConfiguration,
)
from voltledger.domain.errors import InvalidInput, NotPossibleNow
from voltledger.domain.identifiers import StationId, TransactionRef, normal_token
from voltledger.services.catalog import Frame, Page, Station, StationAdded, Tariff
from voltledger.services.runtime import CallOutcome, ConnectionInfo

Limit = Annotated[int, QueryParameter(ge=1, le=500)]
Timeout = Annotated[float | None, QueryParameter(gt=0, le=600)]


class StationNow(Station, frozen=True, kw_only=True):
    """A station as recorded, and beside it what is true of its socket now."""

    connected: bool
    connection: ConnectionInfo | None
    tariff: Tariff | None = None


def _now(request: AnyRequest, station: Station, tariff: Tariff | None = None) -> StationNow:
    connection = runtime_of(request).presence.connected().get(station.id)
    recorded = {name: getattr(station, name) for name in station.__struct_fields__}
    return StationNow(**recorded, connected=connection is not None, connection=connection, tariff=tariff)


@get("/stations", summary="List stations, recorded and live side by side")
async def list_stations(
    request: AnyRequest,
    status: FromQuery[str | None] = None,
    organization: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[StationNow]:
    """Stations by id."""
    page = await runtime_of(request).catalog.stations(
        status=status, organization=organization, cursor=cursor, limit=limit
    )
    return Page(items=[_now(request, s) for s in page.items], next_cursor=page.next_cursor)


@post("/stations", summary="Register a station")
async def add_station(request: AnyRequest, data: JSONBody[NewStation]) -> StationAdded:
    """The password is answered this once; only its hash is kept."""
    return await runtime_of(request).catalog.add_station(**msgspec.structs.asdict(data))


@get("/stations/{station_id:str}", summary="Show a station")
async def show_station(request: AnyRequest, station_id: FromPath[str]) -> StationNow:
    """Three truths a connector: the socket, what the station says, our session."""
    catalog = runtime_of(request).catalog
    station = await catalog.station(station_id)
    return _now(request, station, await catalog.tariff_of_station(station_id))


@patch("/stations/{station_id:str}", summary="Change or disable a station")
async def change_station(request: AnyRequest, station_id: FromPath[str], data: JSONBody[StationChange]) -> StationNow:
    """What is not given stays as it is. A station that is disabled loses its connection at once."""
    runtime = runtime_of(request)
    changed = await runtime.catalog.change_station(station_id, **msgspec.structs.asdict(data))
    if data.disabled:
        await runtime.presence.close_station(StationId(changed.id), "disabled")
    return _now(request, changed)


@post("/stations/{station_id:str}/password", summary="Give a station another password", status_code=200)
async def set_password(
    request: AnyRequest, station_id: FromPath[str], data: JSONBody[NewPassword | None] = None
) -> StationAdded:
    """It counts from the station's next connection on, and is answered this once."""
    return await runtime_of(request).catalog.set_station_password(station_id, password=data.password if data else None)


@get("/stations/{station_id:str}/frames", summary="The recorded conversation, both ways")
async def list_frames(
    request: AnyRequest,
    station_id: FromPath[str],
    action: FromQuery[str | None] = None,
    text: FromQuery[str | None] = None,
    cursor: FromQuery[str | None] = None,
    limit: Limit = 50,
) -> Page[Frame]:
    """Newest first; `text` finds frames whose payload holds it."""
    return await runtime_of(request).catalog.frames(station_id, action=action, text=text, cursor=cursor, limit=limit)


@post("/stations/{station_id:str}/calls/{action:str}", summary="Send a raw OCPP call", status_code=200)
async def call(
    request: AnyRequest, station_id: FromPath[str], action: FromPath[str], timeout_s: Timeout = None
) -> Response[CallOutcome]:
    """The payload goes out as it is, without blanks between its parts, if its schema accepts it.

    200 for whatever becomes of it; 409 when the station is not connected.
    """
    runtime = runtime_of(request)
    payload = _payload(await request.body())

    async def effect() -> CallOutcome:
        await runtime.catalog.station(station_id)
        wrong = runtime.commands.check(station_id, action, payload.encode())
        if wrong is not None:
            raise SchemaProblem(wrong)
        return _connected(station_id, await runtime.commands.call(station_id, action, payload, timeout_s=timeout_s))

    return await once(request, effect, status=200)


def _payload(body: bytes) -> str:
    """The body as compact JSON text. Raises: InvalidInput unless it is one JSON object."""
    try:
        text = body.decode() or "{}"
        value: Any = msgspec.json.decode(text)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        raise InvalidInput("body", "must be one JSON object") from None
    if not isinstance(value, dict):
        raise InvalidInput("body", "must be one JSON object")
    return compact(text)


def _connected(station_id: str, outcome: CallOutcome) -> CallOutcome:
    if outcome.outcome == "not_connected":
        raise NotConnected(station_id, outcome)
    return outcome


async def _send(
    request: AnyRequest, station_id: str, command: Command, timeout_s: float | None
) -> Response[CallOutcome]:
    runtime = runtime_of(request)

    async def effect() -> CallOutcome:
        await runtime.catalog.station(station_id)
        return _connected(station_id, await runtime.commands.command(station_id, command, timeout_s=timeout_s))

    return await once(request, effect, status=200)


@post("/stations/{station_id:str}/commands/start", summary="Start a transaction", status_code=200)
async def command_start(
    request: AnyRequest, station_id: FromPath[str], data: JSONBody[StartCommand], timeout_s: Timeout = None
) -> Response[CallOutcome]:
    """Without payment first; for a prepaid session use `POST /sessions`."""
    command = StartCharging(
        token=normal_token(data.token),
        evse_id=data.connector,
        remote_start_id=secrets.randbelow(2**31 - 1) + 1,
    )
    return await _send(request, station_id, command, timeout_s)


@post("/stations/{station_id:str}/commands/stop", summary="End a transaction", status_code=200)
async def command_stop(
    request: AnyRequest, station_id: FromPath[str], data: JSONBody[StopCommand], timeout_s: Timeout = None
) -> Response[CallOutcome]:
    """Name it by `transaction_id` or by `session`."""
    if (data.transaction_id is None) == (data.session is None):
        raise InvalidInput("transaction_id", "must be given, or `session` instead of it")
    ref = data.transaction_id
    if data.session is not None:
        session = await runtime_of(request).catalog.session(data.session)
        if session.station != station_id:
            raise InvalidInput("session", f"is at station {session.station}")
        if session.transaction_id is None:
            raise NotPossibleNow("the session has no transaction yet")
        ref = session.transaction_id
    return await _send(request, station_id, StopCharging(transaction_ref=TransactionRef(ref or "")), timeout_s)


@post("/stations/{station_id:str}/commands/reset", summary="Restart the station", status_code=200)
async def command_reset(
    request: AnyRequest,
    station_id: FromPath[str],
    data: JSONBody[ResetCommand | None] = None,
    timeout_s: Timeout = None,
) -> Response[CallOutcome]:
    """Soft lets it finish; Hard does not."""
    return await _send(request, station_id, ResetStation(kind=ResetKind(data.kind if data else "Soft")), timeout_s)


@post("/stations/{station_id:str}/commands/unlock", summary="Free a plug that is held", status_code=200)
async def command_unlock(
    request: AnyRequest, station_id: FromPath[str], data: JSONBody[UnlockCommand], timeout_s: Timeout = None
) -> Response[CallOutcome]:
    """A running transaction ends by it."""
    return await _send(request, station_id, UnlockConnector(evse_id=data.connector), timeout_s)


@post("/stations/{station_id:str}/commands/availability", summary="Into or out of service", status_code=200)
async def command_availability(
    request: AnyRequest,
    station_id: FromPath[str],
    data: JSONBody[AvailabilityCommand],
    timeout_s: Timeout = None,
) -> Response[CallOutcome]:
    """Connector 0 is the whole station."""
    command = ChangeAvailability(evse_id=data.connector, operative=data.operative)
    return await _send(request, station_id, command, timeout_s)


@post("/stations/{station_id:str}/commands/trigger", summary="Ask for a message now", status_code=200)
async def command_trigger(
    request: AnyRequest, station_id: FromPath[str], data: JSONBody[TriggerCommand], timeout_s: Timeout = None
) -> Response[CallOutcome]:
    """BootNotification, StatusNotification, MeterValues, Heartbeat."""
    command = TriggerReport(message=data.message, evse_id=data.connector)
    return await _send(request, station_id, command, timeout_s)


@post("/stations/{station_id:str}/commands/clear-cache", summary="Forget remembered tokens", status_code=200)
async def command_clear_cache(
    request: AnyRequest,
    station_id: FromPath[str],
    data: JSONBody[ClearCacheCommand | None] = None,
    timeout_s: Timeout = None,
) -> Response[CallOutcome]:
    """The tokens that the station remembers for use without a connection."""
    return await _send(request, station_id, ClearTokenCache(), timeout_s)


@post("/stations/{station_id:str}/commands/configuration", summary="Read or set settings", status_code=200)
async def command_configuration(
    request: AnyRequest,
    station_id: FromPath[str],
    data: JSONBody[ConfigurationCommand],
    timeout_s: Timeout = None,
) -> Response[CallOutcome]:
    """`keys` reads, all of them when empty; `key` and `value` set one."""
    return await _send(request, station_id, _configuration(data), timeout_s)


def _configuration(data: JSONBody[ConfigurationCommand]) -> Command:
    if data.key is None and data.value is None:
        return ReadConfiguration(keys=tuple(data.keys or ()))
    if data.keys is not None:
        raise InvalidInput("keys", "cannot be given together with key and value")
    if data.key is None or data.value is None:
        raise InvalidInput("value" if data.value is None else "key", "must be given with the other one")
    return WriteConfiguration(key=data.key, value=data.value)


@get("/stations/{station_id:str}/variables", summary="Read a station's settings from it")
async def read_variables(
    request: AnyRequest,
    station_id: FromPath[str],
    key: FromQuery[list[str] | None] = None,
    timeout_s: Timeout = None,
) -> Response[CallOutcome]:
    """Asks the station now; `key` may be given several times."""
    return await _send(request, station_id, ReadConfiguration(keys=tuple(key or ())), timeout_s)


@put("/stations/{station_id:str}/variables", summary="Set one of a station's settings")
async def write_variable(
    request: AnyRequest, station_id: FromPath[str], data: JSONBody[VariableChange], timeout_s: Timeout = None
) -> Response[CallOutcome]:
    """Asks the station now."""
    return await _send(request, station_id, WriteConfiguration(key=data.key, value=data.value), timeout_s)


HANDLERS = (
    list_stations,
    add_station,
    show_station,
    change_station,
    set_password,
    list_frames,
    call,
    command_start,
    command_stop,
    command_reset,
    command_unlock,
    command_availability,
    command_trigger,
    command_clear_cache,
    command_configuration,
    read_variables,
    write_variable,
)
