"""JSON as the API writes it: numbers exact, times RFC 3339 with Z; and compacting what others wrote."""

import re
from typing import Any, Final, TypeVar

import msgspec
from litestar import Request, Response
from litestar.types import Serializer

from voltledger.services.catalog import Actor
from voltledger.services.runtime import Runtime

AnyRequest = Request[Any, Any, Any]
Content = TypeVar("Content")

JSON: Final = "application/json"
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_BLANK_OR_STRING = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\r\n]+')


def encode(value: object) -> bytes:
    """The value as JSON; decimals as numbers, exact."""
    return _ENCODER.encode(value)


def compact(text: str) -> str:
    """JSON without blanks between its parts; strings, numbers and the order of members as written."""
    return _BLANK_OR_STRING.sub(lambda match: match[1] or "", text)


class ApiResponse(Response[Content]):
    """A response whose content is written by our encoder."""

    def render(self, content: Any, media_type: str, enc_hook: Serializer = str) -> bytes:
        """Bytes and texts as they are, everything else as JSON."""
        if isinstance(content, bytes):
            return content
        if isinstance(content, str):
            return content.encode()
        return encode(content)


def runtime_of(request: AnyRequest) -> Runtime:
    """What the application was made with."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def actor_of(request: AnyRequest) -> Actor:
    """Who is asking; set by the guard of every route under `/api/v1`."""
    actor: Actor = request.scope["auth"]
    return actor


def own_user(request: AnyRequest) -> str | None:
    """Whose things the caller may see: None for everybody's, a driver's own user otherwise."""
    actor = actor_of(request)
    return actor.user if actor.role == "driver" else None
