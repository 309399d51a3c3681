"""How 1.6 stations deviate from their schema, as tables for the tolerant reader.

Each entry names the quirk it answers (numbers of the field catalogue). What only one model does
belongs here with the model, the firmware and a captured frame.
"""

from enum import Enum
from typing import Any, Final

import msgspec

from voltledger.ocpp.tolerant import Tolerance
from voltledger.ocpp.v16 import types

ALIASES: Final[dict[type[Enum], dict[str, Enum]]] = {
    # Quirk 67: units by their symbols.
    types.SampledValueUnit: {
        "Hz": types.SampledValueUnit.HERTZ,
        "%": types.SampledValueUnit.PERCENT,
        "C": types.SampledValueUnit.CELSIUS,
        "F": types.SampledValueUnit.FAHRENHEIT,
    },
    # Quirk 76: words that are no error codes.
    types.StatusNotificationRequestErrorCode: {
        "": types.StatusNotificationRequestErrorCode.NO_ERROR,
        "None": types.StatusNotificationRequestErrorCode.NO_ERROR,
        "OK": types.StatusNotificationRequestErrorCode.NO_ERROR,
        "Error": types.StatusNotificationRequestErrorCode.OTHER_ERROR,
    },
    # Quirk 76: 2.x words in 1.6 payloads.
    types.StopTransactionRequestReason: {
        "ImmediateReset": types.StopTransactionRequestReason.HARD_RESET,
        "OnCommandReset": types.StopTransactionRequestReason.SOFT_RESET,
    },
}

DEFAULTS: Final[dict[type[msgspec.Struct], dict[str, Any]]] = {
    # Quirk 74: a boot without a vendor is a boot.
    types.BootNotificationRequest: {"charge_point_vendor": "", "charge_point_model": ""},
    types.StatusNotificationRequest: {
        "error_code": types.StatusNotificationRequestErrorCode.NO_ERROR,
        "status": "",
    },
    types.AuthorizeRequest: {"id_tag": ""},
    types.DataTransferRequest: {"vendor_id": ""},
    # Notices decide nothing: whatever they lack, they are recorded.
    types.FirmwareStatusNotificationRequest: {"status": ""},
    types.DiagnosticsStatusNotificationRequest: {"status": ""},
    types.SecurityEventNotificationRequest: {"type": "", "timestamp": None},
    types.LogStatusNotificationRequest: {"status": ""},
    types.SignedFirmwareStatusNotificationRequest: {"status": ""},
}

TOLERANCE: Final = Tolerance(aliases=ALIASES, defaults=DEFAULTS)
