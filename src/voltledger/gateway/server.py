"""The listener for stations: handshakes are refused with HTTP statuses, never with an open socket."""

import asyncio
import http
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from voltledger.errors import UserFacingError
from voltledger.failpoints import ARMED, fp
from voltledger.gateway.connection import ConnectionServices, StationConnection
from voltledger.gateway.identity import station_id_of
from voltledger.gateway.registry import ConnectionRegistry
from voltledger.logs import get_logger, log_orphan
from voltledger.ocpp.registry import dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.admission import Admission, Denial
from voltledger.storage.ports import StationAccess

log = get_logger(__name__)

SERVED = (Version.V16,)
"""Versions that are negotiated, the preferred first."""


class StationListener:
    """Accepts stations on one address.

    `takes` says, before anything is checked, whether any may come now; `readmits`, for one that has proven itself,
    whether it may now.
    """

    def __init__(
        self,
        admission: Admission,
        registry: ConnectionRegistry,
        services: ConnectionServices,
        *,
        unknown_status: int,
        max_frame_bytes: int,
        ping_s: float,
        takes: Callable[[], bool] = lambda: True,
        readmits: Callable[[], bool] = lambda: True,
    ) -> None:
        self._takes = takes
        self._readmits = readmits
        self._admission = admission
        self._registry = registry
        self._services = services
        self._unknown_status = unknown_status
        self._max_frame_bytes = max_frame_bytes
        self._ping_s = ping_s
        self._server: Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the port. Raises UserFacingError when the address cannot be used."""
        try:
            self._server = await serve(
                self._talk,
                host,
                port,
                process_request=self._admit,
                select_subprotocol=_choose_version,
                compression=None,
                max_size=self._max_frame_bytes,
                open_timeout=10,
                close_timeout=5,
                ping_interval=self._ping_s,
                ping_timeout=self._ping_s * 2,
                max_queue=8,
                server_header=None,
            )
        except OSError as error:
            raise UserFacingError(
                f"{host}:{port} is in use or cannot be had ({error.strerror or error}; voltledger doctor says whether "
                f"it is a voltledger): stop what uses it, or set VOLTLEDGER_OCPP to another address, such as "
                f"{host}:{port + 1}"
            ) from error
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def stop(self) -> None:
        """Closes the listener and every socket with 1012, so that stations come back after a restart."""
        if self._server is None:
            return
        self._server.close(code=1012, reason="the server restarts")
        await self._server.wait_closed()

    async def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        """The handshake: None lets it go on. Why it was refused stands in the log only."""
        if not self._takes():
            return _later()
        verdict = await self._admission.admit(station_id_of(request.path), _headers(request))
        if isinstance(verdict, StationAccess):
            if not self._readmits():
                return _later()
            socket.access = verdict  # type: ignore[attr-defined]
            if ARMED:
                await fp("handshake.checked")
            return None
        log_orphan(
            log,
            "station refused",
            reason=verdict.value,
            path=request.path[:200],
            remote=str((socket.remote_address or ("",))[0]),
        )
        if verdict is Denial.UNAVAILABLE:
            return _later()
        if verdict in (Denial.UNKNOWN_STATION, Denial.NO_IDENTITY) and self._unknown_status != 401:
            return _response(http.HTTPStatus(self._unknown_status), ())
        return _response(http.HTTPStatus.UNAUTHORIZED, (("WWW-Authenticate", 'Basic realm="voltledger"'),))

    async def _talk(self, socket: ServerConnection) -> None:
        access: StationAccess = socket.access  # type: ignore[attr-defined]
        if socket.subprotocol is None:
            log_orphan(log, "no OCPP version in common", station=access.station_id)
            await socket.close(1002, "no subprotocol in common: offer ocpp1.6")
            return
        connection = StationConnection(socket, access.station_id, dialect(Version(socket.subprotocol)), self._services)
        self._registry.opened(connection)
        try:
            if ARMED:
                await fp("socket.opened")
            if self._registry.current(access.station_id) is None:
                # Nothing to take over: a station that comes back and says nothing can be asked at once.
                await self._services.first_frame(connection)
            await connection.run()
        finally:
            await asyncio.shield(self._registry.closed(connection))


def _choose_version(socket: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Our first served version among those offered; None completes the handshake without one (OCPP-J §3.1.2)."""
    return next((Subprotocol(version.value) for version in SERVED if version.value in offered), None)


def _headers(request: Request) -> dict[str, str]:
    values = request.headers.get_all("Authorization")
    return {"Authorization": values[0]} if len(values) == 1 else {}


def _later() -> Response:
    """Not now; at a time of its own for each station, so that they do not come back all at once."""
    return _response(http.HTTPStatus.SERVICE_UNAVAILABLE, (("Retry-After", str(5 + secrets.randbelow(25))),))


def _response(status: http.HTTPStatus, more: Sequence[tuple[str, str]]) -> Response:
    body = b""
    headers: Any = [("Connection", "close"), ("Content-Length", str(len(body))), *more]
    return Response(status.value, status.phrase, Headers(headers), body)
