"""The checker on real PostgreSQL: sessions made by the real intake and T2, clean, then damaged row by row."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any
from uuid import UUID

import pytest
from redis.asyncio import Redis

from tests.integration.checker.conftest import Node
from voltledger.checker import CheckerError, Limits, as_text, judge, verify
from voltledger.checker.redis_state import read_redis
from voltledger.embedded import RunningRedis


async def _a_day(node: Node) -> int:
    """One session with a refund, one that goes on; the transaction of the first."""
    transaction = await node.visit()
    await node.visit("CP-2", stop=None)
    await node.settle()
    return transaction


async def test_honest_books_are_clean_by_journals_and_by_raw_frames(node: Node) -> None:
    await _a_day(node)
    judged, verified = await node.judge(), await node.verify()
    assert judged.clean, as_text(judged)
    assert verified.clean, as_text(verified)
    assert (judged.figures.true_sessions, judged.figures.sessions, judged.figures.facts) == (2, 2, 5)
    assert judged.figures.wh == judged.figures.true_wh == 8_000
    assert (verified.figures.sessions_rebuilt, verified.figures.not_provable) == (2, {})
    inr = verified.figures.money["INR"]
    assert (inr.topped_up, inr.cost, inr.fee, inr.share, inr.refund) == (100_000, 10_000, 1_000, 9_000, 40_000)


async def test_a_small_world_is_judged_at_once(node: Node) -> None:
    await _a_day(node)
    took = []
    for _ in range(3):
        began = time.monotonic()
        await node.judge()
        took.append(time.monotonic() - began)
    assert min(took) < 0.5, took


OF_FIRST = "(SELECT id FROM charging_session WHERE status = 'COMPLETED')"
ENTRY = "(SELECT max(id) FROM ledger_entry WHERE kind = 'settlement')"
HELD = "(SELECT id FROM ledger_account WHERE kind = 'held')"
WALLET = "(SELECT id FROM ledger_account WHERE kind = 'wallet')"
SECOND_USER = (
    "INSERT INTO driver (id, name, currency) VALUES ('ben', 'Ben', 'INR')",
    "UPDATE charging_session SET driver_id = 'ben' WHERE status = 'COMPLETED'",
)

DAMAGE: dict[str, tuple[tuple[str, ...], set[str], set[str]]] = {
    # what is done, what the journals show, what the raw frames show
    "a Wh more": (
        ("UPDATE charging_session SET energy_wh = energy_wh + 1 WHERE status = 'COMPLETED'",),
        {"G3"},
        {"G3"},
    ),
    "a Wh less while it runs": (
        ("UPDATE charging_session SET energy_wh = energy_wh - 1 WHERE status = 'ONGOING'",),
        {"G3"},
        {"G3"},
    ),
    "a line is gone": (
        (f"DELETE FROM ledger_posting WHERE entry_id = {ENTRY} AND line = 1",),
        {"G5", "G6"},
        {"G5", "G6"},
    ),
    "an entry is gone": (
        (f"DELETE FROM ledger_posting WHERE entry_id = {ENTRY}", f"DELETE FROM ledger_entry WHERE id = {ENTRY}"),
        {"G5", "G6", "G8"},
        {"G5", "G6", "G8"},
    ),
    "an amount is another": (
        (f"UPDATE ledger_posting SET amount_minor = amount_minor + 1 WHERE entry_id = {ENTRY} AND line = 1",),
        {"G5", "G6"},
        {"G5", "G6"},
    ),
    "two lines are moved alike": (
        (
            f"UPDATE ledger_posting SET amount_minor = amount_minor + 100 WHERE entry_id = {ENTRY} AND account_id IN"
            " (SELECT id FROM ledger_account WHERE kind = 'platform_fee')",
            f"UPDATE ledger_posting SET amount_minor = amount_minor - 100 WHERE entry_id = {ENTRY} AND account_id IN"
            " (SELECT id FROM ledger_account WHERE kind = 'payable')",
        ),
        {"G6"},
        {"G6"},
    ),
    "a settlement is changed": (
        (
            "UPDATE settlement SET cost_minor = cost_minor - 10, share_minor = share_minor - 10, "
            "covered_minor = covered_minor - 10, refund_minor = refund_minor + 10",
        ),
        {"G6"},
        {"G6"},
    ),
    "a settlement has a gap": (("UPDATE settlement SET version = 2",), {"G5", "G6"}, {"G5", "G6"}),
    "a settlement is gone": (("DELETE FROM settlement",), {"G5", "G6"}, {"G5", "G6"}),
    "settled at another price": (("UPDATE settlement SET price_per_kwh_minor = 1999",), {"G6"}, {"G6"}),
    "a balance is another": (
        ("UPDATE ledger_account SET balance_minor = balance_minor + 1 WHERE kind = 'wallet'",),
        {"G5"},
        {"G5"},
    ),
    "a stray hold": (
        (
            "INSERT INTO ledger_entry (kind, source_id, version, session_id, reason)"
            f" SELECT 'hold', id::text, 9, id, 'x' FROM charging_session WHERE id = {OF_FIRST}",
            f"INSERT INTO ledger_posting SELECT max(e.id), 1, {WALLET}, 'D', 5, 39995 FROM ledger_entry e",
            f"INSERT INTO ledger_posting SELECT max(e.id), 2, {HELD}, 'C', 5, 50005 FROM ledger_entry e",
            "UPDATE ledger_account SET balance_minor = balance_minor - 5 WHERE kind = 'wallet'",
            "UPDATE ledger_account SET balance_minor = balance_minor + 5 WHERE kind = 'held'",
        ),
        {"G6", "G8"},
        {"G6", "G8"},
    ),
    "a session is gone": (
        (f"DELETE FROM charging_session WHERE id = {OF_FIRST}",),
        {"G2", "G6", "G12"},
        {"G2", "G6", "G12"},
    ),
    "a fact is gone": (
        ("DELETE FROM inbox WHERE action = 'MeterValues' AND station_id = 'CP-1'",),
        {"G1"},
        set(),
    ),
    "a raw frame is gone": (
        ("DELETE FROM frame WHERE action = 'MeterValues' AND station_id = 'CP-2'",),
        set(),
        {"G1"},
    ),
    "a stored answer is another": (
        ("UPDATE inbox SET response = replace(response, 'Accepted', 'Blocked') WHERE station_id = 'CP-1'",),
        {"G4"},
        set(),
    ),
    "an end is booked to another station's session": (
        (
            "UPDATE inbox SET session_id = (SELECT id FROM charging_session WHERE station_id = 'CP-2')"
            " WHERE action = 'StopTransaction'",
        ),
        {"G2", "G9", "G12"},
        {"G2", "G9", "G12"},
    ),
    "an ended session is open again": (
        ("UPDATE charging_session SET status = 'ONGOING', ended_at = NULL, settled_at = NULL",),
        {"G9"},
        {"G9"},
    ),
    "another user's session": (SECOND_USER, {"G12"}, {"G12"}),
    "another organisation's session": (
        (
            "INSERT INTO organization (id, name) VALUES ('other', 'Other')",
            "UPDATE charging_session SET organization_id = 'other' WHERE status = 'COMPLETED'",
        ),
        {"G12"},
        {"G12"},
    ),
    "a job is stuck": (
        ("INSERT INTO job (kind, subject, version, created_at) VALUES ('settle', 'x', 1, now() - interval '1 hour')",),
        {"G8"},
        {"G8"},
    ),
    "a command is stuck": (
        (
            "INSERT INTO command (id, station_id, action, payload, state, expires_at) VALUES (gen_random_uuid(),"
            " 'CP-1', 'Reset', '{}', 'sending', now() - interval '1 hour')",
        ),
        {"G8"},
        {"G8"},
    ),
    "a finding names another station's session": (
        (
            "INSERT INTO finding (kind, key, state, station_id, session_id, summary)"
            f" VALUES ('ghost', 'k', 'open', 'CP-2', {OF_FIRST}, 's')",
        ),
        {"G12"},
        {"G12"},
    ),
    "a reading of nobody": (
        ("INSERT INTO reading (session_id, at, context) VALUES (gen_random_uuid(), now(), 'x')",),
        {"G12"},
        {"G12"},
    ),
    "an invented session": (
        (
            "INSERT INTO charging_session (id, station_id, evse_id, connector_id, organization_id, status, origin,"
            " transaction_ref, created_at, started_at, currency, price_per_kwh_minor, fee_percent) SELECT"
            " gen_random_uuid(), station_id, 2, 1, organization_id, 'ONGOING', 'local', '77', now(), now(), currency,"
            f" price_per_kwh_minor, fee_percent FROM charging_session WHERE id = {OF_FIRST}",
        ),
        {"G2"},
        set(),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_is_found(name: str, node: Node) -> None:
    statements, by_journals, by_frames = DAMAGE[name]
    await _a_day(node)
    await node.damage(*statements)
    judged, verified = await node.judge(), await node.verify()
    assert by_journals <= {d.rule for d in judged.differences}, as_text(judged)
    assert by_frames <= {d.rule for d in verified.differences}, as_text(verified)
    assert judged.clean == (not by_journals), as_text(judged)
    assert verified.clean == (not by_frames), as_text(verified)


async def test_a_repeated_fact_and_its_answer_are_one(node: Node) -> None:
    visit = node.scribe.visit("CP-1", 1, 1_000)
    payload = {"connectorId": 1, "idTag": "CARD-A", "meterStart": 1_000, "timestamp": "2026-03-01T10:00:00Z"}
    fact = visit.queue("StartTransaction")
    message_id, answer = "", {}
    for kind in ("answer_ignored", "answered"):
        message_id = visit.send(fact, "StartTransaction", payload)
        answer = await node.tell("CP-1", "StartTransaction", payload)
        visit.answered(fact, "StartTransaction", message_id, answer, kind=kind)
    assert (await node.judge()).clean
    visit.answered(fact, "StartTransaction", message_id, {**answer, "transactionId": 1})
    assert {d.rule for d in (await node.judge()).differences} == {"G4"}


async def test_redis_is_read_and_judged(node: Node, redis_server: RunningRedis) -> None:
    await _a_day(node)
    await node.tell("CP-1", "StatusNotification", {"connectorId": 1, "errorCode": "NoError", "status": "Available"})
    client: Any = Redis(unix_socket_path=str(redis_server.socket_path), password=redis_server.password)
    address = f"unix://{redis_server.socket_path}?password={redis_server.password}"
    try:
        await client.flushall()
        assert (await node.judge(redis=address)).clean, "an empty cache is no difference"
        await client.hset("voltledger:status:CP-1", mapping={"1": "Available", "at": "2026"})
        session = await node.sql.fetchval("SELECT id FROM charging_session WHERE station_id = 'CP-2'")
        for _ in range(3):
            await client.xadd("voltledger:events:CP-2", {"c": 1, "k": "metered", "t": "2026", "s": str(session)})
        await client.set("voltledger:owner:CP-1", "a-node")
        found = await read_redis(address)
        assert sorted(found) == ["events:CP-2", "owner:CP-1", "status:CP-1"]
        assert len(found["events:CP-2"]) == 3
        clean = await node.judge(redis=address)
        assert clean.clean, as_text(clean)
        await client.hset("voltledger:status:CP-1", "1", "Charging")
        assert {d.rule for d in (await node.judge(redis=address)).differences} == {"G11"}
        await client.delete("voltledger:status:CP-1")
        await client.rpush("voltledger:status:CP-1", "poison")
        assert {d.rule for d in (await node.judge(redis=address)).differences} == {"G11"}
    finally:
        await client.flushall()
        await client.aclose()


async def test_frames_that_were_trimmed_are_no_difference(node: Node) -> None:
    await _a_day(node)
    await node.damage("DELETE FROM frame WHERE station_id = 'CP-1'")
    await node.damage("UPDATE frame SET at = at + interval '1 second'")
    await node.damage(
        "UPDATE charging_session SET energy_wh = energy_wh + 1, register_wh = 1 WHERE station_id = 'CP-1'"
    )
    verdict = await node.verify()
    assert verdict.figures.not_provable == {"frames trimmed": 1}
    assert {d.rule for d in verdict.differences} == {"G6"}, "its settlement still tells"
    await node.damage("UPDATE charging_session SET energy_wh = energy_wh - 1 WHERE station_id = 'CP-1'")
    assert (await node.verify()).clean


async def test_one_session_can_be_verified_alone(node: Node) -> None:
    await _a_day(node)
    session = await node.sql.fetchval(f"SELECT id FROM charging_session WHERE id = {OF_FIRST}")
    verdict = await node.verify(session)
    assert verdict.clean, as_text(verdict)
    assert (verdict.figures.sessions, verdict.figures.sessions_rebuilt) == (1, 1)
    await node.damage("UPDATE charging_session SET energy_wh = 1 WHERE station_id = 'CP-1'")
    assert {d.rule for d in (await node.verify(session)).differences} == {"G3"}
    await node.damage(
        "UPDATE settlement SET refund_minor = refund_minor - 1, covered_minor = covered_minor + 1, owed_minor = -1"
    )
    assert {d.rule for d in (await node.verify(session)).differences} == {"G3", "G6"}


async def test_energy_that_a_person_changed_is_not_blamed(node: Node) -> None:
    await _a_day(node)
    await node.sql.execute("UPDATE charging_session SET energy_wh = 7000 WHERE status = 'COMPLETED'")
    verdict = await node.verify()
    assert verdict.figures.not_provable == {"changed by a person, which is noted": 1}
    assert {d.rule for d in verdict.differences} == {"G6"}, "until the next database sync settles it"


async def test_it_reads_while_the_server_writes(node: Node) -> None:
    async def work() -> None:
        for number in range(20):
            await node.visit(start=1_000 + number * 10_000, registers=(), stop=6_000 + number * 10_000)
            await node.settle()

    task = asyncio.create_task(work())
    verdicts = []
    while not task.done():
        verdicts.append(await node.verify())
    await task
    assert len(verdicts) >= 3
    assert [as_text(v) for v in verdicts if not v.clean] == []
    assert (await node.judge()).clean


async def test_what_cannot_be_judged_is_said_in_one_line(node: Node, empty_database_dsn: str) -> None:
    with pytest.raises(CheckerError, match="run voltledger migrate"):
        await judge(empty_database_dsn)
    with pytest.raises(CheckerError, match="start it or correct DATABASE_URL"):
        await judge("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(CheckerError, match="there is no session"):
        await verify(node.dsn, session=UUID(int=1))


async def test_the_module_ends_with_one_on_a_difference(node: Node) -> None:
    await _a_day(node)
    words = [sys.executable, "-m", "voltledger.checker", "--dsn", node.dsn, "--journal", str(node.journal), "--json"]
    clean = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
    assert clean.returncode == 0, clean.stderr + clean.stdout
    assert json.loads(clean.stdout)["clean"] is True
    await node.damage("UPDATE ledger_account SET balance_minor = balance_minor + 1 WHERE kind = 'wallet'")
    damaged = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
    assert damaged.returncode == 1
    assert [d["rule"] for d in json.loads(damaged.stdout)["differences"]] == ["G5"]
    lost = await asyncio.to_thread(
        subprocess.run, [*words, "--sink", "nowhere"], capture_output=True, text=True, check=False
    )
    assert (lost.returncode, lost.stderr.count("\n")) == (2, 1)


async def test_limits_are_the_caller_s(node: Node) -> None:
    await node.visit()
    await asyncio.sleep(0)
    verdict = await node.judge(limits=Limits(unfinished_s=-1))
    assert {d.rule for d in verdict.differences} == {"G6", "G8"}, "not settled yet"
    assert (await node.judge()).clean, "it may take a minute"
