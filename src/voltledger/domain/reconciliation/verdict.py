"""What follows from evidence: wait, ask the station, or act; never from age alone."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from voltledger.domain.reconciliation.evidence import Evidence, Proof, Witness, evidence_of, steady_for
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import State


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
    so for the grace time on a connection that has lasted as long, and has been asked once more.
    """
    evidence = tuple(evidence_of(witness))
    proof = evidence[0].proof
    if proof is not Proof.ENDED:
        return Verdict(remedy=Remedy.NONE if proof is Proof.RUNNING else Remedy.WAIT, evidence=evidence)
    if not steady_for(witness, grace):
        return Verdict(remedy=Remedy.WAIT, evidence=evidence)
    asked = witness.asked_at is not None and witness.asked_at >= (witness.status_since or witness.asked_at)
    return Verdict(remedy=Remedy.CLOSE if asked else Remedy.ASK, evidence=evidence)


def judge_free_connector(witness: Witness, *, stray_energy_wh: int, grace: timedelta) -> Verdict:
    """What to do about a connector on which we believe nothing runs.

    An orphan is adopted when the connector has said for the grace time that it charges, or when
    its meter rises under a transaction that is not ours.
    """
    evidence = evidence_of(witness)
    if stray_energy_wh > 0 and witness.connected_since is not None:
        evidence.insert(0, Evidence(proof=Proof.RUNNING, text=f"{stray_energy_wh} Wh flowed outside any session"))
    if evidence[0].proof is not Proof.RUNNING:
        return Verdict(remedy=Remedy.NONE, evidence=tuple(evidence))
    ready = stray_energy_wh > 0 or steady_for(witness, grace)
    return Verdict(remedy=Remedy.ADOPT if ready else Remedy.WAIT, evidence=tuple(evidence))


def may_reactivate(session: ChargingSession, *, now: datetime, window: timedelta) -> bool:
    """Whether an orphaned connector can be this recent session going on.

    Only one whose end was our own conclusion, and that had begun; the station's own end stands.
    """
    ours = session.concluded and session.state in (State.GHOST, State.TERMINATED, State.COMPLETED)
    begun = session.started_at is not None and session.origin is not Origin.ORPHAN
    return ours and begun and session.ended_at is not None and now - session.ended_at <= window
