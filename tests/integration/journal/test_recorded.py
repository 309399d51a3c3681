"""From the disk into the books: what was answered in an outage is recorded in PostgreSQL as the stations were told."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.acceptance.world import ago
from tests.integration.journal.test_file import BIG
from tests.integration.storage.conftest import POLICY, Storage, clock, new_id
from tests.support import wait_until
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.gateway.reviving import revive
from voltledger.ocpp.registry import Refusal, dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.facts import IdSource, InboundFact, NotRecorded
from voltledger.services.frontdesk import FrontDesk
from voltledger.services.intake import Intake
from voltledger.services.ladder import Ladder
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.sqlite import SqliteJournal

WIRE = dialect(Version.V16)


class Away:
    """The PostgreSQL fact store behind a line that can be cut."""

    def __init__(self, storage: Storage) -> None:
        self._facts = storage.facts
        self.away = False

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Any]:
        """See `FactStore`."""
        self._must_be_there()
        async with self._facts.unit_of_work() as work:
            yield work

    async def reserve_transaction_refs(self, count: int) -> Any:
        """See `FactStore`."""
        self._must_be_there()
        return await self._facts.reserve_transaction_refs(count)

    async def probe(self) -> None:
        """See `FactStore`."""
        self._must_be_there()
        await self._facts.probe()

    def _must_be_there(self) -> None:
        if self.away:
            raise StoreUnavailable("away")


class Node:
    """Intake, ladder and journal of one node; `storage` reads the same books."""

    def __init__(self, storage: Storage, path: Path, hold_s: float) -> None:
        self.storage, self.store = storage, Away(storage)
        self.journal = SqliteJournal(path, max_bytes=BIG)
        self.ladder = Ladder(self.journal, probe=self.store.probe, revive=revive, now=clock)
        self.ids = IdSource(
            new_session_id=lambda: SessionId(new_id()), reserve=self.store.reserve_transaction_refs, keep=40, block=40
        )
        # Its front desk has seen no token: from memory it answers otherwise than the books would.
        self.intake = Intake(
            self.store,
            self.ids,
            POLICY,
            hold_s=hold_s,
            on_committed=lambda _done: None,
            ladder=self.ladder,
            answer_unrecorded=FrontDesk(storage.live, heartbeat_s=300).answer_unrecorded,
        )

    async def say(self, action: str, payload: dict[str, object], station: str = "CP-1") -> Any:
        """What a station says over 1.6; the answer's payload."""
        text = json.dumps(payload)
        inbound = WIRE.read(action, text.encode(), clock())
        assert not isinstance(inbound, Refusal)
        fact = InboundFact(
            station_id=StationId(station),
            epoch=1,
            action=action,
            message_id="m",
            payload=text,
            event=inbound.event,  # type: ignore[arg-type]
            dedupe_key=inbound.dedupe_key,
            received_at=clock(),
            encode=lambda answer: WIRE.answer(inbound, answer),
        )
        return json.loads(await asyncio.wait_for(self.intake.submit(fact), 10))

    async def fall(self) -> None:
        """The line is cut, and that is found out."""
        self.store.away = True
        self.ladder.fell("cut")

    async def come_back(self) -> None:
        """The line is there again, and the journal empty."""
        self.store.away = False
        await wait_until(lambda: not self.ladder.away and self.ladder.waiting == 0, what="everything is recorded")
        assert await self.journal.waiting() == {}

    async def sessions(self) -> list[tuple[str, str, int]]:
        """Transaction, status and Wh of every session, oldest first."""
        rows = await self.storage.sql.fetch(
            "SELECT transaction_ref, status, energy_wh FROM charging_session ORDER BY created_at, id"
        )
        return [tuple(row) for row in rows]


@asynccontextmanager
async def running(storage: Storage, path: Path, hold_s: float = 0.2) -> AsyncIterator[Node]:
    """A node with ids in reserve."""
    node = Node(storage, path, hold_s)
    await node.journal.open()
    await node.ladder.open()
    await node.ids.stock_up()
    node.intake.start()
    try:
        yield node
    finally:
        await node.intake.stop()
        await node.journal.close()


@pytest.fixture
async def node(storage: Storage, tmp_path: Path) -> AsyncIterator[Node]:
    """A running node."""
    async with running(storage, tmp_path / "one.sqlite") as node:
        yield node


START: dict[str, object] = {"connectorId": 1, "idTag": "CARD-A", "meterStart": 1_000, "timestamp": ago(900)}


def _meter(transaction: int, register: int, minutes: int) -> dict[str, object]:
    sample = {"measurand": "Energy.Active.Import.Register", "unit": "Wh", "value": str(register)}
    value = {"timestamp": ago(800 - 60 * minutes), "sampledValue": [sample]}
    return {"connectorId": 1, "transactionId": transaction, "meterValue": [value]}


def _stop(transaction: int, register: int) -> dict[str, object]:
    return {"transactionId": transaction, "meterStop": register, "timestamp": ago(60)}


async def test_a_session_said_in_an_outage_is_settled_once_it_is_recorded(node: Node) -> None:
    await node.fall()
    answer = await node.say("StartTransaction", START)
    told = answer["transactionId"]
    assert answer["idTagInfo"]["status"] == "Invalid"
    await node.say("MeterValues", _meter(told, 1_500, 1))
    await node.say("StopTransaction", _stop(told, 2_000))
    assert await node.sessions() == []
    await node.come_back()
    assert await node.sessions() == [(str(told), "COMPLETED", 1_000)]
    assert await node.say("StartTransaction", START) == answer, "as it was told, not as it would be told now"
    await node.storage.settling.settle_due()
    assert (await node.storage.balances())["wallet:anna:INR"] == 98_000
    assert await node.storage.findings() == []


@pytest.mark.parametrize("named", ["told", "recorded"])
async def test_the_id_that_the_station_was_told_wins_and_either_finds_the_session(
    node: Node, tmp_path: Path, named: str
) -> None:
    async with running(node.storage, tmp_path / "two.sqlite") as other:
        recorded = (await other.say("StartTransaction", START))["transactionId"]
    await node.fall()
    told = (await node.say("StartTransaction", START))["transactionId"]
    assert told != recorded
    await node.come_back()
    assert await node.sessions() == [(str(told), "ONGOING", 0)]
    assert (await node.say("StartTransaction", START))["transactionId"] == told
    name = told if named == "told" else recorded
    await node.say("MeterValues", _meter(name, 1_400, 1))
    await node.say("StopTransaction", _stop(name, 1_777))
    assert await node.sessions() == [(str(told), "COMPLETED", 777)]
    assert await node.storage.findings() == []
    # The money is set aside once.
    assert await node.storage.sql.fetchval("SELECT count(*) FROM ledger_entry WHERE kind = 'hold'") == 1


async def test_two_nodes_that_told_a_station_two_ids_in_one_outage_make_one_session(node: Node, tmp_path: Path) -> None:
    async with running(node.storage, tmp_path / "two.sqlite") as other:
        await node.fall()
        await other.fall()
        first = (await node.say("StartTransaction", START))["transactionId"]
        second = (await other.say("StartTransaction", START))["transactionId"]
        await other.say("StopTransaction", _stop(second, 1_500))
        await node.come_back()
        await other.come_back()
        assert first != second
        assert await node.sessions() == [(str(second), "COMPLETED", 500)]
        await node.say("MeterValues", _meter(first, 1_200, 1))
        assert await node.sessions() == [(str(second), "COMPLETED", 500)]
        assert await node.storage.sql.fetchval("SELECT count(*) FROM stray_reading") == 0


async def test_a_repeated_start_in_an_outage_renames_nothing(node: Node) -> None:
    told = (await node.say("StartTransaction", START))["transactionId"]
    assert (await node.say("StartTransaction", START))["transactionId"] == told
    await node.fall()
    assert (await node.say("StartTransaction", START))["transactionId"] == told
    await node.come_back()
    assert await node.sessions() == [(str(told), "ONGOING", 0)]
    assert await node.storage.sql.fetchval("SELECT count(*) FROM transaction_alias") == 0


async def test_a_session_that_somebody_has_locked_keeps_its_station_in_the_journal_until_it_is_free(
    storage: Storage, tmp_path: Path
) -> None:
    async with running(storage, tmp_path / "one.sqlite", hold_s=2) as node:
        told = (await node.say("StartTransaction", START))["transactionId"]
        rival = await asyncpg.connect(storage.dsn)
        try:
            await rival.execute("BEGIN")
            await rival.execute("SELECT 1 FROM charging_session FOR UPDATE")
            await node.say("MeterValues", _meter(told, 1_100, 1))
            await node.say("StopTransaction", _stop(told, 1_200))
            other = (await node.say("StartTransaction", START, station="CP-2"))["transactionId"]
            assert (node.ladder.rung, await node.journal.waiting()) == ("recording", {"CP-1": 2})
            assert (str(other), "ONGOING", 0) in await node.sessions()
        finally:
            await rival.close()
        await node.come_back()
        assert await node.sessions() == [(str(told), "COMPLETED", 200), (str(other), "ONGOING", 0)]


async def test_rows_that_were_recorded_and_not_removed_are_recorded_once(storage: Storage, tmp_path: Path) -> None:
    """A crash between the commit and the removal: the file as it was is found at the next start."""
    path = tmp_path / "one.sqlite"
    async with running(storage, path) as node:
        await node.fall()
        told = (await node.say("StartTransaction", START))["transactionId"]
        await node.say("StopTransaction", _stop(told, 1_500))
        rows = await node.journal.oldest(0, 10)
        await node.come_back()
        await node.journal.append([replace(row, number=0) for row in rows])
    async with running(storage, path) as node:
        assert node.ladder.waiting == 2
        await node.come_back()
        assert await node.sessions() == [(str(told), "COMPLETED", 500)]
    await storage.settling.settle_due()
    assert (await storage.balances())["wallet:anna:INR"] == 99_000
    assert await storage.sql.fetchval("SELECT count(*) FROM settlement") == 1


async def test_a_row_of_a_version_that_is_not_served_any_more_is_kept_raw_and_holds_nobody_up(
    storage: Storage, tmp_path: Path
) -> None:
    path = tmp_path / "one.sqlite"
    async with running(storage, path) as node:
        await node.fall()
        await node.say("StartTransaction", START)
        told = (await node.say("StartTransaction", START, station="CP-2"))["transactionId"]
    with sqlite3.connect(path) as file:
        file.execute("UPDATE fact SET version = 'ocpp0.9', payload = '{' WHERE station_id = 'CP-1'")
    file.close()
    async with running(storage, path) as node:
        await node.come_back()
        assert await node.sessions() == [(str(told), "ONGOING", 0)]
    assert await storage.sql.fetchval("SELECT payload FROM frame WHERE station_id = 'CP-1'") == "{"


async def test_a_full_journal_refuses_and_what_it_has_is_recorded(storage: Storage, tmp_path: Path) -> None:
    async with running(storage, tmp_path / "one.sqlite") as node:
        await node.fall()
        told = (await node.say("StartTransaction", START))["transactionId"]
        await node.journal._do(lambda: setattr(node.journal, "_max_bytes", 0))
        with pytest.raises(NotRecorded):
            await node.say("MeterValues", _meter(told, 1_100, 1))
        assert (node.ladder.rung, node.ladder.waiting) == ("closed", 1)
        await node.come_back()
        assert await node.sessions() == [(str(told), "ONGOING", 0)]
        await node.say("StopTransaction", _stop(told, 1_300))
        assert await node.sessions() == [(str(told), "COMPLETED", 300)]


@pytest.mark.parametrize("table", ["node_pulse", "transaction_alias"])
async def test_a_schema_that_is_not_migrated_yet_is_waited_for_and_makes_no_poison(
    storage: Storage, tmp_path: Path, table: str
) -> None:
    """The program was renewed in the outage; the database is back before it is migrated."""
    path = tmp_path / "one.sqlite"
    async with running(storage, path) as node:
        await node.fall()
        told = (await node.say("StartTransaction", START))["transactionId"]
        await node.say("StopTransaction", _stop(told, 1_300))
        await storage.sql.execute(f"ALTER TABLE {table} RENAME TO hidden")
        node.store.away = False
        await asyncio.sleep(1.5)
        await storage.sql.execute(f"ALTER TABLE hidden RENAME TO {table}")
        await node.come_back()
        assert await node.sessions() == [(str(told), "COMPLETED", 300)]
    assert await storage.findings() == []
