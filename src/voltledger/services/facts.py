"""Facts on their way to the books: what a station said, and the identifiers that decisions about it need."""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from voltledger.domain.events import Answer, Booted, FactUnreadable, StatusReported, TransactionFact, TransactionStarted
from voltledger.domain.identifiers import SessionId, StationId, TransactionRef
from voltledger.domain.session.decision import Decision
from voltledger.storage.ports import FactKey

NO_SESSION = SessionId(UUID(int=0))
"""In place of a fresh id for facts that never open a session."""

NEEDS_REF = TransactionStarted | FactUnreadable
"""Events whose answer may need a fresh transaction id."""

RecordedEvent = TransactionFact | StatusReported | Booted
"""Events that are written before they are answered."""


class NotRecorded(Exception):
    """The fact is not recorded and must not be answered; close the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundFact:
    """One message of a station that must be recorded before it is answered.

    `dedupe_key` names the fact whatever frame it came in; None for status and boot, which are
    harmless to repeat. `encode` shapes the answer for the station's dialect (payload JSON); `version`
    is that dialect. `ref` is the transaction id that a start gets: drawn once, so that every attempt
    to record it and every answer name the same one. `answered` is the payload that the station has
    got already, from the journal; it stands.
    """

    station_id: StationId
    epoch: int
    action: str
    message_id: str
    payload: str
    event: RecordedEvent
    dedupe_key: bytes | None
    received_at: datetime
    encode: Callable[[Answer], bytes]
    version: str = "ocpp1.6"
    ref: TransactionRef | None = None
    answered: str | None = None

    @property
    def key(self) -> FactKey | None:
        """The business identity, where it has one."""
        if self.dedupe_key is None:
            return None
        return FactKey(station_id=self.station_id, dedupe_key=self.dedupe_key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A fact whose unit of work has been committed; `decision` is None for status and boot.

    `repeated` facts were recorded before: they got the stored answer and changed nothing.
    """

    fact: InboundFact
    decision: Decision | None
    repeated: bool = False


class IdSource:
    """Fresh identifiers for decisions: session ids from memory, transaction ids from reserved blocks.

    `reserve` blocks are drawn ahead and kept, so that starts have ids while the store is away.
    """

    def __init__(
        self,
        *,
        new_session_id: Callable[[], SessionId],
        reserve: Callable[[int], Awaitable[list[TransactionRef]]],
        block: int = 200,
        keep: int = 0,
    ) -> None:
        self.new_session_id = new_session_id
        self._reserve = reserve
        self._block = block
        self._keep = keep
        self._refs: deque[TransactionRef] = deque()

    async def take(self, count: int) -> deque[TransactionRef]:
        """That many transaction ids, for nobody else. Raises: StoreUnavailable when none are left."""
        while len(self._refs) < count:
            self._refs.extend(await self._reserve(max(self._block, count)))

        # Nothing waits between here and the check above: two lanes cannot draw the same id.
        return deque(self._refs.popleft() for _ in range(count))

    def spare(self) -> TransactionRef | None:
        """One id from the reserve, without asking for more; None when it is used up."""
        return self._refs.popleft() if self._refs else None

    @property
    def short(self) -> bool:
        """Whether fewer ids are in reserve than should be."""
        return len(self._refs) < self._keep

    async def stock_up(self) -> None:
        """Draws blocks until the reserve is full. Raises: StoreUnavailable."""
        while self.short:
            self._refs.extend(await self._reserve(self._block))
