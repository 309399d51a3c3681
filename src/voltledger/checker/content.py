"""When two JSON payloads are the same message, whoever wrote them and in which order."""

import hashlib
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder().decode


def content_of(payload: Any) -> bytes:
    """The same 16 bytes for the same content, whatever the order of its members."""
    return hashlib.blake2b(_encode(payload), digest_size=16).digest()


def content_of_text(text: str) -> bytes:
    """The same, of JSON text; text that is no JSON is its own content."""
    try:
        return content_of(_decode(text))
    except (msgspec.DecodeError, RecursionError):
        return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def parsed(text: str) -> dict[str, Any]:
    """A JSON object; empty when the text is none."""
    try:
        value = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
