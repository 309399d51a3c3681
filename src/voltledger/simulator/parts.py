"""How the parts of a station hang together."""

from voltledger.simulator.configuration import Configuration
from voltledger.simulator.delivery import Delivery
from voltledger.simulator.faults import Faults
from voltledger.simulator.machine import Counts, Machine
from voltledger.simulator.metering import Metering
from voltledger.simulator.queue import TransactionQueue
from voltledger.simulator.registration import Registration
from voltledger.simulator.sessions import Sessions
from voltledger.simulator.settings import StationSettings
from voltledger.simulator.statuses import Statuses
from voltledger.simulator.stops import Stops
from voltledger.simulator.visits import Connector, Session


class Parts:
    """A station's parts, each made with those it needs; two of them call back to one that is made later."""

    def __init__(self, settings: StationSettings, *, now: float) -> None:
        machine = self._machine = Machine(settings, now)
        delivery = self._delivery = Delivery(machine, say_boot=self._say_boot, refused=self._refused)
        self._statuses = Statuses(machine, delivery)
        self._registration = Registration(machine, delivery, self._statuses)
        self._metering = Metering(machine, delivery, self._statuses)
        self._stops = Stops(machine, delivery, self._metering)
        self._sessions = Sessions(
            machine, delivery, self._statuses, self._metering, self._stops, misbehave=self._misbehave
        )
        self._faults = Faults(machine, delivery, self._sessions, self._stops)

    def _say_boot(self) -> None:
        self._registration.say_boot()

    def _refused(self, session: Session) -> None:
        self._sessions.end_refused(session)

    def _misbehave(self, session: Session) -> None:
        self._faults.misbehave(session)

    # --- What may be looked at --------------------------------------------------------------------------

    @property
    def settings(self) -> StationSettings:
        return self._machine.settings

    @property
    def configuration(self) -> Configuration:
        return self._machine.configuration

    @property
    def counts(self) -> Counts:
        return self._machine.counts

    @property
    def connectors(self) -> list[Connector]:
        return self._machine.connectors

    @property
    def powered(self) -> bool:
        return self._machine.powered

    @property
    def is_open(self) -> bool:
        return self._delivery.is_open

    @property
    def booted(self) -> bool:
        return self._delivery.booted

    @property
    def queue(self) -> TransactionQueue[Session]:
        return self._delivery.queue

    @property
    def active_sessions(self) -> list[Session]:
        """Sessions in which energy flows or could."""
        return self._machine.active_sessions
