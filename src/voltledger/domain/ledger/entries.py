"""Balanced, immutable journal records.

An entry is balanced when it is built and checked again by the database at commit. It is never
changed: a correction is a new entry. Its key (kind, source, version) names one effect; the same
key can be posted once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from voltledger.domain.errors import CurrencyMismatch, InvariantBroken
from voltledger.domain.identifiers import SessionId
from voltledger.domain.ledger.accounts import Account
from voltledger.domain.quantities import Minor


class Side(StrEnum):
    """The two sides of an entry; amounts are never negative."""

    DEBIT = "D"
    CREDIT = "C"


class EntryKind(StrEnum):
    """What an entry records."""

    TOPUP = "topup"
    HOLD = "hold"
    SETTLEMENT = "settlement"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One line of an entry: a positive amount on one side of one account."""

    account: Account
    side: Side
    amount: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One balanced record; see the module for its rules."""

    kind: EntryKind
    source_id: str
    version: int
    reason: str
    postings: tuple[Posting, ...]
    session_id: SessionId | None = None


def debit(account: Account, amount: int) -> Posting:
    """A line on the debit side."""
    return Posting(account=account, side=Side.DEBIT, amount=Minor(amount))


def credit(account: Account, amount: int) -> Posting:
    """A line on the credit side."""
    return Posting(account=account, side=Side.CREDIT, amount=Minor(amount))


def make_entry(
    *,
    kind: EntryKind,
    source_id: str,
    version: int,
    reason: str,
    lines: Iterable[Posting],
    session_id: SessionId | None = None,
) -> Entry | None:
    """Builds an entry, leaving out lines of zero; None when nothing is left to record.

    Raises: CurrencyMismatch for two currencies, InvariantBroken when the sides differ or an
    amount is negative.
    """
    postings = tuple(line for line in lines if line.amount != 0)
    if not postings:
        return None
    check_balanced(postings)
    return Entry(
        kind=kind,
        source_id=source_id,
        version=version,
        reason=reason,
        postings=postings,
        session_id=session_id,
    )


def check_balanced(postings: Sequence[Posting]) -> None:
    """Raises unless debits equal credits in one currency and every amount is positive."""
    if len({line.account.currency for line in postings}) > 1:
        raise CurrencyMismatch("one entry holds amounts of two currencies")
    if any(line.amount <= 0 for line in postings):
        raise InvariantBroken(f"a posting is not positive: {postings!r}")
    sides = {side: sum(line.amount for line in postings if line.side is side) for side in Side}
    if sides[Side.DEBIT] != sides[Side.CREDIT]:
        raise InvariantBroken(f"an entry does not balance: {postings!r}")
