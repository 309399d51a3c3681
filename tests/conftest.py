"""Fixtures that give tests real servers: one PostgreSQL and one Redis for each pytest process.

VOLTLEDGER_TEST_POSTGRES_BIN and VOLTLEDGER_TEST_REDIS_SERVER select other programs than the embedded ones,
so the same tests run on the oldest versions that are supported.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from tests import support
from voltledger.embedded import RunningPostgres, RunningRedis, start_postgres, start_redis

T = TypeVar("T")
_TEMPLATE = "voltledger_template"
_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Says that the main thread has no event loop.

    pytest-asyncio asks for the current one, and asyncio up to Python 3.13 would make one that nobody closes.
    """
    asyncio.set_event_loop(None)


def embedded_postgres_bin() -> Path | None:
    """The PostgreSQL that the tests shall use, or None for the embedded one."""
    text = os.environ.get("VOLTLEDGER_TEST_POSTGRES_BIN")
    return Path(text) if text else None


def embedded_redis_server() -> str | None:
    """The Redis that the tests shall use, or None for the embedded one."""
    return os.environ.get("VOLTLEDGER_TEST_REDIS_SERVER") or None


def _fast_folder() -> str | None:
    """Memory instead of a disk, where there is plenty: a database is cloned ten times faster there."""
    try:
        memory = os.statvfs("/dev/shm")
    except OSError:
        return None
    roomy = memory.f_bavail * memory.f_frsize > 4 * 2**30 and not memory.f_flag & os.ST_NOEXEC
    return "/dev/shm" if roomy and os.access("/dev/shm", os.W_OK) else None


@pytest.fixture(scope="session")
def _servers_folder() -> Iterator[Path]:
    """A short path that every user can enter: pytest's own folders are closed to the servers' user."""
    folder = Path(tempfile.mkdtemp(prefix="voltledger-test-", dir=_fast_folder()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_cluster(_servers_folder: Path) -> Iterator[RunningPostgres]:
    """A PostgreSQL of this pytest process. It forgets everything at the end."""
    server = start_postgres(_servers_folder / "postgres", bin_dir=embedded_postgres_bin())
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(_servers_folder: Path) -> Iterator[RunningRedis]:
    """A Redis of this pytest process, shared by its tests: flush it, or use keys of your own."""
    server = start_redis(_servers_folder / "redis", server=embedded_redis_server())
    yield server
    server.stop()


class _Admin:
    """A connection for making and dropping databases, on a loop that no test sees."""

    def __init__(self, dsn: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._connection = self.run(asyncpg.connect(support.with_database(dsn, "postgres")))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    def execute(self, sql: str) -> None:
        self.run(self._connection.execute(sql))

    def close(self) -> None:
        self.run(self._connection.close())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()


@pytest.fixture(scope="session")
def _admin(postgres_cluster: RunningPostgres) -> Iterator[_Admin]:
    admin = _Admin(postgres_cluster.dsn)
    yield admin
    admin.close()


@pytest.fixture(scope="session")
def template_database(postgres_cluster: RunningPostgres, _admin: _Admin) -> str:
    """The name of a database with all migrations applied. Clone it; never write to it."""
    from voltledger.storage.postgres.migrate import migrate

    _admin.execute(f"CREATE DATABASE {_TEMPLATE}")
    _admin.run(migrate(support.with_database(postgres_cluster.dsn, _TEMPLATE)))
    return _TEMPLATE


@pytest.fixture
def database_dsn(postgres_cluster: RunningPostgres, _admin: _Admin, template_database: str) -> Iterator[str]:
    """A migrated database of this test alone."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    _admin.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY")
    yield support.with_database(postgres_cluster.dsn, name)
    _admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database_dsn(postgres_cluster: RunningPostgres, _admin: _Admin) -> Iterator[str]:
    """A database of this test alone, without any table: for tests of the migrations themselves."""
    name = f"empty_{os.getpid()}_{next(_numbers)}"
    _admin.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
    yield support.with_database(postgres_cluster.dsn, name)
    _admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """`free_port()` gives a TCP port that nothing uses."""
    return support.free_port


@pytest.fixture
def wait_until() -> Callable[..., Coroutine[Any, Any, Any]]:
    """`await wait_until(predicate, timeout=10)`."""
    return support.wait_until
