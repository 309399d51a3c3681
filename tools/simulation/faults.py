"""What goes wrong inside nodes, drawn from the seed: at the places where they wait for database, journal or network."""

import asyncio
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from voltledger.storage.errors import JournalUnavailable, StoreContention, StoreUnavailable

if TYPE_CHECKING:
    from tools.simulation.node import Node
    from tools.simulation.world import World

CONTENDED = ("t1.load", "t1.save", "t1.look", "t1.commit", "t2.load", "t2.save", "t2.commit", "ours.load", "ours.save")
KINDS = ("crash", "away", "contention", "wait", "yield", "journal full")


class Faults:
    """The faults of one world. `plan` says what happens at the n-th place that any node passes."""

    def __init__(self, world: "World", rng: Random) -> None:
        self._world = world
        self._rng = rng
        self.plan: dict[int, tuple[str, float]] = {}
        self.passed = 0
        self.outage_until = -1.0
        self.healed = False
        self.jitter = 0.0
        self.counts: Counter[str] = Counter()

    @property
    def is_out(self) -> bool:
        """Whether the database is away now."""
        return self._world.loop.time() < self.outage_until

    def begin_outage(self, seconds: float) -> None:
        """The database goes away for a time."""
        self.counts["outage"] += 1
        self.outage_until = max(self.outage_until, self._world.loop.time() + seconds)
        self._world.note("database", "away", round(seconds, 1))

    async def strike(self, node: "Node", name: str) -> None:
        """What happens at one place."""
        self.passed += 1
        if self._world.loop.time() < self.outage_until and not name.startswith(("journal", "answer")):
            raise StoreUnavailable("the database is away")
        if self.healed:
            return
        fault = self.plan.get(self.passed)
        if fault is not None:
            await self._happen(node, name, *fault)
        elif self.jitter and self._rng.random() < self.jitter:
            await asyncio.sleep(0)

    async def _happen(self, node: "Node", name: str, kind: str, amount: float) -> None:
        outside = name.startswith(("journal", "answer"))
        if kind == "away" and outside:
            kind = "journal full" if name == "journal.append" else "wait"
        if kind == "contention" and name not in CONTENDED:
            kind = "wait"
        self.counts[f"{kind} at {name}"] += 1
        self._world.note(node.name, kind, name)
        if kind == "crash":
            self._world.crash(node, amount)
            await asyncio.get_running_loop().create_future()
        elif kind == "away":
            raise StoreUnavailable("the connection was lost")
        elif kind == "journal full":
            raise JournalUnavailable("the disk is full")
        elif kind == "contention":
            raise StoreContention("somebody has this row")
        elif kind == "wait":
            await asyncio.sleep(min(amount, 3.0))
        else:
            await asyncio.sleep(0)
