"""Puts the program together: the only package that knows every concrete class.

Node      one running server
offline   the books for commands that need no server
"""

from voltledger.bootstrap.common import driver_dsn, journal_of, new_id
from voltledger.bootstrap.database import migrate_database, prepare_database
from voltledger.bootstrap.node import Node
from voltledger.bootstrap.offline import OfflineSync, drain_journal, open_catalog, open_sync
from voltledger.storage.sqlite import JournalReport, inspect_journal

__all__ = [
    "JournalReport",
    "Node",
    "OfflineSync",
    "drain_journal",
    "driver_dsn",
    "inspect_journal",
    "journal_of",
    "migrate_database",
    "new_id",
    "open_catalog",
    "open_sync",
    "prepare_database",
]
