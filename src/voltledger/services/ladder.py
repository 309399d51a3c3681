"""The outage ladder: what happens to facts while the database is away.

1. Hold: the intake keeps an answer back and tries again; a restart of PostgreSQL passes unnoticed.
2. Journal: facts are kept on this node's disk, answered, and recorded in order when the database is back.
3. Close: where the journal cannot be written, nothing is answered; stations are sent away and queue by themselves.

A station whose facts wait in the journal goes on through it, also when the database is back, until all of
its facts are recorded: that keeps its order. Everybody else goes straight to the database.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import datetime
from typing import Literal

from voltledger.domain.identifiers import StationId
from voltledger.logs import get_logger, log_failure, log_success
from voltledger.services.facts import InboundFact
from voltledger.storage.errors import JournalUnavailable, StoreUnavailable
from voltledger.storage.ports import FactJournal, FactKey, JournaledFact

log = get_logger(__name__)

DRAIN_BATCH = 400
PROBE_S = 2.0
"""How long one look at the store may take."""

Rung = Literal["recording", "journal", "closed"]
"""Where facts go: the database, the journal, or nowhere."""

Record = Callable[[Sequence[InboundFact]], Awaitable[None]]
"""Records facts as one unit of work. Raises StoreUnavailable or StoreContention."""


class Ladder:
    """Where facts go now, and how those that waited get into the books.

    `journal` None means that there is none: an outage closes at once. `revive` makes a fact again of what
    the journal kept. `record` tells which of some facts could not be recorded now. `on_change` is told when
    the rung changes, `on_back` the two ends of an outage.
    """

    def __init__(
        self,
        journal: FactJournal | None,
        *,
        probe: Callable[[], Awaitable[None]],
        revive: Callable[[JournaledFact], InboundFact],
        now: Callable[[], datetime],
        on_change: Callable[[Rung], None] = lambda rung: None,
    ) -> None:
        self._journal = journal
        self._probe_store = probe
        self._revive = revive
        self._now = now
        self._on_change = on_change
        self._pending: Counter[StationId] = Counter()
        self._total = 0
        self._work = asyncio.Event()
        self._moved = asyncio.Event()
        self._pause = 0.1
        self._away = False
        self._full = journal is None
        self._rung: Rung = "recording"
        self.away_since: datetime | None = None
        self.quiet_since = now()
        self.outages = 0

    # --- where facts go --------------------------------------------------------------------------

    @property
    def rung(self) -> Rung:
        """Where a fact of a station with nothing in the journal goes now."""
        return self._rung

    @property
    def away(self) -> bool:
        """Whether the database is believed to be away."""
        return self._away

    @property
    def can_keep(self) -> bool:
        """Whether the journal takes facts, as far as is known."""
        return not self._full

    @property
    def waiting(self) -> int:
        """Facts that were answered and are not in the database yet."""
        return self._total

    def keeps(self, station_id: StationId) -> bool:
        """Whether a fact of this station goes to the journal now."""
        return self._away or station_id in self._pending

    def fell(self, problem: str) -> None:
        """The database did not take facts for as long as they may be held."""
        self._work.set()
        self._moved.set()
        if self._away:
            return
        self._away, self.away_since = True, self._now()
        self._full = self._journal is None
        self.outages += 1
        log_failure(
            log,
            "the database is away: facts go to this node's journal"
            if self._journal is not None
            else "the database is away and there is no journal: stations are sent away until it is back",
            problem=problem,
        )
        self._step()

    async def keep(self, facts: Sequence[JournaledFact]) -> list[str]:
        """Puts facts into the journal; the answers that their stations get.

        Raises: JournalUnavailable; then nothing may be answered.
        """
        if self._journal is None:
            raise JournalUnavailable("there is no journal")
        # Counted before it is written: a station's next fact must not pass by one that is on its way.
        self._count(facts, 1)
        try:
            answers = await self._journal.append(facts)
        except BaseException as error:
            self._count(facts, -1)
            if not isinstance(error, JournalUnavailable):
                raise
            if not self._full:
                log_failure(
                    log, "the journal cannot be written: free the disk or correct its rights", problem=str(error)
                )
            self._full = True
            self._step()
            raise
        self._count([fact for fact, answer in zip(facts, answers, strict=True) if not answer.new], -1)
        self._full = False
        self._step()
        self._work.set()
        return [answer.response for answer in answers]

    def _count(self, facts: Sequence[JournaledFact], sign: int) -> None:
        for fact in facts:
            self._pending[fact.station_id] += sign
            if self._pending[fact.station_id] <= 0:
                del self._pending[fact.station_id]
        self._total += sign * len(facts)

    async def caught_up(self, station_id: StationId, limit_s: float) -> None:
        """Waits, while the database is there, until a station's facts are in it; for a limited time.

        Whoever has to go through the journal only because it has not been emptied yet waits a little, so
        that it empties faster than it fills.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not self._away and self._pending[station_id] > 0:
                    self._moved.clear()
                    await self._moved.wait()

    def _step(self) -> None:
        rung: Rung = "recording" if not self._away else "closed" if self._full else "journal"
        if rung != self._rung:
            self._rung = rung
            self._on_change(rung)

    # --- the way back ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Takes up what an earlier run left in the journal. Raises: JournalUnavailable."""
        if self._journal is None:
            return
        self._pending = Counter(await self._journal.waiting())
        self._total = sum(self._pending.values())
        if self._total:
            log_success(log, "facts of an earlier run wait in the journal", facts=self._total)
            # Only a probe can tell whether the database may be written: it may lack a migration.
            self._away, self.away_since = True, self._now()
            self._step()
            self._work.set()

    async def run(self, record: Record) -> None:
        """Probes while the database is away, and records what waits when it is there; never ends."""
        self._pause = 0.1
        while True:
            try:
                await self._step_back(record)
            except Exception as error:
                # Whatever it is: facts wait, and somebody has to go on with them.
                log_failure(log, "the journal could not be worked on; it is tried again", exc_info=error)
                await asyncio.sleep(1)

    async def _step_back(self, record: Record) -> None:
        """One probe, or one walk through the journal, and the pause behind it."""
        await self._work.wait()
        if self._away and not await self._is_back():
            await self._try_journal()
            await asyncio.sleep(random.uniform(0.25, 1.0))
            return
        moved = await self._drain(record)
        if self._total == 0 and not self._away:
            self._work.clear()
            self._pause = 0.1
        elif not moved:
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, 2.0)
        else:
            self._pause = 0.1

    async def _is_back(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                await self._probe_store()
        except (StoreUnavailable, TimeoutError):
            return False
        except Exception as error:
            # A database that is being restored, another password: whatever it is, nothing can be recorded yet.
            log_failure(log, "the database answers and cannot be used", exc_info=error)
            return False
        began = self.away_since or self._now()
        self._away, self.away_since, self.quiet_since = False, None, self._now()
        log_success(
            log,
            "the database is back",
            away_s=round((self.quiet_since - began).total_seconds(), 1),
            facts_waiting=self._total,
        )
        self._step()
        self._moved.set()
        return True

    async def _try_journal(self) -> None:
        """A disk that was full or write-protected may be usable again."""
        if self._full and self._journal is not None:
            with contextlib.suppress(JournalUnavailable):
                await self._journal.append(())
                self._full = False
                self._step()

    async def _drain(self, record: Record) -> bool:
        """One walk through the journal; whether anything of it was recorded."""
        if self._journal is None or self._total == 0:
            return False
        after, moved = 0, False
        stuck: set[StationId] = set()
        try:
            while rows := await self._journal.oldest(after, DRAIN_BATCH):
                after = rows[-1].number
                rows = [row for row in rows if row.station_id not in stuck]
                for batch in _batches(rows):
                    moved |= await self._drain_batch([r for r in batch if r.station_id not in stuck], record, stuck)
                    if self._away:
                        return moved
        except JournalUnavailable as error:
            log_failure(log, "the journal cannot be read; it is tried again", problem=str(error))
        if moved and self._total == 0:
            log_success(log, "every fact of the journal is recorded")
        return moved

    async def _drain_batch(self, rows: Sequence[JournaledFact], record: Record, stuck: set[StationId]) -> bool:
        """Records facts of the journal; those that meet a rival alone, and in order."""
        if not rows or self._journal is None:
            return False
        try:
            await record([self._revive(row) for row in rows])
        except StoreUnavailable as error:
            self.fell(str(error))
            return False
        except Exception as error:
            if len(rows) == 1:
                log_failure(
                    log, "a fact of the journal cannot be recorded yet", station=rows[0].station_id, exc_info=error
                )
                stuck.add(rows[0].station_id)
                return False
            return await self._drain_singly(rows, record, stuck)
        await self._journal.remove([row.number for row in rows])
        self._count(rows, -1)
        self._moved.set()
        if self._total == 0:
            self._step()
        return True

    async def _drain_singly(self, rows: Sequence[JournaledFact], record: Record, stuck: set[StationId]) -> bool:
        moved = False
        for row in rows:
            if row.station_id not in stuck and not self._away:
                moved |= await self._drain_batch([row], record, stuck)
        return moved


def _batches(rows: Sequence[JournaledFact]) -> Iterator[list[JournaledFact]]:
    """Facts that may share a unit of work, each station's in order: none twice, and none behind a start of its own.

    A start may turn out to be one that is known under another transaction id; what follows it must find
    that out from the store. Such facts come with the next unit of work; those of other stations do not wait.
    """
    while rows:
        batch: list[JournaledFact] = []
        later: list[JournaledFact] = []
        waits: set[StationId] = set()
        keys: set[FactKey] = set()
        for row in rows:
            key = None if row.dedupe_key is None else FactKey(station_id=row.station_id, dedupe_key=row.dedupe_key)
            if row.station_id in waits or key in keys:
                waits.add(row.station_id)
                later.append(row)
                continue
            batch.append(row)
            if row.transaction_ref is not None:
                waits.add(row.station_id)
            if key is not None:
                keys.add(key)
        yield batch
        rows = later
