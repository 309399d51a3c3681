"""Fleets over real sockets, compared with what the server saw and what the journal says."""

import asyncio
import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import voltledger
from tests.integration.simulator.scripted_server import ScriptedServer, Seen
from voltledger.simulator import (
    Behaviour,
    Behaviours,
    Fleet,
    FleetConfig,
    FleetProgress,
    Kind,
    StationSettings,
    TrueSession,
    read_journal,
    run_fleet,
    simulate,
    true_sessions,
)

FAST = StationSettings(
    sessions=2,
    time_scale=600.0,
    idle_s=(5.0, 30.0),
    session_s=(180.0, 360.0),
    late_stop_s=120.0,
    retry_interval_s=0.05,
    call_timeout_s=2.0,
    lost_answer_wait_s=0.05,
)


def config(server: ScriptedServer, path: Path, **fields: Any) -> FleetConfig:
    settings = {"stations": 3, "seed": 11, "station": FAST, "reconnect_s": 0.05, "reconnect_max_s": 0.2}
    return FleetConfig(url=server.url, journal=path, progress_every_s=0.02, **{**settings, **fields})


async def run(fleet_config: FleetConfig, timeout_s: float = 40.0) -> FleetProgress:
    async with asyncio.timeout(timeout_s):
        return await run_fleet(fleet_config, asyncio.Event())


def server_sessions(server: ScriptedServer) -> dict[tuple[str, int], tuple[int, int]]:
    """By station and transaction: first and last register, from whatever messages there are."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for seen in server.calls("StartTransaction", "StopTransaction"):
        if seen.action == "StartTransaction" and seen.answer is not None:
            key = (seen.station, seen.answer["transactionId"])
            found.setdefault(key, (seen.payload["meterStart"], seen.payload["meterStart"]))
        elif (key := (seen.station, seen.payload.get("transactionId", 0))) in found:
            found[key] = (found[key][0], seen.payload["meterStop"])
    return found


def agrees(server: ScriptedServer, truth: list[TrueSession]) -> None:
    """Every session the server could know in full has the register of the journal."""
    known = server_sessions(server)
    answered = sum(session.start_answered for session in truth)
    assert answered <= len(known) <= len(truth), "an answer may get lost, a session may not be made twice"
    for session in truth:
        if session.start_answered and session.stop_sent:
            begin, end = known[session.station, int(session.transaction_ref or 0)]
            assert (begin, end) == (session.start_register_wh, session.stop_register_wh)


async def test_an_honest_fleet_tells_everything_and_the_journal_agrees(server: ScriptedServer, tmp_path: Path) -> None:
    server.password = "pw"
    progress: list[FleetProgress] = []
    result = await run(
        config(server, tmp_path / "j", passwords=lambda station: "pw", progress=progress.append, tokens=["T"] * 3)
    )
    truth = true_sessions(tmp_path / "j")
    assert (result.sessions_begun, result.sessions_ended, len(truth)) == (6, 6, 6)
    assert all(one.ended and one.start_answered and one.stop_answered and one.energy_wh > 0 for one in truth)
    assert not any(one.pending or one.discarded for one in truth)
    agrees(server, truth)
    assert server.subprotocols == {"ocpp1.6"}
    assert max(one.connected for one in progress) == 3
    sent = [line for line in read_journal(tmp_path / "j") if line.kind is Kind.SENT]
    assert Counter(line.message_id for line in sent) == Counter(seen.message_id for seen in server.seen)


@pytest.mark.parametrize("behaviour", [one for one in Behaviour if one is not Behaviour.NORMAL])
async def test_each_misbehaviour_ends_and_the_journal_knows_the_truth(
    server: ScriptedServer, tmp_path: Path, behaviour: Behaviour
) -> None:
    template = replace(FAST, behaviours=Behaviours({behaviour: 1.0}))
    await run(config(server, tmp_path / "j", station=template))
    truth = true_sessions(tmp_path / "j")
    assert len(truth) == 6
    assert all(one.ended and one.behaviour == behaviour and not one.pending for one in truth)
    agrees(server, truth)
    connections = Counter(seen.station for seen in server.calls("BootNotification"))
    match behaviour:
        case Behaviour.LOST_STOP:
            assert not server.calls("StopTransaction")
        case Behaviour.ORPHAN:
            assert not server.calls("StartTransaction")
        case Behaviour.DUPLICATE_START:
            assert len(server.calls("StartTransaction")) == 12
        case Behaviour.STOP_THEN_HANG_UP:
            assert len(server.calls("StopTransaction")) == 6
            assert not any(one.stop_answered for one in truth)
        case Behaviour.RECONNECT | Behaviour.DOUBLE_SOCKET:
            assert len(server.sockets) > 3
            assert max(connections.values()) == 1
            assert all(one.stop_answered for one in truth)
        case Behaviour.POWER_LOSS | Behaviour.AMNESIA:
            assert max(connections.values()) >= 2
            told = [one.stop_answered for one in truth]
            assert told == [behaviour is Behaviour.POWER_LOSS] * 6
        case _:
            assert all(one.stop_answered for one in truth)


async def test_a_server_that_cuts_and_stays_silent_loses_nothing(server: ScriptedServer, tmp_path: Path) -> None:
    """Every seventh call is cut before its answer, every eleventh is not answered at all."""
    numbers = iter(range(1, 100_000))

    def script(seen: Seen) -> str | None:
        number = next(numbers)
        return "cut" if number % 7 == 0 else "ignore" if number % 11 == 0 else None

    server.script = script
    template = replace(FAST, call_timeout_s=0.2, message_attempts=20)
    await run(config(server, tmp_path / "j", station=template))
    truth = true_sessions(tmp_path / "j")
    assert len(truth) == 6
    assert all(one.start_answered and one.stop_answered and not one.pending for one in truth)
    agrees(server, truth)


async def test_while_the_server_is_away_cars_charge_and_the_queue_comes_back_in_order(
    server: ScriptedServer, tmp_path: Path
) -> None:
    template = replace(FAST, sessions=3)
    running = asyncio.create_task(run(config(server, tmp_path / "j", stations=1, station=template)))
    await server.until(lambda: bool(server.calls("MeterValues")))
    port = server.port
    await server.stop()
    seen_before = len(server.seen)

    def begun() -> int:
        return sum(line.kind is Kind.SESSION_BEGIN for line in read_journal(tmp_path / "j"))

    await server.until(lambda: begun() == 3)
    assert len(server.seen) == seen_before
    await server.start(port)
    await running
    truth = true_sessions(tmp_path / "j")
    assert all(one.stop_answered and not one.discarded for one in truth)
    agrees(server, truth)
    told = [
        seen.payload.get("timestamp") or seen.payload["meterValue"][0]["timestamp"]
        for seen in server.calls("StartTransaction", "MeterValues", "StopTransaction")
    ]
    assert told == sorted(told)


async def test_a_server_that_always_errs_makes_the_station_discard_and_the_journal_says_so(
    server: ScriptedServer, tmp_path: Path
) -> None:
    server.script = lambda seen: "error" if seen.action == "StartTransaction" else None
    result = await run(config(server, tmp_path / "j", stations=1))
    truth = true_sessions(tmp_path / "j")
    assert result.messages_discarded == 2
    assert [one.discarded for one in truth] == [1, 1]
    assert len(server.calls("StartTransaction")) == 6
    assert {seen.payload["transactionId"] for seen in server.calls("StopTransaction")} == {-1}


async def test_a_wrong_password_is_reported_and_not_hammered(server: ScriptedServer, tmp_path: Path) -> None:
    server.password = "pw"
    stop = asyncio.Event()
    wrong = config(server, tmp_path / "j", stations=1, drain_s=0.0, passwords={"SIM-0001": "no"})
    running = asyncio.create_task(run_fleet(wrong, stop))

    def failures() -> list[float]:
        lines = read_journal(tmp_path / "j") if (tmp_path / "j").exists() else ()
        return [line.at.timestamp() for line in lines if line.kind is Kind.CONNECT_FAILED]

    await server.until(lambda: len(failures()) >= 4)
    stop.set()
    assert (await running).last_failure == "HTTP 401"
    waits = [later - earlier for earlier, later in pairwise(failures())]
    assert min(waits) >= 0.5 * 0.05
    assert waits[2] >= 0.5 * 0.2, "each wait is twice as long as the one before, up to the limit"
    assert not server.seen


async def test_stop_ends_the_sessions_and_reports_them(server: ScriptedServer, tmp_path: Path) -> None:
    stop = asyncio.Event()
    template = replace(FAST, sessions=None, session_s=(36_000.0, 36_000.0))
    running = asyncio.create_task(run_fleet(config(server, tmp_path / "j", station=template), stop))
    await server.until(lambda: len({seen.station for seen in server.calls("MeterValues")}) == 3)
    stop.set()
    await running
    truth = true_sessions(tmp_path / "j")
    assert len(truth) == 3
    assert all(one.stop_answered for one in truth)
    agrees(server, truth)


async def test_the_server_starts_and_stops_a_station_that_waits(server: ScriptedServer, tmp_path: Path) -> None:
    stop = asyncio.Event()
    template = replace(FAST, autonomous=False, sessions=None, session_s=(36_000.0, 36_000.0))
    running = asyncio.create_task(run_fleet(config(server, tmp_path / "j", stations=1, station=template), stop))
    await server.until(lambda: bool(server.calls("StatusNotification")))
    answer = await server.command("RemoteStartTransaction", {"connectorId": 1, "idTag": "APP"})
    assert answer == {"status": "Accepted"}
    await server.until(lambda: len(server.calls("MeterValues")) >= 2)
    transaction = (server.calls("StartTransaction")[0].answer or {})["transactionId"]
    answer = await server.command("RemoteStopTransaction", {"transactionId": transaction})
    assert answer == {"status": "Accepted"}
    await server.until(lambda: bool(server.calls("StopTransaction")))
    assert server.calls("StopTransaction")[0].payload["reason"] == "Remote"
    assert await server.command("Reset", {"type": "Hard"}) == {"status": "Accepted"}
    await server.until(lambda: len(server.calls("BootNotification")) == 2)
    stop.set()
    await running


async def test_power_is_lost_and_drivers_come_on_request(server: ScriptedServer, tmp_path: Path) -> None:
    stop = asyncio.Event()
    template = replace(FAST, autonomous=False, sessions=None, session_s=(36_000.0, 36_000.0))
    fleet = Fleet(config(server, tmp_path / "j", stations=1, station=template))
    running = asyncio.create_task(fleet.run(stop))
    await server.until(lambda: bool(server.calls("StatusNotification")))
    fleet.plug_in("SIM-0001", 1, "GUEST")
    await server.until(lambda: bool(server.calls("MeterValues")))
    fleet.power_loss("SIM-0001", outage_s=60.0)
    await server.until(lambda: bool(server.calls("StopTransaction")))
    assert server.calls("StopTransaction")[0].payload["reason"] == "PowerLoss"
    stop.set()
    await running
    (truth,) = true_sessions(tmp_path / "j")
    assert (truth.token, truth.reason) == ("GUEST", "PowerLoss")


async def test_the_journal_survives_kill_9_and_agrees_with_the_server(server: ScriptedServer, tmp_path: Path) -> None:
    path = tmp_path / "j"
    program = (
        "import asyncio, sys\n"
        "from voltledger.simulator import simulate\n"
        "asyncio.run(simulate(sys.argv[1], 5, journal=sys.argv[2], time_scale=600.0,"
        " session_s=(180.0, 360.0), idle_s=(5.0, 30.0)))\n"
    )
    source = str(Path(voltledger.__file__).parents[1])
    path_list = os.pathsep.join([source, *filter(None, sys.path)])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, server.url, str(path), env={**os.environ, "PYTHONPATH": path_list}
    )
    try:
        await server.until(lambda: len(server.calls("StopTransaction")) >= 5, 30.0)
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    await asyncio.gather(*(socket.wait_closed() for socket in server.sockets))
    lines = list(read_journal(path))
    sent = {line.message_id for line in lines if line.kind is Kind.SENT}
    assert {seen.message_id for seen in server.seen} <= sent, "a line is written before the frame is sent"
    answers = {seen.message_id: seen.answer for seen in server.seen}
    answered = [line for line in lines if line.kind is Kind.ANSWERED]
    assert len(answered) > 20
    assert all(answers[line.message_id or ""] == line.payload for line in answered)

    before = {(one.station, one.number): one for one in true_sessions(path)}
    template = replace(FAST, sessions=1)
    await run(config(server, path, stations=5, station=template))
    first_run, second_run = before.values(), true_sessions(path)[len(before) :]
    for session in second_run:
        earlier = [one.stop_register_wh for one in first_run if one.station == session.station]
        assert session.start_register_wh == max(earlier), "the meters go on where they were"


async def test_simulate_takes_behaviours_by_name(server: ScriptedServer, tmp_path: Path) -> None:
    async with asyncio.timeout(40):
        result = await simulate(
            server.url,
            2,
            journal=tmp_path / "j",
            prefix="DEMO",
            behaviours={"duplicate-start": 1.0},
            sessions_per_station=1,
            time_scale=600.0,
            session_s=(180.0, 240.0),
            idle_s=(5.0, 30.0),
        )
    assert result.sessions_ended == 2
    assert {seen.station for seen in server.seen} == {"DEMO-0001", "DEMO-0002"}
    assert len(server.calls("StartTransaction")) == 4
