"""A node's journal in memory: what is in a `JournalDisk` outlives the node."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from voltledger.domain.identifiers import StationId
from voltledger.storage.memory.database import AtPoint
from voltledger.storage.ports import JournalAnswer, JournaledFact


@dataclass(slots=True)
class JournalDisk:
    """The rows, and the last number given."""

    rows: dict[int, JournaledFact] = field(default_factory=dict)
    last: int = 0


class MemoryJournal:
    """See `FactJournal`. `at_point` is called at `journal.append`, `journal.kept`, `journal.remove`; it may raise."""

    def __init__(self, disk: JournalDisk, at_point: AtPoint | None = None) -> None:
        self._disk = disk
        self._at_point = at_point

    async def append(self, facts: Sequence[JournaledFact]) -> list[JournalAnswer]:
        """Keeps facts for certain; a repeat of one that waits gets the first one's answer."""
        await self._point("journal.append")
        waiting = {(row.station_id, row.dedupe_key): row for row in self._disk.rows.values() if row.dedupe_key}
        answers = []
        for fact in facts:
            earlier = waiting.get((fact.station_id, fact.dedupe_key)) if fact.dedupe_key else None
            if earlier is not None:
                answers.append(JournalAnswer(response=earlier.response, new=False))
                continue
            self._disk.last += 1
            kept = replace(fact, number=self._disk.last)
            self._disk.rows[kept.number] = kept
            if kept.dedupe_key:
                waiting[(kept.station_id, kept.dedupe_key)] = kept
            answers.append(JournalAnswer(response=kept.response, new=True))
        await self._point("journal.kept")
        return answers

    async def oldest(self, after: int, limit: int) -> list[JournaledFact]:
        """The facts behind a number, in order."""
        return [row for number, row in self._disk.rows.items() if number > after][:limit]

    async def remove(self, numbers: Sequence[int]) -> None:
        """Forgets facts that are in the books now."""
        await self._point("journal.remove")
        for number in numbers:
            self._disk.rows.pop(number, None)

    async def waiting(self) -> dict[StationId, int]:
        """How many facts of each station wait."""
        found: dict[StationId, int] = {}
        for row in self._disk.rows.values():
            found[row.station_id] = found.get(row.station_id, 0) + 1
        return found

    async def _point(self, name: str) -> None:
        if self._at_point is not None:
            await self._at_point(name)
