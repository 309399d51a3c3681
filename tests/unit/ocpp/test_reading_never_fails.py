"""Whatever a station sends: no exception escapes, and no transaction fact is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ocpp.wire import RECEIVED, V16, judge, sample
from voltledger.domain.events import Answer
from voltledger.domain.identifiers import TransactionRef
from voltledger.ocpp.action import Delivery
from voltledger.ocpp.registry import Inbound, Refusal
from voltledger.ocpp.rpc import Call, Version, decode_frame

ACTIONS = sorted(V16.from_station)
ODD_TEXTS = st.sampled_from(
    [
        "",
        " ",
        "null",
        "NaN",
        "-1",
        "0",
        "1e999",
        "9" * 400,
        "\0",
        "\ud800",
        "2026-13-45T99:99:99Z",
        "L1-N",
        "kWh",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12) | ODD_TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


def check(action: str, payload: bytes) -> None:
    """The rules that hold for every payload."""
    inbound = V16.read(action, payload, RECEIVED)
    if isinstance(inbound, Refusal):
        assert V16.from_station[action].delivery is not Delivery.TRANSACTIONAL
        return
    assert (inbound.dedupe_key is not None) == (inbound.delivery is Delivery.TRANSACTIONAL)
    answer = V16.answer(inbound, Answer(at=RECEIVED, transaction_ref=TransactionRef("7")))
    judge(action, response=True).validate(json.loads(answer))
    assert V16.read(action, payload, RECEIVED) == inbound


@given(st.sampled_from(ACTIONS), st.binary(max_size=120))
def test_reading_survives_any_bytes(action: str, payload: bytes) -> None:
    check(action, payload)


@given(
    st.sampled_from(ACTIONS),
    st.from_regex(r"\A-?[0-9]{1,25}(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,25})?\Z"),
    st.sampled_from(["transactionId", "connectorId", "meterStart", "meterStop", "timestamp", "meterValue"]),
)
def test_reading_survives_any_number(action: str, number: str, name: str) -> None:
    check(action, b'{"%b":%b}' % (name.encode(), number.encode()))
    check(action, b'{"%b":"%b"}' % (name.encode(), number.encode()))


@given(st.sampled_from(ACTIONS), VALUES)
def test_reading_survives_any_json(action: str, value: Any) -> None:
    check(action, json.dumps(value).encode())


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    """A sample with some of its members replaced, taken away, renamed or doubled."""
    action = draw(st.sampled_from(ACTIONS))

    def change(value: Any) -> Any:
        if draw(st.integers(0, 9)) == 0:
            return draw(VALUES)
        if isinstance(value, dict):
            return {
                (name.lower() if draw(st.integers(0, 9)) == 0 else name): change(item)
                for name, item in value.items()
                if draw(st.integers(0, 9)) != 0
            }
        if isinstance(value, list):
            return [change(item) for item in value]
        return value

    return action, change(sample(action)[0][3])


@settings(max_examples=400)
@given(mutated())
def test_reading_survives_samples_that_went_wrong(case: tuple[str, Any]) -> None:
    action, payload = case
    check(action, json.dumps(payload).encode())


@given(mutated())
def test_a_whole_frame_that_went_wrong_is_still_a_call(case: tuple[str, Any]) -> None:
    action, payload = case
    frame = decode_frame(json.dumps([2, "m", action, payload]), Version.V16)
    assert isinstance(frame, Call)
    assert isinstance(V16.read(frame.action, frame.payload, RECEIVED), Inbound | Refusal)


@given(
    st.sampled_from(sorted(V16.to_station)),
    st.binary(max_size=120) | VALUES.map(lambda v: json.dumps(v).encode()),
)
def test_answers_and_raw_calls_are_judged_without_exceptions(action: str, payload: bytes) -> None:
    V16.check_call(action, payload)
    json.dumps(V16.read_reply(action, payload).body, allow_nan=False)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_very_long_and_very_wide_payload_is_bounded(action: str) -> None:
    wide = {f"m{number}": number for number in range(5000)}
    inbound = V16.read(action, json.dumps({**sample(action)[0][3], **wide}).encode(), RECEIVED)
    assert isinstance(inbound, Inbound)
    assert 0 < len(inbound.tolerated) <= 16
