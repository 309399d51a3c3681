"""WebSockets that live in memory: with delays, and cut in any moment."""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK
from websockets.protocol import State

if TYPE_CHECKING:
    from tools.simulation.station import Station
    from tools.simulation.world import World


class Socket:
    """The server's end; as much of `websockets.asyncio.server.ServerConnection` as a connection uses."""

    remote_address = ("127.0.0.1", 1)

    def __init__(self, link: "Link") -> None:
        self.link = link
        self.close_code: int | None = None
        self.state = State.OPEN
        self._frames: deque[str] = deque()
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> "Socket":
        return self

    async def __anext__(self) -> str:
        while not self._frames:
            if self.close_code is not None:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return self._frames.popleft()

    async def send(self, text: str) -> None:
        """Hands an answer or a call to the network."""
        if self.close_code is not None:
            raise ConnectionClosedOK(None, None) if self.close_code == 1000 else ConnectionClosedError(None, None)
        await self.link.answer_point("answer.send")
        self.link.to_station(text)
        await self.link.answer_point("answer.sent")

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes from the server's side."""
        if self.close_code is None:
            self.link.closed_by_server(code)

    def take(self, text: str) -> None:
        """A frame arrived."""
        if self.close_code is None:
            self._frames.append(text)
            self._wake()

    def gone(self, code: int) -> None:
        """The connection is over; what arrived before can still be read."""
        if self.close_code is None:
            self.close_code = code
            self.state = State.CLOSED
            self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Link:
    """One connection between a station and a node. Frames keep their order in each direction."""

    def __init__(self, world: "World", station: "Station", node: Any) -> None:
        self.world = world
        self.station = station
        self.node = node
        self.socket = Socket(self)
        self.up = True  # for the station
        self.silent = False  # a black hole: nothing arrives any more, and nobody knows
        self._up_until = 0.0
        self._down_until = 0.0

    async def answer_point(self, name: str) -> None:
        """Where a node may die before or after an answer leaves."""
        await self.node.at_point(name)

    def to_server(self, text: str) -> None:
        """The station sends a frame."""
        if self.silent:
            return
        loop = self.world.loop
        self._up_until = max(self._up_until, loop.time() + self.world.delay())
        loop.call_at(self._up_until, self._arrive, text)

    def _arrive(self, text: str) -> None:
        if not self.silent and not self.node.dead:
            self.socket.take(text)

    def to_station(self, text: str) -> None:
        """The server sends a frame."""
        if self.silent or self.node.dead:
            return
        loop = self.world.loop
        self._down_until = max(self._down_until, loop.time() + self.world.delay())
        loop.call_at(self._down_until, self._deliver, text)

    def _deliver(self, text: str) -> None:
        if self.up and not self.silent:
            self.station.hear(self, text)

    def closed_by_server(self, code: int) -> None:
        """The server closes; frames on their way to it are lost, and the station learns it a moment later."""
        self.socket.gone(code)
        self.world.loop.call_later(self.world.delay(), self._tell_station)

    def cut_by_station(self, *, frames_arrive: bool) -> None:
        """The station hangs up, or its line breaks. What is on its way may still arrive."""
        if not self.up:
            return
        self.up = False
        if not frames_arrive:
            self.silent = True
        later = max(self._up_until - self.world.loop.time(), 0.0) + self.world.delay()
        self.world.loop.call_later(later, self.socket.gone, 1006)
        self.station.lost_link(self)

    def node_died(self) -> None:
        """The other end is dead."""
        self.socket.gone(1006)
        self.world.loop.call_later(self.world.delay(), self._tell_station)

    def _tell_station(self) -> None:
        if self.up:
            self.up = False
            self.station.lost_link(self)
