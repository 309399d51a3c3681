"""What each command of the contract prints: exactly that JSON, and an error is one line and no JSON."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests import support
from tests.integration.cli.conftest import Cli
from voltledger.bootstrap import driver_dsn
from voltledger.domain.identifiers import SessionId, UserId
from voltledger.domain.ledger.holds import hold_entry
from voltledger.domain.quantities import Minor
from voltledger.storage.postgres.ledger import post_entries

UNKNOWN = str(uuid.UUID(int=7))


def test_an_api_key_is_key_id_and_role_and_is_never_shown_again(cli: Cli) -> None:
    made = cli.json("apikey", "add", "--role", "admin")
    assert set(made) == {"key", "id", "role"}
    assert made["role"] == "admin"
    assert len(made["key"]) >= 32
    listed = cli.lines("apikey", "list")
    assert [row["id"] for row in listed] == [made["id"]]
    assert made["key"] not in json.dumps(listed)
    assert cli.json("apikey", "revoke", made["id"]) == {"id": made["id"], "revoked": True}


def test_a_station_is_id_url_and_password(cli: Cli) -> None:
    made = cli.json("station", "add", "CP-1", "--password", "a good password", "--profile", "1", "--connectors", "2")
    assert made == {"id": "CP-1", "url": "ws://127.0.0.1:9000/CP-1", "password": "a good password"}
    other = cli.json("station", "add", "CP-2")
    assert set(other) == {"id", "url", "password"}
    assert 16 <= len(other["password"]) <= 40, "one is made, and a 1.6 station can hold it"
    assert [row["id"] for row in cli.lines("station", "list")] == ["CP-1", "CP-2"]
    assert cli.json("station", "show", "CP-1")["connector_count"] == 2


def test_a_token_is_its_value_and_its_status(cli: Cli) -> None:
    user = cli.json("user", "add", "Asha", "--currency", "INR")["id"]
    made = cli.json("token", "add", "04A1B2C3", "--status", "Blocked", "--group", "FLEET", "--user", user)
    assert {name: made[name] for name in ("value", "status", "group", "user")} == {
        "value": "04A1B2C3",
        "status": "Blocked",
        "group": "FLEET",
        "user": user,
    }
    assert cli.json("token", "add", "PLAIN")["status"] == "Accepted"
    assert {row["value"] for row in cli.lines("token", "list")} == {"04A1B2C3", "PLAIN"}


def test_users_and_top_ups_are_id_balance_and_currency(cli: Cli) -> None:
    made = cli.json("user", "add", "Asha", "--currency", "INR")
    assert {name: made[name] for name in ("id", "balance_minor", "currency")} == {
        "id": made["id"],
        "balance_minor": 0,
        "currency": "INR",
    }
    for key, balance in (("pay-1", 2_500), ("pay-2", 5_000), ("pay-1", 5_000)):
        topped = cli.json("wallet", "topup", made["id"], "2500", "--key", key)
        assert (topped["id"], topped["balance_minor"], topped["currency"]) == (made["id"], balance, "INR")
    assert cli.json("wallet", "show", made["id"])["balance_minor"] == 5_000


def test_a_tariff_without_a_scope_is_the_default_one(cli: Cli) -> None:
    made = cli.json("tariff", "set", "--price-per-kwh-minor", "2000", "--currency", "INR")
    assert (made["scope"], made["currency"], float(made["price_per_kwh_minor"])) == ("default", "INR", 2000.0)
    cli.json("tariff", "set", "--price-per-kwh-minor", "1999.5", "--currency", "INR")
    assert len(cli.lines("tariff", "list")) == 2


def test_an_organisation_may_have_a_fee_of_its_own(cli: Cli) -> None:
    made = cli.json("org", "add", "Green Way", "--fee-percent", "7.5")
    assert float(made["fee_percent"]) == 7.5
    assert "Green Way" in {row["name"] for row in cli.lines("org", "list")}


def test_migrate_says_what_it_applied_and_nothing_the_second_time(cli: Cli) -> None:
    assert cli.json("migrate") == {"applied": []}


def test_every_command_speaks_to_people_too(cli: Cli) -> None:
    """Without --json: sentences and tables, no JSON."""
    for words in (
        ("user", "add", "Asha", "--currency", "INR"),
        ("wallet", "topup", "asha", "100"),
        ("wallet", "show", "asha"),
        ("tariff", "set", "--price-per-kwh-minor", "2000"),
        ("tariff", "list"),
        ("token", "add", "TAG", "--user", "asha"),
        ("token", "list"),
        ("station", "add", "CP-1"),
        ("station", "list"),
        ("station", "show", "CP-1"),
        ("apikey", "add", "--role", "viewer"),
        ("apikey", "list"),
        ("org", "add", "Green Way"),
        ("org", "list"),
        ("user", "list"),
        ("station", "password", "CP-1"),
        ("station", "disable", "CP-1"),
        ("station", "enable", "CP-1"),
        ("session", "list"),
        ("finding", "list"),
        ("dsn",),
        ("sql", 'SELECT id, status FROM "ChargePoint"'),
        ("migrate",),
        ("reconcile", "--dry-run"),
    ):
        status, out, err = cli(*words)
        assert (status, err) == (0, ""), words
        assert out.strip(), f"{words} says nothing"
        assert not out.lstrip().startswith(("{", "[")), words


@pytest.mark.parametrize(
    "words",
    [
        ("apikey", "add", "--role", "emperor"),
        ("apikey", "revoke", "key_nothing"),
        ("station", "add", "CP/1"),
        ("station", "add", "CP-1", "--connectors", "-1"),
        ("station", "add", "CP-1", "--profile", "9"),
        ("station", "add", "CP-1", "--org", "nobody"),
        ("station", "show", "NOBODY"),
        ("token", "add", ""),
        ("token", "add", "T", "--status", "Perhaps"),
        ("token", "add", "T", "--user", "nobody"),
        ("user", "add", ""),
        ("user", "add", "Asha", "--currency", "Rupee"),
        ("wallet", "topup", "nobody", "100"),
        ("wallet", "topup", "nobody", "0"),
        ("wallet", "topup", "nobody", "-5"),
        ("wallet", "topup", "nobody", "1.5"),
        ("wallet", "topup", "nobody", "99999999999999999999999"),
        ("wallet", "show", "nobody"),
        ("tariff", "set", "--price-per-kwh-minor", "free"),
        ("tariff", "set", "--price-per-kwh-minor", "-1"),
        ("tariff", "set", "--price-per-kwh-minor", "NaN"),
        ("tariff", "set", "--price-per-kwh-minor", "1", "--station", "A", "--org", "B"),
        ("tariff", "set", "--price-per-kwh-minor", "1", "--station", "NOBODY"),
        ("org", "add", "Green", "--fee-percent", "101"),
        ("explain", "not-a-session"),
        ("explain", UNKNOWN),
        ("serve", "--workers", "many"),
        ("serve", "--workers", "1.4"),
        ("station", "add", "CP-1", "--connectors", "1.5"),
        ("station", "add", "CP-1", "--profile", "1.2"),
        ("station", "add", "CP-1", "--password", "x"),
        ("station", "add", "CP-1", "--password", "123"),
        ("station", "password", "NOBODY"),
        ("station", "disable", "NOBODY"),
        ("session", "list", "--limit", "2.5"),
        ("session", "list", "--limit", "0"),
        ("session", "list", "--status", "Perhaps"),
        ("session", "show", UNKNOWN),
        ("session", "show", "not-a-session"),
        ("finding", "list", "--limit", "2.5"),
        ("finding", "accept", "999"),
        ("finding", "dismiss", "1.0"),
        ("sql", "SELECT nothing"),
        ("simulate", "--stations", "0"),
        ("simulate", "--stations", "1.5"),
        ("simulate", "--seed", "1.5"),
        ("simulate", "--sessions", "1.5"),
        ("simulate", "--misbehave", "lost_stop"),
        ("simulate", "--misbehave", "lost_stop=nan"),
        ("serve", "--http", "nowhere"),
        ("simulate", "--misbehave", "nonsense=1"),
        ("nonsense",),
        ("station", "nonsense"),
        ("wallet", "topup"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_and_not_status_0(cli: Cli, words: tuple[str, ...]) -> None:
    status, out, err = cli(*words)
    assert status != 0
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("voltledger: ")
    assert "Traceback" not in err
    assert out == ""


async def _story(dsn: str) -> tuple[str, str]:
    """A session that a person ended with SQL, and one that still waits for its start."""
    connection = await asyncpg.connect(dsn)
    ended, waiting = uuid.uuid4(), uuid.uuid4()
    try:
        await connection.execute("INSERT INTO station (id) VALUES ('CP-1')")
        for session_id, status in ((ended, "ONGOING"), (waiting, "ONGOING")):
            await connection.execute(
                """INSERT INTO charging_session (id, station_id, evse_id, connector_id, organization_id, status, origin,
                     transaction_ref, created_at, started_at, currency, price_per_kwh_minor, fee_percent, energy_wh,
                     register_wh)
                   VALUES ($1, 'CP-1', 1, 1, 'default', $2, 'local', $3, now(), now(), 'INR', 2000, 10, 1500, 1500)""",
                session_id,
                status,
                str(session_id.int % 1000 + 1),
            )
        await connection.execute(
            """UPDATE "ChargeSession" SET status = 'COMPLETED', "endTime" = NOW(), "stopReason" = 'Manual cleanup'
               WHERE id = $1""",
            ended,
        )
    finally:
        await connection.close()
    return str(ended), str(waiting)


async def _everything(dsn: str) -> dict[str, list[Any]]:
    """All rows of all tables of the books."""
    connection = await asyncpg.connect(dsn)
    try:
        names = [
            row["tablename"]
            for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        ]
        return {
            name: sorted(str(dict(row)) for row in await connection.fetch(f'SELECT * FROM "{name}"')) for name in names
        }
    finally:
        await connection.close()


def _run(work: Any) -> Any:
    import asyncio

    return asyncio.run(work)


def test_reconcile_dry_run_says_what_it_would_do_and_changes_nothing(cli: Cli, database_dsn: str) -> None:
    ended, _ = _run(_story(database_dsn))
    before = _run(_everything(database_dsn))
    steps = cli.lines("reconcile", "--dry-run")
    assert _run(_everything(database_dsn)) == before, "a dry run changes no row"
    assert [step["session_id"] for step in steps if "by hand" in step["what"]] == [ended]
    assert not any(step["done"] for step in steps)

    done = cli.lines("reconcile", "--once")
    assert [step["session_id"] for step in done if "by hand" in step["what"]] == [ended]
    after = _run(_everything(database_dsn))
    assert len(after["settlement"]) == 1
    assert len(after["ledger_entry"]) == 1
    cli.lines("reconcile")
    assert _run(_everything(database_dsn))["settlement"] == after["settlement"], "the second time changes nothing"


def test_explain_tells_a_sessions_story_and_why_its_amounts_are_what_they_are(cli: Cli, database_dsn: str) -> None:
    ended, waiting = _run(_story(database_dsn))
    cli.lines("reconcile")
    story = cli.json("explain", ended)
    assert story["session"]["id"] == ended
    assert story["session"]["cost_minor"] == 3_000
    assert [finding["kind"] for finding in story["findings"]] == ["manual_change"]
    status, text, err = cli("explain", ended)
    assert (status, err) == (0, "")
    assert "Manual cleanup" in text
    assert "credit 27.00 INR payable:default:INR" in " ".join(text.split()), "amounts as people write them"
    assert cli.json("explain", waiting)["session"]["settled_at"] is None


def test_explain_shows_debits_and_credits_on_their_sides_with_their_currency(cli: Cli) -> None:
    """The lines of the books as people read them are those of the books."""
    cli.json("user", "add", "Asha", "--currency", "INR")
    cli.json("wallet", "topup", "asha", "100000", "--key", "first")
    session_id = _run(_prepaid_story(cli.dsn))
    cli.lines("reconcile")
    story = cli.json("explain", session_id)
    _, text, _ = cli("explain", session_id)
    lines = [line.split("  ", 1)[1].split() for line in text.splitlines() if " debit " in line or " credit " in line]
    wanted = [
        [p["side"], *_money(p["amount_minor"], p["currency"]).split(), p["account"]]
        for entry in story["entries"]
        for p in entry["postings"]
    ]
    assert sorted(lines) == sorted(wanted)
    assert {line[0] for line in lines} == {"debit", "credit"}
    assert ["debit", "500.00", "INR", "held:asha:INR"] in lines, "what was set aside is used up and given back"
    assert ["credit", "470.00", "INR", "wallet:asha:INR"] in lines, "the refund goes into the wallet"


def _money(amount_minor: int, currency: str) -> str:
    return f"{amount_minor / 100:,.2f} {currency}"


async def _prepaid_story(dsn: str) -> str:
    """500.00 paid, 1.5 kWh used at 20.00; ended with SQL."""
    connection = await asyncpg.connect(dsn)
    session_id = uuid.uuid4()
    try:
        await connection.execute("INSERT INTO station (id) VALUES ('CP-1')")
        await connection.execute(
            """INSERT INTO charging_session (id, station_id, evse_id, connector_id, organization_id, status, origin,
                 driver_id, transaction_ref, created_at, started_at, currency, price_per_kwh_minor, fee_percent,
                 energy_wh, register_wh, paid_minor)
               VALUES ($1, 'CP-1', 1, 1, 'default', 'ONGOING', 'prepaid', 'asha', '7', now(), now(), 'INR', 2000, 10,
                 1500, 1500, 50000)""",
            session_id,
        )
        entry = hold_entry(
            session_id=SessionId(session_id), user=UserId("asha"), currency="INR", amount=Minor(50_000), version=1
        )
        assert entry is not None
        async with connection.transaction():
            await post_entries(connection, [entry])
        await connection.execute(
            """UPDATE "ChargeSession" SET status = 'COMPLETED', "endTime" = NOW() WHERE id = $1""", session_id
        )
    finally:
        await connection.close()
    return str(session_id)


def test_explain_tells_things_in_the_order_in_which_we_got_them_whatever_the_station_s_clock_says(cli: Cli) -> None:
    """The station's clock is a day ahead, so by its times everything would come after the settlement."""
    session_id = _run(_wrong_clock(cli.dsn))
    _, text, err = cli("explain", session_id)
    assert err == ""
    told = text.split("\n\n", 1)[1].splitlines()
    began = next(n for n, line in enumerate(told) if "transaction 7 began on CP-1" in line)
    found = next(n for n, line in enumerate(told) if "register_fell" in line)
    ended = next(n for n, line in enumerate(told) if "ended: Local, 1.500 kWh" in line)
    assert (began, found, ended) == (0, 1, 2), text
    assert told[0].startswith("2026-03-01 10:00:00")
    assert "the station's clock said 2026-03-02 10:00:00" in told[0]
    assert told[2].startswith("2026-03-01 11:00:00")
    assert "the station's clock said 2026-03-02 11:00:00" in told[2]


async def _wrong_clock(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    session_id = uuid.uuid4()
    try:
        await connection.execute("INSERT INTO station (id) VALUES ('CP-1')")
        await connection.execute(
            """INSERT INTO charging_session (id, station_id, evse_id, connector_id, organization_id, status, origin,
                 transaction_ref, created_at, started_at, ended_at, stop_reason, currency, price_per_kwh_minor,
                 fee_percent, energy_wh)
               VALUES ($1, 'CP-1', 1, 1, 'default', 'COMPLETED', 'local', '7', '2026-03-01 10:00Z',
                 '2026-03-02 10:00Z', '2026-03-02 11:00Z', 'Local', 'INR', 2000, 10, 1500)""",
            session_id,
        )
        for action, at in (("StartTransaction", "10:00"), ("StopTransaction", "11:00"), ("MeterValues", "10:30")):
            await connection.execute(
                "INSERT INTO inbox (station_id, dedupe_key, action, state, session_id, epoch, received_at, response)"
                f" VALUES ('CP-1', $1, $2, 'applied', $3, 1, '2026-03-01 {at}Z', '{{}}')",
                action.encode(),
                action,
                session_id,
            )
        await connection.execute(
            "INSERT INTO finding (kind, key, state, station_id, session_id, summary, found_at)"
            " VALUES ('register_fell', 'k', 'open', 'CP-1', $1, 'it fell', '2026-03-01 10:40Z')",
            session_id,
        )
    finally:
        await connection.close()
    return str(session_id)


def test_sessions_and_findings_are_listed_shown_and_decided(cli: Cli) -> None:
    session_id = _run(_wrong_clock(cli.dsn))
    assert [row["id"] for row in cli.lines("session", "list", "--status", "COMPLETED", "--station", "CP-1")] == [
        session_id
    ]
    assert cli.lines("session", "list", "--status", "ONGOING") == []
    assert cli.json("session", "show", session_id)["energy_wh"] == 1_500
    _, text, _ = cli("session", "show", session_id)
    assert "used 1.500 kWh x 20.00 = 30.00 INR" in text
    (found,) = cli.lines("finding", "list", "--state", "open", "--kind", "register_fell")
    assert found["session"] == session_id
    assert cli.json("finding", "accept", str(found["id"]))["state"] == "noted"
    assert cli.lines("finding", "list", "--state", "open") == []
    status, _, err = cli("finding", "dismiss", str(found["id"]))
    assert (status, "is noted already" in err) == (1, True)


def test_a_station_is_disabled_and_enabled_and_gets_another_password(cli: Cli) -> None:
    first = cli.json("station", "add", "CP-1")
    second = cli.json("station", "password", "CP-1")
    assert set(second) == {"id", "url", "password"}
    assert second["password"] != first["password"]
    assert cli.json("station", "password", "CP-1", "--password", "a chosen password")["password"] == "a chosen password"
    assert cli.json("station", "disable", "CP-1")["disabled_at"] is not None
    assert cli.json("station", "enable", "CP-1")["disabled_at"] is None


@pytest.mark.parametrize(("password", "warned"), [("12345678", True), ("1234567890123456", False)])
def test_a_weak_password_is_taken_with_a_warning(cli: Cli, password: str, warned: bool) -> None:
    status, text, err = cli("station", "add", "CP-1", "--password", password)
    assert (status, err) == (0, "")
    assert ("voltledger station password CP-1 makes a better one" in text) == warned


def test_the_way_into_the_database_by_hand(cli: Cli) -> None:
    assert cli.json("dsn") == {"dsn": driver_dsn(cli.dsn), "embedded": False}
    cli.json("station", "add", "CP-1")
    assert cli.lines("sql", 'SELECT id, "connectorCount" FROM "ChargePoint"') == [{"id": "CP-1", "connectorCount": 1}]
    _, text, _ = cli("sql", "UPDATE \"ChargePoint\" SET status = 'AVAILABLE' WHERE id = 'CP-1'")
    assert text.strip() == "UPDATE 1"
    assert cli.lines("sql", 'SELECT status FROM "ChargePoint"') == [{"status": "AVAILABLE"}]


def test_without_a_running_server_the_embedded_database_has_no_address(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL")
    status, out, err = cli("dsn")
    assert (status, out) == (1, "")
    assert "does not run now: start it with voltledger serve" in err


def test_a_decimal_is_no_amount_of_minor_units(cli: Cli) -> None:
    cli.json("user", "add", "Asha", "--currency", "INR")
    for amount in ("12.50", "12.00", "1e3", "0x10", "1_000"):
        status, out, err = cli("wallet", "topup", "asha", amount)
        assert (status, out) == (1, ""), amount
        assert "for 12.50 INR say 1250" in err
    assert cli.json("wallet", "show", "asha")["balance_minor"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("simulate", "--misbehave", "lost_stop"), "'lost_stop' is not NAME=SHARE"),
        (("simulate", "--misbehave", "lost_stop=lots"), "such as lost_stop=0.1"),
        (("station", "add", "CP-1", "--connectors", "1.5"), "'1.5' is no whole number"),
        (("session", "show", "7"), "voltledger session list shows them"),
        (("station", "add", "CP-1", "--password", "x"), "4 to 128 characters"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_mistake_is_told_with_what_to_do(cli: Cli, words: tuple[str, ...], said: str) -> None:
    _, _, err = cli(*words)
    assert said in err


def test_simulate_says_what_to_do_and_ends_with_1_when_no_station_could_connect(cli: Cli, folder: Path) -> None:
    url = f"ws://127.0.0.1:{support.free_port()}"
    status, out, err = cli("simulate", "--url", url, "--stations", "2", "--duration-s", "1.5")
    assert (status, out) == (1, "")
    assert f"no station could connect to {url}" in err
    assert "start the server with voltledger serve" in err
    assert len(err.strip().splitlines()) == 1
    assert [path.name for path in folder.iterdir()] == ["data"], "nothing is left in the working folder"
    assert (folder / "data" / "simulate-journal.jsonl").exists()


def test_doctor_knows_its_own_server_by_its_ports(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    health = {"stations_connected": 0, "findings_open": 0, "journal": 0, "version": "1.2.3"}
    for answer, state in ((health, "ok"), ({"status": "ok"}, "warning")):
        with _answering(answer) as port, socket.create_server(("127.0.0.1", 0)) as stations:
            monkeypatch.setenv("VOLTLEDGER_HTTP", f"127.0.0.1:{port}")
            monkeypatch.setenv("VOLTLEDGER_OCPP", f"127.0.0.1:{stations.getsockname()[1]}")
            _, out, _ = cli("doctor", "--json")
        lines = {row["what"]: row for row in map(json.loads, out.splitlines())}
        assert (lines["HTTP port"]["state"], lines["station port"]["state"]) == (state, state)
        assert ("1.2.3 that runs here" if state == "ok" else "VOLTLEDGER_OCPP") in lines["station port"]["text"]


@contextmanager
def _answering(health: object) -> Iterator[int]:
    """An HTTP server that answers every GET with this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(health).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test speaks by its result."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_doctor_says_ok_warning_or_failure_of_each_thing(cli: Cli) -> None:
    status, out, _ = cli("doctor", "--json")
    lines = {row["what"]: row for row in map(json.loads, out.splitlines())}
    assert {row["state"] for row in lines.values()} <= {"ok", "warning", "failure"}
    assert {"PostgreSQL", "schema", "clock", "open files", "HTTP port", "station port"} <= set(lines)
    assert lines["schema"]["state"] == "ok"
    assert lines["fsync"]["state"] == "ok"
    assert status == (1 if any(row["state"] == "failure" for row in lines.values()) else 0)
