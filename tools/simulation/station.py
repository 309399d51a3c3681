"""A 1.6 charging station in virtual time: its meter, its queue of transaction messages, and the rules of its retries.

A message that fails (a CALLERROR, no answer in time) costs an attempt, being offline costs none; after the last one it
is given up. Transaction messages leave in the order in which they became true. Its journal is the truth that the
checker compares with the books.
"""

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from tools.simulation.journal import Fact, Traits, Visit
from tools.simulation.loop import Timer
from tools.simulation.network import Link

if TYPE_CHECKING:
    from tools.simulation.world import World

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EAST = timezone(timedelta(hours=5, minutes=30))
encode = msgspec.json.encode
decode = msgspec.json.decode


class _Call:
    """A call of the station that waits for its answer."""

    __slots__ = ("fact", "then", "timer")

    def __init__(self, fact: Fact | None, then: Callable[[Any], None] | None, timer: Timer) -> None:
        self.fact = fact
        self.then = then
        self.timer = timer


class Station:
    """One station. Everything it does is a callback on the world's loop."""

    def __init__(self, world: "World", name: str, connectors: int, traits: Traits, rng: Random) -> None:
        self.world = world
        self.name = name
        self.traits = traits
        self.rng = rng
        self.connectors = connectors
        self.registers = {c: rng.randrange(0, 2_000_000) for c in range(1, connectors + 1)}
        self.running: dict[int, Visit] = {}
        self.visits: list[Visit] = []
        self.queue: deque[Fact] = deque()
        self.link: Link | None = None
        self.powered = True
        self.discards: list[Fact] = []
        self._booted = False
        self._plain: deque[tuple[str, dict[str, Any], Callable[[Any], None] | None]] = deque()
        self._calls: dict[str, _Call] = {}
        self._backoff_s = 1.0
        self._connecting = False
        self._number = 0
        self._facts = 0
        self._on_since = 0.0
        self._clock_shift_s = 0.0
        self._pump_timer_at = -1.0

    # --- its clock -----------------------------------------------------------------------------------

    def clock_text(self) -> str:
        """Now, as this station believes and writes it."""
        t = self.world.loop.time()
        if self.traits.clock == "epoch":
            at = EPOCH + timedelta(seconds=t - self._on_since + 3)
        else:
            at = self.world.base + timedelta(seconds=t + self._clock_shift_s)
            if self.traits.clock == "ahead":
                at += timedelta(days=3653)
        if self.traits.offset_text:
            return at.astimezone(EAST).isoformat(timespec="milliseconds")
        return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def shift_clock(self, seconds: float) -> None:
        """Somebody set its clock, or summer time began."""
        self._clock_shift_s += seconds
        self.world.note(self.name, "clock", seconds)

    # --- what happens at it ----------------------------------------------------------------------------

    def begin(self, connector: int, token: str, *, remote: bool = False) -> Visit | None:
        """A car begins to charge; None when the connector is taken or the power is off."""
        if connector in self.running or not self.powered:
            return None
        visit = Visit(
            station=self.name,
            connector=connector,
            token=token,
            start_wh=self.registers[connector],
            began=self.world.loop.time(),
            measured_wh=self.registers[connector],
            remote=remote,
        )
        self.visits.append(visit)
        self.running[connector] = visit
        self.world.note(self.name, "begin", connector, token, visit.start_wh)
        self.say_status(connector, "Charging")
        body = {
            "connectorId": connector,
            "idTag": token,
            "meterStart": visit.start_wh,
            "timestamp": self.clock_text(),
        }
        self._say_fact(visit, "StartTransaction", body)
        return visit

    def charge(self, connector: int, wh: int, *, tell: bool) -> None:
        """Energy flows; the station tells its register if it samples now."""
        visit = self.running.get(connector)
        if visit is None or not self.powered:
            return
        self.registers[connector] += wh
        if tell:
            self._say_fact(visit, "MeterValues", self._meter_body(connector))

    def _meter_body(self, connector: int) -> dict[str, Any]:
        register = self.registers[connector]
        samples = [{"value": str(register)}]
        if self.rng.random() < 0.5:
            samples.append({"value": "7200.5", "measurand": "Power.Active.Import", "unit": "W"})
        return {"connectorId": connector, "meterValue": [{"timestamp": self.clock_text(), "sampledValue": samples}]}

    def end(self, connector: int, reason: str | None, *, late_meter: bool = False, hang_up: str = "") -> None:
        """The car is done."""
        visit = self.running.pop(connector, None)
        if visit is None:
            return
        self._end_visit(visit, reason, late_meter=late_meter, hang_up=hang_up)
        if self.powered:
            self.say_status(connector, "Available")

    def _end_visit(self, visit: Visit, reason: str | None, *, late_meter: bool = False, hang_up: str = "") -> None:
        visit.stop_wh = self.registers[visit.connector]
        visit.ended = self.world.loop.time()
        self.world.note(self.name, "end", visit.connector, visit.stop_wh)
        body: dict[str, Any] = {"meterStop": visit.stop_wh, "timestamp": self.clock_text()}
        if reason is not None:
            body["reason"] = reason
        if self.rng.random() < 0.3:
            body["idTag"] = visit.token
        late = self._meter_body(visit.connector) if late_meter else None
        if self.traits.transaction_data:
            body["transactionData"] = self._meter_body(visit.connector)["meterValue"]
        self._say_fact(visit, "StopTransaction", body, hang_up=hang_up)
        if late is not None:
            self._say_fact(visit, "MeterValues", late)

    def lose_power(self, for_s: float, what: str) -> None:
        """The power goes; what becomes of transactions: `stop`, `forget` or `go on`."""
        if not self.powered:
            return
        self.world.note(self.name, "power lost", what)
        self.powered = False
        if self.link is not None:
            self.link.cut_by_station(frames_arrive=self.rng.random() < 0.5)
        if not self.traits.keeps_queue:
            for fact in self.queue:
                fact.state = "forgotten"
                fact.visit.forgotten = True
            self.queue.clear()
        self.world.loop.call_later(for_s, self._power_up, what)

    def _power_up(self, what: str) -> None:
        self.powered = True
        self._on_since = self.world.loop.time()
        self._booted = False
        if self.traits.clock == "back":
            self._clock_shift_s -= 600.0
        self.world.note(self.name, "power up")
        if what != "go on":
            for connector in list(self.running):
                visit = self.running.pop(connector)
                if what == "stop":
                    self._end_visit(visit, "PowerLoss")
                else:
                    visit.forgotten = True
                    visit.stop_wh = self.registers[connector]
                    visit.ended = self.world.loop.time()
        self.connect()

    # --- what it says --------------------------------------------------------------------------------

    def _say_fact(self, visit: Visit, action: str, body: dict[str, Any], *, hang_up: str = "") -> Fact:
        self._facts += 1
        fact = Fact(visit, action, body, self._facts, hang_up=hang_up)
        visit.facts.append(fact)
        if self.world.draw_lost_answer(self, fact):
            fact.ignore = 1
        if self.traits.late_ends and action == "StopTransaction" and self.rng.random() < 0.5:
            self.world.note(self.name, "keeps an end back")
            self.world.loop.call_later(self.rng.uniform(100.0, 9_000.0), self._queue, fact)
        else:
            self._queue(fact)
        return fact

    def _queue(self, fact: Fact) -> None:
        self.queue.append(fact)
        self.pump()

    def replay(self, fact: Fact) -> None:
        """Sends once more what was answered long ago."""
        if not fact.exchanges or not self.powered:
            return
        self._facts += 1
        again = Fact(fact.visit, fact.action, fact.body, self._facts, replay=self.rng.choice(fact.exchanges)[0])
        again.exchanges = fact.exchanges
        self.queue.append(again)
        self.world.note(self.name, "replay", fact.number)
        self.pump()

    def say_status(self, connector: int, status: str) -> None:
        """A StatusNotification; worth nothing later."""
        body = {
            "connectorId": connector,
            "errorCode": "NoError",
            "status": status,
            "timestamp": self.clock_text(),
        }
        self.say("StatusNotification", body)

    def say(self, action: str, body: dict[str, Any], then: Callable[[Any], None] | None = None) -> None:
        """A message that is lost with the connection."""
        if self.link is not None and (self._booted or action == "BootNotification"):
            self._plain.append((action, body, then))
            self.pump()

    def pump(self) -> None:
        """Sends what may be sent now."""
        while self.link is not None and self.powered:
            in_flight = len(self._calls)
            if in_flight and (in_flight >= self.traits.pipeline or not self._booted):
                return
            if self._plain and not in_flight:
                action, body, then = self._plain.popleft()
                self._send(self._new_id(), action, encode(body).decode(), None, then)
                continue
            if not self._booted:
                return
            fact = self._next_fact()
            if fact is None:
                return
            self._send_fact(fact)

    def _next_fact(self) -> Fact | None:
        flying = {call.fact for call in self._calls.values()}
        for fact in self.queue:
            if fact in flying:
                if fact.action == "StartTransaction":
                    return None  # what follows needs its id
                continue
            now = self.world.loop.time()
            if fact.not_before > now:
                if self._pump_timer_at != fact.not_before:
                    self._pump_timer_at = fact.not_before
                    self.world.loop.call_at(fact.not_before, self.pump)
                return None
            return fact
        return None

    def _send_fact(self, fact: Fact) -> None:
        if fact.message_id is None or not self.traits.same_id:
            fact.message_id = self._new_id()
        payload = fact.replay or self._payload_of(fact)
        fact.sent.append(payload)
        link = self.link
        self._send(fact.message_id, fact.action, payload, fact, None)
        if fact.hang_up and link is not None:
            self._hang_up(fact, link)

    def _payload_of(self, fact: Fact) -> str:
        body = fact.body
        if fact.action == "StartTransaction":
            if self.traits.moving_start and fact.sent:
                body = {**body, "timestamp": self.clock_text()}
        else:
            known = fact.visit.transaction_id
            if known is None or fact.skip_id:
                known = self.traits.unknown_id if fact.action == "MeterValues" else (self.traits.unknown_id or -1)
            body = body if known is None else {**body, "transactionId": known}
        return encode(body).decode()

    def _hang_up(self, fact: Fact, link: Link) -> None:
        forget = fact.hang_up == "forget"
        fact.hang_up = ""
        self.world.note(self.name, "hangs up after", fact.action)
        if forget:
            self.queue.remove(fact)
            fact.state = "forgotten"
            fact.visit.forgotten = True
        link.cut_by_station(frames_arrive=True)

    def _send(
        self, message_id: str, action: str, payload: str, fact: Fact | None, then: Callable[[Any], None] | None
    ) -> None:
        link = self.link
        if link is None:
            return
        timer = self.world.loop.call_later(self.traits.timeout_s, self._timed_out, message_id)
        self._calls[message_id] = _Call(fact, then, timer)
        self.world.note(self.name, ">", action, payload)
        link.to_server(f'[2,"{message_id}","{action}",{payload}]')

    def _new_id(self) -> str:
        self._number += 1
        if self.traits.ids == "counter":
            return str(self._number)
        return f"{self.rng.getrandbits(64):016x}"

    # --- what it hears -------------------------------------------------------------------------------

    def hear(self, link: Link, text: str) -> None:
        """A frame of the server."""
        if link is not self.link or not self.powered:
            return
        frame = decode(text)
        if frame[0] == 2:
            self._obey(link, frame[1], frame[2], frame[3])
            return
        call = self._calls.get(frame[1])
        if call is None:
            return
        if call.fact is not None and call.fact.ignore:
            call.fact.ignore -= 1
            self.world.note(self.name, "does not see the answer to", call.fact.action)
            call.fact.exchanges.append((call.fact.sent[-1], encode(frame[2]).decode()))
            return
        del self._calls[frame[1]]
        call.timer.cancel()
        if call.fact is None:
            self.world.note(self.name, "<")
            if call.then is not None:
                call.then(frame[2] if frame[0] == 3 else None)
        elif frame[0] == 3:
            self._answered(call.fact, frame[2])
        else:
            self.world.note(self.name, "< error", call.fact.action, frame[2])
            self.world.failures.append(f"{self.name}: a CALLERROR {frame[2]} to a {call.fact.action}")
            self._failed(call.fact)
        self.pump()

    def _answered(self, fact: Fact, body: Any) -> None:
        text = encode(body).decode()
        self.world.note(self.name, "<", fact.action, text)
        fact.state = "answered"
        self._backoff_s = 1.0
        fact.exchanges.append((fact.sent[-1], text))
        if fact.action == "StartTransaction" and "transactionId" not in body:
            self.world.failures.append(f"G4 {self.name} got {text} for a start")
        elif fact.action == "StartTransaction":
            fact.visit.ids.add(body["transactionId"])
            if fact.visit.transaction_id is None and fact.replay is None:
                fact.visit.transaction_id = body["transactionId"]
        self.queue.remove(fact)
        if fact.replay is None:
            self.world.draw_replay(self, fact)

    def _timed_out(self, message_id: str) -> None:
        call = self._calls.pop(message_id, None)
        if call is None:
            return
        self.world.note(self.name, "no answer")
        if call.fact is not None:
            self._failed(call.fact)
        elif call.then is not None:
            call.then(None)
        if self.link is not None and (self.link.silent or self.rng.random() < 0.2):
            self.link.cut_by_station(frames_arrive=False)
        self.pump()

    def _failed(self, fact: Fact) -> None:
        fact.attempts += 1
        if fact.action == "StartTransaction" and self.traits.start_once:
            self.queue.remove(fact)
            fact.state = "forgotten"
            fact.visit.forgotten = fact.visit.forgotten or not fact.exchanges
            self.world.note(self.name, "gives a start up")
        elif fact.attempts >= self.traits.attempts:
            self.queue.remove(fact)
            fact.state = "discarded"
            self.discards.append(fact)
            self.world.note(self.name, "discards", fact.action)
        else:
            fact.not_before = self.world.loop.time() + self.traits.interval_s * fact.attempts

    def _obey(self, link: Link, message_id: str, action: str, body: dict[str, Any]) -> None:
        self.world.note(self.name, "is asked", action)
        kind = 3
        answer: dict[str, Any] = {"status": "Rejected"}
        if action == "RemoteStartTransaction":
            connector, token = body.get("connectorId", 1), body["idTag"]
            if connector not in self.running and self.rng.random() < 0.85:
                answer = {"status": "Accepted"}
                if self.rng.random() < 0.85:
                    self.world.loop.call_later(
                        self.rng.choice((0.5, 5.0, 60.0, 300.0)), self.world.begin_remote, self, connector, token
                    )
        elif action == "RemoteStopTransaction":
            for connector, visit in self.running.items():
                if visit.transaction_id == body["transactionId"]:
                    answer = {"status": "Accepted"}
                    self.world.loop.call_later(2.0, self.end, connector, "Remote")
        else:
            kind = 4
        if self.rng.random() < 0.1:
            return  # some calls are never answered
        text = encode(answer).decode() if kind == 3 else '"NotImplemented","",{}'
        link.to_server(f'[{kind},"{message_id}",{text}]')

    # --- its connection ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Tries to connect, again and again, later each time."""
        if self.link is not None or not self.powered or self._connecting:
            return
        link = self.world.open_link(self)
        if link is None:
            self._connecting = True
            self.world.loop.call_later(self._backoff_s * self.rng.uniform(0.5, 1.5), self._try_again)
            self._backoff_s = min(self._backoff_s * 2, 3600.0)
            return
        self.link = link
        if self.traits.ids == "counter":
            self._number = 0
            for fact in self.queue:
                fact.message_id = None  # ids begin anew: an older one would now be another message's
        if self.traits.boot_on_reconnect:
            self._booted = False
        if not self._booted:
            self._boot()
        self.pump()

    def _try_again(self) -> None:
        self._connecting = False
        self.connect()

    def _boot(self) -> None:
        self.say("BootNotification", {"chargePointVendor": "Sim", "chargePointModel": "M"}, self._boot_answered)

    def _boot_answered(self, body: Any) -> None:
        if body is None:
            if self.link is not None:
                self.world.loop.call_later(10.0, self._boot_again, self.link)
            return
        self._booted = True
        for connector in range(1, self.connectors + 1):
            self.say_status(connector, "Charging" if connector in self.running else "Available")

    def _boot_again(self, link: Link) -> None:
        if link is self.link and not self._booted:
            self._boot()

    def lost_link(self, link: Link) -> None:
        """The connection is gone; a message in flight waits in the queue again, and costs no attempt."""
        if link is not self.link:
            return
        self.link = None
        self.world.note(self.name, "offline")
        calls, self._calls = self._calls, {}
        self._plain.clear()
        for call in calls.values():
            call.timer.cancel()
            fact = call.fact
            if fact is not None and fact.action == "StartTransaction" and self.traits.start_once and fact in self.queue:
                self._failed(fact)
        self._connecting = True
        self.world.loop.call_later(self._backoff_s * self.rng.uniform(0.5, 1.5), self._try_again)
        self._backoff_s = min(self._backoff_s * 2, 3600.0)

    def second_socket(self) -> None:
        """Connects anew without a word on the older connection, whose frames may still arrive."""
        old = self.link
        if old is None:
            return
        self.world.note(self.name, "second socket")
        old.cut_by_station(frames_arrive=True)
