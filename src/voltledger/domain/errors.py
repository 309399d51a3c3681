"""Errors of the core.

DomainError                  a rule of ours was asked to be broken; the caller can be told
├── InsufficientFunds        a wallet holds less than the amount
├── CurrencyMismatch         amounts of two currencies in one sum
├── SameKeyOtherInput        an idempotency key came again with other input
├── NotFound                 the thing named does not exist
├── NotPossibleNow           the thing exists, and its state does not allow this
└── InvalidInput             a value of the request is wrong; names the field
InvariantBroken              our mistake: the unit of work must stop; never caught to continue
"""


class DomainError(Exception):
    """A rule of ours was asked to be broken; the message says what to do."""


class InsufficientFunds(DomainError):
    """A wallet holds less than the amount asked for."""


class CurrencyMismatch(DomainError):
    """Amounts of two currencies met in one sum."""


class SameKeyOtherInput(DomainError):
    """An idempotency key came again with other input."""


class NotFound(DomainError):
    """The thing named does not exist."""


class NotPossibleNow(DomainError):
    """The thing exists, and its state does not allow this."""


class InvalidInput(DomainError):
    """A value of the request is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class InvariantBroken(Exception):
    """Our own mistake; the unit of work stops and nothing is saved."""
