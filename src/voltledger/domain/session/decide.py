"""What a transaction fact means: the one door through which a station changes sessions.

Each function behind it takes the station's book, one event and the circumstances, and returns a
`Decision` that the shell carries out in one unit of work. Facts are never refused: what does not
fit is answered, kept, and becomes a finding.
"""

from voltledger.domain.events import (
    Answer,
    FactUnreadable,
    MeterReported,
    TransactionEnded,
    TransactionFact,
    TransactionStarted,
)
from voltledger.domain.reconciliation.findings import Finding, FindingKind
from voltledger.domain.session.book import StationBook
from voltledger.domain.session.decision import Circumstances, Decision, FactState
from voltledger.domain.session.ends import decide_ended
from voltledger.domain.session.metered import decide_metered
from voltledger.domain.session.starts import decide_started


def decide(book: StationBook, event: TransactionFact, now: Circumstances) -> Decision:
    """The decision about any transaction fact; the book holds the new truth afterwards."""
    decision = _decide(book, event, now)
    for session in decision.sessions:
        book.put(session)
    return decision


def _decide(book: StationBook, event: TransactionFact, now: Circumstances) -> Decision:
    match event:
        case MeterReported():
            return decide_metered(book, event, now)
        case TransactionStarted():
            return decide_started(book, event, now)
        case TransactionEnded():
            return decide_ended(book, event, now)
        case FactUnreadable():
            return decide_unreadable(book, event, now)


def decide_unreadable(book: StationBook, event: FactUnreadable, now: Circumstances) -> Decision:
    """Kept raw and answered; a start that cannot be read still gets an identifier."""
    finding = Finding(
        kind=FindingKind.UNREADABLE,
        key=f"unreadable:{book.station_id}:{now.fact_key.hex()}",
        summary=f"{event.action} could not be read ({event.problem}); it was answered and is kept raw in quarantine.",
        station_id=book.station_id,
        evidence={"action": event.action, "problem": event.problem},
    )
    return Decision(
        answer=Answer(at=now.received_at, transaction_ref=now.fresh_ref, heartbeat_s=book.policy.heartbeat_s),
        findings=(finding,),
        fact_state=FactState.QUARANTINED,
    )
