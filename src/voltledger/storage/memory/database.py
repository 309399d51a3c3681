"""Tables, units of work, locks and faults of the stores in memory.

Everything that is committed stands in a `MemoryDatabase`. A process reaches it through an `Access` of its own, which
can be cut off as a crash does: what it had not committed is gone, and its locks are free.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from voltledger.domain.events import Reading
from voltledger.domain.identifiers import OrganizationId, SessionId, StationId, TransactionRef, UserId
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.tokens import TokenRecord
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.memory.rows import (
    AccountRow,
    CommandRow,
    ConnectorRow,
    EntryRow,
    FeedRow,
    FindingRow,
    InboxRow,
    JobRow,
    OrganizationRow,
    OutboxRow,
    OwnerRow,
    PostingRow,
    SettlementRow,
    StationRow,
    TariffRow,
)
from voltledger.storage.ports import FrameRecord, StrayReading

K = TypeVar("K")
V = TypeVar("V")

LOCK_TIMEOUT_S = 1.5
"""How long a unit of work waits for a row of another; as `lock_timeout` on PostgreSQL."""

AtPoint = Callable[[str], Awaitable[None]]
"""Called at `begin`, `load`, `save`, `commit` and `committed` of a unit of work, as `t1.begin`: may wait, so that
others come in between, and may raise. What is raised at `committed` is a commit whose answer got lost."""


class KeyTaken(Exception):
    """A key that may exist once exists already; the constraint's name."""


class ConstraintBroken(Exception):
    """A rule of the tables would be broken; the constraint's name. Nothing is saved."""


class Table(Generic[K, V]):
    """Rows by their key; only what is committed."""

    __slots__ = ("name", "rows")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[K, V] = {}

    def __iter__(self) -> Iterator[V]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)


ReadingKey = tuple[SessionId, datetime, str]
StrayKey = tuple[StationId, int, datetime, str, str]


class MemoryDatabase:
    """What survives a crash, and the locks of the units of work that are under way."""

    def __init__(self, *, now: Callable[[], datetime], transaction_key: bytes = b"") -> None:
        self.now = now
        self.transaction_key = transaction_key
        self.organizations: Table[OrganizationId, OrganizationRow] = Table("organization")
        self.drivers: Table[UserId, str] = Table("driver")  # the value is the currency
        self.tariffs: list[TariffRow] = []
        self.stations: Table[StationId, StationRow] = Table("station")
        self.owners: Table[StationId, OwnerRow] = Table("station_owner")
        self.connectors: Table[tuple[StationId, int, int], ConnectorRow] = Table("connector")
        self.tokens: Table[str, TokenRecord] = Table("token")
        self.sessions: Table[SessionId, ChargingSession] = Table("charging_session")
        self.settled_at: Table[SessionId, datetime] = Table("charging_session.settled_at")
        self.aliases: Table[tuple[StationId, TransactionRef], SessionId] = Table("transaction_alias")
        self.inbox: Table[tuple[StationId, bytes], InboxRow] = Table("inbox")
        self.readings: Table[ReadingKey, Reading] = Table("reading")
        self.strays: Table[StrayKey, StrayReading] = Table("stray_reading")
        self.accounts: Table[str, AccountRow] = Table("ledger_account")
        self.entries: Table[tuple[str, str, int], EntryRow] = Table("ledger_entry")
        self.postings: list[PostingRow] = []
        self.settlements: Table[tuple[SessionId, int], SettlementRow] = Table("settlement")
        self.jobs: Table[tuple[str, str, int], JobRow] = Table("job")
        self.outbox: Table[str, OutboxRow] = Table("outbox")
        self.commands: Table[UUID, CommandRow] = Table("command")
        self.effects: Table[str, UUID] = Table("command.effect_key")
        self.findings: Table[str, FindingRow] = Table("finding")
        self.frames: list[FrameRecord] = []
        self.feed: list[FeedRow] = []
        # Indexes over committed sessions.
        self.sessions_of: dict[StationId, dict[SessionId, None]] = {}
        self.session_by_ref: dict[tuple[StationId, TransactionRef], SessionId] = {}
        self.session_by_start: dict[tuple[StationId, bytes], SessionId] = {}
        self._locks: dict[Hashable, Transaction] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        self._numbers: dict[str, int] = {}
        self.organizations.rows[OrganizationId("default")] = OrganizationRow(id=OrganizationId("default"))

    def next_number(self, sequence: str) -> int:
        """The next number of a sequence, from 1; never given back."""
        number = self._numbers.get(sequence, 0) + 1
        self._numbers[sequence] = number
        return number

    def index_session(self, session: ChargingSession) -> None:
        """Makes a committed session findable."""
        self.sessions_of.setdefault(session.station_id, {})[session.id] = None
        if session.transaction_ref is not None:
            self.session_by_ref[(session.station_id, session.transaction_ref)] = session.id
        if session.start_key is not None:
            self.session_by_start[(session.station_id, session.start_key)] = session.id

    def lock_owner(self, key: Hashable) -> "Transaction | None":
        """The unit of work that holds a row or a key."""
        return self._locks.get(key)

    async def take_lock(self, key: Hashable, work: "Transaction") -> None:
        """Waits until nobody else holds a row or a key. Raises StoreContention when that takes too long."""
        while self._locks.setdefault(key, work) is not work:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(key, deque()).append(turn)
            try:
                async with asyncio.timeout(LOCK_TIMEOUT_S):
                    await turn
            except TimeoutError as error:
                raise StoreContention(f"waited too long for {key!r}") from error

    def free_lock(self, key: Hashable, work: "Transaction") -> None:
        """Lets those who wait for a row or a key go on."""
        if self._locks.get(key) is not work:
            return
        del self._locks[key]
        for turn in self._waiting.pop(key, ()):
            if not turn.done():
                turn.set_result(None)


class Transaction:
    """One unit of work: reads what is committed and what it wrote itself; commits everything at once."""

    __slots__ = ("_appended", "_changed", "_checks", "_held", "_over", "database")

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self._changed: dict[Table[Any, Any], dict[Any, Any]] = {}
        self._appended: list[tuple[list[Any], Any]] = []
        self._checks: list[Callable[[], None]] = []
        self._held: list[Hashable] = []
        self._over = False

    def get(self, table: Table[K, V], key: K) -> V | None:
        """A row as this unit of work sees it."""
        changed = self._changed.get(table)
        if changed is not None and key in changed:
            row: V | None = changed[key]
            return row
        return table.rows.get(key)

    def put(self, table: Table[K, V], key: K, row: V) -> None:
        """Writes a row; others see it after the commit."""
        self._changed.setdefault(table, {})[key] = row

    def remove(self, table: Table[K, V], key: K) -> None:
        """Removes a row."""
        self._changed.setdefault(table, {})[key] = None

    def append(self, log: list[V], row: V) -> None:
        """Adds to what only grows."""
        self._appended.append((log, row))

    def scan(self, table: Table[K, V]) -> list[tuple[K, V]]:
        """All rows as this unit of work sees them."""
        changed = self._changed.get(table)
        if not changed:
            return list(table.rows.items())
        merged = {**table.rows, **changed}
        return [(key, row) for key, row in merged.items() if row is not None]

    def sessions_of(self, station_id: StationId) -> list[ChargingSession]:
        """A station's sessions as this unit of work sees them, in no order."""
        table = self.database.sessions
        ids: dict[SessionId, None] = self.database.sessions_of.get(station_id, {})
        changed = self._changed.get(table)
        if changed:
            ids = {**ids, **{i: None for i, s in changed.items() if s.station_id == station_id}}
        found = (self.get(table, i) for i in ids)
        return [session for session in found if session is not None]

    def check_at_commit(self, check: Callable[[], None]) -> None:
        """A rule that must hold at the end of the unit of work; raises when it does not."""
        self._checks.append(check)

    async def lock(self, key: Hashable) -> None:
        """Holds a row or a key until the unit of work is over."""
        if self._over:
            raise StoreUnavailable("this unit of work is over")
        if self.database.lock_owner(key) is not self:
            await self.database.take_lock(key, self)
            self._held.append(key)

    def commit(self) -> None:
        """Makes everything true at once. Raises StoreUnavailable when this unit of work was cut off."""
        if self._over:
            raise StoreUnavailable("the connection was lost")
        for check in self._checks:
            check()
        database = self.database
        for table, changed in self._changed.items():
            for key, row in changed.items():
                if row is None:
                    table.rows.pop(key, None)
                else:
                    table.rows[key] = row
            if table is database.sessions:
                for session in changed.values():
                    database.index_session(session)
        for log, row in self._appended:
            log.append(row)

    def end(self) -> None:
        """Lets go of every row and key."""
        self._over = True
        for key in self._held:
            self.database.free_lock(key, self)
        self._held.clear()


class Access:
    """One process's way to the database."""

    def __init__(self, database: MemoryDatabase, at_point: AtPoint | None = None) -> None:
        self.database = database
        self._at_point = at_point
        self._open: dict[Transaction, None] = {}
        self.is_cut = False

    async def point(self, name: str) -> None:
        """A place where others may come in between, and where faults may be put."""
        if self._at_point is not None:
            await self._at_point(name)
        if self.is_cut:
            raise StoreUnavailable("the connection was lost")

    @asynccontextmanager
    async def transaction(self, name: str) -> AsyncIterator[Transaction]:
        """One unit of work; committed at the end, rolled back by an exception.

        Raises: StoreUnavailable, StoreContention, KeyTaken, ConstraintBroken.
        """
        await self.point(f"{name}.begin")
        work = Transaction(self.database)
        self._open[work] = None
        try:
            yield work
            await self.point(f"{name}.commit")
            work.commit()
        finally:
            work.end()
            self._open.pop(work, None)
        await self.point(f"{name}.committed")

    def cut(self) -> None:
        """The process is dead: nothing that it had not committed happened."""
        self.is_cut = True
        for work in self._open:
            work.end()
        self._open.clear()
