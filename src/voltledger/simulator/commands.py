"""How a station answers what the server asks of it, OCPP 1.6 Core and RemoteTrigger.

The answer is made here; what follows from it (a session, a restart) the station does after it is sent.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from voltledger.simulator.wire import Call, Error, Payload, Result

if TYPE_CHECKING:
    from voltledger.simulator.station import Station

Answerer = Callable[["Station", Payload], dict[str, Any]]


def answer_command(station: "Station", call: Call) -> Result | Error:
    """The answer to one call of the server; an unknown action or a missing field is a CALLERROR."""
    answerer = _ANSWERERS.get(call.action)
    if answerer is None:
        return Error(message_id=call.message_id, code="NotImplemented", description=f"{call.action} is not known")
    try:
        payload = answerer(station, call.payload)
    except (KeyError, TypeError, ValueError) as error:
        return Error(message_id=call.message_id, code="FormationViolation", description=str(error)[:255])
    return Result(message_id=call.message_id, payload=payload)


def _remote_start(station: "Station", asked: Payload) -> dict[str, Any]:
    connector = asked.get("connectorId")
    accepted = station.remote_start(None if connector is None else int(connector), str(asked["idTag"]))
    return {"status": "Accepted" if accepted else "Rejected"}


def _remote_stop(station: "Station", asked: Payload) -> dict[str, Any]:
    accepted = station.remote_stop(int(asked["transactionId"]))
    return {"status": "Accepted" if accepted else "Rejected"}


def _reset(station: "Station", asked: Payload) -> dict[str, Any]:
    if asked["type"] not in ("Hard", "Soft"):
        raise ValueError(f"no such reset: {asked['type']}")
    station.reset(is_hard=asked["type"] == "Hard")
    return {"status": "Accepted"}


def _unlock(station: "Station", asked: Payload) -> dict[str, Any]:
    return {"status": station.unlock(int(asked["connectorId"]))}


def _change_availability(station: "Station", asked: Payload) -> dict[str, Any]:
    if asked["type"] not in ("Operative", "Inoperative"):
        raise ValueError(f"no such availability: {asked['type']}")
    return {"status": station.change_availability(int(asked["connectorId"]), asked["type"] == "Operative")}


def _get_configuration(station: "Station", asked: Payload) -> dict[str, Any]:
    return dict(station.configuration.read(asked.get("key") or ()))


def _change_configuration(station: "Station", asked: Payload) -> dict[str, Any]:
    return {"status": station.configuration.change(str(asked["key"]), str(asked["value"]))}


def _trigger(station: "Station", asked: Payload) -> dict[str, Any]:
    connector = asked.get("connectorId")
    return {"status": station.trigger(str(asked["requestedMessage"]), None if connector is None else int(connector))}


def _always(**answer: Any) -> Answerer:
    def answered(_station: "Station", _asked: Payload) -> dict[str, Any]:
        return dict(answer)

    return answered


_ANSWERERS: Mapping[str, Answerer] = {
    "RemoteStartTransaction": _remote_start,
    "RemoteStopTransaction": _remote_stop,
    "Reset": _reset,
    "UnlockConnector": _unlock,
    "ChangeAvailability": _change_availability,
    "GetConfiguration": _get_configuration,
    "ChangeConfiguration": _change_configuration,
    "TriggerMessage": _trigger,
    "ClearCache": _always(status="Accepted"),
    "DataTransfer": _always(status="UnknownVendorId"),
    "GetLocalListVersion": _always(listVersion=-1),
    "SendLocalList": _always(status="NotSupported"),
    "ReserveNow": _always(status="Rejected"),
    "CancelReservation": _always(status="Rejected"),
    "SetChargingProfile": _always(status="NotSupported"),
    "ClearChargingProfile": _always(status="Unknown"),
    "GetCompositeSchedule": _always(status="Rejected"),
    "GetDiagnostics": _always(),
    "UpdateFirmware": _always(),
}
