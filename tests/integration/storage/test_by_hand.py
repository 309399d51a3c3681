"""The user's own SQL, word for word, through the views: what it completes is settled and refunded."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tests.integration.storage.conftest import Storage, clock, end, meter, status
from voltledger.domain.events import ConnectorStatus, EndReason, Instant, TransactionEnded
from voltledger.domain.identifiers import TransactionRef

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


# --- registers and energy of a session that has ended ------------------------------------------------------


async def settled(storage: Storage, register: int = 8_000) -> str:
    """A transaction that the station ended at 7.000 kWh: 140.00 charged, 360.00 given back."""
    ref = await storage.begin()
    await storage.tell(end(register, ref=ref))
    await storage.settling.settle_due()
    return ref


async def take_up(storage: Storage) -> list[str]:
    """The next pass and the settlements that follow from it; what the pass did about figures."""
    steps = await storage.sync.sync_database({})
    await storage.settling.settle_due()
    return [s.what for s in steps if "figures" in s.what]


@pytest.mark.parametrize(
    ("change", "energy", "wallet", "owed"),
    [
        ('UPDATE "ChargeSession" SET "meterStop" = 6000', 5_000, 90_000, 0),
        ('UPDATE "ChargeSession" SET "meterStop" = 9000', 8_000, 86_000, -2_000),
        ('UPDATE "ChargeSession" SET "meterStart" = 3000', 5_000, 90_000, 0),
        ("UPDATE charging_session SET energy_wh = 5000", 5_000, 90_000, 0),
        ('UPDATE "ChargeSession" SET "meterStop" = 1000', 0, 100_000, 0),
    ],
)
async def test_figures_changed_by_hand_after_the_settlement_are_settled_as_a_correction(
    storage: Storage, app: Any, change: str, energy: int, wallet: int, owed: int
) -> None:
    ref = await settled(storage)
    assert await app.execute(change) == "UPDATE 1"
    assert await take_up(storage) == ["take up figures that were changed by hand"]
    row = await storage.session(ref)
    assert (row["energy_wh"], row["settle_version"], row["status"]) == (energy, 2, "COMPLETED")
    balances = await storage.balances()
    assert (balances.get("wallet:anna:INR", 0), balances.get("receivable:anna:INR", 0)) == (wallet, owed)
    assert await storage.findings() == ["manual_change"]
    before = await storage.balances()
    assert await take_up(storage) == []
    assert await storage.balances() == before
    assert (await storage.session(ref))["settle_version"] == 2


async def test_a_change_by_hand_says_who_made_it_and_what_changed(storage: Storage, database_dsn: str) -> None:
    await settled(storage)
    person = await asyncpg.connect(database_dsn, server_settings={"application_name": "psql"})
    await person.execute('UPDATE "ChargeSession" SET "meterStop" = 6000')
    login = await person.fetchval("SELECT session_user")
    await person.close()
    await take_up(storage)
    finding = await storage.sql.fetchrow("SELECT * FROM finding")
    assert finding["summary"].startswith(f"{login} with psql")
    assert "meterStop from 8000 to 6000 (Wh)" in finding["summary"]
    assert "5000 Wh are settled now" in finding["summary"]


async def test_two_changes_before_the_pass_count_once_from_the_first_to_the_last(storage: Storage, app: Any) -> None:
    ref = await settled(storage)
    await app.execute('UPDATE "ChargeSession" SET "meterStop" = 6000')
    await app.execute('UPDATE "ChargeSession" SET "meterStop" = 6500')
    await take_up(storage)
    assert (await storage.session(ref))["energy_wh"] == 5_500
    assert await storage.findings() == ["manual_change"]


async def test_a_change_and_another_after_its_pass_are_each_a_correction(storage: Storage, app: Any) -> None:
    ref = await settled(storage)
    for register in (6_000, 9_000):
        await app.execute(f'UPDATE "ChargeSession" SET "meterStop" = {register}')
        await take_up(storage)
    row = await storage.session(ref)
    assert (row["energy_wh"], row["settle_version"]) == (8_000, 3)
    assert await storage.findings() == ["manual_change"] * 2


async def test_money_that_waits_for_want_of_a_register_is_settled_when_a_person_sets_it(
    storage: Storage, app: Any
) -> None:
    ref = await storage.begin()
    await storage.tell(
        TransactionEnded(
            transaction_ref=TransactionRef(ref), at=Instant(at=clock()), register_wh=None, reason=EndReason.LOCAL
        )
    )
    await storage.settling.settle_due()
    assert (await storage.balances())["held:anna:INR"] == 50_000, "nothing is known, so nothing goes back"
    assert await take_up(storage) == []
    await app.execute('UPDATE "ChargeSession" SET "meterStop" = 7000')
    await take_up(storage)
    row = await storage.session(ref)
    assert (row["energy_wh"], row["settle_version"], row["suspect"]) == (6_000, 1, False)
    assert (await storage.balances())["wallet:anna:INR"] == 88_000
    assert await storage.sql.fetchval("SELECT state FROM finding WHERE kind = 'unknown_energy'") == "repaired"


async def test_closing_readings_let_go_the_money_of_an_end_without_a_register(storage: Storage) -> None:
    ref = await storage.begin()
    await storage.tell(
        TransactionEnded(
            transaction_ref=TransactionRef(ref), at=Instant(at=clock()), register_wh=None, reason=EndReason.LOCAL
        )
    )
    await storage.settling.settle_due()
    await storage.tell(meter(7_000, ref=ref, minutes=0))
    await take_up(storage)
    row = await storage.session(ref)
    assert (row["energy_wh"], row["settle_version"], row["estimated"]) == (6_000, 1, True)
    assert await storage.sql.fetchval("SELECT count(*) FROM manual_change") == 0


async def test_a_session_completed_by_hand_with_a_register_is_billed_up_to_it(
    storage: Storage, app: Any, ghost: str
) -> None:
    await app.execute('UPDATE "ChargeSession" SET status = \'COMPLETED\', "endTime" = now(), "meterStop" = 9000')
    await take_up(storage)
    row = await storage.session(ghost)
    assert (row["energy_wh"], row["refunded_minor"]) == (8_000, 34_000)


async def test_a_register_set_in_a_second_statement_before_the_pass_counts_once(
    storage: Storage, app: Any, ghost: str
) -> None:
    await app.execute(COMPLETE_GHOSTS)
    await app.execute('UPDATE "ChargeSession" SET "meterStop" = 9000')
    await take_up(storage)
    row = await storage.session(ghost)
    assert (row["energy_wh"], row["refunded_minor"], row["settle_version"]) == (8_000, 34_000, 1)
    assert (await storage.balances())["wallet:anna:INR"] == 84_000


async def test_a_register_below_the_start_is_settled_not_at_all_and_a_person_is_told(
    storage: Storage, app: Any
) -> None:
    ref = await settled(storage)
    await app.execute('UPDATE "ChargeSession" SET "meterStop" = 12')
    await take_up(storage)
    assert (await storage.session(ref))["settle_version"] == 1
    row = await storage.sql.fetchrow("SELECT state, summary FROM finding")
    assert row["state"] == "open"
    assert "not below meterStart" in row["summary"]


async def test_the_stations_own_end_after_a_change_by_hand_stands(storage: Storage, app: Any, ghost: str) -> None:
    await app.execute(COMPLETE_GHOSTS)
    await app.execute('UPDATE "ChargeSession" SET "meterStop" = 9000')
    await storage.tell(end(8_000, ref=ghost))
    await take_up(storage)
    row = await storage.session(ghost)
    assert (row["energy_wh"], row["meter_stop_wh"], row["settle_version"]) == (7_000, 8_000, 1)


async def test_what_the_server_changes_itself_is_no_change_by_hand(storage: Storage, app: Any, ghost: str) -> None:
    await app.execute(COMPLETE_GHOSTS)
    await take_up(storage)
    await storage.tell(end(8_000, ref=ghost))
    await take_up(storage)
    assert (await storage.session(ghost))["settle_version"] == 2
    assert await storage.sql.fetchval("SELECT count(*) FROM manual_change") == 0


async def test_somebody_with_rights_on_the_view_alone_can_change_it(storage: Storage, database_dsn: str) -> None:
    ref = await settled(storage)
    await storage.sql.execute("CREATE ROLE clerk_of_tests NOLOGIN")
    try:
        await storage.sql.execute('GRANT SELECT, UPDATE ON "ChargeSession" TO clerk_of_tests')
        clerk = await asyncpg.connect(database_dsn, server_settings={"role": "clerk_of_tests"})
        await clerk.execute('UPDATE "ChargeSession" SET "meterStop" = 6000')
        await clerk.close()
        await take_up(storage)
        assert (await storage.session(ref))["settle_version"] == 2
    finally:
        await storage.sql.execute("DROP OWNED BY clerk_of_tests; DROP ROLE clerk_of_tests")


async def test_a_dry_run_says_what_it_would_take_up(storage: Storage, app: Any) -> None:
    ref = await settled(storage)
    await app.execute('UPDATE "ChargeSession" SET "meterStop" = 6000')
    steps = await storage.sync.sync_database({}, dry_run=True)
    assert [s.done for s in steps if "figures" in s.what] == [False]
    assert (await storage.session(ref))["energy_wh"] == 7_000
    assert await storage.sql.fetchval("SELECT taken_at FROM manual_change") is None
