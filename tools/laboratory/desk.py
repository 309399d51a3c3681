"""The gateway, the intake and the stores of the server in this process: its code without its sockets.

A `Line` is what a WebSocket is to the server: `StationConnection` reads from it and answers on it. Thousands of
sessions a minute can be said that way, by the very code that serves stations, to a real PostgreSQL.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, TypeVar

from websockets.exceptions import ConnectionClosedError
from websockets.protocol import State

from tools.laboratory.world import LabFailed, Site
from voltledger.bootstrap import new_id
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.domain.quantities import Minor
from voltledger.domain.session.book import Policy
from voltledger.gateway.connection import ConnectionServices, StationConnection
from voltledger.gateway.registry import ConnectionRegistry
from voltledger.ocpp.registry import dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.credentials import hash_password
from voltledger.services.facts import IdSource
from voltledger.services.frontdesk import FrontDesk
from voltledger.services.intake import Intake
from voltledger.services.settling import Settling
from voltledger.storage.postgres.facts import PostgresFactStore
from voltledger.storage.postgres.live import PostgresLive
from voltledger.storage.postgres.outbox import PostgresOutbox
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore
from voltledger.sync.workers import relay_work

ANSWER_S = 60.0
SETTLERS = 3
PASSWORD = "one-for-all-of-them-9f2c"
"""Of every station that `enlist` registers."""
T = TypeVar("T")


class Wire:
    """The server's end of a socket that is none; as much of one as a connection uses."""

    remote_address = ("127.0.0.1", 1)

    def __init__(self) -> None:
        self.state = State.OPEN
        self.close_code: int | None = None
        self.answers: asyncio.Queue[str | None] = asyncio.Queue()
        self.transport = SimpleNamespace(abort=self._abort)
        self._frames: asyncio.Queue[str | None] = asyncio.Queue()

    def __aiter__(self) -> "Wire":
        return self

    async def __anext__(self) -> str:
        frame = await self._frames.get()
        if frame is None:
            raise StopAsyncIteration
        return frame

    def put(self, text: str) -> None:
        """A frame of the station."""
        self._frames.put_nowait(text)

    async def send(self, text: str) -> None:
        """A frame of the server."""
        if self.state is not State.OPEN:
            raise ConnectionClosedError(None, None)
        self.answers.put_nowait(text)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes it, from either side."""
        if self.state is State.OPEN:
            self.state, self.close_code = State.CLOSED, code
            self._frames.put_nowait(None)
            self.answers.put_nowait(None)

    def _abort(self) -> None:
        self.state, self.close_code = State.CLOSED, 1006
        self._frames.put_nowait(None)
        self.answers.put_nowait(None)


class Line:
    """One connection of a station. Calls are said one at a time."""

    def __init__(self, desk: "Desk", station: str) -> None:
        self.station = station
        self._desk = desk
        self._numbers = itertools.count(1)
        wire: Any = Wire()
        self._wire = wire
        self._connection = StationConnection(wire, StationId(station), dialect(Version.V16), desk.connection_services)
        desk.registry.opened(self._connection)
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._connection.run()
        finally:
            await self._wire.close(1011)  # as the listener's library does when a handler is over

    async def call(self, action: str, payload: str, message_id: str | None = None) -> Any:
        """Says something and returns the frame that answers it. Raises: LabFailed when the server hangs up."""
        message_id = self.say(action, payload, message_id)
        async with asyncio.timeout(ANSWER_S):
            text = await self._wire.answers.get()
        if text is None:
            raise LabFailed(f"{self.station}: closed with {self._wire.close_code} instead of an answer")
        frame = json.loads(text)
        if frame[1] != message_id:
            raise LabFailed(f"{self.station}: {message_id} was answered with {text}")
        return frame

    def say(self, action: str, payload: str, message_id: str | None = None) -> str:
        """Sends a frame and waits for nothing; its message id."""
        message_id = f"{next(self._numbers)}" if message_id is None else message_id
        self._wire.put(f'[2,"{message_id}","{action}",{payload}]')
        return message_id

    async def close(self) -> None:
        """Hangs up; what was said before is still taken up."""
        await self._wire.close(1001)
        await self._task
        await self._desk.registry.closed(self._connection)


class Desk:
    """One node without listeners and loops. `behind` is how far its clock is behind the real one."""

    def __init__(self, dsn: str) -> None:
        self.behind = timedelta()
        self.database = Database(dsn, size=8)
        facts = PostgresFactStore(self.database, currency="INR", fee_percent=Decimal(10), new_id=new_id, node="desk")
        store = PostgresLive(self.database)
        self.registry = ConnectionRegistry(store, "desk", self.now, lambda station, present: None)
        self.intake = Intake(
            facts,
            IdSource(new_session_id=lambda: SessionId(new_id()), reserve=facts.reserve_transaction_refs),
            Policy(local_hold=Minor(50_000), heartbeat_s=300),
            hold_s=30.0,
            on_committed=lambda committed: None,
        )
        self.connection_services = ConnectionServices(
            intake=self.intake,
            frontdesk=FrontDesk(store, heartbeat_s=300),
            now=self.now,
            first_frame=self.registry.take_over,
            keep_frame=lambda frame: None,
            count=lambda version, action, direction: None,
        )
        self._settling = Settling(PostgresSettlementStore(self.database))
        self._relay = relay_work(PostgresOutbox(self.database), {"clear_events": _taken})

    def now(self) -> datetime:
        """Its clock."""
        return datetime.now(UTC) - self.behind

    def connect(self, station: str) -> Line:
        """A new connection of a station."""
        return Line(self, station)

    async def settle(self) -> None:
        """Settles all that is due, and lets the relay send what follows; there is no cache that would listen."""
        await asyncio.gather(*(self._settle() for _ in range(SETTLERS)))
        while await self._relay():
            pass

    async def _settle(self) -> None:
        while (await self._settling.settle_due())[0]:
            pass


async def _taken(payload: Any) -> bool:
    return True


@asynccontextmanager
async def desk(site: Site) -> AsyncIterator[Desk]:
    """A desk on the database of a site, whose own server is not started."""
    found = Desk(site.dsn)
    await found.database.open()
    found.intake.start()
    try:
        yield found
    finally:
        await found.intake.stop()
        await found.database.close()


async def enlist(site: Site, prefix: str, count: int) -> list[str]:
    """Registers stations, all with one password, in one statement; their names."""
    books = await site.books()
    try:
        await books.execute(
            "INSERT INTO station (id, connectors, password_hash)"
            " SELECT $1 || to_char(n, 'FM00000'), 2, $2 FROM generate_series(1, $3::integer) n",
            prefix,
            hash_password(PASSWORD, generated=True),
            count,
        )
    finally:
        await books.close()
    return [f"{prefix}{number:05}" for number in range(1, count + 1)]


async def in_turns(work: Sequence[T], hands: int, do: Callable[[T], Any]) -> None:
    """Does everything, so many at a time; the first failure ends it."""
    waiting = iter(work)

    async def hand() -> None:
        for one in waiting:
            await do(one)

    async with asyncio.TaskGroup() as group:
        for _ in range(hands):
            group.create_task(hand())
