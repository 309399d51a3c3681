"""The databases behind a command: the user's own where they are named, else the embedded ones."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from voltledger.bootstrap import driver_dsn
from voltledger.cli.keeping import Kept
from voltledger.config import Settings
from voltledger.embedded import find_running_postgres, lock_data_folder, start_postgres, start_redis


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Addresses of both databases; `redis_socket` is None for a Redis that the settings name.

    `kept` are the embedded ones, to be watched while the server runs.
    """

    dsn: str
    redis_socket: str | None = None
    redis_password: str | None = None
    kept: tuple[tuple[str, Kept], ...] = ()


@contextmanager
def server_databases(settings: Settings) -> Iterator[Servers]:
    """Both databases for a server; the data folder is its own while it runs.

    Effects: locks the data folder; starts what is not named by the settings, and stops it at the end.
    Raises: UserFacingError with what to do.
    """
    with ExitStack() as stack:
        lock = lock_data_folder(settings.data)
        stack.callback(lock.release)
        kept: list[tuple[str, Kept]] = []
        dsn = driver_dsn(settings.database_url) if settings.database_url else None
        if dsn is None:
            postgres = start_postgres(settings.data)
            stack.callback(postgres.stop)
            kept.append(("PostgreSQL", postgres))
            dsn = postgres.dsn
        if settings.redis_host is not None:
            yield Servers(dsn=dsn, kept=tuple(kept))
            return
        redis = start_redis(settings.data)
        stack.callback(redis.stop)
        kept.append(("Redis", redis))
        yield Servers(dsn=dsn, redis_socket=str(redis.socket_path), redis_password=redis.password, kept=tuple(kept))


@contextmanager
def command_database(settings: Settings) -> Iterator[str]:
    """PostgreSQL for a command: the named one, the running server's, or the embedded one for a moment."""
    if settings.database_url:
        yield driver_dsn(settings.database_url)
        return
    running = find_running_postgres(settings.data)
    if running is not None:
        yield running
        return
    postgres = start_postgres(settings.data)
    try:
        yield postgres.dsn
    finally:
        postgres.stop()
