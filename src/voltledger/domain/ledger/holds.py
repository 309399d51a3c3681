"""Setting a user's money aside before energy flows, and money coming in."""

from voltledger.domain.identifiers import SessionId, UserId
from voltledger.domain.ledger.accounts import held, provider, wallet
from voltledger.domain.ledger.entries import Entry, EntryKind, credit, debit, make_entry
from voltledger.domain.quantities import Minor


def hold_entry(
    *, session_id: SessionId, user: UserId, currency: str, amount: Minor, version: int, again: str = ""
) -> Entry | None:
    """Moves `amount` from what the user can spend to what is set aside for the session.

    `again` tells the holds of a session that went on apart: between two settlements there may be several.
    """
    return make_entry(
        kind=EntryKind.HOLD,
        source_id=f"{session_id}:{again}" if again else str(session_id),
        version=version,
        reason="set aside for a charging session",
        lines=(debit(wallet(user, currency), amount), credit(held(user, currency), amount)),
        session_id=session_id,
    )


def topup_entry(*, key: str, user: UserId, currency: str, amount: Minor) -> Entry | None:
    """Money that came in for a user's wallet; `key` is the caller's idempotency key."""
    return make_entry(
        kind=EntryKind.TOPUP,
        source_id=key,
        version=1,
        reason="top-up",
        lines=(debit(provider(currency), amount), credit(wallet(user, currency), amount)),
    )
