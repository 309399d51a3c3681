"""One charging station as a value that is told what happens and says what it does. OCPP 1.6J.

No socket, no clock, no task: `advance`, `opened`, `closed` and `received` take the time as an argument and
return effects in the order in which the shell must perform them. The same seed and the same inputs give the
same effects.

The rules it keeps: a register only grows; transaction messages leave in the order in which they became true,
are kept while offline and are given up only after the last counted attempt; every such step is noted.

What cars do is in `sessions`, what the server hears of it in `delivery`, what it may ask for in `orders`.
"""

from voltledger.simulator.commands import answer_command
from voltledger.simulator.delivery import Answer, answer_fields
from voltledger.simulator.effects import Cut, Effect, HangUp, Note, SecondSocket, Transmit
from voltledger.simulator.journal import Kind
from voltledger.simulator.machine import Counts
from voltledger.simulator.orders import Orders
from voltledger.simulator.settings import StationSettings
from voltledger.simulator.visits import Connector, Phase, Plan, Session, Status
from voltledger.simulator.wire import Call, Frame

__all__ = [
    "Answer",
    "Connector",
    "Counts",
    "Cut",
    "Effect",
    "HangUp",
    "Note",
    "Phase",
    "Plan",
    "SecondSocket",
    "Session",
    "Station",
    "Status",
    "Transmit",
]


class Station(Orders):
    """One charging station.

    Units: time arguments are seconds since 1970, real; energy in Wh.
    """

    def __init__(self, settings: StationSettings, *, now: float) -> None:
        super().__init__(settings, now=now)
        for connector in self.connectors:
            self._sessions.plan_next(connector)

    def advance(self, now: float) -> list[Effect]:
        """Lets time pass up to `now`; every due event happens at its own time."""
        for act in self._machine.due(now):
            act()
            self._delivery.pump()
        return self._machine.take_effects()

    def opened(self, now: float) -> list[Effect]:
        """The socket is open; without a reboot a station just goes on."""
        effects = self.advance(now)
        self._delivery.is_open = True
        if self.settings.boot_on_reconnect:
            self._delivery.forget_boot()
        if self.booted:
            self._statuses.report_all()
        return effects + self._pumped()

    def closed(self, now: float) -> list[Effect]:
        """The socket is gone. A message in flight goes back to the queue and is not charged an attempt."""
        effects = self.advance(now)
        if self.is_open:
            self._delivery.lost()
        return effects + self._machine.take_effects()

    def received(self, frame: Frame, now: float) -> list[Effect]:
        """A frame arrived."""
        effects = self.advance(now)
        if self.powered:
            if isinstance(frame, Call):
                self._obey(frame)
            else:
                self._delivery.use_answer(frame)
            effects += self._pumped()
        return effects + self.advance(now)

    def _obey(self, call: Call) -> None:
        self.counts.commands += 1
        answer = answer_command(self, call)
        fields = answer_fields(call, answer)
        asked = {"request": dict(call.payload), "response": fields.pop("payload", None)}
        self._machine.note(Kind.COMMAND, payload=asked, **fields)
        self._machine.effects.append(Transmit(answer))

    def plug_in(self, connector: int, token: str, now: float) -> list[Effect]:
        """A driver comes, whatever the plan was; nothing happens if the connector is busy."""
        effects = self.advance(now)
        target = self.connectors[connector - 1]
        if self.powered and target.session is None and target.operative:
            self._sessions.plug_in(target, token=token, is_remote=False)
            effects += self._pumped()
        return effects

    def power_loss(self, now: float, *, queue_survives: bool, outage_s: float | None = None) -> list[Effect]:
        """The station goes dark for simulated seconds; cars stop taking energy at this moment."""
        effects = self.advance(now)
        if self.powered:
            outage_s = self._machine.rng.uniform(*self.settings.outage_s) if outage_s is None else outage_s
            self._faults.go_dark("PowerLoss", queue_survives=queue_survives, outage_s=outage_s)
        return effects + self._machine.take_effects()

    def wind_up(self, now: float) -> list[Effect]:
        """No new sessions; the running ones end now, with a StopTransaction."""
        effects = self.advance(now)
        self._sessions.wind_up()
        return effects + self._pumped()

    def _pumped(self) -> list[Effect]:
        self._delivery.pump()
        return self._machine.take_effects()

    @property
    def wake_at(self) -> float | None:
        """When `advance` must be called next."""
        return self._machine.wake_at

    @property
    def is_finished(self) -> bool:
        """All its sessions are over and everything about them has been delivered or given up."""
        winding_up = self._sessions.winding_up
        idle = all(connector.session is None for connector in self.connectors)
        told = self._delivery.is_silent and not self._stops.owed
        return self._sessions.is_enough and told and (winding_up or (idle and self.powered))
