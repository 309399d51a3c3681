"""What a settlement leaves for others to do or to hear, the same in every store."""

import msgspec

from voltledger.domain.ledger.settlement import Settled
from voltledger.domain.session.session import ChargingSession


def clear_events(session: ChargingSession) -> str:
    """The order to forget a session's events, for the cache."""
    return msgspec.json.encode(
        {
            "station": session.station_id,
            "evse": session.evse_id,
            "session": str(session.id),
            "until": session.heard_at.isoformat() if session.heard_at else "",
        }
    ).decode()


def settled_news(session: ChargingSession, settled: Settled) -> str:
    """What listeners are told of a settlement."""
    return msgspec.json.encode(
        {
            "version": settled.version,
            "cost_minor": settled.cost,
            "refund_minor": settled.refund,
            "currency": session.price.currency,
        }
    ).decode()
