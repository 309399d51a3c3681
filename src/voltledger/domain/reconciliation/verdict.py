"""What follows from evidence: wait, ask the station, or act; never from age alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from voltledger.domain.reconciliation.evidence import (
    Evidence,
    Proof,
    Question,
    Reply,
    Witness,
    evidence_of,
    free_since,
    here_for,
    restarted_since,
    steady_for,
    time_text,
)
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import State

RESTART_GRACE = timedelta(seconds=20)
"""The grace time at most, after a restart: power was off, so nothing runs on a connector that says Available; only the
end that the station may still have in its queue is waited for."""

REPORT_TIME = timedelta(seconds=60)
"""How long a station that accepted the question has for its report, where the grace time is not shorter."""

UNANSWERED_GRACES = 10
UNANSWERED_GRACE = timedelta(minutes=30)
"""A connector whose station answers no question must have been free for this long, and for ten times the grace time:
what it says by itself counts, and a connector must not stay blocked for ever by a question that is never answered."""


class Remedy(StrEnum):
    """What to do."""

    NONE = "none"  # what we believe agrees with what is proven
    WAIT = "wait"  # not proven, or not for long enough
    ASK = "ask"  # proven by what the station said; ask it once more first
    CLOSE = "close"  # a ghost: close the session at its last measured register
    ADOPT = "adopt"  # an orphan: make or reactivate a session for what the station does


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A remedy and everything it rests on."""

    remedy: Remedy
    evidence: tuple[Evidence, ...]

    def as_mapping(self) -> dict[str, str]:
        """The evidence as a finding keeps it."""
        return {f"{number}. {e.proof.value}": e.text for number, e in enumerate(self.evidence, 1)}


def judge_session(witness: Witness, grace: timedelta) -> Verdict:
    """What to do about a session that we believe runs.

    A ghost is closed only when the station itself said Available after the last reading, has said
    so for the grace time on a connection that has lasted as long, and has been asked once more. See ADR 14.
    """
    evidence = tuple(evidence_of(witness))
    proof = evidence[0].proof
    if proof is not Proof.ENDED:
        return Verdict(remedy=Remedy.NONE if proof is Proof.RUNNING else Remedy.WAIT, evidence=evidence)
    short = min(grace, RESTART_GRACE) if restarted_since(witness) else grace
    if not steady_for(witness, short):
        return Verdict(remedy=Remedy.WAIT, evidence=evidence)
    since = free_since(witness)
    if witness.asked is None or since is None or witness.asked.at < since:
        return Verdict(remedy=Remedy.ASK, evidence=evidence)
    remedy, text = _after_asking(witness, witness.asked, grace)
    return Verdict(remedy=remedy, evidence=(*evidence, Evidence(proof=Proof.NOTHING, text=text)))


def _after_asking(witness: Witness, asked: Question, grace: timedelta) -> tuple[Remedy, str]:
    """What follows from the reply. A repeated Available closes; without one only the full grace time does."""
    when = time_text(asked.at)
    if asked.reply is Reply.UNANSWERED:
        long = max(grace * UNANSWERED_GRACES, UNANSWERED_GRACE)
        closes = steady_for(witness, long)
        return (Remedy.CLOSE if closes else Remedy.ASK), f"the station was asked at {when} and did not answer"
    if asked.reply is Reply.REFUSED:
        closes = steady_for(witness, grace)
        return (Remedy.CLOSE if closes else Remedy.WAIT), f"the station was asked at {when} and cannot be asked that"
    if witness.status_at is not None and witness.status_at >= asked.at:
        return Remedy.CLOSE, f"asked at {when}, the station said Available again"
    closes = witness.now - asked.at >= min(grace, REPORT_TIME) and steady_for(witness, grace)
    return (Remedy.CLOSE if closes else Remedy.WAIT), f"the station was asked at {when}, accepted, and reported nothing"


def judge_free_connector(witness: Witness, *, stray_energy_wh: int, grace: timedelta) -> Verdict:
    """What to do about a connector on which we believe nothing runs.

    An orphan is adopted when the connector has said for the grace time that it charges, or when
    its meter rises under a transaction that is not ours; never before we have been here for the grace time.
    """
    evidence = evidence_of(witness)
    if stray_energy_wh > 0 and witness.connected_since is not None:
        evidence.insert(0, Evidence(proof=Proof.RUNNING, text=f"{stray_energy_wh} Wh flowed outside any session"))
    if evidence[0].proof is not Proof.RUNNING:
        return Verdict(remedy=Remedy.NONE, evidence=tuple(evidence))
    ready = (stray_energy_wh > 0 and here_for(witness, grace)) or steady_for(witness, grace)
    return Verdict(remedy=Remedy.ADOPT if ready else Remedy.WAIT, evidence=tuple(evidence))


def may_reactivate(session: ChargingSession, *, now: datetime, window: timedelta) -> bool:
    """Whether an orphaned connector can be this recent session going on.

    Only one whose end was our own conclusion, and that had begun; the station's own end stands.
    """
    ours = session.concluded and session.state in (State.GHOST, State.TERMINATED, State.COMPLETED)
    begun = session.started_at is not None and session.origin is not Origin.ORPHAN
    return ours and begun and session.ended_at is not None and now - session.ended_at <= window
