"""A database as it looks in the middle of a working day: stations, sessions in every state, money, findings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuids

from tests.integration.api.conftest import FakePresence
from voltledger.domain.identifiers import SessionId, UserId
from voltledger.domain.ledger.holds import hold_entry
from voltledger.domain.quantities import Minor
from voltledger.services.catalog import Catalog
from voltledger.services.runtime import ConnectionInfo
from voltledger.services.settling import Settling
from voltledger.storage.postgres.ledger import post_entries
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore

STATIONS = (
    ("CP-001", "Voltwerk", "AC22 Duo", "OCCUPIED", ("Charging", "Available")),
    ("CP-002", "Voltwerk", "AC22 Duo", "OCCUPIED", ("SuspendedEV", "Preparing")),
    ("CP-003", "Northgrid", "HPC 150", "OCCUPIED", ("Charging", "Charging")),
    ("CP-004", "Northgrid", "HPC 150", "OUT_OF_ORDER", ("Faulted", "Unavailable")),
    ("CP-005", "Voltwerk", "AC11", "OFFLINE", ("Charging",)),
    ("CP-006", "Voltwerk", "AC11", "AVAILABLE", ("Available",)),
)
USERS = (("anna", 500_00), ("bela", 1_200_00), ("chandra", 80_00))


async def busy_day(catalog: Catalog, database: Database, sql: Any, presence: FakePresence) -> dict[str, UUID]:
    """Fills the database; returns some sessions by name."""
    now = datetime.now(UTC)
    await catalog.set_tariff(price_per_kwh_minor=Decimal(2000), currency="INR")
    for name, amount in USERS:
        await catalog.add_user(name=name.capitalize(), currency="INR", id=name)
        await catalog.top_up(name, amount, key=f"payment-{name}")
    for id, vendor, model, status, connectors in STATIONS:
        await catalog.add_station(id=id, password="a-password", connectors=len(connectors))
        await _report(sql, id, vendor, model, status, connectors, now)
        if status != "OFFLINE":
            presence.connections[id] = ConnectionInfo(
                version="ocpp1.6", since=now - timedelta(hours=3), last_frame_at=now - timedelta(seconds=9)
            )
    sessions = {
        "running": await _session(sql, database, "CP-001", 1, "anna", 200_00, 4_310, 11_040.0, now),
        "fast": await _session(sql, database, "CP-003", 1, "bela", 900_00, 21_870, 96_300.0, now),
        "gone": await _session(sql, database, "CP-005", 1, "chandra", 80_00, 1_250, 7_400.0, now),
        "orphan": await _session(sql, database, "CP-003", 2, None, 0, 640, 41_000.0, now, status="ORPHANED"),
        "wait": await _session(sql, database, "CP-002", 2, "bela", 50_00, 0, None, now, status="PENDING"),
        "done": await _session(sql, database, "CP-006", 1, "anna", 250_00, 12_345, None, now, status="COMPLETED"),
        "ghost": await _session(sql, database, "CP-001", 2, "bela", 100_00, 2_000, None, now, status="GHOST"),
        "over": await _session(sql, database, "CP-006", 1, None, 0, 900, None, now, status="TERMINATED"),
    }
    await Settling(PostgresSettlementStore(database)).settle_due()
    await _findings(sql, sessions, now)
    for job, outcome, seconds in (
        ("database_sync", "ok", 12),
        ("orphans_and_ghosts", "ok", 65),
        ("cleanup", "failed", 1900),
    ):
        await sql.execute(
            "INSERT INTO job_run (job, period_start, node, started_at, duration_s, outcome)"
            " VALUES ($1, $2, 'n1', $2, 0.042, $3)",
            job,
            now - timedelta(seconds=seconds),
            outcome,
        )
    return sessions


async def _report(
    sql: Any, id: str, vendor: str, model: str, status: str, connectors: tuple[str, ...], now: datetime
) -> None:
    await sql.execute(
        "UPDATE station SET vendor = $2, model = $3, status = $4, derived_status = $4, last_seen_at = $5,"
        " out_of_order_since = CASE WHEN $4 = 'OUT_OF_ORDER' THEN $5::timestamptz END WHERE id = $1",
        id,
        vendor,
        model,
        status,
        now - timedelta(minutes=4),
    )
    for number, word in enumerate(connectors, 1):
        await sql.execute(
            "INSERT INTO connector (station_id, evse_id, connector_id, status, raw_status, error_code, received_at,"
            " since)"
            " VALUES ($1, $2, 1, $3, $3, $4, $5, $5)",
            id,
            number,
            word,
            "GroundFailure" if word == "Faulted" else "NoError",
            now - timedelta(minutes=number * 7),
        )


async def _session(
    sql: Any,
    database: Database,
    station: str,
    evse: int,
    user: str | None,
    paid: int,
    energy: int,
    power: float | None,
    now: datetime,
    *,
    status: str = "ONGOING",
) -> UUID:
    session_id = UUID(int=uuids.uuid7().int)
    ended = status in ("COMPLETED", "TERMINATED", "GHOST")
    await sql.execute(
        "INSERT INTO charging_session (id, station_id, evse_id, connector_id, organization_id, status, origin,"
        " driver_id, created_at, started_at, ended_at, stop_reason, energy_wh, power_w, currency,"
        " price_per_kwh_minor, fee_percent, paid_minor, transaction_ref, heard_at)"
        " VALUES ($1, $2, $3, 1, 'default', $4, 'prepaid', $5, $6, $7, $8, $9, $10, $11, 'INR', 2000, 10,"
        " $12, $13, $14)",
        session_id,
        station,
        evse,
        status,
        user,
        now - timedelta(minutes=41),
        None if status == "PENDING" else now - timedelta(minutes=40),
        now - timedelta(minutes=3) if ended else None,
        "Local" if ended else None,
        energy,
        power,
        paid,
        None if status == "PENDING" else str(session_id.int % 10**9),
        now,
    )
    if user is not None:
        entry = hold_entry(
            session_id=SessionId(session_id), user=UserId(user), currency="INR", amount=Minor(paid), version=1
        )
        assert entry is not None
        async with database.unit_of_work() as connection:
            await post_entries(connection, [entry])
    if ended:
        await sql.execute("INSERT INTO job (kind, subject, version) VALUES ('settle', $1, 1)", str(session_id))
    return session_id


async def _findings(sql: Any, sessions: dict[str, UUID], now: datetime) -> None:
    rows = (
        ("ghost", "repaired", "CP-001", 2, sessions["ghost"],
         "The session was active and the connector was free for 2 min. "
         "It was closed at its last register and settled."),
        ("orphaned", "noted", "CP-003", 2, sessions["orphan"],
         "The station charges and there was no session. A session was made from its readings."),
        ("will_not_stop", "open", "CP-004", 1, None,
         "The station was asked to stop three times and goes on. It was taken out of order."),
    )  # fmt: skip
    for kind, state, station, evse, session, summary in rows:
        await sql.execute(
            "INSERT INTO finding (kind, key, state, station_id, evse_id, session_id, summary, evidence, found_at)"
            " VALUES ($1, $1 || $3, $2, $3, $4, $5, $6, $7, $8)",
            kind,
            state,
            station,
            evse,
            session,
            summary,
            '{"register_wh": "2000"}',
            now - timedelta(minutes=2),
        )
