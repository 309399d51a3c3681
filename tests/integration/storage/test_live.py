"""Ownership of stations and commands to them: epochs only rise, a command is sent at most once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.integration.storage.conftest import Storage, clock, new_id
from voltledger.domain.identifiers import StationId, TokenValue

CP1 = StationId("CP-1")


async def queue(storage: Storage, count: int, *, station: str = "CP-1", minutes: float = 15) -> list[Any]:
    """Queues commands; the first is the oldest."""
    ids = [new_id() for _ in range(count)]
    for number, command_id in enumerate(ids):
        await storage.sql.execute(
            "INSERT INTO command (id, station_id, neutral, action, payload, state, created_at, expires_at) "
            "VALUES ($1, $2, true, 'StopCharging', '{}', 'queued', $3, $4)",
            command_id,
            station,
            clock(-1 + number / 1_000),
            clock(minutes),
        )
    return ids


async def test_epochs_only_rise(storage: Storage, other_node: Storage) -> None:
    epochs = [await storage.live.claim(CP1, "a", clock()) for _ in range(3)]
    epochs += await asyncio.gather(
        *(node.live.claim(CP1, name, clock()) for name, node in (("a", storage), ("b", other_node)) for _ in range(10))
    )
    assert sorted(epochs) == list(range(1, 24))
    assert epochs[:3] == [1, 2, 3]


async def test_the_release_of_an_old_epoch_does_not_touch_a_newer_one(storage: Storage) -> None:
    old = await storage.live.claim(CP1, "a", clock())
    await storage.live.claim(CP1, "b", clock())
    await storage.sql.execute("UPDATE station SET status = 'AVAILABLE' WHERE id = 'CP-1'")
    await storage.live.release(CP1, old, clock())
    assert await storage.sql.fetchval("SELECT disconnected_at FROM station_owner") is None
    assert await storage.sql.fetchval("SELECT status FROM station WHERE id = 'CP-1'") == "AVAILABLE"


async def test_the_release_of_the_present_epoch_takes_the_station_offline(storage: Storage) -> None:
    epoch = await storage.live.claim(CP1, "a", clock())
    await storage.live.release(CP1, epoch, clock())
    assert await storage.sql.fetchval("SELECT disconnected_at FROM station_owner") is not None
    assert await storage.sql.fetchval("SELECT status FROM station WHERE id = 'CP-1'") == "OFFLINE"
    assert await storage.live.claim(CP1, "a", clock()) == epoch + 1
    assert await storage.sql.fetchval("SELECT disconnected_at FROM station_owner") is None


async def test_a_station_that_is_out_of_order_stays_so_when_its_socket_goes(storage: Storage) -> None:
    epoch = await storage.live.claim(CP1, "a", clock())
    await storage.sql.execute(
        "UPDATE station SET status = 'OUT_OF_ORDER', out_of_order_since = now() WHERE id = 'CP-1'"
    )
    await storage.live.release(CP1, epoch, clock())
    assert await storage.sql.fetchval("SELECT status FROM station WHERE id = 'CP-1'") == "OUT_OF_ORDER"


async def test_commands_are_claimed_oldest_first_one_a_station(storage: Storage) -> None:
    await storage.live.claim(CP1, "a", clock())
    ids = await queue(storage, 3)
    claimed = [(await storage.live.claim_commands(["CP-1"], "a"))[0].id for _ in range(3)]
    assert claimed == ids
    assert await storage.live.claim_commands(["CP-1"], "a") == []


async def test_a_command_is_claimed_at_most_once_by_many_at_once(storage: Storage, other_node: Storage) -> None:
    await storage.live.claim(CP1, "a", clock())
    ids = await queue(storage, 5)
    nodes = (storage, other_node)
    taken = await asyncio.gather(*(nodes[n % 2].live.claim_commands(["CP-1"], "a") for n in range(30)))
    claimed = [c.id for batch in taken for c in batch]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) <= set(ids)
    assert await storage.sql.fetchval("SELECT count(*) FROM command WHERE state = 'sending'") == len(claimed)


async def test_a_command_that_is_being_claimed_by_another_is_not_claimed_again(storage: Storage) -> None:
    await storage.live.claim(CP1, "a", clock())
    await queue(storage, 1)
    transaction = storage.sql.transaction()
    await transaction.start()
    await storage.sql.execute("UPDATE command SET state = 'sending'")
    rival = asyncio.create_task(storage.live.claim_commands(["CP-1"], "a"))
    await asyncio.sleep(0.2)
    assert not rival.done()
    await transaction.commit()
    assert await rival == []


@pytest.mark.parametrize(
    ("what", "owner", "asked", "minutes"),
    [
        ("another node holds the station", "b", ["CP-1"], 15.0),
        ("the station is not asked about", "a", ["CP-2"], 15.0),
        ("its time is over", "a", ["CP-1"], -1.0),
    ],
)
async def test_a_command_is_not_claimed_where(
    storage: Storage, what: str, owner: str, asked: list[str], minutes: float
) -> None:
    await storage.live.claim(CP1, owner, clock())
    await queue(storage, 1, minutes=minutes)
    assert await storage.live.claim_commands(asked, "a") == [], what


async def test_what_was_being_sent_when_a_station_was_taken_over_is_unknown_and_not_sent_again(
    storage: Storage,
) -> None:
    await storage.live.claim(CP1, "a", clock())
    await queue(storage, 1)
    await storage.live.claim_commands(["CP-1"], "a")
    await storage.live.claim(CP1, "b", clock())
    assert await storage.sql.fetchval("SELECT state FROM command") == "unknown"
    assert await storage.live.claim_commands(["CP-1"], "b") == []


async def test_a_node_that_starts_again_leaves_nothing_connected_nor_being_sent(storage: Storage) -> None:
    await storage.live.claim(CP1, "a#1", clock())
    await storage.live.claim(StationId("CP-2"), "b#1", clock())
    await queue(storage, 1)
    await storage.live.claim_commands(["CP-1"], "a#1")
    await storage.live.recover_node("a#2")
    assert await storage.sql.fetchval("SELECT state FROM command") == "unknown"
    rows = await storage.sql.fetch("SELECT disconnected_at IS NULL AS here FROM station_owner ORDER BY station_id")
    assert [r["here"] for r in rows] == [False, True]


async def test_a_node_keeps_its_own_stations_when_it_takes_up_what_an_earlier_run_left(storage: Storage) -> None:
    await storage.live.claim(CP1, "a#2", clock())
    await storage.live.recover_node("a#2")
    assert await storage.live.not_held(["CP-1"], "a#2") == []
    assert await storage.live.not_held(["CP-1", "CP-2"], "a#3") == ["CP-1", "CP-2"]


async def test_queued_commands_expire(storage: Storage) -> None:
    await queue(storage, 2, minutes=-1)
    await queue(storage, 1)
    assert await storage.live.expire_commands() == 2
    assert await storage.live.expire_commands() == 0


async def test_stations_are_found_whatever_the_letter_case_and_exist_in_one_spelling(storage: Storage) -> None:
    access = await storage.live.access_of(StationId("cp-1"))
    assert access is not None
    assert access.station_id == "CP-1"
    with pytest.raises(asyncpg.UniqueViolationError, match="station_one_spelling"):
        await storage.sql.execute("INSERT INTO station (id) VALUES ('cp-1')")


async def test_a_token_is_expected_where_an_open_session_has_it(storage: Storage) -> None:
    await storage.begin()
    assert await storage.live.is_expected(CP1, TokenValue("CARD-A"))
    assert not await storage.live.is_expected(StationId("CP-2"), TokenValue("CARD-A"))
    assert await storage.live.token(TokenValue("NOBODY")) is None


async def test_a_lease_is_held_by_one_and_its_fence_rises_with_each_holder(storage: Storage) -> None:
    store, minute = storage.sync_store, timedelta(minutes=1)
    assert [await store.take_lease("loops", "a", minute) for _ in range(2)] == [1, 1]
    assert await store.take_lease("loops", "b", minute) is None
    await store.give_lease_back("loops", "b")
    assert await store.take_lease("loops", "b", minute) is None
    await storage.sql.execute("UPDATE lease SET held_until = now() - interval '1 second'")
    assert await store.take_lease("loops", "b", minute) == 2
    assert await store.take_lease("loops", "a", minute) is None


async def test_a_periodic_run_happens_once_a_period_whatever_the_number_of_nodes(
    storage: Storage, other_node: Storage
) -> None:
    period = clock().replace(second=0, microsecond=0)
    nodes = (storage, other_node)
    begun = await asyncio.gather(*(nodes[n % 2].sync_store.begin_run("sync", period, str(n)) for n in range(20)))
    assert sum(begun) == 1
