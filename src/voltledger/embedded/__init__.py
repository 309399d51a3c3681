"""PostgreSQL and Valkey for people who have none running: started, watched and stopped by voltledger.

For evaluation and small sites; production sets DATABASE_URL and REDIS_HOST.

Rules:
- The servers live exactly as long as the process that started them, even if that is killed.
- They listen on Unix sockets in private folders only, with passwords that never appear on a command line.
- Root never runs a server: it drops to another user.
- The books survive every restart; the cache does not, and need not.
- Start servers from the main thread: Linux ties a child's death signal to the thread that made it.
"""

from voltledger.embedded.errors import (
    BinariesMissing,
    DataFolderBusy,
    DataFolderUnusable,
    EmbeddedError,
    ServerDidNotStart,
    VersionMismatch,
)
from voltledger.embedded.folder import DataFolderLock, lock_data_folder
from voltledger.embedded.postgres import RunningPostgres, find_running_postgres, start_postgres
from voltledger.embedded.redis import RunningRedis, find_running_redis, start_redis

__all__ = [
    "BinariesMissing",
    "DataFolderBusy",
    "DataFolderLock",
    "DataFolderUnusable",
    "EmbeddedError",
    "RunningPostgres",
    "RunningRedis",
    "ServerDidNotStart",
    "VersionMismatch",
    "find_running_postgres",
    "find_running_redis",
    "lock_data_folder",
    "start_postgres",
    "start_redis",
]
