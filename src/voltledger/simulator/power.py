"""A car that takes energy: constant current first, then a taper, with a little noise.

Pure. Noise is a function of time and of phases drawn once from the seed, not a stream of random numbers, so
how often somebody looks at the meter does not change what it shows.
"""

from dataclasses import dataclass
from math import exp, sin
from random import Random

_STEP_S = 15.0
_TAPER_FROM = 0.8
_RAMP_S = 20.0
_AC_POWERS_W = (3_680.0, 7_360.0, 11_040.0, 22_080.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Car:
    """One car as it arrives.

    Units: capacity in Wh, power in W, states of charge as fractions of 1.
    """

    capacity_wh: int
    max_power_w: float
    arrives_with: float
    full_at: float
    phases: int
    voltage_v: float
    wobble: tuple[float, float]


def draw_car(rng: Random, outlet_power_w: float) -> Car:
    """A believable car for an outlet: AC up to 22 kW, DC above. One in four arrives nearly full."""
    full_at = rng.uniform(0.85, 1.0)
    nearly_full = rng.random() < 0.25
    arrives_with = full_at - rng.uniform(0.005, 0.03) if nearly_full else rng.uniform(0.08, 0.6)
    direct = outlet_power_w > 23_000
    max_power_w = rng.uniform(45_000, 160_000) if direct else rng.choice(_AC_POWERS_W)
    return Car(
        capacity_wh=rng.randrange(28_000, 100_000),
        max_power_w=max_power_w,
        arrives_with=arrives_with,
        full_at=full_at,
        phases=1 if direct or min(max_power_w, outlet_power_w) < 8_000 else 3,
        voltage_v=400.0 if direct else 230.0,
        wobble=(rng.uniform(0, 6.28), rng.uniform(0, 6.28)),
    )


def power_w(car: Car, *, outlet_power_w: float, soc: float, elapsed_s: float) -> float:
    """What the car takes at a state of charge, simulated seconds after it began; 0 when it is full."""
    if soc >= car.full_at:
        return 0.0
    power = min(car.max_power_w, outlet_power_w) * min(1.0, 0.1 + elapsed_s / _RAMP_S)
    if soc > _TAPER_FROM:
        power *= max(0.05, exp(-(soc - _TAPER_FROM) * 12))
    noise = 0.01 * sin(elapsed_s / 37 + car.wobble[0]) + 0.005 * sin(elapsed_s / 11 + car.wobble[1])
    return power * (1 + noise)


@dataclass(slots=True)
class Charge:
    """One car charging, stepped through simulated time."""

    car: Car
    outlet_power_w: float
    elapsed_s: float = 0.0
    taken_wh: float = 0.0

    @property
    def soc(self) -> float:
        """State of charge, 0..1."""
        return min(1.0, self.car.arrives_with + self.taken_wh / self.car.capacity_wh)

    @property
    def is_full(self) -> bool:
        return self.soc >= self.car.full_at

    @property
    def power_w(self) -> float:
        return power_w(self.car, outlet_power_w=self.outlet_power_w, soc=self.soc, elapsed_s=self.elapsed_s)

    @property
    def current_a(self) -> float:
        return self.power_w / (self.car.voltage_v * self.car.phases)

    def pass_time(self, seconds: float) -> float:
        """Lets simulated seconds pass; the energy taken meanwhile, in Wh."""
        before = self.taken_wh
        while seconds > 0:
            step = min(_STEP_S, seconds)
            self.taken_wh += self.power_w * step / 3600
            self.elapsed_s += step
            seconds -= step
        return self.taken_wh - before
