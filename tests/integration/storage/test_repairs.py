"""Orphans and ghosts: repaired and not only logged, on evidence, and once."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.storage.conftest import Storage, clock, end, meter, status
from voltledger.domain.events import ConnectorStatus
from voltledger.domain.identifiers import StationId

CP1 = StationId("CP-1")


async def connect(storage: Storage, *, minutes: float = -50) -> int:
    """The station's socket has been up for a while."""
    return await storage.live.claim(CP1, "a", clock(minutes))


async def says(storage: Storage, what: ConnectorStatus, *, minutes: float = -20, evse: int = 1) -> None:
    """A connector has reported a status for a while."""
    await storage.tell(status(what, evse=evse))
    await storage.sql.execute(
        "UPDATE connector SET since = $1, received_at = $1 WHERE station_id = 'CP-1' AND evse_id = $2",
        clock(minutes),
        evse,
    )


async def charged(storage: Storage) -> str:
    """A transaction at 6.000 kWh, last heard of half an hour ago."""
    ref = await storage.begin()
    await storage.tell(meter(7_000, ref=ref))
    await storage.sql.execute("UPDATE charging_session SET heard_at = $1", clock(-30))
    return ref


async def test_a_ghost_is_asked_about_closed_settled_and_refunded_once(storage: Storage) -> None:
    await connect(storage)
    ref = await charged(storage)
    await says(storage, ConnectorStatus.AVAILABLE)
    steps = await storage.sync.find_orphans_and_ghosts()
    assert [(s.what, s.done) for s in steps] == [("close a ghost", True)]
    await storage.settling.settle_due()
    row = await storage.session(ref)
    assert (row["status"], row["refunded_minor"], row["estimated"]) == ("GHOST", 38_000, True)
    assert await storage.findings() == ["ghost"]
    before = await storage.balances()
    assert await storage.sync.find_orphans_and_ghosts() == []
    assert await storage.settling.settle_due() == (0, [])
    assert await storage.balances() == before


@pytest.mark.parametrize("what", ["offline", "just connected", "charging", "a reading since", "available just now"])
async def test_a_session_is_not_closed_where_nothing_proves_that_it_ended(storage: Storage, what: str) -> None:
    epoch = await connect(storage, minutes=-1 if what == "just connected" else -50)
    ref = await charged(storage)
    await says(
        storage,
        ConnectorStatus.CHARGING if what == "charging" else ConnectorStatus.AVAILABLE,
        minutes=-1 if what == "available just now" else -20,
    )
    if what == "offline":
        await storage.live.release(CP1, epoch, clock())
    if what == "a reading since":
        await storage.tell(meter(7_000, ref=ref, minutes=-2))
    for _ in range(3):
        await storage.sync.find_orphans_and_ghosts()
    assert (await storage.session(ref))["status"] == "ONGOING"
    assert await storage.findings() == []


async def test_an_orphan_gets_a_session_with_the_energy_that_flowed_and_is_asked_to_stop(storage: Storage) -> None:
    await connect(storage)
    await storage.tell(meter(1_000, ref="31337", minutes=-5))
    await storage.tell(meter(1_400, ref="31337", minutes=-4))
    await says(storage, ConnectorStatus.CHARGING)
    steps = await storage.sync.find_orphans_and_ghosts()
    assert [(s.what, s.done) for s in steps] == [("adopt an orphan", True)]
    row = await storage.session("31337")
    assert (row["status"], row["energy_wh"], row["driver_id"]) == ("ORPHANED", 400, None)
    assert await storage.findings() == ["orphaned"]
    assert await storage.sql.fetchval("SELECT action FROM command WHERE state = 'queued'") == "StopCharging"
    assert await storage.sql.fetchval("SELECT count(*) FROM stray_reading") == 0
    assert await storage.sql.fetchval("SELECT count(*) FROM reading") == 2
    assert await storage.sync.find_orphans_and_ghosts() == []
    await storage.tell(end(2_000, ref="31337"))
    await storage.settling.settle_due()
    assert (await storage.balances())["receivable:unknown:INR"] == -2_000


async def test_two_nodes_adopt_an_orphan_once(storage: Storage, other_node: Storage) -> None:
    await connect(storage)
    await says(storage, ConnectorStatus.CHARGING)
    for _ in range(3):
        await asyncio.gather(*(node.sync.find_orphans_and_ghosts() for node in (storage, other_node)))
    assert await storage.sql.fetchval("SELECT count(*) FROM charging_session") == 1


async def test_a_ghost_that_charges_again_is_reactivated_with_its_money_and_not_doubled(storage: Storage) -> None:
    await connect(storage)
    ref = await charged(storage)
    await storage.sql.execute("UPDATE charging_session SET status = 'GHOST', ended_at = $1", clock(-10))
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    await says(storage, ConnectorStatus.CHARGING, minutes=-5)
    steps = await storage.sync.find_orphans_and_ghosts()
    assert [s.what for s in steps] == ["reactivate a recent session"]
    row = await storage.session(ref)
    assert (row["status"], row["paid_minor"] - row["refunded_minor"]) == ("ONGOING", 50_000)
    assert (await storage.balances())["held:anna:INR"] == 38_000
    await storage.tell(end(8_000, ref=ref))
    await storage.settling.settle_due()
    assert (await storage.balances())["wallet:anna:INR"] == 100_000 - 14_000


async def test_a_new_socket_forgets_no_connector(storage: Storage) -> None:
    await connect(storage)
    await says(storage, ConnectorStatus.CHARGING, evse=2)
    await storage.live.claim(CP1, "b", clock())
    assert await storage.sql.fetchval("SELECT status FROM connector WHERE evse_id = 2") == "Charging"


async def press(storage: Storage, times: int) -> None:
    """Time passes after each ask, and the deadlines are looked at."""
    for _ in range(times):
        await storage.sql.execute("UPDATE charging_session SET stop_requested_at = $1", clock(-5))
        await storage.sync.press_stops()


async def test_a_session_that_will_not_stop_is_asked_three_times_more_and_then_the_station_is_out_of_order(
    storage: Storage,
) -> None:
    await connect(storage)
    ref = await storage.begin()
    await storage.tell(meter(27_000, ref=ref))
    await press(storage, 3)
    assert await storage.findings() == []
    await press(storage, 5)
    assert await storage.sql.fetchval("SELECT count(*) FROM command WHERE action = 'StopCharging'") == 1 + 3
    assert await storage.sql.fetchval("SELECT status FROM station WHERE id = 'CP-1'") == "OUT_OF_ORDER"
    assert await storage.findings() == ["will_not_stop"]
    assert (await storage.session(ref))["status"] == "ONGOING"


async def test_a_station_that_is_offline_is_not_blamed_for_not_stopping(storage: Storage) -> None:
    epoch = await connect(storage)
    ref = await storage.begin()
    await storage.tell(meter(27_000, ref=ref))
    await storage.live.release(CP1, epoch, clock())
    await press(storage, 8)
    assert await storage.findings() == []
    assert await storage.sql.fetchval("SELECT status FROM station WHERE id = 'CP-1'") == "OFFLINE"
