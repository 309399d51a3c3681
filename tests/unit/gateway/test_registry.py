"""Which socket speaks for a station when claims and their replies cross."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from websockets.protocol import State

from voltledger.domain.identifiers import StationId
from voltledger.gateway.registry import ConnectionRegistry

CP1 = StationId("CP-1")


class SlowFirst:
    """Gives epochs as they are asked for; the reply to the first claim comes when it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.claims = 0

    async def claim(self, station_id: StationId, node: str, at: datetime) -> int:
        """See `OwnerStore`."""
        self.claims += 1
        epoch = self.claims
        if epoch == 1:
            await self.let_go.wait()
        return epoch

    async def not_held(self, stations: Sequence[str], node: str) -> list[StationId]:
        """See `OwnerStore`."""
        return []

    async def release(self, station_id: StationId, epoch: int, at: datetime) -> None:
        """See `OwnerStore`."""


class Line:
    """The socket of a station that stays open until it is closed."""

    close_code: int | None = None
    state = State.OPEN


class Talking:
    """A connection as the registry sees it."""

    def __init__(self, name: str) -> None:
        self.station_id = CP1
        self.remote = name
        self.since = datetime.now(UTC)
        self.epoch = 0
        self.socket = Line()
        self.closed_with: int | None = None

    async def close(self, code: int, reason: str) -> None:
        """See `StationConnection`."""
        self.closed_with = code


async def test_the_late_reply_to_an_older_claim_does_not_close_the_newer_socket() -> None:
    owners = SlowFirst()
    registry = ConnectionRegistry(owners, "node#1", lambda: datetime.now(UTC), lambda station, up: None)
    older: Any
    newer: Any
    older, newer = Talking("older"), Talking("newer")
    first = asyncio.create_task(registry.take_over(older))
    second = asyncio.create_task(registry.take_over(newer))
    for _ in range(10):
        await asyncio.sleep(0)  # Both have gone as far as they can without the first reply.
    owners.let_go.set()
    await asyncio.gather(first, second)
    await asyncio.sleep(0)
    assert (older.closed_with, newer.closed_with) == (1000, None)
    assert (older.epoch, newer.epoch) == (1, 2)
    assert registry.current(CP1) is newer


async def test_a_slow_claim_of_one_station_holds_up_no_other() -> None:
    owners = SlowFirst()
    registry = ConnectionRegistry(owners, "node#1", lambda: datetime.now(UTC), lambda station, up: None)
    slow: Any
    other: Any
    slow, other = Talking("slow"), Talking("other")
    other.station_id = StationId("CP-2")
    waiting = asyncio.create_task(registry.take_over(slow))
    await asyncio.sleep(0)
    await asyncio.wait_for(registry.take_over(other), 5)
    assert registry.current("CP-2") is other
    owners.let_go.set()
    await waiting
