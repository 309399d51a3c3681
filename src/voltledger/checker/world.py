"""All that is known, put side by side: what the stations did, what the books say, what others saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from uuid import UUID

import msgspec

from voltledger.checker.dump import Dump, Frame, InboxRow, Session
from voltledger.checker.journals import Journals, TrueFact, TrueSession
from voltledger.checker.redis_state import CacheValue
from voltledger.checker.sinks import SinkLine

SLACK = timedelta(seconds=5)
"""Clocks of one machine, and the way of a message, make no more difference than this."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long what is not final may stay so. Units: seconds of the database's clock.

    `unfinished_s` for jobs, outbox rows, commands and sessions that wait for their start; `ghost_s` for an open session
    whose connector is free. A run that has waited until everything is quiet judges with small ones.
    """

    unfinished_s: float = 60.0
    ghost_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A true session and its session in the books; None where there is none."""

    true: TrueSession
    book: Session | None


@dataclass(kw_only=True)
class World:
    """What a rule looks at.

    Shapes: `redis` is None when nobody read it. `rebuilt` holds the Wh that the raw frames of a session prove, where
            they do. `live`: people may have moved stations and tokens since.
    """

    dump: Dump
    journals: Journals = field(default_factory=Journals)
    sinks: Sequence[SinkLine] = ()
    redis: Mapping[str, CacheValue] | None = None
    limits: Limits = field(default_factory=Limits)
    rebuilt: Mapping[UUID, int] = field(default_factory=dict)
    live: bool = False

    @cached_property
    def sessions(self) -> dict[UUID, Session]:
        """Sessions of the books by id."""
        return {session.id: session for session in self.dump.sessions}

    @cached_property
    def _frames(self) -> dict[tuple[str, str, bytes], Frame]:
        return {(f.station_id, f.action, f.content): f for f in self.dump.frames}

    @cached_property
    def _inbox(self) -> dict[tuple[str, bytes], InboxRow]:
        return {(row.station_id, row.dedupe_key): row for row in self.dump.inbox}

    def record_of(self, fact: TrueFact) -> InboxRow | None:
        """The inbox row of a true fact, found through the raw frame with the same content."""
        for attempt in fact.attempts:
            frame = self._frames.get((fact.station, fact.action, attempt.content))
            row = None if frame is None else self._inbox.get((fact.station, frame.dedupe_key))
            if row is not None:
                return row
        return None

    @cached_property
    def frames_trimmed(self) -> dict[tuple[str, str], int]:
        """Recorded facts whose frame is no more there, by station and action."""
        framed = {(f.station_id, f.dedupe_key) for f in self.dump.frames}
        missing: dict[tuple[str, str], int] = {}
        for row in self.dump.inbox:
            if (row.station_id, row.dedupe_key) not in framed:
                key = (row.station_id, row.action)
                missing[key] = missing.get(key, 0) + 1
        return missing

    @cached_property
    def pairs(self) -> list[Pair]:
        """Each true session with its session in the books."""
        pairs = [Pair(true=true, book=self._book_of(true)) for true in self.journals.sessions]
        taken = {pair.book.id for pair in pairs if pair.book is not None}
        orphans = [s for s in self._of_journaled_stations if s.origin == "orphan" and s.id not in taken]
        return [pair if pair.book is not None else self._with_orphan(pair, orphans) for pair in pairs]

    @cached_property
    def invented(self) -> list[Session]:
        """Sessions of journaled stations that no true session explains."""
        explained = {pair.book.id for pair in self.pairs if pair.book is not None}
        return [
            session
            for session in self._of_journaled_stations
            if session.id not in explained and (session.transaction_ref is not None or session.energy_wh > 0)
        ]

    @cached_property
    def _of_journaled_stations(self) -> list[Session]:
        stations = self.journals.stations
        return [session for session in self.dump.sessions if session.station_id in stations]

    @cached_property
    def _by_ref(self) -> dict[tuple[str, str], Session]:
        named = {(s.station_id, s.transaction_ref): s for s in self.dump.sessions if s.transaction_ref is not None}
        other = {key: self.sessions[i] for key, i in self.dump.aliases.items() if i in self.sessions}
        return {**other, **named}

    def named(self, station: str, ref: str) -> Session | None:
        """The session that a transaction id of a station means, also one of an outage."""
        return self._by_ref.get((station, ref))

    def _book_of(self, true: TrueSession) -> Session | None:
        """By what the server recorded of its start, else by the transaction id that the station was given."""
        for fact in true.of("StartTransaction"):
            row = self.record_of(fact)
            if row is not None and row.session_id is not None and row.session_id in self.sessions:
                return self.sessions[row.session_id]
        for ref in true.transaction_refs:
            if (true.station, ref) in self._by_ref:
                return self._by_ref[(true.station, ref)]
        return None

    def _with_orphan(self, pair: Pair, orphans: list[Session]) -> Pair:
        """A visit that the station never announced, with the session that was made for it, at once or later."""
        for session in orphans:
            if self._is_of(session, pair.true):
                orphans.remove(session)
                return Pair(true=pair.true, book=session)
        return pair

    def _is_of(self, session: Session, true: TrueSession) -> bool:
        """By the transaction that its readings named, else by place and time."""
        if (session.station_id, session.evse_id) != (true.station, true.connector):
            return False
        if session.transaction_ref is not None:
            named = {str(a.payload.get("transactionId")) for fact in true.of("MeterValues") for a in fact.attempts}
            return session.transaction_ref in named
        return true.began_at - SLACK <= session.created_at <= self._next_visit(true)

    def _next_visit(self, true: TrueSession) -> datetime:
        later = [
            other.began_at
            for other in self.journals.sessions
            if (other.station, other.connector) == (true.station, true.connector) and other.began_at > true.began_at
        ]
        return min(later, default=self.dump.at + timedelta(days=1))
