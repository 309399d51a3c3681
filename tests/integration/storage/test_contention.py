"""What somebody else does at the same moment harms nothing but its own row."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from tests.integration.storage.conftest import Storage, end, meter
from voltledger.config import Address
from voltledger.services.catalog import Catalog
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.postgres.catalog import PostgresCatalogStore
from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import COLUMN_LIST


async def test_the_first_payments_into_a_wallet_at_once_all_count(storage: Storage) -> None:
    catalog = Catalog(PostgresCatalogStore(storage.database), ocpp=Address("127.0.0.1", 9000))
    for number in range(40):
        user = await catalog.add_user(name=f"new user {number}", currency="INR")
        await asyncio.gather(*(catalog.top_up(user.id, 10, key=f"{number}-{n}") for n in range(6)))
    wrong = await storage.sql.fetch(
        "SELECT a.code, a.balance_minor, sum(p.amount_minor) FROM ledger_account a"
        " JOIN ledger_posting p ON p.account_id = a.id WHERE a.owner LIKE 'new-user%' GROUP BY a.id"
        " HAVING a.balance_minor <> sum(p.amount_minor)"
    )
    assert wrong == []


async def test_a_session_that_somebody_has_open_in_psql_stops_no_other_settlement(storage: Storage) -> None:
    for station in ("CP-1", "CP-2"):
        ref = await storage.begin(station=station)
        await storage.tell(end(2_000, ref=ref), station=station)
    locked = await storage.sql.fetchval("SELECT id FROM charging_session WHERE station_id = 'CP-1'")
    rival = await asyncpg.connect(storage.dsn)
    try:
        await rival.execute("BEGIN")
        await rival.execute("SELECT 1 FROM charging_session WHERE id = $1 FOR UPDATE", locked)
        await storage.settling.settle_due()
        settled = await storage.sql.fetch("SELECT station_id FROM charging_session WHERE settled_at IS NOT NULL")
        assert [row["station_id"] for row in settled] == ["CP-2"]
    finally:
        await rival.close()


async def test_a_session_that_somebody_has_open_in_psql_refuses_no_other_station(storage: Storage) -> None:
    first = await storage.begin(station="CP-1")
    second = await storage.begin(station="CP-2")
    rival = await asyncpg.connect(storage.dsn)
    try:
        await rival.execute("BEGIN")
        await rival.execute("SELECT 1 FROM charging_session WHERE station_id = 'CP-1' FOR UPDATE")
        # Both in one batch: the lane is kept busy while they arrive.
        busy = asyncio.create_task(storage.tell(meter(1_100, ref=second, minutes=-50), station="CP-2"))
        stuck = asyncio.create_task(storage.tell(meter(2_000, ref=first), station="CP-1"))
        await asyncio.wait_for(storage.tell(meter(2_000, ref=second), station="CP-2"), 8)
    finally:
        await rival.close()
    await asyncio.gather(busy, stuck, return_exceptions=True)
    energy = await storage.sql.fetchval("SELECT energy_wh FROM charging_session WHERE station_id = 'CP-2'")
    assert energy == 1_000


async def test_no_query_of_a_start_walks_through_all_sessions(storage: Storage) -> None:
    await storage.sql.execute(
        "INSERT INTO charging_session (id, station_id, evse_id, connector_id, organization_id, status, origin,"
        " transaction_ref, start_key, token, created_at, started_at, ended_at, end_reported, currency,"
        " price_per_kwh_minor, fee_percent)"
        " SELECT gen_random_uuid(), 'CP-1', 1, 1, 'default', 'COMPLETED', 'local', 'x' || n, int4send(n), 'T' || n,"
        " now(), now() - n * interval '1 minute', now() - n * interval '1 minute', true, 'INR', 1, 10"
        " FROM generate_series(1, 20000) n"
    )
    await storage.sql.execute("ANALYZE charging_session")
    now = datetime.now(UTC)
    arguments = {
        "sessions_open": (["CP-1"],),
        "sessions_by_ref": (["CP-1"], ["x77"]),
        "sessions_by_start": (["CP-1"], [b"\0\0\0\1"], ["T1"]),
        "sessions_ended_at": (["CP-1"], [now]),
    }
    for name, values in arguments.items():
        query = SQL[name].replace("{columns}", COLUMN_LIST)
        rows = await storage.sql.fetch("EXPLAIN (ANALYZE, COSTS OFF) " + query, *values)
        plan = "\n".join(row[0] for row in rows)
        removed = [int(line.rpartition(":")[2]) for line in plan.splitlines() if "Rows Removed by Filter" in line]
        assert sum(removed) < 1_000, f"{name} looks at every session:\n{plan}"
        assert "Seq Scan on charging_session" not in plan, f"{name}:\n{plan}"


async def test_a_connection_that_the_driver_lost_track_of_means_that_the_database_is_away(storage: Storage) -> None:
    """PostgreSQL killed in the middle of an operation: nothing is wrong with the data, and the connection is cut."""
    pids: list[int] = []

    async def lose_track() -> None:
        async with storage.database.unit_of_work() as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid()"))
            raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")

    with pytest.raises(StoreUnavailable):
        await lose_track()
    async with storage.database.unit_of_work() as connection:
        assert await connection.fetchval("SELECT pg_backend_pid()") not in pids
