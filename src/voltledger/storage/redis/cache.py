"""The cache: each station's event log and live status. PostgreSQL is the truth.

Keys, all of them:
  voltledger:events:{station_id}   stream; recent events, each with its connector; a connector's
                                   events go when its session is settled, all after 24 hours; of the
                                   meter readings of one moment only the last is kept
  voltledger:status:{station_id}   hash; connector -> status as last believed, and `at`
  voltledger:owner:{station_id}    string; the node that holds the socket, for two minutes

Writing never makes anyone wait: events are gathered and sent in pipelines; while Redis is away they
are dropped and counted. What is removed is removed entry by entry, so that an event which arrives
meanwhile stays.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

PREFIX = "voltledger:"
FLUSH_S = 0.1
MAX_WAITING = 20_000
STREAM_LIMIT = 2_000
OWNER_TTL_S = 120

AWAY = (RedisError, OSError, asyncio.TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedEvent:
    """One event of a station for its log."""

    station_id: str
    evse_id: int
    kind: str
    at: datetime
    session: UUID | None = None


class Cache:
    """The cache's client; every method is safe while Redis is away."""

    def __init__(self, client: "Redis", *, node: str) -> None:
        self._client: Any = client
        self._node = node
        self._events: deque[CachedEvent] = deque(maxlen=MAX_WAITING)
        self._readings: dict[tuple[str, int], CachedEvent] = {}
        self._statuses: dict[str, dict[str, str]] = {}
        self._sending = asyncio.Lock()
        self.available = False
        self.dropped = 0
        self.memory_bytes = 0

    def note(self, event: CachedEvent) -> None:
        """Adds an event to its station's log, soon."""
        if len(self._events) == MAX_WAITING:
            self.dropped += 1
        self._events.append(event)

    def note_reading(self, event: CachedEvent) -> None:
        """Adds a meter reading, soon; a newer one of the same connector takes its place until then."""
        self._readings[(event.station_id, event.evse_id)] = event

    def note_status(self, station_id: str, evse_id: int, status: str, at: datetime) -> None:
        """Sets a connector's live status, soon."""
        self._statuses.setdefault(station_id, {}).update({str(evse_id): status, "at": at.isoformat()})

    async def run(self) -> None:
        """Sends what was noted, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            with contextlib.suppress(Exception):
                await self.flush()

    async def flush(self) -> None:
        """Sends what was noted so far; drops it when Redis is away."""
        async with self._sending:
            await self._send()

    async def _send(self) -> None:
        if not self._events and not self._statuses and not self._readings:
            return
        events = [self._events.popleft() for _ in range(len(self._events))]
        events.extend(self._readings.values())
        self._readings.clear()
        statuses, self._statuses = self._statuses, {}
        pipeline = self._client.pipeline(transaction=False)
        for event in events:
            pipeline.xadd(
                f"{PREFIX}events:{event.station_id}",
                {"c": event.evse_id, "k": event.kind, "t": event.at.isoformat(), "s": str(event.session or "")},
                maxlen=STREAM_LIMIT,
                approximate=True,
            )
        for station_id, fields in statuses.items():
            pipeline.hset(f"{PREFIX}status:{station_id}", mapping=fields)
        if not await self._try(pipeline.execute()):
            self.dropped += len(events)

    async def set_owners(self, stations: Sequence[str]) -> None:
        """Says that this node holds these stations' sockets."""
        pipeline = self._client.pipeline(transaction=False)
        for station_id in stations:
            pipeline.set(f"{PREFIX}owner:{station_id}", self._node, ex=OWNER_TTL_S)
        if stations:
            await self._try(pipeline.execute())

    async def clear_events(self, station_id: str, evse_id: int, session: str, until: str) -> bool:
        """Removes a settled session's events, and its connector's of no session from before; False if away.

        Other connectors' events stay, and so do those of a session that has begun meanwhile.
        """
        key = f"{PREFIX}events:{station_id}"
        await self.flush()  # What was noted before must be there to be removed.
        try:
            entries = await self._client.xrange(key)
            gone = [entry for entry, fields in entries if _settled(fields, str(evse_id), session, until)]
            if gone:
                await self._client.xdel(key, *gone)
        except AWAY:
            self.available = False
            return False
        self.available = True
        return True

    async def trim(self, before: datetime) -> int:
        """Removes events older than a time, and logs that are empty; returns how many events."""
        floor = f"{int(before.timestamp() * 1000)}-0"
        removed = 0
        try:
            async for key in self._client.scan_iter(match=f"{PREFIX}events:*", count=500):
                removed += int(await self._client.xtrim(key, minid=floor, approximate=False))
        except AWAY:
            self.available = False
        return removed

    async def rebuild_statuses(self, statuses: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Brings the live statuses to what is recorded; the stations where the cache said otherwise.

        A missing key is no drift: the cache may be emptied at any moment.
        """
        drifted = []
        try:
            pipeline = self._client.pipeline(transaction=False)
            for station_id in statuses:
                pipeline.hgetall(f"{PREFIX}status:{station_id}")
            answers = await pipeline.execute(raise_on_error=False)
            pipeline = self._client.pipeline(transaction=False)
            for (station_id, wanted), found in zip(statuses.items(), answers, strict=True):
                held = _texts(found)
                if held is not None and all(held.get(key) == value for key, value in wanted.items()) and held:
                    continue
                if held is None or any(key in held and held[key] != value for key, value in wanted.items()):
                    drifted.append(station_id)
                pipeline.delete(f"{PREFIX}status:{station_id}")
                if wanted:
                    pipeline.hset(f"{PREFIX}status:{station_id}", mapping=dict(wanted))
            await pipeline.execute()
        except AWAY:
            self.available = False
            return []
        self.available = True
        return drifted

    async def ping(self) -> bool:
        """Whether Redis answers; also reads its memory."""
        try:
            information = await self._client.info("memory")
        except AWAY:
            self.available = False
            return False
        self.memory_bytes = int(information.get("used_memory", 0))
        self.available = True
        return True

    async def close(self) -> None:
        """Closes the connections."""
        with contextlib.suppress(*AWAY):
            await self._client.aclose()

    async def _try(self, awaitable: Any) -> bool:
        try:
            await awaitable
        except AWAY:
            self.available = False
            return False
        self.available = True
        return True


def _settled(fields: Mapping[bytes, bytes], evse: str, session: str, until: str) -> bool:
    texts = {_text(key): _text(value) for key, value in fields.items()}
    if texts.get("s"):
        return texts["s"] == session
    return texts.get("c") == evse and texts.get("t", "") <= until


def _texts(found: object) -> dict[str, str] | None:
    """A hash as text; None when the key holds something else (poisoned)."""
    if not isinstance(found, dict):
        return None
    return {_text(key): _text(value) for key, value in found.items()}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def connect(
    *, socket_path: str | None = None, host: str | None = None, port: int = 6379, password: str | None = None
) -> "Redis":
    """A client that gives up quickly, so that nothing waits for a cache."""
    options: dict[str, Any] = {
        "password": password or None,
        "socket_timeout": 2,
        "socket_connect_timeout": 2,
        "health_check_interval": 15,
        # By default each command is tried ten times with pauses, which keeps /health waiting for seconds.
        "retry": Retry(NoBackoff(), 1),
    }
    if socket_path is not None:
        return Redis(unix_socket_path=socket_path, **options)
    return Redis(host=host or "localhost", port=port, **options)
