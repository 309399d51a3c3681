"""The Core profile of OCPP 1.6: transactions, status, configuration.

Connector n of 1.6 is connector 1 of EVSE n; connector 0 is the station as a whole (EVSE 0,
connector 0). The central system names transactions: a transaction id of 0 or less names none.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from voltledger.domain import commands
from voltledger.domain.errors import InvariantBroken
from voltledger.domain.events import (
    Answer,
    Authorization,
    AuthorizationAsked,
    AuthorizationStatus,
    Booted,
    ConnectorStatus,
    DataReceived,
    EndReason,
    FactUnreadable,
    HeartbeatReceived,
    MeterReported,
    StationEvent,
    StatusReported,
    TransactionEnded,
    TransactionStarted,
)
from voltledger.domain.identifiers import TokenValue, TransactionRef, normal_token
from voltledger.ocpp.action import Delivery, FromStation, ToStation, Unsupported
from voltledger.ocpp.clock import instant, utc
from voltledger.ocpp.text import stored
from voltledger.ocpp.v16 import types
from voltledger.ocpp.v16.metering import readings, register

TOKEN_LIMIT: Final = 20
"""Characters of an idTag that we send; stations may send more."""

_INT32: Final = 2**31 - 1
_STATUSES: Final[Mapping[str, ConnectorStatus]] = {s.value.casefold(): s for s in ConnectorStatus}
_REASONS: Final[Mapping[str, EndReason]] = {r.value.casefold(): r for r in EndReason}


# Identifiers.


def connector_of(connector_id: int | None) -> int | None:
    """A connector's number if it can be one; None if the station gave none that fits."""
    return connector_id if connector_id is not None and abs(connector_id) <= _INT32 else None


def place(connector_id: int) -> tuple[int, int]:
    """EVSE and connector of a 1.6 connector."""
    return connector_id, 0 if connector_id == 0 else 1


def transaction_ref(transaction_id: int | None) -> TransactionRef | None:
    """The transaction that an id names; 0 and less name none (quirks 36, 37)."""
    if transaction_id is None or not 0 < transaction_id < 10**18:
        return None
    return TransactionRef(str(transaction_id))


def token_of(id_tag: str | None) -> TokenValue | None:
    """A token as compared; an empty one is none. One that is too long is kept (quirk 40)."""
    return normal_token(stored(id_tag)) or None if id_tag else None


# Identities: what makes two requests the same fact.


def start_identity(request: types.StartTransactionRequest) -> object:
    """OCPP 1.6 names no transaction before the answer: connector, token, time, register, reservation."""
    return [
        request.connector_id,
        request.id_tag,
        _utc(request.timestamp),
        request.meter_start,
        request.reservation_id or None,
    ]


def stop_identity(request: types.StopTransactionRequest) -> object:
    """The whole content, each time as a moment."""
    data = request.transaction_data
    if _is_utc(request.timestamp) and all(_is_utc(value.timestamp) for value in data or ()):
        return request
    return msgspec.structs.replace(
        request,
        timestamp=_utc(request.timestamp),
        transaction_data=None if data is None else [_with_utc(value) for value in data],
    )


def meter_identity(request: types.MeterValuesRequest) -> object:
    """The whole content, each time as a moment."""
    values = request.meter_value or ()
    for value in values:
        if not _is_utc(value.timestamp):
            moments = [msgspec.structs.replace(v, timestamp=_utc(v.timestamp)) for v in values]
            return msgspec.structs.replace(request, meter_value=moments)
    return request


def _is_utc(value: datetime | None) -> bool:
    return value is None or value.tzinfo is UTC


def _with_utc(value: types.TransactionData) -> types.TransactionData:
    return msgspec.structs.replace(value, timestamp=_utc(value.timestamp))


def _utc(value: datetime | None) -> datetime:
    """As typed for a Struct; a time that is missing stays missing."""
    return value if value is None else utc(value)  # type: ignore[return-value]


# Requests of stations.


def booted(request: types.BootNotificationRequest, received_at: datetime) -> Booted:
    """The station introduces itself."""
    serial = request.charge_point_serial_number or request.charge_box_serial_number
    return Booted(
        vendor=stored(request.charge_point_vendor),
        model=stored(request.charge_point_model),
        serial=stored(serial),
        firmware=stored(request.firmware_version),
    )


def boot_answer(event: StationEvent, answer: Answer) -> types.BootNotificationResponse:
    """Whether the station is served, what time it is and how often to call."""
    accepted = types.BootNotificationResponseStatus.ACCEPTED
    rejected = types.BootNotificationResponseStatus.REJECTED
    return types.BootNotificationResponse(
        status=accepted if answer.accepted else rejected,
        current_time=answer.at,
        interval=answer.heartbeat_s,
    )


def status_reported(request: types.StatusNotificationRequest, received_at: datetime) -> StatusReported:
    """A connector's status; a word that is none is kept as text and means unknown."""
    evse_id, connector_id = place(connector_of(request.connector_id) or 0)
    status = str(request.status)
    return StatusReported(
        evse_id=evse_id,
        connector_id=connector_id,
        status=_STATUSES.get(status.strip().casefold(), ConnectorStatus.UNKNOWN),
        raw_status=stored(status, 255),
        error_code=stored(str(request.error_code), 255),
        info=stored(request.info or request.vendor_error_code),
        at=None if request.timestamp is None else instant(request.timestamp, received_at),
    )


def heartbeat(request: types.HeartbeatRequest, received_at: datetime) -> HeartbeatReceived:
    """The station is there."""
    return HeartbeatReceived()


def heartbeat_answer(event: StationEvent, answer: Answer) -> types.HeartbeatResponse:
    """The time."""
    return types.HeartbeatResponse(current_time=answer.at)


def authorization_asked(request: types.AuthorizeRequest, received_at: datetime) -> AuthorizationAsked:
    """May this token charge?"""
    return AuthorizationAsked(token=normal_token(stored(request.id_tag)))


def id_tag_info(authorization: Authorization | None) -> types.IdTagInfo:
    """What a station is told about a token; no decision is no permission."""
    if authorization is None:
        authorization = Authorization(status=AuthorizationStatus.INVALID)
    group = authorization.group
    return types.IdTagInfo(
        status=types.IdTagInfoStatus(authorization.status.value),
        parent_id_tag=group if group and len(group) <= TOKEN_LIMIT else None,
        expiry_date=authorization.expires_at,
    )


def authorize_answer(event: StationEvent, answer: Answer) -> types.AuthorizeResponse:
    """The decision about a token."""
    return types.AuthorizeResponse(id_tag_info=id_tag_info(answer.authorization))


def transaction_started(
    request: types.StartTransactionRequest, received_at: datetime
) -> TransactionStarted | FactUnreadable:
    """Energy may flow. Without a connector nobody knows where, so that cannot be read."""
    connector = connector_of(request.connector_id)
    if connector is None:
        return FactUnreadable(action="StartTransaction", problem="connectorId cannot be read")
    evse_id, connector_id = place(connector)
    return TransactionStarted(
        evse_id=evse_id,
        connector_id=connector_id,
        token=token_of(request.id_tag),
        at=instant(request.timestamp, received_at),
        register_wh=register(request.meter_start),
        reservation_id=connector_of(request.reservation_id) or None,
    )


def start_answer(event: StationEvent, answer: Answer) -> types.StartTransactionResponse:
    """The transaction's name, which every start gets, whatever is decided about the token (§4.8)."""
    if answer.transaction_ref is None:
        raise InvariantBroken("a StartTransaction was decided without a transaction id")
    return types.StartTransactionResponse(
        transaction_id=int(answer.transaction_ref),
        id_tag_info=id_tag_info(answer.authorization),
    )


def meter_reported(request: types.MeterValuesRequest, received_at: datetime) -> MeterReported | FactUnreadable:
    """Readings of a connector; without a connector and without values there is nothing to keep."""
    evse_id = connector_of(request.connector_id)
    values = request.meter_value
    if evse_id is None and not values:
        return FactUnreadable(action="MeterValues", problem="neither connectorId nor meterValue can be read")
    return MeterReported(
        evse_id=evse_id,
        transaction_ref=transaction_ref(request.transaction_id),
        readings=readings(values or (), received_at),
    )


def meter_answer(event: StationEvent, answer: Answer) -> types.MeterValuesResponse:
    """Received."""
    return types.MeterValuesResponse()


def transaction_ended(
    request: types.StopTransactionRequest, received_at: datetime
) -> TransactionEnded | FactUnreadable:
    """A transaction is over. Whatever of it can be read is kept; nothing at all is no report."""
    known = (request.transaction_id, request.meter_stop, request.timestamp)
    if all(part is None for part in known):
        problem = "neither transactionId nor meterStop nor timestamp can be read"
        return FactUnreadable(action="StopTransaction", problem=problem)
    return TransactionEnded(
        transaction_ref=transaction_ref(request.transaction_id),
        at=instant(request.timestamp, received_at),
        register_wh=register(request.meter_stop),
        reason=end_reason(request.reason),
        token=token_of(request.id_tag),
        readings=readings(request.transaction_data or (), received_at),
    )


def end_reason(reason: str | None) -> EndReason:
    """No reason means Local (§6.49); a word that is none means another reason."""
    if reason is None:
        return EndReason.LOCAL
    return _REASONS.get(reason.casefold(), EndReason.OTHER)


def stop_answer(event: StationEvent, answer: Answer) -> types.StopTransactionResponse:
    """Received, and the decision about the token if the report names one (§6.50)."""
    named = isinstance(event, TransactionEnded) and event.token is not None
    if answer.authorization is None or not named:
        return types.StopTransactionResponse()
    return types.StopTransactionResponse(id_tag_info=id_tag_info(answer.authorization))


def data_received(request: types.DataTransferRequest, received_at: datetime) -> DataReceived:
    """A vendor's own message."""
    return DataReceived(
        vendor_id=stored(request.vendor_id),
        message_id=stored(request.message_id),
        data=stored(request.data),
    )


def data_answer(event: StationEvent, answer: Answer) -> types.DataTransferResponse:
    """No vendor is known yet; a blanket Accepted could be taken for an approval (quirk 83)."""
    return types.DataTransferResponse(status=types.DataTransferResponseStatus.UNKNOWN_VENDOR_ID)


BOOT_NOTIFICATION: Final = FromStation(
    name="BootNotification",
    request=types.BootNotificationRequest,
    response=types.BootNotificationResponse,
    to_event=booted,
    to_response=boot_answer,
    delivery=Delivery.STATE,
    source="OCPP 1.6 §4.2, §6.3, §6.4",
)
STATUS_NOTIFICATION: Final = FromStation(
    name="StatusNotification",
    request=types.StatusNotificationRequest,
    response=types.StatusNotificationResponse,
    to_event=status_reported,
    to_response=lambda event, answer: types.StatusNotificationResponse(),
    delivery=Delivery.STATE,
    source="OCPP 1.6 §4.9, §6.47, §6.48",
)
HEARTBEAT: Final = FromStation(
    name="Heartbeat",
    request=types.HeartbeatRequest,
    response=types.HeartbeatResponse,
    to_event=heartbeat,
    to_response=heartbeat_answer,
    delivery=Delivery.PLAIN,
    source="OCPP 1.6 §4.6, §6.29, §6.30",
)
AUTHORIZE: Final = FromStation(
    name="Authorize",
    request=types.AuthorizeRequest,
    response=types.AuthorizeResponse,
    to_event=authorization_asked,
    to_response=authorize_answer,
    delivery=Delivery.PLAIN,
    source="OCPP 1.6 §4.1, §6.1, §6.2",
)
START_TRANSACTION: Final = FromStation(
    name="StartTransaction",
    request=types.StartTransactionRequest,
    response=types.StartTransactionResponse,
    to_event=transaction_started,
    to_response=start_answer,
    delivery=Delivery.TRANSACTIONAL,
    identity=start_identity,
    source="OCPP 1.6 §4.8, §6.45, §6.46",
)
METER_VALUES: Final = FromStation(
    name="MeterValues",
    request=types.MeterValuesRequest,
    response=types.MeterValuesResponse,
    to_event=meter_reported,
    to_response=meter_answer,
    delivery=Delivery.TRANSACTIONAL,
    identity=meter_identity,
    source="OCPP 1.6 §4.7, §6.31, §6.32",
)
STOP_TRANSACTION: Final = FromStation(
    name="StopTransaction",
    request=types.StopTransactionRequest,
    response=types.StopTransactionResponse,
    to_event=transaction_ended,
    to_response=stop_answer,
    delivery=Delivery.TRANSACTIONAL,
    identity=stop_identity,
    source="OCPP 1.6 §4.10, §6.49, §6.50",
)
DATA_TRANSFER: Final = FromStation(
    name="DataTransfer",
    request=types.DataTransferRequest,
    response=types.DataTransferResponse,
    to_event=data_received,
    to_response=data_answer,
    delivery=Delivery.PLAIN,
    source="OCPP 1.6 §4.3, §6.15, §6.16",
)


# Requests to stations.


def remote_start(command: commands.StartCharging) -> types.RemoteStartTransactionRequest | Unsupported:
    """Start for a token; EVSE 0 is not a place where a vehicle charges (§5.11)."""
    if not 0 < len(command.token) <= TOKEN_LIMIT:
        return Unsupported(reason=f"an idTag has 1 to {TOKEN_LIMIT} characters")
    if command.evse_id is not None and command.evse_id < 1:
        return Unsupported(reason="a transaction is started on connector 1 or higher")
    return types.RemoteStartTransactionRequest(id_tag=command.token, connector_id=command.evse_id)


def remote_stop(command: commands.StopCharging) -> types.RemoteStopTransactionRequest | Unsupported:
    """End a transaction by its number."""
    ref = command.transaction_ref
    if not (ref.isascii() and ref.isdecimal() and len(ref) <= 10 and int(ref) <= _INT32):
        return Unsupported(reason="transactions of 1.6 are named by whole numbers of 32 bits")
    return types.RemoteStopTransactionRequest(transaction_id=int(ref))


def reset(command: commands.ResetStation) -> types.ResetRequest:
    """Restart."""
    return types.ResetRequest(type=types.ResetRequestType(command.kind.value))


def unlock(command: commands.UnlockConnector) -> types.UnlockConnectorRequest | Unsupported:
    """Free the plug of an EVSE, which has one connector only."""
    if command.evse_id < 1 or command.connector_id != 1:
        return Unsupported(reason="only connector 1 of EVSE 1 or higher can be unlocked")
    return types.UnlockConnectorRequest(connector_id=command.evse_id)


def change_availability(
    command: commands.ChangeAvailability,
) -> types.ChangeAvailabilityRequest | Unsupported:
    """Take an EVSE, or with 0 the station, into or out of service."""
    if command.evse_id < 0:
        return Unsupported(reason="a connector has the number 0 or higher")
    kinds = types.ChangeAvailabilityRequestType
    return types.ChangeAvailabilityRequest(
        connector_id=command.evse_id, type=kinds.OPERATIVE if command.operative else kinds.INOPERATIVE
    )


def clear_cache(command: commands.ClearTokenCache) -> types.ClearCacheRequest:
    """Forget remembered tokens."""
    return types.ClearCacheRequest()


def get_configuration(command: commands.ReadConfiguration) -> types.GetConfigurationRequest | Unsupported:
    """Read settings; no keys means all."""
    if any(len(key) > 50 for key in command.keys):
        return Unsupported(reason="a configuration key has at most 50 characters")
    return types.GetConfigurationRequest(key=list(command.keys) or None)


def change_configuration(
    command: commands.WriteConfiguration,
) -> types.ChangeConfigurationRequest | Unsupported:
    """Set one setting."""
    if not 0 < len(command.key) <= 50 or len(command.value) > 500:
        return Unsupported(reason="a configuration key has 1 to 50 characters, its value at most 500")
    return types.ChangeConfigurationRequest(key=command.key, value=command.value)


REMOTE_START_TRANSACTION: Final = ToStation(
    name="RemoteStartTransaction",
    request=types.RemoteStartTransactionRequest,
    response=types.RemoteStartTransactionResponse,
    command=commands.StartCharging,
    to_request=remote_start,
    source="OCPP 1.6 §5.11, §6.33, §6.34",
)
REMOTE_STOP_TRANSACTION: Final = ToStation(
    name="RemoteStopTransaction",
    request=types.RemoteStopTransactionRequest,
    response=types.RemoteStopTransactionResponse,
    command=commands.StopCharging,
    to_request=remote_stop,
    source="OCPP 1.6 §5.12, §6.35, §6.36",
)
RESET: Final = ToStation(
    name="Reset",
    request=types.ResetRequest,
    response=types.ResetResponse,
    command=commands.ResetStation,
    to_request=reset,
    source="OCPP 1.6 §5.14, §6.39, §6.40",
)
UNLOCK_CONNECTOR: Final = ToStation(
    name="UnlockConnector",
    request=types.UnlockConnectorRequest,
    response=types.UnlockConnectorResponse,
    command=commands.UnlockConnector,
    to_request=unlock,
    source="OCPP 1.6 §5.18, §6.53, §6.54",
)
CHANGE_AVAILABILITY: Final = ToStation(
    name="ChangeAvailability",
    request=types.ChangeAvailabilityRequest,
    response=types.ChangeAvailabilityResponse,
    command=commands.ChangeAvailability,
    to_request=change_availability,
    source="OCPP 1.6 §5.2, §6.7, §6.8",
)
CLEAR_CACHE: Final = ToStation(
    name="ClearCache",
    request=types.ClearCacheRequest,
    response=types.ClearCacheResponse,
    command=commands.ClearTokenCache,
    to_request=clear_cache,
    source="OCPP 1.6 §5.4, §6.11, §6.12",
)
GET_CONFIGURATION: Final = ToStation(
    name="GetConfiguration",
    request=types.GetConfigurationRequest,
    response=types.GetConfigurationResponse,
    command=commands.ReadConfiguration,
    to_request=get_configuration,
    source="OCPP 1.6 §5.8, §6.23, §6.24",
)
CHANGE_CONFIGURATION: Final = ToStation(
    name="ChangeConfiguration",
    request=types.ChangeConfigurationRequest,
    response=types.ChangeConfigurationResponse,
    command=commands.WriteConfiguration,
    to_request=change_configuration,
    source="OCPP 1.6 §5.3, §6.9, §6.10",
)
DATA_TRANSFER_TO_STATION: Final = ToStation(
    name="DataTransfer",
    request=types.DataTransferRequest,
    response=types.DataTransferResponse,
    source="OCPP 1.6 §5.6, §6.15, §6.16",
)
