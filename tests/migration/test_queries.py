"""Every named query: it can be prepared on a migrated database, and says what it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import COLUMN_LIST, SAVE_SESSIONS


@pytest.fixture
async def app(database_dsn: str) -> AsyncIterator[Any]:
    """A connection in the role of the server."""
    connection = await asyncpg.connect(database_dsn, server_settings={"role": "voltledger_app"})
    yield connection
    await connection.close()


async def test_every_query_can_be_prepared_in_the_role_of_the_server(app: Any) -> None:
    assert len(SQL) > 60
    failed = {}
    for name, text in {**SQL, "SAVE_SESSIONS": SAVE_SESSIONS}.items():
        try:
            await app.prepare(text.replace("{columns}", COLUMN_LIST))
        except asyncpg.PostgresError as error:
            failed[name] = str(error)
    assert failed == {}


async def test_every_query_may_be_run_by_the_server(app: Any) -> None:
    """Rights are checked when a query is about to run; EXPLAIN goes as far as that and changes nothing."""
    refused = {}
    for name, text in {**SQL, "SAVE_SESSIONS": SAVE_SESSIONS}.items():
        query = text.replace("{columns}", COLUMN_LIST)
        count = len((await app.prepare(query)).get_parameters())
        await app.execute(f"PREPARE q_{name} AS {query}")
        nulls = f"({', '.join(['NULL'] * count)})" if count else ""
        try:
            await app.execute(f"EXPLAIN EXECUTE q_{name}{nulls}")
        except asyncpg.PostgresError as error:
            refused[name] = f"{type(error).__name__}: {error}"
    assert refused == {}


@pytest.mark.parametrize("name", sorted(SQL))
def test_a_query_says_what_it_is_for(name: str) -> None:
    first, *rest = SQL[name].splitlines()
    trivial = first.startswith("DELETE FROM ") and not rest
    assert trivial or (first.startswith("-- ") and first[3].isupper()), f"{name} has no sentence below its name"


@pytest.mark.parametrize("name", sorted(SQL))
def test_a_query_is_one_statement(name: str) -> None:
    lines = [line for line in SQL[name].splitlines() if not line.startswith("--")]
    assert ";" not in "\n".join(lines)
