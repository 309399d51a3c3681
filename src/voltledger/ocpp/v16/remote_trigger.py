"""The Remote Trigger profile of OCPP 1.6: asking a station for a message now."""

from typing import Final

from voltledger.domain.commands import TriggerReport
from voltledger.ocpp.action import ToStation, Unsupported
from voltledger.ocpp.v16 import types

_MESSAGES: Final = {message.value: message for message in types.TriggerMessageRequestRequestedMessage}


def trigger(command: TriggerReport) -> types.TriggerMessageRequest | Unsupported:
    """Ask for one message; EVSE 0 is left out, since a connector is 1 or higher here (§6.51)."""
    message = _MESSAGES.get(command.message)
    if message is None:
        return Unsupported(reason=f"a 1.6 station cannot be asked for {command.message[:50]}")
    return types.TriggerMessageRequest(requested_message=message, connector_id=command.evse_id or None)


TRIGGER_MESSAGE: Final = ToStation(
    name="TriggerMessage",
    request=types.TriggerMessageRequest,
    response=types.TriggerMessageResponse,
    command=TriggerReport,
    to_request=trigger,
    source="OCPP 1.6 §5.17, §6.51, §6.52",
)
