"""One running server for the stories of a file, on a database of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests import support
from tests.acceptance.world import PRICE_MINOR, Books, Server, Site, open_books, short_folder
from voltledger.embedded import RunningPostgres

SHORT = {
    "VOLTLEDGER_SYNC_INTERVAL_S": 1,
    "VOLTLEDGER_ORPHAN_INTERVAL_S": 1,
    "VOLTLEDGER_GHOST_GRACE_S": 1,
    "VOLTLEDGER_ORPHAN_GRACE_S": 1,
    "VOLTLEDGER_CALL_TIMEOUT_S": 2,
    "VOLTLEDGER_STOP_RETRIES": 1,
}
"""Intervals of a minute, in a second."""


@pytest.fixture(scope="module")
def books_dsn(postgres_cluster: RunningPostgres, _admin: Any, template_database: str) -> Iterator[str]:
    """A migrated database for the stories of one file."""
    name = f"story_{os.getpid()}"
    _admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY")
    yield support.with_database(postgres_cluster.dsn, name)
    _admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def server(books_dsn: str) -> Iterator[Server]:
    """`voltledger serve` with a price, real PostgreSQL and its own Redis."""
    with short_folder() as folder:
        server = Server(folder, books_dsn, **SHORT).start()
        try:
            server.cli("tariff", "set", "--price-per-kwh-minor", str(PRICE_MINOR), "--currency", "INR")
            yield server
        finally:
            server.stop()


@pytest.fixture
async def books(books_dsn: str) -> AsyncIterator[Books]:
    """The rows; checked for balance when a test has ended, whatever it was about."""
    async with open_books(books_dsn) as books:
        yield books
        await books.check()


@pytest.fixture
async def site(server: Server, books: Books) -> AsyncIterator[Site]:
    """A station with a user who can pay 1,000.00."""
    async with server.api() as api:
        yield await Site(server, books, api).register()
