"""The life of a charging session, as data.

One enum with a comment a state, one table of what may follow, one function that applies it. A pair
that is not in the table is a finding (`Refused`), never a silent no-op. The diagram in
`docs/session-states.md` is generated from this table.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What we concluded about one visit; the words of the user's document, and PENDING."""

    PENDING = "PENDING"  # asked for and money held; the station has not started yet
    ONGOING = "ONGOING"  # the station charges, and we know for whom
    ORPHANED = "ORPHANED"  # the station charges, and there was no session: we made this one
    COMPLETED = "COMPLETED"  # the station reported a normal end
    TERMINATED = "TERMINATED"  # ended before its time: fault, reset, refused or expired start, by hand
    GHOST = "GHOST"  # we closed it: the session was active and the connector was free


OPEN = frozenset({State.PENDING, State.ONGOING, State.ORPHANED})
RUNNING = frozenset({State.ONGOING, State.ORPHANED})
ENDED = frozenset(State) - OPEN


class Happening(StrEnum):
    """What can happen to a session; the left column of the table."""

    STARTED = "started"  # StartTransaction, TransactionEvent(Started)
    METERED = "metered"  # a reading that belongs to it
    ENDED_NORMALLY = "ended normally"  # the station's own end message, ordinary reason
    ENDED_EARLY = "ended early"  # the station's own end message, fault or reset
    NOT_STARTED = "not started"  # start refused by the station, or its deadline passed
    GHOST_CLOSED = "ghost closed"  # the reconciler closed it on evidence
    SUPERSEDED = "superseded"  # another transaction began on the same connector
    PROVEN_RUNNING = "proven running"  # after we closed it, its register went on


NEXT: dict[tuple[State, Happening], State] = {
    (State.PENDING, Happening.STARTED): State.ONGOING,
    (State.PENDING, Happening.NOT_STARTED): State.TERMINATED,
    (State.PENDING, Happening.SUPERSEDED): State.TERMINATED,
    (State.PENDING, Happening.PROVEN_RUNNING): State.ONGOING,
    (State.PENDING, Happening.ENDED_NORMALLY): State.COMPLETED,
    (State.PENDING, Happening.ENDED_EARLY): State.TERMINATED,
    (State.ONGOING, Happening.METERED): State.ONGOING,
    (State.ONGOING, Happening.ENDED_NORMALLY): State.COMPLETED,
    (State.ONGOING, Happening.ENDED_EARLY): State.TERMINATED,
    (State.ONGOING, Happening.GHOST_CLOSED): State.GHOST,
    (State.ONGOING, Happening.SUPERSEDED): State.TERMINATED,
    (State.ORPHANED, Happening.STARTED): State.ONGOING,
    (State.ORPHANED, Happening.METERED): State.ORPHANED,
    (State.ORPHANED, Happening.ENDED_NORMALLY): State.COMPLETED,
    (State.ORPHANED, Happening.ENDED_EARLY): State.TERMINATED,
    (State.ORPHANED, Happening.GHOST_CLOSED): State.GHOST,
    (State.ORPHANED, Happening.SUPERSEDED): State.TERMINATED,
    # The true end of a session that we had closed ourselves: corrected, once.
    (State.GHOST, Happening.ENDED_NORMALLY): State.COMPLETED,
    (State.GHOST, Happening.ENDED_EARLY): State.TERMINATED,
    (State.GHOST, Happening.PROVEN_RUNNING): State.ONGOING,
    (State.TERMINATED, Happening.STARTED): State.ONGOING,
    (State.TERMINATED, Happening.PROVEN_RUNNING): State.ONGOING,
    (State.TERMINATED, Happening.ENDED_NORMALLY): State.COMPLETED,
    (State.TERMINATED, Happening.ENDED_EARLY): State.TERMINATED,
    (State.COMPLETED, Happening.PROVEN_RUNNING): State.ONGOING,
    (State.COMPLETED, Happening.ENDED_NORMALLY): State.COMPLETED,
    (State.COMPLETED, Happening.ENDED_EARLY): State.TERMINATED,
}
"""The last six rows hold only for a session whose end was our own conclusion (`concluded`): the
station's own end, once recorded, stands. `apply` refuses them for any other."""

REFUSED: frozenset[tuple[State, Happening]] = frozenset(
    (state, happening) for state in State for happening in Happening if (state, happening) not in NEXT
)
"""Every pair that is not in the table; listed so that a test can see that none was forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A happening that the state does not allow; the caller records it as a finding."""

    state: State
    happening: Happening


def apply(state: State, happening: Happening, *, concluded: bool) -> State | Refused:
    """The next state, or `Refused`.

    `concluded` says that the session's end was our conclusion (reconciler, deadline or a person),
    not the station's report; only then may anything follow an end.
    """
    following = NEXT.get((state, happening))
    if following is None or (state in ENDED and not concluded):
        return Refused(state=state, happening=happening)
    return following
