"""The security extension of OCPP 1.6: notices are kept, requests go through the raw interface."""

from typing import Final

from voltledger.ocpp.action import Delivery, FromStation, ToStation
from voltledger.ocpp.v16 import types
from voltledger.ocpp.v16.notices import noticed

LOG_STATUS_NOTIFICATION: Final = FromStation(
    name="LogStatusNotification",
    request=types.LogStatusNotificationRequest,
    response=types.LogStatusNotificationResponse,
    to_event=noticed("LogStatusNotification"),
    to_response=lambda event, answer: types.LogStatusNotificationResponse(),
    delivery=Delivery.STATE,
    source="OCPP 1.6 security whitepaper",
)
SECURITY_EVENT_NOTIFICATION: Final = FromStation(
    name="SecurityEventNotification",
    request=types.SecurityEventNotificationRequest,
    response=types.SecurityEventNotificationResponse,
    to_event=noticed("SecurityEventNotification"),
    to_response=lambda event, answer: types.SecurityEventNotificationResponse(),
    delivery=Delivery.STATE,
    source="OCPP 1.6 security whitepaper",
)
SIGNED_FIRMWARE_STATUS_NOTIFICATION: Final = FromStation(
    name="SignedFirmwareStatusNotification",
    request=types.SignedFirmwareStatusNotificationRequest,
    response=types.SignedFirmwareStatusNotificationResponse,
    to_event=noticed("SignedFirmwareStatusNotification"),
    to_response=lambda event, answer: types.SignedFirmwareStatusNotificationResponse(),
    delivery=Delivery.STATE,
    source="OCPP 1.6 security whitepaper",
)
CERTIFICATE_SIGNED: Final = ToStation(
    name="CertificateSigned",
    request=types.CertificateSignedRequest,
    response=types.CertificateSignedResponse,
    source="OCPP 1.6 security whitepaper",
)
DELETE_CERTIFICATE: Final = ToStation(
    name="DeleteCertificate",
    request=types.DeleteCertificateRequest,
    response=types.DeleteCertificateResponse,
    source="OCPP 1.6 security whitepaper",
)
EXTENDED_TRIGGER_MESSAGE: Final = ToStation(
    name="ExtendedTriggerMessage",
    request=types.ExtendedTriggerMessageRequest,
    response=types.ExtendedTriggerMessageResponse,
    source="OCPP 1.6 security whitepaper",
)
GET_INSTALLED_CERTIFICATE_IDS: Final = ToStation(
    name="GetInstalledCertificateIds",
    request=types.GetInstalledCertificateIdsRequest,
    response=types.GetInstalledCertificateIdsResponse,
    source="OCPP 1.6 security whitepaper",
)
GET_LOG: Final = ToStation(
    name="GetLog",
    request=types.GetLogRequest,
    response=types.GetLogResponse,
    source="OCPP 1.6 security whitepaper",
)
INSTALL_CERTIFICATE: Final = ToStation(
    name="InstallCertificate",
    request=types.InstallCertificateRequest,
    response=types.InstallCertificateResponse,
    source="OCPP 1.6 security whitepaper",
)
SIGNED_UPDATE_FIRMWARE: Final = ToStation(
    name="SignedUpdateFirmware",
    request=types.SignedUpdateFirmwareRequest,
    response=types.SignedUpdateFirmwareResponse,
    source="OCPP 1.6 security whitepaper",
)
