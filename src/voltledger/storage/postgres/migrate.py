"""Brings a database to the schema of this program: plain SQL files, once each, in order.

Files are `NNNN_{pre|post}_what.sql` in dbmate's format (`-- migrate:up`). An advisory lock makes
two nodes that start together take turns. A file that was applied and has changed since is an error:
applied migrations are history.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import asyncpg

from voltledger.failpoints import ARMED, fp
from voltledger.storage.errors import SchemaMismatch

ADVISORY_KEY = 7_021_965_041


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file: its version (the name without `.sql`), statement text and checksum."""

    version: str
    sql: str
    checksum: str


def known_migrations() -> list[Migration]:
    """The migrations that this program carries, oldest first."""
    folder = resources.files("voltledger.storage.postgres") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [_read(f.name.removesuffix(".sql"), f.read_text(encoding="utf-8")) for f in files]


def _read(version: str, text: str) -> Migration:
    _, marker, up = text.partition("-- migrate:up")
    if not marker:
        raise ValueError(f"migration {version} has no '-- migrate:up'")
    body = up.partition("-- migrate:down")[0]
    return Migration(version=version, sql=body, checksum=hashlib.sha256(text.encode()).hexdigest())


async def migrate(dsn: str) -> Sequence[str]:
    """Applies what is missing and returns the versions applied.

    Effects: takes an advisory lock, writes `schema_migration`, one database transaction a file.
    Raises: SchemaMismatch when the database is newer than this program or a file was changed.
    """
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", ADVISORY_KEY)
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migration (version text PRIMARY KEY, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now())"
        )
        return await _apply_missing(connection)
    finally:
        await connection.close()


async def _apply_missing(connection: Any) -> list[str]:
    applied = {r["version"]: r["checksum"] for r in await connection.fetch("SELECT * FROM schema_migration")}
    known = known_migrations()
    problem = compare(applied, known)
    if problem is not None:
        raise SchemaMismatch(problem)
    missing = [m for m in known if m.version not in applied]
    for migration in missing:
        async with connection.transaction():
            await connection.execute(migration.sql)
            if ARMED:
                await fp("migrate.half")
            await connection.execute(
                "INSERT INTO schema_migration (version, checksum) VALUES ($1, $2)",
                migration.version,
                migration.checksum,
            )
    return [m.version for m in missing]


def compare(applied: dict[str, str], known: Sequence[Migration]) -> str | None:
    """A sentence about why this program cannot work on a schema, or None."""
    checksums = {m.version: m.checksum for m in known}
    newer = sorted(set(applied) - set(checksums))
    if newer:
        return (
            f"the database has migration {newer[-1]}, which this program does not know: "
            "start the newer release that applied it, or restore a backup from before"
        )
    changed = [version for version, checksum in applied.items() if checksums[version] != checksum]
    if changed:
        return f"migration {changed[0]} was changed after it was applied: check out the release that applied it"
    return None


async def pending(connection: Any) -> list[str]:
    """Versions that the database lacks; SchemaMismatch as in `migrate`."""
    exists = await connection.fetchval("SELECT to_regclass('schema_migration') IS NOT NULL")
    if not exists:
        return [m.version for m in known_migrations()]
    applied = {
        r["version"]: r["checksum"] for r in await connection.fetch("SELECT version, checksum FROM schema_migration")
    }
    problem = compare(applied, known_migrations())
    if problem is not None:
        raise SchemaMismatch(problem)
    return [m.version for m in known_migrations() if m.version not in applied]
