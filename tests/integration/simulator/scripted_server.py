"""A small scripted central system, so that the simulator is tested without the real one."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Script = Callable[["Seen"], str | None]
"""What to do with one call: "answer" (or None), "ignore", "error", "cut" before the answer."""


@dataclass(kw_only=True)
class Seen:
    """One call as the server got it."""

    station: str
    connection: int
    message_id: str
    action: str
    payload: dict[str, Any]
    answer: dict[str, Any] | None = None


@dataclass
class ScriptedServer:
    """Answers like a naive central system, except where the script says otherwise."""

    script: Script = lambda seen: None
    password: str | None = None
    token_status: str = "Accepted"
    seen: list[Seen] = field(default_factory=list)
    sockets: list[ServerConnection] = field(default_factory=list)
    subprotocols: set[str | None] = field(default_factory=set)
    replies: dict[str, list[Any]] = field(default_factory=dict)
    url: str = ""
    _transactions: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=lambda: count(1001))
    _connections: "count[int]" = field(default_factory=lambda: count(1))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _server: Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            port,
            subprotocols=[Subprotocol("ocpp1.6")],
            process_request=self._check,
            ping_interval=None,
            close_timeout=0.2,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def calls(self, *actions: str, station: str | None = None) -> list[Seen]:
        return [
            seen for seen in self.seen if (not actions or seen.action in actions) and station in (None, seen.station)
        ]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Waits until something the server saw makes the condition true."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                changed = self._changed
                try:
                    async with asyncio.timeout(0.05):
                        await changed.wait()
                except TimeoutError:
                    pass

    async def command(self, action: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Calls the newest connection; the whole answer frame is in `replies`."""
        message_id = f"cs-{next(self._numbers)}"
        await self.sockets[-1].send(json.dumps([2, message_id, action, payload]))
        await self.until(lambda: message_id in self.replies)
        frame = self.replies[message_id]
        return dict(frame[2]) if frame[0] == 3 else {"error": frame[2]}

    async def _check(self, connection: ServerConnection, request: Request) -> Response | None:
        if self.password is None:
            return None
        station = request.path.rsplit("/", 1)[1]
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic" and b64decode(text).decode() == f"{station}:{self.password}":
            return None
        return connection.respond(HTTPStatus.UNAUTHORIZED, "no")

    async def _serve(self, connection: ServerConnection) -> None:
        number = next(self._connections)
        self.sockets.append(connection)
        self.subprotocols.add(connection.subprotocol)
        assert connection.request is not None
        station = connection.request.path.rsplit("/", 1)[1]
        try:
            async for text in connection:
                await self._take(connection, number, station, json.loads(text))
        except ConnectionClosed:
            pass
        self._tell()

    async def _take(self, connection: ServerConnection, number: int, station: str, frame: list[Any]) -> None:
        if frame[0] != 2:
            self.replies[frame[1]] = frame
            self._tell()
            return
        seen = Seen(station=station, connection=number, message_id=frame[1], action=frame[2], payload=frame[3])
        self.seen.append(seen)
        match self.script(seen):
            case "ignore":
                pass
            case "error":
                await connection.send(json.dumps([4, seen.message_id, "InternalError", "scripted", {}]))
            case "cut":
                connection.transport.abort()
            case _:
                seen.answer = self._answer(seen)
                await connection.send(json.dumps([3, seen.message_id, seen.answer]))
        self._tell()

    def _answer(self, seen: Seen) -> dict[str, Any]:
        info = {"idTagInfo": {"status": self.token_status}}
        match seen.action:
            case "BootNotification":
                return {"status": "Accepted", "currentTime": "2026-01-01T00:00:00Z", "interval": 300}
            case "Heartbeat":
                return {"currentTime": "2026-01-01T00:00:00Z"}
            case "Authorize":
                return info
            case "StartTransaction":
                key = (seen.station, *sorted(seen.payload.items()))
                if key not in self._transactions:
                    self._transactions[key] = next(self._numbers)
                return {"transactionId": self._transactions[key], **info}
            case _:
                return {}

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
