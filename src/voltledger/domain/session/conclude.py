"""Ends and new beginnings that are our own conclusion, not a station's report."""

from datetime import datetime

import msgspec

from voltledger.domain.commands import StopCharging
from voltledger.domain.session.decision import Ask
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import Happening, Refused, State, apply


def conclude(session: ChargingSession, happening: Happening, at: datetime, reason: str) -> ChargingSession:
    """Ends a session by our own conclusion, at what was measured; a later true end corrects it."""
    state = apply(session.state, happening, concluded=session.concluded)
    if isinstance(state, Refused):
        raise ValueError(f"a {session.state} session cannot be {happening}")
    return msgspec.structs.replace(
        session,
        state=state,
        ended_at=at,
        stop_reason=reason,
        concluded=True,
        estimated=session.started_at is not None,
        power_w=None,
        pending_until=None,
    )


def reopen(session: ChargingSession, state: State) -> ChargingSession:
    """A session that we had closed and that goes on."""
    return msgspec.structs.replace(
        session,
        state=state,
        ended_at=None,
        stop_reason=None,
        concluded=False,
        estimated=False,
        meter_stop_wh=None,
        stop_requested_at=None,
        stop_attempts=0,
    )


def ask_to_stop(session: ChargingSession, why: str) -> Ask:
    """The command that ends a session; one effect for each request, also when the session was closed in between."""
    if session.transaction_ref is None:
        raise ValueError(f"session {session.id} has no transaction to stop")
    asked = "" if session.stop_requested_at is None else session.stop_requested_at.isoformat()
    return Ask(
        key=f"stop:{session.id}:{session.settle_version}:{session.stop_attempts}:{asked}:{why}",
        command=StopCharging(transaction_ref=session.transaction_ref),
        session_id=session.id,
    )
