"""Messages that change nothing: a token is never accepted just because somebody asks."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.unit.domain.make import T0, TOKEN, token_record
from voltledger.domain.events import (
    AuthorizationAsked,
    AuthorizationStatus,
    DataReceived,
    HeartbeatReceived,
    NoticeReceived,
)
from voltledger.domain.identifiers import StationId, TokenValue
from voltledger.domain.session.tokens import TokenRecord
from voltledger.services.frontdesk import FrontDesk, PlainEvent


@dataclass
class FakeTokens:
    """Registered tokens, and those that an open session at a station has."""

    known: dict[str, TokenRecord] = field(default_factory=dict)
    expected: set[tuple[str, str]] = field(default_factory=set)

    async def token(self, value: TokenValue) -> TokenRecord | None:
        """See `TokenStore`."""
        return self.known.get(value)

    async def is_expected(self, station_id: StationId, value: TokenValue) -> bool:
        """See `TokenStore`."""
        return (station_id, value) in self.expected


@pytest.mark.parametrize(
    ("what", "tokens", "status"),
    [
        ("nobody registered it", FakeTokens(), AuthorizationStatus.INVALID),
        ("it is registered", FakeTokens({TOKEN: token_record()}), AuthorizationStatus.ACCEPTED),
        (
            "it is blocked",
            FakeTokens({TOKEN: token_record(status=AuthorizationStatus.BLOCKED)}),
            AuthorizationStatus.BLOCKED,
        ),
        ("it has expired", FakeTokens({TOKEN: token_record(expires_at=T0)}), AuthorizationStatus.EXPIRED),
        ("a paid session here waits for it", FakeTokens({}, {("CP-1", TOKEN)}), AuthorizationStatus.ACCEPTED),
        ("a paid session elsewhere waits for it", FakeTokens({}, {("CP-2", TOKEN)}), AuthorizationStatus.INVALID),
        (
            "it is blocked although a session waits for it",
            FakeTokens({TOKEN: token_record(status=AuthorizationStatus.BLOCKED)}, {("CP-1", TOKEN)}),
            AuthorizationStatus.BLOCKED,
        ),
    ],
)
async def test_a_token_is_answered(what: str, tokens: FakeTokens, status: AuthorizationStatus) -> None:
    desk = FrontDesk(tokens, heartbeat_s=300)
    answer = await desk.answer(StationId("CP-1"), AuthorizationAsked(token=TOKEN), T0)
    assert answer.authorization is not None
    assert answer.authorization.status is status, what


@pytest.mark.parametrize(
    ("event", "accepted"),
    [
        (HeartbeatReceived(), True),
        (NoticeReceived(action="LogStatusNotification"), True),
        (DataReceived(vendor_id="V"), False),
    ],
)
async def test_other_messages_get_the_servers_time_and_no_word_about_tokens(event: PlainEvent, accepted: bool) -> None:
    answer = await FrontDesk(FakeTokens(), heartbeat_s=77).answer(StationId("CP-1"), event, T0)
    assert (answer.at, answer.heartbeat_s, answer.accepted, answer.authorization) == (T0, 77, accepted, None)
