"""Reads a request that breaks its schema, as far as it can be understood.

Rules: a charger is never wrong. Unknown members are ignored, nulls dropped, scalars converted,
enumerations compared without case and punctuation and through a table of aliases, lengths not
enforced, and what a table of defaults knows is filled in. Every liberty taken is noted in short
codes such as `unknown_member:foo`. Numbers are never read as binary fractions.

The Struct that comes out may hold None where its type says otherwise, and the station's own text
in place of an enumeration; only `to_event` functions see it.

Source: quirks 66, 67, 73-76; OCPP 1.6 §4.8, §4.10.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import Raw, inspect

from voltledger.ocpp.clock import UnreadTime, parse_time
from voltledger.ocpp.rpc import exact_json, forgiving_json
from voltledger.ocpp.structs import OcppStruct
from voltledger.ocpp.text import TEXT_LIMIT

NOTES_LIMIT: Final = 16
ITEMS_LIMIT: Final = 20_000

NUMBER: Final = re.compile(r"[+-]?(?:\d{1,24}(?:\.\d{0,24})?|\.\d{1,24})(?:[eE][+-]?\d{1,2})?", re.ASCII)
_PUNCTUATION: Final = re.compile(r"[^a-z0-9%]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """A version's tables: other spellings of enumerations, and values for what is missing."""

    aliases: Mapping[type[Enum], Mapping[str, Enum]] = field(default_factory=dict)
    defaults: Mapping[type[msgspec.Struct], Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Notes:
    """What was forgiven while reading, and which required members stayed unknown."""

    codes: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    def add(self, code: str, name: str) -> None:
        """Notes one liberty, once; long lists are cut."""
        text = f"{code}:{name[:40]}"
        if text not in self.codes and len(self.codes) < NOTES_LIMIT:
            self.codes.append(text)


class NotAnObject(ValueError):
    """The payload is no JSON, or not an object."""


Reader = Callable[[Any, str, Notes], Any]


class TolerantReader:
    """Builds requests of one version from whatever a station sent."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._readers: dict[type, Reader] = {}

    def read(self, kind: type[OcppStruct], payload: bytes | Raw) -> tuple[OcppStruct, Notes]:
        """The request as far as it can be understood, and what had to be forgiven.

        An empty array counts as an empty object: some encoders write it so.

        Raises: NotAnObject.
        """
        try:
            value = forgiving_json(payload)
        except (ValueError, RecursionError) as problem:
            raise NotAnObject("the payload is not JSON that can be read") from problem
        notes = Notes()
        if value is None or value == [] or value == "":
            notes.add("not_an_object", "payload")
            value = {}
        if not isinstance(value, dict):
            raise NotAnObject("the payload is not an object")
        request: OcppStruct = self._reader(kind)(value, "payload", notes)
        return request, notes

    def _reader(self, kind: type[OcppStruct]) -> Reader:
        if kind not in self._readers:
            self._readers[kind] = self._for_struct(inspect.type_info(kind))
        return self._readers[kind]

    def _for(self, info: inspect.Type) -> tuple[Reader, int | None]:
        """How to read one type, and the length limit that is only noted."""
        match info:
            case inspect.Metadata():
                return self._for(info.type)
            case inspect.UnionType():
                return self._for(next(t for t in info.types if not isinstance(t, inspect.NoneType)))
            case inspect.StructType():
                return self._for_struct(info), None
            case inspect.ListType():
                return self._for_list(info), None
            case inspect.EnumType():
                return self._for_enum(info.cls), None
            case inspect.StrType():
                return _text, info.max_length
            case inspect.IntType():
                return _integer, None
            case inspect.DecimalType():
                return _exact, None
            case inspect.BoolType():
                return _boolean, None
            case inspect.DateTimeType():
                return _time, None
        return lambda value, name, notes: value, None

    def _for_struct(self, info: inspect.Type) -> Reader:
        if not isinstance(info, inspect.StructType):
            raise TypeError(f"{info} is not a Struct")
        kind = info.cls
        defaults = self._tolerance.defaults.get(kind, {})
        fields = {f.encode_name: (f.name, *self._for(f.type), f.required) for f in info.fields}
        folded = {_fold(name): name for name in fields}

        def read(value: Any, name: str, notes: Notes) -> Any:
            if not isinstance(value, dict):
                notes.add("unreadable", name)
                return None
            members = _members(value, fields, folded, notes)
            found: dict[str, Any] = {}
            for wire, (python, reader, limit, required) in fields.items():
                given = members.get(wire)
                result = None if given is None else reader(given, wire, notes)
                if isinstance(result, str) and limit is not None and len(result) > limit:
                    notes.add("too_long", wire)
                if result is None and required:
                    notes.add("missing" if given is None else "unreadable", wire)
                    result = defaults.get(python)
                    if python not in defaults:
                        notes.lacking.append(wire)
                found[python] = result
            return kind(**found)

        return read

    def _for_list(self, info: inspect.ListType) -> Reader:
        reader, _ = self._for(info.item_type)

        def read(value: Any, name: str, notes: Notes) -> Any:
            if isinstance(value, dict):
                notes.add("coerced", name)
                value = [value]
            if not isinstance(value, list):
                notes.add("unreadable", name)
                return None
            if not value:
                notes.add("empty", name)
            items = [reader(item, name, notes) for item in value[:ITEMS_LIMIT]]
            return [item for item in items if item is not None]

        return read

    def _for_enum(self, kind: type[Enum]) -> Reader:
        table: dict[str, Any] = {_fold(member.value): member for member in kind}
        table.update({_fold(text): member for text, member in self._tolerance.aliases.get(kind, {}).items()})
        exact: dict[str, Any] = {member.value: member for member in kind}

        def read(value: Any, name: str, notes: Notes) -> Any:
            text = _text(value, name, notes)
            if text is None or text in exact:
                return exact.get(text) if text is not None else None
            member = table.get(_fold(text))
            notes.add("spelling" if member is not None else "unknown_value", name)
            return member if member is not None else text

        return read


def _members(
    value: dict[str, Any], known: Mapping[str, object], folded: Mapping[str, str], notes: Notes
) -> dict[str, Any]:
    """The members that have a meaning, without nulls; a name in other case counts if its own is absent."""
    members: dict[str, Any] = {}
    for name, given in value.items():
        if given is None:
            notes.add("null", name)
        elif name in known:
            members[name] = given
    for name, given in value.items():
        if given is None or name in known:
            continue
        meant = folded.get(_fold(name))
        if meant is not None and meant not in members:
            notes.add("spelling", name)
            members[meant] = given
        else:
            notes.add("unknown_member", name)
    return members


def _fold(text: str) -> str:
    """How words are compared: without case and punctuation."""
    return _PUNCTUATION.sub("", text.casefold())


def _text(value: Any, name: str, notes: Notes) -> str | None:
    if isinstance(value, str):
        text = value
    else:
        notes.add("coerced", name)
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, int | Decimal):
            text = str(value)
        else:
            text = exact_json(value).decode()
    if len(text) > TEXT_LIMIT:
        notes.add("cut", name)
        text = text[:TEXT_LIMIT]
    return text


def _exact(value: Any, name: str, notes: Notes) -> Decimal | None:
    """A number from a number or its text; what no meter can show is None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return Decimal(value)
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        notes.add("coerced", name)
        return Decimal(value.strip())
    return None


def _integer(value: Any, name: str, notes: Notes) -> int | None:
    """A whole number; a fraction is cut off downwards, as registers are."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _exact(value, name, notes)
    if number is None or number.adjusted() > 30:
        return None
    whole = number.to_integral_value(ROUND_FLOOR)
    notes.add("coerced" if whole == number else "rounded", name)
    return int(whole)


def _boolean(value: Any, name: str, notes: Notes) -> bool | None:
    if isinstance(value, bool):
        return value
    notes.add("coerced", name)
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())


def _time(value: Any, name: str, notes: Notes) -> datetime | None:
    """A time, or an UnreadTime that keeps the text."""
    if isinstance(value, int) and not isinstance(value, bool) and 10**9 <= value < 10**10:
        notes.add("coerced", name)
        return datetime.fromtimestamp(value, UTC)
    text = _text(value, name, notes)
    if text is None or not text.strip():
        return None
    found = parse_time(text)
    if found is not None:
        return found
    notes.add("unreadable", name)
    return UnreadTime.of(text)


def encode_unread(value: object) -> object:
    """For encoders of identities: an UnreadTime is what the station wrote."""
    if isinstance(value, UnreadTime):
        return value.text
    raise TypeError(f"{type(value).__name__} has no identity")


IDENTITY: Final = msgspec.json.Encoder(enc_hook=encode_unread)
"""Encodes what makes two requests the same fact: equal content gives equal bytes."""
