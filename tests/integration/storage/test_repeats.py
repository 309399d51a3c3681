"""What a node remembers is worth nothing: a fact is known, and answered as before, whoever hears it again."""

from __future__ import annotations

import asyncio

from tests.integration.storage.conftest import Storage, end, meter
from voltledger.domain.events import FactUnreadable
from voltledger.services.facts import RecordedEvent


async def test_no_two_nodes_and_no_two_runs_draw_the_same_transaction_id(storage: Storage, other_node: Storage) -> None:
    drawn = await asyncio.gather(
        *(node.facts.reserve_transaction_refs(20) for node in (storage, other_node) for _ in range(3))
    )
    refs = [ref for block in drawn for ref in block]
    assert len(set(refs)) == len(refs) == 120
    known = await storage.begin()
    later = Storage(storage.dsn, storage.sql)  # as after a restart
    await later.open()
    try:
        again = await later.facts.reserve_transaction_refs(200)
    finally:
        await later.close()
    assert not {known, *refs} & set(again)


async def test_a_repeat_that_another_node_hears_gets_the_stored_answer_and_is_counted(
    storage: Storage, other_node: Storage
) -> None:
    unreadable = FactUnreadable(action="StartTransaction", problem="connectorId: 'x'")
    first = await storage.tell(unreadable, key="a start that cannot be read")
    ref = await storage.begin()
    story: list[tuple[RecordedEvent, str]] = [(meter(7_000, ref=ref), "m"), (end(13_345, ref=ref), "e")]
    answers = [await storage.tell(event, key=key) for event, key in story]
    assert await other_node.tell(unreadable, key="a start that cannot be read") == first
    assert [await other_node.tell(event, key=key) for event, key in story] == answers
    rows = await storage.sql.fetch(
        "SELECT repeats FROM inbox WHERE action <> 'TransactionStarted' ORDER BY received_at"
    )
    assert [row["repeats"] for row in rows] == [1, 1, 1]
    assert [committed.repeated for committed in other_node.committed] == [True, True, True]
