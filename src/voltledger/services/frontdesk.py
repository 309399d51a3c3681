"""Messages that are answered from what is known and change nothing: heartbeat, authorize, data, notices."""

from datetime import datetime
from typing import Protocol

from voltledger.domain.events import (
    Answer,
    Authorization,
    AuthorizationAsked,
    AuthorizationStatus,
    DataReceived,
    HeartbeatReceived,
    NoticeReceived,
)
from voltledger.domain.identifiers import StationId, TokenValue
from voltledger.domain.session.tokens import TokenRecord, authorize

PlainEvent = HeartbeatReceived | AuthorizationAsked | DataReceived | NoticeReceived


class TokenStore(Protocol):
    """Where tokens are looked up."""

    async def token(self, value: TokenValue) -> TokenRecord | None:
        """A registered token."""

    async def is_expected(self, station_id: StationId, value: TokenValue) -> bool:
        """Whether a session that was asked for or runs at this station has this token."""


class FrontDesk:
    """Answers what needs no unit of work."""

    def __init__(self, tokens: TokenStore, *, heartbeat_s: int) -> None:
        self._tokens = tokens
        self._heartbeat_s = heartbeat_s

    async def answer(self, station_id: StationId, event: PlainEvent, now: datetime) -> Answer:
        """The answer to a message that changes nothing. Raises StoreUnavailable for Authorize only."""
        if not isinstance(event, AuthorizationAsked):
            return Answer(at=now, heartbeat_s=self._heartbeat_s, accepted=not isinstance(event, DataReceived))
        return Answer(at=now, authorization=await self._authorize(station_id, event.token, now))

    async def _authorize(self, station_id: StationId, token: TokenValue, now: datetime) -> Authorization:
        record = await self._tokens.token(token)
        if record is None and await self._tokens.is_expected(station_id, token):
            return Authorization(status=AuthorizationStatus.ACCEPTED)
        return authorize(record, now)
