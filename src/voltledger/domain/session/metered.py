"""Readings: which session they belong to, what they prove, when the paid amount is used up."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import msgspec

from voltledger.domain.billing.charges import paid_amount_used_up
from voltledger.domain.billing.metering import Step, StepKind, judge_step
from voltledger.domain.events import Answer, MeterReported, Reading
from voltledger.domain.quantities import Wh
from voltledger.domain.reconciliation.findings import Finding, FindingKind
from voltledger.domain.session.book import StationBook
from voltledger.domain.session.conclude import ask_to_stop, reopen
from voltledger.domain.session.decision import Ask, Circumstances, Decision
from voltledger.domain.session.finding import finding_about, transaction_of
from voltledger.domain.session.money import hold_again
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import Happening, Refused, apply

AHEAD = timedelta(minutes=5)
"""How far ahead of its receipt a station's time may place a register. A clock that is hours ahead would otherwise make
every later reading look old, and no energy would count before the end."""


def decide_metered(book: StationBook, event: MeterReported, now: Circumstances) -> Decision:
    """Readings arrived: they belong to a running session, to an ended one, or to none that we know."""
    answer = Answer(at=now.received_at)
    session = find_metered(book, event)
    if session is None:
        return Decision(answer=answer, readings=event.readings)
    if not session.is_running:
        return _metered_after_end(book, session, event, now)
    metered, findings = take_readings(session, event.readings, now.received_at)
    if event.transaction_ref is not None and not metered.id_confirmed:
        metered = msgspec.structs.replace(metered, id_confirmed=True)
    if event.transaction_ref is None and not _draws(event):
        # A reading in no transaction that the station names, and without power, counts as energy and does not
        # prove that the session goes on: stations send their last register when they are asked.
        metered = msgspec.structs.replace(metered, heard_at=session.heard_at)
    metered, asks = _stop_when_used_up(metered, now.received_at)
    return Decision(
        answer=answer,
        session_id=session.id,
        sessions=(metered,),
        readings=event.readings,
        asks=asks,
        findings=findings,
    )


def _draws(event: MeterReported) -> bool:
    return any(reading.power_w is not None and reading.power_w > 0 for reading in event.readings)


def find_metered(book: StationBook, event: MeterReported) -> ChargingSession | None:
    """The session that readings belong to; without a transaction, the one running on the EVSE.

    Readings of EVSE 0 are the main meter's (OCPP 1.6 §4.7); they count for a session only at a station that is known
    to have one EVSE, where both are the same meter.
    """
    if event.transaction_ref is not None:
        return book.by_ref(event.transaction_ref)
    if event.evse_id:
        return book.running_on(event.evse_id)
    evses = {record.evse_id for record in book.connectors.values() if record.evse_id != 0}
    return book.running_on(evses.pop()) if len(evses) == 1 else None


def _metered_after_end(
    book: StationBook, session: ChargingSession, event: MeterReported, now: Circumstances
) -> Decision:
    """Readings of an ended session are kept; only proof that it goes on reopens one that we closed.

    Where the station ended it without a register, its closing readings are what there is to bill.
    """
    answer = Answer(at=now.received_at)
    unchanged = Decision(answer=answer, session_id=session.id, readings=event.readings)
    if lacks_final_register(session) and event.transaction_ref is not None:
        return _measured_after_end(session, event, now)
    if not session.concluded or not _proves_running(session, event.readings):
        return unchanged
    if book.running_on(session.evse_id) is not None:
        return unchanged  # another transaction has the connector: this one cannot go on beside it
    state = apply(session.state, Happening.PROVEN_RUNNING, concluded=True)
    if isinstance(state, Refused):
        return unchanged
    reopened, entries = hold_again(book, reopen(session, state))
    metered, findings = take_readings(reopened, event.readings, now.received_at)
    return Decision(
        answer=answer,
        session_id=session.id,
        sessions=(metered,),
        readings=event.readings,
        entries=entries,
        findings=(*findings, _reactivated(metered)),
    )


def lacks_final_register(session: ChargingSession) -> bool:
    """Whether the station ended a session and did not say at which register."""
    return not session.is_open and not session.concluded and session.meter_stop_wh is None


def was_measured(session: ChargingSession) -> bool:
    """Whether anything is known of the energy of a session: a register after the one that it began at."""
    later = session.register_at is not None and session.started_at is not None
    return session.energy_wh > 0 or (later and session.register_at > session.started_at)  # type: ignore[operator]  # both are known


def _measured_after_end(session: ChargingSession, event: MeterReported, now: Circumstances) -> Decision:
    metered, findings = take_readings(session, event.readings, now.received_at)
    metered = msgspec.structs.replace(metered, power_w=None, suspect=session.suspect and not was_measured(metered))
    changed = (metered.energy_wh, metered.suspect) != (session.energy_wh, session.suspect)
    return Decision(
        answer=Answer(at=now.received_at),
        session_id=session.id,
        sessions=(metered,) if changed else (),
        readings=event.readings,
        settle=(metered,) if changed else (),
        findings=(*findings, _measured_late(session, metered, now)) if changed else (),
    )


def _measured_late(before: ChargingSession, after: ChargingSession, now: Circumstances) -> Finding:
    return finding_about(
        before,
        kind=FindingKind.CORRECTED,
        key=f"measured_late:{before.id}:{now.fact_key.hex()}",
        summary=(
            f"Closing readings of {transaction_of(before)}, whose end had no register, came after it: "
            f"{before.energy_wh} Wh became {after.energy_wh} Wh. What is not settled yet is settled "
            "with it, the rest as a correction."
        ),
    )


def _proves_running(session: ChargingSession, readings: Sequence[Reading]) -> bool:
    """Whether a register went beyond the one at which we closed, after we closed."""
    if session.register_wh is None or session.ended_at is None:
        return False
    return any(
        r.register_wh is not None and r.register_wh > session.register_wh and r.at.at > session.ended_at
        for r in readings
    )


def _reactivated(session: ChargingSession) -> Finding:
    return finding_about(
        session,
        kind=FindingKind.REACTIVATED,
        key=f"reactivated:{session.id}:{session.settle_version}",
        summary=(
            f"{transaction_of(session, begins=True)} went on after we had closed it; its session is active again. "
            "What was settled stays; the difference is settled at its true end."
        ),
    )


def take_readings(
    session: ChargingSession, readings: Iterable[Reading], received_at: datetime
) -> tuple[ChargingSession, tuple[Finding, ...]]:
    """The session after believing what can be believed of some readings, in the order of their times."""
    findings: list[Finding] = []
    for reading in sorted(readings, key=lambda r: r.at.at):
        session, step = _take_reading(session, reading, received_at)
        if step is not None and step.kind in (StepKind.RESET, StepKind.JUMP):
            findings.append(odd_step(session, reading, step))
    return msgspec.structs.replace(session, heard_at=received_at), tuple(findings)


def placed_at(at: datetime, received_at: datetime) -> datetime:
    """When a register was read, as far as its order among others is concerned: see `AHEAD`."""
    return min(at, received_at + AHEAD)


def _last_at(session: ChargingSession, received_at: datetime) -> datetime | None:
    """When the last register was read; one recorded far in the future was read when it was heard of at the latest."""
    if session.register_at is None or session.register_at <= received_at + AHEAD:
        return session.register_at
    return session.heard_at or received_at


def _take_reading(
    session: ChargingSession, reading: Reading, received_at: datetime
) -> tuple[ChargingSession, Step | None]:
    at = placed_at(reading.at.at, received_at)
    last_at = _last_at(session, received_at)
    newer = last_at is None or at >= last_at
    power = reading.power_w if newer and reading.power_w is not None else session.power_w
    soc = reading.soc_percent if newer and reading.soc_percent is not None else session.soc_percent
    if reading.register_wh is None:
        return msgspec.structs.replace(session, power_w=power, soc_percent=soc), None
    if session.register_wh is None or last_at is None:
        first = msgspec.structs.replace(
            session,
            meter_start_wh=reading.register_wh,
            register_wh=reading.register_wh,
            register_at=at,
            power_w=power,
            soc_percent=soc,
        )
        return first, None
    if at < reading.at.at and reading.register_wh < session.register_wh:
        # Its time says nothing about its order: a lower register is then an older one, not a meter that was reset.
        return session, Step(kind=StepKind.LATE, energy_wh=Wh(0))
    step = judge_step(
        before=session.register_wh,
        before_at=last_at,
        after=reading.register_wh,
        after_at=at,
    )
    if step.kind is StepKind.LATE:
        return session, step
    stepped = msgspec.structs.replace(
        session,
        register_wh=reading.register_wh,
        register_at=at,
        energy_wh=Wh(session.energy_wh + step.energy_wh),
        power_w=power,
        soc_percent=soc,
    )
    return stepped, step


def odd_step(session: ChargingSession, reading: Reading, step: Step) -> Finding:
    fell = step.kind is StepKind.RESET
    return finding_about(
        session,
        kind=FindingKind.REGISTER_FELL if fell else FindingKind.IMPLAUSIBLE_ENERGY,
        key=f"{'fell' if fell else 'jump'}:{session.id}:{reading.at.at.isoformat()}",
        summary=(
            f"The register {'fell' if fell else 'jumped'} to {reading.register_wh} Wh; that step is not counted as "
            "energy. Compare the meter with the readings of this session."
        ),
    )


def _stop_when_used_up(session: ChargingSession, at: datetime) -> tuple[ChargingSession, tuple[Ask, ...]]:
    """Asks the station to stop when what was paid is used up; asked once, repeated by the deadlines."""
    if session.stop_requested_at is not None or session.transaction_ref is None:
        return session, ()
    if not paid_amount_used_up(energy=session.energy_wh, price=session.price, paid=session.available_minor):
        return session, ()
    stopping = msgspec.structs.replace(session, stop_requested_at=at, stop_attempts=1)
    return stopping, (ask_to_stop(stopping, "paid amount used up"),)
