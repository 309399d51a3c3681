"""Findings about a session."""

from collections.abc import Mapping

from voltledger.domain.reconciliation.findings import Finding, FindingKind, FindingState
from voltledger.domain.session.session import ChargingSession


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
