"""Ends: believed for this station's own sessions only, answered and kept in any case."""

from dataclasses import replace
from datetime import datetime

import msgspec

from voltledger.domain.billing.metering import StepKind, judge_step
from voltledger.domain.events import (
    Answer,
    Authorization,
    AuthorizationStatus,
    EndReason,
    Reading,
    TransactionEnded,
)
from voltledger.domain.quantities import Wh
from voltledger.domain.reconciliation.findings import Finding, FindingKind, FindingState
from voltledger.domain.session.book import StationBook
from voltledger.domain.session.decision import Circumstances, Decision, FactState
from voltledger.domain.session.finding import finding_about, transaction_of
from voltledger.domain.session.metered import lacks_final_register, odd_step, take_readings, was_measured
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import Happening, Refused, State, apply
from voltledger.domain.session.tokens import authorize

EARLY_REASONS = frozenset(
    {
        EndReason.DE_AUTHORIZED,
        EndReason.EMERGENCY_STOP,
        EndReason.HARD_RESET,
        EndReason.SOFT_RESET,
        EndReason.IMMEDIATE_RESET,
        EndReason.POWER_LOSS,
        EndReason.POWER_QUALITY,
        EndReason.REBOOT,
        EndReason.UNLOCK_COMMAND,
        EndReason.GROUND_FAULT,
        EndReason.OVERCURRENT,
        EndReason.TIMEOUT,
    }
)
"""Reasons that mean that the driver did not get what was asked for."""


def decide_ended(book: StationBook, event: TransactionEnded, now: Circumstances) -> Decision:
    """A transaction is over: believed for this station's own sessions only, kept in any case.

    Source: OCPP 1.6 §4.10: the end cannot be prevented, so it is always confirmed.
    """
    session = book.by_ref(event.transaction_ref)
    is_matched = session is None and event.transaction_ref is None
    if is_matched:
        session = match_nameless_end(book, event)
    answer = Answer(at=now.received_at, authorization=_end_authorization(book, event, now.received_at))
    if session is None:
        return _unmatched(book, event, now, answer)
    if is_matched and _is_same_end(session, event):
        return Decision(answer=answer, session_id=session.id)
    happening = Happening.ENDED_EARLY if event.reason in EARLY_REASONS else Happening.ENDED_NORMALLY
    state = apply(session.state, happening, concluded=session.concluded)
    if isinstance(state, Refused):
        if lacks_final_register(session) and event.register_wh is not None:
            return _register_after_end(session, event, now, answer)
        return _ended_twice(session, event, answer)
    decision = _end(session, event, state, now, answer)
    return _as_matched(decision, event) if is_matched else decision


def _as_matched(decision: Decision, event: TransactionEnded) -> Decision:
    """An end that we attributed: our conclusion, which the transaction's own end may still correct."""
    (ended,) = decision.sessions
    matched = msgspec.structs.replace(ended, concluded=True)
    finding = finding_about(
        matched,
        kind=FindingKind.UNMATCHED_STOP,
        key=f"matched_stop:{matched.id}:{event.at.at.isoformat()}:{event.register_wh}",
        summary=(
            f"An end that named no transaction was taken for that of {transaction_of(matched)}: the only one of this "
            "station whose id was never used, with a fitting time, register and token. Its own end, if it comes, "
            "corrects this."
        ),
        evidence={"register_wh": str(event.register_wh), "at": event.at.at.isoformat()},
    )
    return replace(decision, sessions=(matched,), settle=(matched,), findings=(*decision.findings, finding))


def match_nameless_end(book: StationBook, event: TransactionEnded) -> ChargingSession | None:
    """The one session that an end with transaction 0 or -1 can mean, or None.

    Candidates never had their identifier seen in a later frame, began before the end, and agree in
    register and token. A replay of an end that is already recorded matches that session again.
    """
    replayed = [s for s in book.sessions.values() if _is_same_end(s, event)]
    if replayed:
        return replayed[0]
    candidates = [s for s in book.running() if _could_end_by(s, event)]
    return candidates[0] if len(candidates) == 1 else None


def _is_same_end(session: ChargingSession, event: TransactionEnded) -> bool:
    ended = not session.is_open and session.meter_stop_wh is not None
    return ended and session.ended_at == event.at.at and session.meter_stop_wh == event.register_wh


def _could_end_by(session: ChargingSession, event: TransactionEnded) -> bool:
    if session.id_confirmed or (session.started_at is not None and session.started_at > event.at.at):
        return False
    if event.evse_id is not None and event.evse_id != session.evse_id:
        return False
    known = event.register_wh is not None and session.meter_start_wh is not None
    if known and event.register_wh < session.meter_start_wh:  # type: ignore[operator]  # both are known
        return False
    return event.token is None or session.token is None or event.token == session.token


def _end(
    session: ChargingSession, event: TransactionEnded, state: State, now: Circumstances, answer: Answer
) -> Decision:
    was_concluded = session.concluded
    ended, findings = take_readings(_without_foreign_register(session, event), event.readings, now.received_at)
    ended = msgspec.structs.replace(
        ended,
        state=state,
        ended_at=event.at.at,
        stop_reason=event.reason.value,
        started_at=ended.started_at or event.at.at,
        meter_stop_wh=None,
        power_w=None,
        concluded=False,
        estimated=False,
        pending_until=None,
    )
    ended, more = _take_final_register(ended, event, now)
    findings = (*findings, *more)
    if was_concluded:
        findings = (*findings, _corrected(session, ended))
        if _was_stated(session) and session.meter_stop_wh != event.register_wh:
            findings = (*findings, _set_free(session))
    return Decision(
        answer=answer,
        session_id=ended.id,
        sessions=(ended,),
        readings=event.readings,
        settle=(ended,),
        findings=findings,
    )


def _was_stated(session: ChargingSession) -> bool:
    """Whether a final register was stated for a session that has not ended by its own word; an estimate is measured."""
    return session.concluded and not session.estimated and session.meter_stop_wh is not None


def _without_foreign_register(session: ChargingSession, event: TransactionEnded) -> ChargingSession:
    """The session without the final register of an end that was not its own, now that its own has come.

    A register that may be another meter's must not count: what this end says is measured from the start again.
    """
    if not _was_stated(session) or session.meter_start_wh is None:
        return session
    if event.register_wh is None or event.register_wh < session.meter_start_wh:
        return session
    return msgspec.structs.replace(
        session,
        register_wh=session.meter_start_wh,
        register_at=session.started_at,
        energy_wh=Wh(0),
        meter_stop_wh=None,
        suspect=False,
    )


def _register_after_end(
    session: ChargingSession, event: TransactionEnded, now: Circumstances, answer: Answer
) -> Decision:
    """The register that the first end lacked: it completes that end and is no conflict with it."""
    taken, findings = take_readings(session, event.readings, now.received_at)
    taken = msgspec.structs.replace(taken, estimated=False, suspect=False, power_w=None)
    taken, more = _take_final_register(taken, event, now)
    return Decision(
        answer=answer,
        session_id=taken.id,
        sessions=(taken,),
        readings=event.readings,
        settle=(taken,),
        findings=(*findings, *more, _completed(session, taken)),
    )


def _take_final_register(
    session: ChargingSession, event: TransactionEnded, now: Circumstances
) -> tuple[ChargingSession, tuple[Finding, ...]]:
    """Energy at the end: the final register decides, unless it cannot be true.

    A final register between start and last reading wins over the readings (they were ahead of it
    by rounding or by a fault; the driver is not charged for the difference). One below the start is
    a reset or a placeholder: then what was measured stands. Without a final register what was measured stands
    too, as an estimate; where nothing was measured the money waits for a person or for a later fact.
    """
    final = event.register_wh
    if final is None:
        estimated = msgspec.structs.replace(
            session, estimated=True, suspect=session.suspect or not was_measured(session)
        )
        return estimated, (_no_register(estimated, now),)
    stopped = msgspec.structs.replace(session, meter_stop_wh=final)
    if session.register_wh is None or session.register_at is None:
        return msgspec.structs.replace(
            stopped, meter_start_wh=final, register_wh=final, register_at=event.at.at, suspect=True
        ), (_no_register(session, now),)
    step = judge_step(
        before=session.register_wh,
        before_at=session.register_at,
        after=final,
        after_at=max(event.at.at, session.register_at),
    )
    final_reading = Reading(at=event.at, context="Transaction.End", register_wh=final)
    if step.kind is StepKind.JUMP:
        return msgspec.structs.replace(stopped, suspect=True), (odd_step(session, final_reading, step),)
    if step.kind is StepKind.RESET:
        stopped = _final_below_last(stopped, final)
        return stopped, (odd_step(session, final_reading, step), *_held_without_energy(stopped, now))
    return msgspec.structs.replace(
        stopped, register_wh=final, register_at=event.at.at, energy_wh=Wh(session.energy_wh + step.energy_wh)
    ), ()


def _final_below_last(session: ChargingSession, final: Wh) -> ChargingSession:
    if session.meter_start_wh is None or final < session.meter_start_wh or session.register_wh is None:
        return session if was_measured(session) else msgspec.structs.replace(session, suspect=True)
    excess = session.register_wh - final
    return msgspec.structs.replace(session, energy_wh=Wh(max(0, session.energy_wh - excess)))


def _held_without_energy(session: ChargingSession, now: Circumstances) -> tuple[Finding, ...]:
    return (_no_register(session, now),) if session.suspect else ()


def _no_register(session: ChargingSession, now: Circumstances) -> Finding:
    if was_measured(session):
        follows = f"it is settled at what was measured ({session.energy_wh} Wh, estimated), which may be too little"
    else:
        follows = "nothing was measured, so its money waits instead of going back"
    return finding_about(
        session,
        kind=FindingKind.UNKNOWN_ENERGY,
        key=f"unknown_energy:{session.id}:{now.fact_key.hex()}",
        summary=(
            f"The end of {transaction_of(session)} has no register that can be used: {follows}. Read the meter and set "
            '"meterStop" (Wh) on its row of "ChargeSession"; a later register of the station counts as well.'
        ),
        state=FindingState.OPEN,
        evidence={"last register": f"{session.register_wh} Wh at {session.register_at}"},
    )


def _ended_twice(session: ChargingSession, event: TransactionEnded, answer: Answer) -> Decision:
    """A second end: answered, kept; the first stands. The same end under another name is no conflict."""
    decision = Decision(answer=answer, session_id=session.id)
    if _is_same_end(session, event):
        return decision
    finding = finding_about(
        session,
        kind=FindingKind.CONFLICTING_STOP,
        key=f"conflicting_stop:{session.id}:{event.register_wh}:{event.at.at.isoformat()}",
        summary=(
            f"A second end of {transaction_of(session)} says {event.register_wh} Wh; the first said "
            f"{session.meter_stop_wh} Wh and stands for money. Check the station's meter."
        ),
    )
    return replace(decision, findings=(finding,), fact_state=FactState.CONFLICT)


def _unmatched(book: StationBook, event: TransactionEnded, now: Circumstances, answer: Answer) -> Decision:
    claimed = event.transaction_ref or "none"
    finding = Finding(
        kind=FindingKind.UNMATCHED_STOP,
        key=f"unmatched_stop:{book.station_id}:{now.fact_key.hex()}",
        summary=(
            f"An end of a transaction ({claimed}) that is not one of this station's, or not just one of them. It was "
            "answered and is kept in quarantine; attribute it to a session or dismiss it."
        ),
        station_id=book.station_id,
        evse_id=event.evse_id,
        evidence={
            "transaction": claimed,
            "register_wh": str(event.register_wh),
            "at": event.at.at.isoformat(),
            "reason": event.reason.value,
        },
    )
    return Decision(answer=answer, findings=(finding,), fact_state=FactState.QUARANTINED)


def _corrected(before: ChargingSession, after: ChargingSession) -> Finding:
    return finding_about(
        before,
        kind=FindingKind.CORRECTED,
        key=f"corrected:{before.id}:{before.settle_version}",
        summary=(
            f"The true end of {transaction_of(before)} arrived after we had closed it: "
            f"{before.energy_wh} Wh became {after.energy_wh} Wh. The difference is settled as a correction."
        ),
    )


def _set_free(before: ChargingSession) -> Finding:
    """The end that was taken for a transaction's own, now that its own has come: it is somebody else's."""
    return finding_about(
        before,
        kind=FindingKind.UNMATCHED_STOP,
        key=f"set_free:{before.id}:{before.ended_at}:{before.meter_stop_wh}",
        summary=(
            f"{transaction_of(before, begins=True)} had been ended at {before.meter_stop_wh} Wh, and has now said "
            "another register itself. If the first came from an end that named no transaction, that end is another "
            "one's: attribute it to a session; if a person had set it, dismiss this."
        ),
        state=FindingState.OPEN,
        evidence={"register_wh": str(before.meter_stop_wh), "at": str(before.ended_at)},
    )


def _completed(before: ChargingSession, after: ChargingSession) -> Finding:
    return finding_about(
        before,
        kind=FindingKind.CORRECTED,
        key=f"completed:{before.id}:{before.settle_version}",
        summary=(
            f"The register that the end of {transaction_of(before)} lacked has arrived: {before.energy_wh} Wh became "
            f"{after.energy_wh} Wh. What is not settled yet is settled with it, the rest as a correction."
        ),
    )


def _end_authorization(book: StationBook, event: TransactionEnded, at: datetime) -> Authorization | None:
    if event.token is None:
        return None
    record = book.tokens.get(event.token)
    if record is None and any(s.token == event.token for s in book.sessions.values()):
        return Authorization(status=AuthorizationStatus.ACCEPTED)
    return authorize(record, at)
