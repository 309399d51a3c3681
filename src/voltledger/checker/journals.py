"""What the stations themselves wrote down: true sessions, and every transaction message with what became of it.

A journal is JSON Lines; several files and several runs make one truth. A line torn by the death of its writer may stand
at the end of a run; any other line that cannot be read makes the journal useless, and that is said.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from voltledger.checker.content import content_of
from voltledger.checker.errors import CheckerError


class Fate(StrEnum):
    """What became of a transaction message, as far as its station knows."""

    QUEUED = "queued"  # the station still means to send it
    ANSWERED = "answered"  # the station has its answer
    DISCARDED = "discarded"  # given up after the last counted attempt
    FORGOTTEN = "forgotten"  # never sent, or sent without waiting: a fault of the firmware
    LOST = "lost"  # gone with the station's memory, or with its simulator


class Line(msgspec.Struct, kw_only=True):
    """One line, as far as the checker needs it. Units: Wh, real time."""

    at: datetime
    station: str
    kind: str
    run: str = ""
    connector: int | None = None
    session: int | None = None
    register_wh: int | None = None
    token: str | None = None
    behaviour: str | None = None
    fact: int | None = None
    message_id: str | None = None
    action: str | None = None
    payload: dict[str, Any] | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One sending of a message. `content` names its payload whatever the order of members."""

    message_id: str
    payload: dict[str, Any]
    content: bytes
    ignored: bool = False  # the station threw the answer away
    timed_out: bool = False


@dataclass(slots=True, kw_only=True)
class Answer:
    """One answer that reached the station, used or not."""

    attempt: Attempt
    payload: dict[str, Any] | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class TrueFact:
    """One transaction message, across all its attempts."""

    run: str
    station: str
    number: int
    action: str
    session: int | None
    fate: Fate = Fate.QUEUED
    attempts: list[Attempt] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.station} message {self.number} ({self.action})"

    @property
    def good_answers(self) -> list[Answer]:
        """Answers that are no errors, also those that came late or were thrown away."""
        return [answer for answer in self.answers if answer.error is None and answer.payload is not None]


@dataclass(slots=True, kw_only=True)
class TrueSession:
    """One car's visit as it was. Units: registers in Wh; `register_wh` is the last one known."""

    run: str
    station: str
    number: int
    connector: int
    token: str
    behaviour: str
    began_at: datetime
    start_register_wh: int
    register_wh: int
    ended_at: datetime | None = None
    facts: list[TrueFact] = field(default_factory=list)

    @property
    def energy_wh(self) -> int:
        """What the car took."""
        return self.register_wh - self.start_register_wh

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.station} session {self.number} ({self.behaviour})"

    def of(self, action: str) -> list[TrueFact]:
        """Its messages of one kind."""
        return [fact for fact in self.facts if fact.action == action]

    @property
    def transaction_refs(self) -> list[str]:
        """The transaction ids it was given, each once; more than one is a fault that G4 names."""
        refs = {
            str(answer.payload["transactionId"]): None
            for fact in self.of("StartTransaction")
            for answer in fact.good_answers
            if answer.payload is not None and "transactionId" in answer.payload
        }
        return list(refs)


@dataclass(slots=True, kw_only=True)
class Journals:
    """The truth of all stations together."""

    sessions: list[TrueSession] = field(default_factory=list)
    facts: list[TrueFact] = field(default_factory=list)
    asides: set[tuple[str, str, bytes]] = field(default_factory=set)  # said outside the queue, such as triggered values

    @property
    def stations(self) -> set[str]:
        """Stations that the journals know."""
        return {s.station for s in self.sessions} | {f.station for f in self.facts}


_decoder = msgspec.json.Decoder(Line)


def read_journals(paths: Sequence[Path | str]) -> Journals:
    """The truth that some journals tell. Raises: CheckerError for one that cannot be read."""
    journals = Journals()
    for path in paths:
        _add(journals, list(_lines(Path(path))))
    return journals


def _lines(path: Path) -> Iterable[Line]:
    """All lines; a torn one is left out if it is the last of its run."""
    torn = ""
    try:
        texts = path.read_bytes().splitlines()
    except OSError as error:
        raise CheckerError(f"{path} cannot be read ({error.strerror}): name the journal of the stations") from error
    for number, text in enumerate(texts, 1):
        try:
            line = _decoder.decode(text)
        except msgspec.MsgspecError as error:
            if torn:
                raise CheckerError(f"{torn}: take the journal as its stations wrote it") from error
            torn = f"{path}, line {number} is damaged ({error})"
            continue
        if torn and line.kind != "run":
            raise CheckerError(f"{torn}: take the journal as its stations wrote it")
        torn = ""
        yield line


def _add(journals: Journals, lines: list[Line]) -> None:
    reader = _Reader()
    last_run = next((line.run for line in reversed(lines) if line.run), "")
    for line in lines:
        reader.take(line)
    for fact in reader.facts.values():
        if fact.fate is Fate.QUEUED and fact.run != last_run:
            fact.fate = Fate.LOST  # its simulator is gone, and with it the queue
    journals.sessions.extend(reader.sessions.values())
    journals.facts.extend(reader.facts.values())
    journals.asides |= reader.asides


class _Reader:
    """Turns lines into facts and sessions, one file at a time."""

    def __init__(self) -> None:
        self.sessions: dict[tuple[str, str, int], TrueSession] = {}
        self.facts: dict[tuple[str, str, int], TrueFact] = {}
        self.asides: set[tuple[str, str, bytes]] = set()
        self._sent: dict[tuple[str, str, str], tuple[TrueFact, Attempt]] = {}

    def take(self, line: Line) -> None:
        if line.session is not None:
            self._take_session(line)
        if line.kind == "late_answer":
            self._take_answer(line)
        elif line.fact is not None:
            self._take_fact(line, self._fact(line))
        elif line.kind == "sent":
            # Its id may have been a fact's before: an answer from now on is not that fact's.
            self._sent.pop((line.run, line.station, line.message_id or ""), None)
            if line.payload is not None:
                self.asides.add((line.station, line.action or "", content_of(line.payload)))

    def _take_session(self, line: Line) -> None:
        key = (line.run, line.station, line.session or 0)
        session = self.sessions.get(key)
        register = line.register_wh or 0
        if session is None:
            if line.kind == "session_begin":
                self.sessions[key] = TrueSession(
                    run=line.run,
                    station=line.station,
                    number=line.session or 0,
                    connector=line.connector or 0,
                    token=line.token or "",
                    behaviour=line.behaviour or "normal",
                    began_at=line.at,
                    start_register_wh=register,
                    register_wh=register,
                )
            return
        if session.ended_at is None:
            session.register_wh = max(session.register_wh, register)
            if line.kind == "session_end":
                session.ended_at = line.at

    def _fact(self, line: Line) -> TrueFact:
        key = (line.run, line.station, line.fact or 0)
        fact = self.facts.get(key)
        if fact is None:
            fact = TrueFact(
                run=line.run,
                station=line.station,
                number=line.fact or 0,
                action=line.action or "",
                session=line.session,
            )
            self.facts[key] = fact
            session = self.sessions.get((line.run, line.station, line.session or 0))
            if session is not None:
                session.facts.append(fact)
        return fact

    def _take_fact(self, line: Line, fact: TrueFact) -> None:
        match line.kind:
            case "sent":
                payload = line.payload or {}
                attempt = Attempt(message_id=line.message_id or "", payload=payload, content=content_of(payload))
                fact.attempts.append(attempt)
                # A station that counts its messages uses an id again: the latest sending counts.
                self._sent[(line.run, line.station, attempt.message_id)] = (fact, attempt)
            case "answered" | "answer_ignored":
                self._take_answer(line)
                if line.kind == "answered" and line.error is None:
                    fact.fate = Fate.ANSWERED
            case "timed_out" if fact.attempts:
                fact.attempts[-1].timed_out = True
            case "discarded":
                fact.fate = Fate.DISCARDED
            case "forgotten":
                fact.fate = Fate.FORGOTTEN
            case "lost":
                fact.fate = Fate.LOST
            case _:
                pass

    def _take_answer(self, line: Line) -> None:
        sent = self._sent.get((line.run, line.station, line.message_id or ""))
        if sent is None:
            return
        fact, attempt = sent
        attempt.ignored |= line.kind == "answer_ignored"
        fact.answers.append(Answer(attempt=attempt, payload=line.payload, error=line.error))
