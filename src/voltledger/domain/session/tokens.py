"""Whether a token may charge."""

from dataclasses import dataclass
from datetime import datetime

from voltledger.domain.events import Authorization, AuthorizationStatus
from voltledger.domain.identifiers import TokenValue, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """A registered token."""

    value: TokenValue
    status: AuthorizationStatus
    group: str | None = None
    user_id: UserId | None = None
    expires_at: datetime | None = None


def authorize(record: TokenRecord | None, now: datetime) -> Authorization:
    """Our answer about a token: unknown ones are refused, expiry goes before status.

    Source: OCPP 1.6 §4.2, §7.8 (IdTagInfo).
    """
    if record is None:
        return Authorization(status=AuthorizationStatus.INVALID)
    expired = record.expires_at is not None and record.expires_at <= now
    status = AuthorizationStatus.EXPIRED if expired else record.status
    return Authorization(status=status, group=record.group, expires_at=record.expires_at)
