"""A server that is told to stop stops, however early or late that is."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests import support
from voltledger.bootstrap import Node
from voltledger.cli.serve import run_loop
from voltledger.config import load_settings
from voltledger.embedded import RunningRedis


def test_a_server_that_is_stopped_right_after_its_start_stops(
    database_dsn: str, redis_server: RunningRedis, tmp_path: Path
) -> None:
    """At every moment of its first hundredths of a second, while each part makes its first connections."""
    settings = load_settings(
        {
            "VOLTLEDGER_DATA": str(tmp_path),
            "VOLTLEDGER_HTTP": f"127.0.0.1:{support.free_port()}",
            "VOLTLEDGER_OCPP": f"127.0.0.1:{support.free_port()}",
        }
    )

    async def start_and_stop(after_s: float) -> list[str]:
        """The names of the parts that do not stop."""
        node = Node(
            settings,
            dsn=database_dsn,
            redis_socket=str(redis_server.socket_path),
            redis_password=redis_server.password,
        )
        await node.start()
        await asyncio.sleep(after_s)
        stopping = asyncio.ensure_future(node.stop())
        stuck: list[str] = []
        for _ in range(20):
            done, _ = await asyncio.wait({stopping}, timeout=8)
            if done:
                break
            going_on = [task for task in asyncio.all_tasks() if task.cancelling()]
            stuck += [task.get_name() for task in going_on]
            for task in going_on:
                task.cancel()  # So that the test ends, whatever it found.
        return stuck

    async def go() -> None:
        for number in range(40):
            stuck = await start_and_stop(number * 0.0007)
            assert not stuck, f"stopped {number * 0.7:.1f} ms after its start, these go on: {stuck}"

    run_loop(go())
