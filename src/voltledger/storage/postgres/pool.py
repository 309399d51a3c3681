"""Connections to PostgreSQL that come back by themselves after an outage.

The pool opens connections when they are needed and keeps none while the database is away, so
there is nothing to reconnect: the first query after the outage works.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg

from voltledger.storage.errors import StoreContention, StoreUnavailable

Connection: TypeAlias = Any
"""An asyncpg connection of the pool; asyncpg's own class is generic over its record type."""

APP_ROLE = "voltledger_app"

AWAY = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    # The driver lost track of a connection whose peer died in the middle of an operation.
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DiskFullError,
    asyncpg.OutOfMemoryError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.QueryCanceledError,
    # Never a fact's doing: being restored, not migrated yet, passwords or rights that changed.
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
)
"""What means that the database is away or cannot work now: nothing is wrong with the data."""

CONTENTION = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
"""What means that another unit of work was in the way: the same again will do."""


class Database:
    """A pool of connections in the role of the server.

    `patience_s` is how long one statement may take. Effects: opens at most `size` connections when they
    are asked for.
    """

    def __init__(self, dsn: str, *, size: int = 8, role: str | None = APP_ROLE, patience_s: float = 15) -> None:
        self._dsn = dsn
        self._size = size
        self._patience_s = patience_s
        self.role = role
        self._pool: Any = None
        self.available = False

    @property
    def dsn(self) -> str:
        """The address, with its secret; not for logs."""
        return self._dsn

    async def open(self) -> None:
        """Prepares the pool; connects to nothing yet. Opened again, it works in the present `role`."""
        older = self._pool
        settings = {
            "application_name": "voltledger",
            "synchronous_commit": "on",
            "statement_timeout": "15000",
            "lock_timeout": "1500",
            "idle_in_transaction_session_timeout": "20000",
            "TimeZone": "UTC",
        }
        if self.role is not None:
            settings["role"] = self.role
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._size,
            timeout=3,
            command_timeout=self._patience_s,
            max_inactive_connection_lifetime=120,
            server_settings=settings,
            reset=_keep,
        )
        if older is not None:
            older.terminate()

    async def close(self) -> None:
        """Closes all connections; waits a little for those in use, then cuts them."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), 5)
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One connection, outside a unit of work.

        Raises: StoreUnavailable when the database is away, StoreContention when somebody is in the way.
        """
        try:
            async with self._pool.acquire(timeout=4) as connection:
                try:
                    yield connection
                except (asyncio.CancelledError, asyncpg.InternalClientError):
                    # Whoever cancels has no time left; a server that hangs would not answer a rollback either.
                    connection.terminate()
                    raise
        except AWAY as error:
            self.available = False
            raise StoreUnavailable(describe(error)) from error
        except CONTENTION as error:
            raise StoreContention(describe(error)) from error
        self.available = True

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Connection]:
        """One connection in one database transaction: committed at the end, rolled back by an exception.

        Cancelled, it does not wait for the rollback: the connection is cut, and the server rolls back.
        """
        async with self.connection() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                yield connection
            except (asyncio.CancelledError, asyncpg.InternalClientError):
                raise
            except BaseException:
                await transaction.rollback()
                raise
            await transaction.commit()

    @property
    def in_use(self) -> int:
        """How many connections are busy now."""
        return 0 if self._pool is None else int(self._pool.get_size() - self._pool.get_idle_size())


async def _keep(connection: Connection) -> None:
    """Nothing is left behind by our units of work, so nothing is reset between them (a round trip each)."""


def describe(error: BaseException) -> str:
    """One line about a database error, without addresses or secrets."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"


async def can_take_role(dsn: str) -> bool:
    """Whether connections may work in the server's own role; false where it could not be created."""
    try:
        connection: Connection = await asyncpg.connect(dsn, timeout=5, server_settings={"role": APP_ROLE})
    except (
        asyncpg.InvalidParameterValueError,
        asyncpg.UndefinedObjectError,
        asyncpg.InsufficientPrivilegeError,
    ):
        return False
    except AWAY as error:
        raise StoreUnavailable(describe(error)) from error
    await connection.close()
    return True
