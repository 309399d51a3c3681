"""Findings about a session."""

from collections.abc import Mapping

from voltledger.domain.reconciliation.findings import Finding, FindingKind, FindingState
from voltledger.domain.session.session import ChargingSession


def transaction_of(session: ChargingSession, *, begins: bool = False) -> str:
    """How a sentence for a person names a session's transaction; `begins` where the sentence begins with it."""
    if session.transaction_ref is None:
        return f"{'A' if begins else 'a'} transaction that the station did not name"
    return f"{'T' if begins else 't'}ransaction {session.transaction_ref}"


def finding_about(
    session: ChargingSession,
    *,
    kind: FindingKind,
    key: str,
    summary: str,
    state: FindingState = FindingState.NOTED,
    evidence: Mapping[str, str] | None = None,
) -> Finding:
    """A finding about a session; see `Finding`."""
    return Finding(
        kind=kind,
        key=key,
        summary=summary,
        station_id=session.station_id,
        evse_id=session.evse_id,
        session_id=session.id,
        state=state,
        evidence=evidence or {},
    )
