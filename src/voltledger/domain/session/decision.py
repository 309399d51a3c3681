"""The value that a decision about one fact is, and the circumstances it is made in."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from voltledger.domain.commands import Command
from voltledger.domain.events import Answer, Reading
from voltledger.domain.identifiers import SessionId, TransactionRef
from voltledger.domain.ledger.entries import Entry
from voltledger.domain.reconciliation.findings import Finding
from voltledger.domain.session.session import ChargingSession


class FactState(StrEnum):
    """What became of a recorded fact."""

    APPLIED = "applied"
    QUARANTINED = "quarantined"  # kept and answered; not understood or not attributable
    CONFLICT = "conflict"  # a second end with other content; the first stands for money
    POISON = "poison"  # our own code failed on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a decision needs besides the event; all given, nothing looked up.

    `fresh_id` and `fresh_ref` are fresh for starts and are used only if a session has to be made.
    """

    received_at: datetime
    fact_key: bytes
    fresh_id: SessionId
    fresh_ref: TransactionRef | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A command to a station as an effect; its key makes it happen once."""

    key: str
    command: Command
    session_id: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Everything that one fact changes, and its answer."""

    answer: Answer
    session_id: SessionId | None = None
    sessions: tuple[ChargingSession, ...] = ()
    readings: tuple[Reading, ...] = ()
    entries: tuple[Entry, ...] = ()
    asks: tuple[Ask, ...] = ()
    settle: tuple[ChargingSession, ...] = ()
    findings: tuple[Finding, ...] = ()
    fact_state: FactState = FactState.APPLIED
