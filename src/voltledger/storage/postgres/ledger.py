"""Posting entries: accounts made when first needed, checked balances moved, lines written, once a key."""

from collections.abc import Sequence

import asyncpg
import msgspec

from voltledger.domain.errors import InsufficientFunds
from voltledger.domain.ledger.accounts import CHECKED, Account
from voltledger.domain.ledger.entries import Entry, Posting, Side
from voltledger.failpoints import ARMED, fp
from voltledger.storage.postgres.pool import Connection
from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import columns_of


class AlreadyPosted(Exception):
    """An entry with this key exists; the effect has happened."""


class _Slot(msgspec.Struct):
    """An account's row while entries are posted to it."""

    id: int
    balance: int | None


async def post_entries(connection: Connection, entries: Sequence[Entry]) -> list[int]:
    """Writes entries in the caller's unit of work and returns their ids, in order.

    Effects: locks the checked accounts in code order; inserts accounts, entries and postings.
    Raises: AlreadyPosted for a key that exists, InsufficientFunds when a checked balance would fall
    below zero.
    """
    if not entries:
        return []
    slots = await _open_accounts(connection, entries)
    ids = await _insert_entries(connection, entries)
    if ARMED:
        await fp("ledger.after_entries")
    lines = []
    for entry_id, entry in zip(ids, entries, strict=True):
        for line, posting in enumerate(entry.postings, 1):
            slot = slots[posting.account.code]
            if slot.balance is not None:
                slot.balance += signed(posting)
            lines.append((entry_id, line, slot.id, posting.side.value, posting.amount, slot.balance))
    await connection.execute(SQL["postings_insert"], *columns_of(lines, 6))
    await _save_balances(connection, slots)
    if ARMED:
        await fp("ledger.after_balances")
    return ids


def signed(posting: Posting) -> int:
    """What a line adds to a balance that grows by credit."""
    return posting.amount if posting.side is Side.CREDIT else -posting.amount


async def _open_accounts(connection: Connection, entries: Sequence[Entry]) -> dict[str, _Slot]:
    accounts: dict[str, Account] = {p.account.code: p.account for e in entries for p in e.postings}
    ordered = [accounts[code] for code in sorted(accounts)]
    rows = [(a.code, a.kind.value, a.owner, a.currency, a.kind in CHECKED) for a in ordered]
    checked = [a.code for a in ordered if a.kind in CHECKED]
    found = await connection.fetch(SQL["accounts_lock"], checked) if checked else []
    slots = {row["code"]: _Slot(row["id"], row["balance_minor"]) for row in found}
    missing = [row for row in rows if row[0] not in slots]
    if missing:
        for row in await connection.fetch(SQL["accounts_ensure"], *columns_of(missing, 5)):
            slots[row["code"]] = _Slot(row["id"], row["balance_minor"])
        # One of them may have been made by a rival meanwhile: only what is read under its lock counts.
        made = [row[0] for row in missing if row[4]]
        for row in await connection.fetch(SQL["accounts_lock"], made) if made else []:
            slots[row["code"]] = _Slot(row["id"], row["balance_minor"])
    return slots


async def _insert_entries(connection: Connection, entries: Sequence[Entry]) -> list[int]:
    rows = [(e.kind.value, e.source_id, e.version, e.session_id, e.reason) for e in entries]
    inserted = await connection.fetch(SQL["entries_insert"], *columns_of(rows, 5))
    if len(inserted) != len(entries):
        raise AlreadyPosted
    ids = {(row["kind"], row["source_id"], row["version"]): row["id"] for row in inserted}
    return [ids[(e.kind.value, e.source_id, e.version)] for e in entries]


async def _save_balances(connection: Connection, slots: dict[str, _Slot]) -> None:
    kept = [(slot.id, slot.balance) for slot in slots.values() if slot.balance is not None]
    if not kept:
        return
    try:
        await connection.execute(SQL["balances_save"], *columns_of(kept, 2))
    except asyncpg.CheckViolationError as error:
        if error.constraint_name != "account_not_overdrawn":
            raise
        raise InsufficientFunds("the wallet holds less than this amount: top it up first") from error
