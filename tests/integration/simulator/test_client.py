"""The step-by-step station against a scripted server."""

import asyncio
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.simulator.scripted_server import ScriptedServer
from voltledger.simulator import (
    CallRefused,
    Kind,
    NoAnswer,
    NotConnected,
    NothingExpected,
    SimulatedStation,
    read_journal,
    true_sessions,
)


async def test_the_right_password_gets_in_with_the_subprotocol(server: ScriptedServer) -> None:
    server.password = "secret"
    async with SimulatedStation(server.url, "CP-1", password="secret") as station:
        assert station.subprotocol == "ocpp1.6"
        assert (await station.boot())["status"] == "Accepted"


@pytest.mark.parametrize("password", ["wrong", None])
async def test_a_wrong_password_is_the_servers_401(server: ScriptedServer, password: str | None) -> None:
    server.password = "secret"
    with pytest.raises(InvalidStatus) as refused:
        await SimulatedStation(server.url, "CP-1", password=password).connect()
    assert refused.value.response.status_code == 401


async def test_a_session_is_what_the_server_saw_and_the_journal_says(server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    async with SimulatedStation(server.url, "CP-1", journal=path, register_wh=5000) as station:
        await station.boot()
        assert await station.authorize("T") == "Accepted"
        await station.status(1, "Charging")
        session = await station.start_transaction(1, "T")
        await station.meter(session, 300, soc_percent=40)
        await station.stop_transaction(session, energy_wh=25)
    start, stop = server.calls("StartTransaction", "StopTransaction")
    assert (start.payload["meterStart"], stop.payload["meterStop"]) == (5000, 5325)
    assert stop.payload["transactionId"] == session.transaction_id
    (truth,) = true_sessions(path)
    assert (truth.station, truth.connector, truth.token) == ("CP-1", 1, "T")
    assert (truth.energy_wh, truth.ended, truth.pending) == (325, True, 0)
    assert truth.start_answered
    assert truth.stop_answered
    assert truth.transaction_ref == str(session.transaction_id)


async def test_an_unanswered_start_can_be_repeated_under_a_new_or_the_same_id(server: ScriptedServer) -> None:
    server.script = lambda seen: "ignore" if len(server.calls("StartTransaction")) == 1 else None
    async with SimulatedStation(server.url, "CP-1") as station:
        with pytest.raises(NoAnswer):
            await station.start_transaction(1, "T", timeout_s=0.05)
        session = station.sessions[-1]
        assert session.transaction_id is None
        await station.reconnect()
        await station.resend_start(session, message_id="mine")
        await station.resend_start(session, message_id="mine")
    first, second, third = server.calls("StartTransaction")
    assert first.payload == second.payload == third.payload
    assert first.message_id != second.message_id == third.message_id == "mine"


async def test_a_stop_whose_start_was_never_answered_says_minus_one(server: ScriptedServer) -> None:
    async with SimulatedStation(server.url, "CP-1") as station:
        session = station.begin(1, "T")
        await station.stop_transaction(session, energy_wh=10)
    assert server.calls("StopTransaction")[0].payload["transactionId"] == -1


async def test_a_refusal_and_a_cut_are_told_apart(server: ScriptedServer) -> None:
    server.script = lambda seen: "error" if seen.action == "Heartbeat" else "cut"
    async with SimulatedStation(server.url, "CP-1") as station:
        with pytest.raises(CallRefused, match="InternalError"):
            await station.heartbeat()
        with pytest.raises(NoAnswer, match="the connection is gone"):
            await station.boot()
        assert not station.is_connected
        with pytest.raises(NotConnected):
            await station.boot()


async def test_calls_may_be_pipelined(server: ScriptedServer) -> None:
    async with SimulatedStation(server.url, "CP-1") as station:
        ids = [await station.send_call("Heartbeat", {}) for _ in range(5)]
        for message_id in reversed(ids):
            assert "currentTime" in await station.answer_to(message_id)
    assert [seen.message_id for seen in server.seen] == ids


async def test_calls_of_the_server_are_answered_and_can_be_expected(server: ScriptedServer) -> None:
    async with SimulatedStation(server.url, "CP-1") as station:
        station.on("Reset", {"status": "Rejected"})
        station.on("UnlockConnector", lambda asked: {"status": f"for {asked['connectorId']}"})
        assert await server.command("Reset", {"type": "Hard"}) == {"status": "Rejected"}
        assert await server.command("UnlockConnector", {"connectorId": 2}) == {"status": "for 2"}
        assert await server.command("ClearCache", {}) == {"status": "Accepted"}
        assert await server.command("Dance", {}) == {"error": "NotImplemented"}
        assert await station.expect("Reset") == {"type": "Hard"}
        assert await station.expect("ClearCache") == {}
        with pytest.raises(NothingExpected, match="came: UnlockConnector, Dance"):
            await station.expect("Reset", 0.02)
        later = asyncio.create_task(station.expect("RemoteStopTransaction"))
        await server.command("RemoteStopTransaction", {"transactionId": 7})
        assert await later == {"transactionId": 7}


async def test_a_drop_sends_no_close_frame_and_the_server_may_close_too(server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    async with SimulatedStation(server.url, "CP-1", journal=path) as station:
        await station.boot()
        station.drop()
        assert not station.is_connected
        await server.sockets[0].wait_closed()
        assert server.sockets[0].close_code == 1006
        await station.connect()
        await station.heartbeat()
        await server.sockets[1].close(1012, "restart")
        await station.wait_closed()
    reasons = [line.reason for line in read_journal(path) if line.kind is Kind.DISCONNECTED]
    assert reasons == ["dropped", "closed with 1012"]
