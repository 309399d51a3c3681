"""What each command of the contract prints: exactly that JSON, and an error is one line and no JSON."""

from __future__ import annotations

import json
import uuid
from typing import Any

import asyncpg
import pytest

from tests.integration.cli.conftest import Cli

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
    assert "3000" in text.replace(",", "")
    assert cli.json("explain", waiting)["session"]["settled_at"] is None


def test_doctor_says_ok_warning_or_failure_of_each_thing_and_ends_with_1_when_data_could_be_lost(cli: Cli) -> None:
    status, out, _ = cli("doctor", "--json")
    lines = {row["what"]: row for row in map(json.loads, out.splitlines())}
    assert {row["state"] for row in lines.values()} <= {"ok", "warning", "failure"}
    assert {"PostgreSQL", "schema", "clock", "open files", "HTTP port", "station port"} <= set(lines)
    assert lines["schema"]["state"] == "ok"
    # The tests' cluster works without fsync: that is what a doctor is for.
    assert lines["fsync"]["state"] == "failure"
    assert "postgresql.conf" in lines["fsync"]["text"]
    assert status == 1
