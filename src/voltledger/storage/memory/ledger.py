"""Posting entries: each key once, checked balances never below zero, balanced at commit."""

from collections.abc import Sequence
from functools import partial

import msgspec

from voltledger.domain.errors import InsufficientFunds
from voltledger.domain.ledger.accounts import CHECKED, Account
from voltledger.domain.ledger.entries import Entry, Posting, Side
from voltledger.storage.memory.database import ConstraintBroken, KeyTaken, Transaction
from voltledger.storage.memory.rows import AccountRow, EntryRow, PostingRow

EntryKey = tuple[str, str, int]


async def post_entries(work: Transaction, entries: Sequence[Entry]) -> list[EntryKey]:
    """Writes entries in the caller's unit of work and returns their keys, in order.

    Effects: locks the checked accounts in code order, makes those that are missing.
    Raises: KeyTaken for an entry that exists, InsufficientFunds when a checked balance would fall below zero.
    """
    accounts: dict[str, Account] = {p.account.code: p.account for e in entries for p in e.postings}
    for code in sorted(accounts):
        await _open_account(work, accounts[code], code)
    keys = [await _post(work, entry) for entry in entries]
    for code in accounts:
        account = work.get(work.database.accounts, code)
        if account is not None and account.balance is not None and account.balance < 0:
            raise InsufficientFunds("the wallet holds less than this amount: top it up first")
    return keys


async def _open_account(work: Transaction, account: Account, code: str) -> None:
    kept = account.kind in CHECKED
    table = work.database.accounts
    if kept or work.get(table, code) is None:
        await work.lock(("account", code))
    if work.get(table, code) is None:
        row = AccountRow(
            code=code,
            kind=account.kind.value,
            owner=account.owner,
            currency=account.currency,
            balance=0 if kept else None,
        )
        work.put(table, code, row)


async def _post(work: Transaction, entry: Entry) -> EntryKey:
    database = work.database
    key = (entry.kind.value, entry.source_id, entry.version)
    await work.lock(("entry_once", key))
    if work.get(database.entries, key) is not None:
        raise KeyTaken("entry_once")
    work.put(
        database.entries,
        key,
        EntryRow(
            id=database.next_number("ledger_entry"),
            kind=entry.kind.value,
            source_id=entry.source_id,
            version=entry.version,
            session_id=entry.session_id,
            reason=entry.reason,
        ),
    )
    for line, posting in enumerate(entry.postings, 1):
        balance = _move(work, posting)
        work.append(
            database.postings,
            PostingRow(
                entry=key,
                line=line,
                account=posting.account.code,
                side=posting.side.value,
                amount=posting.amount,
                balance_after=balance,
            ),
        )
    work.check_at_commit(partial(_check, work, entry))
    return key


def _move(work: Transaction, posting: Posting) -> int | None:
    """Moves a kept balance; the check of a whole unit of work waits for its last line, as on PostgreSQL."""
    code = posting.account.code
    account = work.get(work.database.accounts, code)
    if account is None:
        raise ConstraintBroken("ledger_posting_account_id_fkey")
    if account.balance is None:
        return None
    balance = account.balance + (posting.amount if posting.side is Side.CREDIT else -posting.amount)
    work.put(work.database.accounts, code, msgspec.structs.replace(account, balance=balance))
    return balance


def _check(work: Transaction, entry: Entry) -> None:
    totals: dict[str, int] = {}
    for posting in entry.postings:
        if posting.amount <= 0:
            raise ConstraintBroken("posting_positive")
        signed = posting.amount if posting.side is Side.DEBIT else -posting.amount
        totals[posting.account.currency] = totals.get(posting.account.currency, 0) + signed
    if not totals or any(totals.values()):
        raise ConstraintBroken("entry_balances")
    if entry.session_id is not None and work.get(work.database.sessions, entry.session_id) is None:
        raise ConstraintBroken("ledger_entry_session_id_fkey")
