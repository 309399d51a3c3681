"""The life of a session: what may follow what."""

from __future__ import annotations

from itertools import product

import pytest

from voltledger.domain.session.states import ENDED, NEXT, OPEN, REFUSED, RUNNING, Happening, Refused, State, apply

H = Happening
S = State

# What follows an end or a beginning, written down a second time by hand: a change of the table must be meant.
STATION_MAY_SAY = [
    (S.PENDING, H.STARTED, S.ONGOING),
    (S.PENDING, H.NOT_STARTED, S.TERMINATED),
    (S.ONGOING, H.METERED, S.ONGOING),
    (S.ONGOING, H.ENDED_NORMALLY, S.COMPLETED),
    (S.ONGOING, H.ENDED_EARLY, S.TERMINATED),
    (S.ONGOING, H.GHOST_CLOSED, S.GHOST),
    (S.ONGOING, H.SUPERSEDED, S.TERMINATED),
    (S.ORPHANED, H.STARTED, S.ONGOING),
    (S.ORPHANED, H.METERED, S.ORPHANED),
    (S.ORPHANED, H.ENDED_NORMALLY, S.COMPLETED),
    (S.ORPHANED, H.ENDED_EARLY, S.TERMINATED),
    (S.ORPHANED, H.GHOST_CLOSED, S.GHOST),
    (S.ORPHANED, H.SUPERSEDED, S.TERMINATED),
]
AFTER_OUR_OWN_END = [
    (S.GHOST, H.ENDED_NORMALLY, S.COMPLETED),
    (S.GHOST, H.ENDED_EARLY, S.TERMINATED),
    (S.GHOST, H.PROVEN_RUNNING, S.ONGOING),
    (S.TERMINATED, H.STARTED, S.ONGOING),
    (S.TERMINATED, H.ENDED_NORMALLY, S.COMPLETED),
    (S.TERMINATED, H.ENDED_EARLY, S.TERMINATED),
    (S.TERMINATED, H.PROVEN_RUNNING, S.ONGOING),
    (S.COMPLETED, H.ENDED_NORMALLY, S.COMPLETED),
    (S.COMPLETED, H.ENDED_EARLY, S.TERMINATED),
    (S.COMPLETED, H.PROVEN_RUNNING, S.ONGOING),
]


def test_every_pair_is_in_the_table_or_listed_as_refused() -> None:
    everything = set(product(State, Happening))
    assert set(NEXT) | REFUSED == everything
    assert not set(NEXT) & REFUSED


def test_every_state_is_open_or_ended_and_a_running_one_is_open() -> None:
    assert set(State) == OPEN | ENDED
    assert not OPEN & ENDED
    assert OPEN - {State.PENDING} == RUNNING


@pytest.mark.parametrize(("state", "happening", "following"), STATION_MAY_SAY)
def test_an_open_session_goes_where_the_table_says(state: State, happening: Happening, following: State) -> None:
    assert apply(state, happening, concluded=False) is following


@pytest.mark.parametrize(("state", "happening", "following"), AFTER_OUR_OWN_END)
def test_an_end_that_was_our_conclusion_may_be_corrected(state: State, happening: Happening, following: State) -> None:
    assert apply(state, happening, concluded=True) is following


@pytest.mark.parametrize(("state", "happening"), sorted(product(ENDED, Happening)))
def test_an_end_that_the_station_reported_stands_whatever_happens(state: State, happening: Happening) -> None:
    assert apply(state, happening, concluded=False) == Refused(state=state, happening=happening)


@pytest.mark.parametrize(("state", "happening"), sorted(REFUSED))
@pytest.mark.parametrize("concluded", [True, False])
def test_a_pair_that_is_not_in_the_table_is_refused_and_says_which(
    state: State, happening: Happening, concluded: bool
) -> None:
    assert apply(state, happening, concluded=concluded) == Refused(state=state, happening=happening)


def test_nothing_that_has_ended_can_be_closed_again_as_a_ghost_or_superseded() -> None:
    for state in ENDED:
        for happening in (H.GHOST_CLOSED, H.SUPERSEDED, H.METERED, H.NOT_STARTED):
            assert isinstance(apply(state, happening, concluded=True), Refused)


def test_only_a_session_that_was_asked_for_can_fail_to_start() -> None:
    assert [state for state in State if (state, H.NOT_STARTED) in NEXT] == [State.PENDING]
