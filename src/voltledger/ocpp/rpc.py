"""OCPP-J frames and the matching of replies to our calls, without sockets and without a clock.

Rules: `decode_frame` never raises, whatever the bytes; what cannot be understood is a value that
says whether it can be answered. A transaction fact inside a frame that is bad JSON only in its
details (a lone surrogate, NaN) is still read. A timeout is a value too: `Conversation.expired`.

Source: OCPP-J 1.6 §4, OCPP 2.0.1 Part 4 §4, OCPP 2.1 Part 4 §4.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw

from voltledger.ocpp.errors import ConversationBusy


class Version(StrEnum):
    """A version of OCPP, named as its WebSocket subprotocol."""

    V16 = "ocpp1.6"
    V201 = "ocpp2.0.1"
    V21 = "ocpp2.1"


class ErrorCode(StrEnum):
    """Codes of a CALLERROR in the spelling of 2.x; `spelled` gives the one of a version."""

    FORMAT_VIOLATION = "FormatViolation"
    GENERIC_ERROR = "GenericError"
    INTERNAL_ERROR = "InternalError"
    MESSAGE_TYPE_NOT_SUPPORTED = "MessageTypeNotSupported"
    NOT_IMPLEMENTED = "NotImplemented"
    NOT_SUPPORTED = "NotSupported"
    OCCURRENCE_CONSTRAINT_VIOLATION = "OccurrenceConstraintViolation"
    PROPERTY_CONSTRAINT_VIOLATION = "PropertyConstraintViolation"
    PROTOCOL_ERROR = "ProtocolError"
    RPC_FRAMEWORK_ERROR = "RpcFrameworkError"
    SECURITY_ERROR = "SecurityError"
    TYPE_CONSTRAINT_VIOLATION = "TypeConstraintViolation"

    def spelled(self, version: Version) -> str:
        """The code as a version writes it (1.6 misspells one and names another differently)."""
        return _SPELLED_16.get(self, self.value) if version is Version.V16 else self.value


_SPELLED_16: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.FORMAT_VIOLATION: "FormationViolation",
    ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION: "OccurenceConstraintViolation",
    ErrorCode.MESSAGE_TYPE_NOT_SUPPORTED: "NotSupported",
    ErrorCode.RPC_FRAMEWORK_ERROR: "GenericError",
}

DESCRIPTION_LIMIT: Final = 255
UNREADABLE_ID: Final = "-1"
"""What 2.x puts in place of a message id that could not be read."""


class Call(msgspec.Struct, frozen=True, gc=False):
    """A request. `raw_message_id` is set where the id was not text and must be echoed as it was."""

    message_id: str
    action: str
    payload: Raw
    raw_message_id: bytes | None = None


class CallResult(msgspec.Struct, frozen=True, gc=False):
    """The answer to a call of ours."""

    message_id: str
    payload: Raw


class CallError(msgspec.Struct, frozen=True, gc=False):
    """The refusal of a call of ours. The code is whatever the peer wrote; details are bounded."""

    message_id: str
    code: str
    description: str = ""
    details: Raw = Raw(b"{}")


class CallResultError(msgspec.Struct, frozen=True, gc=False):
    """2.1: the peer could not use the answer that we gave to its call."""

    message_id: str
    code: str
    description: str = ""
    details: Raw = Raw(b"{}")


class Send(msgspec.Struct, frozen=True, gc=False):
    """2.1: a message that is never answered."""

    message_id: str
    action: str
    payload: Raw


class BadFrame(msgspec.Struct, frozen=True, gc=False):
    """Something that is no frame of this version. `respond` says whether a CALLERROR answers it."""

    message_id: str | None
    raw_message_id: bytes | None
    code: ErrorCode
    description: str
    respond: bool


class Ignorable(msgspec.Struct, frozen=True, gc=False):
    """Nothing that needs an answer: an empty text, or in 1.6 a message type that does not exist."""

    reason: str


Frame = Call | CallResult | CallError | CallResultError | Send | BadFrame | Ignorable
ReplyFrame = CallResult | CallError | CallResultError

_EMPTY: Final = Raw(b"{}")
_CALL: Final = msgspec.json.Decoder(tuple[Literal[2], str, str, Raw])
_PARTS: Final = msgspec.json.Decoder(list[Raw])
_TEXT: Final = msgspec.json.Decoder(str)
_EXACT: Final = msgspec.json.Encoder(decimal_format="number")
_NUMBER: Final = re.compile(rb"-?[0-9][0-9.eE+-]{0,63}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MAX_DEPTH: Final = 64


def decode_frame(data: str | bytes, version: Version) -> Frame:
    """What one WebSocket message says. Never raises.

    Numeric message ids are accepted and echoed; a missing or null payload is an empty object; a
    CALLERROR may have 2..n elements and any code. Types 5 and 6 exist in 2.1 only.

    Source: OCPP-J 1.6 §4.2; OCPP 2.1 Part 4 §4.2.
    """
    try:
        _, message_id, action, payload = _CALL.decode(data)
    except (ValueError, RecursionError):
        return _decode_slowly(data, version)
    if memoryview(payload).nbytes == 4 and bytes(payload) == b"null":
        payload = _EMPTY
    return Call(message_id, action, payload)


def _decode_slowly(data: str | bytes, version: Version) -> Frame:
    """Every frame that is not a well-formed CALL."""
    if not data.strip():
        return Ignorable("empty")
    parts = _parts(data)
    if parts is None:
        return _unreadable(version, "the message is not a JSON array")
    if not parts:
        return _unreadable(version, "the message is an empty array")
    kind = bytes(parts[0]).strip(b'" ')
    raw_id = bytes(parts[1]) if len(parts) > 1 else b""
    message_id = _message_id(raw_id)
    match kind:
        case b"2" | b"2.0":
            return _call(parts, message_id, raw_id, version)
        case b"3" | b"3.0":
            if message_id is None:
                return _silent("a CALLRESULT without a message id")
            return CallResult(message_id, _payload(parts, 2))
        case b"4" | b"4.0":
            if message_id is None:
                return _silent("a CALLERROR without a message id")
            return CallError(message_id, *_error_parts(parts))
        case b"5" if version is Version.V21:
            if message_id is None:
                return _silent("a CALLRESULTERROR without a message id")
            return CallResultError(message_id, *_error_parts(parts))
        case b"6" if version is Version.V21:
            action = _text(parts, 2)
            if message_id is None or action is None:
                return _silent("a SEND without a message id or an action")
            return Send(message_id, action, _payload(parts, 3))
    if version is Version.V16:
        return Ignorable("message_type")
    return BadFrame(
        message_id,
        raw_id if message_id is not None else None,
        ErrorCode.MESSAGE_TYPE_NOT_SUPPORTED,
        "this message type does not exist in the version agreed on",
        True,
    )


def _call(parts: list[Raw], message_id: str | None, raw_id: bytes, version: Version) -> Frame:
    """A CALL with something odd: a numeric id, no payload, too many elements."""
    if message_id is None:
        return _unreadable(version, "the message id is not text")
    action = _text(parts, 2)
    if action is None:
        return BadFrame(message_id, raw_id, ErrorCode.FORMAT_VIOLATION, "the third element is not an action", True)
    return Call(message_id, action, _payload(parts, 3), None if raw_id[:1] == b'"' else raw_id)


def _unreadable(version: Version, problem: str) -> BadFrame:
    """A frame whose message id is not known: 2.x answers it under "-1", 1.6 cannot."""
    return BadFrame(None, None, ErrorCode.RPC_FRAMEWORK_ERROR, problem, version is not Version.V16)


def _silent(problem: str) -> BadFrame:
    """A frame that is not a request: answering it could make two peers talk for ever."""
    return BadFrame(None, None, ErrorCode.RPC_FRAMEWORK_ERROR, problem, False)


def _message_id(raw: bytes) -> str | None:
    """The id as text: of a JSON text its content, of a number its digits, else None."""
    if raw[:1] == b'"':
        try:
            return _TEXT.decode(raw)
        except ValueError:
            return None
    return raw.decode("ascii") if _NUMBER.fullmatch(raw) else None


def _text(parts: list[Raw], index: int) -> str | None:
    """One element if it is text."""
    try:
        return _TEXT.decode(parts[index])
    except (IndexError, ValueError):
        return None


def _payload(parts: list[Raw], index: int) -> Raw:
    """One element; null and absent are an empty object."""
    if len(parts) <= index or bytes(parts[index]) == b"null":
        return _EMPTY
    return parts[index]


def _error_parts(parts: list[Raw]) -> tuple[str, str, Raw]:
    """Code, description and details of an error, each of which may be missing."""
    code = (_text(parts, 2) or ErrorCode.GENERIC_ERROR.value)[:DESCRIPTION_LIMIT]
    description = (_text(parts, 3) or "")[:4096]
    return code, description, _payload(parts, 4)


def _parts(data: str | bytes) -> list[Raw] | None:
    """The elements of the outer array, by the strict reader or else by the forgiving one."""
    try:
        return _PARTS.decode(data)
    except (ValueError, RecursionError):
        pass
    try:
        value = forgiving_json(data)
        return [Raw(exact_json(part)) for part in value] if isinstance(value, list) else None
    except (ValueError, RecursionError):
        return None


def forgiving_json(data: str | bytes | Raw) -> Any:
    """Reads JSON as the most careless station writes it; numbers with a fraction become Decimal.

    NaN and Infinity are null, bytes that are no UTF-8 and lone surrogates become U+FFFD, raw
    control characters in texts stay, and a whole number of more than 18 digits becomes Decimal.

    Raises: ValueError if it is not JSON even so; RecursionError if it is nested too deeply.
    """
    text = data if isinstance(data, str) else bytes(data).decode("utf-8", "replace")
    value = json.loads(
        text.lstrip("\ufeff"),
        parse_constant=lambda _: None,
        parse_float=_decimal,
        parse_int=lambda digits: int(digits) if len(digits) <= 18 else Decimal(digits),
        strict=False,
    )
    return _clean(value, 0)


def _decimal(text: str) -> Decimal | None:
    """A number exactly as written; one that no computation could hold is null."""
    try:
        number = Decimal(text) if len(text) <= 400 else None
    except ArithmeticError:
        return None
    return number if number is not None and abs(number.adjusted()) <= 400 else None


def _clean(value: Any, depth: int) -> Any:
    """The value with texts that can be written as UTF-8."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_SURROGATE.sub("\ufffd", key): _clean(item, depth + 1) for key, item in value.items()}
    return value


def exact_json(value: Any) -> bytes:
    """Compact JSON in which a Decimal is a number with the digits it has."""
    return _EXACT.encode(value)


def encode_call(message_id: str, action: str, payload: bytes | Raw) -> str:
    """A CALL in compact JSON; the payload is written as it is."""
    return _join(b"2", _quoted(message_id), _quoted(action), bytes(payload))


def encode_send(message_id: str, action: str, payload: bytes | Raw) -> str:
    """2.1: a SEND."""
    return _join(b"6", _quoted(message_id), _quoted(action), bytes(payload))


def encode_result(call: Call | str, payload: bytes | Raw) -> str:
    """The CALLRESULT to a call, under the message id as the peer wrote it."""
    return _join(b"3", _echoed(call), bytes(payload))


def encode_error(
    to: Call | BadFrame | str,
    code: ErrorCode | str,
    description: str,
    version: Version,
    details: Mapping[str, Any] | None = None,
) -> str:
    """The CALLERROR to a call or to a frame that was none; the description is cut to 255 characters."""
    return _error(b"4", to, code, description, version, details)


def encode_result_error(
    message_id: str,
    code: ErrorCode | str,
    description: str,
    details: Mapping[str, Any] | None = None,
) -> str:
    """2.1: says that an answer to a call of ours could not be used."""
    return _error(b"5", message_id, code, description, Version.V21, details)


def _error(
    kind: bytes,
    to: Call | BadFrame | str,
    code: ErrorCode | str,
    description: str,
    version: Version,
    details: Mapping[str, Any] | None,
) -> str:
    spelled = code.spelled(version) if isinstance(code, ErrorCode) else code
    text = _quoted(description[:DESCRIPTION_LIMIT])
    return _join(kind, _echoed(to), _quoted(spelled), text, exact_json(details or {}))


def _echoed(to: Call | BadFrame | str) -> bytes:
    if isinstance(to, str):
        return _quoted(to)
    if to.raw_message_id is not None:
        return to.raw_message_id
    return _quoted(to.message_id if to.message_id is not None else UNREADABLE_ID)


def _quoted(text: str) -> bytes:
    return msgspec.json.encode(_SURROGATE.sub("\ufffd", text))


def _join(*parts: bytes) -> str:
    return (b"[" + b",".join(parts) + b"]").decode()


class PendingCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call of ours that is not answered yet. Units: seconds of the caller's monotonic clock."""

    message_id: str
    action: str
    sent_at: float
    timeout_s: float

    @property
    def deadline(self) -> float:
        """When waiting ends."""
        return self.sent_at + self.timeout_s


class MatchedReply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply and the call that it answers."""

    call: PendingCall
    reply: ReplyFrame


class UnknownReply(msgspec.Struct, frozen=True, kw_only=True):
    """A reply to nothing that is waited for.

    `late` is true when it answers a call that timed out before, whose action is then given: it
    completes nothing, but it is information.
    """

    reply: ReplyFrame
    late: bool = False
    action: str | None = None


class Conversation:
    """Our side of one connection: the calls we sent and what became of them.

    At most `limit` calls are unanswered at a time (OCPP-J 1.6 §4.1.1).
    Calls that timed out are remembered, the last `memory` of them, so that a late reply is known
    for what it is and can never complete a newer call.
    """

    def __init__(self, *, limit: int = 1, memory: int = 32) -> None:
        self._limit = limit
        self._memory = memory
        self._pending: dict[str, PendingCall] = {}
        self._past: OrderedDict[str, str] = OrderedDict()

    @property
    def free(self) -> bool:
        """Whether another call may begin."""
        return len(self._pending) < self._limit

    @property
    def pending(self) -> tuple[PendingCall, ...]:
        """The calls that wait for a reply, the oldest first."""
        return tuple(self._pending.values())

    def begin(self, message_id: str, action: str, sent_at: float, timeout_s: float) -> PendingCall:
        """Notes a call that is sent now.

        Raises: ConversationBusy if as many as allowed wait already, or one under the same id.
        """
        if not self.free or message_id in self._pending:
            raise ConversationBusy(f"{action} was begun while {len(self._pending)} call(s) wait for a reply")
        call = PendingCall(message_id=message_id, action=action, sent_at=sent_at, timeout_s=timeout_s)
        self._pending[message_id] = call
        return call

    def match(self, frame: ReplyFrame) -> MatchedReply | UnknownReply:
        """Finds the call that a reply answers and ends its waiting.

        A CALLERROR under an empty id or "-1" comes from a peer that could not read our frame: it
        ends the call that waits, if there is exactly one.
        """
        call = self._pending.pop(frame.message_id, None)
        if call is None and self._blames_the_only_call(frame):
            _, call = self._pending.popitem()
        if call is not None:
            return MatchedReply(call=call, reply=frame)
        action = self._past.pop(frame.message_id, None)
        return UnknownReply(reply=frame, late=action is not None, action=action)

    def expired(self, now: float) -> list[PendingCall]:
        """The calls whose time is over; they wait no longer."""
        over = [call for call in self._pending.values() if call.deadline <= now]
        for call in over:
            self._forget(call)
        return over

    def abandon(self) -> list[PendingCall]:
        """Ends every wait, as when the connection is gone; returns the calls with unknown outcome."""
        over = list(self._pending.values())
        for call in over:
            self._forget(call)
        return over

    def _forget(self, call: PendingCall) -> None:
        del self._pending[call.message_id]
        self._past[call.message_id] = call.action
        while len(self._past) > self._memory:
            self._past.popitem(last=False)

    def _blames_the_only_call(self, frame: ReplyFrame) -> bool:
        return isinstance(frame, CallError) and frame.message_id in ("", UNREADABLE_ID) and len(self._pending) == 1
