"""For commands that need the books, and no server."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from voltledger.bootstrap.common import new_id, sync_policy, utc_now
from voltledger.bootstrap.database import prepare_database
from voltledger.config import Settings
from voltledger.domain.identifiers import SessionId
from voltledger.domain.quantities import Minor
from voltledger.domain.session.book import Policy
from voltledger.errors import UserFacingError
from voltledger.gateway.reviving import revive
from voltledger.services.catalog import Catalog
from voltledger.services.intake import IdSource, Intake
from voltledger.services.ladder import Ladder
from voltledger.services.settling import Settling
from voltledger.services.sync import DatabaseSyncService, Step
from voltledger.storage.errors import JournalUnavailable, StoreUnavailable
from voltledger.storage.postgres.catalog import PostgresCatalogStore
from voltledger.storage.postgres.facts import PostgresFactStore
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore
from voltledger.storage.postgres.sync import PostgresSyncStore
from voltledger.storage.sqlite import SqliteJournal


@asynccontextmanager
async def open_catalog(settings: Settings, dsn: str) -> AsyncIterator[Catalog]:
    """The catalogue on a migrated database. Raises: UserFacingError when it cannot be reached."""
    async with _open_database(settings, dsn) as database:
        yield Catalog(PostgresCatalogStore(database), ocpp=settings.ocpp, currency=settings.currency)


@asynccontextmanager
async def open_sync(settings: Settings, dsn: str) -> AsyncIterator["OfflineSync"]:
    """The sync service without stations: it can compare and repair, and cannot ask."""
    async with _open_database(settings, dsn) as database:
        yield OfflineSync(settings, database)


@asynccontextmanager
async def _open_database(settings: Settings, dsn: str) -> AsyncIterator[Database]:
    try:
        role = await prepare_database(dsn)
    except StoreUnavailable as error:
        raise UserFacingError(f"PostgreSQL does not answer ({error}): start it or correct DATABASE_URL") from error
    database = Database(dsn, size=2)
    database.role = role
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def drain_journal(
    settings: Settings, dsn: str, path: Path, on_progress: Callable[[int], None]
) -> tuple[int, int]:
    """Records what waits in a journal, without a server; how many facts were recorded, and how many still wait.

    Ends when none wait, or when none could be recorded for ten seconds. Raises: UserFacingError.
    """
    async with _open_database(settings, dsn) as database:
        facts = PostgresFactStore(
            database, currency=settings.currency, fee_percent=settings.platform_fee_percent, new_id=new_id
        )
        journal = SqliteJournal(path, max_bytes=settings.journal_max_mb * 1_000_000)
        ladder = Ladder(journal, probe=facts.probe, revive=revive, now=utc_now)
        policy = Policy(local_hold=Minor(settings.local_hold_minor), heartbeat_s=settings.heartbeat_s)
        ids = IdSource(new_session_id=lambda: SessionId(new_id()), reserve=facts.reserve_transaction_refs)
        intake = Intake(facts, ids, policy, hold_s=settings.hold_s, on_committed=lambda _done: None, ladder=ladder)
        try:
            await journal.open()
            await ladder.open()
            first = before = ladder.waiting
            intake.start()
            moved_at = time.monotonic()
            while ladder.waiting and time.monotonic() - moved_at < 10:
                on_progress(ladder.waiting)
                if ladder.waiting < before:
                    before, moved_at = ladder.waiting, time.monotonic()
                await asyncio.sleep(0.05)
            await intake.stop()
        except JournalUnavailable as error:
            raise UserFacingError(
                f"the journal cannot be used ({error}): correct its rights or free the disk"
            ) from error
        finally:
            await journal.close()
    return first - ladder.waiting, ladder.waiting


class OfflineSync:
    """One pass of everything that the loops do, for `voltledger reconcile`."""

    def __init__(self, settings: Settings, database: Database) -> None:
        policy = Policy(local_hold=Minor(settings.local_hold_minor), heartbeat_s=settings.heartbeat_s)
        store = PostgresSyncStore(
            database,
            currency=settings.currency,
            fee_percent=settings.platform_fee_percent,
            policy=policy,
            new_id=new_id,
        )
        self._settling = Settling(PostgresSettlementStore(database))
        self._service = DatabaseSyncService(
            store, None, sync_policy(settings), now=utc_now, new_id=new_id, wake=lambda: None
        )

    async def run(self, *, dry_run: bool) -> list[Step]:
        """One pass; queued commands are sent by the server that holds the stations."""
        steps = await self._service.sync_database({}, dry_run=dry_run)
        steps += await self._service.find_orphans_and_ghosts(dry_run=dry_run)
        steps += await self._service.press_stops(dry_run=dry_run)
        if not dry_run:
            await self._settling.settle_due(limit=100_000)
        return steps
