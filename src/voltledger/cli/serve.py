"""Running the server until it is told to stop."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from voltledger.bootstrap import Node
from voltledger.cli.keeping import keep_running
from voltledger.cli.output import out
from voltledger.cli.servers import Servers, server_databases
from voltledger.config import Settings
from voltledger.errors import UserFacingError
from voltledger.logs import configure_logging

T = TypeVar("T")

Beside = Callable[[Node, asyncio.Event], Awaitable[None]]
"""Work that runs beside a node until the event is set, and then ends by itself within seconds."""

BESIDE_ENDS_S = 20.0


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Runs on uvloop where it is installed: half the CPU, a sixth of the memory for TLS."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def serve_until_stopped(settings: Settings, beside: Beside | None = None) -> None:
    """Starts databases and server; SIGINT or SIGTERM stops all of it in order.

    Raises: UserFacingError when it cannot start.
    """
    if settings.workers != 1:
        raise UserFacingError("VOLTLEDGER_WORKERS (--workers) above 1 comes with a later release: set it to 1")
    configure_logging(settings)
    with server_databases(settings) as servers:
        run_loop(_serve(settings, servers, beside))


async def _serve(settings: Settings, servers: Servers, beside: Beside | None) -> None:
    node = Node(settings, dsn=servers.dsn, redis_socket=servers.redis_socket, redis_password=servers.redis_password)
    stop, at_once = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (at_once if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    await node.start()
    _calm_collector()
    helpers = [asyncio.create_task(_greet(node), name="greet")]
    if servers.kept:
        helpers.append(asyncio.create_task(keep_running(servers.kept), name="keep"))
    if beside is not None:
        helpers.append(asyncio.create_task(_beside(beside, node, stop), name="beside"))
    try:
        await stop.wait()
        if beside is not None and not helpers[-1].done():
            out.print("stopping: the simulated stations end their sessions first; Ctrl-C again does not wait for them")
            await _wait_for(helpers[-1], at_once)
    finally:
        out.print("stopping ...")
        for helper in helpers:
            helper.cancel()
        results = await asyncio.gather(*helpers, return_exceptions=True)
        await node.stop()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _wait_for(work: "asyncio.Task[None]", at_once: asyncio.Event) -> None:
    """Waits for work that was told to end, unless somebody is in a hurry."""
    hurry = asyncio.create_task(at_once.wait())
    await asyncio.wait({work, hurry}, timeout=BESIDE_ENDS_S, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()


def _calm_collector() -> None:
    """What was made by now stays for good, and messages leave few cycles: looking for them can wait longer.

    At the usual threshold the collector doubles the slowest answers (p99) of a busy server.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _beside(beside: Beside, node: Node, stop: asyncio.Event) -> None:
    try:
        await beside(node, stop)
    finally:
        stop.set()


async def _greet(node: Node) -> None:
    """Prints where everything is; the first admin key once, ever."""
    settings = node.settings
    out.print(f"dashboard  http://{settings.http}/    API  http://{settings.http}/docs")
    out.print(f"stations   ws://{settings.ocpp}/{{station_id}}")
    await node.prepared()
    first = await node.first_admin_key()
    if first is not None:
        out.print(f"first admin API key, shown this once:  {first}")
        out.print("sign in to the dashboard with it, or send it as  Authorization: Bearer ...")
