"""One charging station as a value that is told what happens and says what it does. OCPP 1.6J.

No socket, no clock, no task: `advance`, `opened`, `closed` and `received` take the time as an argument and
return effects in the order in which the shell must perform them. The same seed and the same inputs give the
same effects.

The rules it keeps: a register only grows; transaction messages leave in the order in which they became true,
are kept while offline and are given up only after the last counted attempt; every such step is noted.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum, StrEnum, auto
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Any
from uuid import UUID

from voltledger.simulator.behaviour import Behaviour
from voltledger.simulator.commands import answer_command
from voltledger.simulator.configuration import Configuration
from voltledger.simulator.journal import JournalLine, Kind
from voltledger.simulator.power import Charge, draw_car
from voltledger.simulator.queue import Fact, TransactionQueue
from voltledger.simulator.settings import ClockFault, MessageIds, StationSettings
from voltledger.simulator.wire import Call, Error, Frame, Payload, Result, sampled_values, timestamp


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this frame on the current socket."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Note:
    """Write this line to the journal, before the next effect."""

    line: JournalLine


@dataclass(frozen=True, slots=True)
class Cut:
    """Abort the TCP connection without a close frame."""

    why: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the socket politely, without waiting for any answer."""


@dataclass(frozen=True, slots=True)
class SecondSocket:
    """Open another connection under the same identity, and move to it or go on with the first."""

    take_over: bool


Effect = Transmit | Note | Cut | HangUp | SecondSocket


class Status(StrEnum):
    """What a connector reports."""

    AVAILABLE = "Available"
    PREPARING = "Preparing"
    CHARGING = "Charging"
    SUSPENDED_EV = "SuspendedEV"
    FINISHING = "Finishing"
    UNAVAILABLE = "Unavailable"


class Phase(Enum):
    """How far a visit has come."""

    PLUGGED = auto()  # the car is there, nobody has started
    CHARGING = auto()  # energy flows, or could
    ENDED = auto()  # the car will take no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was drawn for one session before it began."""

    behaviour: Behaviour
    duration_s: float
    prepare_s: float
    finish_s: float
    fault_at: float  # as a fraction of the duration
    stop_reason: str
    lost_answer_of: str
    foreign_transaction_id: int | None  # for an orphan; None: it says nothing but its status
    rejects_remote_stop: bool
    takes_over: bool
    outage_s: float


@dataclass(slots=True, kw_only=True, eq=False)
class Session:
    """One car's visit, as the station knows it."""

    number: int
    connector: "Connector"
    token: str
    plan: Plan
    charge: Charge
    phase: Phase = Phase.PLUGGED
    begin_register_wh: int = 0
    metered_at: float = 0.0
    transaction_id: int | None = None
    start_answered: bool = False

    @property
    def is_orphan(self) -> bool:
        return self.plan.behaviour is Behaviour.ORPHAN


@dataclass(slots=True, kw_only=True, eq=False)
class Connector:
    """One plug with its meter."""

    number: int
    register_wh: int
    outlet_power_w: float
    operative: bool = True
    status: Status = Status.AVAILABLE
    session: Session | None = None
    _fraction_wh: float = 0.0

    def add_energy(self, energy_wh: float) -> None:
        """Moves the register forward, in whole Wh; the rest is kept for the next time."""
        if energy_wh < 0:
            raise ValueError("an import register never falls")
        self._fraction_wh += energy_wh
        whole = int(self._fraction_wh)
        self.register_wh += whole
        self._fraction_wh -= whole


Answer = Callable[[Result | None], None]


@dataclass(slots=True, kw_only=True, eq=False)
class _InFlight:
    call: Call
    fact: Fact[Session] | None
    on_answer: Answer | None


@dataclass(slots=True, kw_only=True, eq=False)
class _Plain:
    """A call that is not a transaction message; lost with the connection."""

    order: int
    action: str
    payload: Payload
    on_answer: Answer | None


@dataclass(slots=True, kw_only=True, eq=False)
class _OwedStop:
    """A StopTransaction that is true and not in the queue yet."""

    session: Session
    reason: str
    at: float
    register_wh: int


@dataclass(order=True, slots=True)
class _Timer:
    at: float
    order: int
    epoch: int = field(compare=False)
    action: Callable[[], None] = field(compare=False)


@dataclass(slots=True)
class Counts:
    """What a station has done so far."""

    sessions_begun: int = 0
    sessions_ended: int = 0
    sent: int = 0
    answered: int = 0
    timed_out: int = 0
    refused: int = 0
    discarded: int = 0
    commands: int = 0


class Station:
    """One charging station.

    Units: time arguments are seconds since 1970, real; energy in Wh.
    """

    def __init__(self, settings: StationSettings, *, now: float) -> None:
        self.settings = settings
        self.configuration = Configuration.of(settings)
        self.counts = Counts()
        self.powered = True
        self.booted = False
        self.is_open = False
        self.queue: TransactionQueue[Session] = TransactionQueue()
        self._name = f"{settings.seed}/{settings.station}"
        self._rng = Random(f"{self._name}/station")
        self._ids = Random(f"{self._name}/ids")
        self.connectors = [self._new_connector(number) for number in range(1, settings.connectors + 1)]
        self._now = now
        self._powered_at = now
        self._epoch = 0
        self._order = 0
        self._message_number = 0
        self._fact_number = 0
        self._session_number = 0
        self._own_sessions = 0
        self._heartbeat_round = 0
        self._winding_up = False
        self._boot_due = True
        self._timers: list[_Timer] = []
        self._outbox: deque[_Plain] = deque()
        self._in_flight: _InFlight | None = None
        self._given_up: dict[str, str] = {}  # message id -> action, of calls nobody waits for any more
        self._owed: list[_OwedStop] = []
        self._effects: list[Effect] = []
        for connector in self.connectors:
            self._plan_next(connector)

    # --- What the shell calls ---------------------------------------------------------------------------

    def advance(self, now: float) -> list[Effect]:
        """Lets time pass up to `now`; every due event happens at its own time."""
        while self._timers and self._timers[0].at <= now:
            timer = heappop(self._timers)
            if timer.epoch != self._epoch:
                continue
            self._now = max(self._now, timer.at)
            timer.action()
            self._pump()
        self._now = max(self._now, now)
        return self._take_effects()

    def opened(self, now: float) -> list[Effect]:
        """The socket is open; without a reboot a station just goes on."""
        effects = self.advance(now)
        self.is_open = True
        if self.settings.boot_on_reconnect:
            self.booted, self._boot_due = False, True
        if self.booted:
            self._report_all()
        self._pump()
        return effects + self._take_effects()

    def closed(self, now: float) -> list[Effect]:
        """The socket is gone. A message in flight goes back to the queue and is not charged an attempt."""
        effects = self.advance(now)
        if self.is_open:
            self._connection_lost()
        return effects + self._take_effects()

    def received(self, frame: Frame, now: float) -> list[Effect]:
        """A frame arrived."""
        effects = self.advance(now)
        if self.powered:
            if isinstance(frame, Call):
                self._obey(frame)
            else:
                self._use_answer(frame)
            self._pump()
        return effects + self._take_effects() + self.advance(now)

    def plug_in(self, connector: int, token: str, now: float) -> list[Effect]:
        """A driver comes, whatever the plan was; nothing happens if the connector is busy."""
        effects = self.advance(now)
        target = self.connectors[connector - 1]
        if self.powered and target.session is None and target.operative:
            self._plug_in(target, token=token, is_remote=False)
            self._pump()
        return effects + self._take_effects()

    def power_loss(self, now: float, *, queue_survives: bool, outage_s: float | None = None) -> list[Effect]:
        """The station goes dark for simulated seconds; cars stop taking energy at this moment."""
        effects = self.advance(now)
        if self.powered:
            outage_s = self._rng.uniform(*self.settings.outage_s) if outage_s is None else outage_s
            self._go_dark("PowerLoss", queue_survives=queue_survives, outage_s=outage_s)
        return effects + self._take_effects()

    def wind_up(self, now: float) -> list[Effect]:
        """No new sessions; the running ones end now, with a StopTransaction."""
        effects = self.advance(now)
        self._winding_up = True
        for connector in self.connectors:
            session = connector.session
            if session is None:
                continue
            if session.phase is Phase.CHARGING:
                self._end(session, "Local")
            self._unplug(session)
        self._queue_owed_stops()
        self._pump()
        return effects + self._take_effects()

    @property
    def wake_at(self) -> float | None:
        """When `advance` must be called next."""
        while self._timers and self._timers[0].epoch != self._epoch:
            heappop(self._timers)
        return self._timers[0].at if self._timers else None

    @property
    def is_finished(self) -> bool:
        """All its sessions are over and everything about them has been delivered or given up."""
        enough = self._winding_up or (
            self.settings.autonomous
            and self.settings.sessions is not None
            and self._own_sessions >= self.settings.sessions
        )
        idle = all(connector.session is None for connector in self.connectors) or self._winding_up
        quiet = not self.queue and not self._outbox and not self._owed and self._in_flight is None
        return enough and idle and quiet and (self.powered or self._winding_up)

    @property
    def active_sessions(self) -> list[Session]:
        """Sessions in which energy flows or could."""
        return [
            connector.session
            for connector in self.connectors
            if connector.session is not None and connector.session.phase is Phase.CHARGING
        ]

    # --- What commands do -------------------------------------------------------------------------------

    def remote_start(self, connector_number: int | None, token: str) -> bool:
        """Accepts when a connector is free; the session begins after the answer has been sent."""
        for connector in self.connectors:
            wanted = connector_number is None or connector.number == connector_number
            if wanted and connector.operative and connector.session is None and not self._winding_up:
                self._after(0.0, self._remote_plug_in, connector, token)
                return True
        return False

    def remote_stop(self, transaction_id: int) -> bool:
        """Accepts for a transaction that runs here; a frozen station goes on whatever it answers."""
        for session in self.active_sessions:
            if session.transaction_id == transaction_id and not session.is_orphan:
                if session.plan.behaviour is Behaviour.FROZEN:
                    return not session.plan.rejects_remote_stop
                self._after(0.0, self._end_if_charging, session, "Remote")
                return True
        return False

    def unlock(self, connector_number: int) -> str:
        """Ends the session, if any, and lets go of the plug."""
        if not 1 <= connector_number <= len(self.connectors):
            return "NotSupported"
        session = self.connectors[connector_number - 1].session
        if session is not None:
            self._after(0.0, self._end_if_charging, session, "UnlockCommand")
        return "Unlocked"

    def change_availability(self, connector_number: int, operative: bool) -> str:
        """Takes effect at once, or after the session that is running."""
        if not 0 <= connector_number <= len(self.connectors):
            return "Rejected"
        busy = False
        for connector in self.connectors:
            if connector_number in (0, connector.number):
                connector.operative = operative
                if connector.session is not None:
                    busy = True
                else:
                    self._after(0.0, self._show_rest, connector)
        return "Scheduled" if busy and not operative else "Accepted"

    def reset(self, is_hard: bool) -> None:
        """Restarts after the answer: at once, or after the sessions have been stopped and reported."""
        if is_hard:
            self._after(0.05, self._restart, "HardReset")
            return
        for session in self.active_sessions:
            self._after(0.0, self._end_if_charging, session, "SoftReset")
        self._after(0.05, self._restart_when_quiet, self._now + 5.0)

    def trigger(self, message: str, connector_number: int | None) -> str:
        """Sends what the server asks for, after the answer."""
        if connector_number is not None and not 0 <= connector_number <= len(self.connectors):
            return "Rejected"
        chosen = [c for c in self.connectors if connector_number in (None, 0, c.number)]
        match message:
            case "Heartbeat":
                self._after(0.0, self._say, "Heartbeat", {})
            case "StatusNotification":
                for connector in chosen:
                    self._after(0.0, self._report, connector)
            case "MeterValues":
                for connector in chosen:
                    self._after(0.0, self._sample_on_trigger, connector)
            case "BootNotification":
                self._after(0.0, self._say_boot)
            case _:
                return "NotImplemented"
        return "Accepted"

    # --- Sessions ---------------------------------------------------------------------------------------

    def _plan_next(self, connector: Connector) -> None:
        if self.settings.autonomous:
            first = self._session_number == 0
            low, high = self.settings.idle_s
            idle_s = self._rng.uniform(0.0 if first else low, high)
            self._after(self._real(idle_s), self._arrive, connector)

    def _arrive(self, connector: Connector) -> None:
        limit = self.settings.sessions
        if self._winding_up or (limit is not None and self._own_sessions >= limit):
            return
        if connector.session is not None or not connector.operative:
            self._plan_next(connector)
            return
        self._own_sessions += 1
        self._plug_in(connector, token=None, is_remote=False)

    def _remote_plug_in(self, connector: Connector, token: str) -> None:
        if connector.session is None and not self._winding_up:
            self._plug_in(connector, token=token, is_remote=True)

    def _plug_in(self, connector: Connector, *, token: str | None, is_remote: bool) -> None:
        self._session_number += 1
        rng = Random(f"{self._name}/session/{self._session_number}")
        plan = _draw_plan(rng, self.settings)
        drawn_token = rng.choice(self._free_tokens())
        session = Session(
            number=self._session_number,
            connector=connector,
            token=token if token is not None else drawn_token,
            plan=plan,
            charge=Charge(draw_car(rng, connector.outlet_power_w), connector.outlet_power_w),
        )
        connector.session = session
        self._show(connector, Status.PREPARING)
        asks = self.settings.authorize and not session.is_orphan
        if is_remote:
            asks = self.configuration.is_on("AuthorizeRemoteTxRequests")
        self._after(self._real(plan.prepare_s), self._authorize if asks else self._begin, session)

    def _free_tokens(self) -> list[str]:
        busy = {connector.session.token for connector in self.connectors if connector.session is not None}
        return [token for token in self.settings.tokens if token not in busy] or list(self.settings.tokens)

    def _authorize(self, session: Session) -> None:
        if not (self.is_open and self.booted):
            self._begin(session)  # LocalAuthorizeOffline
            return

        def answered(result: Result | None) -> None:
            status = _token_status(result)
            if status in (None, "Accepted"):  # no answer is the same as being offline
                self._begin(session)
                return
            self._note(Kind.REFUSED, session=session, reason=status)
            self._unplug(session)

        self._say("Authorize", {"idTag": session.token}, answered)

    def _begin(self, session: Session) -> None:
        if session.phase is not Phase.PLUGGED or session.connector.session is not session:
            return
        session.phase = Phase.CHARGING
        session.begin_register_wh = session.connector.register_wh
        session.metered_at = self._now
        self.counts.sessions_begun += 1
        self._note(Kind.SESSION_BEGIN, session=session, token=session.token, behaviour=str(session.plan.behaviour))
        if not session.is_orphan:
            self._queue_start(session)
        self._show(session.connector, Status.CHARGING)
        self._after(self._sample_interval, self._sample, session)
        duration = self._real(session.plan.duration_s)
        self._after(duration, self._end_if_charging, session, session.plan.stop_reason)
        self._after(duration * session.plan.fault_at, self._misbehave, session)

    def _queue_start(self, session: Session) -> None:
        start = {
            "connectorId": session.connector.number,
            "idTag": session.token,
            "meterStart": session.connector.register_wh,
            "timestamp": self._wire_time(self._now),
        }
        self._queue_fact(session, "StartTransaction", start)
        if session.plan.behaviour is Behaviour.DUPLICATE_START:
            self._queue_fact(session, "StartTransaction", start, duplicate=True)

    def _misbehave(self, session: Session) -> None:
        if session.phase is not Phase.CHARGING:
            return
        match session.plan.behaviour:
            case Behaviour.RECONNECT if self.is_open:
                self._effects.append(Cut("reconnect"))
                self._connection_lost()
            case Behaviour.DOUBLE_SOCKET if self.is_open:
                self._effects.append(SecondSocket(session.plan.takes_over))
            case Behaviour.POWER_LOSS:
                self._go_dark("PowerLoss", queue_survives=True, outage_s=session.plan.outage_s)
            case Behaviour.AMNESIA:
                self._go_dark("PowerLoss", queue_survives=False, outage_s=session.plan.outage_s)
            case _:
                pass

    def _measure(self, session: Session) -> None:
        """Brings the register up to now."""
        passed_s = (self._now - session.metered_at) * self.settings.time_scale
        session.connector.add_energy(session.charge.pass_time(passed_s))
        session.metered_at = self._now

    def _sample(self, session: Session) -> None:
        if session.phase is not Phase.CHARGING:
            return
        self._measure(session)
        if not session.is_orphan or session.plan.foreign_transaction_id is not None:
            self._queue_meter_values(session)
        if session.charge.is_full and session.connector.status is Status.CHARGING:
            self._show(session.connector, Status.SUSPENDED_EV)
        self._after(self._sample_interval, self._sample, session)

    def _queue_meter_values(self, session: Session) -> None:
        self._queue_fact(
            session,
            "MeterValues",
            {
                "connectorId": session.connector.number,
                "meterValue": [self._meter_value(session.connector)],
            },
        )

    def _sample_on_trigger(self, connector: Connector) -> None:
        session = connector.session
        if session is not None and session.phase is Phase.CHARGING and not session.is_orphan:
            self._measure(session)
            self._queue_meter_values(session)
            return
        value = self._meter_value(connector, context="Trigger")
        self._say("MeterValues", {"connectorId": connector.number, "meterValue": [value]})

    def _meter_value(self, connector: Connector, *, context: str = "Sample.Periodic") -> dict[str, Any]:
        session = connector.session
        charging = session is not None and session.phase is Phase.CHARGING
        charge = session.charge if session is not None and charging else None
        return {
            "timestamp": self._wire_time(self._now),
            "sampledValue": sampled_values(
                register_wh=connector.register_wh,
                power_w=charge.power_w if charge else 0.0,
                current_a=charge.current_a if charge else 0.0,
                soc_percent=charge.soc * 100 if charge else None,
                context=context,
            ),
        }

    def _end_if_charging(self, session: Session, reason: str) -> None:
        if session.phase is Phase.CHARGING:
            self._end(session, reason)

    def _end(self, session: Session, reason: str) -> None:
        """The car stops taking energy; what the server hears of it depends on the behaviour drawn."""
        self._end_truth(session, reason)
        owed = _OwedStop(session=session, reason=reason, at=self._now, register_wh=session.connector.register_wh)
        match session.plan.behaviour:
            case Behaviour.LOST_STOP:
                self._forget_stop(owed)
                self._unplug(session)
                return
            case Behaviour.AVAILABLE_WITHOUT_STOP if not self._winding_up:
                self._owed.append(owed)
                self._show(session.connector, Status.AVAILABLE)
                self._after(self._real(self.settings.late_stop_s), self._queue_owed_stop, owed)
                self._after(self._real(self.settings.late_stop_s), self._unplug, session)
                return
            case Behaviour.ORPHAN:
                pass
            case _:
                self._queue_stop(owed)
        self._show(session.connector, Status.FINISHING)
        self._after(self._real(session.plan.finish_s), self._unplug, session)

    def _end_truth(self, session: Session, reason: str) -> None:
        self._measure(session)
        session.phase = Phase.ENDED
        self.counts.sessions_ended += 1
        energy_wh = session.connector.register_wh - session.begin_register_wh
        self._note(Kind.SESSION_END, session=session, energy_wh=energy_wh, reason=reason)

    def _stop_payload(self, owed: _OwedStop) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "meterStop": owed.register_wh,
            "timestamp": self._wire_time(owed.at),
            "reason": owed.reason,
        }
        if owed.reason in ("Local", "DeAuthorized"):
            payload["idTag"] = owed.session.token
        return payload

    def _queue_stop(self, owed: _OwedStop) -> None:
        hang_up = owed.session.plan.behaviour is Behaviour.STOP_THEN_HANG_UP
        self._queue_fact(owed.session, "StopTransaction", self._stop_payload(owed), hang_up=hang_up)

    def _queue_owed_stop(self, owed: _OwedStop) -> None:
        if owed in self._owed:
            self._owed.remove(owed)
            self._queue_stop(owed)

    def _queue_owed_stops(self) -> None:
        for owed in list(self._owed):
            self._queue_owed_stop(owed)

    def _forget_stop(self, owed: _OwedStop) -> None:
        self._fact_number += 1
        self._note(
            Kind.FORGOTTEN,
            session=owed.session,
            fact=self._fact_number,
            action="StopTransaction",
            payload=self._stop_payload(owed),
            reason=str(Behaviour.LOST_STOP),
        )

    def _unplug(self, session: Session) -> None:
        connector = session.connector
        if connector.session is not session:
            return
        session.phase = Phase.ENDED
        connector.session = None
        self._show_rest(connector)
        self._plan_next(connector)

    # --- Power ------------------------------------------------------------------------------------------

    def _go_dark(self, reason: str, *, queue_survives: bool, outage_s: float) -> None:
        """Power is gone or the station restarts; the truth about running sessions ends here."""
        kind = Kind.POWER_LOSS if reason == "PowerLoss" else Kind.RESTART
        self._note(kind, reason=f"{reason}, queue {'kept' if queue_survives else 'lost'}")
        for connector in self.connectors:
            session, connector.session = connector.session, None
            connector.status = Status.AVAILABLE if connector.operative else Status.UNAVAILABLE
            if session is not None and session.phase is Phase.CHARGING:
                self._end_dark(session, reason)
            elif session is not None:
                session.phase = Phase.ENDED
        self._cut_off(reason)
        if not queue_survives:
            self._lose_memory()
        self.powered = self.booted = False
        self._boot_due = True
        self._epoch += 1  # no timer set before survives
        self._after(max(0.05, self._real(outage_s)), self._power_up)

    def _end_dark(self, session: Session, reason: str) -> None:
        self._end_truth(session, reason)
        owed = _OwedStop(session=session, reason=reason, at=self._now, register_wh=session.connector.register_wh)
        if session.plan.behaviour is Behaviour.LOST_STOP:
            self._forget_stop(owed)
        elif not session.is_orphan:
            self._owed.append(owed)

    def _cut_off(self, reason: str) -> None:
        if self.is_open:
            self._effects.append(Cut(reason))
            self._connection_lost()

    def _lose_memory(self) -> None:
        for fact in self.queue.clear():
            self._note_fact(Kind.LOST, fact, reason="power loss")
        for owed in self._owed:
            self._fact_number += 1
            self._note(
                Kind.LOST,
                session=owed.session,
                fact=self._fact_number,
                action="StopTransaction",
                payload=self._stop_payload(owed),
                reason="power loss",
            )
        self._owed.clear()

    def _power_up(self) -> None:
        self.powered = True
        self._powered_at = self._now
        if self.settings.message_ids is MessageIds.COUNTER:
            self._message_number = 0
        self._note(Kind.POWER_UP)
        self._queue_owed_stops()
        for connector in self.connectors:
            self._plan_next(connector)

    def _restart(self, reason: str) -> None:
        self._go_dark(reason, queue_survives=True, outage_s=20.0)

    def _restart_when_quiet(self, deadline: float) -> None:
        if self._now >= deadline or (not self.queue and self._in_flight is None):
            self._restart("SoftReset")
        else:
            self._after(0.05, self._restart_when_quiet, deadline)

    # --- Saying things ----------------------------------------------------------------------------------

    def _show(self, connector: Connector, status: Status) -> None:
        if connector.status is not status:
            connector.status = status
            self._report(connector)

    def _show_rest(self, connector: Connector) -> None:
        self._show(connector, Status.AVAILABLE if connector.operative else Status.UNAVAILABLE)

    def _report(self, connector: Connector) -> None:
        self._report_status(connector.number, connector.status)

    def _report_status(self, connector_number: int, status: Status) -> None:
        self._say(
            "StatusNotification",
            {
                "connectorId": connector_number,
                "errorCode": "NoError",
                "status": str(status),
                "timestamp": self._wire_time(self._now),
            },
        )

    def _report_all(self) -> None:
        anything = any(connector.operative for connector in self.connectors)
        self._report_status(0, Status.AVAILABLE if anything else Status.UNAVAILABLE)
        for connector in self.connectors:
            self._report(connector)

    def _say(self, action: str, payload: Payload, on_answer: Answer | None = None) -> None:
        """A call that is worth nothing later: dropped when there is no connection, or before boot."""
        if self.is_open and (self.booted or action == "BootNotification"):
            self._order += 1
            self._outbox.append(_Plain(order=self._order, action=action, payload=payload, on_answer=on_answer))

    def _say_boot(self) -> None:
        settings = self.settings
        payload = {
            "chargePointVendor": settings.vendor,
            "chargePointModel": settings.model,
            "chargePointSerialNumber": settings.station[:25],
            "firmwareVersion": settings.firmware,
        }
        self._say("BootNotification", payload, self._boot_answered)

    def _boot_answered(self, result: Result | None) -> None:
        status = result.payload.get("status") if result else None
        interval = result.payload.get("interval") if result else None
        has_interval = isinstance(interval, int) and interval > 0
        self._note(Kind.BOOT, reason=str(status), payload=dict(result.payload) if result else None)
        if status != "Accepted":
            wait_s = float(interval) if has_interval and interval else self.settings.boot_retry_s
            self._after(wait_s, self._boot_again)
            return
        if has_interval:
            self.configuration.values["HeartbeatInterval"] = str(interval)
        was_booted, self.booted = self.booted, True
        if not was_booted:
            self._report_all()
            self._heartbeat_round += 1
            self._beat_later(self._heartbeat_round)

    def _boot_again(self) -> None:
        if not self.booted:
            self._boot_due = True

    def _beat_later(self, beat_round: int) -> None:
        wait_s = self.configuration.number("HeartbeatInterval") or 300.0
        self._after(wait_s, self._beat, beat_round)

    def _beat(self, beat_round: int) -> None:
        if beat_round == self._heartbeat_round and self.booted:
            self._say("Heartbeat", {})
            self._beat_later(beat_round)

    def _queue_fact(
        self,
        session: Session,
        action: str,
        payload: dict[str, Any],
        *,
        hang_up: bool = False,
        duplicate: bool = False,
    ) -> None:
        self._fact_number += 1
        self._order += 1
        plan = session.plan
        fact = Fact(
            number=self._fact_number,
            subject=session,
            action=action,
            payload=payload,
            order=self._order,
            hang_up=hang_up,
            duplicate=duplicate,
        )
        if plan.behaviour is Behaviour.LOST_RESPONSE and plan.lost_answer_of == action:
            fact.ignore_answers = 1
            session.plan = _without_lost_answer(plan)
        self.queue.append(fact)
        self._note_fact(Kind.QUEUED, fact, payload=payload)

    # --- One call at a time -----------------------------------------------------------------------------

    def _pump(self) -> None:
        """Sends the next call, if the station may speak: boot first, then whatever was said earliest."""
        if not self.is_open or not self.powered or self._in_flight is not None:
            return
        if not self.booted:
            if self._boot_due:
                self._boot_due = False
                self._outbox.clear()
                self._say_boot()
                self._send_plain(self._outbox.popleft())
            return
        fact = self.queue.head
        if fact is not None and fact.not_before > self._now:
            fact = None
        if self._outbox and (fact is None or self._outbox[0].order < fact.order):
            self._send_plain(self._outbox.popleft())
        elif fact is not None:
            self._send_fact(fact)

    def _send_plain(self, plain: _Plain) -> None:
        call = Call(message_id=self._new_message_id(), action=plain.action, payload=plain.payload)
        self._send(_InFlight(call=call, fact=None, on_answer=plain.on_answer))

    def _send_fact(self, fact: Fact[Session]) -> None:
        if fact.message_id is None or not self.settings.retry_same_id:
            fact.message_id = self._new_message_id()
        payload = dict(fact.payload)
        if fact.action != "StartTransaction":
            payload["transactionId"] = self._transaction_id(fact)
        call = Call(message_id=fact.message_id, action=fact.action, payload=payload)
        self._send(_InFlight(call=call, fact=fact, on_answer=None))
        if fact.hang_up:
            self._effects.append(HangUp())
            self.queue.remove_head(fact)
            self._note_fact(Kind.FORGOTTEN, fact, reason=str(Behaviour.STOP_THEN_HANG_UP))
            self._in_flight = None
            self._connection_lost()

    def _transaction_id(self, fact: Fact[Session]) -> int:
        foreign = fact.subject.plan.foreign_transaction_id
        if fact.subject.is_orphan and foreign is not None:
            return foreign
        known = fact.subject.transaction_id
        return known if known is not None else self.settings.unknown_transaction_id

    def _send(self, in_flight: _InFlight) -> None:
        call = in_flight.call
        self._in_flight = in_flight
        self.counts.sent += 1
        fact = in_flight.fact
        sent: dict[str, Any] = {"message_id": call.message_id, "action": call.action}
        sent["payload"] = dict(call.payload)
        if fact is None:
            self._note(Kind.SENT, **sent)
        else:
            self._note_fact(Kind.SENT, fact, attempt=fact.attempts + 1, **sent)
        self._effects.append(Transmit(call))
        self._after(self.settings.call_timeout_s, self._time_out, in_flight)

    def _use_answer(self, frame: Result | Error) -> None:
        in_flight = self._in_flight
        if in_flight is None or in_flight.call.message_id != frame.message_id:
            self._note_stray_answer(frame)
            return
        fact = in_flight.fact
        if fact is not None and fact.ignore_answers > 0:
            fact.ignore_answers -= 1
            self._note_fact(Kind.ANSWER_IGNORED, fact, **_answer_fields(in_flight.call, frame))
            self._after(self.settings.lost_answer_wait_s, self._time_out, in_flight)
            return
        self._in_flight = None
        if fact is None:
            self._note_answer(in_flight.call, frame)
            if in_flight.on_answer is not None:
                in_flight.on_answer(frame if isinstance(frame, Result) else None)
        else:
            self._use_fact_answer(fact, in_flight.call, frame)

    def _use_fact_answer(self, fact: Fact[Session], call: Call, frame: Result | Error) -> None:
        self._count_answer(frame)
        self._note_fact(Kind.ANSWERED, fact, **_answer_fields(call, frame))
        if isinstance(frame, Error):
            self._failed(fact)
            return
        if fact.action == "StartTransaction" and not self._learn_transaction(fact, frame):
            self._failed(fact)
            return
        self.queue.remove_head(fact)
        if _token_status(frame) not in (None, "Accepted") and fact.action == "StartTransaction":
            self._obey_refusal(fact.subject)

    def _learn_transaction(self, fact: Fact[Session], frame: Result) -> bool:
        transaction_id = frame.payload.get("transactionId")
        if not isinstance(transaction_id, int):
            return False  # not an answer to a StartTransaction: as good as none
        fact.subject.start_answered = True
        if fact.subject.transaction_id is None:
            fact.subject.transaction_id = transaction_id
        return True

    def _obey_refusal(self, session: Session) -> None:
        if self.configuration.is_on("StopTransactionOnInvalidId"):
            self._end_if_charging(session, "DeAuthorized")

    def _time_out(self, in_flight: _InFlight) -> None:
        if self._in_flight is not in_flight:
            return
        self._in_flight = None
        self.counts.timed_out += 1
        call = in_flight.call
        self._given_up[call.message_id] = call.action
        fields: dict[str, Any] = {"message_id": call.message_id, "action": call.action}
        if in_flight.fact is not None:
            self._note_fact(Kind.TIMED_OUT, in_flight.fact, **fields)
            self._failed(in_flight.fact)
            return
        self._note(Kind.TIMED_OUT, **fields)
        if in_flight.on_answer is not None:
            in_flight.on_answer(None)

    def _failed(self, fact: Fact[Session]) -> None:
        was_last = self.queue.failed(
            fact,
            now=self._now,
            max_attempts=max(1, int(self.configuration.number("TransactionMessageAttempts"))),
            retry_interval_s=self.configuration.number("TransactionMessageRetryInterval"),
        )
        if was_last:
            self.counts.discarded += 1
            self._note_fact(Kind.DISCARDED, fact, attempt=fact.attempts, payload=dict(fact.payload))
        else:
            self._after(fact.not_before - self._now, self._pump)

    def _connection_lost(self) -> None:
        self.is_open = False
        waiting, self._in_flight = self._in_flight, None
        unsaid = list(self._outbox)
        self._outbox.clear()
        if not self.booted:
            self._boot_due = True
        callbacks = [plain.on_answer for plain in unsaid]
        if waiting is not None:
            self._given_up[waiting.call.message_id] = waiting.call.action
            callbacks.append(waiting.on_answer)
        for on_answer in callbacks:
            if on_answer is not None and on_answer != self._boot_answered:
                on_answer(None)

    def _obey(self, call: Call) -> None:
        self.counts.commands += 1
        answer = answer_command(self, call)
        fields = _answer_fields(call, answer)
        asked = {"request": dict(call.payload), "response": fields.pop("payload", None)}
        self._note(Kind.COMMAND, payload=asked, **fields)
        self._effects.append(Transmit(answer))

    # --- Small tools ------------------------------------------------------------------------------------

    def _new_connector(self, number: int) -> Connector:
        rng = Random(f"{self._name}/connector/{number}")
        drawn_register_wh = rng.randrange(100_000, 9_000_000)
        drawn_power_w = rng.choice((7_360.0, 11_040.0, 22_080.0, 50_000.0))
        given = self.settings.registers_wh
        return Connector(
            number=number,
            register_wh=given[number - 1] if number <= len(given) else drawn_register_wh,
            outlet_power_w=self.settings.outlet_power_w or drawn_power_w,
        )

    @property
    def _sample_interval(self) -> float:
        return self._real(self.configuration.number("MeterValueSampleInterval") or 60.0)

    def _real(self, simulated_s: float) -> float:
        return simulated_s / self.settings.time_scale

    def _after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        self._order += 1
        timer = _Timer(self._now + seconds, self._order, self._epoch, partial(action, *arguments))
        heappush(self._timers, timer)

    def _wire_time(self, at: float) -> str:
        match self.settings.clock_fault:
            case ClockFault.EPOCH:
                return timestamp(at - self._powered_at)
            case ClockFault.OFFSET:
                return timestamp(at + self.settings.clock_offset_s)
            case _:
                return timestamp(at)

    def _new_message_id(self) -> str:
        self._message_number += 1
        if self.settings.message_ids is MessageIds.COUNTER:
            return str(self._message_number)
        return str(UUID(int=self._ids.getrandbits(128), version=4))

    def _take_effects(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def _note(self, kind: Kind, *, session: Session | None = None, **fields: Any) -> None:
        if session is not None:
            fields["session"] = session.number
            fields["connector"] = session.connector.number
            fields["register_wh"] = session.connector.register_wh
        at = datetime.fromtimestamp(self._now, UTC)
        self._effects.append(Note(JournalLine(at=at, station=self.settings.station, kind=kind, **fields)))

    def _note_fact(self, kind: Kind, fact: Fact[Session], **fields: Any) -> None:
        self._note(kind, session=fact.subject, fact=fact.number, **{"action": fact.action, **fields})

    def _count_answer(self, frame: Result | Error) -> None:
        if isinstance(frame, Error):
            self.counts.refused += 1
        else:
            self.counts.answered += 1

    def _note_answer(self, call: Call, frame: Result | Error) -> None:
        self._count_answer(frame)
        self._note(Kind.ANSWERED, **_answer_fields(call, frame))

    def _note_stray_answer(self, frame: Result | Error) -> None:
        action = self._given_up.pop(frame.message_id, None)
        payload = dict(frame.payload) if isinstance(frame, Result) else None
        self._note(Kind.LATE_ANSWER, message_id=frame.message_id, action=action, payload=payload)


def _draw_plan(rng: Random, settings: StationSettings) -> Plan:
    behaviour = settings.behaviours.draw(rng)
    foreign_transaction_id = rng.randrange(1_000_000_000, 2_000_000_000)
    reports = rng.random() < 0.6
    return Plan(
        behaviour=behaviour,
        duration_s=rng.uniform(*settings.session_s),
        prepare_s=rng.uniform(*settings.prepare_s),
        finish_s=rng.uniform(*settings.finish_s),
        fault_at=rng.uniform(0.2, 0.8),
        stop_reason=rng.choice(("EVDisconnected", "Local")),
        lost_answer_of=rng.choice(("StartTransaction", "MeterValues", "StopTransaction")),
        foreign_transaction_id=foreign_transaction_id if reports else None,
        rejects_remote_stop=rng.random() < 0.3,
        takes_over=rng.random() < 0.5,
        outage_s=rng.uniform(*settings.outage_s),
    )


def _without_lost_answer(plan: Plan) -> Plan:
    """One answer is lost per session; the behaviour stays in the journal."""
    return replace(plan, lost_answer_of="")


def _token_status(result: Result | None) -> str | None:
    info = result.payload.get("idTagInfo") if result is not None else None
    status = info.get("status") if isinstance(info, dict) else None
    return status if isinstance(status, str) else None


def _answer_fields(call: Call, frame: Frame) -> dict[str, Any]:
    fields: dict[str, Any] = {"message_id": call.message_id, "action": call.action}
    if isinstance(frame, Error):
        fields["error"] = f"{frame.code} {frame.description}".rstrip()
    else:
        fields["payload"] = dict(frame.payload)
    return fields
