"""What services ask of a store, without knowing which store it is."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol
from uuid import UUID

from voltledger.domain.events import Booted, ConnectorStatus, Reading, StatusReported
from voltledger.domain.identifiers import SessionId, StationId, TokenValue, TransactionRef, UserId
from voltledger.domain.ledger.entries import Entry
from voltledger.domain.ledger.settlement import Settled, Settlement
from voltledger.domain.quantities import Minor, Wh
from voltledger.domain.reconciliation.findings import Finding
from voltledger.domain.session.book import Policy, StationBook
from voltledger.domain.session.connectors import ConnectorRecord, StationStatus
from voltledger.domain.session.decision import Ask, FactState
from voltledger.domain.session.session import ChargingSession


@dataclass(frozen=True, slots=True, kw_only=True)
class FactKey:
    """A fact's business identity: what makes it the same fact, whatever frame it came in."""

    station_id: StationId
    dedupe_key: bytes


@dataclass(slots=True, kw_only=True)
class BookWanted:
    """What must be loaded of one station to decide a batch of its facts."""

    station_id: StationId
    refs: set[TransactionRef] = field(default_factory=set)
    start_keys: set[bytes] = field(default_factory=set)
    tokens: set[TokenValue] = field(default_factory=set)
    nameless_ends: set[datetime] = field(default_factory=set)
    terms: bool = False
    state: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FactRecord:
    """One row of the inbox: a fact, what became of it, and the answer given."""

    station_id: StationId
    dedupe_key: bytes
    action: str
    message_id: str
    payload: str
    epoch: int
    received_at: datetime
    state: FactState
    session_id: SessionId | None
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRecord:
    """One message as it was on the wire."""

    station_id: StationId
    from_station: bool
    kind: int
    action: str
    message_id: str
    payload: str
    at: datetime
    dedupe_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayReading:
    """A reading that belongs to no session that we know."""

    station_id: StationId
    evse_id: int
    transaction_ref: TransactionRef | None
    reading: Reading
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRecord:
    """A connector's report, to be believed unless a later one is recorded."""

    station_id: StationId
    report: StatusReported
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BootRecord:
    """A station's introduction."""

    station_id: StationId
    boot: Booted
    received_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedItem:
    """Something that listeners are told."""

    kind: str
    station_id: StationId | None
    session_id: SessionId | None
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StationState:
    """A station's one status after a batch, and whether it is (still) taken out of order by us."""

    station_id: StationId
    status: StationStatus
    out_of_order: bool


@dataclass(slots=True, kw_only=True)
class Changes:
    """Everything that one unit of work writes.

    `metered` are sessions of which only meter figures changed (the hot path); `sessions` are new or
    changed in any other way. A session stands in one of the two. `withdraw` names queued commands,
    by the key of their effect, that are no longer wanted.
    """

    facts: list[FactRecord] = field(default_factory=list)
    frames: list[FrameRecord] = field(default_factory=list)
    sessions: dict[SessionId, ChargingSession] = field(default_factory=dict)
    metered: dict[SessionId, ChargingSession] = field(default_factory=dict)
    readings: list[tuple[SessionId, Reading]] = field(default_factory=list)
    strays: list[StrayReading] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    asks: list[tuple[StationId, Ask]] = field(default_factory=list)
    withdraw: list[str] = field(default_factory=list)
    settle: list[ChargingSession] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    statuses: list[StatusRecord] = field(default_factory=list)
    boots: list[BootRecord] = field(default_factory=list)
    stations: list[StationState] = field(default_factory=list)
    feed: list[FeedItem] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournaledFact:
    """A fact that was answered from this node's journal and is not in the books yet.

    `number` gives the order; 0 until the journal has given one. `version` is the OCPP version it was
    said in; `transaction_ref` the id that a start was given.
    """

    number: int = 0
    station_id: StationId
    version: str
    action: str
    message_id: str
    payload: str
    epoch: int
    received_at: datetime
    dedupe_key: bytes | None
    transaction_ref: TransactionRef | None
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalAnswer:
    """What a fact is answered: for a repeat of one that waits already (not `new`), what that one was."""

    response: str
    new: bool


class FactJournal(Protocol):
    """Where facts are kept on this node's own disk while the store is away.

    Everything raises JournalUnavailable when the disk fails, is full or may not be written.
    """

    async def append(self, facts: Sequence[JournaledFact]) -> list[JournalAnswer]:
        """Keeps facts for certain, and returns the answer of each. None at all tries whether it could."""

    async def oldest(self, after: int, limit: int) -> list[JournaledFact]:
        """The facts behind a number, in order."""

    async def remove(self, numbers: Sequence[int]) -> None:
        """Forgets facts that are in the books now."""

    async def waiting(self) -> dict[StationId, int]:
        """How many facts of each station wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredStart:
    """A start that was answered before it was recorded, and the transaction id that the station got."""

    key: FactKey
    transaction_ref: TransactionRef
    response: str


class AlreadyRecorded(Exception):
    """A fact of this unit of work is recorded already: nothing was saved; look first, then go on."""


class FactWork(Protocol):
    """One unit of work over facts; committed when its context ends without an exception."""

    async def answered(self, keys: Sequence[FactKey]) -> dict[FactKey, str]:
        """The stored answers of facts that are recorded already."""

    async def load_books(self, wanted: Sequence[BookWanted], policy: Policy) -> dict[StationId, StationBook]:
        """The books of stations, with the sessions in them locked in a fixed order."""

    async def save(self, changes: Changes) -> None:
        """Writes everything. Raises AlreadyRecorded when a rival was first."""

    async def adopt_refs(self, starts: Sequence[AnsweredStart]) -> None:
        """Gives sessions the transaction id that their station was told; the id they had stays known."""


class FactStore(Protocol):
    """Where facts are recorded before they are answered."""

    def unit_of_work(self) -> AbstractAsyncContextManager[FactWork]:
        """Begins one. Raises StoreUnavailable when the store is away."""

    async def reserve_transaction_refs(self, count: int) -> list[TransactionRef]:
        """Transaction ids, never given twice and not to be guessed."""

    async def probe(self) -> None:
        """Writes something that means nothing. Raises StoreUnavailable while the store cannot record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueSettlement:
    """A settlement that is to be done."""

    job_id: int
    session_id: UUID
    version: int


class SettlementWork(Protocol):
    """One T2: everything in it happens, or nothing."""

    async def next_due(self) -> DueSettlement | None:
        """The next settlement that is due, locked; None when there is none."""

    async def load(self, due: DueSettlement) -> tuple[ChargingSession | None, Settled | None]:
        """The session, locked, and what has been settled for it so far."""

    async def forget(self, due: DueSettlement) -> None:
        """Removes a job whose session is active again."""

    async def hold(self, due: DueSettlement, reason: str) -> None:
        """Leaves a settlement to a person."""

    async def done(self, due: DueSettlement) -> None:
        """Marks a job whose effect exists already."""

    async def record(self, due: DueSettlement, session: ChargingSession, settlement: Settlement) -> None:
        """Writes the settlement and all that follows from it."""


class SettlementStore(Protocol):
    """Where settlements are done."""

    def unit_of_work(self) -> AbstractAsyncContextManager[SettlementWork]:
        """Begins one. Raises StoreUnavailable or StoreContention."""

    async def put_off(self, due: DueSettlement, problem: str) -> None:
        """Tries a settlement that failed again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedCommand:
    """A command that waits for its station; `neutral` ones are the domain's, to be translated."""

    id: UUID
    station_id: StationId
    session_id: UUID | None
    neutral: bool
    action: str
    payload: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payer:
    """A user whose money is to be set aside."""

    user_id: UserId
    currency: str
    spendable: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanCandidate:
    """A connector that charges, or whose meter rises, while no session runs on it."""

    station_id: StationId
    evse_id: int
    connector_id: int
    status: ConnectorStatus | None
    status_since: datetime | None
    status_at: datetime | None
    connected_since: datetime | None
    transaction_ref: TransactionRef | None
    first_wh: Wh | None
    last_wh: Wh | None
    first_at: datetime | None
    last_at: datetime | None

    @property
    def energy_wh(self) -> int:
        """Energy that flowed outside any session, as far as meters told."""
        return 0 if self.first_wh is None or self.last_wh is None else self.last_wh - self.first_wh


@dataclass(frozen=True, slots=True, kw_only=True)
class StationOverview:
    """A station and what its one status follows from."""

    station_id: StationId
    status: str
    derived_status: str
    out_of_order: bool
    connected: bool
    running: bool
    connectors: tuple[ConnectorRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StationAccess:
    """What admission needs to know of a station; `station_id` is its registered spelling."""

    station_id: StationId
    password_hash: str | None
    security_profile: int
    disabled: bool
