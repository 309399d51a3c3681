"""The way back from an outage: the database is there again, and a station's older facts are not in it yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.unit.domain.make import end, start
from tests.unit.services.test_intake import fact
from tests.unit.services.test_ladder import Wait, running
from voltledger.domain.session.decision import FactState
from voltledger.domain.session.states import State
from voltledger.storage.memory.journal import MemoryJournal
from voltledger.storage.ports import JournaledFact


async def test_what_a_station_says_while_its_start_still_waits_in_the_journal_does_not_pass_it_by(
    monkeypatch: pytest.MonkeyPatch, wait_until: Wait
) -> None:
    """As behind a long outage of many stations: only the journal is slow, the database takes everything."""
    may_read = asyncio.Event()
    real = MemoryJournal.oldest

    async def slowly(self: MemoryJournal, after: int, limit: int) -> Sequence[JournaledFact]:
        await may_read.wait()
        return await real(self, after, limit)

    monkeypatch.setattr(MemoryJournal, "oldest", slowly)
    async with running(hold_s=0.2) as node:
        try:
            await node.fall()
            ref = await node.say(fact(start(0, 1_000), key=b"1"))
            node.world.store.away = False
            await wait_until(lambda: not node.ladder.away, what="the store is back")
            await node.say(fact(end(9, 1_500, ref=ref), key=b"2"))
        finally:
            may_read.set()
        await node.drained(wait_until)
        assert node.world.recorded == [b"1", b"2"]
        assert {one.state for one in node.world.store.facts.values()} == {FactState.APPLIED}
        session = node.world.store.session("CP-1", ref)
        assert (session.state, session.energy_wh) == (State.COMPLETED, 500)
