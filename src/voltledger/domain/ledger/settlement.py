"""Turning one ended session into postings, exactly once a version.

Version 1 charges the hold, gives the rest back, and splits the cost. A later version happens when
the truth about the energy changes: it never touches version 1 but posts the difference. Energy
that turns up after the refund becomes a receivable (the refund stays); energy that turns out not
to have flowed is given back, first against the receivable, then to the wallet. What was set aside
again for a session that went on is charged before anything becomes a receivable.
"""

from dataclasses import dataclass

from voltledger.domain.billing.charges import Charge, charge_session
from voltledger.domain.ledger.accounts import held, payable, platform_fee, receivable, wallet
from voltledger.domain.ledger.entries import Entry, EntryKind, Posting, credit, debit, make_entry
from voltledger.domain.quantities import Minor
from voltledger.domain.session.session import ChargingSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What has been posted for a session so far, all versions together; minor units."""

    version: int
    paid: Minor
    cost: Minor
    covered: Minor
    refund: Minor
    owed: Minor
    fee: Minor
    share: Minor


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """The settlement to record, and its entry; None for the entry when no money moves."""

    settled: Settled
    entry: Entry | None


def settle(session: ChargingSession, *, already: Settled | None) -> Settlement:
    """The next version of a session's settlement.

    Shapes: `already` is None before the first version.
    """
    if already is None:
        return _settle_first(session)
    return _settle_again(session, already)


def _settle_first(session: ChargingSession) -> Settlement:
    charge = _charge(session, session.paid_minor)
    settled = _settled(1, session.paid_minor, charge)
    return Settlement(settled=settled, entry=_entry(session, 1, "charge for a session", _first_lines(session, charge)))


def _first_lines(session: ChargingSession, charge: Charge) -> list[Posting]:
    currency = session.price.currency
    lines = _earning_lines(session, fee=charge.fee, share=charge.share)
    lines.append(debit(receivable(session.user_id, currency), charge.owed))
    if session.user_id is not None:
        lines.append(debit(held(session.user_id, currency), session.paid_minor))
        lines.append(credit(wallet(session.user_id, currency), charge.refund))
    return lines


def _settle_again(session: ChargingSession, already: Settled) -> Settlement:
    """The difference between what was posted and the truth; what was refunded stays refunded."""
    charge = _charge(session, already.paid)
    newly_held = Minor(session.available_minor - already.covered)
    more = charge.cost - already.cost
    from_hold = min(newly_held, max(0, more))
    to_receivable = max(0, more) - from_hold
    off_receivable = min(already.owed, max(0, -more))
    to_wallet = max(0, -more) - off_receivable + newly_held - from_hold
    covered = Minor(already.covered + from_hold - (max(0, -more) - off_receivable))
    version = already.version + 1
    settled = Settled(
        version=version,
        paid=session.paid_minor,
        cost=charge.cost,
        covered=covered,
        refund=Minor(session.paid_minor - covered),
        owed=Minor(already.owed + to_receivable - off_receivable),
        fee=charge.fee,
        share=charge.share,
    )
    lines = _earning_lines(session, fee=charge.fee - already.fee, share=charge.share - already.share)
    currency = session.price.currency
    lines.append(debit(receivable(session.user_id, currency), to_receivable))
    lines.append(credit(receivable(session.user_id, currency), off_receivable))
    if session.user_id is not None:
        lines.append(debit(held(session.user_id, currency), newly_held))
        lines.append(credit(wallet(session.user_id, currency), to_wallet))
    return Settlement(settled=settled, entry=_entry(session, version, "correction of a session's charge", lines))


def _earning_lines(session: ChargingSession, *, fee: int, share: int) -> list[Posting]:
    """Lines for the platform and the organisation; a negative part is taken back by debit."""
    currency = session.price.currency
    parts = ((platform_fee(currency), fee), (payable(session.organization_id, currency), share))
    return [credit(account, part) if part >= 0 else debit(account, -part) for account, part in parts]


def _charge(session: ChargingSession, paid: Minor) -> Charge:
    return charge_session(energy=session.energy_wh, price=session.price, paid=paid, fee_percent=session.fee_percent)


def _settled(version: int, paid: Minor, charge: Charge) -> Settled:
    return Settled(
        version=version,
        paid=paid,
        cost=charge.cost,
        covered=charge.covered,
        refund=charge.refund,
        owed=charge.owed,
        fee=charge.fee,
        share=charge.share,
    )


def _entry(session: ChargingSession, version: int, reason: str, lines: list[Posting]) -> Entry | None:
    return make_entry(
        kind=EntryKind.SETTLEMENT,
        source_id=str(session.id),
        version=version,
        reason=reason,
        lines=lines,
        session_id=session.id,
    )
