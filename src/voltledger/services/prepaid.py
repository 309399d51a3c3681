"""Prepaid charging: money set aside and the station asked to start, in one unit of work."""

import asyncio
import hashlib
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec

from voltledger.domain.commands import StartCharging, StopCharging
from voltledger.domain.errors import (
    CurrencyMismatch,
    InsufficientFunds,
    InvalidInput,
    NotFound,
    NotPossibleNow,
    SameKeyOtherInput,
)
from voltledger.domain.identifiers import SessionId, StationId, TokenValue, UserId, normal_token
from voltledger.domain.ledger.entries import Entry
from voltledger.domain.ledger.holds import hold_entry
from voltledger.domain.quantities import Minor
from voltledger.domain.reconciliation.evidence import Witness
from voltledger.domain.reconciliation.findings import FindingKind
from voltledger.domain.session.blocking import why_blocked
from voltledger.domain.session.book import Terms
from voltledger.domain.session.conclude import conclude
from voltledger.domain.session.decision import Ask
from voltledger.domain.session.finding import finding_about
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import Happening, State
from voltledger.failpoints import ARMED, fp
from voltledger.logs import get_logger
from voltledger.services.runtime import CallOutcome, Commands, Presence
from voltledger.storage.errors import StoreContention
from voltledger.storage.ports import Changes, Payer, QueuedCommand

log = get_logger(__name__)

MAX_AMOUNT_MINOR = 100_000_000_00
MAX_ATTEMPTS = 5
ALWAYS = datetime.min.replace(tzinfo=UTC)


class SessionWork(Protocol):
    """One unit of work over sessions that we act on ourselves."""

    async def terms_of(self, station_id: StationId) -> tuple[Terms, int] | None:
        """What a session at a station is priced by, and its number of connectors."""

    async def payer(self, user_id: UserId) -> Payer | None:
        """A user and what they can spend, locked."""

    async def lock_evse(self, station_id: StationId, evse_id: int) -> None:
        """Nobody else decides what begins on this EVSE until the unit of work ends."""

    async def open_on(self, station_id: StationId, evse_id: int) -> ChargingSession | None:
        """The session that is open on an EVSE."""

    async def witness(self, session_id: SessionId, now: datetime) -> Witness:
        """What is known of a session's connector now."""

    async def session(self, session_id: SessionId) -> ChargingSession | None:
        """A session, locked."""

    async def overdue(self, now: datetime) -> list[ChargingSession]:
        """Sessions whose start is overdue, locked."""

    async def save(self, changes: Changes) -> None:
        """Writes everything."""


class SessionStore(Protocol):
    """Where sessions are changed by us."""

    def session_work(self) -> AbstractAsyncContextManager[SessionWork]:
        """Begins a unit of work."""


class PrepaidService:
    """Starts and stops sessions for users; see `services.runtime.Prepaid`.

    `quiet_since` and `may_judge` as in `DatabaseSyncService`; `looks_every` is the period in which ghosts are looked
    for, told to a driver who is refused because of one.
    """

    def __init__(
        self,
        store: SessionStore,
        commands: Commands,
        presence: Presence,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        new_token: Callable[[], str],
        pending_for: timedelta,
        wake: Callable[[], None],
        quiet_since: Callable[[], datetime] = lambda: ALWAYS,
        may_judge: Callable[[StationId], bool] = lambda _: True,
        looks_every: timedelta = timedelta(minutes=2),
    ) -> None:
        self._store = store
        self._commands = commands
        self._presence = presence
        self._now = now
        self._new_id = new_id
        self._new_token = new_token
        self._pending_for = pending_for
        self._wake = wake
        self._quiet_since = quiet_since
        self._may_judge = may_judge
        self._looks_every = looks_every

    async def start(
        self,
        *,
        station_id: str,
        connector: int,
        user_id: str,
        amount_minor: int,
        token: str | None,
        key: str | None,
    ) -> UUID:
        """Sets the amount aside and asks the station to start; the session waits as PENDING.

        The session's id comes from `key` where there is one, so that the same key can make only one
        session even if the first answer was lost with a crash.

        Effects: one session, one hold and one queued command, in one unit of work.
        Raises: InvalidInput, NotFound, CurrencyMismatch, InsufficientFunds, NotPossibleNow, and
        SameKeyOtherInput when the key came before with other input.
        """
        if not 0 < amount_minor <= MAX_AMOUNT_MINOR:
            raise InvalidInput("amount_minor", f"must be between 1 and {MAX_AMOUNT_MINOR}")
        station = StationId(station_id)
        session_id = SessionId(self._new_id() if key is None else _id_of_key(user_id, key))
        for attempt in range(MAX_ATTEMPTS):
            try:
                return await self._start_once(session_id, station, connector, user_id, amount_minor, token, key)
            except StoreContention:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(random.uniform(0.01, 0.05))
        raise AssertionError("the loop returns or raises")

    async def _start_once(
        self,
        session_id: SessionId,
        station: StationId,
        connector: int,
        user_id: str,
        amount_minor: int,
        token: str | None,
        key: str | None,
    ) -> UUID:
        async with self._store.session_work() as work:
            await work.lock_evse(station, connector)
            before = None if key is None else await work.session(session_id)
            if before is not None:
                return _same_start(before, user_id, station, connector, amount_minor)
            session, entry = await self._prepare(
                work, session_id, station, connector, UserId(user_id), Minor(amount_minor), token
            )
            await work.save(_start_changes(session, entry))
            if ARMED:
                await fp("prepaid.before_commit")
        if ARMED:
            await fp("prepaid.committed")
        self._wake()
        return session.id

    async def _prepare(
        self,
        work: SessionWork,
        session_id: SessionId,
        station_id: StationId,
        connector: int,
        user_id: UserId,
        amount: Minor,
        token: str | None,
    ) -> tuple[ChargingSession, Entry | None]:
        found = await work.terms_of(station_id)
        if found is None:
            raise NotFound(f"station {station_id} does not exist")
        terms, connectors = found
        if not 1 <= connector <= max(1, connectors):
            raise InvalidInput("connector", f"{station_id} has connectors 1 to {max(1, connectors)}")
        payer = await work.payer(user_id)
        if payer is None:
            raise NotFound(f"user {user_id} does not exist")
        if payer.currency != terms.price.currency:
            raise CurrencyMismatch(
                f"the wallet of {user_id} is in {payer.currency}, the station's tariff in {terms.price.currency}"
            )
        if payer.spendable < amount:
            raise InsufficientFunds(
                f"the wallet of {user_id} holds {payer.spendable}, {amount} are needed: top it up first"
            )
        if station_id not in self._presence.connected():
            raise NotPossibleNow(f"station {station_id} is not connected: nothing was set aside, try again later")
        blocking = await work.open_on(station_id, connector)
        if blocking is not None:
            witness = await work.witness(blocking.id, self._now())
            raise NotPossibleNow(why_blocked(blocking, witness, looked_at_every=self._looks_every))
        return self._pending_session(session_id, station_id, connector, user_id, amount, token, terms)

    def _pending_session(
        self,
        session_id: SessionId,
        station_id: StationId,
        connector: int,
        user_id: UserId,
        amount: Minor,
        token: str | None,
        terms: Terms,
    ) -> tuple[ChargingSession, Entry | None]:
        now = self._now()
        session = ChargingSession(
            id=session_id,
            station_id=station_id,
            evse_id=connector,
            connector_id=1,
            state=State.PENDING,
            origin=Origin.PREPAID,
            price=terms.price,
            fee_percent=terms.fee_percent,
            organization_id=terms.organization_id,
            created_at=now,
            token=normal_token(token) if token else TokenValue(self._new_token()),
            user_id=user_id,
            paid_minor=amount,
            pending_until=now + self._pending_for,
        )
        entry = hold_entry(session_id=session_id, user=user_id, currency=terms.price.currency, amount=amount, version=1)
        return session, entry

    async def stop(self, session_id: UUID) -> CallOutcome:
        """Asks the station to end a session; only the station's own end ends it.

        Raises: NotFound, NotPossibleNow.
        """
        async with self._store.session_work() as work:
            session = await work.session(SessionId(session_id))
            if session is None:
                raise NotFound(f"session {session_id} does not exist")
            ref = session.transaction_ref
            if session.state is State.PENDING:
                await work.save(not_started_changes(session, self._now(), "cancelled"))
            elif not session.is_running:
                raise NotPossibleNow(f"session {session_id} has ended already")
            elif ref is None:
                raise NotPossibleNow("the station has not named this transaction: stop it at the station")
            else:
                await work.save(Changes(sessions={session.id: self._stopping(session)}))
        if session.state is State.PENDING or ref is None:
            self._wake()
            return CallOutcome(outcome="answered", response={"status": "Cancelled"}, call_id="")
        return await self._commands.command(
            session.station_id, StopCharging(transaction_ref=ref), session_id=session.id
        )

    def _stopping(self, session: ChargingSession) -> ChargingSession:
        return msgspec.structs.replace(
            session, stop_requested_at=self._now(), stop_attempts=max(1, session.stop_attempts)
        )

    async def after_command(self, queued: QueuedCommand, outcome: CallOutcome) -> None:
        """Takes up the outcome of a queued start: refused ones give the money back at once.

        A start without an answer may still happen, so it waits for its deadline.
        """
        if queued.action != StartCharging.__name__ or queued.session_id is None:
            return
        status = outcome.response.get("status") if isinstance(outcome.response, dict) else None
        refused = outcome.outcome in ("call_error", "not_connected") or (
            outcome.outcome == "answered" and status != "Accepted"
        )
        if not refused:
            return
        async with self._store.session_work() as work:
            session = await work.session(SessionId(queued.session_id))
            if session is not None and session.state is State.PENDING:
                await work.save(
                    not_started_changes(session, self._now(), f"the station answered {status or 'nothing'}")
                )
        self._wake()

    async def expire_pending(self) -> int:
        """Gives the money of starts back that never happened. Returns how many."""
        if self._now() - self._quiet_since() < self._pending_for:
            return 0  # Whoever began while we were away could not tell us.
        async with self._store.session_work() as work:
            overdue = [s for s in await work.overdue(self._now()) if self._may_judge(s.station_id)]
            for session in overdue:
                await work.save(not_started_changes(session, self._now(), "nothing began in time"))
        if overdue:
            self._wake()
        return len(overdue)


def _id_of_key(user_id: str, key: str) -> UUID:
    """A version 8 UUID that a user's key always gives, and nothing else does: neither can run into the other."""
    both = msgspec.json.encode([user_id, key])
    digest = bytearray(hashlib.blake2b(both, digest_size=16, person=b"prepaid start").digest())
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))


def _same_start(
    before: ChargingSession, user_id: str, station_id: StationId, connector: int, amount_minor: int
) -> UUID:
    """The session that the key made before, if it was for the same."""
    same = (before.user_id, before.station_id, before.evse_id) == (user_id, station_id, connector)
    if not same or not _same_amount(before, amount_minor):
        raise SameKeyOtherInput("this key was used for another start: use a new one")
    return before.id


def _same_amount(before: ChargingSession, amount_minor: int) -> bool:
    """Whether this was asked for; after its end a session may hold more than that (see `hold_again`)."""
    if before.settle_version == 0:
        return before.paid_minor == amount_minor
    return before.paid_minor >= amount_minor


def _start_key(session: ChargingSession) -> str:
    return f"start:{session.id}"


def _start_changes(session: ChargingSession, entry: Entry | None) -> Changes:
    if session.token is None:
        raise ValueError("a prepaid session always has a token")
    ask = Ask(
        key=_start_key(session),
        command=StartCharging(token=session.token, evse_id=session.evse_id),
        session_id=session.id,
    )
    return Changes(
        sessions={session.id: session},
        entries=[] if entry is None else [entry],
        asks=[(session.station_id, ask)],
    )


def not_started_changes(session: ChargingSession, at: datetime, why: str) -> Changes:
    """A start that does not happen: closed, settled at nothing used, and said."""
    ended = conclude(session, Happening.NOT_STARTED, at, "NotStarted")
    finding = finding_about(
        session,
        kind=FindingKind.NOT_STARTED,
        key=f"not_started:{session.id}",
        summary=(
            f"The paid start on connector {session.evse_id} did not happen: {why}. The money goes back to the wallet."
        ),
    )
    # The station must not be asked any more: it may come back in an hour, with another car at its plug.
    return Changes(sessions={ended.id: ended}, settle=[ended], findings=[finding], withdraw=[_start_key(session)])
