"""Letting stations back in: as fast as their facts can be recorded, never slower than a small site needs."""

from __future__ import annotations

import pytest

from voltledger.gateway.readmission import FACTS_EACH, LASTS_S, LEAST_A_SECOND, Readmission


class World:
    """A clock and a pace that tests set."""

    def __init__(self, pace: float = 0.0) -> None:
        self.now, self.pace = 1_000.0, pace
        self.readmission = Readmission(lambda: self.now, lambda: self.pace)

    def come(self, seconds: float, a_second: float) -> int:
        """How many handshakes are let in when so many knock, evenly, for so long."""
        admitted = 0
        for _ in range(round(seconds * a_second)):
            self.now += 1 / a_second
            admitted += self.readmission.admits()
        return admitted


def test_everybody_is_let_in_when_there_was_no_outage() -> None:
    assert World().come(2, 1_000) == 2_000


@pytest.mark.parametrize(
    ("pace", "a_second"),
    [(0.0, LEAST_A_SECOND), (10.0, LEAST_A_SECOND), (4_000.0, 4_000 / FACTS_EACH)],
)
def test_after_an_outage_as_many_are_let_in_as_their_facts_can_be_recorded(pace: float, a_second: float) -> None:
    world = World(pace)
    world.readmission.begin()
    assert world.come(10, 5 * a_second) == pytest.approx(10 * a_second + LEAST_A_SECOND, abs=2)


def test_a_small_site_comes_back_at_once() -> None:
    world = World()
    world.readmission.begin()
    assert [world.readmission.admits() for _ in range(round(LEAST_A_SECOND) + 1)] == [True] * 25 + [False]


def test_a_rate_that_was_not_used_is_not_saved_up_for_a_herd() -> None:
    world = World()
    world.readmission.begin()
    world.now += LASTS_S / 2
    assert sum(world.readmission.admits() for _ in range(1_000)) == LEAST_A_SECOND


def test_nobody_is_refused_for_ever() -> None:
    world = World()
    world.readmission.begin()
    world.come(1, 1_000)
    assert not world.readmission.admits()
    world.now += LASTS_S
    assert all(world.readmission.admits() for _ in range(1_000))
    # Another outage, and it begins anew.
    world.readmission.begin()
    assert world.come(1, 1_000) < 100


def test_five_thousand_stations_are_all_in_before_they_lose_patience() -> None:
    world = World(pace=2_000)
    world.readmission.begin()
    waiting, seconds = 5_000, 0
    while waiting:
        world.now += 1
        seconds += 1
        waiting -= sum(world.readmission.admits() for _ in range(waiting))
    assert seconds <= 10
