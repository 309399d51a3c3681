"""Serving an application in the running loop, until somebody says stop."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from litestar import Litestar

from voltledger.errors import UserFacingError

GRACE_S = 3


class _Server(uvicorn.Server):
    """A uvicorn that leaves the signals to the program around it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """No signal is touched."""
        yield


async def serve_http(app: Litestar, host: str, port: int, ready: asyncio.Event, stop: asyncio.Event) -> None:
    """Serves until `stop` is set; `ready` is set when connections are accepted.

    Effects: binds the address; open feeds are ended and requests get three seconds to finish.
    Raises: UserFacingError when the address cannot be had.
    """
    listener = bind(host, port)
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        ws="none",
        lifespan="on",
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    watching = asyncio.create_task(_end(server, app, stop))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            ready.set()
        await serving
    finally:
        watching.cancel()
        server.should_exit = True
        app.state.closing.set()
        if not serving.done():
            await asyncio.wait([serving], timeout=GRACE_S + 1)
        listener.close()


async def _end(server: uvicorn.Server, app: Litestar, stop: asyncio.Event) -> None:
    await stop.wait()
    app.state.closing.set()
    server.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket that will listen there. Raises: UserFacingError, one line that says what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserFacingError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UserFacingError(_why(host, port, error)) from None
    listener.setblocking(False)
    return listener


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"{host}:{port} is in use by another program (voltledger doctor says whether it is a voltledger): stop it, "
            f"or set VOLTLEDGER_HTTP to another address, such as VOLTLEDGER_HTTP={host or '127.0.0.1'}:{port + 1}"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{host}:{port} needs more rights than this user has: set VOLTLEDGER_HTTP to a port above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine: set VOLTLEDGER_HTTP to one that is"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
