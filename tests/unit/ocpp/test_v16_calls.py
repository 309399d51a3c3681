"""Requests of ours to 1.6 stations, and what is made of their answers."""

import json
from typing import Any

import jsonschema_rs
import pytest

from tests.unit.ocpp.wire import V16, judge, sample
from voltledger.domain import commands
from voltledger.domain.commands import Command
from voltledger.domain.identifiers import TokenValue, TransactionRef
from voltledger.ocpp.action import Unsupported
from voltledger.ocpp.registry import Outgoing

TOKEN = TokenValue("VL-9F31C2")
CALLS = sorted(V16.to_station)


@pytest.mark.parametrize(
    ("command", "action", "payload"),
    [
        (
            commands.StartCharging(token=TOKEN, evse_id=2),
            "RemoteStartTransaction",
            {"connectorId": 2, "idTag": TOKEN},
        ),
        (commands.StartCharging(token=TOKEN, evse_id=None), "RemoteStartTransaction", {"idTag": TOKEN}),
        (
            commands.StopCharging(transaction_ref=TransactionRef("71")),
            "RemoteStopTransaction",
            {"transactionId": 71},
        ),
        (commands.ResetStation(kind=commands.ResetKind.HARD), "Reset", {"type": "Hard"}),
        (commands.UnlockConnector(evse_id=2), "UnlockConnector", {"connectorId": 2}),
        (
            commands.ChangeAvailability(evse_id=0, operative=False),
            "ChangeAvailability",
            {"connectorId": 0, "type": "Inoperative"},
        ),
        (
            commands.TriggerReport(message="MeterValues", evse_id=1),
            "TriggerMessage",
            {"requestedMessage": "MeterValues", "connectorId": 1},
        ),
        (
            commands.TriggerReport(message="BootNotification"),
            "TriggerMessage",
            {"requestedMessage": "BootNotification"},
        ),
        (commands.ClearTokenCache(), "ClearCache", {}),
        (commands.ReadConfiguration(), "GetConfiguration", {}),
        (
            commands.ReadConfiguration(keys=("HeartbeatInterval",)),
            "GetConfiguration",
            {"key": ["HeartbeatInterval"]},
        ),
        (
            commands.WriteConfiguration(key="HeartbeatInterval", value="60"),
            "ChangeConfiguration",
            {"key": "HeartbeatInterval", "value": "60"},
        ),
    ],
)
def test_a_command_becomes_a_request_that_keeps_to_the_schema(
    command: Command, action: str, payload: dict[str, Any]
) -> None:
    outgoing = V16.command(command)
    assert isinstance(outgoing, Outgoing)
    assert outgoing.action == action
    assert json.loads(outgoing.payload) == payload
    judge(action, response=False).validate(payload)
    assert V16.check_call(action, outgoing.payload) is None


@pytest.mark.parametrize(
    "command",
    [
        commands.StartCharging(token=TokenValue("T" * 21), evse_id=1),
        commands.StartCharging(token=TokenValue(""), evse_id=1),
        commands.StartCharging(token=TOKEN, evse_id=0),
        commands.StopCharging(transaction_ref=TransactionRef("3f1c-uuid")),
        commands.StopCharging(transaction_ref=TransactionRef("2147483648")),
        commands.UnlockConnector(evse_id=1, connector_id=2),
        commands.UnlockConnector(evse_id=0),
        commands.ChangeAvailability(evse_id=-1, operative=True),
        commands.TriggerReport(message="TransactionEvent"),
        commands.ReadConfiguration(keys=("k" * 51,)),
        commands.WriteConfiguration(key="k", value="v" * 501),
    ],
)
def test_what_1_6_cannot_say_is_unsupported_with_a_reason(command: Command) -> None:
    outgoing = V16.command(command)
    assert isinstance(outgoing, Unsupported)
    assert outgoing.reason


def test_every_command_has_a_message() -> None:
    import typing

    assert {d.command for d in V16.to_station.values()} - {None} == set(typing.get_args(Command))


@pytest.mark.parametrize("action", CALLS)
def test_a_sample_is_a_call_that_may_be_sent_and_an_answer_that_is_valid(action: str) -> None:
    request, response = sample(action)
    assert V16.check_call(action, json.dumps(request[3]).encode()) is None
    reply = V16.read_reply(action, json.dumps(response[2]).encode())
    assert reply.valid, reply.problem
    assert reply.body == response[2]
    assert reply.status == response[2].get("status")


@pytest.mark.parametrize(
    ("action", "payload"),
    [
        ("Reset", b"{}"),
        ("Reset", b'{"type":"soft"}'),
        ("Reset", b'{"type":"Soft","extra":1}'),
        ("Reset", b'{"type":null}'),
        ("Reset", b"[]"),
        ("Reset", b"{"),
        ("Reset", b"\xff"),
        ("Reset", b"[" * 50_000),
        ("RemoteStopTransaction", b'{"transactionId":"7"}'),
        ("RemoteStopTransaction", b'{"transactionId":7.5}'),
        ("RemoteStartTransaction", b'{"idTag":"123456789012345678901"}'),
        ("RemoteStartTransaction", b'{"idTag":"A","connectorId":null}'),
        ("GetDiagnostics", b'{"location":"ftp://x","startTime":"yesterday"}'),
        ("Nonsense", b"{}"),
        ("SignCertificate", b'{"csr":"x"}'),
        ("Heartbeat", b"{}"),
    ],
)
def test_a_raw_call_that_breaks_the_schema_is_explained_in_one_sentence(action: str, payload: bytes) -> None:
    problem = V16.check_call(action, payload)
    assert problem is not None
    assert problem.endswith(".")
    assert "\n" not in problem


UNFIT = [(text, False) for text in ('"16"', '"NaN"', "NaN", "1e9999999999999999999", "1e999", "1e-999", "0e99")]


@pytest.mark.parametrize(("limit", "fits"), [("16", True), ("16.0", True), ("10.5", True), ("10.55", False), *UNFIT])
def test_a_limit_has_one_decimal_place(limit: str, fits: bool) -> None:
    request, _ = sample("SetChargingProfile")
    text = json.dumps(request[3]).replace("10.5", limit)
    assert (V16.check_call("SetChargingProfile", text.encode()) is None) is fits


ODD: list[Any] = [None, [], {}, True, 7, 1.25, "", "7", "x" * 12_000]


def broken(value: Any) -> list[Any]:
    """The value with each of its rules broken once: a member gone, of another type, or unknown."""
    found: list[Any] = []
    if isinstance(value, dict):
        found.append({**value, "nobodyKnows": 1})
        for name, item in value.items():
            found.append({other: kept for other, kept in value.items() if other != name})
            found += [{**value, name: odd} for odd in ODD]
            found += [{**value, name: change} for change in broken(item)]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += [[*value[:index], change, *value[index + 1 :]] for change in broken(item)]
    return found


@pytest.mark.parametrize("action", CALLS)
def test_check_call_agrees_with_the_original_schema(action: str) -> None:
    request, _ = sample(action)
    schema = judge(action, response=False)
    for payload in [request[3], *broken(request[3])]:
        ours = V16.check_call(action, json.dumps(payload).encode())
        if (ours is None) != schema.is_valid(payload):
            assert only_the_format_of_an_address(schema, payload), (payload, ours)


def only_the_format_of_an_address(schema: jsonschema_rs.Validator, payload: Any) -> bool:
    """The one rule that is left to the station: whether a text is an absolute address."""
    return all("uri" in error.message for error in schema.iter_errors(payload))


@pytest.mark.parametrize(
    ("action", "payload", "status"),
    [
        ("Reset", b'{"status":"accepted"}', "accepted"),
        ("Reset", b"{}", None),
        ("Reset", b"{", None),
        ("Reset", b"[" * 50_000, None),
        ("Reset", b"\xff", None),
        ("Reset", b'{"status":7}', None),
        ("Reset", b'{"status":"Accepted","n":1e999}', "Accepted"),
        ("Reset", b'{"status":"Accepted","n":1e9999999999999999999}', "Accepted"),
        ("Reset", b'{"status":"Accepted","n":NaN}', "Accepted"),
        ("Reset", b'{"status":"Accepted","n":' + b"9" * 5000 + b"}", "Accepted"),
        ("GetLocalListVersion", b'{"versionNumber":1}', None),
        ("Nonsense", b'{"status":"Accepted"}', "Accepted"),
    ],
)
def test_an_invalid_answer_is_a_value(action: str, payload: bytes, status: str | None) -> None:
    reply = V16.read_reply(action, payload)
    assert not reply.valid
    assert reply.problem
    assert reply.status == status
    json.dumps(reply.body, allow_nan=False)


def test_an_answer_beyond_32_bits_is_read() -> None:
    _, response = sample("GetCompositeSchedule")
    reply = V16.read_reply("GetCompositeSchedule", json.dumps(response[2]).encode())
    assert reply.valid
    assert reply.body["chargingSchedule"]["duration"] == 8_638_204_573_968
