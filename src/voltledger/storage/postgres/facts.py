"""T1 on PostgreSQL: recording facts of many stations in one unit of work, set by set."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from uuid import UUID

import asyncpg
import msgspec

from voltledger.domain.events import AuthorizationStatus, ConnectorStatus, Reading
from voltledger.domain.identifiers import (
    OrganizationId,
    SessionId,
    StationId,
    TokenValue,
    TransactionRef,
    UserId,
    transaction_ref,
)
from voltledger.domain.quantities import Minor, Price
from voltledger.domain.session.book import Policy, StationBook, Terms
from voltledger.domain.session.connectors import ConnectorRecord
from voltledger.domain.session.tokens import TokenRecord
from voltledger.failpoints import ARMED, fp
from voltledger.storage.errors import StoreContention
from voltledger.storage.ports import AlreadyRecorded, AnsweredStart, BookWanted, Changes, FactKey
from voltledger.storage.postgres.ledger import AlreadyPosted, post_entries
from voltledger.storage.postgres.pool import CONTENTION, Connection, Database, describe
from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import (
    COLUMN_LIST,
    SAVE_SESSIONS,
    SESSION_COLUMNS,
    as_float,
    columns_of,
    safe_text,
    session_of,
    session_values,
)

_LOAD = {
    name: SQL[name].replace("{columns}", COLUMN_LIST)
    for name in ("sessions_open", "sessions_by_ref", "sessions_by_alias", "sessions_by_start", "sessions_ended_at")
}


COPY_FROM = 16
"""From so many rows on, COPY and its extra round trip cost less than arrays."""

INBOX_COLUMNS = (
    "station_id",
    "dedupe_key",
    "action",
    "state",
    "session_id",
    "epoch",
    "received_at",
    "response",
)
FRAME_COLUMNS = ("station_id", "from_station", "kind", "action", "message_id", "dedupe_key", "payload", "at")
READING_COLUMNS = (
    "session_id",
    "at",
    "context",
    "register_wh",
    "power_w",
    "current_a",
    "soc_percent",
    "others",
)


class PostgresFactStore:
    """The fact store; `new_id` makes version 7 UUIDs for commands, `node` signs what `probe` writes."""

    def __init__(
        self,
        database: Database,
        *,
        currency: str,
        fee_percent: Decimal,
        new_id: Callable[[], UUID],
        node: str = "",
    ) -> None:
        self._database = database
        self._node = node.partition("#")[0]
        self._currency = currency
        self._fee_percent = fee_percent
        self._new_id = new_id
        self._transaction_key: bytes | None = None

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator["PostgresFactWork"]:
        """One connection and one database transaction. A rival's key shows as AlreadyRecorded."""
        try:
            async with self._database.unit_of_work() as connection:
                yield PostgresFactWork(connection, self._currency, self._fee_percent, self._new_id)
        except asyncpg.UniqueViolationError as error:
            raise AlreadyRecorded(error.constraint_name) from error
        except AlreadyPosted as error:
            raise AlreadyRecorded("entry_once") from error
        except CONTENTION as error:
            raise StoreContention(describe(error)) from error

    async def probe(self) -> None:
        """Writes something that means nothing, on a connection that may be new."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["pulse"], self._node)

    async def reserve_transaction_refs(self, count: int) -> list[TransactionRef]:
        """Ids behind numbers of the sequence; those never used are gaps, as normal."""
        async with self._database.connection() as connection:
            if self._transaction_key is None:
                self._transaction_key = await connection.fetchval(SQL["transaction_key"])
            numbers = [row[0] for row in await connection.fetch(SQL["transaction_numbers"], count)]
            if ARMED:
                await fp("t1.ref_drawn")
        return [transaction_ref(number, self._transaction_key or b"") for number in numbers]


class PostgresFactWork:
    """One T1; see `FactWork`."""

    def __init__(self, connection: Connection, currency: str, fee_percent: Decimal, new_id: Callable[[], UUID]) -> None:
        self._connection = connection
        self._currency = currency
        self._fee_percent = fee_percent
        self._new_id = new_id
        self._careful = False

    async def answered(self, keys: Sequence[FactKey]) -> dict[FactKey, str]:
        """The stored answers of facts that are recorded already.

        Whoever asks has met a key that exists; then readings may exist as well, and are inserted one by one.
        """
        self._careful = True
        rows = await self._connection.fetch(
            SQL["facts_answered"], [k.station_id for k in keys], [k.dedupe_key for k in keys]
        )
        return {FactKey(station_id=r["station_id"], dedupe_key=r["dedupe_key"]): r["response"] for r in rows}

    async def load_books(self, wanted: Sequence[BookWanted], policy: Policy) -> dict[StationId, StationBook]:
        """The books of stations; what only starts need is loaded only for starts."""
        books = {w.station_id: StationBook(station_id=w.station_id, policy=policy) for w in wanted}
        await self._put_sessions(books, "sessions_open", list(books))
        await self._load_named(books, wanted)
        await self._load_tokens(books, wanted)
        await self._load_terms(books, [w.station_id for w in wanted if w.terms])
        await self._load_wallets(books)
        await self._load_state(books, [w.station_id for w in wanted if w.state])
        return books

    async def _put_sessions(self, books: dict[StationId, StationBook], query: str, *arguments: object) -> None:
        for row in await self._connection.fetch(_LOAD[query], *arguments):
            session = session_of(row)
            books[session.station_id].put(session)

    async def _load_named(self, books: dict[StationId, StationBook], wanted: Sequence[BookWanted]) -> None:
        """Sessions that facts name and that are not open: ended ones, repeats, late starts."""
        refs = [(w.station_id, r) for w in wanted for r in w.refs if books[w.station_id].by_ref(r) is None]
        if refs:
            await self._put_sessions(books, "sessions_by_ref", *columns_of(refs, 2))
            await self._put_aliases(books, [(i, ref) for i, ref in refs if books[i].by_ref(ref) is None])
        starts = [(w.station_id, key) for w in wanted for key in w.start_keys]
        if starts:
            tokens = [token for w in wanted if w.start_keys for token in w.tokens]
            await self._put_sessions(books, "sessions_by_start", *columns_of(starts, 2), tokens)
        ends = [(w.station_id, at) for w in wanted for at in w.nameless_ends]
        if ends:
            await self._put_sessions(books, "sessions_ended_at", *columns_of(ends, 2))

    async def _put_aliases(self, books: dict[StationId, StationBook], refs: Sequence[tuple[object, ...]]) -> None:
        """Sessions whose transaction had the named id before."""
        if not refs:
            return
        for row in await self._connection.fetch(_LOAD["sessions_by_alias"], *columns_of(refs, 2)):
            session = session_of(row)
            books[session.station_id].put(session)
            books[session.station_id].aliases[TransactionRef(row["alias"])] = session.id

    async def _load_tokens(self, books: dict[StationId, StationBook], wanted: Sequence[BookWanted]) -> None:
        values = {token for w in wanted for token in w.tokens}
        if not values:
            return
        rows = await self._connection.fetch(SQL["tokens_by_value"], list(values))
        records = {TokenValue(row["value"]): token_of(row) for row in rows}
        for w in wanted:
            books[w.station_id].tokens = {t: records[t] for t in w.tokens if t in records}

    async def _load_terms(self, books: dict[StationId, StationBook], stations: Sequence[StationId]) -> None:
        if not stations:
            return
        for row in await self._connection.fetch(SQL["terms_of_stations"], stations):
            price = row["price_per_kwh_minor"]
            fee = row["fee_percent"]
            books[row["station_id"]].terms = Terms(
                organization_id=OrganizationId(row["organization_id"]),
                price=Price(
                    per_kwh_minor=Decimal(0) if price is None else price,
                    currency=row["currency"] or self._currency,
                ),
                fee_percent=self._fee_percent if fee is None else fee,
            )

    async def _load_wallets(self, books: dict[StationId, StationBook]) -> None:
        """What may be set aside, for users of a start's token and of sessions that may begin again."""
        users: dict[str, list[StationBook]] = {}
        for book in books.values():
            starting = {r.user_id for r in book.tokens.values()} if book.terms is not None else set()
            again = {s.user_id for s in book.sessions.values() if s.concluded}
            for user in (starting | again) - {None}:
                users.setdefault(str(user), []).append(book)
        if not users:
            return
        rows = await self._connection.fetch(SQL["wallets_of_drivers"], list(users))
        for row in (row for row in rows if row["kind"] == "wallet"):
            for book in users[row["owner"]]:
                if book.terms is None or book.terms.price.currency == row["currency"]:
                    book.spendable[row["owner"]] = Minor(row["balance_minor"])

    async def _load_state(self, books: dict[StationId, StationBook], stations: Sequence[StationId]) -> None:
        if not stations:
            return
        for row in await self._connection.fetch(SQL["connectors_of_stations"], stations):
            record = connector_of(row)
            books[row["station_id"]].connectors[(record.evse_id, record.connector_id)] = record
        for row in await self._connection.fetch(SQL["stations_out_of_order"], stations):
            books[row["id"]].out_of_order = True

    async def save(self, changes: Changes) -> None:
        """Writes everything in a fixed order; empty kinds cost nothing."""
        await self._save_facts(changes)
        await self._save_sessions(changes)
        await self._save_effects(changes)
        await self._save_stations(changes)

    async def adopt_refs(self, starts: Sequence[AnsweredStart]) -> None:
        """Gives sessions the transaction id that their station was told; see `FactWork`."""
        rows = [(s.key.station_id, s.key.dedupe_key, s.transaction_ref, s.response) for s in starts]
        await self._connection.execute(SQL["starts_adopt"], *columns_of(rows, 4))

    async def _many(self, query: str, rows: Iterable[tuple[object, ...]]) -> None:
        listed = list(rows)
        if listed:
            await self._connection.execute(SQL[query], *columns_of(listed, len(listed[0])))

    async def _load_many(
        self, table: str, columns: Sequence[str], query: str, rows: Iterable[tuple[object, ...]]
    ) -> None:
        """Inserts rows: by COPY when there are many, which costs the driver a third of what arrays do."""
        listed = list(rows)
        if len(listed) < COPY_FROM:
            await self._many(query, listed)
        else:
            await self._connection.copy_records_to_table(table, records=listed, columns=columns)

    async def _save_facts(self, changes: Changes) -> None:
        await self._load_many(
            "inbox",
            INBOX_COLUMNS,
            "facts_insert",
            (
                (
                    f.station_id,
                    f.dedupe_key,
                    f.action,
                    f.state.value,
                    f.session_id,
                    f.epoch,
                    f.received_at,
                    f.response,
                )
                for f in changes.facts
            ),
        )
        if ARMED and changes.facts:
            await fp("t1.after_inbox")
        await self._load_many(
            "frame",
            FRAME_COLUMNS,
            "frames_insert",
            (
                (
                    f.station_id,
                    f.from_station,
                    f.kind,
                    safe_text(f.action),
                    safe_text(f.message_id),
                    f.dedupe_key,
                    safe_text(f.payload),
                    f.at,
                )
                for f in changes.frames
            ),
        )

    async def _save_sessions(self, changes: Changes) -> None:
        if changes.sessions:
            rows = [session_values(s) for s in sorted(changes.sessions.values(), key=lambda s: s.id.bytes)]
            await self._connection.execute(SAVE_SESSIONS, *columns_of(rows, len(SESSION_COLUMNS)))
            if ARMED:
                await fp("t1.after_sessions")
        await self._many(
            "sessions_metered",
            (
                (
                    s.id,
                    s.meter_start_wh,
                    s.register_wh,
                    s.register_at,
                    s.energy_wh,
                    as_float(s.power_w),
                    as_float(s.soc_percent),
                    s.heard_at,
                    s.id_confirmed,
                )
                for s in changes.metered.values()
            ),
        )
        rows = list({row[:3]: row for row in (_reading_row(i, r) for i, r in changes.readings)}.values())
        if self._careful:
            await self._many("readings_insert", rows)
        else:
            await self._load_many("reading", READING_COLUMNS, "readings_insert", rows)
        if ARMED and rows:
            await fp("t1.after_readings")
        await self._many(
            "strays_insert",
            (
                (
                    s.station_id,
                    s.evse_id,
                    s.transaction_ref or "",
                    s.reading.at.at,
                    s.reading.context,
                    s.reading.register_wh,
                    as_float(s.reading.power_w),
                    s.received_at,
                )
                for s in changes.strays
            ),
        )

    async def _save_effects(self, changes: Changes) -> None:
        await post_entries(self._connection, changes.entries)
        if ARMED and changes.entries:
            await fp("t1.after_hold")
        await self._many(
            "asks_insert",
            (
                (
                    self._new_id(),
                    station_id,
                    ask.key,
                    ask.session_id,
                    type(ask.command).__name__,
                    msgspec.json.encode(ask.command).decode(),
                )
                for station_id, ask in changes.asks
            ),
        )
        if changes.withdraw:
            await self._connection.execute(SQL["asks_withdraw"], changes.withdraw)
        await self._many("settle_jobs_insert", ((str(s.id), s.settle_version + 1) for s in changes.settle))
        if ARMED and changes.settle:
            await fp("t1.after_jobs")
        await self._many(
            "findings_insert",
            (
                (
                    f.kind.value,
                    f.key,
                    f.state.value,
                    f.station_id,
                    f.evse_id,
                    f.session_id,
                    f.summary,
                    msgspec.json.encode(f.evidence).decode(),
                )
                for f in changes.findings
            ),
        )
        await self._many("feed_insert", ((i.kind, i.station_id, i.session_id, i.payload) for i in changes.feed))

    async def _save_stations(self, changes: Changes) -> None:
        await self._many(
            "boots_save",
            (
                (b.station_id, b.boot.vendor, b.boot.model, b.boot.serial, b.boot.firmware, b.received_at)
                for b in {b.station_id: b for b in changes.boots}.values()
            ),
        )
        latest = {(s.station_id, s.report.evse_id, s.report.connector_id): s for s in changes.statuses}
        await self._many(
            "connectors_save",
            (
                (
                    s.station_id,
                    s.report.evse_id,
                    s.report.connector_id,
                    s.report.status.value,
                    s.report.raw_status,
                    s.report.error_code,
                    s.report.info,
                    None if s.report.at is None or s.report.at.suspect else s.report.at.at,
                    s.received_at,
                )
                for s in latest.values()
            ),
        )
        await self._many(
            "stations_save_status", ((s.station_id, s.status.value, s.out_of_order) for s in changes.stations)
        )


def _reading_row(session_id: SessionId, reading: Reading) -> tuple[object, ...]:
    return (
        session_id,
        reading.at.at,
        reading.context,
        reading.register_wh,
        as_float(reading.power_w),
        as_float(reading.current_a),
        as_float(reading.soc_percent),
        msgspec.json.encode(reading.others).decode() if reading.others else None,
    )


def token_of(row: asyncpg.Record) -> TokenRecord:
    """A token from its row."""
    return TokenRecord(
        value=TokenValue(row["value"]),
        status=AuthorizationStatus(row["status"]),
        group=row["token_group"],
        user_id=None if row["driver_id"] is None else UserId(row["driver_id"]),
        expires_at=row["expires_at"],
    )


def connector_of(row: asyncpg.Record) -> ConnectorRecord:
    """A connector's last report from its row."""
    return ConnectorRecord(
        evse_id=row["evse_id"],
        connector_id=row["connector_id"],
        status=ConnectorStatus(row["status"]),
        occurred_at=row["occurred_at"],
        received_at=row["received_at"],
    )
