"""T1 in memory: recording facts of many stations in one unit of work."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec

from voltledger.domain.events import ConnectorStatus, Reading
from voltledger.domain.identifiers import SessionId, StationId, TransactionRef, UserId, transaction_ref
from voltledger.domain.quantities import Minor, Price
from voltledger.domain.reconciliation.findings import Finding
from voltledger.domain.session.book import Policy, StationBook, Terms
from voltledger.domain.session.connectors import ConnectorRecord
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import ENDED, State
from voltledger.storage.memory.database import Access, ConstraintBroken, KeyTaken, MemoryDatabase, Transaction
from voltledger.storage.memory.ledger import post_entries
from voltledger.storage.memory.rows import (
    CommandRow,
    ConnectorRow,
    FeedRow,
    FindingRow,
    InboxRow,
    JobRow,
    StationRow,
    TariffRow,
)
from voltledger.storage.ports import AlreadyRecorded, AnsweredStart, BookWanted, Changes, FactKey, StatusRecord

LOAD_FROM = 16
"""From so many readings on, one that exists fails the batch instead of being passed over; as COPY does."""

LATE_START = timedelta(days=1)
COMMAND_LIFE = timedelta(minutes=15)

_METERED = (
    "meter_start_wh",
    "register_wh",
    "register_at",
    "energy_wh",
    "power_w",
    "soc_percent",
    "heard_at",
    "id_confirmed",
)


class MemoryFactStore:
    """The fact store; see `FactStore`. `currency` and `fee_percent` are those of stations without their own."""

    def __init__(
        self, access: Access, *, currency: str, fee_percent: Decimal, new_id: Callable[[], UUID], name: str = "t1"
    ) -> None:
        self._access = access
        self._currency = currency
        self._fee_percent = fee_percent
        self._new_id = new_id
        self._name = name

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator["MemoryFactWork"]:
        """One unit of work. A rival's key shows as AlreadyRecorded."""
        try:
            async with self._access.transaction(self._name) as work:
                yield self.work_in(work)
        except KeyTaken as error:
            raise AlreadyRecorded(str(error)) from error

    def work_in(self, work: Transaction) -> "MemoryFactWork":
        """Facts as part of a unit of work that is under way."""
        return MemoryFactWork(self._access, work, self._name, self._currency, self._fee_percent, self._new_id)

    async def reserve_transaction_refs(self, count: int) -> list[TransactionRef]:
        """Ids behind numbers of the sequence; those never used are gaps, as normal."""
        await self._access.point("refs.begin")
        database = self._access.database
        numbers = [database.next_number("transaction_number") for _ in range(count)]
        return [transaction_ref(number, database.transaction_key) for number in numbers]

    async def probe(self) -> None:
        """Writes something that means nothing."""
        async with self._access.transaction("probe"):
            pass


class MemoryFactWork:
    """One T1; see `FactWork`."""

    def __init__(
        self,
        access: Access,
        work: Transaction,
        name: str,
        currency: str,
        fee_percent: Decimal,
        new_id: Callable[[], UUID],
    ) -> None:
        self._access = access
        self._work = work
        self._name = name
        self._currency = currency
        self._fee_percent = fee_percent
        self._new_id = new_id
        self._careful = False

    @property
    def _database(self) -> MemoryDatabase:
        return self._work.database

    # --- reading -------------------------------------------------------------------------------------

    async def answered(self, keys: Sequence[FactKey]) -> dict[FactKey, str]:
        """The stored answers of facts that are recorded already; counts the repeat."""
        await self._access.point(f"{self._name}.look")
        self._careful = True
        found: dict[FactKey, str] = {}
        inbox = self._database.inbox
        for key in keys:
            row_key = (key.station_id, key.dedupe_key)
            if self._work.get(inbox, row_key) is None:
                continue
            await self._work.lock(("inbox_once", row_key))
            row = self._work.get(inbox, row_key)
            if row is not None:
                self._work.put(inbox, row_key, msgspec.structs.replace(row, repeats=row.repeats + 1))
                found[key] = row.response
        return found

    async def load_books(self, wanted: Sequence[BookWanted], policy: Policy) -> dict[StationId, StationBook]:
        """The books of stations; what only starts need is loaded only for starts."""
        await self._access.point(f"{self._name}.load")
        books = {w.station_id: StationBook(station_id=w.station_id, policy=policy) for w in wanted}
        await self._put(books, (s for i in books for s in self._work.sessions_of(i) if s.is_open), _is_open)
        await self._load_named(books, wanted)
        self._load_tokens(books, wanted)
        for want in wanted:
            if want.terms:
                books[want.station_id].terms = self.terms_of(want.station_id)
        await self._load_wallets(books)
        for want in wanted:
            if want.state:
                self._load_state(books[want.station_id])
        return books

    async def _put(
        self,
        books: dict[StationId, StationBook],
        found: Iterable[ChargingSession],
        still: Callable[[ChargingSession], bool],
    ) -> None:
        """Locks sessions in id order and puts them into their books as they are when it is our turn."""
        for session_id in sorted({session.id for session in found}):
            await self._work.lock(("session", session_id))
            session = self._work.get(self._database.sessions, session_id)
            if session is not None and still(session):
                books[session.station_id].put(session)

    async def _load_named(self, books: dict[StationId, StationBook], wanted: Sequence[BookWanted]) -> None:
        """Sessions that facts name and that are not open: ended ones, repeats, late starts."""
        for want in wanted:
            refs = {r for r in want.refs if books[want.station_id].by_ref(r) is None}
            if refs:
                by_ref = [s for s in self._work.sessions_of(want.station_id) if s.transaction_ref in refs]
                await self._put(books, by_ref, _always)
                await self._put_aliases(books, want.station_id, refs)
        starting = [w for w in wanted if w.start_keys]
        if starting:
            await self._put(books, self._sessions_by_start(starting), _always)
        for want in wanted:
            if want.nameless_ends:
                ended = [s for s in self._work.sessions_of(want.station_id) if s.ended_at in want.nameless_ends]
                await self._put(books, ended, _always)

    async def _put_aliases(
        self, books: dict[StationId, StationBook], station_id: StationId, refs: set[TransactionRef]
    ) -> None:
        """Sessions whose transaction had a named id before."""
        book = books[station_id]
        for ref in sorted(refs):
            session_id = self._work.get(self._database.aliases, (station_id, ref))
            session = None if session_id is None else self._work.get(self._database.sessions, session_id)
            if session is not None and book.by_ref(ref) is None:
                await self._put(books, [session], _always)
                book.aliases[ref] = session.id

    def _sessions_by_start(self, starting: Sequence[BookWanted]) -> list[ChargingSession]:
        tokens = {token for want in starting for token in want.tokens}
        since = self._database.now() - LATE_START
        return [
            session
            for want in starting
            for session in self._work.sessions_of(want.station_id)
            if session.start_key in want.start_keys
            or (session.token in tokens and _may_start_late(session) and session.created_at > since)
        ]

    def _load_tokens(self, books: dict[StationId, StationBook], wanted: Sequence[BookWanted]) -> None:
        for want in wanted:
            records = {token: self._database.tokens.rows.get(token) for token in want.tokens}
            books[want.station_id].tokens = {token: r for token, r in records.items() if r is not None}

    def terms_of(self, station_id: StationId) -> Terms | None:
        """What a session that starts now is priced by."""
        station = self._work.get(self._database.stations, station_id)
        if station is None:
            return None
        tariff = self._tariff_of(station)
        fee = self._database.organizations.rows[station.organization_id].fee_percent
        return Terms(
            organization_id=station.organization_id,
            price=Price(
                per_kwh_minor=Decimal(0) if tariff is None else tariff.price_per_kwh_minor,
                currency=self._currency if tariff is None else tariff.currency,
            ),
            fee_percent=self._fee_percent if fee is None else fee,
        )

    def _tariff_of(self, station: StationRow) -> TariffRow | None:
        now = self._database.now()
        for scope, scope_id in (("station", station.id), ("organization", station.organization_id), ("default", None)):
            found = [
                (t.valid_from, number, t)
                for number, t in enumerate(self._database.tariffs)
                if t.scope == scope and scope_id in (None, t.scope_id) and t.valid_from <= now
            ]
            if found:
                return max(found)[2]
        return None

    async def _load_wallets(self, books: dict[StationId, StationBook]) -> None:
        """What may be set aside, for users of a start's token and of sessions that may begin again."""
        users: dict[UserId, list[StationBook]] = {}
        for book in books.values():
            starting = {r.user_id for r in book.tokens.values()} if book.terms is not None else set()
            again = {s.user_id for s in book.sessions.values() if s.concluded}
            for user in starting | again:
                if user is not None:
                    users.setdefault(user, []).append(book)
        if not users:
            return
        codes = [a.code for a in self._database.accounts if a.kind in ("held", "wallet") and a.owner in users]
        for code in sorted(codes):
            await self._work.lock(("account", code))
            account = self._work.get(self._database.accounts, code)
            if account is None or account.kind != "wallet" or account.balance is None:
                continue
            for book in users[UserId(account.owner)]:
                if book.terms is None or book.terms.price.currency == account.currency:
                    book.spendable[account.owner] = Minor(account.balance)

    def _load_state(self, book: StationBook) -> None:
        for row in self._connectors_of(book.station_id):
            book.connectors[(row.evse_id, row.connector_id)] = connector_record(row)
        station = self._work.get(self._database.stations, book.station_id)
        book.out_of_order = station is not None and station.out_of_order_since is not None

    def _connectors_of(self, station_id: StationId) -> list[ConnectorRow]:
        return [row for key, row in self._work.scan(self._database.connectors) if key[0] == station_id]

    # --- writing -------------------------------------------------------------------------------------

    async def save(self, changes: Changes) -> None:
        """Writes everything in a fixed order."""
        await self._access.point(f"{self._name}.save")
        await self._save_facts(changes)
        await self._save_sessions(changes)
        await self._save_effects(changes)
        await self._save_stations(changes)

    async def adopt_refs(self, starts: Sequence[AnsweredStart]) -> None:
        """Gives sessions the transaction id that their station was told; see `FactWork`."""
        work, database = self._work, self._database
        for start in starts:
            key = (start.key.station_id, start.key.dedupe_key)
            row = work.get(database.inbox, key)
            session_id = None if row is None else row.session_id
            session = None if session_id is None else work.get(database.sessions, session_id)
            if row is None or session is None:
                continue
            is_same = session.transaction_ref == start.transaction_ref
            if is_same and row.response == start.response:
                continue
            await work.lock(("inbox_once", key))
            await work.lock(("session", session.id))
            other = session.transaction_ref if session.is_open else start.transaction_ref
            if other is not None and not is_same:
                alias = (session.station_id, other)
                if work.get(database.aliases, alias) is None:
                    work.put(database.aliases, alias, session.id)
            if not session.is_open:
                continue
            work.put(database.inbox, key, msgspec.structs.replace(row, response=start.response))
            if is_same:
                continue
            renamed = msgspec.structs.replace(session, transaction_ref=start.transaction_ref)
            await self._check_unique(renamed, session)
            work.put(database.sessions, session.id, renamed)

    async def _save_facts(self, changes: Changes) -> None:
        inbox = self._database.inbox
        for fact in changes.facts:
            key = (fact.station_id, fact.dedupe_key)
            await self._work.lock(("inbox_once", key))
            if self._work.get(inbox, key) is not None:
                raise KeyTaken("inbox_once")
            self._work.put(
                inbox,
                key,
                InboxRow(
                    station_id=fact.station_id,
                    dedupe_key=fact.dedupe_key,
                    action=fact.action,
                    state=fact.state.value,
                    session_id=fact.session_id,
                    epoch=fact.epoch,
                    received_at=fact.received_at,
                    response=fact.response,
                ),
            )
        for frame in changes.frames:
            self._work.append(self._database.frames, frame)

    async def _save_sessions(self, changes: Changes) -> None:
        for session in sorted(changes.sessions.values(), key=lambda s: s.id):
            await self._save_session(session)
        sessions = self._database.sessions
        for session in changes.metered.values():
            await self._work.lock(("session", session.id))
            row = self._work.get(sessions, session.id)
            if row is not None:
                figures = {name: getattr(session, name) for name in _METERED}
                self._work.put(sessions, session.id, msgspec.structs.replace(row, **figures))
        await self._save_readings(changes)
        for stray in changes.strays:
            at, context = stray.reading.at.at, stray.reading.context
            stray_key = (stray.station_id, stray.evse_id, at, context, stray.transaction_ref or "")
            if self._work.get(self._database.strays, stray_key) is None:
                self._work.put(self._database.strays, stray_key, stray)

    async def _save_session(self, session: ChargingSession) -> None:
        """Inserts a session or brings it to the given values; what it owes is settled anew."""
        work, database = self._work, self._database
        await work.lock(("session", session.id))
        before = work.get(database.sessions, session.id)
        _check_session(session)
        if before is None and work.get(database.stations, session.station_id) is None:
            raise ConstraintBroken("charging_session_station_id_fkey")
        await self._check_unique(session, before)
        kept = session
        if session.concluded and session.state not in ENDED:
            kept = msgspec.structs.replace(kept, concluded=False)  # only an end can be a conclusion
        if before is not None and before.created_at != session.created_at:
            kept = msgspec.structs.replace(kept, created_at=before.created_at)
        work.put(database.sessions, session.id, kept)
        work.remove(database.settled_at, session.id)

    async def _check_unique(self, session: ChargingSession, before: ChargingSession | None) -> None:
        """Raises KeyTaken when another session of the station has this transaction or start."""
        work = self._work
        ref, start_key = session.transaction_ref, session.start_key
        if ref is not None and (before is None or before.transaction_ref != ref):
            await work.lock(("session_one_per_transaction", session.station_id, ref))
        if start_key is not None and (before is None or before.start_key != start_key):
            await work.lock(("session_one_per_start", session.station_id, start_key))
        for other in work.sessions_of(session.station_id):
            if other.id == session.id:
                continue
            if ref is not None and other.transaction_ref == ref:
                raise KeyTaken("session_one_per_transaction")
            if start_key is not None and other.start_key == start_key:
                raise KeyTaken("session_one_per_start")

    async def _save_readings(self, changes: Changes) -> None:
        rows: dict[tuple[SessionId, datetime, str], Reading] = {}
        for session_id, reading in changes.readings:
            rows[(session_id, reading.at.at, reading.context)] = reading
        loaded = len(rows) >= LOAD_FROM and not self._careful
        for key, reading in rows.items():
            if self._work.get(self._database.readings, key) is None:
                self._work.put(self._database.readings, key, reading)
            elif loaded:
                raise KeyTaken("reading_once")

    async def _save_effects(self, changes: Changes) -> None:
        work, database = self._work, self._database
        if changes.entries:
            await post_entries(work, changes.entries)
        for station_id, ask in changes.asks:
            command_id = self._new_id()
            await work.lock(("command_once", ask.key))
            if work.get(database.effects, ask.key) is not None:
                continue
            work.put(database.effects, ask.key, command_id)
            command = CommandRow(
                id=command_id,
                station_id=station_id,
                effect_key=ask.key,
                session_id=ask.session_id,
                neutral=True,
                action=type(ask.command).__name__,
                payload=msgspec.json.encode(ask.command).decode(),
                state="queued",
                number=database.next_number("command"),
                expires_at=database.now() + COMMAND_LIFE,
            )
            work.put(database.commands, command_id, command)
        for effect_key in changes.withdraw:
            await self._withdraw(effect_key)
        for session in changes.settle:
            await self._queue_settlement(session)
        for finding in changes.findings:
            await work.lock(("finding_once", finding.key))
            if work.get(database.findings, finding.key) is None:
                work.put(database.findings, finding.key, _finding_row(finding))
        for item in changes.feed:
            row = FeedRow(kind=item.kind, station_id=item.station_id, session_id=item.session_id, payload=item.payload)
            work.append(database.feed, row)

    async def _withdraw(self, effect_key: str) -> None:
        for command_id, command in self._work.scan(self._database.commands):
            if command.effect_key == effect_key and command.state == "queued":
                await self._work.lock(("command", command_id))
                now = self._work.get(self._database.commands, command_id)
                if now is not None and now.state == "queued":
                    self._work.put(self._database.commands, command_id, msgspec.structs.replace(now, state="expired"))

    async def _queue_settlement(self, session: ChargingSession) -> None:
        jobs = self._database.jobs
        key = ("settle", str(session.id), session.settle_version + 1)
        await self._work.lock(("job_once", key))
        if self._work.get(jobs, key) is None:
            number = self._database.next_number("job")
            row = JobRow(id=number, kind=key[0], subject=key[1], version=key[2], run_after=self._database.now())
            self._work.put(jobs, key, row)

    async def _save_stations(self, changes: Changes) -> None:
        work, database = self._work, self._database
        for boot in {b.station_id: b for b in changes.boots}.values():
            await work.lock(("station", boot.station_id))
            station = work.get(database.stations, boot.station_id)
            if station is not None:
                said = msgspec.structs.replace(
                    station,
                    vendor=boot.boot.vendor,
                    model=boot.boot.model,
                    serial=boot.boot.serial,
                    firmware=boot.boot.firmware,
                    booted_at=boot.received_at,
                    last_seen_at=boot.received_at,
                )
                work.put(database.stations, boot.station_id, said)
            for row in self._connectors_of(boot.station_id):
                key = (row.station_id, row.evse_id, row.connector_id)
                work.put(database.connectors, key, msgspec.structs.replace(row, occurred_at=None))
        latest = {(s.station_id, s.report.evse_id, s.report.connector_id): s for s in changes.statuses}
        for connector_key, status in latest.items():
            await self._save_connector(connector_key, status)
        for state in changes.stations:
            await work.lock(("station", state.station_id))
            station = work.get(database.stations, state.station_id)
            if station is not None:
                since = (station.out_of_order_since or database.now()) if state.out_of_order else None
                value = state.status.value
                work.put(
                    database.stations,
                    state.station_id,
                    msgspec.structs.replace(station, status=value, derived_status=value, out_of_order_since=since),
                )

    async def _save_connector(self, key: tuple[StationId, int, int], status: StatusRecord) -> None:
        """A believed report; `since` moves only when the status changes."""
        work, database = self._work, self._database
        if work.get(database.stations, status.station_id) is None:
            raise ConstraintBroken("connector_station_id_fkey")
        await work.lock(("connector", key))
        before = work.get(database.connectors, key)
        report = status.report
        same = before is not None and before.status == report.status.value
        row = ConnectorRow(
            station_id=status.station_id,
            evse_id=report.evse_id,
            connector_id=report.connector_id,
            status=report.status.value,
            raw_status=report.raw_status,
            error_code=report.error_code,
            info=report.info,
            occurred_at=None if report.at is None or report.at.suspect else report.at.at,
            received_at=status.received_at,
            since=before.since if before is not None and same else status.received_at,
        )
        work.put(database.connectors, key, row)


def connector_record(row: ConnectorRow) -> ConnectorRecord:
    """A connector's last report from its row."""
    return ConnectorRecord(
        evse_id=row.evse_id,
        connector_id=row.connector_id,
        status=ConnectorStatus(row.status),
        occurred_at=row.occurred_at,
        received_at=row.received_at,
    )


def _check_session(session: ChargingSession) -> None:
    if session.energy_wh < 0:
        raise ConstraintBroken("session_energy_not_negative")
    if session.paid_minor < 0:
        raise ConstraintBroken("session_paid_not_negative")
    if not 0 <= session.refunded_minor <= session.paid_minor:
        raise ConstraintBroken("session_refund_within_paid")


def _finding_row(finding: Finding) -> FindingRow:
    return FindingRow(
        kind=finding.kind.value,
        key=finding.key,
        state=finding.state.value,
        station_id=finding.station_id,
        evse_id=finding.evse_id,
        session_id=finding.session_id,
        summary=finding.summary,
        evidence=dict(finding.evidence),
    )


def _is_open(session: ChargingSession) -> bool:
    return session.is_open


def _always(session: ChargingSession) -> bool:
    return True


def _may_start_late(session: ChargingSession) -> bool:
    return session.state is State.TERMINATED and session.concluded and session.started_at is None
