"""The configuration keys of a simulated station: readable, partly writable, and obeyed where it matters."""

from collections.abc import Iterable
from dataclasses import dataclass

from voltledger.simulator.settings import StationSettings

_NUMBERS = frozenset({
    "HeartbeatInterval",
    "MeterValueSampleInterval",
    "ClockAlignedDataInterval",
    "ConnectionTimeOut",
    "ResetRetries",
    "TransactionMessageAttempts",
    "TransactionMessageRetryInterval",
    "WebSocketPingInterval",
})  # fmt: skip
_READ_ONLY = frozenset({
    "NumberOfConnectors",
    "SupportedFeatureProfiles",
    "GetConfigurationMaxKeys",
    "ChargeProfileMaxStackLevel",
})  # fmt: skip
_WRITE_ONLY = "AuthorizationKey"


@dataclass(slots=True)
class Configuration:
    """One station's keys and values; all values are text, as on the wire."""

    values: dict[str, str]

    @classmethod
    def of(cls, settings: StationSettings) -> "Configuration":
        """The keys a station leaves the factory with."""
        return cls({
            "AuthorizeRemoteTxRequests": "false",
            "ClockAlignedDataInterval": "0",
            "ConnectionTimeOut": "60",
            "GetConfigurationMaxKeys": "50",
            "HeartbeatInterval": "300",
            "LocalAuthorizeOffline": "true",
            "LocalPreAuthorize": "false",
            "MeterValueSampleInterval": f"{settings.sample_interval_s:g}",
            "MeterValuesAlignedData": "",
            "MeterValuesSampledData": "Energy.Active.Import.Register,Power.Active.Import,Current.Import,SoC",
            "NumberOfConnectors": str(settings.connectors),
            "ResetRetries": "1",
            "StopTransactionOnEVSideDisconnect": "true",
            "StopTransactionOnInvalidId": "true",
            "StopTxnAlignedData": "",
            "StopTxnSampledData": "",
            "SupportedFeatureProfiles": "Core,RemoteTrigger",
            "TransactionMessageAttempts": str(settings.message_attempts),
            "TransactionMessageRetryInterval": f"{settings.retry_interval_s:g}",
            "UnlockConnectorOnEVSideDisconnect": "true",
            "WebSocketPingInterval": "0",
            **settings.configuration,
        })  # fmt: skip

    def number(self, key: str) -> float:
        """A numeric key's value."""
        return float(self.values[key])

    def is_on(self, key: str) -> bool:
        """A yes-or-no key's value."""
        return self.values.get(key, "").lower() == "true"

    def change(self, key: str, value: str) -> str:
        """Obeys ChangeConfiguration; the status to answer with."""
        if key == _WRITE_ONLY:
            self.values[key] = value
            return "Accepted"
        if key not in self.values:
            return "NotSupported"
        if key in _READ_ONLY:
            return "Rejected"
        if key in _NUMBERS and not _is_whole_number(value):
            return "Rejected"
        self.values[key] = value
        return "Accepted"

    def read(self, keys: Iterable[str]) -> dict[str, list[object]]:
        """Answers GetConfiguration; no keys means all of them."""
        wanted = list(keys) or sorted(self.values)
        known = [key for key in wanted if key in self.values and key != _WRITE_ONLY]
        unknown: list[object] = [key for key in wanted if key not in self.values]
        answer: dict[str, list[object]] = {
            "configurationKey": [
                {"key": key, "readonly": key in _READ_ONLY, "value": self.values[key]} for key in known
            ]
        }
        if unknown:
            answer["unknownKey"] = unknown
        return answer

    @property
    def authorization_key(self) -> str | None:
        """A password set by the server, if any."""
        return self.values.get(_WRITE_ONLY)


def _is_whole_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
