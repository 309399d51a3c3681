"""Messages that are answered from what is known and change nothing: heartbeat, authorize, data, notices.

Tokens are also kept in mind here, so that stations get answers while the store is away.
"""

import asyncio
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
    TransactionEnded,
    TransactionStarted,
)
from voltledger.domain.identifiers import StationId, TokenValue
from voltledger.domain.session.tokens import TokenRecord, authorize
from voltledger.services.facts import InboundFact
from voltledger.storage.errors import StoreUnavailable

PlainEvent = HeartbeatReceived | AuthorizationAsked | DataReceived | NoticeReceived

TOKENS_REMEMBERED = 100_000
EXPECTED_S = 2.0
"""How often it is asked which starts are expected."""
TOKENS_S = 60.0
"""How often all tokens are read again, at most: it never takes more than a hundredth of the time."""


class TokenStore(Protocol):
    """Where tokens are looked up."""

    async def token(self, value: TokenValue) -> TokenRecord | None:
        """A registered token."""

    async def is_expected(self, station_id: StationId, value: TokenValue) -> bool:
        """Whether a session that was asked for or runs at this station has this token."""

    async def all_tokens(self, limit: int) -> list[TokenRecord]:
        """Registered tokens, the newest first."""

    async def expected_tokens(self) -> set[tuple[StationId, TokenValue]]:
        """Tokens of sessions that were asked for and have not begun, with their stations."""


class FrontDesk:
    """Answers what needs no unit of work.

    `accept_unknown`: whether a token that is not remembered may charge while the store is away.
    """

    def __init__(self, tokens: TokenStore, *, heartbeat_s: int, accept_unknown: bool = False) -> None:
        self._tokens = tokens
        self._heartbeat_s = heartbeat_s
        self._accept_unknown = accept_unknown
        self._remembered: dict[TokenValue, TokenRecord] = {}
        self._expected: set[tuple[StationId, TokenValue]] = set()

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

    # --- while the store is away ------------------------------------------------------------------

    def answer_from_memory(self, station_id: StationId, event: PlainEvent, now: datetime) -> Answer:
        """As `answer`, from what was last seen of the tokens."""
        if not isinstance(event, AuthorizationAsked):
            return Answer(at=now, heartbeat_s=self._heartbeat_s, accepted=not isinstance(event, DataReceived))
        return Answer(at=now, authorization=self._recall(station_id, event.token, now))

    def answer_unrecorded(self, fact: InboundFact) -> Answer:
        """What a fact is answered that goes to the journal: always accepted as a fact.

        Source: OCPP 1.6 §4.8, §4.10: a start gets its id whatever the token is worth.
        """
        authorization = None
        token = fact.event.token if isinstance(fact.event, TransactionStarted | TransactionEnded) else None
        if token is not None:
            authorization = self._recall(fact.station_id, token, fact.received_at)
        elif isinstance(fact.event, TransactionStarted):
            authorization = authorize(None, fact.received_at)
        return Answer(
            at=fact.received_at,
            transaction_ref=fact.ref,
            authorization=authorization,
            heartbeat_s=self._heartbeat_s,
        )

    def _recall(self, station_id: StationId, token: TokenValue, now: datetime) -> Authorization:
        record = self._remembered.get(token)
        if record is None and ((station_id, token) in self._expected or self._accept_unknown):
            return Authorization(status=AuthorizationStatus.ACCEPTED)
        return authorize(record, now)

    async def keep_in_mind(self) -> None:
        """Reads the tokens again and again; never ends. While the store is away what is known stays."""
        clock = asyncio.get_running_loop().time
        again_at = 0.0
        while True:
            try:
                self._expected = await self._tokens.expected_tokens()
                if clock() >= again_at:
                    began = clock()
                    records = await self._tokens.all_tokens(TOKENS_REMEMBERED)
                    self._remembered = {record.value: record for record in records}
                    again_at = clock() + max(TOKENS_S, 100 * (clock() - began))
            except StoreUnavailable:
                pass
            await asyncio.sleep(EXPECTED_S)
