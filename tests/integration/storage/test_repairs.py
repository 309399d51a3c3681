"""Orphans and ghosts: repaired and not only logged, on evidence, and once."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.storage.conftest import SYNC_POLICY, Storage, clock, end, meter, new_id, status
from voltledger.domain.errors import NotPossibleNow
from voltledger.domain.events import Booted, ConnectorStatus
from voltledger.domain.identifiers import StationId, UserId
from voltledger.domain.ledger.accounts import held, wallet
from voltledger.domain.ledger.entries import EntryKind, credit, debit, make_entry
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor
from voltledger.services.runtime import Outcome
from voltledger.services.sync import DatabaseSyncService
from voltledger.storage.postgres.ledger import post_entries

CP1 = StationId("CP-1")
ANNA = UserId("anna")


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


# --- asking ------------------------------------------------------------------------------------------------


async def ghost(storage: Storage, *, free_for: float = 20) -> str:
    """A session whose connector has said Available for a while after its last reading."""
    await connect(storage, minutes=-free_for - 30)
    ref = await charged(storage)
    await storage.sql.execute("UPDATE charging_session SET heard_at = $1", clock(-free_for - 10))
    await says(storage, ConnectorStatus.AVAILABLE, minutes=-free_for)
    return ref


async def verdict(storage: Storage) -> str:
    """What a finding about a ghost rests on."""
    return str(await storage.sql.fetchval("SELECT evidence::text FROM finding WHERE kind = 'ghost'"))


@pytest.mark.parametrize("outcome", ["timeout", "not_connected", "unknown"])
async def test_a_ghost_is_not_closed_on_a_question_that_was_never_put(storage: Storage, outcome: Outcome) -> None:
    ref = await ghost(storage)
    storage.stations.outcome = outcome
    for _ in range(3):
        assert await storage.sync.find_orphans_and_ghosts() == []
    assert len(storage.stations.asked) == 3, "it is asked again each time"
    assert (await storage.session(ref))["status"] == "ONGOING"
    storage.stations.outcome = "answered"
    assert [s.what for s in await storage.sync.find_orphans_and_ghosts()] == ["close a ghost"]
    assert "said Available again" in await verdict(storage)


async def test_a_ghost_whose_station_answers_no_question_is_closed_after_much_longer(storage: Storage) -> None:
    ref = await ghost(storage, free_for=51)
    storage.stations.outcome = "timeout"
    await storage.sync.find_orphans_and_ghosts()
    assert (await storage.session(ref))["status"] == "GHOST"
    assert "did not answer" in await verdict(storage)


@pytest.mark.parametrize(("outcome", "status"), [("call_error", ""), ("answered", "NotImplemented")])
async def test_a_ghost_whose_station_cannot_be_asked_is_closed_and_the_finding_says_so(
    storage: Storage, outcome: Outcome, status: str
) -> None:
    ref = await ghost(storage)
    storage.stations.outcome, storage.stations.status, storage.stations.reports = outcome, status, False
    await storage.sync.find_orphans_and_ghosts()
    assert (await storage.session(ref))["status"] == "GHOST"
    assert "cannot be asked" in await verdict(storage)


async def test_a_ghost_whose_station_speaks_a_version_without_the_question_is_closed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = await ghost(storage)

    async def refuse(*_: object, **__: object) -> None:
        raise NotPossibleNow("no such command")

    monkeypatch.setattr(storage.stations, "command", refuse)
    await storage.sync.find_orphans_and_ghosts()
    assert (await storage.session(ref))["status"] == "GHOST"


async def test_a_ghost_is_not_closed_before_the_report_that_its_station_promised(storage: Storage) -> None:
    ref = await ghost(storage)
    storage.stations.reports = False
    assert await storage.sync.find_orphans_and_ghosts() == []
    assert (await storage.session(ref))["status"] == "ONGOING"
    await storage.tell(status(ConnectorStatus.AVAILABLE))
    assert [s.what for s in await storage.sync.find_orphans_and_ghosts()] == ["close a ghost"]


async def test_without_stations_to_ask_a_ghost_is_proposed_and_not_closed(storage: Storage) -> None:
    ref = await ghost(storage)
    offline = DatabaseSyncService(storage.sync_store, None, SYNC_POLICY, now=clock, new_id=new_id, wake=lambda: None)
    for dry_run in (True, False):
        (step,) = await offline.find_orphans_and_ghosts(dry_run=dry_run)
        assert (step.what, step.done) == ("close a ghost", False)
        assert "run this while the server runs" in step.why
    assert (await storage.session(ref))["status"] == "ONGOING"
    assert await storage.findings() == []


async def test_the_finding_about_a_ghost_without_a_transaction_does_not_say_none(storage: Storage) -> None:
    await ghost(storage)
    await storage.sql.execute("UPDATE charging_session SET transaction_ref = NULL")
    await storage.sync.find_orphans_and_ghosts()
    summary = await storage.sql.fetchval("SELECT summary FROM finding WHERE kind = 'ghost'")
    assert summary.startswith("The session of a transaction that the station did not name was active")
    assert "None" not in summary


# --- restarts ----------------------------------------------------------------------------------------------


async def restarts(storage: Storage, *, seconds_ago: float) -> None:
    """The station has booted and then said that its connector is free."""
    await storage.tell(Booted(vendor="V", model="M", serial="", firmware=""))
    await storage.sql.execute("UPDATE station SET booted_at = $1 WHERE id = 'CP-1'", clock(-seconds_ago / 60))
    await says(storage, ConnectorStatus.AVAILABLE, minutes=-seconds_ago / 60)


async def test_a_connector_that_is_free_after_a_restart_is_freed_after_seconds_and_a_question(storage: Storage) -> None:
    await connect(storage)
    ref = await charged(storage)
    await storage.live.claim(CP1, "a", clock(-0.5))
    await restarts(storage, seconds_ago=21)
    assert [s.what for s in await storage.sync.find_ghosts_after_restart()] == ["close a ghost"]
    assert (await storage.session(ref))["status"] == "GHOST"
    assert "restarted at" in await verdict(storage)


async def test_a_connector_that_said_the_same_before_its_restart_is_freed_too(storage: Storage) -> None:
    # Firmware that never says Charging: its status has been Available since before the session.
    await connect(storage)
    await says(storage, ConnectorStatus.AVAILABLE, minutes=-59)
    ref = await charged(storage)
    assert await storage.sync.find_orphans_and_ghosts() == []
    await storage.sql.execute("UPDATE station SET booted_at = $1 WHERE id = 'CP-1'", clock(-1))
    assert await storage.sync.find_ghosts_after_restart() == [], "it has said nothing since"
    await storage.tell(status(ConnectorStatus.AVAILABLE))
    await storage.sync.find_ghosts_after_restart()
    assert (await storage.session(ref))["status"] == "GHOST"


@pytest.mark.parametrize("what", ["just now", "a reading since", "cannot be asked", "charging", "no restart"])
async def test_a_restart_closes_nothing_where_the_session_may_go_on(storage: Storage, what: str) -> None:
    await connect(storage)
    ref = await charged(storage)
    await restarts(storage, seconds_ago=10 if what == "just now" else 30)
    if what == "a reading since":
        await storage.tell(meter(7_000, ref=ref, minutes=0))
    if what == "cannot be asked":
        storage.stations.outcome = "call_error"
    if what == "charging":
        await says(storage, ConnectorStatus.CHARGING, minutes=-0.1)
    if what == "no restart":
        await storage.sql.execute("UPDATE station SET booted_at = NULL")
    for _ in range(2):
        assert await storage.sync.find_ghosts_after_restart() == []
    assert (await storage.session(ref))["status"] == "ONGOING"


async def test_a_station_that_does_not_answer_after_its_restart_is_not_asked_every_few_seconds(
    storage: Storage,
) -> None:
    await connect(storage)
    ref = await charged(storage)
    await restarts(storage, seconds_ago=30)
    storage.stations.outcome = "timeout"
    for _ in range(5):
        assert await storage.sync.find_ghosts_after_restart() == []
    assert len(storage.stations.asked) == 1
    assert (await storage.session(ref))["status"] == "ONGOING"


# --- while we were away -----------------------------------------------------------------------------------


async def test_nothing_becomes_a_ghost_because_we_were_away(storage: Storage) -> None:
    ref = await ghost(storage)
    storage.quiet_since = clock(-4)
    assert await storage.sync.find_orphans_and_ghosts() == []
    assert (await storage.session(ref))["status"] == "ONGOING"
    storage.quiet_since = clock(-6)
    assert [s.what for s in await storage.sync.find_orphans_and_ghosts()] == ["close a ghost"]


@pytest.mark.parametrize("evidence", ["status", "meter"])
async def test_nothing_becomes_an_orphan_because_we_were_away(storage: Storage, evidence: str) -> None:
    await connect(storage)
    if evidence == "meter":
        await storage.tell(meter(1_000, ref="31337", minutes=-5))
        await storage.tell(meter(1_400, ref="31337", minutes=-4))
    else:
        await says(storage, ConnectorStatus.CHARGING)
    storage.quiet_since = clock(-0.9)
    assert await storage.sync.find_orphans_and_ghosts() == []
    storage.quiet_since = clock(-1.1)
    assert [s.what for s in await storage.sync.find_orphans_and_ghosts()] == ["adopt an orphan"]


async def test_nobody_is_pressed_to_stop_who_could_not_tell_us_that_it_had(storage: Storage) -> None:
    await connect(storage)
    ref = await storage.begin()
    await storage.tell(meter(27_000, ref=ref))
    await storage.sql.execute("UPDATE charging_session SET stop_requested_at = $1", clock(-5))
    storage.quiet_since = clock(-0.2)
    assert await storage.sync.press_stops() == []
    storage.quiet_since = clock(-0.5)
    assert [s.what for s in await storage.sync.press_stops()] == ["ask again to stop"]


async def test_a_station_whose_facts_wait_elsewhere_is_left_alone_by_every_pass(storage: Storage) -> None:
    ref = await ghost(storage)
    await says(storage, ConnectorStatus.CHARGING, evse=2)
    await storage.sql.execute("UPDATE charging_session SET stop_requested_at = $1, stop_attempts = 1", clock(-5))
    await storage.sql.execute("UPDATE station SET status = 'AVAILABLE', derived_status = 'OCCUPIED' WHERE id = 'CP-1'")
    storage.not_to_judge = {"CP-1"}

    async def pass_over() -> list[str]:
        steps = await storage.sync.sync_database({})
        steps += await storage.sync.find_orphans_and_ghosts()
        steps += await storage.sync.find_ghosts_after_restart()
        steps += await storage.sync.press_stops()
        return [s.what for s in steps if s.station_id == "CP-1"]

    assert await pass_over() == []
    await storage.sql.execute("UPDATE charging_session SET status = 'COMPLETED'")
    assert await pass_over() == []
    assert await storage.findings() == []
    storage.not_to_judge = set()
    assert "settle a session that was ended by hand" in await pass_over()
    assert (await storage.session(ref))["status"] == "COMPLETED"


# --- what belongs to whom ---------------------------------------------------------------------------------


async def test_energy_that_a_session_has_counted_is_no_orphan_s(storage: Storage) -> None:
    """Readings without a transaction around a booked visit: what lies between them was billed once already."""
    await connect(storage)
    await storage.tell(meter(900, ref=None, minutes=-65))
    ref = await storage.begin()
    await storage.tell(end(7_000, ref=ref, minutes=-10))
    await storage.tell(meter(7_000, ref=None, minutes=-5))
    assert await storage.sql.fetchval("SELECT count(*) FROM stray_reading") == 2
    assert await storage.sync.find_orphans_and_ghosts() == []
    await storage.tell(meter(7_250, ref=None, minutes=-4))
    (candidate,) = await storage.sync_store.orphan_candidates()
    assert (candidate.first_wh, candidate.last_wh) == (7_000, 7_250)


async def test_an_orphan_takes_only_the_strays_of_its_transaction_and_time(storage: Storage) -> None:
    await connect(storage)
    await storage.tell(meter(500, ref="11111", minutes=-9))
    await storage.tell(meter(900, ref="11111", minutes=-8))
    await storage.tell(meter(700, ref=None, minutes=-8))
    await storage.tell(meter(1_000, ref="31337", minutes=-5))
    await storage.tell(meter(1_200, ref=None, minutes=-4.5))
    await storage.tell(meter(1_400, ref="31337", minutes=-4))
    await storage.sync.find_orphans_and_ghosts()
    row = await storage.session("31337")
    taken = await storage.sql.fetch("SELECT register_wh FROM reading WHERE session_id = $1 ORDER BY at", row["id"])
    assert [r["register_wh"] for r in taken] == [1_000, 1_200, 1_400]
    left = await storage.sql.fetch("SELECT register_wh FROM stray_reading ORDER BY register_wh")
    assert [r["register_wh"] for r in left] == [500, 700, 900]


async def test_a_session_that_goes_on_twice_with_a_short_wallet_is_no_poison(storage: Storage) -> None:
    await connect(storage)
    ref = await charged(storage)
    close = "UPDATE charging_session SET status = 'GHOST', ended_at = $1, stop_reason = 'Ghost'"
    await storage.sql.execute(close, clock(-20))
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    await hold(storage, 87_000, 2)  # Of Anna's 880.00, 10.00 are left.
    for minute, register in ((-15, 7_100), (-5, 7_200)):
        await storage.tell(meter(register, ref=ref, minutes=minute))
        assert (await storage.session(ref))["status"] == "ONGOING"
        await storage.sql.execute(close, clock(minute + 1))
        await top_up(storage, 2_000, f"more-{minute}")
    assert "poison" not in await storage.findings()
    row = await storage.session(ref)
    assert row["paid_minor"] - row["refunded_minor"] == 12_000 + 1_000 + 2_000
    await storage.balances()


async def top_up(storage: Storage, amount: int, key: str) -> None:
    """Money for Anna."""
    entry = topup_entry(key=key, user=ANNA, currency="INR", amount=Minor(amount))
    assert entry is not None
    async with storage.database.unit_of_work() as connection:
        await post_entries(connection, [entry])


async def hold(storage: Storage, amount: int, evse: int) -> None:
    """Anna's money that is set aside for something else."""
    entry = make_entry(
        kind=EntryKind.HOLD,
        source_id=f"elsewhere-{evse}",
        version=1,
        reason="set aside for something else",
        lines=(debit(wallet(ANNA, "INR"), Minor(amount)), credit(held(ANNA, "INR"), Minor(amount))),
    )
    assert entry is not None
    async with storage.database.unit_of_work() as connection:
        await post_entries(connection, [entry])
