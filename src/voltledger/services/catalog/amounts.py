"""A session's amounts: the settled ones, or what they would be now, and the sentence that says them."""

from decimal import Decimal

import msgspec

from voltledger.domain.billing.charges import charge_session
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.session.states import ENDED, State
from voltledger.services.catalog.texts import energy_text, money_text, rate_text
from voltledger.services.catalog.views.sessions import Session, SessionRow


class _Split(msgspec.Struct, frozen=True, kw_only=True):
    cost: int
    fee: int
    share: int


def session_of(row: SessionRow) -> Session:
    """A session as the contract shows it; live figures until it is settled."""
    split = _split(row)
    return Session(
        id=row.id,
        status=row.status,
        station=row.station,
        connector=row.connector,
        user=row.user,
        transaction_id=row.transaction_id,
        started_at=row.started_at,
        ended_at=row.ended_at,
        stop_reason=row.stop_reason,
        energy_wh=row.energy_wh,
        paid_minor=row.paid_minor,
        cost_minor=split.cost,
        refund_minor=row.refunded_minor,
        fee_minor=split.fee,
        share_minor=split.share,
        currency=row.currency,
        estimated=row.estimated,
        settled_at=row.settled_at,
    )


def _split(row: SessionRow) -> _Split:
    if row.settled_at is not None and row.cost_minor is not None:
        return _Split(cost=row.cost_minor, fee=row.fee_minor or 0, share=row.share_minor or 0)
    charge = charge_session(
        energy=Wh(row.energy_wh),
        price=Price(per_kwh_minor=row.price_per_kwh_minor, currency=row.currency),
        paid=Minor(row.paid_minor),
        fee_percent=row.fee_percent,
    )
    return _Split(cost=charge.cost, fee=charge.fee, share=charge.share)


def money_sentence(row: SessionRow) -> str:
    """A session's money in words, the way the books split it."""
    session = session_of(row)
    used = f"{_paid(session)}, {_used(row, session)}"
    if session.settled_at is None:
        beyond = session.cost_minor - session.paid_minor
        if beyond > 0:
            used += f", {money_text(beyond, row.currency)} of it not paid for"
        running = State(row.status) not in ENDED
        return f"{used} so far." if running else f"{used}; not settled yet."
    return f"{used}, {_where_it_went(row, session)}."


def _paid(session: Session) -> str:
    return f"Paid {money_text(session.paid_minor, session.currency)}" if session.paid_minor else "Nothing paid"


def _used(row: SessionRow, session: Session) -> str:
    one_minor = money_text(1, row.currency).split()[0]
    per_kwh = Decimal(one_minor) * row.price_per_kwh_minor
    cost = money_text(session.cost_minor, row.currency)
    return f"used {energy_text(session.energy_wh)} x {rate_text(per_kwh)} = {cost}"


def _where_it_went(row: SessionRow, session: Session) -> str:
    currency = row.currency
    owed = row.owed_minor or 0
    rest = f"; {money_text(owed, currency)} is owed to us" if owed else ""
    return (
        f"refunded {money_text(session.refund_minor, currency)}{rest}; the organisation gets "
        f"{money_text(session.share_minor, currency)}, the platform fee is {money_text(session.fee_minor, currency)}"
    )
