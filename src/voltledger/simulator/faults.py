"""What goes wrong with a station: sockets that break, power that fails, restarts."""

from voltledger.simulator.behaviour import Behaviour
from voltledger.simulator.delivery import Delivery
from voltledger.simulator.effects import SecondSocket
from voltledger.simulator.journal import Kind
from voltledger.simulator.machine import Machine
from voltledger.simulator.sessions import Sessions
from voltledger.simulator.statuses import rest_status
from voltledger.simulator.stops import Stops
from voltledger.simulator.visits import Connector, Phase, Session


class Faults:
    """The faults of one station."""

    def __init__(self, machine: Machine, delivery: Delivery, sessions: Sessions, stops: Stops) -> None:
        self._machine = machine
        self._delivery = delivery
        self._sessions = sessions
        self._stops = stops

    def misbehave(self, session: Session) -> None:
        """What was drawn for a session, in its midst."""
        if session.phase is not Phase.CHARGING:
            return
        plan = session.plan
        match plan.behaviour:
            case Behaviour.RECONNECT:
                self._delivery.cut("reconnect")
            case Behaviour.DOUBLE_SOCKET if self._delivery.is_open:
                self._machine.effects.append(SecondSocket(plan.takes_over))
            case Behaviour.POWER_LOSS:
                self.go_dark("PowerLoss", queue_survives=True, outage_s=plan.outage_s)
            case Behaviour.AMNESIA:
                self.go_dark("PowerLoss", queue_survives=False, outage_s=plan.outage_s)
            case _:
                pass

    def go_dark(self, reason: str, *, queue_survives: bool, outage_s: float) -> None:
        """Power is gone or the station restarts; the truth about running sessions ends here."""
        machine = self._machine
        kind = Kind.POWER_LOSS if reason == "PowerLoss" else Kind.RESTART
        machine.note(kind, reason=f"{reason}, queue {'kept' if queue_survives else 'lost'}")
        for connector in machine.connectors:
            self._end_dark(connector, reason)
        self._delivery.cut(reason)
        if not queue_survives:
            self._lose_memory()
        machine.powered = False
        self._delivery.forget_boot()
        machine.forget_timers()
        machine.after(max(0.05, machine.real(outage_s)), self._power_up)

    def _end_dark(self, connector: Connector, reason: str) -> None:
        session, connector.session = connector.session, None
        connector.status = rest_status(connector.operative)
        if session is None:
            return
        if session.phase is not Phase.CHARGING:
            session.phase = Phase.ENDED
            return
        owed = self._stops.end_truth(session, reason)
        if session.plan.behaviour is Behaviour.LOST_STOP:
            self._stops.forget(owed)
        elif not session.is_orphan:
            self._stops.owed.append(owed)

    def _lose_memory(self) -> None:
        for fact in self._delivery.queue.clear():
            self._machine.note_fact(Kind.LOST, fact, reason="power loss")
        self._stops.lose_all()

    def _power_up(self) -> None:
        self._machine.powered = True
        self._machine.powered_at = self._machine.now
        self._delivery.power_up()
        self._machine.note(Kind.POWER_UP)
        self._stops.queue_all_owed()
        for connector in self._machine.connectors:
            self._sessions.plan_next(connector)

    def restart(self, reason: str) -> None:
        """Dark for a moment; nothing that was queued is lost."""
        self.go_dark(reason, queue_survives=True, outage_s=20.0)

    def restart_when_quiet(self, deadline: float) -> None:
        """Restarts once everything is delivered, or at the deadline."""
        if self._machine.now >= deadline or self._delivery.is_quiet:
            self.restart("SoftReset")
        else:
            self._machine.after(0.05, self.restart_when_quiet, deadline)
