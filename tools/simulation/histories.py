"""The same random history on the store in memory and on PostgreSQL: every row that results must be the same (S-02).

A history is drawn from a seed before it runs: starts, meter values, ends (some without a name), repeats, paid starts,
top-ups and settlements, through the program's own services. Identifiers and the servers' clock are given, so that both
stores are asked for exactly the same; what PostgreSQL's own clock writes is compared as "there" or "not there".
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from voltledger.domain.errors import DomainError
from voltledger.domain.events import (
    Answer,
    AuthorizationStatus,
    Booted,
    ConnectorStatus,
    EndReason,
    Instant,
    MeterReported,
    Reading,
    StatusReported,
    TransactionEnded,
    TransactionStarted,
)
from voltledger.domain.identifiers import OrganizationId, SessionId, StationId, TransactionRef, UserId, normal_token
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor, Wh
from voltledger.domain.session.book import Policy
from voltledger.domain.session.tokens import TokenRecord
from voltledger.services.facts import IdSource, InboundFact, RecordedEvent
from voltledger.services.intake import Intake
from voltledger.services.prepaid import PrepaidService
from voltledger.services.settling import Settling
from voltledger.storage.memory.database import Access, MemoryDatabase
from voltledger.storage.memory.facts import MemoryFactStore
from voltledger.storage.memory.live import MemoryLive
from voltledger.storage.memory.rows import OrganizationRow, StationRow, TariffRow
from voltledger.storage.memory.sessions import MemorySessionStore
from voltledger.storage.memory.settlements import MemorySettlementStore
from voltledger.storage.postgres.facts import PostgresFactStore
from voltledger.storage.postgres.ledger import AlreadyPosted, post_entries
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore
from voltledger.storage.postgres.sync import PostgresSyncStore

POLICY = Policy(local_hold=Minor(5_000), heartbeat_s=300)
FEE = Decimal("12.5")
OPS = 50
Rows = dict[str, list[tuple[Any, ...]]]

STATIONS = ("H1", "H2")
USERS = {"anna": 20_000, "ben": 300}
TOKENS = {"CARDA": ("anna", "Accepted"), "CARDB": ("ben", "Accepted"), "OLD": ("ben", "Blocked")}
PRICE = Decimal("1234.5678")

_TABLES = (
    "station, station_owner, connector, token, tariff, charging_session, inbox, frame, reading, stray_reading, "
    "ledger_account, ledger_entry, ledger_posting, settlement, job, outbox, command, finding, feed, driver, "
    "transaction_alias, node_pulse, manual_change"
)


class SettlementsAndSessions(Protocol):
    """What both kinds of a store offer for a history."""

    facts: Any
    settlements: Any
    sessions: Any

    async def top_up(self, key: str, user: str, amount: int) -> None:
        """Money comes in, once a key."""

    async def rows(self) -> Rows:
        """Every row, in a form that both stores share."""


@dataclass(slots=True)
class _Presence:
    def connected(self) -> dict[str, object]:
        return dict.fromkeys(STATIONS)


class _NoCommands:
    """Nothing is sent: what is queued is compared as rows."""


# --- a history ------------------------------------------------------------------------------------------


class History:
    """One run of a drawn history on one store."""

    def __init__(self, seed: int, store: SettlementsAndSessions, base: datetime) -> None:
        self._rng = Random(seed)
        self._store = store
        self._base = base
        self._minutes = 0.0
        self._ids = itertools.count(1)
        self._numbers = itertools.count(1)
        self._refs: list[tuple[str, int, str, int]] = []  # station, EVSE, transaction, register
        self._said: list[InboundFact] = []
        self._paid: list[tuple[str, str, int, str, int]] = []
        self.answers: list[str] = []
        self._intake = Intake(
            store.facts,
            IdSource(new_session_id=lambda: SessionId(self._new_id()), reserve=self._reserve, block=4),
            POLICY,
            hold_s=5,
            on_committed=lambda committed: None,
        )
        commands: Any = _NoCommands()
        presence: Any = _Presence()
        self._prepaid = PrepaidService(
            store.sessions,
            commands,
            presence,
            now=self._now,
            new_id=self._new_id,
            new_token=lambda: f"VL{next(self._numbers):06d}",
            pending_for=timedelta(minutes=2),
            wake=lambda: None,
        )
        self._settling = Settling(store.settlements)

    def _now(self) -> datetime:
        return self._base + timedelta(minutes=self._minutes)

    def _new_id(self) -> UUID:
        return UUID(int=next(self._ids))

    async def _reserve(self, count: int) -> list[TransactionRef]:
        drawn = await self._store.facts.reserve_transaction_refs(count)
        assert len(set(drawn)) == count
        return [TransactionRef(str(1_000 + next(self._numbers))) for _ in drawn]

    async def run(self, ops: int = OPS) -> None:
        """Does everything; `answers` holds what was answered."""
        self._intake.start()
        try:
            for _ in range(ops):
                self._minutes += self._rng.choice((0.0, 0.5, 3.0, 7.0))
                what = self._rng.choices(_OPS, _WEIGHTS)[0]
                self.answers.append(str(await what(self)))
        finally:
            await self._intake.stop()

    async def _tell(self, station: str, event: RecordedEvent, key: str | None = None) -> str:
        plain = isinstance(event, StatusReported | Booted)
        number = next(self._numbers)
        fact = InboundFact(
            station_id=StationId(station),
            epoch=1,
            action=type(event).__name__,
            message_id=f"m{number}",
            payload="{}",
            event=event,
            dedupe_key=None if plain else (key or f"fact-{number}").encode(),
            received_at=self._now(),
            encode=_encode,
        )
        if not plain:
            self._said.append(fact)
        return await self._intake.submit(fact)

    def _at(self) -> Instant:
        return Instant(at=self._now() - timedelta(seconds=self._rng.choice((0, 0, 1, 400))))

    async def start(self) -> str:
        rng = self._rng
        station, evse = rng.choice(STATIONS), rng.choice((1, 2))
        register = rng.choice((1_000, 2_000, 50_000))
        token = rng.choice(("CARDA", "CARDA", "CARDB", "OLD", "NOBODY", *(p[3] for p in self._paid)))
        event = TransactionStarted(
            evse_id=evse,
            connector_id=1,
            token=normal_token(token),
            at=self._at(),
            register_wh=rng.choice((Wh(register), Wh(register), None)),
        )
        answer = await self._tell(station, event)
        self._refs.append((station, evse, json.loads(answer)["transactionId"], register))
        return answer

    def _some_ref(self) -> tuple[str, int, str, int]:
        return self._rng.choice(self._refs[-4:]) if self._refs else (STATIONS[0], 1, "77", 1_000)

    async def meter(self) -> str:
        rng = self._rng
        station, evse, ref, register = self._some_ref()
        count = rng.choice((1, 1, 2, 20))
        readings = tuple(
            Reading(
                at=Instant(at=self._now() + timedelta(seconds=n)),
                context=rng.choice(("Sample.Periodic", "Sample.Clock")),
                register_wh=rng.choice((Wh(register + rng.randrange(0, 30_000)), None)),
                power_w=rng.choice((None, Decimal("7200.50"), Decimal(0))),
                soc_percent=rng.choice((None, Decimal("55.5"))),
                others=rng.choice(({}, {"Voltage.L1": "230.1"})),
            )
            for n in range(count)
        )
        named = rng.choice((TransactionRef(ref), TransactionRef(ref), None, TransactionRef("99")))
        return await self._tell(station, MeterReported(evse_id=evse, transaction_ref=named, readings=readings))

    async def end(self) -> str:
        rng = self._rng
        station, _, ref, register = self._some_ref()
        event = TransactionEnded(
            transaction_ref=rng.choice((TransactionRef(ref),) * 4 + (None, TransactionRef("98"))),
            at=self._at(),
            register_wh=rng.choice((Wh(register + rng.randrange(0, 40_000)), Wh(register), None, Wh(900_000))),
            reason=rng.choice((EndReason.LOCAL, EndReason.POWER_LOSS)),
            token=rng.choice((None, None, normal_token("CARDA"))),
        )
        return await self._tell(rng.choice((station, station, station, *STATIONS)), event)

    async def repeat(self) -> str:
        if not self._said:
            return ""
        old = self._rng.choice(self._said)
        key = (old.dedupe_key or b"").decode()
        event: Any = old.event
        return await self._tell(old.station_id, event, key)

    async def status(self) -> str:
        word = self._rng.choice((ConnectorStatus.AVAILABLE, ConnectorStatus.CHARGING, ConnectorStatus.FAULTED))
        event = StatusReported(
            evse_id=self._rng.choice((0, 1, 2)), connector_id=1, status=word, raw_status=word.value, at=self._at()
        )
        return await self._tell(self._rng.choice(STATIONS), event)

    async def boot(self) -> str:
        return await self._tell(self._rng.choice(STATIONS), Booted(vendor="V", model="M", firmware="1"))

    async def pay(self) -> str:
        rng = self._rng
        if self._paid and rng.random() < 0.3:
            key, station, evse, _, amount = rng.choice(self._paid)
            amount += rng.choice((0, 0, 1))
        else:
            key, station, evse = f"pay-{next(self._numbers)}", rng.choice(STATIONS), rng.choice((1, 2, 3))
            amount = rng.choice((50, 2_000, 15_000))
        token = f"VLPAID{key[-3:]}"
        try:
            session = await self._prepaid.start(
                station_id=station,
                connector=evse,
                user_id=rng.choice(("anna", "ben", "carl")),
                amount_minor=amount,
                token=token,
                key=key,
            )
        except DomainError as refused:
            return type(refused).__name__
        self._paid.append((key, station, evse, token, amount))
        return str(session)

    async def expire(self) -> str:
        return str(await self._prepaid.expire_pending())

    async def settle(self) -> str:
        handled, settled = await self._settling.settle_due()
        return f"{handled} {sorted((str(s.session.id), s.settlement.settled.version) for s in settled)}"

    async def top_up(self) -> str:
        rng = self._rng
        key = rng.choice(("a", "b", "c", f"t{next(self._numbers)}"))
        await self._store.top_up(key, rng.choice(tuple(USERS)), 700)
        return key


_OPS: tuple[Callable[[History], Any], ...] = (
    History.start,
    History.meter,
    History.end,
    History.repeat,
    History.status,
    History.boot,
    History.pay,
    History.expire,
    History.settle,
    History.top_up,
)
_WEIGHTS = (16, 22, 16, 10, 6, 2, 8, 4, 12, 4)


def _encode(answer: Answer) -> bytes:
    status = None if answer.authorization is None else answer.authorization.status.value
    return json.dumps({"transactionId": answer.transaction_ref, "status": status}).encode()


# --- the two stores ---------------------------------------------------------------------------------------


class OnMemory:
    """The store in memory, with what every history needs in it."""

    def __init__(self, base: datetime, new_id: Callable[[], UUID]) -> None:
        database = self.database = MemoryDatabase(now=lambda: datetime.now(UTC))
        access = Access(database)
        self._live = MemoryLive(access)
        self.facts = MemoryFactStore(access, currency="INR", fee_percent=FEE, new_id=new_id)
        self.settlements = MemorySettlementStore(access)
        self.sessions = MemorySessionStore(access, currency="INR", fee_percent=FEE, policy=POLICY, new_id=new_id)
        database.organizations.rows[OrganizationId("default")] = OrganizationRow(id=OrganizationId("default"))
        database.tariffs.append(
            TariffRow(
                scope="default", currency="INR", price_per_kwh_minor=PRICE, valid_from=datetime(2020, 1, 1, tzinfo=UTC)
            )
        )
        for station in STATIONS:
            database.stations.rows[StationId(station)] = StationRow(id=StationId(station), connectors=2)
        for user in USERS:
            database.drivers.rows[UserId(user)] = "INR"
        for token, (user, status) in TOKENS.items():
            value = normal_token(token)
            database.tokens.rows[value] = TokenRecord(
                value=value, status=AuthorizationStatus(status), user_id=UserId(user)
            )

    async def top_up(self, key: str, user: str, amount: int) -> None:
        """Money comes in, once a key."""
        await self._live.top_up(key, UserId(user), "INR", amount)

    async def rows(self) -> Rows:
        """Every row, in the shared form."""
        return memory_rows(self.database)


class OnPostgres:
    """PostgreSQL, emptied, with the same in it."""

    def __init__(self, database: Database, sql: Any, new_id: Callable[[], UUID]) -> None:
        self._database = database
        self._sql = sql
        self.facts = PostgresFactStore(database, currency="INR", fee_percent=FEE, new_id=new_id)
        self.settlements = PostgresSettlementStore(database)
        self.sessions = PostgresSyncStore(database, currency="INR", fee_percent=FEE, policy=POLICY, new_id=new_id)

    async def prepare(self) -> None:
        """Empties the database and fills it with what every history needs."""
        sql = self._sql
        await sql.execute(f"SET session_replication_role = replica; TRUNCATE {_TABLES} CASCADE")
        await sql.execute("SET session_replication_role = DEFAULT")
        await sql.execute(
            "INSERT INTO tariff (scope, currency, price_per_kwh_minor, valid_from) "
            "VALUES ('default', 'INR', $1, '2020-01-01')",
            PRICE,
        )
        await sql.executemany("INSERT INTO station (id, connectors) VALUES ($1, 2)", [(s,) for s in STATIONS])
        await sql.executemany("INSERT INTO driver (id, name, currency) VALUES ($1, $1, 'INR')", [(u,) for u in USERS])
        await sql.executemany(
            "INSERT INTO token (value, shown, driver_id, status) VALUES ($1, $1, $2, $3)",
            [(token, user, status) for token, (user, status) in TOKENS.items()],
        )

    async def top_up(self, key: str, user: str, amount: int) -> None:
        """Money comes in, once a key."""
        entry = topup_entry(key=key, user=UserId(user), currency="INR", amount=Minor(amount))
        try:
            async with self._database.unit_of_work() as connection:
                await post_entries(connection, [] if entry is None else [entry])
        except AlreadyPosted:
            return

    async def rows(self) -> Rows:
        """Every row, in the shared form."""
        return {name: _sorted(await self._fetch(query)) for name, query in _QUERIES.items()}

    async def _fetch(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(_plain(value) for value in row) for row in await self._sql.fetch(query)]


_QUERIES = {
    "session": (
        "SELECT id, station_id, evse_id, connector_id, organization_id, status, origin, transaction_ref, start_key,"
        " token, driver_id, created_at, started_at, ended_at, stop_reason, meter_start_wh, meter_stop_wh, register_wh,"
        " register_at, energy_wh, power_w, soc_percent, heard_at, currency, price_per_kwh_minor, fee_percent,"
        " paid_minor, refunded_minor, settle_version, settled_at IS NOT NULL, end_reported, estimated, suspect,"
        " id_confirmed, stop_requested_at, stop_attempts, pending_until FROM charging_session"
    ),
    "inbox": (
        "SELECT station_id, dedupe_key, action, state, session_id, epoch, received_at, repeats, response FROM inbox"
    ),
    "frame": "SELECT station_id, from_station, kind, action, message_id, dedupe_key, payload, at FROM frame",
    "reading": (
        "SELECT session_id, at, context, register_wh, power_w, current_a, soc_percent, others::text FROM reading"
    ),
    "stray": (
        "SELECT station_id, evse_id, transaction_ref, at, context, register_wh, power_w, received_at FROM stray_reading"
    ),
    "account": "SELECT code, kind, owner, currency, balance_minor FROM ledger_account",
    "entry": "SELECT kind, source_id, version, session_id, reason FROM ledger_entry",
    "posting": (
        "SELECT e.kind, e.source_id, e.version, p.line, a.code, p.side, p.amount_minor, p.balance_after"
        " FROM ledger_posting p JOIN ledger_entry e ON e.id = p.entry_id JOIN ledger_account a ON a.id = p.account_id"
    ),
    "settlement": (
        "SELECT s.session_id, s.version, s.energy_wh, s.price_per_kwh_minor, s.fee_percent, s.currency, s.paid_minor,"
        " s.cost_minor, s.covered_minor, s.refund_minor, s.owed_minor, s.fee_minor, s.share_minor, e.kind, e.source_id,"
        " e.version FROM settlement s LEFT JOIN ledger_entry e ON e.id = s.entry_id"
    ),
    "job": "SELECT kind, subject, version, state, attempts, last_error FROM job",
    "outbox": "SELECT effect_key, target, payload::text, state FROM outbox",
    "command": "SELECT effect_key, station_id, session_id, neutral, action, payload, state FROM command",
    "finding": "SELECT key, kind, state, station_id, evse_id, session_id, summary, evidence::text FROM finding",
    "feed": "SELECT kind, station_id, session_id, payload::text FROM feed",
    "connector": (
        "SELECT station_id, evse_id, connector_id, status, raw_status, error_code, info, occurred_at, received_at,"
        " since FROM connector"
    ),
    "station": (
        "SELECT id, status, derived_status, vendor, model, serial, firmware, booted_at, last_seen_at,"
        " out_of_order_since IS NOT NULL FROM station"
    ),
}
"""What is compared; ids that a table gives itself are replaced by keys, times of PostgreSQL's own clock left out."""


def memory_rows(database: MemoryDatabase) -> Rows:
    """The rows of the store in memory, in the order of the columns of `_QUERIES`."""
    found: dict[str, Iterable[tuple[Any, ...]]] = {
        "session": (
            (
                s.id, s.station_id, s.evse_id, s.connector_id, s.organization_id, s.state.value, s.origin.value,
                s.transaction_ref, s.start_key, s.token, s.user_id, s.created_at, s.started_at, s.ended_at,
                s.stop_reason, s.meter_start_wh, s.meter_stop_wh, s.register_wh, s.register_at, s.energy_wh,
                s.power_w, s.soc_percent, s.heard_at, s.price.currency, s.price.per_kwh_minor, s.fee_percent,
                s.paid_minor, s.refunded_minor, s.settle_version, s.id in database.settled_at.rows,
                not s.is_open and not s.concluded, s.estimated, s.suspect, s.id_confirmed, s.stop_requested_at,
                s.stop_attempts, s.pending_until,
            )
            for s in database.sessions
        ),
        "inbox": (
            (
                r.station_id, r.dedupe_key, r.action, r.state, r.session_id, r.epoch, r.received_at, r.repeats,
                r.response,
            )
            for r in database.inbox
        ),
        "frame": (
            (f.station_id, f.from_station, f.kind, f.action, f.message_id, f.dedupe_key, f.payload, f.at)
            for f in database.frames
        ),
        "reading": (
            (
                key[0], key[1], key[2], r.register_wh, r.power_w, r.current_a, r.soc_percent,
                json.dumps(dict(r.others)) if r.others else None,
            )
            for key, r in database.readings.rows.items()
        ),
        "stray": (
            (
                s.station_id, s.evse_id, s.transaction_ref or "", s.reading.at.at, s.reading.context,
                s.reading.register_wh, s.reading.power_w, s.received_at,
            )
            for s in database.strays
        ),
        "account": ((a.code, a.kind, a.owner, a.currency, a.balance) for a in database.accounts),
        "entry": ((e.kind, e.source_id, e.version, e.session_id, e.reason) for e in database.entries),
        "posting": (
            (*p.entry, p.line, p.account, p.side, p.amount, p.balance_after) for p in database.postings
        ),
        "settlement": (
            (
                r.session_id, r.version, r.energy_wh, r.price_per_kwh_minor, r.fee_percent, r.currency, r.paid, r.cost,
                r.covered, r.refund, r.owed, r.fee, r.share, *(r.entry or (None, None, None)),
            )
            for r in database.settlements
        ),
        "job": ((j.kind, j.subject, j.version, j.state, j.attempts, j.last_error) for j in database.jobs),
        "outbox": ((o.effect_key, o.target, o.payload, o.state) for o in database.outbox),
        "command": (
            (c.effect_key, c.station_id, c.session_id, c.neutral, c.action, c.payload, c.state)
            for c in database.commands
        ),
        "finding": (
            (f.key, f.kind, f.state, f.station_id, f.evse_id, f.session_id, f.summary, json.dumps(f.evidence))
            for f in database.findings
        ),
        "feed": ((f.kind, f.station_id, f.session_id, f.payload) for f in database.feed),
        "connector": (
            (
                c.station_id, c.evse_id, c.connector_id, c.status, c.raw_status, c.error_code, c.info, c.occurred_at,
                c.received_at, c.since,
            )
            for c in database.connectors
        ),
        "station": (
            (
                s.id, s.status, s.derived_status, s.vendor, s.model, s.serial, s.firmware, s.booted_at,
                s.last_seen_at, s.out_of_order_since is not None,
            )
            for s in database.stations
        ),
    }  # fmt: skip
    return {name: _sorted([tuple(_plain(v) for v in row) for row in rows]) for name, rows in found.items()}


def _plain(value: Any) -> Any:
    """A value as both stores can be compared by: numbers by their worth, JSON by its content."""
    if isinstance(value, Decimal | float):
        return float(value)
    if isinstance(value, str) and value[:1] == "{":
        return json.dumps(json.loads(value), sort_keys=True)
    if isinstance(value, UUID):
        return str(value)
    return value


def _sorted(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


# --- comparing ---------------------------------------------------------------------------------------------


def difference(one: Rows, two: Rows) -> str:
    """The first rows that only one of two stores has; empty when there are none."""
    for name in _QUERIES:
        left, right = one[name], two[name]
        if left != right:
            only_left = [row for row in left if row not in right][:2]
            only_right = [row for row in right if row not in left][:2]
            return f"{name}: only in memory {only_left}\nonly in PostgreSQL {only_right}"
    return ""


async def compare(seed: int, database: Database, sql: Any, ops: int = OPS) -> str:
    """Runs one history on both stores; what differs, or nothing."""
    base = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=8)
    postgres = OnPostgres(database, sql, _counter())
    await postgres.prepare()
    memory = OnMemory(base, _counter())
    answers, rows = [], []
    stores: tuple[Any, Any] = (memory, postgres)
    for store in stores:
        for user, amount in USERS.items():
            await store.top_up(f"first-{user}", user, amount)
        history = History(seed, store, base)
        await history.run(ops)
        answers.append(history.answers)
        rows.append(await store.rows())
    if answers[0] != answers[1]:
        pairs = enumerate(zip(*answers, strict=True))
        return f"answers: {next((n, a, b) for n, (a, b) in pairs if a != b)}"
    return difference(rows[0], rows[1])


def _counter() -> Callable[[], UUID]:
    numbers = itertools.count(1 << 64)
    return lambda: UUID(int=next(numbers))


async def compare_many(dsn: str, seeds: Iterable[int], ops: int = OPS) -> dict[int, str]:
    """Runs histories on both stores; what differs, by seed."""
    database = Database(dsn, size=2)
    await database.open()
    sql = await asyncpg.connect(dsn)
    found = {}
    try:
        for seed in seeds:
            differs = await compare(seed, database, sql, ops)
            if differs:
                found[seed] = differs
    finally:
        await sql.close()
        await database.close()
    return found
