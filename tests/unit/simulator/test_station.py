"""The pure model of a station, driven with a clock of the test's own and a server that is a function."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from voltledger.simulator import (
    Behaviour,
    Behaviours,
    ClockFault,
    JournalLine,
    Kind,
    MessageIds,
    StationSettings,
)
from voltledger.simulator.station import Cut, Effect, HangUp, Note, SecondSocket, Station, Transmit
from voltledger.simulator.wire import Call, Error, Result

T0 = 1_790_000_000.0
Reply = Callable[[Call], dict[str, Any] | Error | None]


def accept(call: Call) -> dict[str, Any] | Error | None:
    """A server that accepts everything; the first transaction is 501."""
    match call.action:
        case "BootNotification":
            return {"status": "Accepted", "currentTime": "2026-01-01T00:00:00Z", "interval": 3600}
        case "Authorize":
            return {"idTagInfo": {"status": "Accepted"}}
        case "StartTransaction":
            transaction = 500 + int(call.payload["connectorId"])
            return {"transactionId": transaction, "idTagInfo": {"status": "Accepted"}}
        case _:
            return {}


@dataclass
class Bench:
    """Runs a station through time; the server answers at once, or not at all."""

    station: Station
    reply: Reply = accept
    now: float = T0
    sent: list[Call] = field(default_factory=list)
    answers: list[Result | Error] = field(default_factory=list)
    lines: list[JournalLine] = field(default_factory=list)
    others: list[Effect] = field(default_factory=list)

    def open(self) -> None:
        self._perform(self.station.opened(self.now))

    def close(self) -> None:
        self._perform(self.station.closed(self.now))

    def pass_time(self, seconds: float) -> None:
        """Every due moment is visited, so that answers arrive when they would."""
        end = self.now + seconds
        while (wake_at := self.station.wake_at) is not None and wake_at <= end:
            self.now = max(self.now, wake_at)
            self._perform(self.station.advance(self.now))
        self.now = end
        self._perform(self.station.advance(end))

    def command(self, action: str, **payload: Any) -> dict[str, Any] | Error:
        call = Call(message_id=f"c{len(self.answers)}", action=action, payload=payload)
        before = len(self.answers)
        self._perform(self.station.received(call, self.now))
        answer = self.answers[before]
        return answer if isinstance(answer, Error) else dict(answer.payload)

    def actions(self, *names: str) -> list[Call]:
        return [call for call in self.sent if call.action in names]

    def transaction_messages(self) -> list[Call]:
        return self.actions("StartTransaction", "MeterValues", "StopTransaction")

    def statuses(self, connector: int = 1) -> list[str]:
        reports = self.actions("StatusNotification")
        return [call.payload["status"] for call in reports if call.payload["connectorId"] == connector]

    def noted(self, kind: Kind) -> list[JournalLine]:
        return [line for line in self.lines if line.kind is kind]

    def perform(self, effects: list[Effect]) -> None:
        self._perform(effects)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Note():
                    self.lines.append(effect.line)
                case Transmit(frame=Call() as call):
                    self.sent.append(call)
                    self._answer(call)
                case Transmit(frame=answer) if not isinstance(answer, Call):
                    self.answers.append(answer)
                case _:
                    self.others.append(effect)

    def _answer(self, call: Call) -> None:
        reply = self.reply(call)
        if isinstance(reply, Error):
            frame: Result | Error = Error(message_id=call.message_id, code=reply.code)
        elif reply is None:
            return
        else:
            frame = Result(message_id=call.message_id, payload=reply)
        self._perform(self.station.received(frame, self.now))


def bench(reply: Reply = accept, *, behaviour: Behaviour | None = None, **settings: Any) -> Bench:
    """A station that begins one session within ten seconds and charges for about ten minutes."""
    chosen: dict[str, Any] = {
        "seed": 1,
        "sessions": 1,
        "idle_s": (1.0, 5.0),
        "prepare_s": (2.0, 4.0),
        "session_s": (580.0, 620.0),
        "outlet_power_w": 7360.0,
        "retry_interval_s": 10.0,
        "call_timeout_s": 20.0,
        "behaviours": Behaviours({} if behaviour is None else {behaviour: 1.0}),
        **settings,
    }
    return Bench(Station(StationSettings(**chosen), now=T0), reply=reply)


def registers(calls: list[Call]) -> Iterator[int]:
    """The register in each transaction message."""
    for call in calls:
        match call.action:
            case "StartTransaction":
                yield call.payload["meterStart"]
            case "StopTransaction":
                yield call.payload["meterStop"]
            case _:
                yield int(call.payload["meterValue"][0]["sampledValue"][0]["value"])


def test_a_session_goes_through_all_statuses_and_messages_in_order() -> None:
    b = bench()
    b.open()
    b.pass_time(1200)
    assert b.statuses() == ["Available", "Preparing", "Charging", "Finishing", "Available"]
    actions = [call.action for call in b.transaction_messages()]
    assert actions[0] == "StartTransaction"
    assert set(actions[1:-1]) == {"MeterValues"}
    assert len(actions) in (11, 12)
    assert actions[-1] == "StopTransaction"
    assert all(call.payload["transactionId"] == 501 for call in b.transaction_messages()[1:])
    assert b.station.is_finished


def test_energy_of_a_session_is_register_difference_and_believable() -> None:
    b = bench()
    b.open()
    b.pass_time(1200)
    (end,) = b.noted(Kind.SESSION_END)
    (begin,) = b.noted(Kind.SESSION_BEGIN)
    assert end.register_wh is not None
    assert begin.register_wh is not None
    assert end.energy_wh == end.register_wh - begin.register_wh
    assert 100 < end.energy_wh <= 7360 * 620 / 3600 * 1.02


@pytest.mark.parametrize("seed", range(25))
def test_registers_never_fall_whatever_goes_wrong(seed: int) -> None:
    b = bench(seed=seed, sessions=12, connectors=2, behaviours=Behaviours.every(0.08), late_stop_s=40.0)
    b.open()
    for _ in range(60):
        b.pass_time(300)
        if not b.station.is_open:
            b.open()
    for connector in (1, 2):
        seen = [line.register_wh for line in b.lines if line.connector == connector]
        known = [register for register in seen if register is not None]
        assert known == sorted(known)
    assert len(b.noted(Kind.SESSION_BEGIN)) == len(b.noted(Kind.SESSION_END))


def test_samples_tell_register_power_current_and_state_of_charge() -> None:
    b = bench()
    b.open()
    b.pass_time(200)
    values = b.actions("MeterValues")[-1].payload["meterValue"][0]["sampledValue"]
    by_name = {value["measurand"]: (float(value["value"]), value["unit"]) for value in values}
    power, unit = by_name["Power.Active.Import"]
    assert unit == "W"
    assert 300 < power < 7600
    current, unit = by_name["Current.Import"]
    assert unit == "A"
    assert current == pytest.approx(power / 230, abs=0.01)
    assert 0 < by_name["SoC"][0] <= 100


def test_a_full_car_suspends_and_the_register_stands_still() -> None:
    for seed in range(60):
        b = bench(seed=seed, session_s=(7200.0, 7200.0))
        b.open()
        b.pass_time(7000)
        if "SuspendedEV" in b.statuses():
            assert b.statuses()[:4] == ["Available", "Preparing", "Charging", "SuspendedEV"]
            first, second = list(registers(b.actions("MeterValues")))[-2:]
            assert first == second
            return
    pytest.fail("no car of sixty arrived nearly full")


def test_time_scale_speeds_up_the_car_and_not_the_clock_on_the_wire() -> None:
    b = bench(time_scale=60.0)
    b.open()
    b.pass_time(20)
    start, *_, stop = b.transaction_messages()
    began, ended = (datetime.fromisoformat(call.payload["timestamp"]) for call in (start, stop))
    assert 9 < (ended - began).total_seconds() < 11
    assert next(iter(registers([stop]))) - next(iter(registers([start]))) > 100


# --- Delivery -----------------------------------------------------------------------------------------------


def test_while_offline_everything_is_kept_and_then_sent_in_order() -> None:
    b = bench()
    b.open()
    b.pass_time(100)
    b.close()
    sent_before = len(b.sent)
    b.pass_time(1500)
    assert len(b.sent) == sent_before
    waiting = [fact.action for fact in b.station.queue]
    assert waiting[-1] == "StopTransaction"
    b.open()
    b.pass_time(1)
    stamps = [
        call.payload.get("timestamp") or call.payload["meterValue"][0]["timestamp"] for call in b.transaction_messages()
    ]
    assert stamps == sorted(stamps)
    assert b.transaction_messages()[-1].action == "StopTransaction"
    assert not b.noted(Kind.DISCARDED)
    assert len(b.actions("BootNotification")) == 1, "a reconnect is not a reboot"


def test_being_cut_off_costs_no_attempt_and_the_message_comes_again() -> None:
    b = bench(lambda call: None if call.action == "StartTransaction" else accept(call))
    b.open()
    for _ in range(10):
        b.pass_time(15)
        b.close()
        b.open()
    assert len(b.actions("StartTransaction")) >= 9
    assert not b.noted(Kind.DISCARDED)
    assert b.station.queue.head is not None
    assert b.station.queue.head.attempts == 0


@pytest.mark.parametrize("answer", ["error", "silence", "nonsense"])
def test_after_the_last_attempt_a_message_is_discarded_and_the_stop_says_minus_one(answer: str) -> None:
    def reply(call: Call) -> dict[str, Any] | Error | None:
        if call.action != "StartTransaction":
            return accept(call)
        return {"error": Error(message_id="", code="InternalError"), "silence": None, "nonsense": {}}[answer]

    b = bench(reply)
    b.open()
    b.pass_time(1500)
    starts = b.actions("StartTransaction")
    assert len(starts) == 3
    assert all(start.payload == starts[0].payload for start in starts)
    assert len({start.message_id for start in starts}) == 3
    (discarded,) = b.noted(Kind.DISCARDED)
    assert (discarded.action, discarded.attempt) == ("StartTransaction", 3)
    (stop,) = b.actions("StopTransaction")
    assert stop.payload["transactionId"] == -1
    assert {call.payload["transactionId"] for call in b.actions("MeterValues")} == {-1}


def test_waits_between_attempts_grow_by_the_interval() -> None:
    times: list[float] = []

    def reply(call: Call) -> dict[str, Any] | Error | None:
        if call.action != "StartTransaction":
            return accept(call)
        times.append(b.now)
        return Error(message_id="", code="InternalError")

    b = bench(reply, message_attempts=4)
    b.open()
    b.pass_time(600)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == pytest.approx([10.0, 20.0, 30.0])


def test_a_retry_may_keep_its_message_id() -> None:
    b = bench(
        lambda call: None if call.action == "StartTransaction" else accept(call),
        retry_same_id=True,
        message_attempts=3,
    )
    b.open()
    b.pass_time(400)
    starts = b.actions("StartTransaction")
    assert len(starts) == 3
    assert len({start.message_id for start in starts}) == 1


def test_nothing_of_the_queue_passes_a_message_that_waits_for_its_next_attempt() -> None:
    refused = 0

    def reply(call: Call) -> dict[str, Any] | Error | None:
        nonlocal refused
        if call.action == "StartTransaction" and refused < 2:
            refused += 1
            return Error(message_id="", code="InternalError")
        return accept(call)

    b = bench(reply, retry_interval_s=60.0)
    b.open()
    b.pass_time(1500)
    actions = [call.action for call in b.transaction_messages()]
    assert actions[:4] == ["StartTransaction"] * 3 + ["MeterValues"]
    assert all(call.payload["transactionId"] == 501 for call in b.transaction_messages()[3:])


def test_one_call_at_a_time() -> None:
    b = bench(lambda call: None)
    b.open()
    b.pass_time(5)
    assert [call.action for call in b.sent] == ["BootNotification"]


def test_nothing_but_boot_is_said_until_boot_is_accepted() -> None:
    boots = 0

    def reply(call: Call) -> dict[str, Any] | Error | None:
        nonlocal boots
        if call.action == "BootNotification":
            boots += 1
            return {"status": "Accepted" if boots == 3 else "Pending", "interval": 30}
        return accept(call)

    b = bench(reply)
    b.open()
    b.pass_time(59)
    assert {call.action for call in b.sent} == {"BootNotification"}
    b.pass_time(5)
    assert b.transaction_messages()[0].action == "StartTransaction", "the session of meanwhile is not lost"


def test_a_late_answer_is_noted_and_not_used() -> None:
    b = bench(lambda call: None if call.action == "StartTransaction" else accept(call))
    b.open()
    b.pass_time(28)
    first = b.actions("StartTransaction")[0]
    late = Result(message_id=first.message_id, payload={"transactionId": 77, "idTagInfo": {"status": "Accepted"}})
    b.perform(b.station.received(late, b.now))
    assert b.noted(Kind.LATE_ANSWER)[0].message_id == first.message_id
    assert b.station.active_sessions[0].transaction_id is None


# --- Commands -----------------------------------------------------------------------------------------------


def remote_bench(reply: Reply = accept, **settings: Any) -> Bench:
    b = bench(reply, autonomous=False, sessions=None, **settings)
    b.open()
    b.pass_time(1)
    return b


def test_a_remote_start_and_stop_are_obeyed() -> None:
    b = remote_bench(connectors=2)
    b.pass_time(4000)
    assert not b.actions("StartTransaction"), "it waits for the server"
    assert b.command("RemoteStartTransaction", connectorId=2, idTag="DRIVER") == {"status": "Accepted"}
    b.pass_time(60)
    (start,) = b.actions("StartTransaction")
    assert (start.payload["connectorId"], start.payload["idTag"]) == (2, "DRIVER")
    assert b.command("RemoteStopTransaction", transactionId=999) == {"status": "Rejected"}
    assert b.command("RemoteStopTransaction", transactionId=502) == {"status": "Accepted"}
    b.pass_time(1)
    (stop,) = b.actions("StopTransaction")
    assert (stop.payload["transactionId"], stop.payload["reason"]) == (502, "Remote")


def test_a_remote_start_on_a_busy_connector_is_rejected() -> None:
    b = remote_bench()
    b.command("RemoteStartTransaction", idTag="A")
    b.pass_time(30)
    assert b.command("RemoteStartTransaction", connectorId=1, idTag="B") == {"status": "Rejected"}


def test_a_frozen_station_does_not_stop_and_says_either() -> None:
    answers = set()
    for seed in range(20):
        b = remote_bench(behaviour=Behaviour.FROZEN, seed=seed)
        b.command("RemoteStartTransaction", idTag="A")
        b.pass_time(100)
        answer = b.command("RemoteStopTransaction", transactionId=501)
        assert isinstance(answer, dict)
        answers.add(answer["status"])
        b.pass_time(60)
        assert not b.actions("StopTransaction")
        assert len(b.station.active_sessions) == 1
    assert answers == {"Accepted", "Rejected"}


@pytest.mark.parametrize("kind", ["Soft", "Hard"])
def test_a_reset_stops_the_session_boots_and_tells_the_stop(kind: str) -> None:
    b = remote_bench()
    b.command("RemoteStartTransaction", idTag="A")
    b.pass_time(100)
    assert b.command("Reset", type=kind) == {"status": "Accepted"}
    b.pass_time(60)
    assert Cut(f"{kind}Reset") in b.others
    b.open()
    b.pass_time(1)
    assert len(b.actions("BootNotification")) == 2
    (stop,) = b.actions("StopTransaction")
    assert stop.payload["reason"] == f"{kind}Reset"
    assert stop.payload["transactionId"] == 501


def test_unlock_ends_the_session() -> None:
    b = remote_bench()
    b.command("RemoteStartTransaction", idTag="A")
    b.pass_time(100)
    assert b.command("UnlockConnector", connectorId=1) == {"status": "Unlocked"}
    b.pass_time(1)
    assert b.actions("StopTransaction")[0].payload["reason"] == "UnlockCommand"


def test_change_availability_is_scheduled_during_a_session() -> None:
    b = remote_bench()
    b.command("RemoteStartTransaction", idTag="A")
    b.pass_time(100)
    assert b.command("ChangeAvailability", connectorId=0, type="Inoperative") == {"status": "Scheduled"}
    b.command("RemoteStopTransaction", transactionId=501)
    b.pass_time(60)
    assert b.statuses()[-1] == "Unavailable"
    assert b.command("RemoteStartTransaction", idTag="A") == {"status": "Rejected"}
    assert b.command("ChangeAvailability", connectorId=1, type="Operative") == {"status": "Accepted"}
    b.pass_time(1)
    assert b.statuses()[-1] == "Available"


def test_configuration_is_read_changed_and_obeyed() -> None:
    b = remote_bench()
    answer = b.command("GetConfiguration", key=["HeartbeatInterval", "Nonsense"])
    assert isinstance(answer, dict)
    assert answer["unknownKey"] == ["Nonsense"]
    assert answer["configurationKey"] == [{"key": "HeartbeatInterval", "readonly": False, "value": "3600"}]
    change = [
        ("MeterValueSampleInterval", "10", "Accepted"),
        ("MeterValueSampleInterval", "soon", "Rejected"),
        ("NumberOfConnectors", "9", "Rejected"),
        ("Nonsense", "1", "NotSupported"),
    ]
    for key, value, status in change:
        assert b.command("ChangeConfiguration", key=key, value=value) == {"status": status}
    b.command("RemoteStartTransaction", idTag="A")
    b.pass_time(105)
    assert len(b.actions("MeterValues")) == 10


def test_trigger_message_sends_what_was_asked_for() -> None:
    b = remote_bench(connectors=2)
    for message in ("Heartbeat", "StatusNotification", "BootNotification", "MeterValues"):
        before = len(b.actions(message))
        assert b.command("TriggerMessage", requestedMessage=message) == {"status": "Accepted"}
        b.pass_time(1)
        assert len(b.actions(message)) > before
    asked = b.command("TriggerMessage", requestedMessage="DiagnosticsStatusNotification")
    assert asked == {"status": "NotImplemented"}


def test_what_is_unknown_or_malformed_gets_a_callerror() -> None:
    b = remote_bench()
    unknown, malformed = b.command("Dance"), b.command("RemoteStopTransaction")
    assert isinstance(unknown, Error)
    assert isinstance(malformed, Error)
    assert (unknown.code, malformed.code) == ("NotImplemented", "FormationViolation")
    assert b.command("ClearCache") == {"status": "Accepted"}


# --- Authorization ------------------------------------------------------------------------------------------


def test_a_refused_token_starts_nothing() -> None:
    b = bench(lambda call: {"idTagInfo": {"status": "Blocked"}} if call.action == "Authorize" else accept(call))
    b.open()
    b.pass_time(300)
    assert not b.transaction_messages()
    assert b.noted(Kind.REFUSED)[0].reason == "Blocked"
    assert not b.noted(Kind.SESSION_BEGIN)


def test_a_start_answered_with_invalid_is_stopped_as_deauthorized() -> None:
    def reply(call: Call) -> dict[str, Any] | Error | None:
        if call.action == "StartTransaction":
            return {"transactionId": 5, "idTagInfo": {"status": "Invalid"}}
        return accept(call)

    b = bench(reply)
    b.open()
    b.pass_time(60)
    (stop,) = b.actions("StopTransaction")
    assert (stop.payload["transactionId"], stop.payload["reason"]) == (5, "DeAuthorized")


# --- Misbehaviour -------------------------------------------------------------------------------------------


def test_a_lost_response_is_repeated_with_the_same_content_under_a_new_id() -> None:
    victims = set()
    for seed in range(12):
        b = bench(behaviour=Behaviour.LOST_RESPONSE, seed=seed)
        b.open()
        b.pass_time(1500)
        (ignored,) = b.noted(Kind.ANSWER_IGNORED)
        first, second = [line for line in b.noted(Kind.SENT) if line.fact == ignored.fact]
        assert first.payload == second.payload
        assert first.message_id != second.message_id
        victims.add(ignored.action)
        assert b.station.is_finished
    assert victims == {"StartTransaction", "MeterValues", "StopTransaction"}


def test_a_lost_stop_is_never_sent_and_the_connector_is_available() -> None:
    b = bench(behaviour=Behaviour.LOST_STOP)
    b.open()
    b.pass_time(1200)
    assert not b.actions("StopTransaction")
    assert b.statuses()[-2:] == ["Charging", "Available"]
    (forgotten,) = b.noted(Kind.FORGOTTEN)
    assert forgotten.payload is not None
    assert forgotten.payload["meterStop"] == b.noted(Kind.SESSION_END)[0].register_wh


def test_available_without_stop_tells_the_stop_later_with_its_true_time_and_register() -> None:
    b = bench(behaviour=Behaviour.AVAILABLE_WITHOUT_STOP, late_stop_s=300.0)
    b.open()
    b.pass_time(800)
    assert b.statuses()[-1] == "Available"
    assert not b.actions("StopTransaction")
    b.pass_time(200)
    (stop,) = b.actions("StopTransaction")
    (end,) = b.noted(Kind.SESSION_END)
    assert stop.payload["meterStop"] == end.register_wh
    assert datetime.fromisoformat(stop.payload["timestamp"]).timestamp() == pytest.approx(end.at.timestamp(), abs=0.01)


def test_orphans_report_a_foreign_transaction_or_nothing_but_their_status() -> None:
    kinds = set()
    for seed in range(12):
        b = bench(behaviour=Behaviour.ORPHAN, seed=seed)
        b.open()
        b.pass_time(1200)
        assert not b.actions("StartTransaction", "StopTransaction")
        assert "Charging" in b.statuses()
        ids = {call.payload["transactionId"] for call in b.actions("MeterValues")}
        assert len(ids) <= 1
        assert 501 not in ids
        assert (b.noted(Kind.SESSION_END)[0].energy_wh or 0) > 0
        kinds.add(len(ids))
    assert kinds == {0, 1}


def test_a_duplicate_start_is_the_same_under_two_ids() -> None:
    b = bench(behaviour=Behaviour.DUPLICATE_START)
    b.open()
    b.pass_time(30)
    first, second = b.actions("StartTransaction")
    assert first.payload == second.payload
    assert first.message_id != second.message_id


def test_stop_then_hang_up_waits_for_nothing() -> None:
    b = bench(lambda call: None if call.action == "StopTransaction" else accept(call),
              behaviour=Behaviour.STOP_THEN_HANG_UP)  # fmt: skip
    b.open()
    b.pass_time(1200)
    assert b.others == [HangUp()]
    assert not b.station.is_open
    b.open()
    b.pass_time(300)
    assert len(b.actions("StopTransaction")) == 1
    assert b.noted(Kind.FORGOTTEN)[0].reason == "stop_then_hang_up"


def test_a_reconnect_cuts_the_socket_and_goes_on_charging() -> None:
    b = bench(behaviour=Behaviour.RECONNECT)
    b.open()
    b.pass_time(580)
    assert b.others == [Cut("reconnect")]
    b.open()
    b.pass_time(600)
    assert len(b.actions("StartTransaction")) == len(b.actions("StopTransaction")) == 1
    assert len(b.actions("BootNotification")) == 1


def test_double_socket_asks_for_another_connection() -> None:
    b = bench(behaviour=Behaviour.DOUBLE_SOCKET)
    b.open()
    b.pass_time(1200)
    (effect,) = b.others
    assert isinstance(effect, SecondSocket)


@pytest.mark.parametrize("behaviour", [Behaviour.POWER_LOSS, Behaviour.AMNESIA])
def test_power_loss_ends_the_truth_and_memory_decides_what_is_told(behaviour: Behaviour) -> None:
    b = bench(behaviour=behaviour, outage_s=(60.0, 60.0))
    b.open()
    b.pass_time(900)
    assert not b.station.is_open
    b.open()
    b.pass_time(5)
    (end,) = b.noted(Kind.SESSION_END)
    assert end.reason == "PowerLoss"
    stops = b.actions("StopTransaction")
    if behaviour is Behaviour.AMNESIA:
        assert not stops
        assert b.noted(Kind.LOST)[-1].action == "StopTransaction"
    else:
        assert stops[0].payload["reason"] == "PowerLoss"
        assert stops[0].payload["meterStop"] == end.register_wh
    assert len(b.actions("BootNotification")) == 2


def test_power_loss_without_memory_loses_the_whole_queue() -> None:
    b = bench()
    b.pass_time(300)
    waiting = len(b.station.queue)
    assert waiting > 3
    b.perform(b.station.power_loss(b.now, queue_survives=False, outage_s=30.0))
    assert len(b.noted(Kind.LOST)) == waiting + 1, "and the stop it could not tell any more"
    b.pass_time(60)
    b.open()
    b.pass_time(5)
    assert not b.transaction_messages()


def test_in_the_dark_nothing_happens_until_power_comes_back() -> None:
    b = bench(time_scale=1.0)
    b.open()
    b.pass_time(100)
    b.perform(b.station.power_loss(b.now, queue_survives=True, outage_s=5000.0))
    assert b.station.wake_at == b.now + 5000.0
    said = len(b.sent)
    b.pass_time(4999)
    assert len(b.sent) == said
    assert b.lines[-1].kind is not Kind.POWER_UP
    b.pass_time(2)
    assert b.noted(Kind.POWER_UP)


def test_winding_up_ends_what_runs_and_begins_nothing() -> None:
    b = bench(sessions=None, connectors=2)
    b.open()
    b.pass_time(100)
    running = len(b.station.active_sessions)
    assert running
    b.perform(b.station.wind_up(b.now))
    b.pass_time(5)
    assert b.station.is_finished
    assert len(b.actions("StopTransaction")) == running
    b.pass_time(5000)
    assert len(b.noted(Kind.SESSION_BEGIN)) == running


# --- Clock and ids ------------------------------------------------------------------------------------------


def test_a_clock_that_was_never_set_says_1970() -> None:
    b = bench(clock_fault=ClockFault.EPOCH)
    b.open()
    b.pass_time(60)
    assert b.actions("StartTransaction")[0].payload["timestamp"].startswith("1970-01-01T00:00:0")
    assert b.noted(Kind.SESSION_BEGIN)[0].at.timestamp() == pytest.approx(T0, abs=60)


def test_a_clock_with_an_offset_is_wrong_by_it() -> None:
    b = bench(clock_fault=ClockFault.OFFSET, clock_offset_s=-7200.0)
    b.open()
    b.pass_time(60)
    stamp = datetime.fromisoformat(b.actions("StartTransaction")[0].payload["timestamp"]).timestamp()
    assert stamp == pytest.approx(b.noted(Kind.SESSION_BEGIN)[0].at.timestamp() - 7200, abs=0.01)


def test_counted_message_ids_begin_again_after_a_power_loss() -> None:
    b = bench(message_ids=MessageIds.COUNTER)
    b.open()
    b.pass_time(30)
    assert [call.message_id for call in b.sent[:3]] == ["1", "2", "3"]
    b.perform(b.station.power_loss(b.now, queue_survives=True, outage_s=10.0))
    b.pass_time(20)
    b.open()
    assert b.sent[-1].message_id in {"1", "2", "3", "4"}
    assert b.actions("BootNotification")[1].message_id == "1"


def history(seed: int) -> list[object]:
    b = bench(seed=seed, sessions=10, connectors=2, behaviours=Behaviours.every(0.07))
    b.open()
    for _ in range(80):
        b.pass_time(150)
        if not b.station.is_open:
            b.open()
    return [*b.sent, *b.lines]


def test_the_same_seed_gives_the_same_history() -> None:
    assert history(3) == history(3)


def test_another_seed_gives_another_history() -> None:
    assert history(3) != history(4)


def test_looking_more_often_does_not_change_what_happens() -> None:
    often, seldom = bench(), bench()
    for b, step in ((often, 1.0), (seldom, 100.0)):
        for _ in range(int(1200 / step)):
            b.pass_time(step)
    assert list(often.lines) == list(seldom.lines)
