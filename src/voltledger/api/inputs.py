"""What requests may say. A field that is not here is refused; the catalogue checks what the words mean."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

Amount = Annotated[int, Meta(ge=1, le=10**12)]
Moment = Annotated[datetime, Meta(tz=True)]
"""A time with its offset."""
ConnectorNumber = Annotated[int, Meta(ge=0, le=1000)]


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a request."""


class NewStation(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A station to register; without `password` one is made and answered once."""

    id: str
    password: str | None = None
    security_profile: Annotated[int, Meta(ge=0, le=3)] = 1
    ocpp_versions: list[str] = msgspec.field(default_factory=lambda: ["ocpp1.6"])
    connectors: Annotated[int, Meta(ge=0, le=128)] = 1
    organization: str = "default"
    price_per_kwh_minor: Decimal | None = None
    currency: str | None = None


class StationChange(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be different about a station."""

    organization: str | None = None
    security_profile: Annotated[int, Meta(ge=0, le=3)] | None = None
    ocpp_versions: list[str] | None = None
    connectors: Annotated[int, Meta(ge=0, le=128)] | None = None
    disabled: bool | None = None


class NewPassword(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another password for a station; one is made when none is given."""

    password: str | None = None


class NewToken(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An id token to register."""

    value: str
    type: str = "ISO14443"
    status: Literal["Accepted", "Blocked", "Expired", "Invalid", "ConcurrentTx"] = "Accepted"
    group: str | None = None
    user: str | None = None
    expires_at: Moment | None = None


class TokenChange(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be different about a token; null clears `group`, `user` and `expires_at`."""

    type: str | UnsetType = UNSET
    status: Literal["Accepted", "Blocked", "Expired", "Invalid", "ConcurrentTx"] | UnsetType = UNSET
    group: str | UnsetType | None = UNSET
    user: str | UnsetType | None = UNSET
    expires_at: Moment | UnsetType | None = UNSET


class NewUser(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user to register; the id comes from the name when none is given."""

    name: str
    currency: str | None = None
    id: str | None = None


class NewOrganization(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An owner of stations; without `fee_percent` the setting counts."""

    name: str
    id: str | None = None
    fee_percent: Decimal | None = None


class OrganizationChange(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be different about an organisation; `fee_percent` null goes back to the setting."""

    name: str | None = None
    fee_percent: Decimal | UnsetType | None = UNSET


class NewTopUp(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money that came in for a wallet, in its currency."""

    amount_minor: Amount


class NewTariff(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price a kWh, from now or from `valid_from` on; for everything, one organisation or one station."""

    price_per_kwh_minor: Decimal
    currency: str | None = None
    scope: Literal["default", "organization", "station"] = "default"
    scope_id: str = ""
    valid_from: Moment | None = None


class NewKey(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to the API; `user` for the role driver only."""

    role: Literal["viewer", "operator", "finance", "admin", "driver"]
    name: str = ""
    user: str | None = None
    expires_at: Moment | None = None


class NewSession(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A session to be paid for first and started remotely."""

    station: str
    connector: Annotated[int, Meta(ge=1, le=1000)]
    user: str
    amount_minor: Amount
    token: str | None = None


class StartCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start a transaction for a token; without `connector` the station chooses."""

    token: Annotated[str, Meta(min_length=1, max_length=255)]
    connector: Annotated[int, Meta(ge=1, le=1000)] | None = None


class StopCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """End a transaction, named by OCPP's id or by our session."""

    transaction_id: str | None = None
    session: UUID | None = None


class ResetCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Restart the station."""

    kind: Literal["Soft", "Hard"] = "Soft"


class UnlockCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Free a plug that is held."""

    connector: Annotated[int, Meta(ge=1, le=1000)]


class AvailabilityCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a connector (0: the whole station) into or out of service."""

    operative: bool
    connector: ConnectorNumber = 0


class TriggerCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for a message now."""

    message: Annotated[str, Meta(min_length=1, max_length=100)]
    connector: ConnectorNumber | None = None


class ClearCacheCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forget the tokens remembered for use without a connection."""


class ConfigurationCommand(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read settings (`keys`, all when empty) or set one (`key` and `value`)."""

    keys: list[str] | None = None
    key: str | None = None
    value: str | None = None


class VariableChange(Input, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Set one setting of a station."""

    key: Annotated[str, Meta(min_length=1, max_length=500)]
    value: Annotated[str, Meta(max_length=2500)]
