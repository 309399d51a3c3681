"""Which socket speaks for which station: the newest authenticated one, from its first frame on, or at once
where there is no other.

Clean-up is by identity of the connection, never by the station's name: an old socket that closes
late must not remove the new one. Epochs come from the store and only rise; they fence commands and
presence. Facts are kept whatever socket they came in on.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from weakref import WeakValueDictionary

from websockets.protocol import State

from voltledger.domain.identifiers import StationId
from voltledger.failpoints import ARMED, fp
from voltledger.gateway.connection import TRY_AGAIN_LATER, StationConnection
from voltledger.logs import get_logger, log_ocpp, log_orphan
from voltledger.services.runtime import ConnectionInfo
from voltledger.storage.errors import StoreContention, StoreUnavailable

log = get_logger(__name__)

TAKEOVERS_A_MINUTE = 3


class OwnerStore(Protocol):
    """Where it is recorded which node holds a station."""

    async def claim(self, station_id: StationId, node: str, at: datetime) -> int:
        """Takes a station over and returns its new epoch."""

    async def not_held(self, stations: Sequence[str], node: str) -> list[StationId]:
        """Of stations whose sockets are open here, those that are not recorded as this node's."""

    async def release(self, station_id: StationId, epoch: int, at: datetime) -> None:
        """Notes that the socket of this epoch is gone; nothing if a newer one holds the station."""


class ConnectionRegistry:
    """The connections of this node."""

    def __init__(
        self,
        owners: OwnerStore,
        node: str,
        now: Callable[[], datetime],
        on_change: Callable[[StationId, bool], None],
    ) -> None:
        self._owners = owners
        self._node = node
        self._now = now
        self._on_change = on_change
        self._current: dict[StationId, StationConnection] = {}
        self._all: set[StationConnection] = set()
        self._takeovers: dict[StationId, deque[float]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._claims: WeakValueDictionary[StationId, asyncio.Lock] = WeakValueDictionary()

    def current(self, station_id: StationId | str) -> StationConnection | None:
        """The connection that speaks for a station, if it is connected here."""
        return self._current.get(StationId(station_id))

    def connected(self) -> Mapping[str, ConnectionInfo]:
        """Every connected station."""
        return {
            station_id: ConnectionInfo(
                version=str(connection.dialect.version),
                since=connection.since,
                last_frame_at=connection.last_frame_at,
                remote=connection.remote,
            )
            for station_id, connection in self._current.items()
        }

    def opened(self, connection: StationConnection) -> None:
        """An authenticated socket is open; it takes over with its first frame."""
        self._all.add(connection)

    async def take_over(self, connection: StationConnection) -> None:
        """The first frame of a socket: it speaks for the station from now on.

        One claim of a station at a time, in the order of the frames: the reply to an older claim cannot come last.
        """
        connection.epoch = -1
        async with self._claiming(connection.station_id):
            await self._take_over(connection)

    def _claiming(self, station_id: StationId) -> asyncio.Lock:
        lock = self._claims.get(station_id)
        if lock is None:
            lock = self._claims[station_id] = asyncio.Lock()
        return lock

    async def _take_over(self, connection: StationConnection) -> None:
        try:
            epoch = await self._owners.claim(connection.station_id, self._node, self._now())
        except (StoreUnavailable, StoreContention):
            epoch = -1  # Claimed by the database sync when the store is back.
        older = self._current.get(connection.station_id)
        if ARMED:
            await fp("owner.claimed")
        connection.epoch = epoch
        if connection.socket.close_code is not None:
            await self._give_back(connection, older)
            return
        self._current[connection.station_id] = connection
        self._on_change(connection.station_id, True)
        if older is not None and older is not connection:
            self._retire(older)

    async def _give_back(self, connection: StationConnection, older: StationConnection | None) -> None:
        """A socket that closed while it took over leaves the station to the older one, or to nobody."""
        if older is not None:
            older.epoch = connection.epoch
        else:
            await self._release(connection)

    def _retire(self, older: StationConnection) -> None:
        """Closes the older socket, unless sockets of one identity chase each other: then both stay."""
        recent = self._takeovers.setdefault(older.station_id, deque(maxlen=TAKEOVERS_A_MINUTE))
        loop_time = asyncio.get_running_loop().time()
        chasing = len(recent) == TAKEOVERS_A_MINUTE and loop_time - recent[0] < 60
        recent.append(loop_time)
        if chasing:
            log_orphan(
                log,
                "sockets of one identity chase each other; the older stays open",
                station=older.station_id,
            )
            return
        log_ocpp(log, "a newer connection took over", station=older.station_id, remote=older.remote)
        task = asyncio.create_task(older.close(1000, "replaced by a newer connection"))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def closed(self, connection: StationConnection) -> None:
        """A socket is gone; the station is offline only if this was the one that spoke for it."""
        self._all.discard(connection)
        if self._current.get(connection.station_id) is not connection:
            return
        del self._current[connection.station_id]
        left = self._still_open(connection.station_id)
        if left is not None:
            await self.take_over(left)
            return
        self._on_change(connection.station_id, False)
        await self._release(connection)

    def _still_open(self, station_id: StationId) -> StationConnection | None:
        """The newest other socket that the station has talked on; sockets that chased each other stay open."""
        others = [c for c in self._all if c.station_id == station_id and c.epoch != 0]
        return max((c for c in others if c.socket.state is State.OPEN), key=lambda c: c.since, default=None)

    async def _release(self, connection: StationConnection) -> None:
        try:
            await self._owners.release(connection.station_id, connection.epoch, self._now())
        except (StoreUnavailable, StoreContention):
            log_ocpp(log, "offline, not recorded yet", station=connection.station_id)

    async def claim_missing(self) -> None:
        """Claims stations that are not recorded as held here, as after an outage of the store.

        Raises: StoreUnavailable.
        """
        for station_id in await self._owners.not_held(list(self._current), self._node):
            async with self._claiming(station_id):
                connection = self._current.get(station_id)
                if connection is not None:
                    connection.epoch = await self._owners.claim(station_id, self._node, self._now())

    async def send_all_away(self, within_s: float, reason: str) -> None:
        """Closes every socket with 1013, each at a time of its own, so that they do not come back all at once."""

        async def later(connection: StationConnection) -> None:
            await asyncio.sleep(random.uniform(0, within_s))
            await connection.close(TRY_AGAIN_LATER, reason)

        await asyncio.gather(*(later(connection) for connection in list(self._all)), return_exceptions=True)

    async def close_station(self, station_id: StationId, reason: str) -> None:
        """Closes every socket of a station, as when it is disabled."""
        for connection in [c for c in self._all if c.station_id == station_id]:
            await connection.close(1008, reason)
