"""A node's storage without its sockets: stations, users and money on a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uuid_utils

from voltledger.domain.commands import Command
from voltledger.domain.events import (
    Answer,
    Booted,
    ConnectorStatus,
    EndReason,
    Instant,
    MeterReported,
    Reading,
    StatusReported,
    TransactionEnded,
    TransactionStarted,
)
from voltledger.domain.identifiers import SessionId, StationId, TransactionRef, UserId, normal_token
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor, Wh
from voltledger.domain.session.book import Policy
from voltledger.services.intake import Committed, IdSource, InboundFact, Intake, RecordedEvent
from voltledger.services.runtime import CallOutcome, Outcome
from voltledger.services.settling import Settling
from voltledger.services.sync import DatabaseSyncService, SyncPolicy
from voltledger.storage.postgres.facts import PostgresFactStore
from voltledger.storage.postgres.ledger import post_entries
from voltledger.storage.postgres.live import PostgresLive
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore
from voltledger.storage.postgres.sync import PostgresSyncStore

SYNC_POLICY = SyncPolicy(
    ghost_grace=timedelta(minutes=5),
    orphan_grace=timedelta(minutes=1),
    reactivate_window=timedelta(minutes=15),
    stop_retries=3,
    stop_patience=timedelta(seconds=20),
    answer_s=0.1,
)
POLICY = Policy(local_hold=Minor(50_000), heartbeat_s=300)
_numbers = itertools.count(1)


def new_id() -> UUID:
    """A version 7 UUID."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


def clock(minutes: float = 0) -> datetime:
    """Minutes from now; facts of these tests happen an hour ago to now."""
    return datetime.now(UTC) + timedelta(minutes=minutes)


def _encode(answer: Answer) -> bytes:
    return json.dumps({"transactionId": answer.transaction_ref}).encode()


class Asked:
    """Stations that are asked for reports: they accept and say again what they said last, unless told otherwise."""

    def __init__(self, sql: Any) -> None:
        self._sql = sql
        self.outcome: Outcome = "answered"
        self.status = "Accepted"
        self.reports = True
        self.asked: list[Command] = []

    async def command(
        self, station_id: str, command: Command, *, session_id: UUID | None = None, timeout_s: float | None = None
    ) -> CallOutcome:
        """See `Commands`."""
        self.asked.append(command)
        if self.outcome == "answered" and self.reports:
            await self._sql.execute("UPDATE connector SET received_at = $2 WHERE station_id = $1", station_id, clock())
        return CallOutcome(outcome=self.outcome, response={"status": self.status}, call_id="")

    async def call(self, station_id: str, action: str, payload: str, *, timeout_s: float | None = None) -> CallOutcome:
        """See `Commands`."""
        raise NotImplementedError

    def check(self, station_id: str, action: str, payload: bytes) -> str | None:
        """See `Commands`."""
        raise NotImplementedError


class Storage:
    """One node's intake, settling and sync on one database; make two for two nodes."""

    def __init__(self, dsn: str, sql: Any) -> None:
        self.dsn = dsn
        self.sql = sql
        self.database = Database(dsn, size=6)
        self.facts = PostgresFactStore(self.database, currency="INR", fee_percent=Decimal(10), new_id=new_id)
        self.settling = Settling(PostgresSettlementStore(self.database))
        self.live = PostgresLive(self.database)
        self.sync_store = PostgresSyncStore(
            self.database, currency="INR", fee_percent=Decimal(10), policy=POLICY, new_id=new_id
        )
        self.stations = Asked(sql)
        self.quiet_since = datetime.min.replace(tzinfo=UTC)
        self.not_to_judge: set[str] = set()
        self.sync = DatabaseSyncService(
            self.sync_store,
            self.stations,
            SYNC_POLICY,
            now=lambda: datetime.now(UTC),
            new_id=new_id,
            wake=lambda: None,
            quiet_since=lambda: self.quiet_since,
            may_judge=lambda station_id: station_id not in self.not_to_judge,
        )
        self.committed: list[Committed] = []
        ids = IdSource(
            new_session_id=lambda: SessionId(new_id()), reserve=self.facts.reserve_transaction_refs, block=20
        )
        self.intake = Intake(self.facts, ids, POLICY, hold_s=5, on_committed=self._note)

    def _note(self, committed: Sequence[Committed]) -> None:
        self.committed.extend(committed)

    async def open(self) -> None:
        """Opens the pool and starts the intake."""
        await self.database.open()
        self.intake.start()

    async def close(self) -> None:
        """Stops the intake and closes the pool."""
        await self.intake.stop()
        await self.database.close()

    async def tell(self, event: RecordedEvent, *, station: str = "CP-1", key: str | None = None) -> Any:
        """What a station says, and our answer. The same key is the same fact."""
        return json.loads(await self.intake.submit(self.fact(event, station=station, key=key)))

    def fact(self, event: RecordedEvent, *, station: str = "CP-1", key: str | None = None) -> InboundFact:
        """The inbound fact of an event."""
        plain = isinstance(event, StatusReported | Booted)
        return InboundFact(
            station_id=StationId(station),
            epoch=1,
            action=type(event).__name__,
            message_id=f"m{next(_numbers)}",
            payload="{}",
            event=event,
            dedupe_key=None if plain else (key or f"fact-{next(_numbers)}").encode(),
            received_at=clock(),
            encode=_encode,
        )

    async def begin(self, *, station: str = "CP-1", evse: int = 1, register: int = 1_000) -> str:
        """A transaction of Anna's card that began an hour ago; returns its id."""
        answer = await self.tell(start(evse=evse, register=register), station=station)
        return str(answer["transactionId"])

    async def session(self, ref: str) -> Any:
        """The row of a session."""
        return await self.sql.fetchrow("SELECT * FROM charging_session WHERE transaction_ref = $1", ref)

    async def balances(self) -> dict[str, int]:
        """What each account holds by its postings; credit counts up."""
        rows = await self.sql.fetch(
            "SELECT a.code, sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END)::bigint AS amount,"
            " a.balance_minor FROM ledger_account a JOIN ledger_posting p ON p.account_id = a.id"
            " GROUP BY a.code, a.balance_minor"
        )
        for row in rows:
            assert row["balance_minor"] in (None, row["amount"]), f"{row['code']}: kept balance differs from postings"
        assert sum(row["amount"] for row in rows) == 0
        return {row["code"]: row["amount"] for row in rows if row["amount"]}

    async def findings(self) -> list[str]:
        """The kinds of all findings, oldest first."""
        return [row["kind"] for row in await self.sql.fetch("SELECT kind FROM finding ORDER BY id")]


def start(*, minutes: float = -60, evse: int = 1, register: int = 1_000, token: str = "CARD-A") -> TransactionStarted:
    """A start at the station."""
    return TransactionStarted(
        evse_id=evse,
        connector_id=1,
        token=normal_token(token),
        at=Instant(at=clock(minutes)),
        register_wh=Wh(register),
    )


def meter(register: int, *, ref: str | None, minutes: float = -30, evse: int = 1) -> MeterReported:
    """One reading of the register."""
    return MeterReported(
        evse_id=evse,
        transaction_ref=None if ref is None else TransactionRef(ref),
        readings=(Reading(at=Instant(at=clock(minutes)), register_wh=Wh(register)),),
    )


def end(
    register: int, *, ref: str | None, minutes: float = -1, reason: EndReason = EndReason.LOCAL
) -> TransactionEnded:
    """An end of a transaction."""
    return TransactionEnded(
        transaction_ref=None if ref is None else TransactionRef(ref),
        at=Instant(at=clock(minutes)),
        register_wh=Wh(register),
        reason=reason,
    )


def status(what: ConnectorStatus, *, evse: int = 1) -> StatusReported:
    """A connector's report, now."""
    return StatusReported(evse_id=evse, connector_id=1, status=what, raw_status=what.value, at=Instant(at=clock()))


async def _seed(storage: Storage) -> None:
    await storage.sql.execute(
        "INSERT INTO tariff (scope, currency, price_per_kwh_minor, valid_from) "
        "VALUES ('default', 'INR', 2000, '2020-01-01')"
    )
    await storage.sql.execute(
        "INSERT INTO driver (id, name, currency) VALUES ('anna', 'Anna', 'INR'), ('ben', 'Ben', 'INR')"
    )
    await storage.sql.execute(
        "INSERT INTO token (value, shown, driver_id) VALUES ('CARD-A', 'card-a', 'anna'), ('CARD-B', 'card-b', 'ben')"
    )
    await storage.sql.execute("INSERT INTO station (id, connectors) VALUES ('CP-1', 2), ('CP-2', 2)")
    for user in ("anna", "ben"):
        entry = topup_entry(key=f"first-{user}", user=UserId(user), currency="INR", amount=Minor(100_000))
        assert entry is not None
        async with storage.database.unit_of_work() as connection:
            await post_entries(connection, [entry])


@pytest.fixture
async def sql(database_dsn: str) -> AsyncIterator[Any]:
    """A connection as the owner of the database."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def app(database_dsn: str) -> AsyncIterator[Any]:
    """A connection in the role of the server."""
    connection = await asyncpg.connect(database_dsn, server_settings={"role": "voltledger_app"})
    yield connection
    await connection.close()


@pytest.fixture
async def storage(database_dsn: str, sql: Any) -> AsyncIterator[Storage]:
    """A node's storage with CP-1, CP-2, Anna and Ben, 1,000.00 each, and 20.00 a kWh."""
    made = Storage(database_dsn, sql)
    await made.open()
    await _seed(made)
    yield made
    await made.close()


@pytest.fixture
async def other_node(database_dsn: str, sql: Any, storage: Storage) -> AsyncIterator[Storage]:
    """A second node on the same database."""
    made = Storage(database_dsn, sql)
    await made.open()
    yield made
    await made.close()
