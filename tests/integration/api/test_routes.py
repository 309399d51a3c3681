"""Every route with every role, and every refusal, against a real database."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.integration.api.conftest import NOW, World, insert_session, make_runtime
from voltledger.api import create_app
from voltledger.api.access import PERMISSIONS
from voltledger.domain.commands import (
    ChangeAvailability,
    ReadConfiguration,
    ResetKind,
    ResetStation,
    StartCharging,
    StopCharging,
    TriggerReport,
    UnlockConnector,
    WriteConfiguration,
)
from voltledger.domain.errors import CurrencyMismatch, InsufficientFunds, NotPossibleNow
from voltledger.services.catalog import ROLES
from voltledger.services.runtime import CallOutcome, ConnectionInfo
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.queries import SQL

SESSION_MEMBERS = [
    "id", "status", "station", "connector", "user", "transaction_id", "started_at", "ended_at", "stop_reason",
    "energy_wh", "paid_minor", "cost_minor", "refund_minor", "fee_minor", "share_minor", "currency", "estimated",
    "settled_at",
]  # fmt: skip

BODIES: dict[tuple[str, str], tuple[Any, int]] = {
    ("POST", "/stations"): ({"id": "CP-NEW"}, 201),
    ("PATCH", "/stations/{station_id}"): ({"disabled": True}, 200),
    ("POST", "/stations/{station_id}/password"): ({}, 200),
    ("PUT", "/stations/{station_id}/variables"): ({"key": "HeartbeatInterval", "value": "60"}, 200),
    ("POST", "/stations/{station_id}/calls/{action}"): ({"type": "Soft"}, 200),
    ("POST", "/stations/{station_id}/commands/start"): ({"token": "abc", "connector": 1}, 200),
    ("POST", "/stations/{station_id}/commands/stop"): ({"transaction_id": "7"}, 200),
    ("POST", "/stations/{station_id}/commands/reset"): ({"kind": "Hard"}, 200),
    ("POST", "/stations/{station_id}/commands/unlock"): ({"connector": 1}, 200),
    ("POST", "/stations/{station_id}/commands/availability"): ({"operative": False}, 200),
    ("POST", "/stations/{station_id}/commands/trigger"): ({"message": "Heartbeat"}, 200),
    ("POST", "/stations/{station_id}/commands/clear-cache"): (None, 200),
    ("POST", "/stations/{station_id}/commands/configuration"): ({"keys": ["a"]}, 200),
    ("POST", "/tokens"): ({"value": "NEW"}, 201),
    ("PATCH", "/tokens/{value}"): ({"status": "Blocked"}, 200),
    ("POST", "/users"): ({"name": "Dora"}, 201),
    ("POST", "/organizations"): ({"name": "Acme Parking", "fee_percent": 12.5}, 201),
    ("PATCH", "/organizations/{organization_id}"): ({"fee_percent": None}, 200),
    ("POST", "/wallets/{user_id}/topups"): ({"amount_minor": 100}, 201),
    ("POST", "/tariffs"): ({"price_per_kwh_minor": 1234.5}, 201),
    ("POST", "/apikeys"): ({"role": "viewer"}, 201),
    ("DELETE", "/apikeys/{key_id}"): (None, 204),
    ("POST", "/sessions"): ({"station": "CP-1", "connector": 1, "user": "anna", "amount_minor": 100}, 201),
    ("POST", "/sessions/{session_id}/stop"): (None, 200),
    ("POST", "/findings/{finding_id}/accept"): (None, 200),
    ("POST", "/findings/{finding_id}/dismiss"): (None, 200),
    ("POST", "/findings/{finding_id}/remedy"): (None, 409),
}


async def _filled(world: World) -> dict[str, str]:
    """Names that exist, for the parts of paths."""
    await world.catalog.add_token(value="abC1", user="anna")
    session = await insert_session(world.sql, "CP-1", user="anna", paid_minor=500, energy_wh=100, transaction_ref="7")
    finding = await world.sql.fetchval(
        "INSERT INTO finding (kind, key, state, station_id, summary) "
        "VALUES ('ghost', 'g', 'open', 'CP-1', 's') RETURNING id"
    )
    key = await world.catalog.add_key(role="viewer")
    return {
        "station_id": "CP-1",
        "action": "Reset",
        "value": "abc1",
        "user_id": "anna",
        "organization_id": "default",
        "session_id": str(session),
        "finding_id": str(finding),
        "key_id": key.id,
    }


@pytest.mark.parametrize("route", [r for r in PERMISSIONS if r != ("GET", "/events")], ids=" ".join)
async def test_a_route_serves_the_roles_it_names_and_refuses_all_others(world: World, route: tuple[str, str]) -> None:
    method, template = route
    path = template.format(**await _filled(world))
    body, expected = BODIES.get(route, (None, 200))
    more = {} if body is None else {"json": body}
    assert (await world.ask(method, f"/api/v1{path}", role=None, **more)).status_code == 401
    for role in ROLES:
        if role not in PERMISSIONS[route]:
            refused = await world.ask(method, f"/api/v1{path}", role=role, **more)
            assert (refused.status_code, refused.json()["title"]) == (403, "Not allowed")
    answer = await world.ask(method, f"/api/v1{path}", role="admin", **more)
    assert answer.status_code == expected, answer.text
    if "driver" in PERMISSIONS[route] and method == "GET":
        assert (await world.ask(method, f"/api/v1{path}", role="driver")).status_code == 200


async def test_probes_need_no_key_and_say_what_the_contract_names(world: World) -> None:
    health = await world.ask("GET", "/health", role=None)
    assert health.status_code == 200
    assert set(health.json()) == {
        "status", "database", "redis", "stations_connected", "sessions_active", "sync", "findings_open", "journal",
        "version",
    }  # fmt: skip
    assert health.json()["sync"]["database"] == {"last_run": "2026-11-23T12:00:00Z", "duration_s": 0.1, "outcome": "ok"}
    assert (await world.ask("GET", "/ready", role=None)).status_code == 200
    world.status.is_ready = False
    assert (await world.ask("GET", "/ready", role=None)).status_code == 503
    metrics = await world.ask("GET", "/metrics", role=None)
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b"voltledger_stations_connected" in metrics.content
    assert (await world.ask("GET", "/openapi.json", role=None)).json()["openapi"].startswith("3.1")
    docs = await world.ask("GET", "/docs", role=None)
    assert "/api/v1/stations/{station_id}/calls/{action}" in docs.text
    assert "<script" not in docs.text
    assert "https://" not in docs.text


@pytest.mark.parametrize("path", ["/health", "/api/v1/stations", "/nowhere", "/docs", "/openapi.json"])
async def test_every_answer_carries_the_security_headers_and_a_request_id(world: World, path: str) -> None:
    headers = (await world.ask("GET", path, role=None)).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert len(headers["x-request-id"]) == 16


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer vl_guess", "Bearer \xe9"])
async def test_without_a_valid_key_there_is_nothing(world: World, header: str | None) -> None:
    headers: Any = {} if header is None else {"Authorization": header.encode("latin-1")}
    answer = await world.client.get("/api/v1/stations", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_revoked_key_ends_at_once(world: World) -> None:
    made = (await world.post("/apikeys", {"role": "viewer"})).json()
    world.keys["extra"] = made["key"]
    assert (await world.get("/stations", role="extra")).status_code == 200
    await world.ask("DELETE", f"/api/v1/apikeys/{made['id']}")
    assert (await world.get("/stations", role="extra")).status_code == 401


async def test_only_hashes_of_keys_and_passwords_are_kept(world: World) -> None:
    made = (await world.post("/stations", {"id": "CP-2"})).json()
    stored = await world.sql.fetchval("SELECT string_agg(s::text, ' ') FROM station s")
    keys = await world.sql.fetchval("SELECT string_agg(k::text, ' ') FROM api_key k")
    assert made["password"] not in stored
    assert "secret-of-cp-1" not in stored
    assert not any(key in keys for key in world.keys.values())
    shown = (await world.get("/stations/CP-2")).text + (await world.get("/apikeys")).text
    assert made["password"] not in shown
    assert not any(key in shown for key in world.keys.values())


WRONG_FIELDS: tuple[tuple[str, Any, int, str], ...] = (
        ("/stations", {}, 422, "id"),
        ("/stations", {"id": 3}, 422, "id"),
        ("/stations", {"id": ""}, 422, "id"),
        ("/stations", {"id": "a/b"}, 422, "id"),
        ("/stations", {"id": ".."}, 422, "id"),
        ("/stations", {"id": "x" * 49}, 422, "id"),
        ("/stations", {"id": "a\x00b"}, 422, "id"),
        ("/stations", {"id": "A", "organization": "none"}, 422, "organization"),
        ("/stations", {"id": "A", "security_profile": 4}, 422, "security_profile"),
        ("/stations", {"id": "A", "connectors": 129}, 422, "connectors"),
        ("/stations", {"id": "A", "ocpp_versions": ["ocpp9"]}, 422, "ocpp_versions"),
        ("/stations", {"id": "A", "password": ""}, 422, "password"),
        ("/stations", {"id": "A", "price_per_kwh_minor": -1}, 422, "price_per_kwh_minor"),
        ("/stations", {"id": "A", "status": "AVAILABLE"}, 422, "status"),
        ("/stations", [], 422, "body"),
        ("/tokens", {"value": "x", "status": "Fine"}, 422, "status"),
        ("/tokens", {"value": "  "}, 422, "value"),
        ("/tokens", {"value": "x", "user": "nobody"}, 422, "user"),
        ("/tokens", {"value": "x", "expires_at": "tomorrow"}, 422, "expires_at"),
        ("/users", {"name": "Eva", "currency": "rupee"}, 422, "currency"),
        ("/users", {"name": "Eva", "balance_minor": 1}, 422, "balance_minor"),
        ("/users", {"name": "Eva", "id": "a:b"}, 422, "id"),
        ("/users", {"name": "!!!"}, 422, "id"),
        ("/organizations", {"name": "X", "fee_percent": 101}, 422, "fee_percent"),
        ("/wallets/anna/topups", {"amount_minor": 0}, 422, "amount_minor"),
        ("/wallets/anna/topups", {"amount_minor": -5}, 422, "amount_minor"),
        ("/wallets/anna/topups", {"amount_minor": 1.5}, 422, "amount_minor"),
        ("/wallets/anna/topups", {"amount_minor": 10**30}, 422, "amount_minor"),
        ("/tariffs", {"price_per_kwh_minor": "free"}, 422, "price_per_kwh_minor"),
        ("/tariffs", {"price_per_kwh_minor": 1, "valid_from": "2026-11-23T12:00:00"}, 422, "valid_from"),
        ("/tariffs", {"price_per_kwh_minor": 1.23456}, 422, "price_per_kwh_minor"),
        ("/tariffs", {"price_per_kwh_minor": 1, "scope_id": "CP-1"}, 422, "scope_id"),
        ("/apikeys", {"role": "root"}, 422, "role"),
        ("/apikeys", {"role": "driver"}, 422, "user"),
        ("/apikeys", {"role": "viewer", "user": "anna"}, 422, "user"),
        ("/sessions", {"station": "CP-1", "connector": 0, "user": "anna", "amount_minor": 1}, 422, "connector"),
        ("/stations/CP-1/commands/stop", {}, 422, "transaction_id"),
        ("/stations/CP-1/commands/trigger", {}, 422, "message"),
        ("/stations/CP-1/commands/configuration", {"key": "a"}, 422, "value"),
        ("/stations/CP-1/commands/configuration", {"keys": [], "key": "a", "value": "b"}, 422, "keys"),
        ("/stations/CP-1/commands/reset", {"kind": "Warm"}, 422, "kind"),
        ("/stations/CP-1/calls/Reset", [1], 422, "body"),
        ("/stations/CP-1/calls/Reset?timeout_s=0", {}, 422, "timeout_s"),
)  # fmt: skip


async def test_a_wrong_field_is_named_and_nothing_changes(world: World) -> None:
    before = await _everything(world)
    for path, body, status, field in WRONG_FIELDS:
        answer = await world.post(path, body)
        assert (answer.status_code, path, body) == (status, path, body), answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert [e["field"] for e in answer.json()["errors"]] == [field], (path, body)
    assert await _everything(world) == before
    assert world.commands.calls == []
    assert world.commands.commands == []


async def _everything(world: World) -> list[int]:
    tables = ("station", "token", "driver", "organization", "tariff", "api_key", "ledger_entry", "charging_session")
    return [await world.sql.fetchval(f"SELECT count(*) FROM {table}") for table in tables]


@pytest.mark.parametrize("content", ["{", "\xff", "", '{"id": NaN}', "[" * 5000])
async def test_a_body_that_is_not_json_is_refused(world: World, content: str) -> None:
    answer = await world.post("/stations", content=content.encode("latin-1"))
    assert answer.status_code in (400, 422), answer.text
    assert "Traceback" not in answer.text


async def test_a_body_that_is_too_large_is_refused(world: World) -> None:
    answer = await world.post("/stations", content=b'{"id": "' + b"x" * (1 << 20) + b'"}')
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "cursor=junk", "stauts=AVAILABLE", "cursor=WzFd", "request=1"]
)
async def test_a_wrong_parameter_is_named(world: World, query: str) -> None:
    answer = await world.get(f"/stations?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.split("=")[0]


ABSENT = (
    "/stations/none", "/stations/none/frames", "/tokens/none", "/users/none", "/organizations/none", "/wallets/none",
    "/wallets/none/transactions", "/sessions/00000000-0000-0000-0000-000000000000",
    "/sessions/00000000-0000-0000-0000-000000000000/readings", "/sessions/not-a-uuid", "/findings/999999",
    "/findings/99999999999999999999", "/nowhere", "/stations/a%2Fb",
)  # fmt: skip


async def test_what_does_not_exist_is_a_404_problem(world: World) -> None:
    for path in ABSENT:
        answer = await world.get(path)
        assert (path, answer.status_code) == (path, 404)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_driver_s_key_sees_only_its_own_and_foreign_looks_absent(world: World) -> None:
    mine = await insert_session(world.sql, "CP-1", user="anna")
    foreign = await insert_session(world.sql, "CP-1", user="bela", evse_id=2)
    listed = (await world.get("/sessions?user=bela", role="driver")).json()["items"]
    assert [s["id"] for s in listed] == [str(mine)]
    absent = UUID(int=1)
    for suffix in ("", "/readings", "/explain"):
        answers = [await world.get(f"/sessions/{i}{suffix}", role="driver") for i in (foreign, absent)]
        assert [a.status_code for a in answers] == [404, 404]
    assert (await world.post(f"/sessions/{foreign}/stop", role="driver")).status_code == 404
    assert (await world.post(f"/sessions/{mine}/stop", role="driver")).status_code == 200
    body = {"station": "CP-1", "connector": 1, "user": "bela", "amount_minor": 100}
    assert (await world.post("/sessions", body, role="driver")).status_code == 404
    assert world.prepaid.starts == 0
    assert world.prepaid.stops == [mine]
    assert (await world.get("/wallets/bela", role="driver")).status_code == 404
    assert (await world.get("/users/bela", role="driver")).status_code == 404


async def test_a_station_shows_live_and_recorded_side_by_side(world: World) -> None:
    session = await insert_session(world.sql, "CP-1", user="anna", energy_wh=1200, power_w=7400)
    await world.sql.execute(
        "INSERT INTO connector (station_id, evse_id, connector_id, status, received_at, since)"
        " VALUES ('CP-1', 1, 1, 'Charging', $1, $1)",
        NOW,
    )
    world.presence.connections["CP-1"] = ConnectionInfo(version="ocpp1.6", since=NOW, remote="10.0.0.9")
    shown = (await world.get("/stations/CP-1")).json()
    assert shown["status"] == "OFFLINE"
    assert shown["connected"] is True
    assert shown["connection"]["since"] == "2026-11-23T12:00:00Z"
    connector = shown["connectors"][0]
    assert (connector["status"], connector["session"]["id"]) == ("Charging", str(session))


async def test_lists_come_in_pages_that_miss_and_repeat_nothing(world: World) -> None:
    for number in range(2, 8):
        await world.catalog.add_station(id=f"CP-{number}")
        await insert_session(world.sql, "CP-1", evse_id=number)
    for path, count in (("/stations", 7), ("/sessions", 6), ("/users", 2), ("/apikeys", 5)):
        seen: list[str] = []
        cursor = ""
        while True:
            paged = path != "/apikeys"
            page = (await world.get(f"{path}?limit=2{cursor}" if paged else path)).json()
            seen += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert len(seen) == len(set(seen)) == count


async def test_sessions_come_newest_first_though_ids_made_from_keys_do_not_sort_by_time(world: World) -> None:
    made = [  # a version 8 id, then a version 7 one, in turns
        await insert_session(
            world.sql,
            "CP-1",
            user="anna",
            evse_id=number,
            id=UUID(f"{'f' if number % 4 == 0 else '0'}1234567-89ab-8def-8000-{number:012}")
            if number % 2 == 0
            else None,
            created_at=NOW + timedelta(seconds=number // 3),
        )
        for number in range(9)
    ]
    times = {str(id): number // 3 for number, id in enumerate(made)}
    wanted = sorted(times, key=lambda id: (times[id], UUID(id).int), reverse=True)
    for path in ("/sessions?", "/sessions?station=CP-1&", "/sessions?user=anna&"):
        listed: list[str] = []
        cursor = ""
        while True:
            page = (await world.get(f"{path}limit=2{cursor}")).json()
            listed += [item["id"] for item in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert listed == wanted, path
    shown = await world.catalog.station("CP-1")
    assert [str(open.id) for open in shown.sessions] == wanted


async def test_the_newest_sessions_are_read_from_an_index(world: World) -> None:
    text = SQL["catalog_sessions"]
    await world.sql.execute(
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; "
        "SET plan_cache_mode = force_generic_plan"
    )
    await world.sql.execute(f"PREPARE newest AS {text}")
    rows = await world.sql.fetch("EXPLAIN EXECUTE newest(now(), NULL, NULL, NULL, NULL, 10)")
    plan = "\n".join(row[0] for row in rows)
    assert "session_newest" in plan, plan
    assert "Sort" not in plan, plan


async def test_a_station_that_is_disabled_loses_its_connection(world: World) -> None:
    world.presence.connections["CP-1"] = ConnectionInfo(version="ocpp1.6", since=NOW)
    assert (await world.ask("PATCH", "/api/v1/stations/CP-1", json={"connectors": 2})).json()["connected"]
    assert await world.catalog.disabled_among(["CP-1"]) == []
    changed = await world.ask("PATCH", "/api/v1/stations/CP-1", json={"disabled": True})
    assert (changed.status_code, changed.json()["connected"]) == (200, False)
    assert await world.catalog.disabled_among(["CP-1", "CP-2"]) == ["CP-1"]


@pytest.mark.parametrize(
    ("path", "body", "field", "problem"),
    [
        (
            "/wallets/anna/topups",
            {"amount_minor": 12.5},
            "amount_minor",
            "must be a whole number, such as 50000 (minor units: 500.00 INR); it was a number with decimals",
        ),
        ("/wallets/anna/topups", {"amount_minor": 0}, "amount_minor", "must be a whole number, at least 1, such as"),
        ("/stations", {"id": 5}, "id", 'must be a text, such as "text"; it was a number'),
        (
            "/stations",
            {"id": "X", "connectors": "two"},
            "connectors",
            "must be a whole number, such as 1; it was a text",
        ),
        ("/stations", {"id": "X", "ocpp_versions": "1.6"}, "ocpp_versions", 'must be a list, such as ["ocpp1.6"]'),
        ("/tokens", {"value": "X", "expires_at": "soon"}, "expires_at", "must be a time with its offset, such as"),
        ("/tokens", {"value": "X", "status": "Perhaps"}, "status", "must be one of the words"),
        ("/stations", ["X"], "body", "must be an object with members"),
    ],
)
async def test_a_wrong_field_is_said_in_words_with_an_example(
    world: World, path: str, body: Any, field: str, problem: str
) -> None:
    answer = await world.post(path, body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert answer.json()["errors"][0]["problem"].startswith(problem), answer.json()
    for word in ("`", "Expected", "int", "str"):
        assert word not in answer.json()["detail"].replace("such as", ""), answer.json()


@pytest.mark.parametrize("password", ["", "x", "123"])
async def test_a_short_password_is_refused(world: World, password: str) -> None:
    for path, body in (("/stations", {"id": "NEW"}), ("/stations/CP-1/password", {})):
        answer = await world.post(path, {**body, "password": password})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "password")
        assert "4 to 128 characters" in answer.json()["detail"]
    assert (await world.post("/stations", {"id": "NEW", "password": "12345678"})).status_code == 201


async def test_the_list_of_operations_has_a_title_and_a_way_back_and_loads_nothing_from_elsewhere(world: World) -> None:
    text = (await world.ask("GET", "/docs", role=None)).text
    assert "<title>API · voltledger</title>" in text
    assert '<a href="/">' in text
    assert 'id="sessions"' in text
    assert "//" not in text.replace("<!doctype", ""), "no address of another server"


async def test_a_token_is_compared_without_case_and_shown_as_given(world: World) -> None:
    made = await world.post("/tokens", {"value": " deadBEEF ", "user": "anna", "group": "fleet"})
    assert (made.status_code, made.json()["value"]) == (201, "deadBEEF")
    assert (await world.post("/tokens", {"value": "DEADbeef"})).status_code == 409
    changed = await world.ask("PATCH", "/api/v1/tokens/deadbeef", json={"status": "Blocked", "user": None})
    assert changed.json()["status"] == "Blocked"
    assert (await world.get("/tokens/DeadBeef")).json() == changed.json()
    assert (changed.json()["group"], changed.json()["user"]) == ("fleet", None)


async def test_a_top_up_happens_once_a_key(world: World) -> None:
    headers = {"Idempotency-Key": "payment-1"}
    first = await world.post("/wallets/anna/topups", {"amount_minor": 50_000}, headers=headers)
    again = await world.post("/wallets/anna/topups", {"amount_minor": 50_000}, headers=headers)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (201, first.content)
    other = await world.post("/wallets/anna/topups", {"amount_minor": 50_001}, headers=headers)
    assert (other.status_code, other.json()["title"]) == (422, "Same idempotency key, other request")
    elsewhere = await world.post("/wallets/bela/topups", {"amount_minor": 50_000}, headers=headers, role="finance")
    assert elsewhere.status_code == 422
    replay = await world.post("/wallets/anna/topups", {"amount_minor": 50_000}, headers=headers, role="finance")
    assert replay.json() == first.json()
    wallet = (await world.get("/wallets/anna")).json()
    assert wallet == {"user": "anna", "balance_minor": 50_000, "held_minor": 0, "currency": "INR"}
    assert (await world.get("/wallets/bela")).json()["balance_minor"] == 0
    lines = (await world.get("/wallets/anna/transactions")).json()["items"]
    assert [(line["kind"], line["amount_minor"], line["balance_minor"]) for line in lines] == [
        ("topup", 50_000, 50_000)
    ]
    entries = (await world.get("/ledger/entries?kind=topup")).json()["items"]
    assert [(p["account"], p["side"], p["amount_minor"]) for p in entries[0]["postings"]] == [
        ("provider::INR", "debit", 50_000),
        ("wallet:anna:INR", "credit", 50_000),
    ]


async def test_a_prepaid_start_happens_once_a_key(world: World) -> None:
    body = {"station": "CP-1", "connector": 1, "user": "anna", "amount_minor": 30_000}
    headers = {"Idempotency-Key": "start-1"}
    first = await world.post("/sessions", body, headers=headers)
    again = await world.post("/sessions", body, headers=headers)
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert list(first.json()) == SESSION_MEMBERS
    assert world.prepaid.starts == 1
    other = await world.post("/sessions", {**body, "amount_minor": 1}, headers=headers)
    assert other.status_code == 422
    assert (await world.post("/sessions", body, headers={"Idempotency-Key": ""})).status_code == 422


async def test_the_same_start_sent_five_times_at_once_happens_once(world: World) -> None:
    body = {"station": "CP-1", "connector": 1, "user": "anna", "amount_minor": 30_000}
    answers = await asyncio.gather(
        *(world.post("/sessions", body, headers={"Idempotency-Key": "at-once"}) for _ in range(5))
    )
    assert {(a.status_code, a.content) for a in answers} == {(201, answers[0].content)}
    assert world.prepaid.starts == 1


async def test_the_same_top_up_sent_five_times_at_once_is_one_entry(world: World) -> None:
    await asyncio.gather(*(world.catalog.top_up("anna", 700, key="at-once") for _ in range(5)))
    assert (await world.catalog.wallet("anna")).balance_minor == 700


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InsufficientFunds("the wallet holds less"), 422),
        (NotPossibleNow("the connector is in use"), 409),
        (CurrencyMismatch("EUR and INR"), 422),
    ],
)
async def test_a_refused_start_says_why_and_may_be_tried_again_under_its_key(
    world: World, error: Any, status: int
) -> None:
    body = {"station": "CP-1", "connector": 1, "user": "anna", "amount_minor": 30_000}
    world.prepaid.error = error
    refused = await world.post("/sessions", body, headers={"Idempotency-Key": "k"})
    assert (refused.status_code, refused.json()["detail"]) == (status, str(error))
    world.prepaid.error = None
    assert (await world.post("/sessions", body, headers={"Idempotency-Key": "k"})).status_code == 201


async def test_a_raw_call_is_sent_as_it_is_and_its_outcomes_are_told(world: World) -> None:
    raw = '{ "csChargingProfiles" : { "b": 1.0, "a": "x  y" },\n "connectorId": 1 }'
    answer = await world.post("/stations/CP-1/calls/SetChargingProfile?timeout_s=2.5", content=raw)
    assert answer.json() == {"outcome": "answered", "response": {"status": "Accepted"}, "call_id": "c-1"}
    assert world.commands.calls == [
        ("CP-1", "SetChargingProfile", '{"csChargingProfiles":{"b":1.0,"a":"x  y"},"connectorId":1}', 2.5)
    ]
    for outcome in ("call_error", "timeout", "unknown"):
        world.commands.outcome = CallOutcome(outcome=outcome, call_id="c-9")
        told = await world.post("/stations/CP-1/calls/Reset", {})
        assert (told.status_code, told.json()["outcome"]) == (200, outcome)
    world.commands.outcome = CallOutcome(outcome="not_connected", call_id="c-9")
    gone = await world.post("/stations/CP-1/calls/Reset", {})
    assert (gone.status_code, gone.json()["outcome"], gone.json()["title"]) == (409, "not_connected", "Not connected")
    world.commands.problem = "type: is a required property"
    wrong = await world.post("/stations/CP-1/calls/Reset", {})
    assert (wrong.status_code, wrong.json()["detail"]) == (422, "type: is a required property")
    assert (await world.post("/stations/none/calls/Reset", {})).status_code == 404


async def test_commands_say_the_words_of_the_domain(world: World) -> None:
    session = await insert_session(world.sql, "CP-1", transaction_ref="77")
    asked = (
        ("start", {"token": " aBc ", "connector": 2}),
        ("stop", {"session": str(session)}),
        ("reset", None),
        ("unlock", {"connector": 2}),
        ("availability", {"operative": True, "connector": 1}),
        ("trigger", {"message": "MeterValues", "connector": 1}),
        ("configuration", {"keys": ["HeartbeatInterval"]}),
        ("configuration", {"key": "HeartbeatInterval", "value": "60"}),
    )
    for verb, body in asked:
        assert (await world.post(f"/stations/CP-1/commands/{verb}", body)).status_code == 200
    sent = [command for _, command in world.commands.commands]
    start = sent[0]
    assert isinstance(start, StartCharging)
    assert (start.token, start.evse_id, start.remote_start_id > 0) == ("ABC", 2, True)
    assert sent[1:] == [
        StopCharging(transaction_ref="77"),  # type: ignore[arg-type]
        ResetStation(kind=ResetKind.SOFT),
        UnlockConnector(evse_id=2),
        ChangeAvailability(evse_id=1, operative=True),
        TriggerReport(message="MeterValues", evse_id=1),
        ReadConfiguration(keys=("HeartbeatInterval",)),
        WriteConfiguration(key="HeartbeatInterval", value="60"),
    ]


async def test_a_running_session_shows_what_it_would_cost_now(world: World) -> None:
    session = await insert_session(world.sql, "CP-1", user="anna", paid_minor=30_000, energy_wh=12_345)
    shown = (await world.get(f"/sessions/{session}")).json()
    assert (shown["cost_minor"], shown["fee_minor"], shown["share_minor"]) == (24_690, 2_469, 22_221)
    assert (shown["refund_minor"], shown["settled_at"]) == (0, None)
    story = (await world.get(f"/sessions/{session}/explain")).json()
    assert story["sentence"] == "Paid 300.00 INR, used 12.345 kWh x 20.00 = 246.90 INR so far."


async def test_a_finding_is_decided_once(world: World) -> None:
    names = await _filled(world)
    accepted = await world.post(f"/findings/{names['finding_id']}/accept")
    assert accepted.json()["state"] == "noted"
    assert (await world.post(f"/findings/{names['finding_id']}/accept")).json() == accepted.json()
    assert (await world.post(f"/findings/{names['finding_id']}/dismiss")).status_code == 409
    assert (await world.get("/findings?state=open")).json()["items"] == []
    assert len((await world.get("/findings?state=noted&kind=ghost&station=CP-1")).json()["items"]) == 1


async def test_recorded_frames_are_searchable_and_hide_passwords(world: World) -> None:
    for action, payload in (
        ("Heartbeat", "{}"),
        ("ChangeConfiguration", '{"key":"AuthorizationKey","value":"s3cret"}'),
    ):
        await world.sql.execute(
            "INSERT INTO frame (station_id, from_station, kind, action, payload, at)"
            " VALUES ('CP-1', false, 2, $1, $2, $3)",
            action,
            payload,
            NOW,
        )
    shown = await world.get("/stations/CP-1/frames")
    assert [f["action"] for f in shown.json()["items"]] == ["ChangeConfiguration", "Heartbeat"]
    assert "s3cret" not in shown.text
    assert len((await world.get("/stations/CP-1/frames?action=Heartbeat")).json()["items"]) == 1
    assert len((await world.get("/stations/CP-1/frames?text=authorizationkey")).json()["items"]) == 1


@pytest.mark.parametrize("text", ["' OR 1=1 --", "%", "\\", "'; DROP TABLE station; --", "\u202e", "A" * 5000])
async def test_hostile_text_in_a_filter_is_only_text(world: World, text: str) -> None:
    for path in ("/stations?status=", "/tokens?user=", "/stations/CP-1/frames?text=", "/ledger/accounts?owner="):
        answer = await world.client.get(
            f"/api/v1{path}", params={}, headers={"Authorization": f"Bearer {world.keys['admin']}"}
        )
        assert answer.status_code == 200
        name = path.split("?")[1].rstrip("=")
        answer = await world.get(path.split("?")[0], params={name: text})
        assert (answer.status_code, answer.json()["items"]) == (200, [])


async def test_without_the_database_every_route_is_a_503_problem(database_dsn: str) -> None:
    database = Database("postgresql://nobody@127.0.0.1:1/none")
    await database.open()
    runtime, _ = make_runtime(database, database_dsn)
    transport = httpx.ASGITransport(create_app(runtime))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://voltledger.test") as client:
        answer = await client.get("/api/v1/stations", headers={"Authorization": "Bearer vl_any"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["title"] == "Database not available"
        assert "127.0.0.1" not in answer.text
        assert (await client.get("/health")).status_code == 200
    await database.close()


async def test_an_unexpected_error_is_told_by_its_id_only(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Any:
        raise RuntimeError("secret detail")

    world.presence.connected = broken  # type: ignore[method-assign]
    answer = await world.get("/stations")
    assert (answer.status_code, answer.json()["title"]) == (500, "Our mistake")
    assert "secret detail" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.json()["request_id"] in caplog.text
