"""What all parts of a station share: its settings, its connectors, its time and timers, and its journal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Any

from voltledger.simulator.configuration import Configuration
from voltledger.simulator.effects import Effect, Note
from voltledger.simulator.journal import JournalLine, Kind
from voltledger.simulator.queue import Fact
from voltledger.simulator.settings import ClockFault, StationSettings
from voltledger.simulator.visits import Connector, Phase, Session
from voltledger.simulator.wire import timestamp


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


class Machine:
    """The body of a station.

    Units: times are seconds since 1970, real.
    """

    def __init__(self, settings: StationSettings, now: float) -> None:
        self.settings = settings
        self.configuration = Configuration.of(settings)
        self.counts = Counts()
        self.name = f"{settings.seed}/{settings.station}"
        self.rng = Random(f"{self.name}/station")
        self.connectors = [_new_connector(settings, self.name, number) for number in range(1, settings.connectors + 1)]
        self.now = now
        self.powered = True
        self.powered_at = now
        self.effects: list[Effect] = []
        self._epoch = 0
        self._order = 0
        self._timers: list[_Timer] = []

    # --- Time -------------------------------------------------------------------------------------------

    def due(self, now: float) -> Iterator[Callable[[], None]]:
        """What falls due up to `now`, each at its own time."""
        while self._timers and self._timers[0].at <= now:
            timer = heappop(self._timers)
            if timer.epoch != self._epoch:
                continue
            self.now = max(self.now, timer.at)
            yield timer.action
        self.now = max(self.now, now)

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Sets a timer, which the next loss of power forgets."""
        timer = _Timer(self.now + seconds, self.next_order(), self._epoch, partial(action, *arguments))
        heappush(self._timers, timer)

    def forget_timers(self) -> None:
        """No timer set before survives."""
        self._epoch += 1

    @property
    def wake_at(self) -> float | None:
        """When the next timer is due."""
        while self._timers and self._timers[0].epoch != self._epoch:
            heappop(self._timers)
        return self._timers[0].at if self._timers else None

    def next_order(self) -> int:
        """The next place among everything that the station sets or says."""
        self._order += 1
        return self._order

    def real(self, simulated_s: float) -> float:
        """Simulated seconds in real ones."""
        return simulated_s / self.settings.time_scale

    def wire_time(self, at: float) -> str:
        """A time as this station's clock shows it."""
        match self.settings.clock_fault:
            case ClockFault.EPOCH:
                return timestamp(at - self.powered_at)
            case ClockFault.OFFSET:
                return timestamp(at + self.settings.clock_offset_s)
            case _:
                return timestamp(at)

    # --- What is going on, and the journal of it --------------------------------------------------------

    @property
    def active_sessions(self) -> list[Session]:
        """Sessions in which energy flows or could."""
        sessions = [connector.session for connector in self.connectors]
        return [session for session in sessions if session is not None and session.phase is Phase.CHARGING]

    def note(self, kind: Kind, *, session: Session | None = None, **fields: Any) -> None:
        """A line for the journal, with what is true of the session at this moment."""
        if session is not None:
            fields["session"] = session.number
            fields["connector"] = session.connector.number
            fields["register_wh"] = session.connector.register_wh
        at = datetime.fromtimestamp(self.now, UTC)
        self.effects.append(Note(JournalLine(at=at, station=self.settings.station, kind=kind, **fields)))

    def note_fact(self, kind: Kind, fact: Fact[Session], **fields: Any) -> None:
        """A line about a transaction message."""
        self.note(kind, session=fact.subject, fact=fact.number, **{"action": fact.action, **fields})

    def take_effects(self) -> list[Effect]:
        """All effects since the last time, in their order."""
        effects, self.effects = self.effects, []
        return effects


def _new_connector(settings: StationSettings, name: str, number: int) -> Connector:
    rng = Random(f"{name}/connector/{number}")
    drawn_register_wh = rng.randrange(100_000, 9_000_000)
    drawn_power_w = rng.choice((7_360.0, 11_040.0, 22_080.0, 50_000.0))
    given = settings.registers_wh
    return Connector(
        number=number,
        register_wh=given[number - 1] if number <= len(given) else drawn_register_wh,
        outlet_power_w=settings.outlet_power_w or drawn_power_w,
    )
