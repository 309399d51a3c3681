"""Who may do what: one table of all routes under `/api/v1`, and the guard that reads it.

A route that is not in the table is refused, and a test compares the table with the routes.
"""

from collections.abc import Mapping
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers.base import BaseRouteHandler

from voltledger.domain.errors import InvalidInput
from voltledger.services.runtime import Runtime

READ: Final = frozenset({"viewer", "operator", "finance", "admin"})
OPERATE: Final = frozenset({"operator", "admin"})
PEOPLE: Final = frozenset({"operator", "finance", "admin"})
MONEY: Final = frozenset({"finance", "admin"})
ADMIN: Final = frozenset({"admin"})
OWN: Final = frozenset({"driver"})
"""Drivers see and do what is theirs: the routes that name OWN look only at the key's own user."""

V1: Final = "/api/v1"

PERMISSIONS: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("GET", "/stations"): READ,
    ("POST", "/stations"): OPERATE,
    ("GET", "/stations/{station_id}"): READ,
    ("PATCH", "/stations/{station_id}"): OPERATE,
    ("POST", "/stations/{station_id}/password"): OPERATE,
    ("GET", "/stations/{station_id}/frames"): READ,
    ("GET", "/stations/{station_id}/variables"): OPERATE,
    ("PUT", "/stations/{station_id}/variables"): OPERATE,
    ("POST", "/stations/{station_id}/calls/{action}"): OPERATE,
    ("POST", "/stations/{station_id}/commands/start"): OPERATE,
    ("POST", "/stations/{station_id}/commands/stop"): OPERATE,
    ("POST", "/stations/{station_id}/commands/reset"): OPERATE,
    ("POST", "/stations/{station_id}/commands/unlock"): OPERATE,
    ("POST", "/stations/{station_id}/commands/availability"): OPERATE,
    ("POST", "/stations/{station_id}/commands/trigger"): OPERATE,
    ("POST", "/stations/{station_id}/commands/clear-cache"): OPERATE,
    ("POST", "/stations/{station_id}/commands/configuration"): OPERATE,
    ("GET", "/tokens"): READ,
    ("POST", "/tokens"): OPERATE,
    ("GET", "/tokens/{value}"): READ,
    ("PATCH", "/tokens/{value}"): OPERATE,
    ("GET", "/users"): READ,
    ("POST", "/users"): PEOPLE,
    ("GET", "/users/{user_id}"): READ | OWN,
    ("GET", "/organizations"): READ,
    ("POST", "/organizations"): MONEY,
    ("GET", "/organizations/{organization_id}"): READ,
    ("PATCH", "/organizations/{organization_id}"): MONEY,
    ("GET", "/wallets/{user_id}"): READ | OWN,
    ("GET", "/wallets/{user_id}/transactions"): READ | OWN,
    ("POST", "/wallets/{user_id}/topups"): MONEY,
    ("GET", "/tariffs"): READ | OWN,
    ("POST", "/tariffs"): MONEY,
    ("GET", "/apikeys"): ADMIN,
    ("POST", "/apikeys"): ADMIN,
    ("DELETE", "/apikeys/{key_id}"): ADMIN,
    ("GET", "/sessions"): READ | OWN,
    ("POST", "/sessions"): OPERATE | OWN,
    ("GET", "/sessions/{session_id}"): READ | OWN,
    ("GET", "/sessions/{session_id}/readings"): READ | OWN,
    ("GET", "/sessions/{session_id}/explain"): READ | OWN,
    ("POST", "/sessions/{session_id}/stop"): OPERATE | OWN,
    ("GET", "/findings"): READ,
    ("GET", "/findings/{finding_id}"): READ,
    ("POST", "/findings/{finding_id}/accept"): OPERATE,
    ("POST", "/findings/{finding_id}/dismiss"): OPERATE,
    ("POST", "/findings/{finding_id}/remedy"): OPERATE,
    ("GET", "/ledger/accounts"): READ,
    ("GET", "/ledger/entries"): READ,
    ("GET", "/overview"): READ,
    ("GET", "/events"): READ,
}
"""Roles by method and path below `/api/v1`."""


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Finds out who is asking and whether they may.

    Raises: NotAuthorizedException, PermissionDeniedException, StoreUnavailable.
    """
    runtime: Runtime = connection.app.state.runtime
    key = bearer_key(connection)
    if key is None:
        raise NotAuthorizedException("send an API key: `Authorization: Bearer KEY`")
    actor = await runtime.catalog.actor_of(key)
    if actor is None:
        raise NotAuthorizedException("this API key is not valid, or not any more")
    path = str(connection.scope.get("path_template", "")).removeprefix(V1)
    allowed = PERMISSIONS.get((str(connection.scope.get("method", "")), path), frozenset())
    if actor.role not in allowed:
        raise PermissionDeniedException(f"a key with the role {actor.role} may not do this")
    connection.scope["auth"] = actor
    _refuse_unknown_parameters(connection, handler)


def bearer_key(connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    """The API key that came with a request, if one did."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def _refuse_unknown_parameters(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A filter with a typing mistake must not silently list everything."""
    known = {name.rstrip("_") for name in handler.parsed_fn_signature.parameters}
    for name in connection.query_params:
        if name not in known or name in ("request", "data"):
            raise InvalidInput(name, "is not a parameter of this path")
