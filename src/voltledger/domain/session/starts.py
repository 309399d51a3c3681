"""Starts: the same one again, one that was asked for, one that was found, or a new one."""

from datetime import datetime

import msgspec

from voltledger.domain.errors import InvariantBroken
from voltledger.domain.events import Answer, Authorization, AuthorizationStatus, TransactionStarted
from voltledger.domain.identifiers import TransactionRef
from voltledger.domain.ledger.entries import Entry
from voltledger.domain.quantities import Wh
from voltledger.domain.reconciliation.findings import Finding, FindingKind
from voltledger.domain.session.book import StationBook
from voltledger.domain.session.conclude import ask_to_stop, conclude
from voltledger.domain.session.decision import Ask, Circumstances, Decision
from voltledger.domain.session.finding import finding_about, transaction_of
from voltledger.domain.session.metered import placed_at, take_readings
from voltledger.domain.session.money import hold_again, hold_up_to
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import Happening, Refused, State, apply
from voltledger.domain.session.tokens import authorize


def decide_started(book: StationBook, event: TransactionStarted, now: Circumstances) -> Decision:
    """A transaction began: the same one again, one that was asked for, one found, or a new one.

    Source: OCPP 1.6 §4.8: a start is answered with an identifier whatever the token is worth.
    """
    known = book.by_start_key(now.fact_key) or book.by_ref(event.transaction_ref) or _same_start(book, event)
    if known is not None:
        return _start_again(book, known, event, now)
    asked = book.expected(event.token, event.evse_id, now.received_at)
    found = _orphan_to_adopt(book, event)
    if asked is not None:
        return _start_asked_for(book, asked, event, now, found)
    return _start_new(book, event, now, found)


def _same_start(book: StationBook, event: TransactionStarted) -> ChargingSession | None:
    """The session whose answer was lost, when a clock sync moved the repeat's timestamp."""
    candidate = book.running_on(event.evse_id)
    if candidate is None or candidate.id_confirmed or candidate.origin is Origin.ORPHAN:
        return None
    same = candidate.token == event.token and candidate.meter_start_wh == event.register_wh
    return candidate if same and event.register_wh is not None else None


def _orphan_to_adopt(book: StationBook, event: TransactionStarted) -> ChargingSession | None:
    """A session that we made because the station charged before its start reached us."""
    candidate = book.running_on(event.evse_id)
    if candidate is None or candidate.state is not State.ORPHANED or candidate.transaction_ref is not None:
        return None
    return None if _began_after(candidate, event) else candidate


def _began_after(orphan: ChargingSession, event: TransactionStarted) -> bool:
    """Whether a start is another visit: all that was measured of the orphan lies before it."""
    if orphan.energy_wh == 0 or orphan.register_wh is None or orphan.register_at is None:
        return False
    if event.register_wh is not None and event.register_wh >= orphan.register_wh:
        return True
    return not event.at.suspect and event.at.at > orphan.register_at


def _start_again(book: StationBook, known: ChargingSession, event: TransactionStarted, now: Circumstances) -> Decision:
    return Decision(
        answer=_start_answer(book, event, known.transaction_ref, now.received_at, asked=known.origin is Origin.PREPAID),
        session_id=known.id,
    )


def _start_asked_for(
    book: StationBook,
    asked: ChargingSession,
    event: TransactionStarted,
    now: Circumstances,
    found: ChargingSession | None,
) -> Decision:
    state = apply(asked.state, Happening.STARTED, concluded=asked.concluded)
    if isinstance(state, Refused):
        return _start_new(book, event, now, found)
    started, entries = hold_again(book, _begin(asked, event, now, state))
    if found is not None and event.register_wh is not None:
        # What the orphan measured came after this start, whose register counts it: nobody pays it twice.
        book.put(msgspec.structs.replace(found, energy_wh=Wh(0)))
    return _finish_start(book, started, event, now, entries=entries, asked=True)


def _start_new(
    book: StationBook, event: TransactionStarted, now: Circumstances, found: ChargingSession | None
) -> Decision:
    base = found or _new_session(book, event.evse_id, event.connector_id, now, Origin.LOCAL)
    record = book.tokens.get(event.token) if event.token is not None else None
    user = record.user_id if record is not None else None
    started = _begin(msgspec.structs.replace(base, token=event.token, user_id=user), event, now, State.ONGOING)
    started, entries = _hold_locally(book, started, event, now)
    return _finish_start(book, started, event, now, entries=entries, asked=False)


def _finish_start(
    book: StationBook,
    started: ChargingSession,
    event: TransactionStarted,
    now: Circumstances,
    *,
    entries: tuple[Entry, ...],
    asked: bool,
) -> Decision:
    ended, findings = _supersede_others(book, started, now)
    answer = _start_answer(book, event, started.transaction_ref, now.received_at, asked=asked)
    if not asked and event.token is not None and event.token not in book.tokens:
        findings = (*findings, _unknown_token(started))
    metered, more = take_readings(started, event.readings, now.received_at)
    metered, asks = _stop_without_money(metered, now.received_at)
    return Decision(
        answer=answer,
        session_id=started.id,
        sessions=(*ended, metered),
        readings=event.readings,
        entries=entries,
        asks=asks,
        settle=ended,
        findings=(*findings, *more),
    )


def _stop_without_money(session: ChargingSession, at: datetime) -> tuple[ChargingSession, tuple[Ask, ...]]:
    """A prepaid start that came after its money went back, and found none left, is asked to stop at once."""
    if session.origin is not Origin.PREPAID or session.available_minor > 0:
        return session, ()
    stopping = msgspec.structs.replace(session, stop_requested_at=at, stop_attempts=1)
    return stopping, (ask_to_stop(stopping, "nothing left to spend"),)


def _begin(session: ChargingSession, event: TransactionStarted, now: Circumstances, state: State) -> ChargingSession:
    """The session with its transaction in it; an adopted orphan keeps the energy already seen."""
    adopted = session.state is State.ORPHANED
    earlier = session.meter_start_wh if adopted else None
    start_register = (
        event.register_wh if earlier is None or event.register_wh is None else min(earlier, event.register_wh)
    )
    read_at = placed_at(event.at.at, now.received_at)
    gained = Wh(0)
    if adopted and session.register_wh is not None and start_register is not None:
        gained = Wh(max(session.energy_wh, session.register_wh - start_register))
    return msgspec.structs.replace(
        session,
        state=state,
        evse_id=event.evse_id,
        connector_id=event.connector_id,
        transaction_ref=event.transaction_ref or now.fresh_ref,
        start_key=now.fact_key,
        started_at=event.at.at,
        ended_at=None,
        stop_reason=None,
        concluded=False,
        meter_start_wh=start_register,
        register_wh=session.register_wh if adopted and session.register_wh is not None else start_register,
        register_at=session.register_at if adopted and session.register_at is not None else read_at,
        energy_wh=gained,
        heard_at=now.received_at,
        pending_until=None,
    )


def _new_session(
    book: StationBook, evse_id: int, connector_id: int, now: Circumstances, origin: Origin
) -> ChargingSession:
    if book.terms is None:
        raise InvariantBroken(f"no terms were loaded for a start at {book.station_id}")
    return ChargingSession(
        id=now.fresh_id,
        station_id=book.station_id,
        evse_id=evse_id,
        connector_id=connector_id,
        state=State.ONGOING,
        origin=origin,
        price=book.terms.price,
        fee_percent=book.terms.fee_percent,
        organization_id=book.terms.organization_id,
        created_at=now.received_at,
    )


def _hold_locally(
    book: StationBook, session: ChargingSession, event: TransactionStarted, now: Circumstances
) -> tuple[ChargingSession, tuple[Entry, ...]]:
    """Sets money aside for a start at the station: up to the usual amount, or what there is."""
    record = book.tokens.get(event.token) if event.token is not None else None
    if authorize(record, now.received_at).status is not AuthorizationStatus.ACCEPTED:
        return session, ()
    return hold_up_to(book, session, book.policy.local_hold, version=1)


def _supersede_others(
    book: StationBook, started: ChargingSession, now: Circumstances
) -> tuple[tuple[ChargingSession, ...], tuple[Finding, ...]]:
    """A connector carries one transaction: older open ones end at their last measured register."""
    older = [s for s in book.running() if s.evse_id == started.evse_id and s.id != started.id]
    ended = tuple(conclude(s, Happening.SUPERSEDED, started.started_at or now.received_at, "Superseded") for s in older)
    findings = tuple(
        finding_about(
            s,
            kind=FindingKind.SUPERSEDED,
            key=f"superseded:{s.id}",
            summary=(
                f"{transaction_of(s, begins=True)} had not ended when transaction {started.transaction_ref} began on "
                f"the same connector; closed at its last measured register. Its own end, if it comes, corrects this."
            ),
        )
        for s in ended
    )
    return ended, findings


def _start_answer(
    book: StationBook,
    event: TransactionStarted,
    ref: TransactionRef | None,
    at: datetime,
    *,
    asked: bool,
) -> Answer:
    record = book.tokens.get(event.token) if event.token is not None else None
    authorization = authorize(record, at)
    if asked:
        authorization = Authorization(status=AuthorizationStatus.ACCEPTED)
    return Answer(at=at, transaction_ref=ref, authorization=authorization, heartbeat_s=book.policy.heartbeat_s)


def _unknown_token(session: ChargingSession) -> Finding:
    return finding_about(
        session,
        kind=FindingKind.UNKNOWN_TOKEN,
        key=f"unknown_token:{session.id}",
        summary=(
            "A transaction was started with a token that nobody registered. It was answered Invalid and is "
            "recorded; what it used goes to the receivable of nobody known until the token is registered."
        ),
    )
