"""What the database itself refuses, whoever asks."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.integration.storage.conftest import Storage, end

TABLES = ("ledger_entry", "ledger_posting", "settlement")
CHANGES = {
    "ledger_entry": "reason = 'x'",
    "ledger_posting": "amount_minor = amount_minor + 1",
    "settlement": "refund_minor = 0",
}
ATTEMPTS = [
    *(f"UPDATE {table} SET {CHANGES[table]}" for table in TABLES),
    *(f"DELETE FROM {table}" for table in TABLES),
    *(f"TRUNCATE {table} CASCADE" for table in TABLES),
    "TRUNCATE charging_session CASCADE",
    "TRUNCATE ledger_account CASCADE",
    "DELETE FROM charging_session",
    "DELETE FROM ledger_account",
    "UPDATE ledger_account SET balance_minor = -1 WHERE code = 'wallet:anna:INR'",
    "UPDATE ledger_account SET balance_minor = NULL WHERE code = 'wallet:anna:INR'",
    "UPDATE charging_session SET refunded_minor = paid_minor + 1",
    "UPDATE charging_session SET energy_wh = -1",
    "UPDATE charging_session SET status = 'DONE'",
]

ENTRY = (
    "WITH e AS (INSERT INTO ledger_entry (kind, source_id, version, reason) VALUES ('topup', 'x', 1, '') RETURNING id) "
    "INSERT INTO ledger_posting (entry_id, line, account_id, side, amount_minor) "
    "SELECT e.id, n, (SELECT id FROM ledger_account WHERE code = code_of), side, amount FROM e, (VALUES {lines}) "
    "AS l (n, code_of, side, amount)"
)


def entry(*lines: str) -> str:
    """SQL that writes an entry with these lines."""
    return ENTRY.format(lines=", ".join(f"({n}, {line})" for n, line in enumerate(lines, 1)))


@pytest.fixture
async def settled(storage: Storage) -> Storage:
    """Books with one settled session."""
    ref = await storage.begin()
    await storage.tell(end(13_345, ref=ref))
    await storage.settling.settle_due()
    return storage


async def _picture(sql: Any) -> list[Any]:
    return [
        await sql.fetch(f"SELECT t::text FROM {t} t ORDER BY 1")
        for t in (*TABLES, "ledger_account", "charging_session")
    ]


@pytest.mark.parametrize("attempt", ATTEMPTS)
@pytest.mark.parametrize("who", ["owner", "voltledger_app"])
async def test_posted_records_are_never_changed(settled: Storage, app: Any, who: str, attempt: str) -> None:
    before = await _picture(settled.sql)
    with pytest.raises(asyncpg.PostgresError):
        await (app if who == "voltledger_app" else settled.sql).execute(attempt)
    assert await _picture(settled.sql) == before


@pytest.mark.parametrize(
    "forbidden",
    [
        "ALTER TABLE ledger_entry DISABLE TRIGGER entry_never_changes",
        "DROP TABLE settlement",
        "UPDATE ledger_account SET code = 'x'",
        "INSERT INTO installation (only_one, transaction_key) VALUES (false, '')",
        "UPDATE installation SET transaction_key = ''",
        "CREATE TABLE mine (id int)",
    ],
)
async def test_the_servers_role_may_not_change_the_rules(settled: Storage, app: Any, forbidden: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await app.execute(forbidden)


@pytest.mark.parametrize(
    ("what", "lines", "constraint"),
    [
        ("sides that differ", ["'provider::INR', 'D', 2", "'wallet:anna:INR', 'C', 1"], "entry_balances"),
        ("one side only", ["'wallet:anna:INR', 'C', 1"], "entry_balances"),
        ("a line of zero", ["'provider::INR', 'D', 0", "'wallet:anna:INR', 'C', 0"], "posting_positive"),
        ("a line below zero", ["'provider::INR', 'D', -1", "'wallet:anna:INR', 'C', -1"], "posting_positive"),
        ("a third side", ["'provider::INR', 'X', 1"], "posting_side_known"),
    ],
)
async def test_an_entry_that_does_not_balance_is_refused_at_the_commit(
    settled: Storage, app: Any, what: str, lines: list[str], constraint: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await app.execute(entry(*lines))
    assert refused.value.constraint_name == constraint, what
    assert await app.fetchval("SELECT count(*) FROM ledger_entry WHERE source_id = 'x'") == 0


async def test_a_balanced_entry_is_accepted_once(settled: Storage, app: Any) -> None:
    good = entry("'provider::INR', 'D', 1", "'platform_fee::INR', 'C', 1")
    await app.execute(good)
    with pytest.raises(asyncpg.UniqueViolationError, match="entry_once"):
        await app.execute(good)


async def test_a_line_that_does_not_move_the_kept_balance_of_its_account_is_refused(settled: Storage, app: Any) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="does not move the balance of its account"):
        await app.execute(entry("'provider::INR', 'D', 1", "'wallet:anna:INR', 'C', 1"))


async def test_a_kept_balance_that_no_line_explains_is_refused(settled: Storage, app: Any) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="does not follow from its postings"):
        await app.execute("UPDATE ledger_account SET balance_minor = balance_minor + 1 WHERE code = 'wallet:anna:INR'")
    with pytest.raises(asyncpg.CheckViolationError, match="does not follow from its postings"):
        await app.execute(
            "INSERT INTO ledger_account (code, kind, owner, currency, balance_minor) "
            "VALUES ('wallet:eve:INR', 'wallet', 'eve', 'INR', 1000)"
        )


async def test_a_temporary_table_does_not_stand_in_for_the_books(settled: Storage, app: Any) -> None:
    await app.execute("CREATE TEMP TABLE ledger_account (LIKE public.ledger_account)")
    with pytest.raises(asyncpg.CheckViolationError):
        await app.execute(
            "WITH e AS (INSERT INTO public.ledger_entry (kind, source_id, version, reason) "
            "VALUES ('topup', 'temp', 1, '') RETURNING id) "
            "INSERT INTO public.ledger_posting (entry_id, line, account_id, side, amount_minor) "
            "SELECT e.id, 1, a.id, 'D', 5 FROM e, public.ledger_account a WHERE a.code = 'provider::INR'"
        )


async def test_an_entry_without_lines_is_refused(settled: Storage, app: Any) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
        await app.execute("INSERT INTO ledger_entry (kind, source_id, version, reason) VALUES ('topup', 'x', 1, '')")


async def test_two_currencies_in_one_entry_are_refused(settled: Storage, app: Any) -> None:
    await app.execute(
        "INSERT INTO ledger_account (code, kind, owner, currency, balance_minor) "
        "VALUES ('wallet:anna:EUR', 'wallet', 'anna', 'EUR', 0)"
    )
    with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
        await app.execute(entry("'provider::INR', 'D', 1", "'wallet:anna:EUR', 'C', 1"))


async def test_a_line_cannot_be_added_to_an_older_entry(settled: Storage, app: Any) -> None:
    for connection in (app, settled.sql):
        with pytest.raises(asyncpg.CheckViolationError, match="together with its entry"):
            await connection.execute(
                "INSERT INTO ledger_posting (entry_id, line, account_id, side, amount_minor) "
                "SELECT max(entry_id), 99, max(account_id), 'C', 5 FROM ledger_posting"
            )


async def test_a_line_cannot_be_added_after_its_entry_was_checked_early(settled: Storage, app: Any) -> None:
    good = entry("'provider::INR', 'D', 1", "'wallet:anna:INR', 'C', 1")
    with pytest.raises(asyncpg.CheckViolationError):
        await app.execute(
            f"BEGIN; {good}; SET CONSTRAINTS ALL IMMEDIATE; "
            "INSERT INTO ledger_posting (entry_id, line, account_id, side, amount_minor) "
            "SELECT id, 99, (SELECT id FROM ledger_account WHERE code = 'wallet:anna:INR'), 'C', 5 "
            "FROM ledger_entry WHERE source_id = 'x'; COMMIT"
        )


async def test_a_session_is_settled_once_in_each_version(settled: Storage, app: Any) -> None:
    with pytest.raises(asyncpg.UniqueViolationError, match="settlement_once"):
        await app.execute("INSERT INTO settlement SELECT * FROM settlement")


@pytest.mark.parametrize(
    ("changed", "constraint"),
    [
        ((1, 1, 0, 0, 0, 0), "settlement_cost_is_split"),
        ((0, 0, 0, 1, 0, 0), "settlement_cost_is_covered"),
        ((0, 0, 1, 0, 0, 0), "settlement_paid_is_accounted"),
        ((30_000, 30_000, -30_000, 0, 0, 30_000), "settlement_refund_not_negative"),
    ],
)
async def test_a_settlement_that_does_not_add_up_is_refused(
    settled: Storage, app: Any, changed: tuple[int, ...], constraint: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await app.execute(
            "INSERT INTO settlement (session_id, version, energy_wh, price_per_kwh_minor, fee_percent, currency, "
            "paid_minor, cost_minor, covered_minor, refund_minor, owed_minor, fee_minor, share_minor) "
            "SELECT session_id, 2, energy_wh, price_per_kwh_minor, fee_percent, currency, paid_minor, cost_minor + $1, "
            "covered_minor + $2, refund_minor + $3, owed_minor + $4, fee_minor + $5, share_minor + $6 FROM settlement",
            *changed,
        )
    assert refused.value.constraint_name == constraint


async def test_many_workers_that_settle_one_session_at_once_settle_it_once(
    storage: Storage, other_node: Storage
) -> None:
    ref = await storage.begin()
    await storage.tell(end(13_345, ref=ref))
    nodes = (storage, other_node)
    results = await asyncio.gather(*(nodes[n % 2].settling.settle_due(limit=3) for n in range(50)))
    assert sum(len(settled) for _, settled in results) == 1
    assert await storage.sql.fetchval("SELECT count(*) FROM settlement") == 1
    assert await storage.sql.fetchval("SELECT count(*) FROM ledger_entry WHERE kind = 'settlement'") == 1
    assert await storage.sql.fetchval("SELECT state FROM job") == "done"
    assert (await storage.balances())["wallet:anna:INR"] == 75_310


async def test_a_settlement_job_that_is_written_again_by_hand_changes_nothing(settled: Storage) -> None:
    before = await settled.balances()
    await settled.sql.execute("UPDATE job SET state = 'waiting'")
    assert await settled.settling.settle_due() == (1, [])
    assert await settled.balances() == before
