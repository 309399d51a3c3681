"""Workers that are woken: settlements, and effects outside the database. Polling is what guarantees."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from voltledger.logs import get_logger, log_failure
from voltledger.services.settling import SettledSession, Settling
from voltledger.storage.errors import StoreUnavailable

log = get_logger(__name__)

POLL_S = 2.0


class Worker:
    """Does a piece of work again and again: at once when woken, else every two seconds."""

    def __init__(self, name: str, work: Callable[[], Awaitable[bool]]) -> None:
        self._name = name
        self._work = work
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is probably something to do."""
        self._wake.set()

    async def run(self) -> None:
        """Works until cancelled; `work` says whether there is more to do at once."""
        while True:
            self._wake.clear()
            more = await self._try()
            if not more:
                try:
                    await asyncio.wait_for(self._wake.wait(), POLL_S)
                except TimeoutError:
                    continue

    async def _try(self) -> bool:
        try:
            return await self._work()
        except StoreUnavailable:
            return False
        except Exception as error:
            log_failure(log, "worker failed", worker=self._name, exc_info=error)
            return False


def settle_work(
    settling: Settling, on_settled: Callable[[Sequence[SettledSession]], None]
) -> Callable[[], Awaitable[bool]]:
    """Settles what is due."""

    async def work() -> bool:
        handled, settled = await settling.settle_due()
        if settled:
            on_settled(settled)
        return handled > 0

    return work


class OutboxStore(Protocol):
    """Where effects wait."""

    async def send_waiting(self, send: Callable[[str, Any], Awaitable[bool]], limit: int) -> tuple[int, int]:
        """Sends up to `limit` effects; how many were sent, and how many have to wait."""


def relay_work(
    store: OutboxStore, targets: dict[str, Callable[[Any], Awaitable[bool]]]
) -> Callable[[], Awaitable[bool]]:
    """Sends effects, at least once each; a target that is away makes its effects wait."""

    async def send(target: str, payload: str) -> bool:
        deliver = targets.get(target)
        return False if deliver is None else await deliver(msgspec.json.decode(payload))

    async def work() -> bool:
        sent, _ = await store.send_waiting(send, 100)
        return sent > 0  # What waits is not due again at once.

    return work
