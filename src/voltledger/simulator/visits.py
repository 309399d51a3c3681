"""A station's connectors and the visits on them: plain values, and the plan that is drawn for each visit."""

from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from random import Random

from voltledger.simulator.behaviour import Behaviour
from voltledger.simulator.power import Charge
from voltledger.simulator.settings import StationSettings


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


def draw_plan(rng: Random, settings: StationSettings) -> Plan:
    """What a station will do with one visit; the same generator gives the same plan."""
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


def without_lost_answer(plan: Plan) -> Plan:
    """One answer is lost per session; the behaviour stays in the journal."""
    return replace(plan, lost_answer_of="")
