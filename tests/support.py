"""Small helpers for tests of every kind. The fixtures of the same names in `conftest.py` hand them out."""

from __future__ import annotations

import asyncio
import inspect
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing uses right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def wait_until(
    predicate: Callable[[], Any | Awaitable[Any]], timeout: float = 10.0, *, what: str = "the condition"
) -> Any:
    """Waits until the predicate, plain or async, is true, and returns what it returned.

    Raises: AssertionError when the time is over.
    """
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not become true within {timeout:g} s")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def with_database(dsn: str, name: str) -> str:
    """The same server, another database."""
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(path=f"/{name}"))
