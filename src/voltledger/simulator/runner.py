"""One station over real sockets: performs what the pure model asks for, and tells it what happens.

The car goes on charging while the server cannot be reached; connecting is a task of its own.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from voltledger.simulator.connection import CONNECT_ERRORS, Address, abort, describe, open_socket
from voltledger.simulator.errors import BadFrame
from voltledger.simulator.journal import Journal, JournalLine, Kind
from voltledger.simulator.station import Cut, Effect, HangUp, Note, SecondSocket, Station, Transmit
from voltledger.simulator.wire import Call, decode, encode


class StationRunner:
    """Keeps one station connected and alive until its work is done.

    Effects: opens sockets, writes to the journal.
    """

    def __init__(
        self,
        station: Station,
        address: Address,
        journal: Journal,
        *,
        reconnect_s: float,
        reconnect_max_s: float,
        start_delay_s: float = 0.0,
    ) -> None:
        self.station = station
        self.address = address
        self.last_failure: str | None = None
        self.was_connected = False  # at some time in this run
        self._journal = journal
        self._reconnect_s = reconnect_s
        self._reconnect_max_s = reconnect_max_s
        self._start_delay_s = start_delay_s
        self._jitter = Random(f"{station.settings.seed}/{station.settings.station}/jitter")
        self._socket: ClientConnection | None = None
        self._inbox: deque[tuple[ClientConnection, str | bytes]] = deque()
        self._orders: deque[Callable[[float], list[Effect]]] = deque()
        self._something = asyncio.Event()
        self._free_to_connect = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    def order(self, what: Callable[[float], list[Effect]]) -> None:
        """Has the model do something at the next moment, for example `station.wind_up`."""
        self._orders.append(what)
        self._something.set()

    def stop(self) -> None:
        """Ends `run` at the next moment, whatever is still in the queue."""
        self._stopping = True
        self._something.set()

    async def run(self) -> None:
        """Lives until `stop`."""
        self._spawn(self._keep_connected())
        try:
            while not self._stopping:
                self._something.clear()
                await self._live_for_a_moment()
                await self._wait()
        finally:
            await self._leave()

    async def _live_for_a_moment(self) -> None:
        await self._perform(self.station.advance(time.time()))
        while self._orders:
            await self._perform(self._orders.popleft()(time.time()))
        while self._inbox:
            socket, text = self._inbox.popleft()
            await self._take(socket, text)
        if self.station.powered:
            self._free_to_connect.set()
        else:
            self._free_to_connect.clear()

    async def _take(self, socket: ClientConnection, text: str | bytes) -> None:
        try:
            frame = decode(text)
        except BadFrame:
            return  # as a station does
        if isinstance(frame, Call) and socket is not self._socket:
            return  # the server still speaks to a socket the station has left
        await self._perform(self.station.received(frame, time.time()))

    async def _wait(self) -> None:
        wake_at = self.station.wake_at
        if wake_at is None:
            await self._something.wait()
            return
        wait_s = wake_at - time.time()
        if wait_s <= 0:
            await asyncio.sleep(0)
            return
        alarm = asyncio.get_running_loop().call_later(wait_s, self._something.set)
        try:
            await self._something.wait()
        finally:
            alarm.cancel()

    async def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Note():
                    self._journal.write(effect.line)
                case Transmit():
                    await self._send(encode(effect.frame))
                case Cut():
                    self._let_go(effect.why, is_polite=False)
                case HangUp():
                    self._let_go("hang up", is_polite=True)
                case SecondSocket():
                    self._spawn(self._double(effect.take_over))

    async def _send(self, text: str) -> None:
        if self._socket is not None:
            try:
                await self._socket.send(text)
            except ConnectionClosed:
                pass  # the reader of this socket notices and tells the model

    def _let_go(self, why: str, *, is_polite: bool) -> None:
        socket, self._socket = self._socket, None
        if socket is None:
            return
        self._note(Kind.DISCONNECTED, reason=why)
        if is_polite:
            self._spawn(socket.close())
        else:
            abort(socket)

    async def _keep_connected(self) -> None:
        await asyncio.sleep(self._start_delay_s)
        failures = 0
        while True:
            await self._free_to_connect.wait()
            try:
                socket = await open_socket(self._current_address())
            except CONNECT_ERRORS as error:
                self._connect_failed(error)
                failures += 1
            else:
                began = time.monotonic()
                await self._use(socket)
                # A server that lets us in and throws us out at once must not be hammered either.
                failures = 0 if time.monotonic() - began > 1.0 else failures + 1
            await asyncio.sleep(self._backoff_s(max(1, failures)))

    def _current_address(self) -> Address:
        password = self.station.configuration.authorization_key or self.address.password
        return self.address if password == self.address.password else replace(self.address, password=password)

    def _backoff_s(self, failures: int) -> float:
        full = min(self._reconnect_max_s, self._reconnect_s * 2.0 ** min(failures - 1, 20))
        return full * self._jitter.uniform(0.5, 1.5)

    def _connect_failed(self, error: BaseException) -> None:
        if isinstance(error, InvalidStatus):
            self.last_failure = f"HTTP {error.response.status_code}"
        else:
            self.last_failure = describe(error)
        self._note(Kind.CONNECT_FAILED, error=self.last_failure)

    async def _use(self, socket: ClientConnection) -> None:
        """Lives on one socket until it is gone, or, after a take-over, until its successor is."""
        if not self.station.powered:
            abort(socket)
            return
        self._become_current(socket)
        self.order(self.station.opened)
        current: ClientConnection | None = socket
        while current is not None:
            await self._read(current)
            if self._socket is current:  # the other side, or the network, ended it
                self._socket = None
                self._note(Kind.DISCONNECTED, reason=_close_reason(current))
            current = self._socket
        self.order(self.station.closed)

    def _become_current(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.was_connected = True
        self.last_failure = None
        self._note(Kind.CONNECTED)

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                self._inbox.append((socket, text))
                self._something.set()
        except ConnectionClosed:
            pass

    async def _double(self, take_over: bool) -> None:
        """A second connection beside the first; the loser stays open for a moment, as in broken networks."""
        first = self._socket
        try:
            second = await open_socket(self._current_address())
        except CONNECT_ERRORS as error:
            self._connect_failed(error)
            return
        taken_over = take_over and first is not None and self._socket is first
        try:
            if taken_over and first is not None:
                self._note(Kind.CONNECTED, reason="second socket, taken over")
                self._socket = second
                await asyncio.sleep(0.3)
                abort(first)
                self._note(Kind.DISCONNECTED, reason="first socket, left behind")
                await second.wait_closed()
            else:
                self._note(Kind.CONNECTED, reason="second socket, idle")
                await asyncio.sleep(0.3)
        finally:
            if self._socket is not second:
                abort(second)
                if not taken_over:
                    self._note(Kind.DISCONNECTED, reason="second socket, idle")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _leave(self) -> None:
        socket, self._socket = self._socket, None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if socket is not None:
            await socket.close()
            self._note(Kind.DISCONNECTED, reason="end of the run")
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._perform(self.station.closed(time.time()))

    def _note(self, kind: Kind, *, reason: str | None = None, error: str | None = None) -> None:
        station = self.station.settings.station
        self._journal.write(JournalLine(at=datetime.now(UTC), station=station, kind=kind, reason=reason, error=error))


def _close_reason(socket: ClientConnection) -> str:
    code, reason = socket.close_code, socket.close_reason
    return f"closed with {code} {reason or ''}".rstrip()
