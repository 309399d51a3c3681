"""The Local Auth List Management profile of OCPP 1.6, through the raw interface."""

from typing import Final

from voltledger.ocpp.action import ToStation
from voltledger.ocpp.v16 import types

GET_LOCAL_LIST_VERSION: Final = ToStation(
    name="GetLocalListVersion",
    request=types.GetLocalListVersionRequest,
    response=types.GetLocalListVersionResponse,
    source="OCPP 1.6 §5.10, §6.27, §6.28",
)
SEND_LOCAL_LIST: Final = ToStation(
    name="SendLocalList",
    request=types.SendLocalListRequest,
    response=types.SendLocalListResponse,
    source="OCPP 1.6 §5.15, §6.41, §6.42",
)
