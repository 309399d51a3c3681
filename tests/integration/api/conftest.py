"""An application over a real database, with stand-ins for the parts that talk to stations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import uuid_utils.compat as uuids
from litestar import Litestar

from voltledger.api import create_app
from voltledger.config import Address, Settings
from voltledger.domain.commands import Command
from voltledger.domain.errors import DomainError
from voltledger.domain.identifiers import StationId
from voltledger.services.catalog import Catalog
from voltledger.services.runtime import CallOutcome, ConnectionInfo, Health, LoopHealth, Runtime
from voltledger.storage.postgres.catalog import PostgresCatalogStore
from voltledger.storage.postgres.pool import Database

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass
class FakeCommands:
    """Answers every call with `outcome`, and remembers what it was asked."""

    outcome: CallOutcome = field(
        default_factory=lambda: CallOutcome(outcome="answered", response={"status": "Accepted"}, call_id="c-1")
    )
    problem: str | None = None
    calls: list[tuple[str, str, str, float | None]] = field(default_factory=list)
    commands: list[tuple[str, Command]] = field(default_factory=list)

    async def call(self, station_id: str, action: str, payload: str, *, timeout_s: float | None = None) -> CallOutcome:
        self.calls.append((station_id, action, payload, timeout_s))
        return self.outcome

    async def command(
        self,
        station_id: str,
        command: Command,
        *,
        session_id: UUID | None = None,
        timeout_s: float | None = None,
    ) -> CallOutcome:
        self.commands.append((station_id, command))
        return self.outcome

    def check(self, station_id: str, action: str, payload: bytes) -> str | None:
        return self.problem


@dataclass
class FakePresence:
    connections: dict[str, ConnectionInfo] = field(default_factory=dict)

    def connected(self) -> Mapping[str, ConnectionInfo]:
        return self.connections

    async def close_station(self, station_id: StationId, reason: str) -> None:
        self.connections.pop(station_id, None)


@dataclass
class FakePrepaid:
    """Writes a pending session as the real one would, without money."""

    dsn: str
    error: DomainError | None = None
    outcome: CallOutcome = field(
        default_factory=lambda: CallOutcome(outcome="answered", response={"status": "Accepted"}, call_id="c-2")
    )
    starts: int = 0
    stops: list[UUID] = field(default_factory=list)

    async def start(
        self,
        *,
        station_id: str,
        connector: int,
        user_id: str,
        amount_minor: int,
        token: str | None,
        key: str | None,
    ) -> UUID:
        if self.error is not None:
            raise self.error
        self.starts += 1
        connection = await asyncpg.connect(self.dsn)
        try:
            return await insert_session(
                connection,
                station_id,
                evse_id=connector,
                user=user_id,
                paid_minor=amount_minor,
                status="PENDING",
            )
        finally:
            await connection.close()

    async def stop(self, session_id: UUID) -> CallOutcome:
        self.stops.append(session_id)
        return self.outcome


WELL = Health(
    status="ok",
    database="ok",
    redis="ok",
    stations_connected=1,
    sessions_active=0,
    sync={"database": LoopHealth(last_run=NOW, duration_s=0.1, outcome="ok")},
    findings_open=0,
    journal=0,
    version="test",
)


@dataclass
class FakeStatus:
    is_ready: bool = True
    now: Health = WELL

    def health(self) -> Health:
        return self.now

    def ready(self) -> bool:
        return self.is_ready

    def metrics(self) -> bytes:
        return b"voltledger_stations_connected 1\n"


@dataclass
class FakeLive:
    """Hands out whatever `say` is given."""

    queues: list[asyncio.Queue[Mapping[str, object]]] = field(default_factory=list)

    def say(self, item: Mapping[str, object]) -> None:
        for queue in self.queues:
            queue.put_nowait(item)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Mapping[str, object]]]:
        queue: asyncio.Queue[Mapping[str, object]] = asyncio.Queue()
        self.queues.append(queue)

        async def items() -> AsyncIterator[Mapping[str, object]]:
            while True:
                yield await queue.get()

        try:
            yield items()
        finally:
            self.queues.remove(queue)


@dataclass
class World:
    """The application, what it works with, and a way into its database."""

    app: Litestar
    client: httpx.AsyncClient
    runtime: Runtime
    catalog: Catalog
    commands: FakeCommands
    presence: FakePresence
    prepaid: FakePrepaid
    status: FakeStatus
    live: FakeLive
    database: Database
    sql: Any
    keys: dict[str, str]

    async def ask(self, method: str, path: str, *, role: str | None = "admin", **more: Any) -> Any:
        headers = dict(more.pop("headers", {}))
        if role is not None:
            headers["Authorization"] = f"Bearer {self.keys[role]}"
        return await self.client.request(method, path, headers=headers, **more)

    async def get(self, path: str, **more: Any) -> Any:
        return await self.ask("GET", f"/api/v1{path}", **more)

    async def post(self, path: str, json: Any = None, **more: Any) -> Any:
        if json is not None:
            more["json"] = json
        return await self.ask("POST", f"/api/v1{path}", **more)


async def insert_session(
    connection: Any,
    station: str,
    *,
    evse_id: int = 1,
    user: str | None = None,
    paid_minor: int = 0,
    status: str = "ONGOING",
    energy_wh: int = 0,
    power_w: float | None = None,
    transaction_ref: str | None = None,
    id: UUID | None = None,
    created_at: datetime = NOW,
) -> UUID:
    """A session as the core would have written it."""
    session_id = id or UUID(int=uuids.uuid7().int)
    started = None if status == "PENDING" else NOW
    await connection.execute(
        "INSERT INTO charging_session (id, station_id, evse_id, connector_id, organization_id, status, origin,"
        " driver_id, created_at, started_at, energy_wh, power_w, currency, price_per_kwh_minor, fee_percent,"
        " paid_minor, transaction_ref)"
        " VALUES ($1, $2, $3, 1, 'default', $4, 'prepaid', $5, $6, $7, $8, $9, 'INR', 2000, 10, $10, $11)",
        session_id,
        station,
        evse_id,
        status,
        user,
        created_at,
        started,
        energy_wh,
        power_w,
        paid_minor,
        transaction_ref,
    )
    return session_id


def make_runtime(database: Database, dsn: str) -> tuple[Runtime, dict[str, Any]]:
    settings = Settings(data=Path("/nonexistent"), log_file=Path("/nonexistent/log"))
    fakes: dict[str, Any] = {
        "commands": FakeCommands(),
        "presence": FakePresence(),
        "prepaid": FakePrepaid(dsn),
        "status": FakeStatus(),
        "live": FakeLive(),
    }
    catalog = Catalog(PostgresCatalogStore(database), ocpp=Address("127.0.0.1", 9000))
    return Runtime(catalog=catalog, settings=settings, **fakes), fakes


@pytest.fixture
async def world(database_dsn: str) -> AsyncIterator[World]:
    """A server with a station CP-1, a user anna, the usual price, and a key of every role."""
    database = Database(database_dsn, size=4)
    await database.open()
    sql = await asyncpg.connect(database_dsn)
    runtime, fakes = make_runtime(database, database_dsn)
    catalog = runtime.catalog
    await catalog.add_station(id="CP-1", password="secret-of-cp-1", connectors=2)
    await catalog.add_user(name="Anna", currency="INR", id="anna")
    await catalog.add_user(name="Bela", currency="INR", id="bela")
    keys = {
        role: (await catalog.add_key(role=role, user="anna" if role == "driver" else None)).key
        for role in ("viewer", "operator", "finance", "admin", "driver")
    }
    app = create_app(runtime)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://voltledger.test") as client:
        yield World(
            app=app,
            client=client,
            runtime=runtime,
            catalog=catalog,
            database=database,
            sql=sql,
            keys=keys,
            **fakes,
        )
    await sql.close()
    await database.close()
