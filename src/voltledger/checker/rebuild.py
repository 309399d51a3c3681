"""`verify`: sessions, energy and money of a living system, rebuilt from the raw frames that stations sent.

Each station's StartTransaction, MeterValues and StopTransaction are read again in the order in which they arrived. The
transaction id in the stored answer to a start, and in the payload of what follows, says which session they are of; only
what names none is attributed as the server did. What comes out is compared with the books, then priced, then compared
with the ledger. Frames that were trimmed prove nothing any more: such sessions are counted, not blamed.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from voltledger.checker import queries
from voltledger.checker.content import parsed
from voltledger.checker.difference import Difference
from voltledger.checker.dump import PREFETCH, Dump, Session, read_dump, snapshot
from voltledger.checker.errors import CheckerError
from voltledger.checker.judging import figures_of
from voltledger.checker.meter import Meter, moment, placed_at, readings_of, register_of
from voltledger.checker.rules import RULES
from voltledger.checker.verdict import Verdict
from voltledger.checker.world import Limits, World

Progress = Callable[[int], None]
"""Told how many facts were read so far."""

LIVE_LIMITS = Limits(unfinished_s=600.0, ghost_s=3600.0)
RULES_OF_BOOKS = ("G3", "G5", "G6", "G8", "G9", "G12")
RULES_OF_ONE = ("G3", "G6")

CONCLUDED = frozenset({"ghost", "superseded", "orphaned", "reactivated", "manual_change", "not_started"})
"""Kinds of findings by which the server ended or reopened a session on its own conclusion."""

TRIMMED = "frames trimmed"
BY_HAND = "changed by a person, which is noted"
FOUND = "found by reconciliation, not started by the station"


@dataclass(slots=True, kw_only=True)
class Message:
    """One raw fact of a session. `name` is the transaction that its payload names, or None."""

    action: str
    payload: Mapping[str, Any]
    at: datetime
    state: str


@dataclass(slots=True, kw_only=True)
class Heard:
    """What one session's station said, in the order in which it arrived."""

    messages: list[Message] = field(default_factory=list)
    started: bool = False


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """What the raw frames prove, and what they cannot. Units: Wh."""

    energies: dict[UUID, int] = field(default_factory=dict)
    not_provable: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)


async def verify(
    dsn: str, *, session: UUID | None = None, limits: Limits = LIVE_LIMITS, progress: Progress | None = None
) -> Verdict:
    """Judges the books of a living system by the raw frames, all of it or one session.

    Effects: one read-only snapshot; nothing is locked or changed.
    Raises: CheckerError when the database does not answer or there is no such session.
    """
    began = time.monotonic()
    async with snapshot(dsn) as connection:
        dump = await read_dump(connection, session=session)
        if session is not None and not dump.sessions:
            raise CheckerError(f"there is no session {session}: voltledger lists them at /api/v1/sessions")
        station = dump.sessions[0].station_id if session is not None else None
        rebuilt = await _rebuild(connection, dump, station, progress)
    return judge_rebuilt(dump, rebuilt, limits, one=session is not None, took_s=time.monotonic() - began)


def judge_rebuilt(dump: Dump, rebuilt: Rebuilt, limits: Limits, *, one: bool = False, took_s: float = 0.0) -> Verdict:
    """The rules that need no journals, with what the raw frames prove."""
    world = World(dump=dump, rebuilt=rebuilt.energies, limits=limits, live=True)
    found = list(rebuilt.differences)
    for name in RULES_OF_ONE if one else RULES_OF_BOOKS:
        found.extend(RULES[name](world))
    figures = figures_of(world)
    figures.sessions_rebuilt = len(rebuilt.energies)
    figures.not_provable = dict(rebuilt.not_provable)
    return Verdict(differences=tuple(found), figures=figures, took_s=round(took_s, 3))


async def _rebuild(connection: Any, dump: Dump, station: str | None, progress: Progress | None) -> Rebuilt:
    """Reads all raw facts, station by station, so that one station's are in memory at a time."""
    rebuilder = Rebuilder(dump, await _missing_frames(connection, station), all_sessions=station is None)
    count = 0
    async for row in connection.cursor(queries.RAW_FACTS, station, prefetch=PREFETCH):
        rebuilder.take(row)
        count += 1
        if progress is not None and count % 10_000 == 0:
            progress(count)
    return rebuilder.finish()


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingFrames:
    """Facts of a session without their raw frame: trimmed with all older ones, or gone from among them."""

    trimmed: frozenset[UUID]
    gone: tuple[tuple[str, str, datetime, UUID | None], ...]


async def _missing_frames(connection: Any, station: str | None) -> MissingFrames:
    oldest = dict(await connection.fetch(queries.OLDEST_FRAMES))
    trimmed, gone = set(), []
    async for row in connection.cursor(queries.FACTS_WITHOUT_FRAME, station, prefetch=PREFETCH):
        horizon = oldest.get(row["action"])
        if row["session_id"] is not None:
            trimmed.add(row["session_id"])
        if horizon is not None and row["received_at"] > horizon:
            gone.append((row["station_id"], row["action"], row["received_at"], row["session_id"]))
    return MissingFrames(trimmed=frozenset(trimmed), gone=tuple(gone))


class Rebuilder:
    """Hands raw facts to sessions by the transaction that they name, and works out what each session's amount to."""

    def __init__(self, dump: Dump, missing: MissingFrames, *, all_sessions: bool) -> None:
        named = {(s.station_id, s.transaction_ref): s.id for s in dump.sessions if s.transaction_ref is not None}
        self._dump = dump
        self._missing = missing
        self._all = all_sessions
        self._by_ref = {**dump.aliases, **named}
        self._known = {session.id: session for session in dump.sessions}
        self._waiting = dict(self._known)
        self._concluded = _concluded(dump)
        self._station: str | None = None
        self._heard: dict[UUID, Heard] = {}
        self._result = Rebuilt()

    def finish(self) -> Rebuilt:
        """Works out what is left: the last station, and sessions that no station said anything of."""
        self._finish_station()
        for session in self._waiting.values():
            self._rebuild(session, Heard())
        for station, action, at, _ in self._missing.gone:
            what = "Its raw frame is gone although older ones are kept: what it said can no longer be proven."
            subject = f"{station} {action} of {at:%Y-%m-%d %H:%M:%S}"
            self._differ("G1", subject, what, 1, 0)
        return self._result

    def _finish_station(self) -> None:
        for session_id, heard in self._heard.items():
            self._rebuild(self._waiting.pop(session_id), heard)
        self._heard = {}

    def _rebuild(self, session: Session, heard: Heard) -> None:
        reason = _why_not_provable(session, heard, self._missing, self._dump)
        if reason is not None:
            self._result.not_provable[reason] += 1
            return
        energies = possible_energies(session, heard, self._concluded.get(session.id))
        # Inside the bounds the books are as good a witness as any; outside, the nearest bound is what was proven.
        self._result.energies[session.id] = min(max(session.energy_wh, min(energies)), max(energies))

    def take(self, row: Mapping[str, Any]) -> None:
        """One raw fact with the answer that was stored for it."""
        payload, station, action = parsed(row["payload"]), row["station_id"], row["action"]
        if station != self._station:
            self._finish_station()
            self._station = station
        named = parsed(row["response"]) if action == "StartTransaction" else payload
        ref = str(named.get("transactionId"))
        by_name = self._by_ref.get((station, ref)) if _is_ref(named.get("transactionId")) else None
        self._compare(station, action, ref, by_name, row)
        owner = by_name if by_name is not None else row["session_id"]
        if owner is None or owner not in self._waiting:
            return  # of no session, or (which is a difference above) of another station's
        heard = self._heard.setdefault(owner, Heard())
        heard.started |= action == "StartTransaction"
        heard.messages.append(Message(action=action, payload=payload, at=row["at"], state=row["state"]))

    def _compare(self, station: str, action: str, ref: str, by_name: UUID | None, row: Mapping[str, Any]) -> None:
        """The name in the message against the session that the server booked it to."""
        if row["state"] != "applied" or (by_name is not None and row["session_id"] == by_name):
            return
        if by_name is None and not (action == "StartTransaction" and self._all):
            return
        subject = f"{station} {action} of {row['at']:%Y-%m-%d %H:%M:%S}"
        found = str(row["session_id"] or "none")
        if by_name is None:
            what = f"It was answered with transaction {ref}, and no session has it."
            self._differ("G2", subject, what, f"a session with transaction {ref}", found)
        elif not self._came_before(by_name, row):
            what = f"It names transaction {ref} and was booked to another session."
            self._differ("G2", subject, what, str(by_name), found)

    def _differ(self, rule: str, subject: str, what: str, expected: int | str, found: int | str) -> None:
        self._result.differences.append(
            Difference(rule=rule, subject=subject, what=what, expected=expected, found=found)
        )

    def _came_before(self, session_id: UUID, row: Mapping[str, Any]) -> bool:
        """Whether it was a stray when it came: the session was made from such readings later."""
        session = self._known.get(session_id)
        return row["session_id"] is None and session is not None and session.origin == "orphan"


def _is_ref(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def _concluded(dump: Dump) -> dict[UUID, datetime]:
    """When the server first ended or reopened a session on its own conclusion."""
    concluded: dict[UUID, datetime] = {}
    for finding in dump.findings:
        if finding.session_id is not None and finding.kind in CONCLUDED:
            earlier = concluded.get(finding.session_id, finding.found_at)
            concluded[finding.session_id] = min(earlier, finding.found_at)
    return concluded


def _why_not_provable(session: Session, heard: Heard, missing: MissingFrames, dump: Dump) -> str | None:
    if session.id in missing.trimmed:
        return TRIMMED
    if session.id in dump.changed_by_hand:
        return BY_HAND
    if session.origin == "orphan":
        return FOUND
    if session.started_at is not None and not heard.started:
        return TRIMMED
    return None


def possible_energies(session: Session, heard: Heard, concluded_at: datetime | None) -> list[int]:
    """What the messages can amount to: one figure, or two bounds where the server had ended the session itself.

    Readings that came after such an end count only if they prove that the session went on, which the frames alone
    do not tell; the station's own end decides anyway.
    """
    energies = [replay(heard.messages)]
    ended = next((m.at for m in heard.messages if m.action == "StopTransaction" and m.state == "applied"), None)
    if concluded_at is not None and (ended is None or concluded_at < ended):
        until = min(concluded_at, session.ended_at) if ended is None and session.ended_at else concluded_at
        early = [m for m in heard.messages if m.action != "MeterValues" or m.at < until]
        energies.append(replay(early))
    return energies


def replay(messages: Iterable[Message]) -> int:
    """The energy that messages amount to, in the order in which they arrived. Units: Wh."""
    meter, begun, ended, decided = Meter(), False, False, False
    for message in messages:
        payload = message.payload
        if message.state != "applied" or decided or (ended and "transactionId" not in payload):
            continue
        match message.action:
            case "StartTransaction" if not begun:
                begun = True
                at = placed_at(moment(payload.get("timestamp"), message.at), message.at)
                meter.begin(register_of(payload.get("meterStart")), at)
            case "MeterValues":
                meter.hear(readings_of(payload, message.at))
            case "StopTransaction":
                final = register_of(payload.get("meterStop"))
                # An end without a register leaves the question open for what follows and names the transaction.
                ended, decided = True, final is not None
                meter.hear(readings_of(payload, message.at, member="transactionData"))
                meter.finish(final, moment(payload.get("timestamp"), message.at))
            case _:
                pass
    return meter.energy_wh
