"""What a batch of facts means: decided by the pure core, gathered into the changes of one unit of work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from voltledger.domain.events import (
    Answer,
    Booted,
    ConnectorStatus,
    FactUnreadable,
    MeterReported,
    StatusReported,
    TransactionEnded,
    TransactionFact,
    TransactionStarted,
)
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.domain.reconciliation.findings import Finding, FindingKind, FindingState
from voltledger.domain.session.book import Policy, StationBook
from voltledger.domain.session.connectors import ConnectorRecord, is_stale, station_status
from voltledger.domain.session.decide import decide
from voltledger.domain.session.decision import Circumstances, Decision, FactState
from voltledger.failpoints import ARMED, fp
from voltledger.services.facts import NEEDS_REF, NO_SESSION, InboundFact
from voltledger.storage.ports import (
    BookWanted,
    BootRecord,
    Changes,
    FactRecord,
    FactWork,
    FeedItem,
    FrameRecord,
    StationState,
    StatusRecord,
    StrayReading,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one fact: its answer's payload, and the decision; None for status and boot."""

    response: str
    decision: Decision | None


class Assembly:
    """One batch's decisions, gathered into the changes of one unit of work."""

    def __init__(self, new_session_id: Callable[[], SessionId], policy: Policy) -> None:
        self._new_session_id = new_session_id
        self._policy = policy
        self.changes = Changes()
        self.outcomes: dict[int, Outcome] = {}

    async def run(self, work: FactWork, facts: Sequence[InboundFact]) -> None:
        """Loads the books of the stations concerned and decides every fact in arrival order."""
        wanted = list(_wanted(facts).values())
        books = await work.load_books(wanted, self._policy) if wanted else {}
        if ARMED and any(fact.dedupe_key is not None for fact in facts):
            await fp("t1.locked")
        for fact in facts:
            book = books[fact.station_id]
            if isinstance(fact.event, StatusReported):
                self._take_status(book, fact, fact.event)
            elif isinstance(fact.event, Booted):
                self._take_boot(fact, fact.event)
            else:
                self._take_fact(book, fact, fact.event)
        self._conclude_stations(books, wanted)

    def _take_fact(self, book: StationBook, fact: InboundFact, event: TransactionFact) -> None:
        starts = isinstance(event, NEEDS_REF)
        decision = decide(
            book,
            event,
            Circumstances(
                received_at=fact.received_at,
                fact_key=fact.dedupe_key or b"",
                fresh_id=self._new_session_id() if starts else NO_SESSION,
                fresh_ref=fact.ref,
            ),
        )
        # What the station was told stands, also where we would say something else by now.
        response = fact.encode(decision.answer).decode() if fact.answered is None else fact.answered
        self.outcomes[id(fact)] = Outcome(response=response, decision=decision)
        self._gather(fact, event, decision, response)

    def _gather(self, fact: InboundFact, event: TransactionFact, decision: Decision, response: str) -> None:
        changes = self.changes
        changes.facts.append(_fact_record(fact, decision.fact_state, decision.session_id, response))
        changes.frames.append(_frame(fact))
        more = decision.asks or decision.findings or decision.entries or decision.settle
        plain = isinstance(event, MeterReported) and not more
        for session in decision.sessions:
            if plain and session.id not in changes.sessions:
                changes.metered[session.id] = session
            else:
                changes.metered.pop(session.id, None)
                changes.sessions[session.id] = session
        if decision.session_id is not None:
            changes.readings.extend((decision.session_id, reading) for reading in decision.readings)
        elif isinstance(event, MeterReported):
            changes.strays.extend(_strays(fact, event))
        changes.entries.extend(decision.entries)
        changes.asks.extend((fact.station_id, ask) for ask in decision.asks)
        changes.settle.extend(decision.settle)
        changes.findings.extend(decision.findings)
        if not isinstance(event, MeterReported):
            changes.feed.extend(_news(fact, decision))

    def _take_status(self, book: StationBook, fact: InboundFact, event: StatusReported) -> None:
        recorded = book.connectors.get((event.evse_id, event.connector_id))
        self.changes.frames.append(_frame(fact))
        if not is_stale(recorded, event, fact.received_at):
            self.changes.statuses.append(
                StatusRecord(station_id=fact.station_id, report=event, received_at=fact.received_at)
            )
            book.connectors[(event.evse_id, event.connector_id)] = ConnectorRecord(
                evse_id=event.evse_id,
                connector_id=event.connector_id,
                status=event.status,
                occurred_at=None if event.at is None else event.at.at,
                received_at=fact.received_at,
            )
            self.changes.feed.append(
                FeedItem(
                    kind="status",
                    station_id=fact.station_id,
                    session_id=None,
                    payload=msgspec.json.encode({"evse": event.evse_id, "status": event.status.value}).decode(),
                )
            )
        self._answer_plainly(fact)

    def _take_boot(self, fact: InboundFact, event: Booted) -> None:
        self.changes.frames.append(_frame(fact))
        self.changes.boots.append(BootRecord(station_id=fact.station_id, boot=event, received_at=fact.received_at))
        self.changes.feed.append(FeedItem(kind="boot", station_id=fact.station_id, session_id=None, payload="{}"))
        self._answer_plainly(fact)

    def _answer_plainly(self, fact: InboundFact) -> None:
        response = fact.answered
        if response is None:
            response = fact.encode(Answer(at=fact.received_at, heartbeat_s=self._policy.heartbeat_s)).decode()
        self.outcomes[id(fact)] = Outcome(response=response, decision=None)

    def _conclude_stations(self, books: dict[StationId, StationBook], wanted: Sequence[BookWanted]) -> None:
        """The stations' one status, wherever a connector or a session may have changed it."""
        for book in (books[w.station_id] for w in wanted if w.state):
            running = bool(book.running())
            parts = [c.status for c in book.connectors.values() if c.evse_id != 0]
            free = bool(parts) and all(status is ConnectorStatus.AVAILABLE for status in parts)
            out_of_order = book.out_of_order and not (free and not running)
            status = station_status(
                book.connectors.values(), connected=True, out_of_order=out_of_order, sessions_running=running
            )
            self.changes.stations.append(
                StationState(station_id=book.station_id, status=status, out_of_order=out_of_order)
            )


def _wanted(facts: Sequence[InboundFact]) -> dict[StationId, BookWanted]:
    wanted: dict[StationId, BookWanted] = {}
    for fact in facts:
        want = wanted.get(fact.station_id)
        if want is None:
            want = wanted[fact.station_id] = BookWanted(station_id=fact.station_id)
        if isinstance(fact.event, MeterReported):  # the hot path, spared the matching below
            if fact.event.transaction_ref is not None:
                want.refs.add(fact.event.transaction_ref)
            elif not fact.event.evse_id:
                want.state = True  # whose meter it is depends on how many connectors there are
            continue
        match fact.event:
            case TransactionStarted(token=token, transaction_ref=ref):
                want.terms = want.state = True
                want.start_keys.add(fact.dedupe_key or b"")
                if token is not None:
                    want.tokens.add(token)
                if ref is not None:
                    want.refs.add(ref)
            case TransactionEnded(transaction_ref=ref, token=token, at=at):
                want.state = True
                if token is not None:
                    want.tokens.add(token)
                if ref is not None:
                    want.refs.add(ref)
                else:
                    want.nameless_ends.add(at.at)
            case StatusReported() | Booted():
                want.state = True
            case FactUnreadable():
                pass
    return wanted


def _fact_record(fact: InboundFact, state: FactState, session_id: SessionId | None, response: str) -> FactRecord:
    return FactRecord(
        station_id=fact.station_id,
        dedupe_key=fact.dedupe_key or b"",
        action=fact.action,
        message_id=fact.message_id,
        payload=fact.payload,
        epoch=fact.epoch,
        received_at=fact.received_at,
        state=state,
        session_id=session_id,
        response=response,
    )


def _frame(fact: InboundFact) -> FrameRecord:
    return FrameRecord(
        station_id=fact.station_id,
        from_station=True,
        kind=2,
        action=fact.action,
        message_id=fact.message_id,
        payload=fact.payload,
        at=fact.received_at,
        dedupe_key=fact.dedupe_key,
    )


def _strays(fact: InboundFact, event: MeterReported) -> list[StrayReading]:
    return [
        StrayReading(
            station_id=fact.station_id,
            evse_id=event.evse_id or 0,
            transaction_ref=event.transaction_ref,
            reading=reading,
            received_at=fact.received_at,
        )
        for reading in event.readings
    ]


def _news(fact: InboundFact, decision: Decision) -> list[FeedItem]:
    return [
        FeedItem(
            kind="session",
            station_id=fact.station_id,
            session_id=session.id,
            payload=msgspec.json.encode(
                {"status": session.state.value, "energy_wh": session.energy_wh, "evse": session.evse_id}
            ).decode(),
        )
        for session in decision.sessions
    ]


def poison_changes(fact: InboundFact, response: str, error: Exception) -> Changes:
    finding = Finding(
        kind=FindingKind.POISON,
        key=f"poison:{fact.station_id}:{(fact.dedupe_key or b'').hex()}:{fact.received_at.isoformat()}",
        summary=(
            f"{fact.action} made our own code fail ({type(error).__name__}). It was answered and is kept raw; "
            "report it with the log of that minute."
        ),
        station_id=fact.station_id,
        state=FindingState.OPEN,
    )
    changes = Changes(findings=[finding], frames=[_frame(fact)])
    if fact.dedupe_key is not None:
        changes.facts.append(_fact_record(fact, FactState.POISON, None, response))
    return changes
