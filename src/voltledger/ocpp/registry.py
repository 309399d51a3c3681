"""One object per OCPP version that reads requests, writes answers and writes commands.

The registry collects the declarations of every module of `v16` (and of `v2` for each version a
declaration names); there is no second list to edit. Reading is strict and fast first, and tolerant
only for what the strict reader refuses.
"""

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any, Final

import msgspec
from msgspec import Raw, inspect

from voltledger.domain.commands import Command
from voltledger.domain.events import Answer, FactUnreadable, StationEvent
from voltledger.ocpp import v2, v16
from voltledger.ocpp.action import AnyFromStation, AnyToStation, Delivery, FromStation, ToStation, Unsupported
from voltledger.ocpp.capabilities import CAPABILITIES, Capabilities
from voltledger.ocpp.clock import wire_time
from voltledger.ocpp.rpc import ErrorCode, Version, exact_json, forgiving_json
from voltledger.ocpp.structs import OcppStruct
from voltledger.ocpp.tolerant import IDENTITY, NotAnObject, Tolerance, TolerantReader
from voltledger.ocpp.v16 import quirks

_EXACT: Final = Context(prec=100)


class Inbound(msgspec.Struct, frozen=True, gc=False):
    """A station's request in the words of the core.

    `dedupe_key` (16 bytes) is the same for the same fact under any message id; only transactional
    messages have one. `tolerated` lists what had to be forgiven while reading.
    """

    event: StationEvent
    delivery: Delivery
    dedupe_key: bytes | None
    declaration: AnyFromStation
    tolerated: tuple[str, ...] = ()


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """Why a request that carries no transaction fact is answered with a CALLERROR."""

    code: ErrorCode
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A request of ours, ready to be sent."""

    action: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A station's answer to a call of ours.

    `valid` says whether it keeps to the schema, `problem` why not; `body` is what came, JSON-able.
    """

    status: str | None
    valid: bool
    body: Any
    problem: str | None = None


class Dialect:
    """What one version of OCPP says and how."""

    def __init__(self, version: Version, declarations: Iterator[object], tolerance: Tolerance) -> None:
        from_station: dict[str, AnyFromStation] = {}
        to_station: dict[str, AnyToStation] = {}
        for declaration in declarations:
            if isinstance(declaration, FromStation):
                _declare(from_station, declaration)
            elif isinstance(declaration, ToStation):
                _declare(to_station, declaration)
        self.version: Final = version
        self.capabilities: Final[Capabilities] = CAPABILITIES[version]
        self.from_station: Final[Mapping[str, AnyFromStation]] = MappingProxyType(from_station)
        self.to_station: Final[Mapping[str, AnyToStation]] = MappingProxyType(to_station)
        self._strict = {
            name: (
                msgspec.json.Decoder(declaration.request),
                declaration,
                hashlib.blake2b(name.encode() + b"\0", digest_size=16),
            )
            for name, declaration in from_station.items()
        }
        self._tolerant = TolerantReader(tolerance)
        self._commands = {d.command: d for d in to_station.values() if d.command is not None}
        self._calls = {name: msgspec.json.Decoder(d.request) for name, d in to_station.items()}
        self._replies = {name: msgspec.json.Decoder(d.response) for name, d in to_station.items()}

    def read(self, action: str, payload: bytes | Raw, received_at: datetime) -> Inbound | Refusal:
        """A station's request as an event, or why it is refused.

        A transaction message is never refused: what cannot be understood becomes FactUnreadable.

        Source: OCPP 1.6 §4.7, §4.8, §4.10; OCPP-J 1.6 §4.2.3.
        """
        known = self._strict.get(action)
        if known is None:
            return Refusal(ErrorCode.NOT_IMPLEMENTED, "this action is not known")
        decoder, declaration, prefix = known
        try:
            return self._read(decoder, declaration, prefix, payload, received_at)
        except Exception as problem:
            # Our own mistake. A fact is kept raw and answered all the same: a station that is refused one
            # gives it up, and one that is not answered never gets past it.
            if declaration.delivery is not Delivery.TRANSACTIONAL:
                raise
            unread = FactUnreadable(action=action, problem=f"our reader failed: {type(problem).__name__}")
            return Inbound(unread, declaration.delivery, _digest(prefix, bytes(payload)), declaration)

    def _read(
        self,
        decoder: msgspec.json.Decoder[Any],
        declaration: AnyFromStation,
        prefix: "hashlib.blake2b",
        payload: bytes | Raw,
        received_at: datetime,
    ) -> Inbound | Refusal:
        try:
            request = decoder.decode(payload)
        except (ValueError, RecursionError):
            return self._read_tolerantly(declaration, prefix, payload, received_at)
        if declaration.delivery is not Delivery.TRANSACTIONAL:
            return Inbound(declaration.to_event(request, received_at), declaration.delivery, None, declaration)
        identity = declaration.identity
        content = request if identity is None else identity(request)
        return Inbound(
            declaration.to_event(request, received_at),
            declaration.delivery,
            _digest(prefix, IDENTITY.encode(content)),
            declaration,
        )

    def unreadable(self, action: str, payload: bytes | Raw, problem: str) -> Inbound | None:
        """A transaction message to be kept raw, since handling it failed; None for every other message."""
        found = self._strict.get(action)
        if found is None or found[1].delivery is not Delivery.TRANSACTIONAL:
            return None
        _, declaration, prefix = found
        event = FactUnreadable(action=action, problem=problem)
        return Inbound(event, declaration.delivery, _digest(prefix, bytes(payload)), declaration)

    def answer(self, inbound: Inbound, answer: Answer) -> bytes:
        """The payload of the CALLRESULT."""
        declaration = inbound.declaration
        return encode_payload(declaration.to_response(inbound.event, answer))

    def command(self, command: Command) -> Outgoing | Unsupported:
        """A command as a request of this version."""
        declaration = self._commands.get(type(command))
        if declaration is None or declaration.to_request is None:
            return Unsupported(reason=f"{self.version} has no message for {type(command).__name__}")
        request = declaration.to_request(command)
        if isinstance(request, Unsupported):
            return request
        return Outgoing(action=declaration.name, payload=encode_payload(request))

    def check_call(self, action: str, payload: bytes) -> str | None:
        """What is wrong with the payload of a request of ours, in one sentence; None if nothing."""
        decoder = self._calls.get(action)
        if decoder is None:
            return f"{action} is not a request that {self.version} lets a central system send."
        return _problem(decoder, payload)

    def read_reply(self, action: str, payload: bytes | Raw) -> Reply:
        """A station's answer; one that breaks the schema is a value with `valid` false."""
        decoder = self._replies.get(action)
        problem = "the action is not known" if decoder is None else _problem(decoder, payload)
        body = _plain(payload)
        status = body.get("status") if isinstance(body, dict) else None
        return Reply(
            status=status if isinstance(status, str) else None,
            valid=problem is None,
            body=body,
            problem=problem,
        )

    def _read_tolerantly(
        self,
        declaration: AnyFromStation,
        prefix: "hashlib.blake2b",
        payload: bytes | Raw,
        received_at: datetime,
    ) -> Inbound | Refusal:
        fact = declaration.delivery is Delivery.TRANSACTIONAL
        try:
            request, notes = self._tolerant.read(declaration.request, payload)
        except NotAnObject as problem:
            if not fact:
                return Refusal(ErrorCode.FORMAT_VIOLATION, str(problem))
            unread = FactUnreadable(action=declaration.name, problem=str(problem))
            return Inbound(unread, declaration.delivery, _digest(prefix, bytes(payload)), declaration)
        if notes.lacking and not fact:
            return Refusal(ErrorCode.OCCURRENCE_CONSTRAINT_VIOLATION, f"{notes.lacking[0]} is missing")
        key = None
        if fact:
            content = request if declaration.identity is None else declaration.identity(request)
            key = _digest(prefix, IDENTITY.encode(content))
        event = declaration.to_event(request, received_at)
        return Inbound(event, declaration.delivery, key, declaration, tuple(notes.codes))


def _declare(table: dict[str, Any], declaration: AnyFromStation | AnyToStation) -> None:
    if table.get(declaration.name, declaration) is not declaration:
        raise ValueError(f"{declaration.name} is declared twice")
    table[declaration.name] = declaration


def _digest(prefix: "hashlib.blake2b", content: bytes) -> bytes:
    digest = prefix.copy()
    digest.update(content)
    return digest.digest()


def encode_payload(message: OcppStruct) -> bytes:
    """A message as JSON, with every time in the one spelling that all stations read."""
    if not _has_times(type(message)):
        return exact_json(message)
    return exact_json(_with_wire_times(msgspec.to_builtins(message, builtin_types=(datetime, Decimal))))


def _with_wire_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_wire_times(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_wire_times(item) for item in value]
    return wire_time(value) if isinstance(value, datetime) else value


@cache
def _has_times(kind: type[OcppStruct]) -> bool:
    def within(info: inspect.Type) -> bool:
        match info:
            case inspect.Metadata():
                return within(info.type)
            case inspect.UnionType():
                return any(within(item) for item in info.types)
            case inspect.ListType():
                return within(info.item_type)
            case inspect.StructType():
                return any(within(member.type) for member in info.fields)
        return isinstance(info, inspect.DateTimeType)

    return within(inspect.type_info(kind))


def _problem(decoder: msgspec.json.Decoder[Any], payload: bytes | Raw) -> str | None:
    """Why a payload breaks its schema, as a sentence; the rules that decoding leaves out as well."""
    try:
        message = decoder.decode(payload)
        plain = forgiving_json(payload)
    except RecursionError:
        return "The payload is nested too deeply."
    except ValueError as problem:
        return _sentence(str(problem))
    broken = _broken(inspect.type_info(type(message)), plain, "$")
    return None if broken is None else _sentence(broken)


def _sentence(text: str) -> str:
    return text if text.endswith(".") else text + "."


def _broken(info: inspect.Type, value: Any, path: str) -> str | None:
    """The first rule that a decoded payload breaks all the same.

    Decoding takes null for absent, where the schemas know absent members only, and texts for exact
    numbers, whose bounds it does not check.
    """
    if value is None:
        return f"Expected a value, got `null` - at `{path}`"
    found: Iterator[str | None] = iter(())
    match info:
        case inspect.Metadata(extra=dict() as rules) if isinstance(info.type, inspect.DecimalType):
            return _broken_number(rules, value, path)
        case inspect.DecimalType():
            return _broken_number({}, value, path)
        case inspect.Metadata():
            return _broken(info.type, value, path)
        case inspect.UnionType():
            found = (_broken(t, value, path) for t in info.types if not isinstance(t, inspect.NoneType))
        case inspect.ListType():
            found = (_broken(info.item_type, item, f"{path}[{i}]") for i, item in enumerate(value))
        case inspect.StructType():
            kinds = {member.encode_name: member.type for member in info.fields}
            found = (_broken(kinds[name], item, f"{path}.{name}") for name, item in value.items())
    return next((problem for problem in found if problem is not None), None)


def _broken_number(rules: Mapping[str, str], value: Any, path: str) -> str | None:
    """Which bound a number breaks."""
    if isinstance(value, str):
        return f"Expected a number, got a text - at `{path}`"
    number = Decimal(value)
    if abs(number.adjusted()) > 40:
        return f"The number is out of every range - at `{path}`"
    if "minimum" in rules and number < Decimal(rules["minimum"]):
        return f"Expected a number >= {rules['minimum']} - at `{path}`"
    if "maximum" in rules and number > Decimal(rules["maximum"]):
        return f"Expected a number <= {rules['maximum']} - at `{path}`"
    if "multipleOf" in rules and _EXACT.remainder(number, Decimal(rules["multipleOf"])):
        return f"Expected a multiple of {rules['multipleOf']} - at `{path}`"
    return None


def _plain(payload: bytes | Raw) -> Any:
    """What came, in plain JSON values; None if it is no JSON at all."""
    try:
        return msgspec.json.decode(payload)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(exact_json(forgiving_json(payload)), parse_int=_whole)
    except (ValueError, RecursionError):
        return None


def _whole(digits: str) -> int | str:
    """A whole number, or its digits where no column could hold it."""
    return int(digits) if len(digits) <= 18 else digits[:64]


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.iter_modules(package.__path__):
        if found.name != "types":
            yield importlib.import_module(f"{package.__name__}.{found.name}")


def _declarations(version: Version) -> Iterator[object]:
    """Every declaration for a version, from every module of its package."""
    for module in _modules(v16 if version is Version.V16 else v2):
        for value in vars(module).values():
            if isinstance(value, FromStation | ToStation) and version in value.versions:
                yield value


@cache
def dialect(version: Version) -> Dialect:
    """The dialect of a version; built once."""
    tolerance = quirks.TOLERANCE if version is Version.V16 else Tolerance()
    return Dialect(version, _declarations(version), tolerance)
