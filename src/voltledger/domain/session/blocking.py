"""Why a connector cannot be had, for the driver who is refused."""

from datetime import timedelta

from voltledger.domain.quantities import duration_text
from voltledger.domain.reconciliation.evidence import Proof, Witness, evidence_of, time_text
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import State


def why_blocked(session: ChargingSession, witness: Witness, *, looked_at_every: timedelta) -> str:
    """A sentence: what has the connector, since when, and when it will be looked at. It names no person."""
    place = f"connector {session.evse_id} of {session.station_id} is in use"
    since = time_text(session.started_at or session.created_at)
    if session.state is State.PENDING:
        until = f", until {time_text(session.pending_until)}" if session.pending_until is not None else ""
        return f"{place}: since {since} a paid start waits for the station{until}; try again after that"
    evidence = evidence_of(witness)[0]
    if evidence.proof is Proof.ENDED:
        return (
            f"{place}: a session began at {since} and its end was not reported, although {evidence.text}. It is looked "
            f"at every {duration_text(looked_at_every)} and closed when that is certain; try again then, or "
            "take another connector"
        )
    return f"{place}: a session has been running on it since {since}; try again when it has ended"
