"""The journal of one node, on its own disk."""

from voltledger.storage.sqlite.journal import JournalReport, SqliteJournal, inspect_journal

__all__ = ["JournalReport", "SqliteJournal", "inspect_journal"]
