"""Messages of stations that are recorded and acknowledged, and decide nothing yet."""

from collections.abc import Callable
from datetime import datetime

from voltledger.domain.events import NoticeReceived
from voltledger.ocpp.structs import OcppStruct


def noticed(action: str) -> Callable[[OcppStruct, datetime], NoticeReceived]:
    """The translation of one such message: nothing of it but its name."""

    def to_event(request: OcppStruct, received_at: datetime) -> NoticeReceived:
        return NoticeReceived(action=action)

    return to_event
