"""A TCP proxy that breaks lines on purpose: slow, cut, silent, in slices, or exactly around a COMMIT.

It stands between the server and PostgreSQL or Redis, and between a station and the server. One proxy has one
`Fault` at a time, for lines that exist and lines to come; a `Catch` stops one line at one moment.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

CHUNK = 65536
SSL_REQUEST = 80877103
CANCEL_REQUEST = 80877102


class Mode(StrEnum):
    """What becomes of bytes."""

    UP = "up"
    BLACK_HOLE = "black_hole"  # lines stay open, new ones are accepted, nothing passes either way
    HALF_OPEN = "half_open"  # what the client says arrives; what the server says does not


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """How the line is now. Units: seconds, bytes, bytes a second; 0 means without."""

    mode: Mode = Mode.UP
    latency_s: float = 0.0
    slice_bytes: int = 0
    bandwidth: float = 0.0
    slow_close_s: float = 0.0


class Where(StrEnum):
    """At which side of the bytes that are watched for a line is stopped."""

    BEFORE = "before"  # they are not passed on
    HALF = "half"  # the first half of them is
    AFTER = "after"  # they are, and their answer is read and not passed on


@dataclass(slots=True, kw_only=True, eq=False)
class Catch:
    """Stops a line once, when it sees something for the `nth` time.

    On a line to PostgreSQL it sees what commits a unit of work that had `sees` in one of its statements; elsewhere
    it sees these bytes, from the client, or from the server with `from_server`. `cut`: the line is reset at once;
    otherwise it stands still until `go`. `reached` is set when it stands; with AFTER that is when the server
    has answered.
    """

    sees: bytes
    where: Where
    from_server: bool = False
    cut: bool = False
    nth: int = 1
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    passed: asyncio.Event = field(default_factory=asyncio.Event)  # what stood was passed on after `go`


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to a TCP address or a Unix socket."""

    def __init__(self, target: tuple[str, int] | Path, *, postgres: bool = False) -> None:
        self.target = target
        self.postgres = postgres
        self.fault = Fault()
        self.port = 0
        self.catches: list[Catch] = []
        self._server: asyncio.Server | None = None
        self._lines: set[_Line] = set()

    async def start(self) -> None:
        """Listens; on the same port as before if it was down."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Nobody listens any more, and every line is reset."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.reset()

    async def reset(self) -> None:
        """Every line is reset (RST); new ones are welcome."""
        for line in tuple(self._lines):
            line.reset()
        # Their tasks end by themselves; whoever resets may rely on it.
        await asyncio.gather(*(line.ended.wait() for line in tuple(self._lines)))

    async def heal(self) -> None:
        """As new: no fault, no catch, listening. What stood still goes on."""
        self.fault = Fault()
        caught, self.catches = self.catches, []
        for catch in caught:
            catch.go.set()
        if self._server is None:
            await self.start()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(self, reader, writer)
        self._lines.add(line)
        try:
            await line.run()
        finally:
            self._lines.discard(line)
            line.ended.set()


@asynccontextmanager
async def proxied(target: tuple[str, int] | Path, *, postgres: bool = False) -> AsyncIterator[Proxy]:
    """A proxy, until the block ends."""
    proxy = Proxy(target, postgres=postgres)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.down()


class _Line:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ended = asyncio.Event()
        self._proxy = proxy
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._words = PostgresWords() if proxy.postgres else None
        self._silent: Catch | None = None  # the server's answers stop here
        self._pumps: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        try:
            target = self._proxy.target
            if isinstance(target, Path):
                self._server = await asyncio.open_unix_connection(str(target))
            else:
                self._server = await asyncio.open_connection(*target)
        except OSError:
            _abort(self._client[1])
            return
        self._pumps = [
            asyncio.create_task(self._pump(self._client[0], self._server[1], from_server=False)),
            asyncio.create_task(self._pump(self._server[0], self._client[1], from_server=True)),
        ]
        await asyncio.wait(self._pumps, return_when=asyncio.FIRST_COMPLETED)
        if self._proxy.fault.slow_close_s:
            await asyncio.sleep(self._proxy.fault.slow_close_s)
        await self._end()

    def reset(self) -> None:
        """RST to both sides."""
        for side in (self._client, self._server):
            if side is not None:
                _abort(side[1])
        for pump in self._pumps:
            pump.cancel()

    async def _end(self) -> None:
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for side in (self._client, self._server):
            if side is not None:
                side[1].close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if from_server:
                    await self._from_server(data, writer)
                else:
                    await self._from_client(data, writer)

    async def _from_client(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._words is None:
            await self._pass_watched(data, writer, from_server=False)
            return
        for message, commits in self._words.read(data):
            await self._stop_at(None if commits is None else self._caught(_names(commits)), message, writer)

    async def _from_server(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        if self._silent is not None:
            catch, self._silent = self._silent, None
            await self._stand(catch)
        await self._pass_watched(data, writer, from_server=True)

    async def _pass_watched(self, data: bytes, writer: asyncio.StreamWriter, *, from_server: bool) -> None:
        wanted = None
        if self._words is None:
            wanted = self._caught(lambda c: c.from_server is from_server and c.sees in data)
        await self._stop_at(wanted, data, writer)

    def _caught(self, matches: Callable[[Catch], bool]) -> Catch | None:
        for catch in self._proxy.catches:
            if not catch.reached.is_set() and matches(catch):
                catch.nth -= 1
                if catch.nth == 0:
                    return catch
        return None

    async def _stop_at(self, catch: Catch | None, data: bytes, writer: asyncio.StreamWriter) -> None:
        if catch is None:
            await self._pass(data, writer)
        elif catch.where is Where.AFTER:
            self._silent = catch
            await self._pass(data, writer)
        else:
            half = len(data) // 2 if catch.where is Where.HALF else 0
            await self._pass(data[:half], writer)
            await self._stand(catch)
            await self._pass(data[half:], writer)
            catch.passed.set()

    async def _stand(self, catch: Catch) -> None:
        catch.reached.set()
        if catch.cut:
            self.reset()
            await asyncio.sleep(0)
        await catch.go.wait()

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        fault = self._proxy.fault
        size = fault.slice_bytes or len(data) or 1
        for start in range(0, len(data), size):
            part = data[start : start + size]
            while self._swallowed(writer):
                await asyncio.sleep(0.01)
            fault = self._proxy.fault
            pause = fault.latency_s + (len(part) / fault.bandwidth if fault.bandwidth else 0.0)
            if pause or fault.slice_bytes:
                await asyncio.sleep(pause)
            writer.write(part)
            await writer.drain()

    def _swallowed(self, writer: asyncio.StreamWriter) -> bool:
        mode = self._proxy.fault.mode
        return mode is Mode.BLACK_HOLE or (mode is Mode.HALF_OPEN and writer is self._client[1])


class PostgresWords:
    """What a client says to PostgreSQL, message by message: which unit of work a COMMIT belongs to."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False
        self._in_unit = False
        self._statements: dict[bytes, bytes] = {}
        self._said: list[bytes] = []

    def read(self, data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Whole messages, each with all statements of its unit of work if it commits, else None.

        A unit of work is committed by COMMIT, a statement outside of any by its Sync.
        """
        self._buffer += data
        while (size := self._size()) is not None and len(self._buffer) >= size:
            message, self._buffer = self._buffer[:size], self._buffer[size:]
            if not self._started:
                self._started = struct.unpack_from("!i", message, 4)[0] not in (SSL_REQUEST, CANCEL_REQUEST)
                yield message, None
            else:
                yield message, self._hear(message[:1], message[5:])

    def _size(self) -> int | None:
        kind = 1 if self._started else 0
        if len(self._buffer) < kind + 8 - 4 * kind:
            return None
        return kind + int(struct.unpack_from("!i", self._buffer, kind)[0])

    def _hear(self, kind: bytes, body: bytes) -> bytes | None:
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._statements[name] = text
        elif kind == b"B":
            self._said.append(self._statements.get(body.split(b"\0", 2)[1], b""))
        elif kind == b"Q":
            return self._hear_plainly(body)
        elif kind == b"S" and not self._in_unit:
            return self._end_unit()
        return None

    def _hear_plainly(self, body: bytes) -> bytes | None:
        text = body.rstrip(b"\0").strip().upper()
        if text.startswith(b"BEGIN"):
            self._in_unit = True
            self._said.clear()
        elif text.startswith(b"COMMIT"):
            return self._end_unit()
        elif text.startswith(b"ROLLBACK") and b"TO" not in text:
            self._end_unit()
        else:
            self._said.append(body)
        return None

    def _end_unit(self) -> bytes | None:
        said, self._said, self._in_unit = b"\n".join(self._said), [], False
        return said or None


def _names(statements: bytes) -> Callable[[Catch], bool]:
    return lambda catch: catch.sees in statements


def _abort(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset where the socket can (TCP), at once where it cannot (Unix)."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.family == socket.AF_INET:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
