"""Money set aside when a session begins, or begins again."""

import msgspec

from voltledger.domain.ledger.entries import Entry
from voltledger.domain.ledger.holds import hold_entry
from voltledger.domain.quantities import Minor
from voltledger.domain.session.book import StationBook
from voltledger.domain.session.session import ChargingSession


def hold_up_to(
    book: StationBook, session: ChargingSession, amount: Minor, *, version: int
) -> tuple[ChargingSession, tuple[Entry, ...]]:
    """Sets aside `amount`, or what the user can spend of it; the session then has paid that much more."""
    taken, entries = _hold(book, session, amount, version=version)
    return msgspec.structs.replace(session, paid_minor=Minor(session.paid_minor + taken)), entries


def hold_again(book: StationBook, session: ChargingSession) -> tuple[ChargingSession, tuple[Entry, ...]]:
    """Sets aside once more what was given back when we closed a session that goes on after all.

    What is set aside again counts as not given back, so that doing it twice takes it once. With a wallet that had too
    little, it can happen several times after one settlement; each leaves less to set aside, and that names it.
    """
    again = f"again-{session.refunded_minor}"
    taken, entries = _hold(book, session, session.refunded_minor, version=session.settle_version + 1, again=again)
    return msgspec.structs.replace(session, refunded_minor=Minor(session.refunded_minor - taken)), entries


def _hold(
    book: StationBook, session: ChargingSession, amount: Minor, *, version: int, again: str = ""
) -> tuple[Minor, tuple[Entry, ...]]:
    if session.user_id is None:
        return Minor(0), ()
    available = book.spendable.get(session.user_id, Minor(0))
    taken = Minor(min(available, amount))
    entry = hold_entry(
        session_id=session.id,
        user=session.user_id,
        currency=session.price.currency,
        amount=taken,
        version=version,
        again=again,
    )
    if entry is None:
        return Minor(0), ()
    book.spendable[session.user_id] = Minor(available - taken)
    return taken, (entry,)
