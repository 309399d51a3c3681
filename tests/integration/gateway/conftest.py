"""One running server for all files that a pytest process runs, and sockets on which tests say what they like."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests import support
from tests.acceptance.world import Books, Server, Site, basic, open_books, short_folder
from voltledger.embedded import RunningPostgres


class Wire:
    """A socket of a station: frames as they are."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.others: list[Any] = []

    async def send(self, frame: object) -> None:
        """A list goes out as JSON; text and bytes as they are."""
        await self.socket.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def receive(self) -> Any:
        """The next frame."""
        return json.loads(await self.socket.recv())

    async def ask(self, message_id: object, action: str, payload: object) -> Any:
        """A request, and the frame with its answer; what comes meanwhile is kept in `others`."""
        await self.send([2, message_id, action, payload])
        while True:
            frame = await self.receive()
            if frame[0] in (3, 4) and frame[1] == message_id:
                return frame
            self.others.append(frame)

    async def heartbeat(self) -> None:
        """Shows that the socket works."""
        answer = await self.ask("heartbeat", "Heartbeat", {})
        assert answer[0] == 3
        assert "currentTime" in answer[2]


@asynccontextmanager
async def wire_to(server: Server, path: str, password: str, user: str | None = None) -> AsyncIterator[Wire]:
    """An authenticated socket."""
    name: str = user if user is not None else path.rstrip("/").rpartition("/")[2]
    url = f"ws://127.0.0.1:{server.ocpp_port}{path}"
    subprotocols: Any = ["ocpp1.6"]
    async with connect(url, subprotocols=subprotocols, additional_headers=basic(name, password)) as socket:
        yield Wire(socket)


Opener = Callable[..., AbstractAsyncContextManager[Wire]]


@pytest.fixture(scope="session")
def gateway_dsn(postgres_cluster: RunningPostgres, _admin: Any, template_database: str) -> Iterator[str]:
    """A migrated database for the tests of the gateway."""
    name = f"gateway_{os.getpid()}"
    _admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY")
    yield support.with_database(postgres_cluster.dsn, name)
    _admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def server(gateway_dsn: str) -> Iterator[Server]:
    """`voltledger serve`; a station has one second to answer, a frame may have 64 kB."""
    with short_folder() as folder:
        server = Server(
            folder,
            gateway_dsn,
            VOLTLEDGER_CALL_TIMEOUT_S=1,
            VOLTLEDGER_MAX_FRAME_BYTES=65_536,
            VOLTLEDGER_PENDING_START_S=30,
        ).start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
async def books(gateway_dsn: str) -> AsyncIterator[Books]:
    """The rows; checked for balance when a test has ended."""
    async with open_books(gateway_dsn) as books:
        yield books
        await books.check()


@pytest.fixture
async def site(server: Server, books: Books) -> AsyncIterator[Site]:
    """A registered station with a user who can pay."""
    async with server.api() as api:
        site = Site(server, books, api)
        await api.post("tariffs", json={"price_per_kwh_minor": 2000, "currency": "INR"})
        yield await site.register()


@pytest.fixture
def wire(server: Server, site: Site) -> Opener:
    """`wire()` opens a socket of the site's station, `wire(path=..., user=...)` in another way."""

    def open_wire(path: str | None = None, user: str | None = None, of: Site | None = None) -> Any:
        station = of or site
        return wire_to(server, path or f"/{station.id}", station.password, user or station.id)

    return open_wire
