"""Registers and energy that a person changed on a session that had ended: what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import msgspec

from voltledger.domain.identifiers import SessionId, StationId
from voltledger.domain.quantities import Wh
from voltledger.domain.reconciliation.findings import Finding, FindingKind, FindingState
from voltledger.domain.session.finding import finding_about, transaction_of
from voltledger.domain.session.session import ChargingSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a person may change, whole Wh."""

    meter_start_wh: Wh | None
    meter_stop_wh: Wh | None
    energy_wh: Wh


@dataclass(frozen=True, slots=True, kw_only=True)
class ManualChange:
    """One change that was not ours, as the database noted it; `by` is the login and program it came from."""

    id: int
    session_id: SessionId
    station_id: StationId
    at: datetime
    by: str
    before: Figures
    after: Figures


def together(changes: Sequence[ManualChange]) -> ManualChange:
    """Several changes of one session, oldest first, as one: from what stood before the first to what stands now."""
    by = ", ".join(dict.fromkeys(change.by for change in changes))
    return replace(changes[-1], before=changes[0].before, by=by)


def energy_by_register(session: ChargingSession, final: Wh) -> Wh | None:
    """The energy of an ended session if `final` were its last register; None if that cannot be.

    What was measured counts up to the last register believed; the difference to that is added or taken back, so that
    a meter that was reset in between stays counted.
    """
    if session.meter_start_wh is not None and final < session.meter_start_wh:
        return None
    if session.register_wh is None:
        return Wh(final - session.meter_start_wh) if session.meter_start_wh is not None else None
    return Wh(max(0, session.energy_wh + final - session.register_wh))


def take_by_hand(session: ChargingSession, change: ManualChange) -> tuple[ChargingSession | None, Finding]:
    """The session as a person has it now, to be settled anew; None where the change decides nothing.

    Energy that was stated counts as stated. A stated register counts as the last one, unless it lies below the start.
    """
    if session.is_open:
        return None, _noted(session, change, "the session goes on, so that its own end decides", FindingState.NOTED)
    if (session.meter_start_wh, session.meter_stop_wh) != (change.after.meter_start_wh, change.after.meter_stop_wh):
        return None, _noted(session, change, "what came later stands", FindingState.NOTED)
    energy = _stated_energy(session, change)
    if energy is None:
        follows = "that gives no energy, and nothing is settled: set a meterStop that is not below meterStart"
        return None, _noted(session, change, follows, FindingState.OPEN)
    taken = msgspec.structs.replace(
        session,
        energy_wh=energy,
        register_wh=session.meter_stop_wh if session.meter_stop_wh is not None else session.register_wh,
        estimated=False,
        suspect=False,
    )
    return taken, _noted(session, change, f"{energy} Wh are settled now", FindingState.REPAIRED)


def _stated_energy(session: ChargingSession, change: ManualChange) -> Wh | None:
    before, after = change.before, change.after
    if before.energy_wh != after.energy_wh or session.energy_wh != after.energy_wh:
        return session.energy_wh
    both_known = after.meter_start_wh is not None and after.meter_stop_wh is not None
    span = after.meter_stop_wh - after.meter_start_wh if both_known else 0  # type: ignore[operator]  # both are known
    counted_to = _counted_to(session, before)
    if span < 0 or (counted_to is None and not both_known):
        return None
    if counted_to is None:
        return Wh(span)
    final = counted_to if after.meter_stop_wh in (None, before.meter_stop_wh) else after.meter_stop_wh
    earlier = 0
    if before.meter_start_wh is not None and after.meter_start_wh is not None:
        earlier = before.meter_start_wh - after.meter_start_wh
    return Wh(max(0, session.energy_wh + (final or 0) - counted_to + earlier))


def _counted_to(session: ChargingSession, before: Figures) -> Wh | None:
    """The register up to which energy was counted: the stop register where it was believed, else the last reading."""
    stop, last = before.meter_stop_wh, session.register_wh
    believed = stop is not None and last is not None and (before.meter_start_wh or 0) <= stop <= last
    return stop if believed else last


def _noted(session: ChargingSession, change: ManualChange, follows: str, state: FindingState) -> Finding:
    changed = ", ".join(
        f"{name} from {old} to {new}"
        for name, old, new in (
            ("meterStart", change.before.meter_start_wh, change.after.meter_start_wh),
            ("meterStop", change.before.meter_stop_wh, change.after.meter_stop_wh),
            ("the energy", change.before.energy_wh, change.after.energy_wh),
        )
        if old != new
    )
    return finding_about(
        session,
        kind=FindingKind.MANUAL_CHANGE,
        key=f"manual_register:{change.id}",
        summary=(
            f"{change.by} changed {changed} (Wh) by hand on the ended session of {transaction_of(session)}, at "
            f"{change.at:%Y-%m-%d %H:%M:%S} UTC; {follows}."
        ),
        state=state,
        evidence={"by": change.by, "changed": changed, "at": change.at.isoformat()},
    )
