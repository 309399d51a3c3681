"""Requests of 1.6 stations as events, the tidy ones and the ones seen in the field."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.ocpp.wire import RECEIVED, V16, judge, read, sample
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
    NoticeReceived,
    StatusReported,
    TransactionEnded,
    TransactionStarted,
)
from voltledger.domain.identifiers import TokenValue, TransactionRef
from voltledger.ocpp.action import Delivery
from voltledger.ocpp.registry import Inbound, Refusal
from voltledger.ocpp.rpc import ErrorCode

ACTIONS = sorted(V16.from_station)
NO_FACTS = [name for name in ACTIONS if V16.from_station[name].delivery is not Delivery.TRANSACTIONAL]
START = {"connectorId": 1, "idTag": "04A1B2", "meterStart": 1500, "timestamp": "2026-11-23T10:14:00Z"}
STOP = {"transactionId": 71, "meterStop": 9100, "timestamp": "2026-11-23T10:14:30Z"}
METER: dict[str, Any] = {
    "connectorId": 1,
    "transactionId": 71,
    "meterValue": [{"timestamp": "2026-11-23T10:14:00Z", "sampledValue": [{"value": "2000"}]}],
}


def event_of(action: str, payload: object) -> Any:
    return read(action, payload).event


@pytest.mark.parametrize("action", ACTIONS)
def test_every_sample_is_read_strictly_and_answered_by_the_schema(action: str) -> None:
    request, _ = sample(action)
    inbound = read(action, request[3])
    assert inbound.tolerated == ()
    assert (inbound.dedupe_key is not None) == (inbound.delivery is Delivery.TRANSACTIONAL)
    answer = Answer(
        at=datetime(2026, 11, 23, 10, 15, 1, 987_654, tzinfo=UTC),
        transaction_ref=TransactionRef("184467"),
        authorization=Authorization(
            status=AuthorizationStatus.ACCEPTED, group="FLEET-7", expires_at=RECEIVED + timedelta(days=3)
        ),
    )
    payload = json.loads(V16.answer(inbound, answer))
    judge(action, response=True).validate(payload)
    assert V16.from_station[action].response is inbound.declaration.response


@pytest.mark.parametrize("action", ACTIONS)
def test_every_sample_survives_the_way_through_its_type(action: str) -> None:
    import msgspec

    request, _ = sample(action)
    typed = msgspec.convert(request[3], V16.from_station[action].request)
    assert json.loads(msgspec.json.encode(typed)).keys() == request[3].keys()
    assert msgspec.json.decode(msgspec.json.encode(typed), type=type(typed)) == typed


def test_a_start_becomes_a_start_at_the_connector_of_an_evse() -> None:
    event = event_of("StartTransaction", {**START, "connectorId": 2, "idTag": " 04a1b2 ", "reservationId": 0})
    assert event == TransactionStarted(
        evse_id=2,
        connector_id=1,
        token=TokenValue("04A1B2"),
        at=event.at,
        register_wh=event.register_wh,
        reservation_id=None,
    )
    assert event.at.at == datetime(2026, 11, 23, 10, 14, tzinfo=UTC)
    assert event.register_wh == 1500
    assert not event.at.suspect


def test_connector_0_is_the_station() -> None:
    event = event_of("StatusNotification", {"connectorId": 0, "errorCode": "NoError", "status": "Faulted"})
    assert (event.evse_id, event.connector_id, event.status) == (0, 0, ConnectorStatus.FAULTED)
    assert event.at is None


@pytest.mark.parametrize("transaction_id", [0, -1, -7])
def test_a_transaction_id_of_0_or_less_names_no_transaction(transaction_id: int) -> None:
    stop = event_of("StopTransaction", {**STOP, "transactionId": transaction_id})
    meter = event_of("MeterValues", {**METER, "transactionId": transaction_id})
    assert stop.transaction_ref is None
    assert meter.transaction_ref is None
    assert stop.register_wh == 9100


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, EndReason.LOCAL),
        ("EVDisconnected", EndReason.EV_DISCONNECTED),
        ("evdisconnected", EndReason.EV_DISCONNECTED),
        ("StoppedByEV", EndReason.STOPPED_BY_EV),
        ("ImmediateReset", EndReason.HARD_RESET),
        ("moon phase", EndReason.OTHER),
    ],
)
def test_the_reason_of_a_stop(given: str | None, reason: EndReason) -> None:
    assert event_of("StopTransaction", {**STOP, "reason": given}).reason is reason


@pytest.mark.parametrize(
    ("text", "at", "suspect"),
    [
        ("2026-11-23T10:14:00.123456+00:00", "2026-11-23T10:14:00.123456+00:00", False),
        ("2026-11-23T11:14:00+01:00", "2026-11-23T10:14:00+00:00", False),
        ("2026-11-23T11:14:00+0100", "2026-11-23T10:14:00+00:00", False),
        ("2026-11-23T10:14:00", "2026-11-23T10:14:00+00:00", False),
        ("2026-11-23 10:14:00", "2026-11-23T10:14:00+00:00", False),
        ("2026-11-23T10:14Z", "2026-11-23T10:14:00+00:00", False),
        ("2026-11-23T10:14:00+00:00Z", "2026-11-23T10:14:00+00:00", False),
        ("2026-11-24T10:15:01Z", "2026-11-24T10:15:01+00:00", False),
        ("2026-11-24T10:15:02Z", None, True),
        ("2014-12-31T23:59:59Z", None, True),
        ("1970-01-01T00:00:00.740Z", None, True),
        ("222222017-10-27T19:10:11Z", None, True),
        ("0001-01-01T00:00:00+14:00", None, True),
        ("soon", None, True),
        ("", None, True),
    ],
)
def test_a_time_is_believed_inside_the_sane_window_only(text: str, at: str | None, suspect: bool) -> None:
    event = event_of("StopTransaction", {**STOP, "timestamp": text})
    assert isinstance(event, TransactionEnded)
    assert event.at.suspect is suspect
    assert event.at.at == (RECEIVED if at is None else datetime.fromisoformat(at))
    if suspect and len(text) > 4:
        assert event.at.text[:10] == text[:10]


def test_an_unreadable_time_keeps_what_the_station_wrote() -> None:
    event = event_of("StartTransaction", {**START, "timestamp": "soon"})
    assert event.at.text == "soon"


@pytest.mark.parametrize(
    ("action", "change", "code"),
    [
        ("StartTransaction", {"idTag": "X" * 22}, "too_long:idTag"),
        ("StartTransaction", {"connectorId": "1"}, "coerced:connectorId"),
        ("StartTransaction", {"meterStart": "1500"}, "coerced:meterStart"),
        ("StartTransaction", {"meterStart": 1500.9}, "rounded:meterStart"),
        ("StartTransaction", {"vendorThing": {"deep": [1]}}, "unknown_member:vendorThing"),
        ("StartTransaction", {"reservationId": "none"}, ""),
        ("StopTransaction", {"reason": "LOCAL"}, "spelling:reason"),
        ("StopTransaction", {"reason": "moon"}, "unknown_value:reason"),
        ("StopTransaction", {"transactionData": {}}, "coerced:transactionData"),
        ("MeterValues", {"meterValue": []}, "empty:meterValue"),
    ],
)
def test_a_fact_is_read_although_its_schema_is_broken(action: str, change: Any, code: str) -> None:
    base = {"StartTransaction": START, "StopTransaction": STOP, "MeterValues": METER}[action]
    inbound = read(action, {**base, **change})
    assert not isinstance(inbound.event, FactUnreadable)
    assert inbound.dedupe_key is not None
    if code:
        assert code in inbound.tolerated


def test_what_was_forgiven_does_not_change_the_fact() -> None:
    event = event_of("StartTransaction", {**START, "connectorId": "1", "meterStart": "1500", "x": None})
    assert event == event_of("StartTransaction", START)


def test_an_over_long_tag_is_kept_whole() -> None:
    assert event_of("StartTransaction", {**START, "idTag": "abcdefghijklmnopqrstuv"}).token == (
        "ABCDEFGHIJKLMNOPQRSTUV"
    )


def test_a_start_without_tag_time_or_register_is_still_a_start() -> None:
    event = event_of("StartTransaction", {"connectorId": 1})
    assert isinstance(event, TransactionStarted)
    assert (event.token, event.register_wh, event.at.suspect) == (None, None, True)


def test_a_register_of_minus_1_is_not_known() -> None:
    assert event_of("StopTransaction", {**STOP, "meterStop": -1}).register_wh is None
    assert event_of("StopTransaction", {**STOP, "meterStop": 10**20}).register_wh is None
    assert event_of("StopTransaction", {**STOP, "meterStop": 12}).register_wh == 12


@pytest.mark.parametrize("action", ["StartTransaction", "StopTransaction", "MeterValues"])
@pytest.mark.parametrize("payload", [b"{}", b"[1]", b'"x"', b"7", b"{", b"\xff", b"[" * 5000, b"", b'{"a":NaN}'])
def test_a_fact_that_cannot_be_read_is_kept_and_never_refused(action: str, payload: bytes) -> None:
    inbound = V16.read(action, payload, RECEIVED)
    assert isinstance(inbound, Inbound)
    assert isinstance(inbound.event, FactUnreadable)
    assert inbound.event.action == action
    assert inbound.dedupe_key is not None
    answer = json.loads(V16.answer(inbound, Answer(at=RECEIVED, transaction_ref=TransactionRef("9"))))
    judge(action, response=True).validate(answer)


def test_an_unknown_action_is_not_implemented() -> None:
    refusal = V16.read("CustomOperation", b"{}", RECEIVED)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.NOT_IMPLEMENTED


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"chargePointVendor": "", "chargePointModel": None},
        {"chargePointVendor": "V" * 200, "chargePointModel": 22, "imsi": None, "extra": True},
        [],
        None,
    ],
)
def test_a_boot_is_accepted_whatever_it_lacks(payload: object) -> None:
    assert isinstance(event_of("BootNotification", payload), Booted)


def test_a_boot_names_the_station() -> None:
    request, _ = sample("BootNotification")
    event = event_of("BootNotification", request[3])
    expected = ("Northwind", "Quay 22", "NQ22-000417", "3.8.1-b219")
    assert (event.vendor, event.model, event.serial, event.firmware) == expected


@pytest.mark.parametrize(
    ("status", "meant"),
    [
        ("SuspendedEV", ConnectorStatus.SUSPENDED_EV),
        ("suspendedev", ConnectorStatus.SUSPENDED_EV),
        ("Occupied", ConnectorStatus.OCCUPIED),
        ("Sleeping", ConnectorStatus.UNKNOWN),
        (None, ConnectorStatus.UNKNOWN),
    ],
)
def test_a_status_word_is_understood_or_kept_as_text(status: str | None, meant: ConnectorStatus) -> None:
    event = event_of("StatusNotification", {"connectorId": 1, "status": status})
    assert isinstance(event, StatusReported)
    assert event.status is meant
    assert event.error_code == "NoError"
    if status == "Sleeping":
        assert event.raw_status == "Sleeping"


def test_a_status_without_a_connector_is_refused() -> None:
    refusal = V16.read("StatusNotification", b'{"status":"Available","errorCode":"NoError"}', RECEIVED)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION


def test_an_error_code_that_is_none_is_an_other_error() -> None:
    payload = {"connectorId": 1, "status": "Faulted", "errorCode": "Error", "info": "i" * 79}
    event = event_of("StatusNotification", payload)
    assert event.error_code == "OtherError"
    assert event.info == "i" * 79


def test_the_plain_messages() -> None:
    assert event_of("Heartbeat", {}) == HeartbeatReceived()
    assert event_of("Heartbeat", {"odd": 1}) == HeartbeatReceived()
    assert event_of("Authorize", {"idTag": "ab "}) == AuthorizationAsked(token=TokenValue("AB"))
    assert event_of("Authorize", {"idTag": None}) == AuthorizationAsked(token=TokenValue(""))
    assert event_of("LogStatusNotification", {"status": "odd"}) == NoticeReceived(action="LogStatusNotification")
    data = event_of("DataTransfer", {"vendorId": "com.x", "data": {"a": [1, 2.25]}})
    assert data == DataReceived(vendor_id="com.x", data='{"a":[1,2.25]}')


@pytest.mark.parametrize("number", ["1e9999999999999999999", "1e999", "9" * 5000, "NaN", "-Infinity"])
def test_a_number_that_nothing_can_hold_costs_only_itself(number: str) -> None:
    payload = '{"transactionId":71,"timestamp":"2026-11-23T10:14:30Z","meterStop":' + number + "}"
    inbound = V16.read("StopTransaction", payload.encode(), RECEIVED)
    assert isinstance(inbound, Inbound)
    assert isinstance(inbound.event, TransactionEnded)
    assert (inbound.event.transaction_ref, inbound.event.register_wh) == ("71", None)


def test_a_text_with_nul_can_be_stored() -> None:
    event = event_of("StartTransaction", {**START, "idTag": "A\0B"})
    assert event.token == "A\ufffdB"
    assert "\0" not in event_of("BootNotification", {"chargePointVendor": "\0", "chargePointModel": "m"}).vendor


def answered(action: str, payload: object, answer: Answer) -> Any:
    body = json.loads(V16.answer(read(action, payload), answer))
    judge(action, response=True).validate(body)
    return body


def test_times_are_written_in_utc_with_milliseconds() -> None:
    at = datetime(2026, 11, 23, 10, 15, 1, 987_654, tzinfo=UTC)
    assert answered("Heartbeat", {}, Answer(at=at)) == {"currentTime": "2026-11-23T10:15:01.987Z"}
    whole = answered("BootNotification", {}, Answer(at=at.replace(microsecond=0), heartbeat_s=60))
    assert whole == {"status": "Accepted", "currentTime": "2026-11-23T10:15:01.000Z", "interval": 60}
    refused = answered("BootNotification", {}, Answer(at=at, accepted=False))
    assert refused["status"] == "Rejected"


@pytest.mark.parametrize("status", AuthorizationStatus)
def test_a_decision_about_a_token_becomes_id_tag_info(status: AuthorizationStatus) -> None:
    authorization = Authorization(status=status, group="G" * 21, expires_at=RECEIVED)
    answer = Answer(at=RECEIVED, transaction_ref=TransactionRef("5"), authorization=authorization)
    info = {"status": status.value, "expiryDate": "2026-11-23T10:15:01.250Z"}
    assert answered("Authorize", {"idTag": "A"}, answer) == {"idTagInfo": info}
    assert answered("StartTransaction", START, answer) == {"idTagInfo": info, "transactionId": 5}
    assert answered("StopTransaction", STOP, answer) == {}
    assert answered("StopTransaction", {**STOP, "idTag": "A"}, answer) == {"idTagInfo": info}


def test_a_start_without_a_decision_gets_its_number_and_no_permission() -> None:
    body = answered("StartTransaction", START, Answer(at=RECEIVED, transaction_ref=TransactionRef("5")))
    assert body == {"idTagInfo": {"status": "Invalid"}, "transactionId": 5}


def test_a_start_without_a_number_is_our_own_mistake() -> None:
    with pytest.raises(InvariantBroken):
        V16.answer(read("StartTransaction", START), Answer(at=RECEIVED))


def test_an_unknown_vendor_gets_a_normal_answer() -> None:
    assert answered("DataTransfer", {"vendorId": "x"}, Answer(at=RECEIVED)) == {"status": "UnknownVendorId"}


# The same fact under any spelling.


def key(action: str, payload: object) -> bytes:
    found = read(action, payload).dedupe_key
    assert found is not None
    assert len(found) == 16
    return found


FACTS: list[tuple[str, dict[str, Any]]] = [
    ("StartTransaction", START),
    ("StopTransaction", {**STOP, "transactionData": METER["meterValue"]}),
    ("MeterValues", METER),
]


def respelled(value: Any, spelling: str) -> Any:
    if isinstance(value, dict):
        return {name: respelled(item, spelling) for name, item in reversed(value.items())}
    if isinstance(value, list):
        return [respelled(item, spelling) for item in value]
    if isinstance(value, str) and value.endswith("Z"):
        return spelling.format(value.removesuffix("Z"))
    return value


@pytest.mark.parametrize(("action", "payload"), FACTS)
@pytest.mark.parametrize("spelling", ["{}Z", "{}.000Z", "{}+00:00", "{}.000000+00:00", "{}", "{}+0000"])
def test_member_order_and_spelling_of_times_do_not_change_the_key(
    action: str, payload: dict[str, Any], spelling: str
) -> None:
    assert key(action, respelled(payload, spelling)) == key(action, payload)


@pytest.mark.parametrize(("action", "payload"), FACTS)
def test_another_zone_of_the_same_moment_does_not_change_the_key(action: str, payload: dict[str, Any]) -> None:
    moved = json.loads(json.dumps(payload).replace("T10:", "T12:").replace('Z"', '+02:00"'))
    assert key(action, moved) == key(action, payload)


@pytest.mark.parametrize(("action", "payload"), FACTS)
def test_nulls_and_unknown_members_do_not_change_the_key(action: str, payload: dict[str, Any]) -> None:
    assert key(action, {"customData": {"a": 1}, "nothing": None, **payload}) == key(action, payload)


def test_numbers_written_as_texts_do_not_change_the_key() -> None:
    assert key("StartTransaction", {**START, "meterStart": "1500"}) == key("StartTransaction", START)
    number = json.loads(json.dumps(METER).replace('"2000"', "2000"))
    assert key("MeterValues", number) == key("MeterValues", METER)


@pytest.mark.parametrize(
    "change",
    [
        {"connectorId": 2},
        {"idTag": "04A1B3"},
        {"meterStart": 1501},
        {"timestamp": "2026-11-23T10:14:00.001Z"},
        {"reservationId": 4},
    ],
)
def test_another_start_has_another_key(change: dict[str, Any]) -> None:
    assert key("StartTransaction", {**START, **change}) != key("StartTransaction", START)


def test_a_reservation_of_0_is_none() -> None:
    assert key("StartTransaction", {**START, "reservationId": 0}) == key("StartTransaction", START)


@pytest.mark.parametrize("change", [{"meterStop": 1}, {"transactionId": 72}, {"reason": "Local"}, {"idTag": "A"}])
def test_a_stop_with_other_content_has_another_key(change: dict[str, Any]) -> None:
    assert key("StopTransaction", {**STOP, **change}) != key("StopTransaction", STOP)


def test_unreadable_times_tell_facts_apart() -> None:
    one, two = ({**START, "timestamp": text} for text in ("soon", "later"))
    assert key("StartTransaction", one) == key("StartTransaction", one)
    assert key("StartTransaction", one) != key("StartTransaction", two)


def test_the_key_does_not_depend_on_the_time_of_receipt() -> None:
    payload = json.dumps({**START, "timestamp": "1970-01-01T00:00:00Z"}).encode()
    first = V16.read("StartTransaction", payload, RECEIVED)
    again = V16.read("StartTransaction", payload, RECEIVED + timedelta(days=30))
    assert isinstance(first, Inbound)
    assert isinstance(again, Inbound)
    assert first.dedupe_key == again.dedupe_key


def test_readings_of_a_stop_come_with_it() -> None:
    request, _ = sample("StopTransaction")
    event = event_of("StopTransaction", request[3])
    assert [(r.context, r.register_wh) for r in event.readings] == [
        ("Transaction.Begin", 1_204_311),
        ("Transaction.End", 1_231_877),
    ]


def test_a_meter_report_of_the_station_names_evse_0() -> None:
    event = event_of("MeterValues", {**METER, "connectorId": 0})
    assert isinstance(event, MeterReported)
    assert event.evse_id == 0
