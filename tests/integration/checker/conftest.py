"""Sessions on real PostgreSQL, told in real OCPP 1.6 payloads through the real intake and settled by the real T2."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import uuid_utils.compat as uuids

from tests.unit.checker.stations import Scribe
from voltledger.checker import Verdict, judge, verify
from voltledger.domain.identifiers import SessionId, StationId, UserId
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor
from voltledger.domain.session.book import Policy
from voltledger.ocpp.registry import Inbound, dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.intake import IdSource, InboundFact, Intake
from voltledger.services.settling import Settling
from voltledger.storage.postgres.facts import PostgresFactStore
from voltledger.storage.postgres.ledger import post_entries
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore

_numbers = itertools.count(1)
DIALECT = dialect(Version.V16)


class Node:
    """The server without its sockets, and stations that keep a journal of what they said and heard."""

    def __init__(self, dsn: str, sql: Any, journal: Path) -> None:
        self.dsn, self.sql, self.journal = dsn, sql, journal
        self.scribe = Scribe(journal)
        self.database = Database(dsn, size=4)
        store = PostgresFactStore(self.database, currency="INR", fee_percent=Decimal(10), new_id=uuids.uuid7)
        ids = IdSource(new_session_id=lambda: SessionId(uuids.uuid7()), reserve=store.reserve_transaction_refs)
        self.intake = Intake(store, ids, Policy(local_hold=Minor(50_000)), hold_s=5, on_committed=lambda facts: None)
        self.settling = Settling(PostgresSettlementStore(self.database))

    async def open(self) -> None:
        """Opens the pool, starts the intake."""
        await self.database.open()
        self.intake.start()

    async def close(self) -> None:
        """Stops both."""
        await self.intake.stop()
        await self.database.close()

    async def tell(self, station: str, action: str, payload: dict[str, Any], at: datetime | None = None) -> Any:
        """What a station says, as it is on the wire, and the answer on the wire."""
        text = json.dumps(payload)
        received_at = at or datetime.now(UTC)
        inbound = DIALECT.read(action, text.encode(), received_at)
        assert isinstance(inbound, Inbound), inbound
        fact = InboundFact(
            station_id=StationId(station),
            epoch=1,
            action=action,
            message_id=f"m{next(_numbers)}",
            payload=text,
            event=inbound.event,  # type: ignore[arg-type]
            dedupe_key=inbound.dedupe_key,
            received_at=received_at,
            encode=lambda answer: DIALECT.answer(inbound, answer),
        )
        return json.loads(await self.intake.submit(fact))

    async def visit(
        self,
        station: str = "CP-1",
        *,
        connector: int = 1,
        start: int = 1_000,
        registers: tuple[int, ...] = (4_000,),
        stop: int | None = 6_000,
        token: str = "CARD-A",
    ) -> int:
        """A car's visit, journaled; returns the transaction id. Without `stop` it goes on."""
        visit = self.scribe.visit(station, connector, start, token)
        payload: dict[str, Any] = {"connectorId": connector, "idTag": token, "meterStart": start, "timestamp": ago(60)}
        transaction = (await self._say(visit, "StartTransaction", payload))["transactionId"]
        for number, register in enumerate(registers):
            visit.register_wh = register
            await self._say(visit, "MeterValues", meter_values(connector, transaction, register, 50 - number))
        if stop is not None:
            visit.register_wh = stop
            visit.end()
            payload = {"transactionId": transaction, "meterStop": stop, "timestamp": ago(1), "reason": "Local"}
            await self._say(visit, "StopTransaction", payload)
        return int(transaction)

    async def _say(self, visit: Any, action: str, payload: dict[str, Any]) -> Any:
        fact = visit.queue(action)
        message_id = visit.send(fact, action, payload)
        answer = await self.tell(visit.station, action, payload)
        visit.answered(fact, action, message_id, answer)
        return answer

    async def settle(self) -> None:
        """Settles what is due."""
        await self.settling.settle_due()

    async def judge(self, **options: Any) -> Verdict:
        """The checker's verdict on the journal and the books."""
        return await judge(self.dsn, [self.journal], **options)

    async def verify(self, session: UUID | None = None) -> Verdict:
        """The checker's verdict on raw frames and books."""
        return await verify(self.dsn, session=session)

    async def damage(self, *statements: str) -> None:
        """Changes rows as nobody may: triggers and foreign keys are switched off for it."""
        async with self.sql.transaction():
            await self.sql.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                await self.sql.execute(statement)


def ago(minutes: float) -> str:
    """A time on a station's clock."""
    return (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def meter_values(connector: int, transaction: int | None, register: int, minutes: float) -> dict[str, Any]:
    """MeterValues with one register."""
    sample = {"value": str(register), "measurand": "Energy.Active.Import.Register", "unit": "Wh"}
    value = {"timestamp": ago(minutes), "sampledValue": [sample]}
    named = {} if transaction is None else {"transactionId": transaction}
    return {"connectorId": connector, **named, "meterValue": [value]}


@pytest.fixture
async def sql(database_dsn: str) -> AsyncIterator[Any]:
    """A connection as the owner of the database."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def node(database_dsn: str, sql: Any, tmp_path: Path) -> AsyncIterator[Node]:
    """A node with CP-1, CP-2 and Anna, who paid in 1,000.00 and has CARD-A; 20.00 a kWh."""
    await sql.execute(
        "INSERT INTO tariff (scope, currency, price_per_kwh_minor, valid_from)"
        " VALUES ('default', 'INR', 2000, '2020-01-01')"
    )
    await sql.execute("INSERT INTO driver (id, name, currency) VALUES ('anna', 'Anna', 'INR')")
    await sql.execute("INSERT INTO token (value, shown, driver_id) VALUES ('CARD-A', 'card-a', 'anna')")
    await sql.execute("INSERT INTO station (id, connectors) VALUES ('CP-1', 2), ('CP-2', 2)")
    made = Node(database_dsn, sql, tmp_path / "journal.jsonl")
    await made.open()
    await _top_up(made)
    yield made
    await made.close()


async def _top_up(node: Node) -> None:
    entry = topup_entry(key="first", user=UserId("anna"), currency="INR", amount=Minor(100_000))
    assert entry is not None
    async with node.database.unit_of_work() as connection:
        await post_entries(connection, [entry])
