"""The proof of the books: promises L-01 to L-09, measured on a real PostgreSQL.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.books [--scale 0.01] [--only L-01,L-03] [--seed 7]

Every promise gets a database of its own, works in it through the server's code, in the server's role, and is judged by
figures of its own and by `voltledger.checker`, which shares no code with the server. Exit status 1 on any difference. A
promise whose time is over stops early and says how far it came (`reached`); `--patience 3` gives three times as long.

"The application's role" is `voltledger_app` taken at the connect, as the server takes it. Whoever can send SQL through
the server's own login can leave that role again (`SET ROLE NONE`); that is no part of L-01 and L-02.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import uuid_utils

from tools.laboratory.station import Station
from tools.laboratory.world import STATIONS, TOKEN, USER, Lab, LabFailed, Site, laboratory, until
from voltledger.checker import queries, verify
from voltledger.checker.pricing import Totals, cost_of, first_totals, next_totals
from voltledger.config import Address
from voltledger.domain.commands import Command
from voltledger.domain.errors import InsufficientFunds
from voltledger.domain.events import (
    Answer,
    ConnectorStatus,
    Instant,
    MeterReported,
    Reading,
    StatusReported,
    TransactionEnded,
    TransactionStarted,
)
from voltledger.domain.identifiers import OrganizationId, SessionId, StationId, TransactionRef, UserId, normal_token
from voltledger.domain.ledger.entries import Entry, Posting, Side
from voltledger.domain.ledger.holds import hold_entry, topup_entry
from voltledger.domain.ledger.settlement import Settled, Settlement, settle
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.session.book import Policy
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import State
from voltledger.services.catalog import Catalog
from voltledger.services.intake import IdSource, InboundFact, Intake, RecordedEvent
from voltledger.services.prepaid import PrepaidService
from voltledger.services.runtime import CallOutcome, ConnectionInfo
from voltledger.services.settling import Settling
from voltledger.services.sync import DatabaseSyncService, SyncPolicy
from voltledger.simulator.journal import Journal
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.ports import Changes
from voltledger.storage.postgres.catalog import PostgresCatalogStore
from voltledger.storage.postgres.facts import PostgresFactStore
from voltledger.storage.postgres.live import PostgresLive
from voltledger.storage.postgres.pool import APP_ROLE, Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore
from voltledger.storage.postgres.sync import PostgresSyncStore

WRITERS = 16
WORKERS = 32
CONNECTORS = 6
PRICE = Decimal(2_000)
HIGHEST_PRICE = Decimal("9999999999.9999")
BATCH = 60
SYNC_POLICY = SyncPolicy(
    ghost_grace=timedelta(minutes=5),
    orphan_grace=timedelta(minutes=1),
    reactivate_window=timedelta(minutes=15),
    stop_retries=3,
    stop_patience=timedelta(seconds=20),
    answer_s=0.05,
)
POLICY = Policy(local_hold=Minor(50_000))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One promise: what was done, the figure, and what differs from what was promised."""

    promise: str
    figure: str
    target: str
    reached: bool
    differences: list[str]
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        """For programs; the first differences in words."""
        texts = self.differences
        return {
            "promise": self.promise,
            "figure": self.figure,
            "target": self.target,
            "reached": self.reached,
            "differences": len(texts),
            "examples": texts[:20],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        verdict = "reached" if self.reached else "not reached"
        shown = "".join(f"\n      {text}" for text in self.differences[:8])
        return (
            f"{self.promise}  {self.figure}; {len(self.differences)} differences, {self.seconds:.1f} s "
            f"({verdict}: {self.target}){shown}"
        )


@dataclass(slots=True, kw_only=True)
class Bench:
    """Where promises are measured.

    `before` and `after` are SQL of a superuser in each world, before anything is done and before it is judged: with
    them a test breaks the books and sees that a check notices.
    """

    lab: Lab
    scale: float = 1.0
    seed: int = 1
    patience: float = 1.0
    before: str = "SELECT"
    after: str = "SELECT"

    def deadline(self, seconds: float) -> "Deadline":
        """When to stop, counted from now."""
        return Deadline(seconds * self.patience)

    def draw(self, promise: str) -> random.Random:
        """The promise's own random numbers."""
        return random.Random(f"{promise}/{self.seed}")

    def count(self, full: int, least: int = 1) -> int:
        """How many of something at this scale."""
        return max(least, round(full * self.scale))

    @asynccontextmanager
    async def world(self, *, connections: int = 20) -> AsyncIterator["World"]:
        """A fresh database with a node's services on it."""
        async with self.lab.site() as site:
            world = World(site.dsn, await asyncpg.connect(site.dsn), connections)
            try:
                await world.open()
                await world.sql.execute(self.before)
                yield world
            finally:
                await world.close()

    async def judged(self, dsn: str) -> list[str]:
        """What the checker finds in a world's books, after what a test breaks in them."""
        sql = await asyncpg.connect(dsn)
        try:
            await sql.execute(self.after)
        finally:
            await sql.close()
        return [str(difference) for difference in (await verify(dsn)).differences]


class Deadline:
    """Time that a promise may take, at full scale; little work is never cut short."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return time.monotonic() > self._until


# --- a node's services without sockets ----------------------------------------------------------------


class Everyone:
    """All stations are connected, accept what they are asked, and say again what they said last."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def connected(self) -> dict[str, ConnectionInfo]:
        """See `Presence`."""
        return {name: ConnectionInfo(version="ocpp1.6", since=datetime.now(UTC)) for name in STATIONS}

    async def close_station(self, station_id: StationId, reason: str) -> None:
        """See `Presence`."""

    async def command(
        self, station_id: str, command: Command, *, session_id: UUID | None = None, timeout_s: float | None = None
    ) -> CallOutcome:
        """See `Commands`."""
        async with self._database.connection() as connection:
            await connection.execute("UPDATE connector SET received_at = now() WHERE station_id = $1", station_id)
        return CallOutcome(outcome="answered", response={"status": "Accepted"}, call_id="")

    async def call(self, station_id: str, action: str, payload: str, *, timeout_s: float | None = None) -> CallOutcome:
        """See `Commands`."""
        raise NotImplementedError

    def check(self, station_id: str, action: str, payload: bytes) -> str | None:
        """See `Commands`."""
        raise NotImplementedError


class World:
    """One database, a superuser's connection to it, and the services that move money."""

    def __init__(self, dsn: str, sql: Any, connections: int) -> None:
        self.dsn = dsn
        self.sql = sql
        self.database = Database(dsn, size=connections)
        fee = Decimal(10)
        self.facts = PostgresFactStore(self.database, currency="INR", fee_percent=fee, new_id=new_id)
        self.settlements = PostgresSettlementStore(self.database)
        self.settling = Settling(self.settlements)
        self.catalog = Catalog(PostgresCatalogStore(self.database), ocpp=Address("127.0.0.1", 9000), currency="INR")
        self.live = PostgresLive(self.database)
        self.stations = Everyone(self.database)
        store = PostgresSyncStore(self.database, currency="INR", fee_percent=fee, policy=POLICY, new_id=new_id)
        self.prepaid = PrepaidService(
            store,
            self.stations,
            self.stations,
            now=lambda: datetime.now(UTC),
            new_id=new_id,
            new_token=lambda: "VL" + new_id().hex[-14:].upper(),
            pending_for=timedelta(minutes=2),
            wake=lambda: None,
        )
        self.sync = DatabaseSyncService(
            store,
            self.stations,
            SYNC_POLICY,
            now=lambda: datetime.now(UTC),
            new_id=new_id,
            wake=lambda: None,
            quiet_since=lambda: datetime.min.replace(tzinfo=UTC),
            may_judge=lambda station_id: True,
        )
        ids = IdSource(new_session_id=lambda: SessionId(new_id()), reserve=self.facts.reserve_transaction_refs)
        self.intake = Intake(self.facts, ids, POLICY, hold_s=20, on_committed=lambda committed: None)
        self._numbers = iter(range(1, 1_000_000_000))

    async def open(self) -> None:
        """Opens the pool and the intake; every station gets more connectors."""
        await self.database.open()
        self.intake.start()
        await self.sql.execute(f"UPDATE station SET connectors = {CONNECTORS}")

    async def close(self) -> None:
        """Ends all of it."""
        await self.intake.stop()
        await self.database.close()
        await self.sql.close()

    async def save(self, changes: Changes) -> None:
        """One unit of work."""
        async with self.facts.unit_of_work() as work:
            await work.save(changes)

    async def add_driver(self, name: str, currency: str = "INR") -> None:
        """Somebody with a wallet and a token of the same name."""
        async with self.database.connection() as connection:
            await connection.execute(
                "WITH d AS (INSERT INTO driver (id, name, currency) VALUES ($1, $1, $2) RETURNING id) "
                "INSERT INTO token (value, shown, driver_id) SELECT upper(id), id, id FROM d",
                name,
                currency,
            )

    async def make_held(self, user: str) -> None:
        """The account of what a user sets aside, as their first session leaves it."""
        async with self.database.connection() as connection:
            await connection.execute(
                "INSERT INTO ledger_account (code, kind, owner, currency, balance_minor) "
                "VALUES ('held:' || $1 || ':INR', 'held', $1, 'INR', 0)",
                user,
            )

    async def token_of(self, session_id: UUID) -> str:
        """The token that a prepaid start waits for."""
        async with self.database.connection() as connection:
            return str(await connection.fetchval("SELECT token FROM charging_session WHERE id = $1", session_id))

    async def settle_all(self) -> None:
        """Until nothing is due."""
        while (await self.settling.settle_due())[0]:
            pass

    async def settled_by_now(self) -> None:
        """Also what was put off."""
        while await self.sql.fetchval(
            "WITH due AS (UPDATE job SET run_after = now() WHERE state = 'waiting' RETURNING 1) "
            "SELECT count(*) FROM due"
        ):
            await self.settle_all()

    async def tell(self, station: str, action: str, payload: dict[str, object], event: RecordedEvent) -> Any:
        """What a station says, and the answer."""
        plain = isinstance(event, StatusReported)
        number = next(self._numbers)
        fact = InboundFact(
            station_id=StationId(station),
            epoch=1,
            action=action,
            message_id=str(number),
            payload=json.dumps(payload),
            event=event,
            dedupe_key=None if plain else number.to_bytes(8, "big"),
            received_at=datetime.now(UTC),
            encode=_encode,
        )
        answer = await self.intake.submit(fact)
        if number % 3 == 0 and not plain:
            await self.intake.submit(fact)  # its answer was lost: the station says it again
        return json.loads(answer)


@dataclass(slots=True, kw_only=True)
class Visit:
    """One car at a connector, on the station's clock; what it truly took is `register_wh - start_wh`."""

    world: World
    station: str
    connector: int
    token: str
    at: datetime
    start_wh: int
    register_wh: int = 0
    ref: str = ""

    async def begin(self) -> None:
        """Says that it began."""
        self.register_wh = self.start_wh
        payload = {
            "connectorId": self.connector,
            "idTag": self.token,
            "meterStart": self.start_wh,
            "timestamp": self.at.isoformat(),
        }
        event = TransactionStarted(
            evse_id=self.connector,
            connector_id=1,
            token=normal_token(self.token),
            at=Instant(at=self.at),
            register_wh=Wh(self.start_wh),
        )
        answer = await self.world.tell(self.station, "StartTransaction", payload, event)
        self.ref = str(answer["transactionId"])

    async def meter(self, wh: int) -> None:
        """Says what it has taken so far."""
        self.at += timedelta(seconds=10)
        self.register_wh += wh
        sample = {"value": str(self.register_wh), "measurand": "Energy.Active.Import.Register", "unit": "Wh"}
        value = {"timestamp": self.at.isoformat(), "sampledValue": [sample]}
        payload = {"connectorId": self.connector, "transactionId": int(self.ref), "meterValue": [value]}
        event = MeterReported(
            evse_id=self.connector,
            transaction_ref=TransactionRef(self.ref),
            readings=(Reading(at=Instant(at=self.at), register_wh=Wh(self.register_wh)),),
        )
        await self.world.tell(self.station, "MeterValues", payload, event)

    async def end(self, wh: int, *, without_register: bool = False) -> None:
        """Says that it ended; `wh` is what it has taken since the last reading."""
        self.at += timedelta(seconds=10)
        self.register_wh += wh
        payload: dict[str, object] = {"transactionId": int(self.ref), "timestamp": self.at.isoformat()}
        if not without_register:
            payload["meterStop"] = self.register_wh
        event = TransactionEnded(
            transaction_ref=TransactionRef(self.ref),
            at=Instant(at=self.at),
            register_wh=None if without_register else Wh(self.register_wh),
        )
        await self.world.tell(self.station, "StopTransaction", payload, event)

    @property
    def cost(self) -> int:
        """What it costs, by the checker's arithmetic. Units: minor."""
        return cost_of(self.register_wh - self.start_wh, PRICE)


def new_id() -> UUID:
    """A version 7 UUID."""
    return UUID(bytes=uuid_utils.uuid7().bytes)


def _encode(answer: Answer) -> bytes:
    return json.dumps({"transactionId": int(answer.transaction_ref or 0)}).encode()


async def _findings(sql: Any) -> str:
    """What the server found, which shows what happened to it."""
    rows = await sql.fetch("SELECT kind, count(*) FROM finding GROUP BY kind ORDER BY kind")
    return ", ".join(f"{kind} {count:,}" for kind, count in rows)


def _ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


# --- sessions out of nothing --------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Version:
    """One version of a session's settlement, as the server decides it; `held_anew` was set aside before it."""

    session: ChargingSession
    settlement: Settlement
    before: Settled | None
    held_anew: int
    hold: Entry | None


def made_session(draw: random.Random, user: str, currency: str = "INR") -> ChargingSession:
    """An ended session with any price, fee and paid amount; many costs fall on a half."""
    price = Decimal(draw.randrange(50_000_000)) / draw.choice((10_000, 10_000, 100, 1))
    return ChargingSession(
        id=SessionId(new_id()),
        station_id=StationId(STATIONS[0]),
        evse_id=1,
        connector_id=1,
        organization_id=OrganizationId("default"),
        state=State.COMPLETED,
        origin=Origin.LOCAL,
        user_id=UserId(user),
        created_at=datetime.now(UTC),
        started_at=datetime.now(UTC),
        price=Price(per_kwh_minor=draw.choice((price, PRICE, Decimal("12.5"), Decimal(500))), currency=currency),
        fee_percent=Decimal(draw.randrange(100_001)) / 1_000 if draw.random() < 0.7 else Decimal(10),
        paid_minor=Minor(draw.choice((0, draw.randrange(1_000), draw.randrange(10_000_000)))),
        energy_wh=_energy(draw),
    )


def _energy(draw: random.Random) -> Wh:
    return Wh(draw.choice((0, draw.randrange(2_000), draw.randrange(120_000), draw.randrange(10**9))))


def versions_of(draw: random.Random, session: ChargingSession) -> Iterator[Version]:
    """The settlement of a session and up to three corrections, some after money was set aside again."""
    already: Settled | None = None
    for number in range(1, 1 + draw.choice((1, 1, 1, 2, 2, 4))):
        taken = 0
        hold = None
        if already is not None:
            session = msgspec.structs.replace(session, energy_wh=_energy(draw))
            if already.refund and draw.random() < 0.3:
                taken = draw.randint(1, already.refund)
                hold = hold_entry(
                    session_id=session.id,
                    user=UserId(str(session.user_id)),
                    currency=session.price.currency,
                    amount=Minor(taken),
                    version=number,
                    again=f"again-{already.refund}",
                )
                session = msgspec.structs.replace(session, refunded_minor=Minor(already.refund - taken))
        settlement = settle(session, already=already)
        yield Version(session=session, settlement=settlement, before=already, held_anew=taken, hold=hold)
        already = settlement.settled
        session = msgspec.structs.replace(session, settle_version=number, refunded_minor=already.refund)


def _paid(session: ChargingSession) -> list[Entry]:
    """The money of a session comes in and is set aside for it."""
    user, currency, amount = UserId(str(session.user_id)), session.price.currency, session.paid_minor
    entries = (
        topup_entry(key=f"for-{session.id}", user=user, currency=currency, amount=amount),
        hold_entry(session_id=session.id, user=user, currency=currency, amount=amount, version=1),
    )
    return [entry for entry in entries if entry is not None]


# --- L-01: every entry balances -----------------------------------------------------------------------

_LINES = (
    "WITH e AS (INSERT INTO ledger_entry (kind, source_id, version, reason) "
    "VALUES ('topup', gen_random_uuid(), 1, '') RETURNING id) "
    "INSERT INTO ledger_posting (entry_id, line, account_id, side, amount_minor) "
    "SELECT e.id, n, (SELECT id FROM public.ledger_account WHERE code = c), s, a FROM e, (VALUES {}) AS l (n, c, s, a)"
)
_MONEY, _FEE, _WALLET = "'provider::INR'", "'platform_fee::INR'", f"'wallet:{USER}:INR'"
_GOOD = _LINES.format(f"(1, {_MONEY}, 'D', 5), (2, {_FEE}, 'C', 5)")
_ADD = "INSERT INTO ledger_posting (entry_id, line, account_id, side, amount_minor) "
_OLD = _ADD + "SELECT e.id, {line}, a.id, '{side}', 5 FROM (SELECT min(id) AS id FROM public.ledger_entry) e, "
_TO_OLD = (_OLD + f"public.ledger_account a WHERE code = {_FEE}").format

ATTEMPTS = {
    "sides that differ": _LINES.format(f"(1, {_MONEY}, 'D', 6), (2, {_FEE}, 'C', 5)"),
    "one side only": _LINES.format(f"(1, {_FEE}, 'C', 5)"),
    "no lines": "INSERT INTO ledger_entry (kind, source_id, version, reason) "
    "VALUES ('topup', gen_random_uuid(), 1, '')",
    "amounts of zero": _LINES.format(f"(1, {_MONEY}, 'D', 0), (2, {_FEE}, 'C', 0)"),
    "negative amounts": _LINES.format(f"(1, {_MONEY}, 'D', -5), (2, {_FEE}, 'C', -5)"),
    "a third side": _LINES.format(f"(1, {_MONEY}, 'X', 5)"),
    "two currencies": "INSERT INTO ledger_account (code, kind, owner, currency) "
    "VALUES ('provider::EUR', 'provider', '', 'EUR'); "
    + _LINES.format(f"(1, 'provider::EUR', 'D', 5), (2, {_FEE}, 'C', 5)"),
    "a line in an old entry": _TO_OLD(line=90, side="C"),
    "two lines in an old entry": f"{_TO_OLD(line=90, side='C')}; {_TO_OLD(line=91, side='D')}",
    "a line behind an early check": f"{_GOOD}; SET CONSTRAINTS ALL IMMEDIATE; {_ADD}"
    f"SELECT max(e.id), 3, max(a.id), 'C', 5 FROM ledger_entry e, ledger_account a WHERE code = {_FEE}",
    "a temporary table for the accounts": "CREATE TEMP TABLE ledger_account (LIKE public.ledger_account); "
    + _LINES.format(f"(1, {_FEE}, 'C', 5)"),
    "a temporary table for the entries": "CREATE TEMP TABLE ledger_entry AS SELECT id, pg_current_xact_id() AS xid "
    f"FROM public.ledger_entry; {_TO_OLD(line=90, side='C')}; {_TO_OLD(line=91, side='D')}",
    "the key of another entry": "INSERT INTO ledger_entry (kind, source_id, version, reason) "
    "SELECT kind, source_id, version, '' FROM ledger_entry",
    "another amount": "UPDATE ledger_posting SET amount_minor = amount_minor + 1",
    "without its lines": "DELETE FROM ledger_posting",
    "without any line": "TRUNCATE ledger_posting CASCADE",
    "triggers switched off": "ALTER TABLE ledger_posting DISABLE TRIGGER ALL",
    "triggers of a replica": "SET session_replication_role = replica",
    "another check": "CREATE OR REPLACE FUNCTION check_entry_balanced() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN RETURN NULL; END'",
    "another currency for an account": f"UPDATE ledger_account SET currency = 'EUR' WHERE code = {_WALLET}",
    "a balance beside the lines": f"UPDATE ledger_account SET balance_minor = balance_minor + 5 WHERE code = {_WALLET}",
    "lines beside a balance": _LINES.format(f"(1, {_MONEY}, 'D', 5), (2, {_WALLET}, 'C', 5)"),
    "a balance that only a line claims": _LINES.replace("amount_minor)", "amount_minor, balance_after)")
    .replace("s, a FROM e", "s, a, 1000000000 FROM e")
    .format(f"(1, {_WALLET}, 'D', 1), (2, {_WALLET}, 'C', 1)")
    + f"; COMMIT; BEGIN; UPDATE ledger_account SET balance_minor = 1000000000 WHERE code = {_WALLET}",
    "lines with the number of an older entry": _GOOD.replace("(kind,", "(id, kind,").replace(
        "VALUES ('topup'", "OVERRIDING SYSTEM VALUE VALUES (-1, 'topup'"
    ),
    "a new wallet with money in it": "INSERT INTO ledger_account (code, kind, owner, currency, balance_minor) "
    "VALUES ('wallet:x:INR', 'wallet', 'x', 'INR', 5)",
}
"""What the application's role tries; each must be refused and change nothing."""


async def l_01(bench: Bench) -> Outcome:
    """Entries in bulk through the posting code, and attempts to break them with SQL."""
    draw, wanted, deadline = bench.draw("L-01"), bench.count(1_000_000, 500), bench.deadline(140)
    async with bench.world() as world:
        posted = await _post_in_bulk(world, draw, wanted, deadline)
        await world.sql.execute(bench.after)
        differences = await _out_of_balance(world.sql)
        found = await world.sql.fetchval("SELECT count(*) FROM ledger_entry WHERE reason <> 'first'") - 1
        if found != posted:
            differences.append(f"{posted} entries were acknowledged, {found} are in the books")
    async with bench.world() as world:
        await world.sql.execute(
            "INSERT INTO ledger_account (code, kind, owner, currency) "
            "VALUES ('platform_fee::INR', 'platform_fee', '', 'INR')"
        )
        if not await _accepted(world, {"a good entry": _GOOD}):
            differences.append("a good entry was refused: the attempts prove nothing")
        accepted = await _accepted(world, ATTEMPTS)
    return Outcome(
        promise="L-01",
        figure=f"{posted:,} entries, {len(ATTEMPTS) - len(accepted)} of {len(ATTEMPTS)} attempts refused",
        target=f"{wanted:,} entries, sum 0 in each and in each currency; every attempt refused",
        reached=posted >= wanted and not accepted,
        differences=differences + [f"accepted from the application's role: {name}" for name in accepted],
    )


async def _post_in_bulk(world: World, draw: random.Random, wanted: int, deadline: Deadline) -> int:
    """Four writers, each with wallets in three currencies; returns how many entries were acknowledged."""
    posted = 0

    async def write(writer: int) -> None:
        nonlocal posted
        drivers = [(f"w{writer}-{n}", ("INR", "EUR", "JPY")[n % 3]) for n in range(30)]
        for name, currency in drivers:
            await world.add_driver(name, currency)
        while posted < wanted and not deadline.is_over:
            changes = Changes()
            for _ in range(BATCH):
                session = made_session(draw, *draw.choice(drivers))
                changes.entries += _paid(session)
                for version in versions_of(draw, session):
                    changes.entries += [e for e in (version.hold, version.settlement.entry) if e is not None]
                changes.sessions[session.id] = session
            await world.save(changes)
            posted += len(changes.entries)

    await asyncio.gather(*(write(n) for n in range(4)))
    return posted


async def _out_of_balance(sql: Any) -> list[str]:
    """Entries and currencies that do not sum to nothing, and kept balances that are not their lines."""
    found = [f"entry {r['entry_id']}: {r['amount']} {r['currency']}" for r in await sql.fetch(queries.UNBALANCED)]
    found += [f"{r['code']}: line {r['line']} of {r['entry_id']}" for r in await sql.fetch(queries.OFF_BALANCE)]
    totals: Counter[str] = Counter()
    for row in await sql.fetch(queries.ACCOUNTS):
        totals[row["currency"]] += row["posted"]
        if row["balance_minor"] not in (None, row["posted"]):
            found.append(f"{row['code']}: keeps {row['balance_minor']}, its lines are {row['posted']}")
    return found + [f"all of {currency}: {total}" for currency, total in totals.items() if total]


async def _accepted(world: World, attempts: dict[str, str]) -> list[str]:
    """The names of attempts that were not refused, or changed something all the same."""
    accepted = []
    before = await _picture(world.sql)
    for name, attempt in attempts.items():
        app = await asyncpg.connect(world.dsn, server_settings={"role": APP_ROLE})
        refused = False
        try:
            async with app.transaction():
                await app.execute(attempt)
        except asyncpg.PostgresError:
            refused = True
        finally:
            await app.close()
        after = await _picture(world.sql)
        if not refused or after != before:
            accepted.append(name)
        before = after
    return accepted


async def _picture(sql: Any) -> list[Any]:
    tables = ("ledger_account", "ledger_entry", "ledger_posting", "settlement")
    return [await sql.fetch(f"SELECT t::text FROM {table} t ORDER BY 1") for table in tables]


# --- L-02: the ledger is append-only ------------------------------------------------------------------


async def l_02(bench: Bench) -> Outcome:
    """The application's role tries to change every column, row, rule and table of the ledger."""
    async with bench.world() as world:
        visit = Visit(world=world, station=STATIONS[0], connector=1, token=TOKEN, at=_ago(60), start_wh=1_000)
        await visit.begin()
        await visit.end(5_000)
        await world.settle_all()
        attempts = await _changes(world.sql)
        accepted = await _accepted(world, attempts)
    return Outcome(
        promise="L-02",
        figure=f"{len(attempts) - len(accepted)} of {len(attempts)} changes refused",
        target="all refused",
        reached=not accepted,
        differences=[f"accepted: {name}" for name in accepted],
    )


async def _changes(sql: Any) -> dict[str, str]:
    attempts = []
    for table in ("ledger_account", "ledger_entry", "ledger_posting", "settlement"):
        columns = await sql.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0", table
        )
        # A balance is kept, not posted: what it may be changed to is an attempt of L-01.
        names = {row[0] for row in columns} - ({"balance_minor"} if table == "ledger_account" else set())
        attempts += [f"UPDATE {table} SET {name} = {name}" for name in sorted(names)]
        triggers = await sql.fetch(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = $1::regclass AND NOT tgisinternal", table
        )
        attempts += [f"ALTER TABLE {table} DISABLE TRIGGER {row[0]}" for row in triggers]
        attempts += [f"DROP TRIGGER {row[0]} ON {table}" for row in triggers]
        attempts += [
            f"DELETE FROM {table}",
            f"DELETE FROM ONLY {table} WHERE false",
            f"TRUNCATE {table}",
            f"TRUNCATE {table} CASCADE",
            f"ALTER TABLE {table} DISABLE TRIGGER ALL",
            f"ALTER TABLE {table} DISABLE TRIGGER USER",
            f"ALTER TABLE {table} ADD COLUMN more int",
            f"ALTER TABLE {table} RENAME TO other",
            f"ALTER TABLE {table} OWNER TO {APP_ROLE}",
            f"ALTER TABLE {table} SET UNLOGGED",
            f"DROP TABLE {table} CASCADE",
            f"GRANT UPDATE, DELETE ON {table} TO {APP_ROLE}; DELETE FROM {table}",
            f"CREATE RULE r AS ON INSERT TO {table} DO INSTEAD NOTHING",
            f"CREATE TRIGGER t BEFORE INSERT ON {table} EXECUTE FUNCTION refuse_change()",
        ]
    return {attempt: attempt for attempt in attempts}


# --- L-03: one net charge a session -------------------------------------------------------------------


class _Sure:
    """A settlement store whose workers all believe that one job is theirs, as one that slept would."""

    def __init__(self, store: PostgresSettlementStore, due: Any) -> None:
        self._store = store
        self._due = due

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Any]:
        """See `SettlementStore`."""
        async with self._store.unit_of_work() as work:
            yield _SureWork(work, self._due)

    async def put_off(self, due: Any, problem: str) -> None:
        """Whoever was first has marked the job."""


class _SureWork:
    def __init__(self, work: Any, due: Any) -> None:
        self._work = work
        self._due = due

    async def next_due(self) -> Any:
        return self._due

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


async def l_03(bench: Bench) -> Outcome:
    """Workers settle the same version at once; in a tenth of the races all believe that the job is theirs."""
    draw, wanted, deadline = bench.draw("L-03"), bench.count(10_000, 20), bench.deadline(90)
    races, differences = 0, []
    async with bench.world(connections=WORKERS + 2) as world:
        await world.add_driver("racer")
        while races < wanted and not deadline.is_over:
            session = made_session(draw, "racer")
            await world.save(Changes(sessions={session.id: session}, entries=_paid(session), settle=[session]))
            for version in (1, 2):
                settled = await _race(world, sure=races % 20 in (0, 3))
                races += 1
                if [one.settlement.settled.version for one in settled] != [version]:
                    differences.append(f"session {session.id} version {version}: settled {len(settled)} times")
                if version == 1 and settled:
                    corrected = _as_settled(session, settled[0].settlement.settled, energy=_energy(draw))
                    await world.save(Changes(sessions={session.id: corrected}, settle=[corrected]))
        differences += await bench.judged(world.dsn)
        rows = await world.sql.fetchval("SELECT count(*) FROM settlement")
        entries = await world.sql.fetchval("SELECT count(*) FROM ledger_entry WHERE kind = 'settlement'")
        moved = await world.sql.fetchval("SELECT count(entry_id) FROM settlement")
    if (rows, entries) != (races, moved):
        differences.append(f"{races} races left {rows} settlements and {entries} entries where {moved} moved money")
    return Outcome(
        promise="L-03",
        figure=f"{races:,} races of {WORKERS} workers, in a tenth all sure that the job is theirs",
        target=f"{wanted:,} races, one settlement and one entry each",
        reached=races >= wanted,
        differences=differences,
    )


def _as_settled(session: ChargingSession, settled: Settled, *, energy: Wh) -> ChargingSession:
    """A session whose truth changed after its settlement."""
    return msgspec.structs.replace(
        session, energy_wh=energy, settle_version=settled.version, refunded_minor=settled.refund
    )


async def _race(world: World, *, sure: bool) -> list[Any]:
    """All workers at once at the one job that waits; returns what each of them settled."""
    async with world.settlements.unit_of_work() as work:
        due = await work.next_due()
    settling = Settling(_Sure(world.settlements, due)) if sure else world.settling
    return [one for _, done in await asyncio.gather(*(settling.settle_due(1) for _ in range(WORKERS))) for one in done]


# --- L-04: balances are the sums of their lines -------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run of the machine: one wallet, and sixteen writers at it."""

    world: World
    draw: random.Random
    user: str
    station: str
    topped_up: int = 0
    visits: list[Visit] = field(default_factory=list)
    steps: int = 0

    async def do(self) -> None:
        """All writers at once."""
        await self._top_up()
        if self.draw.random() < 0.98:
            # Who makes a user's held account may run into a deadlock, which costs a second and nothing else.
            await self.world.make_held(self.user)
        stations = (self._charge(connector) for connector in range(1, 5))
        payers = (self._pay_first(connector) for connector in (5, 6))
        others = (self._some(what) for what in [self._top_up] * 4 + [self._settle] * 4 + [self._by_hand] * 2)
        await asyncio.gather(*stations, *payers, *others)

    async def _some(self, what: Callable[[], Awaitable[None]]) -> None:
        for _ in range(2):
            await asyncio.sleep(self.draw.random() / 100)
            await what()

    async def _top_up(self) -> None:
        amount = self.draw.randint(1, 40_000)
        key = new_id().hex
        for _ in range(self.draw.randint(1, 2)):  # a repeat is no second payment
            await _patiently(lambda: self.world.catalog.top_up(self.user, amount, key=key))
        self.topped_up += amount
        self.steps += 1

    async def _settle(self) -> None:
        await _patiently(lambda: self.world.settling.settle_due(3))
        self.steps += 1

    async def _by_hand(self) -> None:
        """Somebody ends a session with SQL; the station goes on or says its true end later."""
        async with self.world.database.connection() as connection:
            with suppress(*CONTENDED):
                await connection.execute(
                    "UPDATE \"ChargeSession\" SET status = 'TERMINATED', "
                    '"endTime" = "startTime" + interval \'1 second\' '
                    "WHERE id = (SELECT id FROM charging_session WHERE driver_id = $1 AND status = 'ONGOING' "
                    "ORDER BY id LIMIT 1)",
                    self.user,
                )
        await _patiently(lambda: self.world.sync.sync_database({}))
        self.steps += 1

    async def _charge(self, connector: int) -> None:
        """Two cars at a connector; the first one's end may come after the second one has begun."""
        first = await self._begin(connector, 0)
        late = self.draw.random() < 0.4
        if not late:
            await self._end(first)
        second = await self._begin(connector, 20)
        if late:
            await self._end(first)
        await self._end(second)

    async def _begin(self, connector: int, minutes: float, token: str | None = None) -> Visit:
        visit = Visit(
            world=self.world,
            station=self.station,
            connector=connector,
            token=token or self.user,
            at=_ago(50 - minutes),
            start_wh=self.draw.randrange(10**6),
        )
        self.visits.append(visit)
        await visit.begin()
        self.steps += 1
        await self._meter(visit)
        return visit

    async def _meter(self, visit: Visit) -> None:
        if self.draw.random() < 0.5:
            await visit.meter(self.draw.randrange(3_000))
            self.steps += 1

    async def _end(self, visit: Visit) -> None:
        await self._meter(visit)
        await visit.end(self.draw.randrange(3_000))
        self.steps += 1

    async def _pay_first(self, connector: int) -> None:
        """A paid start that is cancelled, or begins."""
        amount = self.draw.randint(1, 5_000)
        self.steps += 1
        try:
            session_id = await _patiently(
                lambda: self.world.prepaid.start(
                    station_id=self.station,
                    connector=connector,
                    user_id=self.user,
                    amount_minor=amount,
                    token=None,
                    key=new_id().hex,
                )
            )
        except InsufficientFunds:
            return
        self.steps += 1
        if self.draw.random() < 0.5:
            await _patiently(lambda: self.world.prepaid.stop(session_id))
            return
        token = await self.world.token_of(session_id)
        await self._end(await self._begin(connector, 0, token))

    async def differences(self) -> list[str]:
        """The wallet against its lines, and against what came in and what was used, by other arithmetic."""
        rows = await self.world.sql.fetch(
            "SELECT a.kind, a.balance_minor, sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END) "
            "AS posted, min(p.balance_after) AS least "
            "FROM ledger_account a JOIN ledger_posting p ON p.account_id = a.id WHERE a.owner = $1 GROUP BY a.id",
            self.user,
        )
        posted = {row["kind"]: int(row["posted"]) for row in rows}
        found = [f"{self.user}: {dict(r)}" for r in rows if r["balance_minor"] not in (None, r["posted"])]
        found += [f"{self.user}: below zero, {dict(r)}" for r in rows if r["least"] is not None and r["least"] < 0]
        if posted.get("held"):
            found.append(f"{self.user}: {posted['held']} are held for nothing")
        wanted = self.topped_up - sum(visit.cost for visit in self.visits)
        if sum(posted.values()) != wanted:
            found.append(f"{self.user}: wallet less debt is {sum(posted.values())}, should be {wanted}: {posted}")
        return found


CONTENDED = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


async def _patiently(do: Callable[[], Awaitable[Any]]) -> Any:
    """Again while a rival is in the way, as the server's callers do."""
    for _ in range(100):
        try:
            return await do()
        except (StoreContention, *CONTENDED):
            await asyncio.sleep(random.random() / 20)
    raise LabFailed("a rival was in the way a hundred times")


async def l_04(bench: Bench) -> Outcome:
    """Runs of the machine, two at once, each with a station and a wallet of its own."""
    draw, wanted, deadline = bench.draw("L-04"), bench.count(2_000, 2), bench.deadline(110)
    runs, steps, differences = 0, 0, []
    async with bench.world() as world:
        while runs < wanted and not deadline.is_over:
            both = [_Run(world=world, draw=draw, user=f"m{runs + n}", station=s) for n, s in enumerate(STATIONS)]
            for run in both:
                await world.add_driver(run.user)
            await asyncio.gather(*(run.do() for run in both))
            await world.sync.sync_database({})
            await world.settled_by_now()
            for run in both:
                differences += await run.differences()
            runs, steps = runs + len(both), steps + sum(run.steps for run in both)
        kinds = await _findings(world.sql)
        differences += await bench.judged(world.dsn)
    return Outcome(
        promise="L-04",
        figure=f"{runs:,} runs, {steps:,} steps, {WRITERS} writers at one wallet ({kinds})",
        target=f"{wanted:,} runs of 30 to 50 steps: balance = sum of its lines, never below zero, no lost update",
        reached=runs >= wanted,
        differences=differences,
    )


# --- L-05: rounding has one place ---------------------------------------------------------------------


async def l_05(bench: Bench) -> Outcome:
    """The server's settlement against the checker's, in exact rationals; no database."""
    wanted = bench.count(1_000_000, 500)
    if wanted < 20_000:
        parts = [priced(bench.seed, wanted)]
    else:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            pieces = [wanted // 20] * 19 + [wanted - wanted // 20 * 19]
            calls = (loop.run_in_executor(pool, priced, bench.seed * 1_000 + n, p) for n, p in enumerate(pieces))
            parts = await asyncio.gather(*calls)
    settlements = sum(part[0] for part in parts)
    return Outcome(
        promise="L-05",
        figure=f"{wanted:,} sessions, {settlements:,} settlements; no VAT yet (issue 8)",
        target=f"{wanted:,} sessions: 0 minor units of difference, parts = whole",
        reached=True,
        differences=[text for part in parts for text in part[1]],
    )


def priced(seed: int, count: int) -> tuple[int, list[str]]:
    """Settles random sessions twice; how many settlements, and where the two differ."""
    draw = random.Random(f"L-05/{seed}")
    settlements, found = 0, []
    for _ in range(count):
        before: Totals | None = None
        session = made_session(draw, "anna")
        if draw.random() < 0.02:
            session = msgspec.structs.replace(session, price=Price(per_kwh_minor=HIGHEST_PRICE, currency="INR"))
        for version in versions_of(draw, session):
            settlements += 1
            wanted = _oracle(before, version)
            ours = _totals(version.settlement.settled)
            if ours != wanted or not _adds_up(ours) or _moves(version) != _moved(before, ours, version):
                found.append(f"{version.session.energy_wh} Wh at {version.session.price}: {ours}, should be {wanted}")
            before = wanted
    return settlements, found


def _oracle(before: Totals | None, version: Version) -> Totals:
    session = version.session
    energy, price, fee = session.energy_wh, session.price.per_kwh_minor, session.fee_percent
    if before is None:
        return first_totals(energy_wh=energy, price=price, fee_percent=fee, paid=session.paid_minor)
    return next_totals(
        before, energy_wh=energy, price=price, fee_percent=fee, paid=session.paid_minor, held_anew=version.held_anew
    )


def _totals(settled: Settled) -> Totals:
    return Totals(**{name: int(getattr(settled, name)) for name in Totals.__struct_fields__})


def _adds_up(t: Totals) -> bool:
    whole = t.fee + t.share == t.cost == t.covered + t.owed and t.covered + t.refund == t.paid
    return whole and min(t.refund, t.owed, t.covered, t.fee, t.share) >= 0


def _moves(version: Version) -> dict[str, int]:
    """What the entry moves, by kind of account; credit counts up."""
    entry = version.settlement.entry
    moves: Counter[str] = Counter()
    for posting in entry.postings if entry is not None else ():
        moves[posting.account.kind.value] += _signed(posting)
    return {kind: amount for kind, amount in moves.items() if amount}


def _signed(posting: Posting) -> int:
    return posting.amount if posting.side is Side.CREDIT else -posting.amount


def _moved(before: Totals | None, now: Totals, version: Version) -> dict[str, int]:
    """What it should move: the difference of the totals, and the hold to where it belongs."""
    was = before or Totals(paid=0, cost=0, covered=0, refund=0, owed=0, fee=0, share=0)
    hold = now.paid if before is None else version.held_anew
    moved = {
        "held": -hold,
        "wallet": hold - (now.covered - was.covered),
        "receivable": was.owed - now.owed,
        "platform_fee": now.fee - was.fee,
        "payable": now.share - was.share,
    }
    return {kind: amount for kind, amount in moved.items() if amount}


# --- L-06: no refund above its payment, each once -----------------------------------------------------


class _Unlucky:
    """A settlement store that goes away in one of five units of work: before its commit, or before its answer."""

    def __init__(self, store: PostgresSettlementStore, draw: random.Random) -> None:
        self._store = store
        self._draw = draw

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Any]:
        """See `SettlementStore`."""
        luck = self._draw.random()
        async with self._store.unit_of_work() as work:
            yield work
            if luck < 0.1:
                raise StoreUnavailable("away before the commit")
        if luck > 0.9:
            raise StoreUnavailable("away before the answer")

    async def put_off(self, due: Any, problem: str) -> None:
        """See `SettlementStore`."""
        await self._store.put_off(due, problem)


async def l_06(bench: Bench) -> Outcome:
    """Sessions that were paid and used less, settled by workers that fail and try again; then used still less."""
    draw, wanted, deadline = bench.draw("L-06"), bench.count(10_000, 40), bench.deadline(60)
    done = 0
    async with bench.world() as world:
        await world.add_driver("payer")
        while done < wanted and not deadline.is_over:
            sessions = [made_session(draw, "payer") for _ in range(min(BATCH, wanted - done))]
            changes = Changes(sessions={s.id: s for s in sessions}, settle=sessions)
            changes.entries = [entry for session in sessions for entry in _paid(session)]
            await world.save(changes)
            await _settle_unluckily(world, draw)
            settled = await world.sql.fetch(
                "SELECT * FROM settlement WHERE session_id = ANY($1)", list(changes.sessions)
            )
            less = {r["session_id"]: (r["refund_minor"], r["energy_wh"]) for r in settled}
            lower = [
                msgspec.structs.replace(
                    s, energy_wh=Wh(less[s.id][1] // 2), settle_version=1, refunded_minor=Minor(less[s.id][0])
                )
                for s in sessions
                if s.id in less
            ]
            await world.save(Changes(sessions={s.id: s for s in lower}, settle=lower))
            await _settle_unluckily(world, draw)
            done += len(sessions)
        differences = await bench.judged(world.dsn)
        differences += await _refund_differences(world.sql, done)
        refunds = await world.sql.fetchval(
            "SELECT count(*) FROM (SELECT DISTINCT ON (session_id) * FROM settlement "
            "ORDER BY session_id, version DESC) s WHERE refund_minor > 0"
        )
    return Outcome(
        promise="L-06",
        figure=f"{done:,} payments, {refunds:,} refunds; payouts and payment providers do not exist yet (issue 8)",
        target=f"{wanted:,} payments: refunds within them, each once",
        reached=done >= wanted,
        differences=differences,
    )


async def _settle_unluckily(world: World, draw: random.Random) -> None:
    """Eight workers until nothing waits; jobs that are done come back to them."""
    settling = Settling(_Unlucky(world.settlements, draw))

    async def work() -> None:
        while True:
            try:
                if (await settling.settle_due(4))[0] == 0:
                    return
            except StoreUnavailable:
                continue

    for again in (True, False):
        await asyncio.gather(*(work() for _ in range(8)))
        if again:
            await world.sql.execute(
                "UPDATE job SET state = 'waiting', run_after = now() "
                "WHERE random() < 0.3 AND id > (SELECT max(id) FROM job) - $1",
                BATCH,
            )
    await world.settled_by_now()


async def _refund_differences(sql: Any, payments: int) -> list[str]:
    """By the entries alone: what went back to the wallet for each session, against what was set aside for it."""
    rows = await sql.fetch(
        "SELECT e.session_id, sum(amount_minor) FILTER (WHERE e.kind = 'hold') AS paid, "
        "coalesce(sum(amount_minor) FILTER (WHERE e.kind = 'settlement'), 0) AS back, "
        "(SELECT refund_minor FROM settlement s WHERE s.session_id = e.session_id ORDER BY version DESC LIMIT 1) "
        "AS refund FROM ledger_entry e JOIN ledger_posting p ON p.entry_id = e.id "
        "JOIN ledger_account a ON a.id = p.account_id "
        "WHERE a.kind = 'wallet' AND e.session_id IS NOT NULL GROUP BY e.session_id"
    )
    found = [f"{dict(row)}" for row in rows if row["back"] > row["paid"] or row["back"] != row["refund"]]
    versions = await sql.fetchval("SELECT count(*) FROM settlement")
    if versions != 2 * payments:
        found.append(f"{payments} payments, each used twice, left {versions} settlements")
    return found


# --- L-07: the same request is one effect -------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Caller:
    """A client of the API that sends the same request many times at once."""

    site: Site
    draw: random.Random
    found: list[str] = field(default_factory=list)
    api: Any = None
    requests: int = 0
    kills: int = 0
    paid: int = 0
    sessions: set[str] = field(default_factory=set)

    async def key(self, number: int, *, kill: bool) -> None:
        """One key: a top-up or a prepaid start, its repeats, and the same key with another body."""
        starts = number % 5 == 0
        path = "sessions" if starts else f"wallets/{USER}/topups"
        body: dict[str, object] = {"amount_minor": self.draw.randint(1, 5_000)}
        if starts:
            body |= {"station": STATIONS[0], "connector": number // 5 % 100 + 1, "user": USER}
        key = f"key-{number}-{new_id().hex}"
        times = min(50, 2 + int(self.draw.expovariate(1 / 5)))
        replies = await self._replies(path, body, key, times, kill=kill)
        # After a kill the answer to a start may have to be made again: the same session, as it is by then.
        whole = set(replies) if not (kill and starts) else {json.loads(reply)["id"] for reply in replies}
        if len(whole) != 1:
            self.found.append(f"{key}: {len(whole)} different replies to {path}: {sorted(map(str, whole))[:2]}")
        if starts:
            self.sessions.add(json.loads(replies[0])["id"])
        else:
            self.paid += int(str(body["amount_minor"]))
        status, _ = await self._ask(path, body | {"amount_minor": 5_001}, key)
        if status != 422:
            self.found.append(f"{key}: another body was answered with {status}")

    async def _replies(self, path: str, body: dict[str, object], key: str, times: int, *, kill: bool) -> list[bytes]:
        replies: list[bytes] = []
        deadline = time.monotonic() + 60
        while not replies or kill:
            sent = [asyncio.create_task(self._ask(path, body, key)) for _ in range(times)]
            if kill:
                await asyncio.sleep(self.draw.random() / 20)
                await self._kill()
            for status, reply in await asyncio.gather(*sent):
                if status == 201:
                    replies.append(reply)
                elif status not in (0, 409, 503):  # cut; the connector is not free yet, or its station is away
                    self.found.append(f"{key}: {path} was answered with {status}: {reply[:200]!r}")
            kill = False
            if time.monotonic() > deadline:
                raise LabFailed(f"{path} was never accepted")
            if not replies:
                await asyncio.sleep(0.05)
        return replies

    async def _ask(self, path: str, body: dict[str, object], key: str) -> tuple[int, bytes]:
        self.requests += 1
        try:
            reply = await self.api.post(path, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            return 0, b""
        return reply.status_code, reply.content

    async def _kill(self) -> None:
        self.kills += 1
        await self.site.kill()
        await self.start()

    async def start(self) -> None:
        """The server, until it answers."""
        await self.site.start()
        await until(self._answers, 60, "the server answers")

    async def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return bool((await self.api.get(f"http://127.0.0.1:{self.site.http_port}/health")).status_code == 200)
        return False


async def l_07(bench: Bench) -> Outcome:
    """A running server, keys that are sent many times at once, some with a SIGKILL in between."""
    draw, wanted, deadline = bench.draw("L-07"), bench.count(5_000, 12), bench.deadline(110)
    keys = 0
    async with bench.lab.site() as site:
        sql = await site.books()
        await sql.execute(f"UPDATE station SET connectors = 100 WHERE id = '{STATIONS[0]}'; {bench.before}")
        first = await sql.fetchval(f"SELECT balance_minor FROM ledger_account WHERE code = {_WALLET}")
        async with site.api() as api, _refusing(site):
            caller = _Caller(site=site, draw=draw, api=api)
            await caller.start()
            while keys < wanted and not deadline.is_over:
                await caller.key(keys, kill=keys % 400 in (7, 10))
                keys += 1
            await sql.execute(bench.after)
            await until(
                lambda: sql.fetchval("SELECT NOT EXISTS (SELECT 1 FROM charging_session WHERE settled_at IS NULL)"),
                60,
                "every start that was refused gives its money back",
            )
            now = await sql.fetchval(f"SELECT balance_minor FROM ledger_account WHERE code = {_WALLET}")
            known = {str(row[0]) for row in await sql.fetch("SELECT id FROM charging_session")}
            await site.kill()
        await sql.close()
        differences = caller.found + [str(d) for d in (await verify(site.dsn)).differences]
    if now - first != caller.paid:
        differences.append(f"{caller.paid} were paid in, the wallet grew by {now - first}")
    if known != caller.sessions:
        differences.append(f"{len(caller.sessions)} starts were acknowledged, {len(known)} sessions are in the books")
    return Outcome(
        promise="L-07",
        figure=f"{keys:,} keys, {caller.requests:,} requests, {caller.kills} kills of the server",
        target=f"{wanted:,} keys: one effect, one reply, another body 422",
        reached=keys >= wanted,
        differences=differences,
    )


@asynccontextmanager
async def _refusing(site: Site) -> AsyncIterator[Station]:
    """A station that refuses every remote start, so that its connectors become free again."""
    with Journal(site.journal) as journal:
        name = STATIONS[0]
        station = Station(name, lambda: site.registered.passwords[name], lambda: site.url, journal)
        station.on_command = lambda action, payload: {"status": "Rejected"}
        task = asyncio.create_task(station.run())
        try:
            yield station
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


# --- L-08: tampering is found -------------------------------------------------------------------------

MONEY_COLUMNS = {
    "ledger_account": {"balance_minor"},
    "ledger_posting": {"account_id", "side", "amount_minor", "balance_after"},
    "settlement": {"energy_wh", "paid_minor", "cost_minor", "covered_minor", "refund_minor", "owed_minor", "fee_minor"},
}
"""Where one changed character moves money: it must be found. The others only a chain of hashes can prove."""


async def l_08(bench: Bench) -> Outcome:
    """One character of one value in a row of the ledger, changed by a superuser; does `verify` find it?"""
    draw, wanted, deadline = bench.draw("L-08"), bench.count(1_000, 12), bench.deadline(60)
    flips, found, missed, differences = 0, 0, Counter[str](), []
    async with bench.world() as world:
        for number in range(8):
            visit = Visit(
                world=world,
                station=STATIONS[0],
                connector=number % 4 + 1,
                token=TOKEN,
                at=_ago(59 - number),
                start_wh=0,
            )
            await visit.begin()
            await visit.end(draw.randint(1, 40_000))
        await world.settle_all()
        differences += await bench.judged(world.dsn)  # a clean world, or everything would be "found"
        await world.sql.execute("SET session_replication_role = replica")
        columns = await _columns(world.sql)
        while flips < wanted and not deadline.is_over:
            table, column, kind = draw.choice(columns)
            undo = await _flip(world.sql, draw, table, column, kind)
            if undo is None:
                continue
            flips += 1
            if (await verify(world.dsn)).clean:
                missed[f"{table}.{column}"] += 1
                if column in MONEY_COLUMNS.get(table, ()):
                    differences.append(f"not found: {table}.{column}")
            else:
                found += 1
            await world.sql.execute(*undo)
    names = ", ".join(f"{name} {count}" for name, count in missed.most_common(4))
    return Outcome(
        promise="L-08",
        figure=f"{found:,} of {flips:,} flips found ({100 * found / max(1, flips):.0f} %); "
        f"most often not found: {names or 'none'}; a chain of hashes is issue 8",
        target=f"{wanted:,} of {wanted:,} flips found",
        reached=found == flips >= wanted,
        differences=differences,
    )


async def _columns(sql: Any) -> list[tuple[str, str, str]]:
    rows = await sql.fetch(
        "SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = ANY('{ledger_account, ledger_entry, ledger_posting, settlement}'::regclass[]) AND attnum > 0"
    )
    return [tuple(row) for row in rows]


async def _flip(sql: Any, draw: random.Random, table: str, column: str, kind: str) -> tuple[Any, ...] | None:
    """Changes one character; returns the statement that undoes it, None where the database has no such row or value."""
    where = f"SELECT ctid, {column}::text AS value FROM {table} WHERE {column} IS NOT NULL ORDER BY random() LIMIT 1"
    row = await sql.fetchrow(where)
    places = [n for n, c in enumerate(row["value"]) if c.isalnum()] if row is not None else []
    if not places:
        return None
    place = draw.choice(places)
    old = row["value"][place]
    new = draw.choice([c for c in ("0123456789" if old.isdigit() else "abcdefCD") if c != old])
    change = f"UPDATE {table} SET {column} = $1::text::{kind} WHERE ctid = $2 RETURNING ctid, {column}::text"
    try:
        changed = await sql.fetchrow(change, row["value"][:place] + new + row["value"][place + 1 :], row["ctid"])
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.GeneratedAlwaysError):
        return None
    return (change, row["value"], changed["ctid"]) if changed[1] != row["value"] else None


# --- L-09: a correction adds, it never edits ----------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Story:
    """A session that is settled by less than the truth, and then the truth arrives. Its connector says which kind."""

    visit: Visit
    draw: random.Random

    @property
    def kind(self) -> str:
        """How the books came to believe something else."""
        kinds = {1: "ghost", 2: "ghost", 3: "superseded", 4: "superseded", 5: "wrong register", 6: "no register"}
        return kinds[self.visit.connector]

    async def begin(self) -> None:
        """Everything up to the moment at which the books are wrong."""
        visit = self.visit
        await visit.begin()
        await visit.meter(self.draw.randint(1, 20_000))
        match self.kind:
            case "ghost":
                report = StatusReported(
                    evse_id=visit.connector,
                    connector_id=1,
                    status=ConnectorStatus.AVAILABLE,
                    raw_status="Available",
                    at=Instant(at=datetime.now(UTC)),
                )
                await visit.world.tell(visit.station, "StatusNotification", {}, report)
            case "superseded":
                following = self._following()
                await following.begin()
                await following.end(self.draw.randint(1, 9_000))
            case "wrong register":
                await visit.end(self.draw.randint(1, 20_000))
            case _:
                await visit.end(0, without_register=True)

    def _following(self) -> Visit:
        return replace(self.visit, at=self.visit.at + timedelta(minutes=5), start_wh=self.visit.start_wh + 50_000)

    async def truth(self) -> None:
        """What the station, or whoever read its meter, says in the end."""
        visit = self.visit
        if self.kind != "wrong register":
            await visit.end(self.draw.randint(1, 20_000))
            return
        visit.register_wh = max(
            visit.start_wh, visit.register_wh + self.draw.choice((-1, 1)) * self.draw.randint(1, 9_000)
        )
        async with visit.world.database.connection() as connection:
            await connection.execute(
                'UPDATE "ChargeSession" SET "meterStop" = $1 WHERE "chargePointId" = $2 AND "transactionId" = $3',
                visit.register_wh,
                visit.station,
                visit.ref,
            )

    async def differences(self) -> list[str]:
        """The last settlement and the sum of all entries against the truth."""
        visit = self.visit
        row = await visit.world.sql.fetchrow(
            "SELECT s.version, s.energy_wh, s.cost_minor, (SELECT sum(CASE p.side WHEN 'C' THEN amount_minor "
            "ELSE -amount_minor END) FILTER (WHERE a.kind IN ('payable', 'platform_fee')) FROM ledger_entry e "
            "JOIN ledger_posting p ON p.entry_id = e.id JOIN ledger_account a ON a.id = p.account_id "
            "WHERE e.session_id = c.id) AS earned FROM charging_session c JOIN settlement s ON s.session_id = c.id "
            "WHERE c.station_id = $1 AND c.transaction_ref = $2 ORDER BY s.version DESC LIMIT 1",
            visit.station,
            visit.ref,
        )
        energy = visit.register_wh - visit.start_wh
        if row is None or (row["energy_wh"], row["cost_minor"], row["earned"]) != (energy, visit.cost, visit.cost):
            return [f"{self.kind} at {visit.station}: {row and dict(row)}, should be {energy} Wh, {visit.cost}"]
        return [] if row["version"] >= 2 else [f"{self.kind} at {visit.station}: no second version"]


async def l_09(bench: Bench) -> Outcome:
    """Sessions that were closed as ghosts, superseded, or settled by a wrong register, and then the truth arrives."""
    draw, wanted, deadline = bench.draw("L-09"), bench.count(1_000, 12), bench.deadline(60)
    done, differences = 0, []
    async with bench.world() as world:
        for station in STATIONS:
            await world.live.claim(StationId(station), "node", _ago(100))
        while done < wanted and not deadline.is_over:
            stories = [
                _Story(
                    draw=draw,
                    visit=Visit(
                        world=world,
                        station=station,
                        connector=c,
                        token=TOKEN,
                        at=_ago(59),
                        start_wh=draw.randrange(10**6),
                    ),
                )
                for station in STATIONS
                for c in range(1, CONNECTORS + 1)
            ]
            await asyncio.gather(*(story.begin() for story in stories))
            await _close_ghosts(world)
            await world.settled_by_now()
            before = await _history(world.sql)
            await asyncio.gather(*(story.truth() for story in stories))
            await world.sync.sync_database({})
            await world.settled_by_now()
            await world.sql.execute(bench.after)
            differences += _edited(before, await _history(world.sql))
            differences += [text for story in stories for text in await story.differences()]
            done += len(stories)
        kinds = await _findings(world.sql)
        differences += [str(difference) for difference in (await verify(world.dsn)).differences]
    return Outcome(
        promise="L-09",
        figure=f"{done:,} corrections ({kinds})",
        target=f"{wanted:,}: net = truth, nothing that was posted is edited",
        reached=done >= wanted,
        differences=differences,
    )


async def _close_ghosts(world: World) -> None:
    """Time passes: connectors have been free for a while after the last reading."""
    await world.sql.execute(
        "UPDATE connector SET since = now() - interval '20 minutes', received_at = now() - interval '20 minutes'; "
        "UPDATE charging_session SET heard_at = now() - interval '30 minutes' WHERE status = 'ONGOING'"
    )
    await world.sync.find_orphans_and_ghosts()


async def _history(sql: Any) -> dict[str, str]:
    keys = {"ledger_entry": "id", "ledger_posting": "(entry_id, line)", "settlement": "(session_id, version)"}
    found = {}
    for table, key in keys.items():
        for row in await sql.fetch(f"SELECT {key}::text, t::text FROM {table} t"):
            found[f"{table} {row[0]}"] = row[1]
    return found


def _edited(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [
        f"{name} was edited: {row} became {after.get(name)}" for name, row in before.items() if after.get(name) != row
    ]


# --- the command line ---------------------------------------------------------------------------------

PROMISES: dict[str, Callable[[Bench], Awaitable[Outcome]]] = {
    "L-01": l_01,
    "L-02": l_02,
    "L-03": l_03,
    "L-04": l_04,
    "L-05": l_05,
    "L-06": l_06,
    "L-07": l_07,
    "L-08": l_08,
    "L-09": l_09,
}


async def measure(bench: Bench, promise: str) -> Outcome:
    """Measures one promise; one that cannot be measured counts as broken."""
    began = time.monotonic()
    try:
        outcome = await PROMISES[promise](bench)
    except Exception as error:
        traceback.print_exc()
        problem = f"could not be measured: {type(error).__name__}: {error}"
        outcome = Outcome(promise=promise, figure="nothing", target="", reached=False, differences=[problem])
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


async def run(promises: Sequence[str], scale: float, seed: int, patience: float) -> list[Outcome]:
    """Promises one after the other in one laboratory; prints as it goes."""
    async with laboratory() as lab:
        found = []
        for promise in promises:
            found.append(await measure(Bench(lab=lab, scale=scale, seed=seed, patience=patience), promise))
            print(found[-1], flush=True)
        return found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is what the promises ask for")
    parser.add_argument("--only", default=",".join(PROMISES), help="such as L-01,L-03; all by default")
    parser.add_argument("--patience", type=float, default=1.0, help="stretches the time that each promise may take")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    promises = given.only.split(",")
    if unknown := set(promises) - set(PROMISES):
        raise SystemExit(f"there is no promise {', '.join(sorted(unknown))}: use {', '.join(PROMISES)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped, however this ends
    found = asyncio.run(run(promises, given.scale, given.seed, given.patience))
    if given.json is not None:
        given.json.write_text(json.dumps([one.as_json() for one in found], indent=1) + "\n", encoding="utf-8")
    return 1 if any(one.differences for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
