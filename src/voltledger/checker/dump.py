"""A picture of PostgreSQL at one instant: rows as plain structs, and plain aggregates worked out in SQL.

Read only, one REPEATABLE READ snapshot, no locks. Long tables come through cursors; of raw frames only the content's
digest is kept, so that a million of them fit.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from voltledger.checker import queries
from voltledger.checker.content import content_of_text
from voltledger.checker.errors import CheckerError

T = TypeVar("T", bound=msgspec.Struct)
PREFETCH = 2_000
OPEN = frozenset({"PENDING", "ONGOING", "ORPHANED"})


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A row of charging_session. Units: Wh, minor units."""

    id: UUID
    station_id: str
    evse_id: int
    connector_id: int
    organization_id: str
    status: str
    origin: str
    created_at: datetime
    currency: str
    price_per_kwh_minor: Decimal
    fee_percent: Decimal
    transaction_ref: str | None = None
    token: str | None = None
    driver_id: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    meter_start_wh: int | None = None
    meter_stop_wh: int | None = None
    register_wh: int | None = None
    energy_wh: int = 0
    heard_at: datetime | None = None
    paid_minor: int = 0
    refunded_minor: int = 0
    settle_version: int = 0
    settled_at: datetime | None = None
    end_reported: bool = False
    estimated: bool = False
    suspect: bool = False
    pending_until: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it may still charge."""
        return self.status in OPEN

    @property
    def name(self) -> str:
        """For people."""
        return f"session {self.id} ({self.station_id}, transaction {self.transaction_ref or 'none'})"


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """A row of settlement: totals of all versions up to this one. Units: Wh, minor units."""

    session_id: UUID
    version: int
    energy_wh: int
    price_per_kwh_minor: Decimal
    fee_percent: Decimal
    currency: str
    paid_minor: int
    cost_minor: int
    covered_minor: int
    refund_minor: int
    owed_minor: int
    fee_minor: int
    share_minor: int
    entry_id: int | None = None
    settled_at: datetime | None = None


class SessionMoney(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's entries moved in all, by kind of account; credit counts up."""

    session_id: UUID
    wallet: int = 0
    held: int = 0
    receivable: int = 0
    payable: int = 0
    platform_fee: int = 0


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Money set aside for a session by one entry."""

    session_id: UUID
    version: int
    amount: int


class InboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """A fact that the server recorded, with the answer it stored."""

    station_id: str
    dedupe_key: bytes
    action: str
    state: str
    received_at: datetime
    response: str
    session_id: UUID | None = None


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A raw transaction message; `content` as `content_of` makes it."""

    station_id: str
    action: str
    dedupe_key: bytes
    content: bytes


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account, its kept balance, and the sum of its lines; credit counts up."""

    code: str
    kind: str
    owner: str
    currency: str
    posted: int
    balance_minor: int | None = None


class Unbalanced(msgspec.Struct, frozen=True, kw_only=True):
    """An entry whose sides differ in a currency."""

    entry_id: int
    currency: str
    amount: int


class OffBalance(msgspec.Struct, frozen=True, kw_only=True):
    """The first line behind which a checked account was below zero, or not what the line says."""

    code: str
    entry_id: int
    line: int
    running: int
    balance_after: int | None = None


class OddEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that its own source contradicts."""

    id: int
    kind: str
    source_id: str
    version: int
    what: str


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """A job, outbox row or command that is not in a final state, and since when."""

    what: str
    name: str
    state: str
    since: datetime
    subject: str | None = None
    why: str | None = None


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """An effect outside the database."""

    effect_key: str
    target: str
    state: str
    created_at: datetime


class FreeConnector(msgspec.Struct, frozen=True, kw_only=True):
    """An open session whose connected connector has said since that it is free."""

    session_id: UUID
    station_id: str
    evse_id: int
    since: datetime


class EndedYetOpen(msgspec.Struct, frozen=True, kw_only=True):
    """An open session whose own end was recorded."""

    session_id: UUID
    station_id: str
    received_at: datetime


class FindingRow(msgspec.Struct, frozen=True, kw_only=True):
    """What the server itself found."""

    kind: str
    key: str
    state: str
    station_id: str
    found_at: datetime
    session_id: UUID | None = None


class Crossed(msgspec.Struct, frozen=True, kw_only=True):
    """Something that names what belongs to another."""

    what: str
    subject: str
    expected: str
    found: str


class ConnectorRow(msgspec.Struct, frozen=True, kw_only=True):
    """The last recorded status of an EVSE."""

    station_id: str
    evse_id: int
    status: str


class Dump(msgspec.Struct, kw_only=True):
    """Everything the rules look at, of one instant (`at`, the database's clock)."""

    at: datetime
    sessions: list[Session] = []
    settlements: list[Settlement] = []
    money: list[SessionMoney] = []
    holds: list[Hold] = []
    inbox: list[InboxRow] = []
    frames: list[Frame] = []
    accounts: list[Account] = []
    unbalanced: list[Unbalanced] = []
    off_balance: list[OffBalance] = []
    odd_entries: list[OddEntry] = []
    unfinished: list[Unfinished] = []
    outbox: list[OutboxRow] = []
    free_connectors: list[FreeConnector] = []
    ended_yet_open: list[EndedYetOpen] = []
    findings: list[FindingRow] = []
    crossed: list[Crossed] = []
    moved: list[Crossed] = []
    connectors: list[ConnectorRow] = []
    stations: dict[str, str] = {}
    owners: dict[str, str] = {}
    topped_up: dict[str, int] = {}
    aliases: dict[tuple[str, str], UUID] = {}
    changed_by_hand: set[UUID] = set()
    readings_of_nobody: int = 0
    entries: int = 0


@asynccontextmanager
async def snapshot(dsn: str) -> AsyncIterator[Any]:
    """A connection that sees one instant and can change nothing. Raises: CheckerError when there is none."""
    try:
        connection = await asyncpg.connect(dsn, timeout=10, server_settings={"jit": "off", "timezone": "UTC"})
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        problem = f"{type(error).__name__}: {error}".rstrip(": ")
        raise CheckerError(f"PostgreSQL does not answer ({problem}): start it or correct DATABASE_URL") from error
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as error:
        raise CheckerError(f"the database lacks this program's schema ({error}): run voltledger migrate") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise CheckerError(f"the database role may not read the books ({error}): use the owner's role") from error
    finally:
        await connection.close()


async def read_dump(
    connection: Any, *, stations: Sequence[str] = (), targets: Sequence[str] = (), session: UUID | None = None
) -> Dump:
    """What the rules need, from a snapshot.

    Shapes: facts of `stations` only (those with journals); outbox rows of `targets` only (those with sinks); with
            `session`, its rows only and nothing of the books as a whole.
    """
    counts = await connection.fetchrow(queries.COUNTS)
    dump = Dump(
        at=counts["at"],
        entries=counts["entries"],
        sessions=await _rows(connection, Session, queries.SESSIONS, session),
        settlements=await _rows(connection, Settlement, queries.SETTLEMENTS, session),
        money=await _rows(connection, SessionMoney, queries.SESSION_MONEY, session),
        holds=await _rows(connection, Hold, queries.HOLDS, session),
        findings=await _rows(connection, FindingRow, queries.FINDINGS, session),
    )
    dump.aliases = {
        (r["station_id"], r["transaction_ref"]): r["session_id"] for r in await _fetch(connection, "ALIASES")
    }
    dump.changed_by_hand = {r["session_id"] for r in await _fetch(connection, "CHANGED_BY_HAND")}
    if session is None:
        await _read_books(connection, dump)
        await _read_places(connection, dump)
    if stations:
        dump.inbox = await _rows(connection, InboxRow, queries.INBOX, list(stations))
        dump.frames = await _frames(connection, list(stations))
    if targets:
        dump.outbox = await _rows(connection, OutboxRow, queries.OUTBOX, list(targets))
    return dump


async def _read_books(connection: Any, dump: Dump) -> None:
    dump.accounts = await _rows(connection, Account, queries.ACCOUNTS)
    dump.unbalanced = await _rows(connection, Unbalanced, queries.UNBALANCED)
    dump.off_balance = await _rows(connection, OffBalance, queries.OFF_BALANCE)
    dump.odd_entries = await _rows(connection, OddEntry, queries.ODD_ENTRIES)
    dump.topped_up = dict(await connection.fetch(queries.TOPPED_UP))


async def _read_places(connection: Any, dump: Dump) -> None:
    dump.unfinished = await _rows(connection, Unfinished, queries.UNFINISHED)
    dump.free_connectors = await _rows(connection, FreeConnector, queries.FREE_CONNECTORS)
    dump.ended_yet_open = await _rows(connection, EndedYetOpen, queries.ENDED_YET_OPEN)
    dump.crossed = await _rows(connection, Crossed, queries.CROSSED)
    dump.moved = await _rows(connection, Crossed, queries.MOVED)
    dump.connectors = await _rows(connection, ConnectorRow, queries.CONNECTORS)
    dump.stations = dict(await connection.fetch(queries.STATIONS))
    dump.owners = dict(await connection.fetch(queries.OWNERS))
    dump.readings_of_nobody = await connection.fetchval(queries.READINGS_OF_NOBODY)


async def _rows(connection: Any, kind: type[T], query: str, *arguments: object) -> list[T]:
    return [kind(**record) async for record in connection.cursor(query, *arguments, prefetch=PREFETCH)]


async def _fetch(connection: Any, name: str) -> list[Any]:
    rows: list[Any] = await connection.fetch(getattr(queries, name))
    return rows


async def _frames(connection: Any, stations: list[str]) -> list[Frame]:
    return [
        Frame(
            station_id=record["station_id"],
            action=record["action"],
            dedupe_key=record["dedupe_key"],
            content=content_of_text(record["payload"]),
        )
        async for record in connection.cursor(queries.FRAMES, stations, prefetch=PREFETCH)
    ]
