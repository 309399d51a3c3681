"""The Reservation profile of OCPP 1.6, through the raw interface."""

from typing import Final

from voltledger.ocpp.action import ToStation
from voltledger.ocpp.v16 import types

CANCEL_RESERVATION: Final = ToStation(
    name="CancelReservation",
    request=types.CancelReservationRequest,
    response=types.CancelReservationResponse,
    source="OCPP 1.6 §5.1, §6.5, §6.6",
)
RESERVE_NOW: Final = ToStation(
    name="ReserveNow",
    request=types.ReserveNowRequest,
    response=types.ReserveNowResponse,
    source="OCPP 1.6 §5.13, §6.37, §6.38",
)
