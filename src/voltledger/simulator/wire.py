"""OCPP-J frames as plain values, and the few payload shapes the simulator builds itself.

The simulator does not use the server's own codec on purpose: a mistake there must not be made twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from voltledger.simulator.errors import BadFrame

Payload = Mapping[str, Any]

CALL, RESULT, ERROR = 2, 3, 4

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One side asks the other."""

    message_id: str
    action: str
    payload: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The answer to a call."""

    message_id: str
    payload: Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """The refusal of a call."""

    message_id: str
    code: str
    description: str = ""
    details: Payload = field(default_factory=dict)


Frame = Call | Result | Error


def encode(frame: Frame) -> str:
    """The frame as it goes over the socket."""
    parts: list[Any]
    if isinstance(frame, Call):
        parts = [CALL, frame.message_id, frame.action, frame.payload]
    elif isinstance(frame, Result):
        parts = [RESULT, frame.message_id, frame.payload]
    else:
        parts = [ERROR, frame.message_id, frame.code, frame.description, frame.details]
    return _encoder.encode(parts).decode()


def decode(text: str | bytes) -> Frame:
    """The frame in a text.

    Raises: BadFrame if it is none; a station ignores such a text.
    """
    try:
        parts = _decoder.decode(text)
    except msgspec.MsgspecError as error:
        raise BadFrame(f"not JSON: {error}") from error
    match parts:
        case [2, str(message_id), str(action), dict(payload)]:
            return Call(message_id=message_id, action=action, payload=payload)
        case [3, str(message_id), dict(payload)]:
            return Result(message_id=message_id, payload=payload)
        case [4, str(message_id), str(code), *rest]:
            description = rest[0] if rest and isinstance(rest[0], str) else ""
            details = rest[1] if len(rest) > 1 and isinstance(rest[1], dict) else {}
            return Error(message_id=message_id, code=code, description=description, details=details)
        case _:
            raise BadFrame(f"not an OCPP-J frame: {text[:200]!r}")


def timestamp(at: float) -> str:
    """Seconds since 1970 as the wire writes them, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sampled_values(
    *,
    register_wh: int,
    power_w: float,
    current_a: float,
    soc_percent: float | None,
    context: str = "Sample.Periodic",
) -> list[dict[str, str]]:
    """One sample of everything the simulated meter measures."""

    def one(measurand: str, value: str, unit: str) -> dict[str, str]:
        return {"value": value, "context": context, "measurand": measurand, "unit": unit}

    values = [
        one("Energy.Active.Import.Register", str(register_wh), "Wh"),
        one("Power.Active.Import", f"{power_w:.1f}", "W"),
        one("Current.Import", f"{current_a:.2f}", "A"),
    ]
    if soc_percent is not None:
        values.append(one("SoC", f"{soc_percent:.0f}", "Percent"))
    return values
