"""Effects outside the database: one that fails stops no other, and tells why."""

from __future__ import annotations

from typing import Any

from tests.integration.storage.conftest import Storage
from voltledger.storage.postgres.outbox import PostgresOutbox


async def _put(storage: Storage, *names: str) -> None:
    for name in names:
        await storage.sql.execute(
            "INSERT INTO outbox (effect_key, target, payload) VALUES ($1, 'cache', to_jsonb($1::text))", name
        )


async def _rows(storage: Storage) -> dict[str, Any]:
    rows = await storage.sql.fetch("SELECT *, run_after > now() + interval '3 seconds' AS later FROM outbox")
    return {row["effect_key"]: row for row in rows}


async def test_an_effect_that_fails_waits_and_the_others_of_its_batch_are_sent(storage: Storage) -> None:
    await _put(storage, "first", "broken", "last")
    sent = []

    async def send(target: str, payload: Any) -> bool:
        if "broken" in payload:
            raise ValueError("no such key\x00")
        sent.append(payload)
        return True

    outbox = PostgresOutbox(storage.database)
    assert await outbox.send_waiting(send, 100) == (2, 1)
    rows = await _rows(storage)
    assert {name: row["state"] for name, row in rows.items()} == {"first": "sent", "broken": "waiting", "last": "sent"}
    assert (rows["broken"]["attempts"], rows["broken"]["later"]) == (1, True)
    assert rows["broken"]["last_error"].startswith("ValueError: no such key")
    assert await outbox.send_waiting(send, 100) == (0, 0), "it is not due again at once"
    assert len(sent) == 2


async def test_an_effect_that_goes_on_failing_is_tried_less_and_less_often_and_is_sent_when_it_can_be(
    storage: Storage,
) -> None:
    await _put(storage, "broken")
    works = False

    async def send(target: str, payload: Any) -> bool:
        if not works:
            raise ValueError("not yet")
        return True

    outbox = PostgresOutbox(storage.database)
    waits = []
    for _ in range(4):
        await outbox.send_waiting(send, 100)
        waits.append(await storage.sql.fetchval("SELECT extract(epoch FROM run_after - now()) FROM outbox"))
        await storage.sql.execute("UPDATE outbox SET run_after = now()")
    assert waits == sorted(waits)
    assert waits[-1] > 30
    works = True
    assert await outbox.send_waiting(send, 100) == (1, 0)
    row = (await _rows(storage))["broken"]
    assert (row["state"], row["attempts"], row["last_error"]) == ("sent", 5, None)
