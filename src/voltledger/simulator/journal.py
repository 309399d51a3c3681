"""What each simulated station really did, one JSON line per fact, for a checker that trusts nobody.

Each line is one write to an append-only file, so everything up to the last whole line survives `kill -9` of
the simulator. A journal may hold several runs; a session is named by run, station and number.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec

from voltledger.simulator.errors import JournalDamaged


class Kind(StrEnum):
    """What a journal line says."""

    RUN = "run"  # a simulator process opened the journal
    CONNECTED = "connected"  # the WebSocket is open
    CONNECT_FAILED = "connect_failed"  # the server could not be reached or refused the handshake
    DISCONNECTED = "disconnected"  # the WebSocket is gone, whoever closed it
    BOOT = "boot"  # the server answered a BootNotification
    SESSION_BEGIN = "session_begin"  # truth: a car begins to take energy
    SESSION_END = "session_end"  # truth: it took `energy_wh` and stopped
    QUEUED = "queued"  # a transaction message entered the station's queue
    SENT = "sent"  # a CALL was handed to the socket
    ANSWERED = "answered"  # its answer arrived and was used
    ANSWER_IGNORED = "answer_ignored"  # its answer arrived and the station behaves as if it had not
    LATE_ANSWER = "late_answer"  # an answer to a CALL the station no longer waits for
    TIMED_OUT = "timed_out"  # no answer to a CALL in time
    DISCARDED = "discarded"  # a transaction message given up after its last attempt
    FORGOTTEN = "forgotten"  # a fault of the firmware: a transaction message never sent, or not waited for
    LOST = "lost"  # a queued transaction message gone with the station's memory
    REFUSED = "refused"  # the server did not authorize the token; no car charged
    COMMAND = "command"  # the server called, and what the station answered
    POWER_LOSS = "power_loss"  # the station went dark
    RESTART = "restart"  # it restarts because the server asked for it
    POWER_UP = "power_up"  # and came back


class JournalLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fact.

    Units: registers and energy in Wh; `at` is real time, UTC, also when the station's own clock is wrong.
    """

    at: datetime
    station: str
    kind: Kind
    run: str = ""
    connector: int | None = None
    session: int | None = None
    register_wh: int | None = None
    energy_wh: int | None = None
    token: str | None = None
    behaviour: str | None = None
    reason: str | None = None
    fact: int | None = None  # names one transaction message across all its attempts
    attempt: int | None = None
    message_id: str | None = None
    action: str | None = None
    payload: dict[str, Any] | None = None
    error: str | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(JournalLine)


TRUTHS = frozenset(
    (Kind.RUN, Kind.SESSION_BEGIN, Kind.SESSION_END, Kind.FORGOTTEN, Kind.LOST, Kind.DISCARDED, Kind.REFUSED)
)
"""What is true of sessions, without what was said about them on the wire."""


class Journal:
    """The writing end, shared by all stations of one process.

    With `most_bytes` it keeps the truths only, and when the file would grow beyond that it becomes `NAME.1`, in
    place of an earlier one: a demonstration that runs for weeks fills no disk.

    Effects: one `write` to the file per line; an existing file is continued, never changed.
    """

    def __init__(self, path: Path | str, *, most_bytes: int | None = None) -> None:
        self.path = Path(path)
        self._most_bytes = most_bytes
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.run = uuid4().hex[:12]
        self.lines = 0
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._end_torn_line()
        self._bytes = os.fstat(self._fd).st_size
        self.write(JournalLine(at=datetime.now(UTC), station="", kind=Kind.RUN))

    def write(self, line: JournalLine) -> None:
        """Adds one line; it is in the operating system's hands when this returns."""
        if self._most_bytes is not None:
            if line.kind not in TRUTHS:
                return
            if line.kind is not Kind.RUN and self._bytes >= self._most_bytes:
                self._begin_anew()
        data = memoryview(_encoder.encode(msgspec.structs.replace(line, run=self.run)) + b"\n")
        self._bytes += len(data)
        while data:  # a short write happens on a full disk only
            data = data[os.write(self._fd, data) :]
        self.lines += 1

    def _begin_anew(self) -> None:
        os.close(self._fd)
        self.path.replace(older(self.path))
        self._open()

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end_torn_line(self) -> None:
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")


def older(path: Path | str) -> Path:
    """Where a journal of limited size keeps the part before its file."""
    path = Path(path)
    return path.with_name(f"{path.name}.1")


def read_journal(path: Path | str) -> Iterator[JournalLine]:
    """All lines, oldest first; also of a journal that is still being written.

    A line torn by the death of the simulator (the last of a run) is left out.

    Raises: JournalDamaged if any other line cannot be read.
    """
    torn: str | None = None
    with Path(path).open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = _decoder.decode(text)
            except msgspec.MsgspecError as error:
                if torn is not None:
                    raise JournalDamaged(torn) from error
                torn = f"{path}, line {number}: {error}"
                continue
            if torn is not None and line.kind is not Kind.RUN:
                raise JournalDamaged(torn)
            torn = None
            yield line


@dataclass(slots=True, kw_only=True)
class TrueSession:
    """One car's visit as it really was.

    Shapes: `transaction_ref` is what the station took from the answer to StartTransaction, else None;
            `stop_register_wh` of a session that has not ended is the last register known.
    Units:  registers and energy in Wh, exact.
    """

    run: str
    station: str
    number: int
    connector: int
    token: str
    behaviour: str
    began_at: datetime
    start_register_wh: int
    stop_register_wh: int
    transaction_ref: str | None = None
    ended: bool = False
    ended_at: datetime | None = None
    reason: str | None = None
    start_sent: bool = False
    start_answered: bool = False
    stop_sent: bool = False
    stop_answered: bool = False
    meter_values_answered: int = 0
    discarded: int = 0
    forgotten: int = 0
    lost: int = 0
    queued: set[int] = field(default_factory=set)  # facts still in the station's queue when the journal ends

    @property
    def pending(self) -> int:
        """How many of its messages the station still means to send."""
        return len(self.queued)

    @property
    def energy_wh(self) -> int:
        """What the car took, as far as is known."""
        return self.stop_register_wh - self.start_register_wh


def true_sessions(path: Path | str) -> list[TrueSession]:
    """Every session of a journal, in the order in which they began."""
    found: dict[tuple[str, str, int], TrueSession] = {}
    for line in read_journal(path):
        if line.session is None:
            continue
        key = (line.run, line.station, line.session)
        if line.kind is Kind.SESSION_BEGIN:
            found[key] = _begun(line)
        elif (session := found.get(key)) is not None:
            _learn(session, line)
    return list(found.values())


def last_registers(path: Path | str) -> dict[tuple[str, int], int]:
    """The last known register of each (station, connector), so that a later run continues its meters."""
    registers: dict[tuple[str, int], int] = {}
    for part in (older(path), Path(path)):
        for line in read_journal(part) if part.exists() else ():
            if line.connector is not None and line.register_wh is not None:
                registers[line.station, line.connector] = line.register_wh
    return registers


def _begun(line: JournalLine) -> TrueSession:
    register_wh = line.register_wh or 0
    return TrueSession(
        run=line.run,
        station=line.station,
        number=line.session or 0,
        connector=line.connector or 0,
        token=line.token or "",
        behaviour=line.behaviour or "normal",
        began_at=line.at,
        start_register_wh=register_wh,
        stop_register_wh=register_wh,
    )


def _learn(session: TrueSession, line: JournalLine) -> None:
    """Adds what one later line says about a session."""
    if line.register_wh is not None and not session.ended:
        session.stop_register_wh = max(session.stop_register_wh, line.register_wh)
    match line.kind:
        case Kind.SESSION_END:
            session.ended = True
            session.ended_at = line.at
            session.reason = line.reason
            session.stop_register_wh = line.register_wh or session.stop_register_wh
        case Kind.QUEUED if line.fact is not None:
            session.queued.add(line.fact)
        case Kind.SENT:
            session.start_sent |= line.action == "StartTransaction"
            session.stop_sent |= line.action == "StopTransaction"
        case Kind.ANSWERED if line.error is None:
            session.queued.discard(line.fact or 0)
            _learn_answer(session, line)
        case Kind.DISCARDED:
            session.queued.discard(line.fact or 0)
            session.discarded += 1
        case Kind.FORGOTTEN:
            session.queued.discard(line.fact or 0)
            session.forgotten += 1
        case Kind.LOST:
            session.queued.discard(line.fact or 0)
            session.lost += 1
        case _:
            pass


def _learn_answer(session: TrueSession, line: JournalLine) -> None:
    if line.action == "StartTransaction":
        session.start_answered = True
        if session.transaction_ref is None and line.payload is not None:
            session.transaction_ref = str(line.payload.get("transactionId"))
    elif line.action == "StopTransaction":
        session.stop_answered = True
    elif line.action == "MeterValues":
        session.meter_values_answered += 1
