"""What happens half-way: a unit of work is whole or did not happen, and what it leaves is done by the next one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.integration.storage.conftest import Storage, end
from voltledger.services import settling
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.postgres import ledger, settlements
from voltledger.storage.postgres.outbox import PostgresOutbox

POINTS = [
    "t2.claimed",
    "t2.priced",
    "ledger.after_entries",
    "ledger.after_balances",
    "t2.after_entries",
    "t2.after_settlement",
    "t2.before_commit",
]
SETTLED = {"wallet:anna:INR": 75_310, "platform_fee::INR": 2_469, "payable:default:INR": 22_221}
ROWS = (
    "SELECT 'job', to_jsonb(j) - 'run_after' FROM job j"
    " UNION ALL SELECT 'settlement', to_jsonb(s) FROM settlement s"
    " UNION ALL SELECT 'entry', to_jsonb(e) FROM ledger_entry e"
    " UNION ALL SELECT 'posting', to_jsonb(p) FROM ledger_posting p"
    " UNION ALL SELECT 'account', to_jsonb(a) FROM ledger_account a"
    " UNION ALL SELECT 'session', to_jsonb(c) FROM charging_session c"
    " UNION ALL SELECT 'outbox', to_jsonb(o) FROM outbox o"
    " UNION ALL SELECT 'news', to_jsonb(f) FROM feed f ORDER BY 1, 2"
)


async def _ended(storage: Storage) -> None:
    """A session that used 12,345 Wh of 500.00 that were set aside, and waits for its settlement."""
    await storage.tell(end(13_345, ref=await storage.begin()))


async def _rows(storage: Storage) -> list[tuple[str, str]]:
    return [tuple(row) for row in await storage.sql.fetch(ROWS)]


async def _is_settled_whole(storage: Storage) -> None:
    """Everything that a settlement writes is there, once."""
    balances = await storage.balances()
    assert {account: balances.get(account) for account in SETTLED} == SETTLED
    assert balances.get("held:anna:INR", 0) == 0
    assert await storage.sql.fetchval("SELECT count(*) FROM settlement") == 1
    row = await storage.sql.fetchrow("SELECT settle_version, refunded_minor FROM charging_session")
    assert tuple(row) == (1, 25_310)
    assert [row[0] for row in await storage.sql.fetch("SELECT state FROM job")] == ["done"]
    assert [row[0] for row in await storage.sql.fetch("SELECT target FROM outbox")] == ["clear_events"]
    assert await storage.sql.fetchval("SELECT count(*) FROM feed WHERE kind = 'settled'") == 1


@pytest.mark.parametrize("point", POINTS)
async def test_a_settlement_that_dies_at_any_point_leaves_nothing_and_is_done_by_the_next_worker(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    await _ended(storage)
    before = await _rows(storage)

    async def strike(name: str) -> None:
        if name == point:
            raise StoreUnavailable("the worker dies here")

    with monkeypatch.context() as patched:
        for module in (settling, settlements, ledger):
            patched.setattr(module, "ARMED", True)
            patched.setattr(module, "fp", strike)
        with pytest.raises(StoreUnavailable):
            await storage.settling.settle_due()
    assert await _rows(storage) == before
    assert (await storage.settling.settle_due())[0] == 1
    await _is_settled_whole(storage)


@pytest.mark.parametrize("connections", range(4))
async def test_a_settlement_is_whole_after_how_many_connections_ever_the_database_goes_away(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, connections: int
) -> None:
    await _ended(storage)
    left = connections
    real = storage.database.connection

    @asynccontextmanager
    async def limited() -> AsyncIterator[Any]:
        nonlocal left
        if left == 0:
            raise StoreUnavailable("the database is away")
        left -= 1
        async with real() as connection:
            yield connection

    with monkeypatch.context() as patched, contextlib.suppress(StoreUnavailable):
        patched.setattr(storage.database, "connection", limited)
        await storage.settling.settle_due()
    await storage.settling.settle_due()
    await _is_settled_whole(storage)


async def test_a_job_that_one_worker_does_is_another_workers_neither_to_do_nor_to_wait_for(
    storage: Storage, other_node: Storage
) -> None:
    for station in ("CP-1", "CP-2"):
        await storage.tell(end(2_000, ref=await storage.begin(station=station)), station=station)
    one, two = (settlements.PostgresSettlementStore(node.database) for node in (storage, other_node))
    async with one.unit_of_work() as first, two.unit_of_work() as second:
        jobs = [await asyncio.wait_for(work.next_due(), 1) for work in (first, second)]
        assert None not in jobs
        assert jobs[0] != jobs[1]
        assert await asyncio.wait_for(second.next_due(), 1) == jobs[1], "its own job, as often as it looks"


async def test_an_effect_is_marked_only_after_it_was_sent(storage: Storage) -> None:
    await storage.sql.execute("INSERT INTO outbox (effect_key, target, payload) VALUES ('e', 'cache', '{}')")
    seen = []

    async def send(target: str, payload: Any) -> bool:
        seen.append(await storage.sql.fetchval("SELECT state FROM outbox"))
        if len(seen) == 1:
            raise asyncio.CancelledError  # as when the process ends here
        return True

    outbox = PostgresOutbox(storage.database)
    with pytest.raises(asyncio.CancelledError):
        await outbox.send_waiting(send, 100)
    assert await outbox.send_waiting(send, 100) == (1, 0)
    assert seen == ["waiting", "waiting"]
    assert await storage.sql.fetchval("SELECT state FROM outbox") == "sent"


async def test_a_unit_of_work_that_is_cancelled_before_its_commit_leaves_nothing(storage: Storage) -> None:
    written = asyncio.Event()

    async def write() -> None:
        async with storage.database.unit_of_work() as connection:
            await connection.execute("INSERT INTO outbox (effect_key, target, payload) VALUES ('half', 'cache', '{}')")
            written.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await asyncio.wait_for(written.wait(), 5)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled(), "whoever cancels must be obeyed"
    assert await storage.sql.fetchval("SELECT count(*) FROM outbox") == 0
    assert storage.database.in_use == 0
