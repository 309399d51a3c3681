"""What can go wrong with the embedded servers. All are for the user: one line with a remedy.

EmbeddedError
├── BinariesMissing        no PostgreSQL or Valkey program was found
├── DataFolderBusy         another voltledger uses the data folder
├── DataFolderUnusable     the data folder cannot be written or belongs to somebody else
├── ServerDidNotStart      the server ended, or was not ready in time
└── VersionMismatch        the data is of another PostgreSQL major
"""

from __future__ import annotations

from voltledger.errors import UserFacingError


class EmbeddedError(UserFacingError):
    """An embedded server cannot be used."""


class BinariesMissing(EmbeddedError):
    """No PostgreSQL or Valkey program was found."""


class DataFolderBusy(EmbeddedError):
    """Another voltledger uses the data folder."""


class DataFolderUnusable(EmbeddedError):
    """The data folder cannot be written or belongs to somebody else."""


class ServerDidNotStart(EmbeddedError):
    """The server ended, or was not ready in time."""


class VersionMismatch(EmbeddedError):
    """The data was written by another major version of PostgreSQL."""
