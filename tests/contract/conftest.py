"""Two stores that have to behave alike: the one in memory and PostgreSQL, with the same stations, users and price."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tools.simulation.histories import OnMemory, OnPostgres
from voltledger.storage.postgres.pool import Database


def fresh_ids() -> Callable[[], UUID]:
    """Identifiers that count up."""
    numbers = itertools.count(1 << 64)
    return lambda: UUID(int=next(numbers))


@pytest.fixture(params=["memory", "postgres"])
def store_dsn(request: pytest.FixtureRequest) -> str | None:
    """The database of the test; None for the store in memory. PostgreSQL is started only when it is asked for."""
    return None if request.param == "memory" else request.getfixturevalue("database_dsn")


@pytest.fixture
async def store(store_dsn: str | None) -> AsyncIterator[Any]:
    """One of the two stores; `rows()` gives everything in it in a form that both share."""
    if store_dsn is None:
        yield OnMemory(datetime.now(UTC), fresh_ids())
        return
    database = Database(store_dsn, size=4)
    await database.open()
    sql = await asyncpg.connect(store_dsn)
    made = OnPostgres(database, sql, fresh_ids())
    await made.prepare()
    yield made
    await sql.close()
    await database.close()
