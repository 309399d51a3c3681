"""The user's own SQL, word for word, through the views: what it completes is settled and refunded."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.integration.storage.conftest import Storage, end, meter, status
from voltledger.domain.events import ConnectorStatus

# The user's document, "Manual Recovery": the contract, not to be improved.
MARK_CHARGERS = """
UPDATE "ChargePoint" 
SET status = 'AVAILABLE' 
WHERE status = 'OCCUPIED' 
AND id NOT IN (
  SELECT "chargePointId" 
  FROM "ChargeSession" 
  WHERE status = 'ONGOING'
);
"""  # noqa: W291
COMPLETE_GHOSTS = """
UPDATE "ChargeSession" 
SET status = 'COMPLETED', 
    "endTime" = NOW(),
    "stopReason" = 'Manual cleanup'
WHERE status = 'ONGOING' 
AND "chargePointId" IN (
  SELECT id 
  FROM "ChargePoint" 
  WHERE status = 'AVAILABLE'
);
"""  # noqa: W291


@pytest.fixture
async def ghost(storage: Storage) -> str:
    """A transaction that runs in the books, at 6.000 kWh, on a station that says AVAILABLE."""
    ref = await storage.begin()
    await storage.tell(meter(7_000, ref=ref))
    await storage.sql.execute("UPDATE station SET status = 'AVAILABLE', derived_status = 'AVAILABLE'")
    return ref


async def test_the_users_sql_completes_a_ghost_and_the_next_pass_settles_and_refunds_it(
    storage: Storage, app: Any, ghost: str
) -> None:
    assert await app.execute(COMPLETE_GHOSTS) == "UPDATE 1"
    steps = await storage.sync.sync_database({})
    assert "settle a session that was ended by hand" in [step.what for step in steps]
    await storage.settling.settle_due()
    row = await storage.session(ghost)
    assert (row["status"], row["stop_reason"], row["end_reported"]) == ("COMPLETED", "Manual cleanup", False)
    assert (row["refunded_minor"], row["settle_version"]) == (38_000, 1)
    balances = await storage.balances()
    assert balances["wallet:anna:INR"] == 88_000
    assert (balances["payable:default:INR"], balances["platform_fee::INR"]) == (10_800, 1_200)
    assert await storage.findings() == ["manual_change"]
    shown = await app.fetchrow('SELECT "energyConsumed", "totalPaid", "refundAmount" FROM "ChargeSession"')
    assert tuple(map(str, shown)) == ("6.000", "500.000", "380.000")


async def test_a_second_pass_after_the_users_sql_changes_nothing(storage: Storage, app: Any, ghost: str) -> None:
    await app.execute(COMPLETE_GHOSTS)
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    before = await storage.balances()
    assert await app.execute(COMPLETE_GHOSTS) == "UPDATE 0"
    steps = await storage.sync.sync_database({})
    assert [s for s in steps if "by hand" in s.what] == []
    assert await storage.settling.settle_due() == (0, [])
    assert await storage.balances() == before
    assert await storage.findings() == ["manual_change"]


async def test_a_dry_run_after_the_users_sql_says_what_it_would_do_and_does_nothing(
    storage: Storage, app: Any, ghost: str
) -> None:
    await app.execute(COMPLETE_GHOSTS)
    steps = await storage.sync.sync_database({}, dry_run=True)
    assert [(s.what, s.done) for s in steps][:1] == [("settle a session that was ended by hand", False)]
    assert await storage.settling.settle_due() == (0, [])
    assert await storage.findings() == []


async def test_the_users_sql_marks_a_charger_available_and_the_next_pass_takes_it_as_said(
    storage: Storage, app: Any
) -> None:
    await storage.sql.execute("UPDATE station SET status = 'OCCUPIED', derived_status = 'OCCUPIED'")
    assert await app.execute(MARK_CHARGERS) == "UPDATE 2"
    steps = await storage.sync.sync_database({})
    assert [s.what for s in steps] == ["check a station that was changed by hand"] * 2
    assert await storage.findings() == ["manual_change"] * 2
    row = await storage.sql.fetchrow("SELECT status, derived_status FROM station WHERE id = 'CP-1'")
    assert tuple(row) == ("AVAILABLE", "AVAILABLE")


async def test_the_users_sql_leaves_a_charger_that_charges_alone(storage: Storage, app: Any) -> None:
    ref = await storage.begin()
    await storage.tell(status(ConnectorStatus.CHARGING))
    assert await app.execute(MARK_CHARGERS) == "UPDATE 0"
    assert await app.execute(COMPLETE_GHOSTS) == "UPDATE 0"
    assert (await storage.session(ref))["status"] == "ONGOING"


async def test_the_stations_own_end_after_the_pass_corrects_what_was_completed_by_hand(
    storage: Storage, app: Any, ghost: str
) -> None:
    await app.execute(COMPLETE_GHOSTS)
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    await storage.tell(end(8_000, ref=ghost))
    await storage.settling.settle_due()
    row = await storage.session(ghost)
    assert (row["energy_wh"], row["settle_version"]) == (7_000, 2)
    assert (await storage.balances())["receivable:anna:INR"] == -2_000


async def test_the_stations_own_end_before_the_next_pass_counts_too(storage: Storage, app: Any, ghost: str) -> None:
    # Between the SQL and the pass lie up to 60 seconds; an end in them is no second end.
    await app.execute(COMPLETE_GHOSTS)
    await storage.tell(end(8_000, ref=ghost))
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    row = await storage.session(ghost)
    assert (row["energy_wh"], row["refunded_minor"]) == (7_000, 36_000)
    assert "conflicting_stop" not in await storage.findings()


async def test_a_row_that_waits_for_its_start_is_not_shown_and_not_completed(storage: Storage, app: Any) -> None:
    await storage.begin()
    await storage.sql.execute("UPDATE charging_session SET status = 'PENDING'")
    await storage.sql.execute("UPDATE station SET status = 'AVAILABLE'")
    assert await app.execute(COMPLETE_GHOSTS) == "UPDATE 0"
    assert await app.fetchval('SELECT count(*) FROM "ChargeSession"') == 0


@pytest.mark.parametrize(
    "figure", ['"energyConsumed" = 0', '"totalPaid" = 0', '"refundAmount" = 500', '"pricePerKWh" = 0']
)
async def test_figures_that_follow_from_others_cannot_be_set_by_hand(storage: Storage, app: Any, figure: str) -> None:
    with pytest.raises(asyncpg.PostgresError):
        await app.execute(f'UPDATE "ChargeSession" SET {figure}')


async def test_wallet_transactions_show_every_movement_with_the_balance_behind_it(
    storage: Storage, app: Any, ghost: str
) -> None:
    await app.execute(COMPLETE_GHOSTS)
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    rows = await app.fetch(
        'SELECT type, amount::text, "balanceAfter"::text, reference FROM "WalletTransaction" '
        'WHERE "userId" = \'anna\' ORDER BY "createdAt"'
    )
    assert [tuple(r)[:3] for r in rows] == [
        ("TOPUP", "1000.000", "1000.000"),
        ("HOLD", "-500.000", "500.000"),
        ("REFUND", "380.000", "880.000"),
    ]
    assert len({r["reference"] for r in rows}) == 3
