"""Passwords out of recorded messages: what a message holds is read as JSON, never searched as text.

A station's password goes over the wire in ChangeConfiguration (AuthorizationKey) and SetVariables
(BasicAuthPassword), and some stations report it back. JSON may spell a name in many ways, and stations take
names in any letter case, so only the decoded names count. What cannot be read and may hold a secret is masked
as a whole. The free text of DataTransfer is the vendor's and is left as it is.
"""

import json
from decimal import Decimal
from typing import Any, Final, NoReturn

import msgspec

MASK: Final = "***"
_ALL: Final = '{"masked":true}'
_NAMES: Final = ("authorizationkey", "password", "passwd", "secret")
_VALUES: Final = ("value", "attributevalue", "variableattribute")
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


class _Doubtful(Exception):
    """A name twice in one object, or a number that is none: two readers would read it differently."""


def mask(action: str, payload: str) -> str:
    """A message as it may be recorded: the same text, or, where it held a password, the rest of it around `***`."""
    text = payload.casefold()
    if action == "DataTransfer" or not ("\\u" in text or any(name in text for name in _NAMES)):
        return payload
    try:
        read = json.loads(payload, object_pairs_hook=_object, parse_float=Decimal, parse_constant=_refuse)
        masked = _masked(read)
        return payload if masked == read else _ENCODER.encode(masked).decode()
    except (ValueError, RecursionError, _Doubtful, msgspec.MsgspecError):
        return _ALL


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name.casefold() for name, _ in pairs}) < len(pairs):
        raise _Doubtful
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise _Doubtful(constant)


def _masked(value: Any) -> Any:
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = _names_secret(value)
    return {
        name: MASK if _is_secret(name) or (named and name.casefold() in _VALUES) else _masked(inner)
        for name, inner in value.items()
    }


def _names_secret(item: dict[str, Any]) -> bool:
    """Whether an object is one setting, `{"key": ..., "value": ...}` or with a `variable`, that is a password."""
    for name, inner in item.items():
        if name.casefold() == "key" and isinstance(inner, str) and _is_secret(inner):
            return True
        if name.casefold() == "variable" and isinstance(inner, dict):
            return any(isinstance(text, str) and _is_secret(text) for text in inner.values())
    return False


def _is_secret(name: str) -> bool:
    plain = name.casefold()
    return any(secret in plain for secret in _NAMES)
