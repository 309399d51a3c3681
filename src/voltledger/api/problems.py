"""Every error as a problem document (RFC 9457): what happened, in one sentence, and the request's id.

What goes out is written here. The text of an unexpected exception never does: it is logged with the
request's id, and the caller gets the id.

    400  the body is not JSON            404  absent, or somebody else's
    401  no key, or not a valid one      409  its state does not allow this; not connected
    403  the key's role may not          422  a field is wrong, or the books do not allow it
    503  the database is away, with Retry-After
"""

import logging
import re
import secrets
from collections.abc import Mapping
from typing import Any

from litestar import Response
from litestar.exceptions import ClientException, HTTPException, ValidationException
from litestar.exceptions.http_exceptions import TooManyRequestsException
from litestar.types import Message, Scope

from voltledger.api.wire import AnyRequest, encode
from voltledger.api.words import plain
from voltledger.domain.errors import (
    CurrencyMismatch,
    DomainError,
    InsufficientFunds,
    InvalidInput,
    NotFound,
    NotPossibleNow,
    SameKeyOtherInput,
)
from voltledger.services.runtime import CallOutcome, StoreContention, StoreUnavailable

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 2
_LOG = logging.getLogger("voltledger.api")
_NAMED_FIELD = re.compile(r"(?:unknown|required) field `([^`]+)`")

STATUS_OF: Mapping[type[DomainError], tuple[int, str]] = {
    NotFound: (404, "Not found"),
    NotPossibleNow: (409, "Not possible now"),
    InsufficientFunds: (422, "Insufficient funds"),
    CurrencyMismatch: (422, "Two currencies"),
    SameKeyOtherInput: (422, "Same idempotency key, other request"),
    InvalidInput: (422, "Invalid input"),
}
TITLES = {
    400: "Not readable",
    401: "Not authenticated",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    413: "Too large",
    415: "Unsupported media type",
    429: "Too many requests",
}


class NotConnected(Exception):
    """The station is not connected; carries the outcome for the answer."""

    def __init__(self, station_id: str, outcome: CallOutcome) -> None:
        super().__init__(f"station {station_id} is not connected")
        self.outcome = outcome


class SchemaProblem(Exception):
    """A raw payload does not fit its schema; the message says where."""


def request_id(scope: Scope) -> str:
    """This request's id: one is made at its first use."""
    state = scope.setdefault("state", {})
    if "request_id" not in state:
        state["request_id"] = secrets.token_hex(8)
    return str(state["request_id"])


CSP = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    b"base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)
_HEADERS = (
    (b"content-security-policy", CSP),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


async def add_headers(message: Message, scope: Scope) -> None:
    """Security headers and the request's id, on every response, errors and unknown paths among them."""
    if message["type"] != "http.response.start":
        return
    headers = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", request_id(scope).encode())]
    if not any(name.lower() == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    message["headers"] = headers


def problem(
    request: AnyRequest,
    status: int,
    title: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    **members: object,
) -> Response[bytes]:
    """One problem document."""
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "request_id": request_id(request.scope),
        **members,
    }
    return Response(encode(body), status_code=status, media_type=PROBLEM_JSON, headers=dict(headers or {}))


def on_domain_error(request: AnyRequest, error: DomainError) -> Response[bytes]:
    """A rule of ours that the request would break."""
    status, title = next((v for kind, v in STATUS_OF.items() if isinstance(error, kind)), (422, "Not allowed"))
    if isinstance(error, InvalidInput):
        return problem(request, status, title, str(error), errors=[{"field": error.field, "problem": error.problem}])
    return problem(request, status, title, str(error))


def on_validation(request: AnyRequest, error: ValidationException) -> Response[bytes]:
    """Fields of the wrong shape, each by name."""
    extra: Any = error.extra if isinstance(error.extra, list) else []
    errors = [_field_problem(item) for item in extra]
    if not errors:
        return problem(request, 400, TITLES[400], "the request is not what this path expects")
    detail = "; ".join(f"{e['field']}: {e['problem']}" for e in errors)
    return problem(request, 422, "Invalid input", detail, errors=errors)


def _field_problem(item: Mapping[str, Any]) -> dict[str, str]:
    text = str(item.get("message", "is not valid")).split(" - at ")[0]
    if text == "'data'":  # the framework's way to say that there is no body
        return {"field": "body", "problem": "is required"}
    named = _NAMED_FIELD.search(text)
    if named is not None:
        missing = "required" in text
        return {"field": named[1], "problem": "is required" if missing else "is not a field of this request"}
    field = str(item.get("key") or "body")
    field = "body" if field == "data" else field
    return {"field": field, "problem": plain(field, text)}


def on_http_error(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """What the framework refuses; its own words only where they are known to be harmless."""
    status = error.status_code
    if status >= 500:
        return on_unexpected(request, error)
    headers = dict(error.headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    known = {
        400: "the body is not readable as JSON",
        404: "there is nothing at this path",
        405: "this path does not know this method",
        413: "the body is larger than this path accepts",
    }
    detail = error.detail if status in (401, 403, 415, 429) else known.get(status, "the request is not accepted")
    if isinstance(error, TooManyRequestsException):
        headers.setdefault("Retry-After", "60")
    return problem(request, status, TITLES.get(status, "Not accepted"), detail, headers=headers)


def on_not_connected(request: AnyRequest, error: NotConnected) -> Response[bytes]:
    """The one outcome of a call that is an error."""
    return problem(
        request,
        409,
        "Not connected",
        str(error),
        outcome=error.outcome.outcome,
        call_id=error.outcome.call_id,
        response=error.outcome.response,
    )


def on_schema_problem(request: AnyRequest, error: SchemaProblem) -> Response[bytes]:
    """A raw payload that its schema refuses."""
    return problem(
        request,
        422,
        "Payload does not fit the schema",
        str(error),
        errors=[{"field": "body", "problem": str(error)}],
    )


def on_away(request: AnyRequest, error: Exception) -> Response[bytes]:
    """The database is away or was in the way: nothing was changed for certain, the same again will do."""
    _LOG.warning("❌ request %s could not be served: %s", request_id(request.scope), error)
    return problem(
        request,
        503,
        "Database not available",
        "the database is not available; send the same request again, with its Idempotency-Key if it had one",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )


def on_unexpected(request: AnyRequest, error: Exception) -> Response[bytes]:
    """Our own mistake: told by its id only, logged in full."""
    _LOG.error("❌ request %s failed", request_id(request.scope), exc_info=error)
    return problem(request, 500, "Our mistake", "something went wrong here; the log has it under the request id")


def on_too_deep(request: AnyRequest, error: RecursionError) -> Response[bytes]:
    """A body nested so deep that no reader follows it."""
    return problem(request, 400, TITLES[400], "the body is nested too deep")


HANDLERS: dict[type[Exception] | int, Any] = {
    DomainError: on_domain_error,
    ValidationException: on_validation,
    ClientException: on_http_error,
    HTTPException: on_http_error,
    NotConnected: on_not_connected,
    SchemaProblem: on_schema_problem,
    RecursionError: on_too_deep,
    StoreUnavailable: on_away,
    StoreContention: on_away,
    Exception: on_unexpected,
}
