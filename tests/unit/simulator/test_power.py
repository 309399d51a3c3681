"""Cars and how they take energy."""

from random import Random

import pytest

from voltledger.simulator.power import Car, Charge, draw_car, power_w

CAR = Car(
    capacity_wh=50_000,
    max_power_w=11_040.0,
    arrives_with=0.2,
    full_at=1.0,
    phases=3,
    voltage_v=230.0,
    wobble=(0.0, 0.0),
)


def at(soc: float) -> float:
    return power_w(CAR, outlet_power_w=22_080.0, soc=soc, elapsed_s=600.0)


def test_power_is_constant_below_eighty_percent_and_tapers_above() -> None:
    assert at(0.3) == at(0.79) == pytest.approx(11_040.0, rel=0.02)
    assert at(0.79) > at(0.85) > at(0.9) > at(0.99) > 0
    assert at(1.0) == 0


def test_the_outlet_limits_the_car() -> None:
    assert power_w(CAR, outlet_power_w=3_680.0, soc=0.5, elapsed_s=600.0) == pytest.approx(3_680.0, rel=0.02)


def test_a_car_never_takes_more_than_it_holds() -> None:
    charge = Charge(CAR, 22_080.0)
    taken = charge.pass_time(48 * 3600)
    assert charge.is_full
    assert taken == pytest.approx(40_000, rel=0.01)
    assert charge.pass_time(3600) == 0


@pytest.mark.parametrize("seed", range(50))
def test_drawn_cars_are_believable(seed: int) -> None:
    car = draw_car(Random(seed), 11_040.0)
    assert 0 < car.arrives_with < car.full_at <= 1
    assert Charge(car, 11_040.0).pass_time(3600) <= 11_040.0 * 1.02
