"""Messages that change nothing: a token is never accepted just because somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from tests.support import wait_until
from tests.unit.domain.make import T0, TOKEN, meter, reading, start, token_record
from voltledger.domain.events import (
    AuthorizationAsked,
    AuthorizationStatus,
    DataReceived,
    HeartbeatReceived,
    NoticeReceived,
)
from voltledger.domain.identifiers import StationId, TokenValue, TransactionRef
from voltledger.domain.session.tokens import TokenRecord
from voltledger.services import frontdesk
from voltledger.services.facts import InboundFact
from voltledger.services.frontdesk import FrontDesk, PlainEvent
from voltledger.storage.errors import StoreUnavailable


@dataclass
class FakeTokens:
    """Registered tokens, and those that an open session at a station has."""

    known: dict[str, TokenRecord] = field(default_factory=dict)
    expected: set[tuple[str, str]] = field(default_factory=set)
    away: bool = False
    reads: int = 0
    failures: int = 0

    async def token(self, value: TokenValue) -> TokenRecord | None:
        """See `TokenStore`."""
        return self.known.get(value)

    async def is_expected(self, station_id: StationId, value: TokenValue) -> bool:
        """See `TokenStore`."""
        return (station_id, value) in self.expected

    async def expected_tokens(self) -> set[tuple[StationId, TokenValue]]:
        """See `TokenStore`."""
        if self.away:
            self.failures += 1
            raise StoreUnavailable("away")
        return {(StationId(station), TokenValue(token)) for station, token in self.expected}

    async def all_tokens(self, limit: int) -> list[TokenRecord]:
        """See `TokenStore`."""
        self.reads += 1
        return [*self.known.values()][:limit]


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


# --- while the store is away ------------------------------------------------------------------------------


STATION, ELSEWHERE = StationId("CP-1"), StationId("CP-2")


@asynccontextmanager
async def remembering(tokens: FakeTokens, *, accept_unknown: bool = False) -> AsyncIterator[FrontDesk]:
    """A front desk that has read the tokens once; then the store is away."""
    desk = FrontDesk(tokens, heartbeat_s=300, accept_unknown=accept_unknown)
    reading = asyncio.create_task(desk.keep_in_mind())
    await wait_until(lambda: tokens.reads > 0, what="the tokens are read")
    tokens.away = True
    try:
        yield desk
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _started(token: str | None = TOKEN) -> InboundFact:
    event = replace(start(), token=None if token is None else TokenValue(token))
    return InboundFact(
        station_id=STATION,
        epoch=1,
        action="StartTransaction",
        message_id="m",
        payload="{}",
        event=event,
        dedupe_key=b"k",
        received_at=T0,
        encode=lambda _answer: b"",
        ref=TransactionRef("4711"),
    )


@pytest.mark.parametrize(
    ("what", "tokens", "accept_unknown", "status"),
    [
        ("it was seen", FakeTokens({TOKEN: token_record()}), False, AuthorizationStatus.ACCEPTED),
        (
            "it was seen blocked",
            FakeTokens({TOKEN: token_record(status=AuthorizationStatus.BLOCKED)}),
            True,
            AuthorizationStatus.BLOCKED,
        ),
        ("it has expired since", FakeTokens({TOKEN: token_record(expires_at=T0)}), True, AuthorizationStatus.EXPIRED),
        ("a paid session here waits for it", FakeTokens({}, {("CP-1", TOKEN)}), False, AuthorizationStatus.ACCEPTED),
        ("a paid session elsewhere does", FakeTokens({}, {("CP-2", TOKEN)}), False, AuthorizationStatus.INVALID),
        ("it was never seen", FakeTokens(), False, AuthorizationStatus.INVALID),
        ("it was never seen, and may charge", FakeTokens(), True, AuthorizationStatus.ACCEPTED),
    ],
)
async def test_a_token_is_answered_from_memory_and_so_is_a_start_with_it(
    what: str, tokens: FakeTokens, accept_unknown: bool, status: AuthorizationStatus
) -> None:
    async with remembering(tokens, accept_unknown=accept_unknown) as desk:
        asked = desk.answer_from_memory(STATION, AuthorizationAsked(token=TOKEN), T0)
        started = desk.answer_unrecorded(_started())
        assert asked.authorization is not None
        assert started.authorization is not None
        assert (asked.authorization.status, started.authorization.status) == (status, status), what
        assert started.transaction_ref == "4711", "a start gets its id whatever the token is worth"


async def test_a_start_without_a_token_is_refused_from_memory_and_gets_its_id_all_the_same() -> None:
    async with remembering(FakeTokens(), accept_unknown=True) as desk:
        answer = desk.answer_unrecorded(_started(None))
        assert answer.authorization is not None
        assert answer.authorization.status is AuthorizationStatus.INVALID
        assert answer.transaction_ref == "4711"


async def test_a_reading_from_the_journal_says_nothing_about_tokens() -> None:
    async with remembering(FakeTokens({TOKEN: token_record()})) as desk:
        fact = replace(_started(), event=meter(reading(1, 5), ref="4711"), ref=None)
        answer = desk.answer_unrecorded(fact)
        assert (answer.authorization, answer.transaction_ref, answer.heartbeat_s) == (None, None, 300)


async def test_what_was_known_of_tokens_stays_known_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontdesk, "EXPECTED_S", 0.005)
    tokens = FakeTokens({TOKEN: token_record()})
    async with remembering(tokens) as desk:
        failed = tokens.failures
        await wait_until(lambda: tokens.failures > failed + 3, what="it is tried again and again")
        assert desk.answer_unrecorded(_started()).authorization == desk.answer_unrecorded(_started()).authorization
        answer = desk.answer_from_memory(STATION, AuthorizationAsked(token=TOKEN), T0)
        assert answer.authorization is not None
        assert answer.authorization.status is AuthorizationStatus.ACCEPTED
        # And when it is back, what changed meanwhile is seen: a start that was asked for.
        tokens.expected.add(("CP-2", "PAID"))
        tokens.away = False

        async def seen() -> bool:
            found = desk.answer_from_memory(ELSEWHERE, AuthorizationAsked(token=TokenValue("PAID")), T0).authorization
            return found is not None and found.status is AuthorizationStatus.ACCEPTED

        await wait_until(seen, what="the expected start is known")


async def test_a_station_is_never_told_the_wrong_time_from_memory() -> None:
    async with remembering(FakeTokens()) as desk:
        assert desk.answer_from_memory(STATION, HeartbeatReceived(), T0).at == T0
        assert not desk.answer_from_memory(STATION, DataReceived(vendor_id="V"), T0).accepted
