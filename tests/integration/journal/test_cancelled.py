"""R-14: a unit of work that is cancelled at any of its awaits leaves nothing half, and no connection."""

from __future__ import annotations

import asyncio
import itertools
import types
from collections.abc import Coroutine, Generator
from typing import Any, Literal

import pytest

from tests.integration.storage.conftest import Storage, end, meter, start, status
from tests.support import wait_until
from voltledger.domain.events import ConnectorStatus
from voltledger.services.facts import InboundFact
from voltledger.services.intake import _Waiting

When = Literal["as it begins to wait", "as it wakes up"]
_numbers = itertools.count(1)


@types.coroutine
def cancelled_at(work: Coroutine[Any, Any, Any], await_number: int, when: When) -> Generator[Any, Any, int]:
    """Runs work in this task and cancels the task at one of its awaits; returns how many there were."""
    count = 0
    steps = work.__await__()
    try:
        waits_for = next(steps)
        while True:
            count += 1
            if count == await_number and when == "as it begins to wait":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            try:
                yield waits_for
                if count == await_number and when == "as it wakes up":
                    raise asyncio.CancelledError
            except BaseException as error:
                waits_for = steps.throw(error)
            else:
                waits_for = next(steps)
    except StopIteration:
        return count


async def _batch(storage: Storage) -> list[InboundFact]:
    """Facts of two stations: a start, a reading, an end and a status, in one batch."""
    number = next(_numbers)
    ref = await storage.begin(station="CP-2", register=1_000 * number)
    return [
        storage.fact(start(register=1_000 * number, minutes=-40 + number / 10), key=f"start-{number}"),
        storage.fact(meter(1_000 * number + 5, ref=ref), station="CP-2", key=f"meter-{number}"),
        storage.fact(end(1_000 * number + 9, ref=ref), station="CP-2", key=f"end-{number}"),
        storage.fact(status(ConnectorStatus.AVAILABLE), station="CP-2"),
    ]


async def _record(storage: Storage, facts: list[InboundFact]) -> None:
    loop = asyncio.get_running_loop()
    waiting = [_Waiting(fact=f, key=f.key, answer=loop.create_future(), since=loop.time()) for f in facts]
    await storage.intake._record(waiting, look_first=False)


async def _is_whole(storage: Storage, facts: list[InboundFact]) -> bool:
    """Whether a batch is recorded; it must be as a whole, or not at all."""
    keys = [fact.dedupe_key for fact in facts if fact.dedupe_key is not None]
    # One statement is one snapshot: a commit that was on its way may land between two.
    row = await storage.sql.fetchrow(
        "SELECT (SELECT count(*) FROM inbox WHERE dedupe_key = ANY($1)),"
        " (SELECT count(*) FROM charging_session WHERE start_key = $2),"
        " (SELECT count(*) FROM frame WHERE dedupe_key = ANY($1))",
        keys,
        keys[0],
    )
    assert tuple(row) in ((0, 0, 0), (len(keys), 1, len(keys))), f"half of it: {tuple(row)}"
    return bool(row[0])


async def _nothing_leaked(storage: Storage) -> None:
    await wait_until(lambda: storage.database.in_use == 0, what="every connection is given back")
    pool = storage.database._pool
    taken = await asyncio.gather(*(pool.acquire(timeout=3) for _ in range(pool.get_max_size())))
    await asyncio.gather(*(pool.release(connection) for connection in taken))

    async def none_open() -> bool:
        return not await storage.sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in trans%'"
        )

    await wait_until(none_open, what="no transaction stays open")


@pytest.mark.parametrize("when", ["as it begins to wait", "as it wakes up"])
async def test_cancelled_at_any_await_a_unit_of_work_is_whole_or_nothing(storage: Storage, when: When) -> None:
    recorded = 0
    for number in itertools.count(1):
        facts = await _batch(storage)
        task = asyncio.create_task(_cancelled(storage, facts, number, when))
        await asyncio.wait({task}, timeout=10)
        assert task.done(), f"it hangs when it is cancelled at await {number}"
        if not task.cancelled():
            assert task.result() < number, f"the cancellation at await {number} was swallowed"
            break
        recorded += await _is_whole(storage, facts)
        # The station says it again: once in the books, whatever became of the first.
        answers = await asyncio.gather(*(storage.intake.submit(fact) for fact in facts))
        assert all(answers)
        assert await _is_whole(storage, facts)
    assert number > 15, "a unit of work has many awaits"
    assert 0 < recorded < number / 2, "the cut lies before the commit in some and after it in others"
    await _nothing_leaked(storage)
    await storage.settling.settle_due(limit=1_000)
    await storage.balances()
    assert set(await storage.findings()) <= {"superseded"}
    ended = await storage.sql.fetch("SELECT energy_wh FROM charging_session WHERE station_id = 'CP-2'")
    assert [row["energy_wh"] for row in ended] == [9] * len(ended)


async def _cancelled(storage: Storage, facts: list[InboundFact], await_number: int, when: When) -> int:
    return await cancelled_at(_record(storage, facts), await_number, when)


async def test_a_caller_that_goes_away_at_any_await_takes_nothing_back(storage: Storage) -> None:
    for number in (1, 2, 3):
        (fact, *_) = await _batch(storage)

        async def submit(fact: InboundFact = fact, number: int = number) -> None:
            await cancelled_at(storage.intake.submit(fact), number, "as it begins to wait")

        task = asyncio.create_task(submit())
        await asyncio.wait({task}, timeout=10)

        async def recorded(key: bytes | None = fact.dedupe_key) -> bool:
            return bool(await storage.sql.fetchval("SELECT count(*) FROM inbox WHERE dedupe_key = $1", key))

        await wait_until(recorded, what="it is recorded all the same")
    await _nothing_leaked(storage)
