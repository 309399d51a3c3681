"""Making facts again of what the journal kept of them."""

from voltledger.domain.events import (
    Booted,
    FactUnreadable,
    MeterReported,
    StatusReported,
    TransactionEnded,
    TransactionStarted,
)
from voltledger.ocpp.registry import Refusal, dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.facts import InboundFact, RecordedEvent
from voltledger.storage.ports import JournaledFact

_RECORDED = (TransactionStarted, MeterReported, TransactionEnded, FactUnreadable, StatusReported, Booted)


def revive(kept: JournaledFact) -> InboundFact:
    """The fact as it was when it was answered. What cannot be read any more is kept raw, as unreadable."""
    return InboundFact(
        station_id=kept.station_id,
        epoch=kept.epoch,
        action=kept.action,
        message_id=kept.message_id,
        payload=kept.payload,
        event=_event(kept),
        dedupe_key=kept.dedupe_key,
        received_at=kept.received_at,
        encode=lambda _answer: kept.response.encode(),
        version=kept.version,
        ref=kept.transaction_ref,
        answered=kept.response,
    )


def _event(kept: JournaledFact) -> RecordedEvent:
    try:
        read = dialect(Version(kept.version)).read(kept.action, kept.payload.encode(), kept.received_at)
    except Exception as error:
        # A version that is not served any more, or a mistake of ours: what the station said must not wait for ever.
        problem = f"it cannot be read any more ({kept.version}, {type(error).__name__})"
        return FactUnreadable(action=kept.action, problem=problem)
    if isinstance(read, Refusal):
        return FactUnreadable(action=kept.action, problem=read.description)
    if isinstance(read.event, _RECORDED):
        return read.event
    return FactUnreadable(action=kept.action, problem=f"{kept.action} is not a fact in this version of the program")
