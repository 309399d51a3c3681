"""The main job, played by a station that is not ours, on a real server, PostgreSQL and Redis.

What is asserted is what others can see: the wire, the API, the rows and the postings.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import httpx
from ocpp.v16 import call
from ocpp.v16.enums import RemoteStartStopStatus

from tests.acceptance.world import (
    PRICE_MINOR,
    Books,
    Server,
    Site,
    Station,
    ago,
    fresh,
    online,
)
from tests.support import wait_until


async def test_a_prepaid_charge_from_the_first_command_to_the_refund(server: Server, books: Books) -> None:
    """The whole story: 12.345 kWh at 20.00 INR of a paid 500.00."""
    # Everything is registered on the command line, beside the running server.
    name, tag = fresh("STORY"), fresh("TAG")
    org = server.cli("org", "add", fresh("Green Way"))["id"]
    user = server.cli("user", "add", fresh("asha"), "--currency", "INR")["id"]
    topped = server.cli("wallet", "topup", user, "100000")
    assert (topped["balance_minor"], topped["currency"]) == (100_000, "INR")
    price = server.cli("tariff", "set", "--price-per-kwh-minor", str(PRICE_MINOR), "--currency", "INR")
    assert price["scope"] == "default"
    password = "correct horse battery"
    words = ("--password", password, "--connectors", "2", "--org", org)
    assert server.cli("station", "add", name, *words)["password"] == password
    assert server.cli("token", "add", tag, "--user", user)["status"] == "Accepted"

    async with server.api() as api, online(server, name, password) as station:
        await station.boot()
        for connector in (0, 1, 2):
            await station.status(connector, "Available")
        known = await station.call(call.Authorize(tag))
        assert known.id_tag_info["status"] == "Accepted"
        unknown = await station.call(call.Authorize("NOBODYS"))
        assert unknown.id_tag_info["status"] == "Invalid", "not every tag is welcome"

        # The user pays; the money is set aside, once, however often the request comes.
        order = {"station": name, "connector": 1, "user": user, "amount_minor": 50_000}
        key = {"Idempotency-Key": fresh("order")}
        first = await api.post("sessions", json=order, headers=key)
        again = await api.post("sessions", json=order, headers=key)
        assert (first.status_code, again.status_code) == (201, 201), (first.text, again.text)
        session_id = first.json()["id"]
        assert again.json()["id"] == session_id
        other = await api.post("sessions", json={**order, "amount_minor": 1}, headers=key)
        assert other.status_code in (409, 422), "the same key with another request is an error"
        await _wallet_is(api, user, balance=50_000, held=50_000)

        # The station is asked to start, with a token that every firmware can hold.
        await wait_until(lambda: station.asked_for("RemoteStartTransaction"), what="the remote start")
        (asked,) = station.asked_for("RemoteStartTransaction")
        assert asked["connector_id"] == 1
        assert 1 <= len(asked["id_tag"]) <= 20

        # It starts, and the answer is lost with the line.
        await station.status(1, "Preparing")
        start = {"connectorId": 1, "idTag": asked["id_tag"], "meterStart": 1_000, "timestamp": ago(0)}
        await station.send_unheard("StartTransaction", start)
        begun = await books.in_status(session_id, "ONGOING")
        await station.cut()

    async with server.api() as api, online(server, name, password) as station:
        # No boot, and the same start under a new message id: the same transaction, one session.
        repeated = await station.begin(1, asked["id_tag"], 1_000, at=str(start["timestamp"]))
        transaction = repeated.transaction_id
        assert isinstance(transaction, int)
        assert transaction > 0
        assert str(transaction) == begun["transaction_ref"]
        assert repeated.id_tag_info["status"] == "Accepted"
        third = await station.begin(1, asked["id_tag"], 1_000, at=str(start["timestamp"]))
        assert third.transaction_id == transaction
        assert [str(s["id"]) for s in await books.sessions_of(name)] == [session_id]
        await station.status(1, "Charging")

        # Energy flows, and is seen while it flows.
        for register in (4_000, 9_000):
            await station.meter(1, transaction, register)
        running = (await api.get(f"sessions/{session_id}")).json()
        assert (running["status"], running["energy_wh"]) == ("ONGOING", 8_000)
        assert running["transaction_id"] == str(transaction)

        # It stops, and is settled: to the minor unit, with nothing rounded twice.
        ended_at = ago(0)
        await station.end(transaction, 13_345, at=ended_at)
        await station.status(1, "Available")
        await books.settled(session_id)
        settled = (await api.get(f"sessions/{session_id}")).json()
        money = {name: settled[name] for name in settled if name.endswith("_minor")}
        assert money == {
            "paid_minor": 50_000,
            "cost_minor": 24_690,
            "refund_minor": 25_310,
            "fee_minor": 2_469,
            "share_minor": 22_221,
        }
        assert (settled["status"], settled["energy_wh"], settled["estimated"]) == ("COMPLETED", 12_345, False)
        assert settled["stop_reason"] == "Local"
        assert settled["settled_at"] is not None
        await _wallet_is(api, user, balance=75_310, held=0)

        # The postings say the same, each side of them.
        expected = {
            ("hold", 1): {f"wallet:{user}:INR": -50_000, f"held:{user}:INR": 50_000},
            ("settlement", 1): {
                f"held:{user}:INR": -50_000,
                f"wallet:{user}:INR": 25_310,
                "platform_fee::INR": 2_469,
                f"payable:{org}:INR": 22_221,
            },
        }
        assert await books.lines(session_id) == expected

        # The stop again, as the same frame and under a new id: answered, and nothing is doubled.
        for _ in range(2):
            await station.end(transaction, 13_345, at=ended_at)
        # A settlement that came twice would have come before this other session's.
        await _one_more_charge(Site(server, books, api), station, user, name)
        assert await books.lines(session_id) == expected
        assert len(await books.settlements(session_id)) == 1
        repeats = await books.sql.fetchval(
            "SELECT repeats FROM inbox WHERE session_id = $1 AND action = 'StopTransaction'",
            (await books.session(session_id))["id"],
        )
        assert repeats == 2, "the repeats were seen for what they are"

    story = server.cli("explain", session_id)
    assert story["session"]["refund_minor"] == 25_310
    assert {entry["kind"] for entry in story["entries"]} == {"hold", "settlement"}
    readings = await books.sql.fetch(
        "SELECT register_wh FROM reading WHERE session_id = $1 ORDER BY at", (await books.session(session_id))["id"]
    )
    assert [r["register_wh"] for r in readings if r["register_wh"] in (4_000, 9_000)] == [4_000, 9_000]


async def _wallet_is(api: httpx.AsyncClient, user: str, *, balance: int, held: int) -> None:
    wallet = (await api.get(f"wallets/{user}")).json()
    assert (wallet["balance_minor"], wallet["held_minor"], wallet["currency"]) == (balance, held, "INR")


async def _one_more_charge(site: Site, station: Station, user: str, name: str) -> None:
    site.id, site.user = name, user
    session_id, transaction = await site.pay_and_begin(station, connector=2, amount=1_000)
    await station.end(transaction, 0)
    await site.books.settled(session_id)


async def test_the_server_is_killed_between_stop_and_settlement_and_settles_once(
    server: Server, books: Books, site: Site
) -> None:
    """Three times: SIGKILL the moment the first of two stops is answered."""
    expected = {1: 6_000, 2: 8_000}
    for round_number in range(3):
        begun: dict[int, tuple[str, int]] = {}
        stops: dict[int, dict[str, Any]] = {}
        async with site.online() as station:
            await station.boot()
            for connector, energy in expected.items():
                begun[connector] = await site.pay_and_begin(station, connector, amount=20_000)
                stops[connector] = {
                    "transactionId": begun[connector][1],
                    "meterStop": energy,
                    "timestamp": ago(0),
                    "reason": "EVDisconnected",
                }
            ends = [
                asyncio.ensure_future(station.end(begun[c][1], expected[c], at=stops[c]["timestamp"])) for c in expected
            ]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            server.kill()
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        server.start()
        async with site.online() as station:
            # The station repeats what it believes to be unanswered; here: all of it.
            for connector, energy in expected.items():
                await station.end(begun[connector][1], energy, at=stops[connector]["timestamp"])
            for connector, energy in expected.items():
                session_id = begun[connector][0]
                settlement = await books.settled(session_id)
                assert settlement["energy_wh"] == energy
                assert settlement["cost_minor"] == energy * PRICE_MINOR // 1000
                assert len(await books.settlements(session_id)) == 1
                assert set(await books.lines(session_id)) == {("hold", 1), ("settlement", 1)}
        spent = (round_number + 1) * sum(energy * PRICE_MINOR // 1000 for energy in expected.values())
        assert await site.wallet() == (site.balance - spent, 0)


async def test_an_answered_stop_is_settled_after_a_kill_although_nobody_says_it_again(
    server: Server, books: Books, site: Site
) -> None:
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station, amount=20_000)
        await station.end(transaction, 5_000)
        server.kill()
    server.start()
    assert (await books.settled(session_id))["cost_minor"] == 10_000
    assert await site.wallet() == (site.balance - 10_000, 0)


async def test_a_ghost_is_closed_settled_and_corrected_when_its_true_end_arrives(
    server: Server, books: Books, site: Site
) -> None:
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station)
        await station.meter(1, transaction, 3_000)
        await station.status(1, "Available")  # and no StopTransaction
        ghost = await books.in_status(session_id, "GHOST")
        first = await books.settled(session_id)
        assert (first["energy_wh"], first["cost_minor"], first["refund_minor"]) == (3_000, 6_000, 44_000)
        assert (ghost["stop_reason"], ghost["estimated"]) == ("Ghost", True)
        assert await site.wallet() == (site.balance - 6_000, 0)
        (finding,) = await books.findings(site.id, "ghost")
        assert "Available" in finding["evidence"], "a finding tells what it rests on"
        assert finding["session_id"] == ghost["id"]

        # The station finds its stop again.
        await station.end(transaction, 3_500)
        second = await books.settled(session_id, version=2)
        row = await books.session(session_id)
        assert (row["status"], row["estimated"], second["energy_wh"]) == ("COMPLETED", False, 3_500)
        assert (second["cost_minor"], second["owed_minor"], second["refund_minor"]) == (7_000, 1_000, 44_000)
        lines = await books.lines(session_id)
        assert lines["settlement", 2] == {
            f"receivable:{site.user}:INR": -1_000,
            "platform_fee::INR": 100,
            "payable:default:INR": 900,
        }
        assert await site.wallet() == (site.balance - 6_000, 0), "what was refunded stays refunded"
        assert len(await books.findings(site.id, "ghost")) == 1


async def test_a_ghost_is_closed_even_if_the_station_answers_when_it_is_asked(
    server: Server, books: Books, site: Site
) -> None:
    """A good station reports status and meter when it is asked to; that must not hide the ghost."""
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station)
        await station.meter(1, transaction, 3_000)
        station.reports_when_triggered = (1, "Available", 3_000)
        await station.status(1, "Available")
        await books.in_status(session_id, "GHOST")
        assert station.asked_for("TriggerMessage"), "it was asked once more first"
        assert (await books.settled(session_id))["energy_wh"] == 3_000


async def test_a_ghost_is_closed_although_its_meter_reports_by_the_clock(
    server: Server, books: Books, site: Site
) -> None:
    """Clock-aligned readings go on on a free connector, without a transaction: they prove no energy."""
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station)
        await station.meter(1, transaction, 3_000)
        await station.status(1, "Available")
        await station.meter(1, None, 3_000)
        await books.in_status(session_id, "GHOST")
        assert (await books.settled(session_id))["energy_wh"] == 3_000


async def test_silence_is_no_ghost(server: Server, books: Books, site: Site) -> None:
    """A station that says nothing, and one whose line is cut, keep their sessions."""
    other = await Site(server, books, site.api).register()
    async with site.online() as silent, other.online() as cut:
        kept, _ = await site.pay_and_begin(silent)
        lost, _ = await other.pay_and_begin(cut)
        await cut.cut()
        # A ghost that begins after both is found: the passes have looked at both meanwhile.
        third = await Site(server, books, site.api).register()
        async with third.online() as station:
            ghost, _ = await third.pay_and_begin(station)
            await station.status(1, "Available")
            await books.in_status(ghost, "GHOST")
        assert {(await books.session(id))["status"] for id in (kept, lost)} == {"ONGOING"}


async def test_an_orphan_gets_a_session_is_asked_to_stop_and_is_owed(server: Server, books: Books, site: Site) -> None:
    async with site.online() as station:
        await station.boot()
        await station.status(1, "Charging")
        for register in (10_000, 10_400):
            await station.meter(1, 4_711, register)

        async def orphan() -> Any:
            return next(iter(await books.sessions_of(site.id)), None)

        row = await wait_until(orphan, 15, what="a session for the orphan")
        assert (row["status"], row["transaction_ref"], row["driver_id"]) == ("ORPHANED", "4711", None)
        (finding,) = await books.findings(site.id, "orphaned")
        assert finding["session_id"] == row["id"]
        assert "Wh" in finding["evidence"] or "Charging" in finding["evidence"]
        await wait_until(lambda: station.asked_for("RemoteStopTransaction"), what="the remote stop")
        assert station.asked_for("RemoteStopTransaction")[0] == {"transaction_id": 4_711}

        await station.end(4_711, 11_000, reason="Remote")
        settlement = await books.settled(row["id"])
        ended = await books.session(row["id"])
        assert (ended["status"], ended["energy_wh"]) == ("COMPLETED", 1_000)
        assert (settlement["cost_minor"], settlement["owed_minor"], settlement["refund_minor"]) == (2_000, 2_000, 0)
        assert await books.lines(row["id"]) == {
            ("settlement", 1): {
                "receivable:unknown:INR": -2_000,
                "platform_fee::INR": 200,
                "payable:default:INR": 1_800,
            }
        }
        await station.status(1, "Available")
        assert len(await books.sessions_of(site.id)) == 1, "one orphan, one session"


async def test_a_station_that_will_not_stop_is_asked_again_and_taken_out_of_order(
    server: Server, books: Books, site: Site
) -> None:
    """And one that is away is not: nobody can obey what nobody heard."""
    away = await Site(server, books, site.api).register()
    async with away.online() as leaving:
        left, left_transaction = await away.pay_and_begin(leaving, amount=2_000)
        await leaving.meter(1, left_transaction, 1_000)
        await wait_until(lambda: leaving.asked_for("RemoteStopTransaction"), what="a stop, asked before the other's")
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station)
        answer = await site.api.post(f"sessions/{session_id}/stop")
        assert (answer.status_code, answer.json()["outcome"]) == (200, "answered")
        # One repeat is set, so that it is asked twice; it says Accepted and goes on charging.
        await wait_until(lambda: len(station.asked_for("RemoteStopTransaction")) == 2, 20, what="the stop, asked again")

        async def out_of_order() -> bool:
            status = await books.sql.fetchval('SELECT status FROM "ChargePoint" WHERE id = $1', site.id)
            return bool(status == "OUT_OF_ORDER")

        await wait_until(out_of_order, 25, what="OUT_OF_ORDER")
        assert len(station.asked_for("RemoteStopTransaction")) == 2
        (finding,) = await books.findings(site.id, "will_not_stop")
        assert (str(finding["session_id"]), finding["state"]) == (session_id, "open")
        assert (await books.session(session_id))["status"] == "ONGOING", "it charges: nothing is pretended"

        assert not await books.findings(away.id, "will_not_stop")
        assert (await books.session(left))["status"] == "ONGOING"

        # What it used is counted all the same, and a free station is in order again.
        await station.end(transaction, 2_000)
        await station.status(1, "Available")
        assert (await books.settled(session_id))["cost_minor"] == 4_000

        async def in_order() -> bool:
            status = await books.sql.fetchval('SELECT status FROM "ChargePoint" WHERE id = $1', site.id)
            return bool(status == "AVAILABLE")

        await wait_until(in_order, what="AVAILABLE")


async def test_the_paid_amount_stops_the_charge_and_the_overrun_is_owed(
    server: Server, books: Books, site: Site
) -> None:
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station, amount=10_000)
        await station.meter(1, transaction, 4_900)
        assert not station.asked_for("RemoteStopTransaction"), "there is money left"
        await station.meter(1, transaction, 5_000)
        await wait_until(lambda: station.asked_for("RemoteStopTransaction"), what="the remote stop")
        assert station.asked_for("RemoteStopTransaction") == [{"transaction_id": transaction}]
        await station.meter(1, transaction, 5_100)
        await station.end(transaction, 5_250, reason="Remote")
        settlement = await books.settled(session_id)
        assert (settlement["cost_minor"], settlement["covered_minor"]) == (10_500, 10_000)
        assert (settlement["owed_minor"], settlement["refund_minor"]) == (500, 0)
        lines = await books.lines(session_id)
        assert lines["settlement", 1][f"receivable:{site.user}:INR"] == -500
        assert await site.wallet() == (site.balance - 10_000, 0)
        assert len(station.asked_for("RemoteStopTransaction")) == 1, "asked once, not at every reading"


async def test_the_end_on_one_connector_leaves_the_other_connector_and_its_events_alone(
    server: Server, books: Books, site: Site
) -> None:
    """A 1.6 stop names no connector: it belongs to its transaction's, and takes only that one's events."""
    async with site.online() as station:
        await station.boot()
        first, first_transaction = await site.pay_and_begin(station, 1)
        second, second_transaction = await site.pay_and_begin(station, 2)
        for register in (100, 200, 300):
            await station.meter(1, first_transaction, register)
            await station.meter(2, second_transaction, register)
        # The stop of connector 2 while connector 1 goes on talking: none of what it says may be lost.
        words = ["SuspendedEV", "Charging"] * 15
        talk = asyncio.ensure_future(_say_all(station, 1, words))
        await station.end(second_transaction, 1_000)
        await books.settled(second)
        await talk

        rows = {str(r["id"]): r for r in await books.sessions_of(site.id)}
        assert (rows[second]["status"], rows[second]["evse_id"]) == ("COMPLETED", 2)
        assert (rows[first]["status"], rows[first]["evse_id"]) == ("ONGOING", 1)
        assert not await books.settlements(first)

        def left(session_id: str) -> list[str]:
            return [event["k"] for event in server.events_of(site.id) if event["s"] == session_id]

        def statuses() -> int:
            said = [e for e in server.events_of(site.id) if (e["c"], e["k"]) == ("1", "StatusNotification")]
            return len(said)

        await wait_until(lambda: statuses() == 1 + len(words), 5, what="every status of connector 1 in the log")
        assert {"StartTransaction", "MeterValues"} <= set(left(first))
        # Short sessions too, whose settlement comes right behind their last event.
        short = []
        for _ in range(5):
            session_id, transaction = await site.pay_and_begin(station, 2, amount=1_000)
            await station.end(transaction, 0)
            await books.settled(session_id)
            short.append(session_id)

        def forgotten() -> bool:
            return not any(left(session_id) for session_id in (second, *short))

        with contextlib.suppress(AssertionError):
            await wait_until(forgotten, 3)
        assert {id: left(id) for id in (second, *short)} == {id: [] for id in (second, *short)}
        assert {"StartTransaction", "MeterValues"} <= set(left(first))
        await station.end(first_transaction, 2_000)
        assert (await books.settled(first))["energy_wh"] == 2_000
        with contextlib.suppress(AssertionError):
            await wait_until(lambda: not left(first), 3)
        assert not left(first)


async def _say_all(station: Station, connector: int, words: list[str]) -> None:
    for word in words:
        await station.status(connector, word)


async def test_a_status_of_the_station_or_of_another_connector_does_not_touch_a_session(
    server: Server, books: Books, site: Site
) -> None:
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station, 1)
        await station.status(0, "Available")
        await station.status(2, "Available")
        # A ghost that begins later is found: the passes have seen these statuses.
        other = await Site(server, books, site.api).register()
        async with other.online() as haunted:
            ghost, _ = await other.pay_and_begin(haunted)
            await haunted.status(1, "Available")
            await books.in_status(ghost, "GHOST")
        assert (await books.session(session_id))["status"] == "ONGOING"
        # One status a connector: the last to speak does not speak for all, and words keep their meaning.
        words = {1: "SuspendedEV", 2: "Preparing", 0: "Available"}
        for connector, word in words.items():
            await station.status(connector, word)
        shown = (await site.api.get(f"stations/{site.id}")).json()
        assert {c["evse"]: c["status"] for c in shown["connectors"]} == words
        assert shown["status"] == "OCCUPIED"
        await station.status(2, "Finishing")
        shown = (await site.api.get(f"stations/{site.id}")).json()
        assert {c["evse"]: c["status"] for c in shown["connectors"]} == words | {2: "Finishing"}
        await station.end(transaction, 0)
        await books.settled(session_id)
    async with site.online() as station:
        # A new socket knows the connectors of the old one.
        await station.call(call.Heartbeat())
        shown = (await site.api.get(f"stations/{site.id}")).json()
        assert {c["evse"] for c in shown["connectors"]} == {0, 1, 2}


async def test_the_documents_manual_sql_is_settled_and_refunded_by_the_next_pass(
    server: Server, books: Books, site: Site
) -> None:
    async with site.online() as station:
        await station.boot()
        session_id, transaction = await site.pay_and_begin(station)
        await station.meter(1, transaction, 1_500)
        async with books.sql.transaction():
            await books.sql.execute("""UPDATE "ChargePoint" SET status = 'AVAILABLE' WHERE id = $1""", site.id)
            await books.sql.execute(
                """
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
                """
            )
            await books.sql.execute(
                """
                UPDATE "ChargePoint"
                SET status = 'AVAILABLE'
                WHERE status = 'OCCUPIED'
                AND id NOT IN (
                  SELECT "chargePointId"
                  FROM "ChargeSession"
                  WHERE status = 'ONGOING'
                );
                """
            )
        settlement = await books.settled(session_id)
        assert (settlement["energy_wh"], settlement["cost_minor"]) == (1_500, 3_000)
        assert settlement["refund_minor"] == 47_000
        assert await site.wallet() == (site.balance - 3_000, 0)
        shown = await books.sql.fetchrow(
            'SELECT status, "stopReason", "energyConsumed", "refundAmount" FROM "ChargeSession" WHERE id = $1',
            (await books.session(session_id))["id"],
        )
        assert (shown["status"], shown["stopReason"]) == ("COMPLETED", "Manual cleanup")
        assert (str(shown["energyConsumed"]), str(shown["refundAmount"])) == ("1.500", "470.000")
        assert await books.findings(site.id, "manual_change")
        await station.status(1, "Available")


async def test_a_start_that_the_station_refuses_gives_the_money_back(server: Server, books: Books, site: Site) -> None:
    async with site.online() as station:
        await station.boot()
        station.obeys_start = RemoteStartStopStatus.rejected
        answer = await site.api.post(
            "sessions", json={"station": site.id, "connector": 1, "user": site.user, "amount_minor": 30_000}
        )
        session_id = answer.json()["id"]
        await books.in_status(session_id, "TERMINATED")
        settlement = await books.settled(session_id)
        assert (settlement["cost_minor"], settlement["refund_minor"]) == (0, 30_000)
        assert await site.wallet() == (site.balance, 0)
        assert await books.findings(site.id, "not_started")


async def test_two_orders_at_once_never_spend_the_same_money_or_the_same_connector(
    server: Server, books: Books, site: Site
) -> None:
    async with site.online() as station:
        await station.boot()
        order = {"station": site.id, "user": site.user, "amount_minor": 60_000}
        answers = await asyncio.gather(
            *(site.api.post("sessions", json={**order, "connector": connector}) for connector in (1, 2))
        )
        assert sorted(a.status_code for a in answers)[0] == 201
        assert sorted(a.status_code for a in answers)[1] in (402, 409, 422), [a.text for a in answers]
        assert await site.wallet() == (40_000, 60_000)
        small = {**order, "amount_minor": 1_000}
        taken = next(a for a in answers if a.status_code == 201).json()["connector"]
        free = 3 - taken
        rivals = await asyncio.gather(*(site.api.post("sessions", json={**small, "connector": free}) for _ in range(4)))
        assert sorted(a.status_code for a in rivals) == [201, 409, 409, 409], [a.text for a in rivals]
        for session in await books.sessions_of(site.id):
            await site.api.post(f"sessions/{session['id']}/stop")
            await books.settled(session["id"])
        assert await site.wallet() == (site.balance, 0)


async def test_an_order_whose_answer_died_with_the_server_is_the_same_order_when_it_comes_again(
    server: Server, books: Books, site: Site
) -> None:
    """The effect and the stored answer are two commits: a crash between them must not cost a second hold."""
    order = {"station": site.id, "connector": 1, "user": site.user, "amount_minor": 10_000}
    key = {"Idempotency-Key": fresh("order")}
    async with site.online() as station:
        await station.boot()
        first = await site.api.post("sessions", json=order, headers=key)
        assert first.status_code == 201, first.text
        await books.sql.execute("DELETE FROM api_idempotency WHERE key = $1", key["Idempotency-Key"])
        again = await site.api.post("sessions", json=order, headers=key)
        assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
        assert await site.wallet() == (site.balance - 10_000, 10_000)
        await site.api.post(f"sessions/{first.json()['id']}/stop")
        await books.settled(first.json()["id"])


MONEY = [
    # price a kWh, energy, paid -> cost, fee, share, refund, owed; halves of a minor unit are rounded up, once
    ("2000", 0, 100, (0, 0, 0, 100, 0)),
    ("500", 1, 100, (1, 0, 1, 99, 0)),
    ("499.9999", 1, 100, (0, 0, 0, 100, 0)),
    ("1000", 15, 100, (15, 2, 13, 85, 0)),
    ("1000", 14, 100, (14, 1, 13, 86, 0)),
    ("1999.5", 12_345, 30_000, (24_684, 2_468, 22_216, 5_316, 0)),
    ("2000", 50, 100, (100, 10, 90, 0, 0)),
    ("2000", 51, 100, (102, 10, 92, 0, 2)),
    ("0", 9_000, 100, (0, 0, 0, 100, 0)),
]


async def test_money_is_exact_to_the_minor_unit(server: Server, books: Books, site: Site) -> None:
    async with site.online() as station:
        await station.boot()
        for price, energy, paid, expected in MONEY:
            tariff = {"price_per_kwh_minor": price, "currency": "INR", "scope": "station", "scope_id": site.id}
            answer = await site.api.post("tariffs", json=tariff)
            assert answer.status_code in (200, 201), answer.text
            session_id, transaction = await site.pay_and_begin(station, amount=paid, register=7)
            await station.end(transaction, 7 + energy)
            settled = await books.settled(session_id)
            names = ("cost_minor", "fee_minor", "share_minor", "refund_minor", "owed_minor")
            assert tuple(settled[name] for name in names) == expected, (price, energy, paid)


async def test_a_name_in_a_header_opens_nothing(server: Server) -> None:
    async with httpx.AsyncClient(base_url=f"{server.url}/api/v1/") as api:
        for headers in ({}, {"X-Internal-Service": "ocpp-gateway"}, {"Authorization": "Bearer admin"}):
            answer = await api.get("sessions", headers=headers)
            assert answer.status_code == 401


async def test_metrics_count_the_story(server: Server) -> None:
    """The names that the contract promises; the tests before this one moved them."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{server.url}/metrics")).text
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}
    for name in (
        "voltledger_stations_connected",
        "voltledger_sessions_active",
        "voltledger_settlements_total",
        "voltledger_journal_facts",
        'voltledger_findings_open{kind="orphaned"}',
        'voltledger_findings_open{kind="ghost"}',
        'voltledger_findings_total{kind="ghost"}',
        'voltledger_findings_total{kind="orphaned"}',
        'voltledger_refunds_minor_total{currency="INR"}',
        'voltledger_sessions_total{status="COMPLETED"}',
        'voltledger_messages_total{action="StartTransaction",direction="in",version="ocpp1.6"}',
        'voltledger_sync_duration_seconds_count{loop="orphans"}',
    ):
        assert name in values, f"{name} is missing"
    assert values["voltledger_settlements_total"] > 0
    assert values['voltledger_findings_total{kind="ghost"}'] > 0
    assert values['voltledger_findings_total{kind="orphaned"}'] > 0
