"""The table of permissions names every route under `/api/v1`, and no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from litestar.routes import HTTPRoute

from voltledger.api import create_app
from voltledger.api.access import PERMISSIONS, V1
from voltledger.services.catalog import ROLES


def test_every_route_has_a_declared_permission_and_every_permission_a_route() -> None:
    app = create_app(cast(Any, SimpleNamespace()))
    routes = {
        (method, route.path_format.removeprefix(V1))
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path.startswith(V1)
        for method in route.methods - {"OPTIONS"}
    }
    assert routes == set(PERMISSIONS)


def test_permissions_name_only_roles_that_exist() -> None:
    assert set().union(*PERMISSIONS.values()) == set(ROLES)


def test_admin_may_do_everything_and_viewers_only_look() -> None:
    assert all("admin" in roles for roles in PERMISSIONS.values())
    assert all(method == "GET" for (method, _), roles in PERMISSIONS.items() if "viewer" in roles)


def test_only_finance_and_admin_move_money_or_set_prices() -> None:
    money = [("POST", "/wallets/{user_id}/topups"), ("POST", "/tariffs"), ("POST", "/organizations")]
    assert all(PERMISSIONS[route] == {"finance", "admin"} for route in money)


def test_the_description_names_every_route_and_its_key() -> None:
    schema = create_app(cast(Any, SimpleNamespace())).openapi_schema.to_schema()
    described = {
        (method.upper(), path.removeprefix(V1))
        for path, item in schema["paths"].items()
        for method in item
        if path.startswith(V1)
    }
    assert described == set(PERMISSIONS)
    assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_the_documented_table_is_the_one_that_is_enforced() -> None:
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    documented = {}
    for line in text.splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0] in ("GET", "POST", "PATCH", "PUT", "DELETE"):
            documented[(cells[0], cells[1])] = frozenset(cells[3].split(", "))
    assert documented == PERMISSIONS
