"""Energy from raw payloads, by the rules of ADR 0005."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from voltledger.checker.meter import Meter, moment, readings_of, register_of
from voltledger.checker.rebuild import Message, replay

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def _at(minutes: float) -> str:
    return (NOW + timedelta(minutes=minutes)).isoformat()


def _message(action: str, minutes: float, state: str = "applied", **payload: Any) -> Message:
    return Message(action=action, payload=payload, at=NOW + timedelta(minutes=minutes), state=state)


def _start(register: int | None = 1_000, minutes: float = 0) -> Message:
    return _message("StartTransaction", minutes, meterStart=register, timestamp=_at(minutes))


def _meter(minutes: float, register: int | str, heard: float | None = None, **sample: Any) -> Message:
    value = {"timestamp": _at(minutes), "sampledValue": [{"value": str(register), **sample}]}
    return _message("MeterValues", minutes if heard is None else heard, transactionId=5, meterValue=[value])


def _stop(register: int | None, minutes: float = 60, state: str = "applied") -> Message:
    final = {} if register is None else {"meterStop": register}
    return _message("StopTransaction", minutes, state, transactionId=5, timestamp=_at(minutes), **final)


@pytest.mark.parametrize(
    ("messages", "energy"),
    [
        ([_start(), _meter(1, 3_000), _stop(6_000)], 5_000),
        ([_start(), _stop(6_000)], 5_000),
        ([_start(), _meter(1, 6_500), _stop(6_000)], 5_000),  # the final register takes back
        ([_start(), _meter(1, 6_500), _stop(0)], 5_500),  # a placeholder is ignored
        ([_start(), _meter(1, 3_000), _meter(2, 100), _meter(3, 300), _stop(400)], 2_300),  # a meter was reset
        ([_start(), _meter(2, 4_000), _meter(1, 3_000), _stop(5_000)], 4_000),  # late changes nothing
        ([_start(0), _meter(1, 9_000_000), _stop(9_001_000)], 1_000),  # a placeholder start
        ([_start(), _stop(201_001, minutes=1)], 0),  # 200,001 Wh in a minute
        ([_start(), _stop(201_000, minutes=1)], 200_000),  # a whole offline session in one step
        ([_start(), _meter(1, 2_000), _start(minutes=2), _stop(5_000)], 4_000),  # the same start again
        ([_start(), _stop(6_000), _meter(61, 9_000), _stop(9_000, 62, "conflict")], 5_000),  # the first end stands
        ([_start(), _meter(1, 2_000), _stop(None), _meter(61, 3_000)], 2_000),  # an end without a register
        ([_start(), _stop(None), _stop(6_000, 62)], 5_000),
        ([_start(None), _meter(1, 3_000), _stop(6_000)], 3_000),  # no start register
        ([_start(), _meter(1, "3.5", unit="kWh"), _stop(6_000)], 5_000),
        ([_start(), _meter(600, 2_000, heard=1), _meter(10, 3_000)], 2_000),  # a clock hours ahead
        ([_start(), _meter(600, 2_000, heard=1), _meter(601, 1_500, heard=2)], 1_000),  # and its older reading
        ([_start(), _message("MeterValues", 1, "poison", meterValue=[]), _stop(2_000)], 1_000),
        ([], 0),
    ],
)
def test_energy_of_a_conversation(messages: list[Message], energy: int) -> None:
    assert replay(messages) == energy


@pytest.mark.parametrize(
    ("samples", "register"),
    [
        ([{"value": "12.9"}], 12),
        ([{"value": "1.2345", "unit": "kWh"}], 1_234),
        ([{"value": "5", "measurand": "Power.Active.Import", "unit": "W"}], None),
        ([{"value": "7", "location": "Inlet"}], None),
        ([{"value": "7", "location": "Cable"}, {"value": "9"}], 9),
        ([{"value": "1", "phase": "L1"}, {"value": "2", "phase": "L2-N"}], 3),
        ([{"value": "1", "phase": "L1"}, {"value": "x", "phase": "L2"}], None),
        ([{"value": "abc", "format": "SignedData"}, {"value": "4"}], 4),
        ([{"value": "NaN"}], None),
        ([{"value": "1e40"}], None),
        ([{"value": "5", "unit": "varh"}], None),
    ],
)
def test_the_register_of_an_instant(samples: list[dict[str, str]], register: int | None) -> None:
    payload = {"meterValue": [{"timestamp": _at(0), "sampledValue": samples}]}
    assert [reading.register_wh for reading in readings_of(payload, NOW)] == [register]


def test_a_time_that_cannot_be_true_is_the_time_of_receipt() -> None:
    for text in ("1970-01-01T00:00:00Z", "2031-01-01T00:00:00Z", "soon", None):
        assert moment(text, NOW) == NOW
    assert moment("2026-03-01T10:00:00", NOW) == NOW - timedelta(hours=2)


def test_minus_one_is_no_register() -> None:
    assert [register_of(value) for value in (-1, None, "x", 10**16, 0, 7)] == [None, None, None, None, 0, 7]
    meter = Meter()
    meter.finish(5_000, NOW)
    assert meter.energy_wh == 0
