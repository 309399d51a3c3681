"""Errors of the stores.

StorageError
├── StoreUnavailable    the database cannot be reached or refuses work now; try again later
├── StoreContention     another unit of work was in the way; the same again will do
├── JournalUnavailable  this node's own journal cannot be written or read now
└── SchemaMismatch      the schema is older or newer than this program; says what to run
"""

from voltledger.errors import UserFacingError, VoltledgerError


class StorageError(VoltledgerError):
    """Something went wrong in a store."""


class StoreUnavailable(StorageError):
    """The database cannot be reached, or refuses work now; nothing was recorded for certain."""


class JournalUnavailable(StorageError):
    """The journal on this node's disk cannot keep anything now; nothing was kept for certain."""


class SchemaMismatch(UserFacingError):
    """The database's schema does not fit this program."""


class StoreContention(StorageError):
    """Another unit of work was in the way; the same again will do."""
