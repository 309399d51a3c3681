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


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What is known of one connector and its session, at one moment.

    `status_since`: since when the connector has reported this status; `status_at`: its last report.
    `heard_at`: when a reading last named the session's transaction, or showed power. All are times of
    receipt, ours.
    """

    now: datetime
    connected_since: datetime | None
    status: ConnectorStatus | None
    status_since: datetime | None
    status_at: datetime | None
    heard_at: datetime | None
    asked_at: datetime | None = None


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
        found.append(
            Evidence(
                proof=Proof.ENDED,
                text=f"the connector has said Available since {_time(witness.status_since)}, after its last reading",
            )
        )
    elif witness.status in DRAWING:
        found.append(
            Evidence(
                proof=Proof.RUNNING,
                text=f"the connector has said {witness.status} since {_time(witness.status_since)}",
            )
        )
    else:
        found.append(Evidence(proof=Proof.NOTHING, text=f"the connector says {witness.status or 'nothing'}"))
    if witness.heard_at is not None:
        found.append(Evidence(proof=Proof.NOTHING, text=f"the meter was last heard of at {_time(witness.heard_at)}"))
    return found


def steady_for(witness: Witness, grace: timedelta) -> bool:
    """Whether connection and status have both lasted for the grace time."""
    if witness.connected_since is None or witness.status_since is None:
        return False
    return witness.now - max(witness.connected_since, witness.status_since) >= grace


def _after_last_reading(witness: Witness) -> bool:
    if witness.status_since is None:
        return False
    return witness.heard_at is None or witness.status_since > witness.heard_at


def _time(at: datetime | None) -> str:
    return "an unknown time" if at is None else at.strftime("%H:%M:%S UTC")
