"""What each piece of knowledge proves of a connector: that energy flows, that it has ended, or nothing.

Silence and age prove nothing. A socket that is closed proves nothing. What a station says counts
from when it could be believed: a status that a station sent before its socket was up for the grace
time may be overtaken by an end that still waits in its queue.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from voltledger.domain.events import ConnectorStatus
from voltledger.domain.session.connectors import DRAWING


class Proof(StrEnum):
    """What a piece of evidence says about energy flowing."""

    RUNNING = "running"
    ENDED = "ended"
    NOTHING = "nothing"


class Reply(StrEnum):
    """What became of asking a station to report its status now."""

    ACCEPTED = "accepted"  # it said that it will report
    REFUSED = "refused"  # it does not do that: it said so, and nothing more can be asked
    UNANSWERED = "unanswered"  # nobody knows whether the question arrived: it counts as not put


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """When a station was asked about a connector, and what it replied."""

    at: datetime
    reply: Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What is known of one connector and its session, at one moment.

    `status_since`: since when the connector has reported this status; `status_at`: its last report.
    `heard_at`: when a reading last named the session's transaction, or showed power. `booted_at`: when the station
    last said that it had started. `quiet_since`: since when we ourselves have been here without a gap, to hear what
    there was to hear. All are times of receipt, ours.
    """

    now: datetime
    connected_since: datetime | None
    status: ConnectorStatus | None
    status_since: datetime | None
    status_at: datetime | None
    heard_at: datetime | None
    asked: Question | None = None
    booted_at: datetime | None = None
    quiet_since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One piece: what it proves, and the sentence for a person."""

    proof: Proof
    text: str


def evidence_of(witness: Witness) -> list[Evidence]:
    """Everything that a witness proves, the strongest first."""
    found = []
    if witness.connected_since is None:
        found.append(Evidence(proof=Proof.NOTHING, text="the station is not connected: that proves nothing"))
    elif witness.status is ConnectorStatus.AVAILABLE and _after_last_reading(witness):
        said = f"the connector has said Available since {time_text(free_since(witness))}, after its last reading"
        restarted = (
            f" and after the station restarted at {time_text(witness.booted_at)}" if restarted_since(witness) else ""
        )
        found.append(Evidence(proof=Proof.ENDED, text=said + restarted))
    elif witness.status in DRAWING:
        found.append(
            Evidence(
                proof=Proof.RUNNING,
                text=f"the connector has said {witness.status} since {time_text(witness.status_since)}",
            )
        )
    else:
        found.append(Evidence(proof=Proof.NOTHING, text=f"the connector says {witness.status or 'nothing'}"))
    if witness.heard_at is not None:
        found.append(
            Evidence(proof=Proof.NOTHING, text=f"the meter was last heard of at {time_text(witness.heard_at)}")
        )
    return found


def steady_for(witness: Witness, grace: timedelta) -> bool:
    """Whether connection and status have both lasted for the grace time, and we were there to hear it."""
    since = free_since(witness)
    if witness.connected_since is None or since is None:
        return False
    return witness.now - max(witness.connected_since, since) >= grace and here_for(witness, grace)


def here_for(witness: Witness, grace: timedelta) -> bool:
    """Whether we have been here for the grace time: what was said while we were away still has to arrive."""
    return witness.quiet_since is None or witness.now - witness.quiet_since >= grace


def restarted_since(witness: Witness) -> bool:
    """Whether the station started after the last sign of the session, and then reported this connector."""
    if witness.booted_at is None or witness.heard_at is None or witness.status_at is None:
        return False
    return witness.heard_at < witness.booted_at <= witness.status_at


def free_since(witness: Witness) -> datetime | None:
    """Since when the status holds; one that was repeated after a restart holds anew from there."""
    if witness.status_since is None or witness.booted_at is None or not restarted_since(witness):
        return witness.status_since
    return max(witness.status_since, witness.booted_at)


def _after_last_reading(witness: Witness) -> bool:
    since = free_since(witness)
    if since is None:
        return False
    return witness.heard_at is None or since > witness.heard_at


def time_text(at: datetime | None) -> str:
    """A time of day as sentences for people say it."""
    return "an unknown time" if at is None else at.strftime("%H:%M:%S UTC")
