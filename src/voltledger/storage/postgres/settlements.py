"""T2 on PostgreSQL: one settlement a unit of work, its job locked by the same one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from voltledger.domain.ledger.settlement import Settled, Settlement
from voltledger.domain.quantities import Minor
from voltledger.domain.session.session import ChargingSession
from voltledger.failpoints import ARMED, fp
from voltledger.storage.effects import clear_events, settled_news
from voltledger.storage.errors import StoreContention
from voltledger.storage.ports import DueSettlement
from voltledger.storage.postgres.ledger import AlreadyPosted, post_entries
from voltledger.storage.postgres.pool import CONTENTION, Connection, Database, describe
from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import COLUMN_LIST, session_of

_SESSION = SQL["settle_session"].replace("{columns}", COLUMN_LIST)


class PostgresSettlementStore:
    """Where settlements are done; see `SettlementStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator["PostgresSettlementWork"]:
        """One T2. A rival that was first, or in the way, shows as StoreContention."""
        try:
            async with self._database.unit_of_work() as connection:
                yield PostgresSettlementWork(connection)
        except (asyncpg.UniqueViolationError, AlreadyPosted) as error:
            raise StoreContention("settled by another worker meanwhile") from error
        except CONTENTION as error:
            raise StoreContention(describe(error)) from error

    async def put_off(self, due: DueSettlement, problem: str) -> None:
        """Tries a settlement that failed again later; the problem stands in its row."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["job_again"], due.job_id, problem)


class PostgresSettlementWork:
    """One T2; see `SettlementWork`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def next_due(self) -> DueSettlement | None:
        """The next settlement that is due, or None."""
        row = await self._connection.fetchrow(SQL["settle_job_next"])
        if row is None:
            return None
        return DueSettlement(job_id=row["id"], session_id=UUID(row["subject"]), version=row["version"])

    async def load(self, due: DueSettlement) -> tuple[ChargingSession | None, Settled | None]:
        """The session, locked, and what has been settled for it so far."""
        session = await self._connection.fetchrow(_SESSION, due.session_id)
        row = await self._connection.fetchrow(SQL["settle_latest"], due.session_id)
        return (None if session is None else session_of(session)), (None if row is None else _settled_of(row))

    async def forget(self, due: DueSettlement) -> None:
        """Removes a job whose session is active again; its end makes a new one."""
        await self._connection.execute(SQL["job_forget"], due.job_id)

    async def hold(self, due: DueSettlement, reason: str) -> None:
        """Leaves a settlement to a person."""
        await self._connection.execute(SQL["job_held"], due.job_id, reason)

    async def done(self, due: DueSettlement) -> None:
        """Marks a job whose effect exists already."""
        await self._connection.execute(SQL["job_done"], due.job_id)

    async def record(self, due: DueSettlement, session: ChargingSession, settlement: Settlement) -> None:
        """Posts the entry, writes the settlement, marks session and job, leaves word for the cache."""
        entries = () if settlement.entry is None else (settlement.entry,)
        ids = await post_entries(self._connection, entries)
        if ARMED:
            await fp("t2.after_entries")
        settled = settlement.settled
        await self._connection.execute(
            SQL["settle_insert"],
            session.id,
            settled.version,
            session.energy_wh,
            session.price.per_kwh_minor,
            session.fee_percent,
            session.price.currency,
            settled.paid,
            settled.cost,
            settled.covered,
            settled.refund,
            settled.owed,
            settled.fee,
            settled.share,
            ids[0] if ids else None,
        )
        if ARMED:
            await fp("t2.after_settlement")
        await self._connection.execute(SQL["settle_mark_session"], session.id, settled.version, settled.refund)
        await self._connection.execute(
            SQL["outbox_insert"],
            f"clear_events:{session.id}:{settled.version}",
            "clear_events",
            clear_events(session),
        )
        await self._connection.execute(
            SQL["feed_insert"], ["settled"], [session.station_id], [session.id], [settled_news(session, settled)]
        )
        await self._connection.execute(SQL["findings_repaired"], session.id)
        await self.done(due)
        if ARMED:
            await fp("t2.before_commit")


def _settled_of(row: asyncpg.Record) -> Settled:
    return Settled(
        version=row["version"],
        paid=Minor(row["paid_minor"]),
        cost=Minor(row["cost_minor"]),
        covered=Minor(row["covered_minor"]),
        refund=Minor(row["refund_minor"]),
        owed=Minor(row["owed_minor"]),
        fee=Minor(row["fee_minor"]),
        share=Minor(row["share_minor"]),
    )
