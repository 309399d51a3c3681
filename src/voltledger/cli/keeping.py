"""Keeping the embedded servers running: who died is started again, who was stopped is left down for a while."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from voltledger.logs import get_logger, log_failure, log_success

log = get_logger(__name__)

LOOK_S = 0.5
LEFT_DOWN_S = 60.0
"""So long a server that ended in order stays down: somebody wanted it to, for a moment."""
LONGEST_PAUSE_S = 30.0


class Kept(Protocol):
    """An embedded server."""

    def is_running(self) -> bool:
        """Whether its process lives."""

    @property
    def was_stopped(self) -> bool:
        """Whether it has ended in order."""

    @property
    def runs_elsewhere(self) -> bool:
        """Whether somebody else has started it meanwhile."""

    def start_again(self) -> None:
        """Starts it once more. Raises: OSError."""


async def keep_running(servers: Sequence[tuple[str, Kept]], *, left_down_s: float = LEFT_DOWN_S) -> None:
    """Watches servers, each by itself; never ends. Call it on the main thread's loop."""
    async with asyncio.TaskGroup() as group:
        for name, server in servers:
            group.create_task(_keep(name, server, left_down_s))


async def _keep(name: str, server: Kept, left_down_s: float) -> None:
    pause = 1.0
    while True:
        await asyncio.sleep(LOOK_S)
        if server.is_running():
            continue
        wait_s = left_down_s if server.was_stopped else pause
        what = "was stopped" if server.was_stopped else "has died"
        log_failure(log, f"the embedded {name} {what}; it is started again", in_s=wait_s)
        await asyncio.sleep(wait_s)
        while server.runs_elsewhere:
            await asyncio.sleep(LOOK_S)
        began = time.monotonic()
        try:
            server.start_again()
        except OSError as error:
            log_failure(log, f"the embedded {name} cannot be started", problem=str(error))
        else:
            log_success(log, f"the embedded {name} was started again")
        await asyncio.sleep(LOOK_S)
        lasted = server.is_running() and time.monotonic() - began >= LOOK_S
        pause = 1.0 if lasted else min(2 * pause, LONGEST_PAUSE_S)
