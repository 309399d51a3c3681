"""The recorded conversation's messages that are no facts: gathered, and written a moment later.

Facts are recorded with their raw frame in their own unit of work; what passes here may be lost with a
crash, and is bounded while the database is away.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from voltledger.logs import get_logger, log_failure
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.ports import FrameRecord

log = get_logger(__name__)

FLUSH_S = 0.5
MAX_WAITING = 10_000


class FrameStore(Protocol):
    """Where frames are kept."""

    async def keep_frames(self, frames: Sequence[FrameRecord]) -> None:
        """Writes messages that are no facts."""


class FrameLog:
    """Gathers frames and writes them every half second."""

    def __init__(self, store: FrameStore) -> None:
        self._store = store
        self._waiting: list[FrameRecord] = []

    def keep(self, frame: FrameRecord) -> None:
        """Keeps a frame, soon; when too many wait, the newest are left out."""
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(frame)

    async def run(self) -> None:
        """Writes what was kept, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreUnavailable:
                continue
            except Exception as error:
                log_failure(log, "frames not kept", exc_info=error)

    async def flush(self) -> None:
        """Writes what waits. Raises: StoreUnavailable; the frames then go on waiting."""
        if not self._waiting:
            return
        frames, self._waiting = self._waiting, []
        try:
            await self._store.keep_frames(frames)
        except StoreUnavailable:
            self._waiting = (frames + self._waiting)[:MAX_WAITING]
            raise
