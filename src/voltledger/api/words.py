"""What is wrong with a field, in words for people: what it must be, an example, and what it was."""

import re
from collections.abc import Mapping
from typing import Final

_WORDS: Final[Mapping[str, str]] = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object with members",
    "datetime": "a time with its offset",
    "uuid": "an id of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx",
    "null": "null",
}
_WAS: Final[Mapping[str, str]] = {
    "int": "a number",
    "float": "a number with decimals",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_EXAMPLES: Final[Mapping[str, str]] = {
    "amount_minor": "50000 (minor units: 500.00 INR)",
    "price_per_kwh_minor": "2000 (minor units: 20.00 INR)",
    "fee_percent": "10",
    "currency": '"INR"',
    "ocpp_versions": '["ocpp1.6"]',
    "keys": '["HeartbeatInterval"]',
    "security_profile": "1",
}
_EXAMPLES_OF_KINDS: Final[Mapping[str, str]] = {
    "int": "1",
    "float": "1.5",
    "decimal": "1.5",
    "str": '"text"',
    "bool": "true",
    "array": '["text"]',
    "object": "{}",
    "datetime": '"2026-01-31T12:00:00Z"',
    "uuid": '"01890a5d-ac96-774b-bcce-b302099a8057"',
}
_KIND = re.compile(r"Expected `([a-z |]+)`")
_GOT = re.compile(r"got `([a-z]+)`")
_BOUND = re.compile(r"`(?:int|float|decimal)` (>=|<=|>|<) (\S+)")
_LENGTH = re.compile(r"of length (>=|<=) (\d+)")
_ENUM = re.compile(r"Invalid enum value (.+)")
_BOUNDS: Final[Mapping[str, str]] = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}
_INVALID: Final[Mapping[str, str]] = {
    "Invalid RFC3339": "datetime",
    "Expected `datetime` with a timezone": "datetime",
    "Invalid UUID": "uuid",
    "Invalid decimal": "decimal",
}


def plain(field: str, text: str) -> str:
    """The reader's own words about a field (`Expected `int`, got `float``) as what people understand.

    What is not known here stays as it is.
    """
    for start, kind in _INVALID.items():
        if text.startswith(start):
            return _must_be(field, kind)
    enum = _ENUM.match(text)
    if enum is not None:
        return f"must be one of the words that /openapi.json lists for it, not {enum[1]}"
    kinds = _KIND.match(text)
    if kinds is None:
        return text
    kind = kinds[1].split(" | ")[0]
    bound, length, got = _BOUND.search(text), _LENGTH.search(text), _GOT.search(text)
    if length is not None:
        return f"must be a text of {_BOUNDS[length[1]]} {length[2]} characters"
    if bound is not None:
        return f"must be {_WORDS.get(kind, kind)}, {_BOUNDS[bound[1]]} {bound[2]}{_example(field, kind)}"
    was = "" if got is None else f"; it was {_WAS.get(got[1], got[1])}"
    return f"{_must_be(field, kind)}{was}"


def _must_be(field: str, kind: str) -> str:
    return f"must be {_WORDS.get(kind, kind)}{_example(field, kind)}"


def _example(field: str, kind: str) -> str:
    example = _EXAMPLES.get(field, _EXAMPLES_OF_KINDS.get(kind))
    return "" if example is None else f", such as {example}"
