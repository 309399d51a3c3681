"""The Smart Charging profile of OCPP 1.6, through the raw interface."""

from typing import Final

from voltledger.ocpp.action import ToStation
from voltledger.ocpp.v16 import types

CLEAR_CHARGING_PROFILE: Final = ToStation(
    name="ClearChargingProfile",
    request=types.ClearChargingProfileRequest,
    response=types.ClearChargingProfileResponse,
    source="OCPP 1.6 §5.5, §6.13, §6.14",
)
GET_COMPOSITE_SCHEDULE: Final = ToStation(
    name="GetCompositeSchedule",
    request=types.GetCompositeScheduleRequest,
    response=types.GetCompositeScheduleResponse,
    source="OCPP 1.6 §5.7, §6.21, §6.22",
)
SET_CHARGING_PROFILE: Final = ToStation(
    name="SetChargingProfile",
    request=types.SetChargingProfileRequest,
    response=types.SetChargingProfileResponse,
    source="OCPP 1.6 §5.16, §6.43, §6.44",
)
