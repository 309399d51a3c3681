"""T1 and T2 end to end: from what a station says to what the books say."""

from __future__ import annotations

import asyncio

from tests.integration.storage.conftest import Storage, end, meter, start, status
from voltledger.domain.events import Booted, ConnectorStatus


async def test_a_session_from_start_to_settlement(storage: Storage) -> None:
    ref = await storage.begin(register=1_000)
    assert (await storage.balances())["held:anna:INR"] == 50_000
    await storage.tell(meter(7_000, ref=ref))
    assert (await storage.session(ref))["energy_wh"] == 6_000
    await storage.tell(end(13_345, ref=ref))
    handled, settled = await storage.settling.settle_due()
    assert (handled, len(settled)) == (1, 1)
    row = await storage.session(ref)
    assert (row["status"], row["energy_wh"], row["refunded_minor"], row["settle_version"]) == (
        "COMPLETED",
        12_345,
        25_310,
        1,
    )
    assert await storage.balances() == {
        "provider::INR": -200_000,
        "wallet:anna:INR": 75_310,
        "wallet:ben:INR": 100_000,
        "platform_fee::INR": 2_469,
        "payable:default:INR": 22_221,
    }
    assert await storage.findings() == []
    assert await storage.settling.settle_due() == (0, [])


async def test_every_fact_is_kept_with_the_answer_that_was_given(storage: Storage) -> None:
    answer = await storage.tell(start(), key="k")
    row = await storage.sql.fetchrow("SELECT action, state, session_id, response, repeats FROM inbox")
    assert (row["action"], row["state"], row["repeats"]) == ("TransactionStarted", "applied", 0)
    assert f'"{answer["transactionId"]}"' in row["response"]
    assert row["session_id"] == (await storage.session(answer["transactionId"]))["id"]
    assert await storage.sql.fetchval("SELECT count(*) FROM frame") == 1


async def test_the_same_start_twice_in_one_batch_is_one_session_and_one_answer(storage: Storage) -> None:
    event = start()
    answers = await asyncio.gather(*(storage.tell(event, key="k") for _ in range(5)))
    assert len({a["transactionId"] for a in answers}) == 1
    assert await storage.sql.fetchval("SELECT count(*) FROM charging_session") == 1
    assert await storage.sql.fetchval("SELECT repeats FROM inbox") == 4
    assert (await storage.balances())["held:anna:INR"] == 50_000


async def test_the_same_start_through_two_nodes_at_once_is_one_session_and_one_answer(
    storage: Storage, other_node: Storage
) -> None:
    for number in range(10):
        event = start(minutes=-60 + number, register=1_000 + number)
        key = f"k{number}"
        one, two = await asyncio.gather(storage.tell(event, key=key), other_node.tell(event, key=key))
        assert one == two
        assert await storage.sql.fetchval("SELECT count(*) FROM charging_session") == number + 1
    assert await storage.sql.fetchval("SELECT count(*) FROM ledger_entry WHERE kind = 'hold'") <= 2


async def test_a_transaction_told_through_two_nodes_is_counted_once(storage: Storage, other_node: Storage) -> None:
    ref = await storage.begin()
    readings = [meter(1_000 + 10 * n, ref=ref, minutes=-50 + n / 10) for n in range(1, 101)]
    nodes = (storage, other_node)
    await asyncio.gather(*(node.tell(r, key=f"m{n}") for n, r in enumerate(readings) for node in nodes))
    row = await storage.session(ref)
    assert row["energy_wh"] == 1_000
    assert await storage.sql.fetchval("SELECT count(*) FROM reading") == 100


async def test_an_end_through_two_nodes_is_settled_once(storage: Storage, other_node: Storage) -> None:
    ref = await storage.begin()
    event = end(13_345, ref=ref)
    await asyncio.gather(*(node.tell(event, key="e") for node in (storage, other_node)))
    await asyncio.gather(*(node.settling.settle_due() for node in (storage, other_node)))
    assert await storage.sql.fetchval("SELECT count(*) FROM settlement") == 1
    assert (await storage.balances())["wallet:anna:INR"] == 75_310


async def test_an_end_of_another_stations_transaction_ends_nothing(storage: Storage) -> None:
    ref = await storage.begin(station="CP-1")
    await storage.tell(end(13_345, ref=ref), station="CP-2")
    assert (await storage.session(ref))["status"] == "ONGOING"
    assert await storage.findings() == ["unmatched_stop"]


async def test_the_end_of_one_connector_leaves_the_other_ones_session_and_readings(storage: Storage) -> None:
    first, second = await storage.begin(evse=1), await storage.begin(evse=2)
    await storage.tell(meter(2_000, ref=second, evse=2))
    await storage.tell(end(3_000, ref=first))
    await storage.settling.settle_due()
    assert (await storage.session(second))["status"] == "ONGOING"
    assert await storage.sql.fetchval("SELECT count(*) FROM reading") == 1
    row = await storage.sql.fetchrow("SELECT payload FROM outbox")
    assert '"evse": 1' in row["payload"]


async def test_two_starts_at_once_on_two_stations_do_not_spend_the_same_money(
    storage: Storage, other_node: Storage
) -> None:
    await storage.sql.execute("UPDATE ledger_account SET balance_minor = 100000 WHERE code = 'wallet:anna:INR'")
    starts = [(storage, "CP-1", 1), (other_node, "CP-2", 1), (storage, "CP-1", 2), (other_node, "CP-2", 2)]
    await asyncio.gather(*(node.begin(station=name, evse=evse) for node, name, evse in starts))
    paid = await storage.sql.fetchval("SELECT sum(paid_minor) FROM charging_session")
    balances = await storage.balances()
    assert (paid, balances["held:anna:INR"], balances.get("wallet:anna:INR", 0)) == (100_000, 100_000, 0)
    assert await storage.findings() == []


async def test_a_start_sets_aside_what_is_left_of_money_that_is_being_spent_elsewhere(storage: Storage) -> None:
    transaction = storage.sql.transaction()
    await transaction.start()
    await storage.sql.execute(
        "WITH entry AS (INSERT INTO ledger_entry (kind, source_id, version, reason)"
        " VALUES ('test', 'spent', 1, 'elsewhere') RETURNING id)"
        " INSERT INTO ledger_posting (entry_id, line, account_id, side, amount_minor, balance_after)"
        " SELECT entry.id, CASE a.kind WHEN 'wallet' THEN 1 ELSE 2 END, a.id,"
        " CASE a.kind WHEN 'wallet' THEN 'D' ELSE 'C' END,"
        " 80000, CASE a.kind WHEN 'wallet' THEN 20000 END FROM entry, ledger_account a"
        " WHERE a.code = 'wallet:anna:INR' OR a.kind = 'provider'"
    )
    await storage.sql.execute("UPDATE ledger_account SET balance_minor = 20000 WHERE code = 'wallet:anna:INR'")
    starting = asyncio.create_task(storage.begin())
    await asyncio.sleep(0.3)
    assert not starting.done()
    await transaction.commit()
    assert (await storage.session(await starting))["paid_minor"] == 20_000
    assert await storage.findings() == []


async def test_starts_and_settlements_of_one_user_at_once_all_succeed(storage: Storage, other_node: Storage) -> None:
    refs = [await storage.begin(station=name, evse=evse) for name in ("CP-1", "CP-2") for evse in (1, 2)]
    for turn in range(6):
        register = 1_000 + 100 * (turn + 1)
        stations = ["CP-1", "CP-1", "CP-2", "CP-2"]
        await asyncio.gather(
            *(storage.tell(end(register, ref=r), station=s) for r, s in zip(refs, stations, strict=True))
        )
        new = asyncio.gather(
            *(other_node.begin(station=s, evse=1 + n % 2, register=register) for n, s in enumerate(stations))
        )
        await asyncio.gather(storage.settling.settle_due(), other_node.settling.settle_due(), new)
        refs = list(await new)
    while (await storage.settling.settle_due())[0]:
        pass
    assert await storage.sql.fetchval("SELECT count(*) FROM inbox WHERE state <> 'applied'") == 0
    assert await storage.sql.fetchval("SELECT count(*) FROM settlement") == 24
    balances = await storage.balances()
    assert balances["payable:default:INR"] + balances["platform_fee::INR"] == 24 * 200


async def test_an_end_that_cannot_be_believed_waits_for_a_person_and_is_not_taken_for_a_change_by_hand(
    storage: Storage,
) -> None:
    ref = await storage.begin(register=0)
    await storage.tell(end(910_031, ref=ref, minutes=-59))
    await storage.settling.settle_due()
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    row = await storage.session(ref)
    assert (row["suspect"], row["settle_version"], row["end_reported"]) == (True, 0, True)
    assert await storage.findings() == ["implausible_energy"]
    assert await storage.sql.fetchval("SELECT state FROM job") == "held"


async def test_a_ghosts_true_end_is_settled_as_a_correction_once(storage: Storage) -> None:
    ref = await storage.begin()
    await storage.tell(meter(6_000, ref=ref))
    await storage.sql.execute("UPDATE charging_session SET status = 'GHOST', ended_at = now()")
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    assert (await storage.balances())["wallet:anna:INR"] == 90_000
    event = end(7_000, ref=ref)
    for _ in range(3):
        await storage.tell(event, key="e")
        await storage.settling.settle_due()
    row = await storage.session(ref)
    assert (row["status"], row["energy_wh"], row["settle_version"]) == ("COMPLETED", 6_000, 2)
    assert (await storage.balances())["receivable:anna:INR"] == -2_000


async def test_a_boot_and_statuses_change_no_session_and_set_the_stations_status(storage: Storage) -> None:
    ref = await storage.begin()
    await storage.tell(Booted(vendor="V", model="M"))
    await storage.tell(status(ConnectorStatus.AVAILABLE))
    await storage.tell(status(ConnectorStatus.CHARGING, evse=2))
    assert (await storage.session(ref))["status"] == "ONGOING"
    row = await storage.sql.fetchrow("SELECT status, derived_status, model FROM station WHERE id = 'CP-1'")
    assert tuple(row) == ("OCCUPIED", "OCCUPIED", "M")


async def test_meter_values_after_a_ghost_reactivate_it_and_hold_its_money_again(storage: Storage) -> None:
    ref = await storage.begin()
    await storage.tell(meter(6_000, ref=ref, minutes=-40))
    await storage.sql.execute("UPDATE charging_session SET status = 'GHOST', ended_at = now() - interval '30 minutes'")
    await storage.sync.sync_database({})
    await storage.settling.settle_due()
    await storage.tell(meter(6_500, ref=ref, minutes=-5))
    row = await storage.session(ref)
    assert (row["status"], row["paid_minor"], row["refunded_minor"]) == ("ONGOING", 50_000, 0)
    assert (await storage.balances())["held:anna:INR"] == 40_000
    await storage.tell(end(8_000, ref=ref))
    await storage.settling.settle_due()
    assert (await storage.session(ref))["refunded_minor"] == 36_000
    assert (await storage.balances())["wallet:anna:INR"] == 86_000
