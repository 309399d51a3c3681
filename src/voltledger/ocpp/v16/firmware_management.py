"""The Firmware Management profile of OCPP 1.6: notices are kept, requests go through the raw interface."""

from typing import Final

from voltledger.ocpp.action import Delivery, FromStation, ToStation
from voltledger.ocpp.v16 import types
from voltledger.ocpp.v16.notices import noticed

DIAGNOSTICS_STATUS_NOTIFICATION: Final = FromStation(
    name="DiagnosticsStatusNotification",
    request=types.DiagnosticsStatusNotificationRequest,
    response=types.DiagnosticsStatusNotificationResponse,
    to_event=noticed("DiagnosticsStatusNotification"),
    to_response=lambda event, answer: types.DiagnosticsStatusNotificationResponse(),
    delivery=Delivery.STATE,
    source="OCPP 1.6 §4.4, §6.17, §6.18",
)
FIRMWARE_STATUS_NOTIFICATION: Final = FromStation(
    name="FirmwareStatusNotification",
    request=types.FirmwareStatusNotificationRequest,
    response=types.FirmwareStatusNotificationResponse,
    to_event=noticed("FirmwareStatusNotification"),
    to_response=lambda event, answer: types.FirmwareStatusNotificationResponse(),
    delivery=Delivery.STATE,
    source="OCPP 1.6 §4.5, §6.19, §6.20",
)
GET_DIAGNOSTICS: Final = ToStation(
    name="GetDiagnostics",
    request=types.GetDiagnosticsRequest,
    response=types.GetDiagnosticsResponse,
    source="OCPP 1.6 §5.9, §6.25, §6.26",
)
UPDATE_FIRMWARE: Final = ToStation(
    name="UpdateFirmware",
    request=types.UpdateFirmwareRequest,
    response=types.UpdateFirmwareResponse,
    source="OCPP 1.6 §5.19, §6.55, §6.56",
)
