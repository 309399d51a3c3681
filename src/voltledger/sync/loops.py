"""Periodic loops: staggered, each period's run done by one node, its duration and outcome kept.

A node runs loops only while it holds the lease; the row that names a run (`job_run`) is what makes a
period's run happen once even if two nodes believe that they hold it.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from voltledger.logs import get_logger, log_failure, log_sync
from voltledger.services.runtime import LoopHealth
from voltledger.storage.errors import StoreUnavailable

log = get_logger(__name__)

LEASE = "sync"
LEASE_TTL = timedelta(seconds=20)
RENEW_S = 6.0


class LoopStore(Protocol):
    """Where leases and runs are kept."""

    async def take_lease(self, name: str, holder: str, ttl: timedelta) -> int | None:
        """The fence if the lease is ours now, else None."""

    async def give_lease_back(self, name: str, holder: str) -> None:
        """Lets another node take over at once."""

    async def begin_run(self, loop: str, period: datetime, node: str) -> bool:
        """Whether this node is the one to do this period's run."""

    async def end_run(self, loop: str, period: datetime, duration_s: float, outcome: str) -> None:
        """Notes how a run went."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """One loop: its period, its place in it (so that no two start together), and its work.

    `work` returns a short sentence about what it did.
    """

    name: str
    period_s: float
    offset_s: float
    work: Callable[[], Awaitable[str]]


class Scheduler:
    """Runs the loops of a node while it holds the lease."""

    def __init__(
        self,
        store: LoopStore,
        loops: list[Loop],
        *,
        node: str,
        now: Callable[[], datetime],
        on_run: Callable[[str, float], None],
    ) -> None:
        self._store = store
        self._loops = loops
        self._node = node
        self._now = now
        self._on_run = on_run
        self._leading = asyncio.Event()
        self.health: dict[str, LoopHealth] = {loop.name: LoopHealth() for loop in loops}

    async def run(self) -> None:
        """Runs until cancelled, then gives the lease back."""
        tasks = [asyncio.create_task(self._run_loop(loop), name=f"loop-{loop.name}") for loop in self._loops]
        try:
            await self._keep_lease()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(StoreUnavailable):
                await asyncio.shield(self._store.give_lease_back(LEASE, self._node))

    async def _keep_lease(self) -> None:
        while True:
            try:
                held = await self._store.take_lease(LEASE, self._node, LEASE_TTL) is not None
            except StoreUnavailable:
                held = False
            if held:
                self._leading.set()
            else:
                self._leading.clear()
            await asyncio.sleep(RENEW_S if held else RENEW_S / 2)

    async def _run_loop(self, loop: Loop) -> None:
        while True:
            period, wait_s = next_period(self._now(), loop)
            await asyncio.sleep(wait_s)
            await self._leading.wait()
            try:
                await self.run_once(loop, period)
            except Exception as error:
                # One period is lost, the loop is not.
                log_failure(log, "sync could not be noted", loop=loop.name, exc_info=error)

    async def run_once(self, loop: Loop, period: datetime) -> None:
        """One run, unless another node has done it; failures are noted and do not end the loop."""
        try:
            if not await self._store.begin_run(loop.name, period, self._node):
                return
        except StoreUnavailable as error:
            log_sync(log, "sync waits for the database", loop=loop.name, problem=str(error))
            return
        started = time.monotonic()
        try:
            outcome = await loop.work()
        except StoreUnavailable as error:
            outcome = f"the database is away: {error}"
            log_sync(log, "sync interrupted", loop=loop.name, problem=str(error))
        except Exception as error:
            outcome = f"failed: {type(error).__name__}: {error}"
            log_failure(log, "sync failed", loop=loop.name, exc_info=error)
        duration = time.monotonic() - started
        self.health[loop.name] = LoopHealth(last_run=self._now(), duration_s=round(duration, 4), outcome=outcome)
        self._on_run(loop.name, duration)
        log_sync(log, "sync", loop=loop.name, duration_ms=round(duration * 1000, 1), outcome=outcome)
        with contextlib.suppress(StoreUnavailable):
            await self._store.end_run(loop.name, period, duration, outcome)


def next_period(now: datetime, loop: Loop) -> tuple[datetime, float]:
    """The start of the loop's next period, and the seconds until then.

    All nodes compute the same starts, from the clock alone.
    """
    seconds = now.timestamp() - loop.offset_s
    start = (seconds // loop.period_s + 1) * loop.period_s + loop.offset_s
    return datetime.fromtimestamp(start, UTC), max(0.0, start - now.timestamp())
