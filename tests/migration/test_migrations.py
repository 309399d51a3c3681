"""Migrations: applied once, in turns, and never to a database that this program does not know."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from importlib import resources
from typing import Any

import asyncpg
import pytest

from voltledger.storage.errors import SchemaMismatch
from voltledger.storage.postgres import migrate as migrations
from voltledger.storage.postgres.migrate import compare, known_migrations, migrate, pending


@pytest.fixture
async def empty(empty_database_dsn: str) -> AsyncIterator[Any]:
    """A connection to a database without tables."""
    connection = await asyncpg.connect(empty_database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def migrated(database_dsn: str) -> AsyncIterator[Any]:
    """A connection to a migrated database."""
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


async def test_every_migration_applies_to_an_empty_database_and_a_second_time_does_nothing(
    empty_database_dsn: str, empty: Any
) -> None:
    versions = [m.version for m in known_migrations()]
    assert await pending(empty) == versions
    assert list(await migrate(empty_database_dsn)) == versions
    assert list(await migrate(empty_database_dsn)) == []
    assert await pending(empty) == []
    rows = await empty.fetch("SELECT version, checksum FROM schema_migration ORDER BY version")
    assert [tuple(r) for r in rows] == [(m.version, m.checksum) for m in known_migrations()]


async def test_nodes_that_start_together_take_turns(empty_database_dsn: str, empty: Any) -> None:
    results = await asyncio.gather(*(migrate(empty_database_dsn) for _ in range(6)))
    assert sorted(len(r) for r in results) == [0] * 5 + [len(known_migrations())]
    assert await empty.fetchval("SELECT count(*) FROM schema_migration") == len(known_migrations())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            "UPDATE schema_migration SET checksum = 'other'",
            "was changed after it was applied: check out the release that applied it",
        ),
        (
            "INSERT INTO schema_migration (version, checksum) VALUES ('9999_post_future', 'x')",
            "migration 9999_post_future, which this program does not know: start the newer release",
        ),
    ],
)
async def test_a_database_that_does_not_fit_is_refused_with_one_sentence_that_says_what_to_do(
    database_dsn: str, migrated: Any, change: str, sentence: str
) -> None:
    await migrated.execute(change)
    for refused_by in (migrate(database_dsn), pending(migrated)):
        with pytest.raises(SchemaMismatch) as refused:
            await refused_by
        text = str(refused.value)
        assert sentence in text
        assert "\n" not in text
        assert len(text) < 200
        assert not text.endswith(".")


async def test_a_refused_migration_leaves_the_database_as_it_was(database_dsn: str, migrated: Any) -> None:
    await migrated.execute("INSERT INTO schema_migration (version, checksum) VALUES ('9999_post_future', 'x')")
    with pytest.raises(SchemaMismatch):
        await migrate(database_dsn)
    assert await migrated.fetchval("SELECT count(*) FROM schema_migration") == len(known_migrations()) + 1
    assert await migrated.fetchval("SELECT pg_try_advisory_lock($1)", migrations.ADVISORY_KEY)


async def test_a_migration_that_fails_leaves_nothing_behind(
    empty_database_dsn: str, empty: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = migrations.Migration(
        version="0000_pre_broken", sql="CREATE TABLE half (id int); SELECT 1 / 0;", checksum="x"
    )
    monkeypatch.setattr(migrations, "known_migrations", lambda: [broken])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_database_dsn)
    assert await empty.fetchval("SELECT to_regclass('half')") is None
    assert await empty.fetchval("SELECT count(*) FROM schema_migration") == 0


def test_versions_that_fit_are_no_problem() -> None:
    known = known_migrations()
    assert compare({m.version: m.checksum for m in known}, known) is None
    assert compare({}, known) is None


@pytest.mark.parametrize("migration", known_migrations(), ids=lambda m: str(m.version))
def test_a_migration_says_in_one_sentence_what_it_does_and_waits_for_locks_only_briefly(
    migration: migrations.Migration,
) -> None:
    assert re.fullmatch(r"\d{4}_(pre|post)_[a-z0-9_]+", migration.version)
    folder = resources.files("voltledger.storage.postgres") / "migrations"
    first = (folder / f"{migration.version}.sql").read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"-- [A-Z].*\.", first)
    assert "SET LOCAL lock_timeout" in migration.sql


async def test_every_rule_has_a_name_of_ours(migrated: Any) -> None:
    rows = await migrated.fetch(
        "SELECT c.conname, c.conrelid::regclass::text AS on_table FROM pg_constraint c "
        "JOIN pg_namespace n ON n.oid = c.connamespace "
        "WHERE n.nspname = 'public' AND c.contype IN ('c', 'u', 'x', 't')"
    )
    assert len(rows) > 20
    made_up = [r["conname"] for r in rows if r["conname"].endswith(("_check", "_key", "_excl", "_check1"))]
    assert made_up == []


async def test_money_and_energy_are_whole_numbers_in_the_database(migrated: Any) -> None:
    rows = await migrated.fetch(
        "SELECT table_name || '.' || column_name AS name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'public' AND (column_name LIKE '%\\_minor' OR column_name LIKE '%\\_wh')"
    )
    rates = {r["name"] for r in rows if r["data_type"] == "numeric"}
    assert rates == {
        "tariff.price_per_kwh_minor",
        "charging_session.price_per_kwh_minor",
        "settlement.price_per_kwh_minor",
    }
    assert {r["data_type"] for r in rows if r["name"] not in rates} == {"bigint"}
