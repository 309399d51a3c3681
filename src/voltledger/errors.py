"""Exceptions that any part of voltledger may raise.

    VoltledgerError
    └── UserFacingError        a mistake the user can repair: one line, no traceback
        └── ConfigError        a setting is wrong

Packages with errors of their own derive them from these in their own `errors.py`.
"""

from __future__ import annotations


class VoltledgerError(Exception):
    """Base of everything voltledger raises on purpose."""


class UserFacingError(VoltledgerError):
    """Something the user can repair. The text is one line that says what to do.

    The command line prints it without a traceback and ends with `exit_status`.
    """

    exit_status: int = 1

    def __init__(self, message: str, *, exit_status: int | None = None) -> None:
        super().__init__(" ".join(message.split()))
        if exit_status is not None:
            self.exit_status = exit_status


class ConfigError(UserFacingError):
    """A setting has an unknown name or a bad value."""

    exit_status = 2
