"""News as they happen, for those who watch: bounded for each watcher, kept nowhere."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

MAX_BEHIND = 1_000


class LiveFeed:
    """Fans items out to watchers; a slow watcher loses the oldest ones, and slows nobody."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[Mapping[str, object]]] = set()

    @property
    def watched(self) -> bool:
        """Whether anyone listens, so that making an item is worth it."""
        return bool(self._watchers)

    def publish(self, item: Mapping[str, object]) -> None:
        """Hands an item to every watcher."""
        for queue in self._watchers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(item)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[AsyncIterator[Mapping[str, object]]]:
        """Items from now on."""
        queue: asyncio.Queue[Mapping[str, object]] = asyncio.Queue(MAX_BEHIND)
        self._watchers.add(queue)
        try:
            yield _items(queue)
        finally:
            self._watchers.discard(queue)


async def _items(queue: "asyncio.Queue[Mapping[str, object]]") -> AsyncIterator[Mapping[str, object]]:
    while True:
        yield await queue.get()
