"""Facts that were answered while PostgreSQL was away: a SQLite file, written through to the disk at each append.

One row is one fact with the answer that its station got. Rows leave when they are in PostgreSQL. A file that
is damaged is set aside, never deleted, and what can be read of it is taken over; a file of another version is
left alone, and says so.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from voltledger.domain.identifiers import StationId, TransactionRef
from voltledger.errors import UserFacingError
from voltledger.logs import get_logger, log_failure
from voltledger.storage.errors import JournalUnavailable
from voltledger.storage.ports import JournalAnswer, JournaledFact

log = get_logger(__name__)
T = TypeVar("T")

VERSION = 1
APPLICATION_ID = 0x564C4A4E
"""Says in the file's head that this is a journal of voltledger."""

_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE IF NOT EXISTS fact (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  station_id TEXT NOT NULL,
  version TEXT NOT NULL,
  action TEXT NOT NULL,
  message_id TEXT NOT NULL,
  payload TEXT NOT NULL,
  epoch INTEGER NOT NULL,
  received_at TEXT NOT NULL,
  dedupe_key BLOB,
  transaction_ref TEXT,
  response TEXT NOT NULL,
  UNIQUE (station_id, dedupe_key)
);
CREATE INDEX IF NOT EXISTS fact_of_station ON fact (station_id);
CREATE TABLE IF NOT EXISTS trial (only_one INTEGER PRIMARY KEY, at TEXT NOT NULL);
"""
_COLUMNS = "station_id, version, action, message_id, payload, epoch, received_at, dedupe_key, transaction_ref, response"
_INSERT = f"INSERT INTO fact ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_READ = f"SELECT number, {_COLUMNS} FROM fact WHERE number > ? ORDER BY number LIMIT ?"


class OtherVersion(UserFacingError):
    """The file was written by another version of the program; nothing of it was changed."""


class SqliteJournal:
    """A `FactJournal` in one file; see there for what the methods promise.

    `max_bytes` bounds the file: beyond it nothing is taken any more. All work on the file happens in one
    thread of its own, one unit after the other, so that the event loop never waits for the disk.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._file: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Opens or makes the file; sets a damaged one aside and saves what can be read of it.

        Raises: JournalUnavailable when the folder cannot be written, OtherVersion for a file that this
        program does not understand.
        """
        await self._do(self._open)

    async def close(self) -> None:
        """Closes the file; what is in it stays."""
        with contextlib.suppress(JournalUnavailable):
            await self._do(self._close)
        self._thread.shutdown()

    async def append(self, facts: Sequence[JournaledFact]) -> list[JournalAnswer]:
        """Keeps facts: on the disk when this returns."""
        return await self._do(lambda: self._append(facts))

    async def oldest(self, after: int, limit: int) -> list[JournaledFact]:
        """The facts behind a number, in order."""
        return await self._do(lambda: [_fact(row) for row in self._sql(_READ, after, limit)])

    async def remove(self, numbers: Sequence[int]) -> None:
        """Forgets facts that are in PostgreSQL; an emptied file gives its space back."""
        await self._do(lambda: self._remove(numbers))

    async def waiting(self) -> dict[StationId, int]:
        """How many facts of each station wait."""
        rows = await self._do(lambda: list(self._sql("SELECT station_id, count(*) FROM fact GROUP BY station_id")))
        return {StationId(str(station)): int(str(count)) for station, count in rows}

    # --- in the journal's own thread -----------------------------------------------------------------

    async def _do(self, work: Callable[[], T]) -> T:
        try:
            # Shielded: a caller that goes away must not leave the thread's result to nobody half-way.
            return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
        except (sqlite3.Error, OSError) as error:
            raise JournalUnavailable(f"{self.path.name}: {error}") from error

    def _sql(self, statement: str, *values: object) -> Iterator[tuple[object, ...]]:
        if self._file is None:
            raise sqlite3.OperationalError("the journal is not open")
        return iter(self._file.execute(statement, values).fetchall())

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._file = _connect(self.path)
            return
        except sqlite3.DatabaseError as damage:
            if not _is_damage(damage):
                raise
            self._begin_anew(damage)

    def _begin_anew(self, damage: Exception) -> None:
        """Sets a damaged file aside and takes over what can be read of it."""
        aside = self.path.with_name(f"{self.path.stem}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.sqlite")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self._file = _connect(self.path)
        saved = _salvage(aside)
        self._append(saved)
        log_failure(
            log,
            "the journal was damaged; it is set aside, and what could be read of it is taken over: compare the "
            "stations named in it with their own records (voltledger journal --file)",
            problem=str(damage),
            set_aside=aside.name,
            facts_saved=len(saved),
        )

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, facts: Sequence[JournaledFact]) -> list[JournalAnswer]:
        if self._file is None:
            raise sqlite3.OperationalError("the journal is not open")
        if self._size() > self._max_bytes:
            raise sqlite3.OperationalError("the journal has reached VOLTLEDGER_JOURNAL_MAX_MB")
        answers = []
        with _transaction(self._file):
            if not facts:
                self._file.execute("INSERT OR REPLACE INTO trial VALUES (1, ?)", (datetime.now(UTC).isoformat(),))
            for fact in facts:
                inserted = self._file.execute(_INSERT, _row(fact)).rowcount == 1
                response = fact.response if inserted else self._answer_of(fact)
                answers.append(JournalAnswer(response=response, new=inserted))
        return answers

    def _answer_of(self, fact: JournaledFact) -> str:
        rows = self._sql(
            "SELECT response FROM fact WHERE station_id = ? AND dedupe_key = ?", fact.station_id, fact.dedupe_key
        )
        return str(next(rows)[0])

    def _remove(self, numbers: Sequence[int]) -> None:
        if self._file is None:
            raise sqlite3.OperationalError("the journal is not open")
        with _transaction(self._file):
            self._file.executemany("DELETE FROM fact WHERE number = ?", [(number,) for number in numbers])
        if self._file_size() > 4_000_000 and not next(self._sql("SELECT EXISTS (SELECT 1 FROM fact)"))[0]:
            self._file.execute("VACUUM")
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _size(self) -> int:
        """Bytes in use: what rows that are gone have left behind is used again."""
        pages = next(
            self._sql(
                "SELECT (page_count - freelist_count) * page_size "
                "FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()"
            )
        )
        wal = self.path.with_name(self.path.name + "-wal")
        return int(str(pages[0])) + (wal.stat().st_size if wal.exists() else 0)

    def _file_size(self) -> int:
        wal = self.path.with_name(self.path.name + "-wal")
        return sum(part.stat().st_size for part in (self.path, wal) if part.exists())


@contextlib.contextmanager
def _transaction(file: sqlite3.Connection) -> Iterator[None]:
    """Everything inside is on the disk when it ends, or nothing is."""
    file.execute("BEGIN IMMEDIATE")
    try:
        yield
        file.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if file.in_transaction:
            file.execute("ROLLBACK")
        raise


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """The file, checked. Raises: sqlite3.DatabaseError, OtherVersion."""
    address = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    file = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=2)
    try:
        version = file.execute("PRAGMA user_version").fetchone()[0]
        found = file.execute("PRAGMA application_id").fetchone()[0]
        empty = version == 0 and found == 0 and not file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and (version, found) != (VERSION, APPLICATION_ID):
            raise OtherVersion(
                f"{path} is not a journal that this version understands (version {version}, ours {VERSION}): empty it "
                "with the version that wrote it (voltledger journal --drain), or move it out of the data folder"
            )
        if not read_only:
            file.execute("PRAGMA journal_mode = WAL")
            # The default loses the last appends when the power fails; an answered fact must not be lost.
            file.execute("PRAGMA synchronous = FULL")
            file.executescript(_SCHEMA)
        broken = file.execute("PRAGMA quick_check(1)").fetchone()[0]
        if broken != "ok":
            raise sqlite3.DatabaseError(f"malformed: {broken}")
    except BaseException:
        file.close()
        raise
    return file


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error says that the file itself is broken, not that it cannot be used now."""
    return not isinstance(error, sqlite3.OperationalError) or "malformed" in str(error)


def _salvage(path: Path) -> list[JournaledFact]:
    """What can be read of a damaged file, from both of its ends towards the damage."""
    found: dict[int, JournaledFact] = {}
    for order in ("ASC", "DESC"):
        with (
            contextlib.suppress(sqlite3.Error, ValueError, TypeError),
            contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file,
        ):
            for row in file.execute(f"SELECT number, {_COLUMNS} FROM fact NOT INDEXED ORDER BY number {order}"):
                fact = _fact(row)
                found[fact.number] = fact
    return [found[number] for number in sorted(found)]


def _row(fact: JournaledFact) -> tuple[object, ...]:
    return (
        fact.station_id,
        fact.version,
        _storable(fact.action),
        _storable(fact.message_id),
        _storable(fact.payload),
        fact.epoch,
        fact.received_at.isoformat(),
        fact.dedupe_key,
        fact.transaction_ref,
        fact.response,
    )


def _storable(text: str) -> str:
    """Text without lone surrogates, which JSON can name and no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _fact(row: tuple[object, ...]) -> JournaledFact:
    number, station, version, action, message_id, payload, epoch, received_at, key, ref, response = row
    return JournaledFact(
        number=int(str(number)),
        station_id=StationId(str(station)),
        version=str(version),
        action=str(action),
        message_id=str(message_id),
        payload=str(payload),
        epoch=int(str(epoch)),
        received_at=datetime.fromisoformat(str(received_at)),
        dedupe_key=key if isinstance(key, bytes) else None,
        transaction_ref=None if ref is None else TransactionRef(str(ref)),
        response=str(response),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalReport:
    """What is in a journal file, for a person. Sizes in bytes; `problem` says why it could not be read."""

    path: Path
    facts: int
    stations: dict[str, int]
    oldest: datetime | None
    newest: datetime | None
    size: int
    problem: str | None = None


def inspect_journal(path: Path) -> JournalReport:
    """Looks into a journal without changing it, also while a server writes it. Raises: nothing."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with contextlib.closing(_connect(path, read_only=True)) as file:
            stations = dict(file.execute("SELECT station_id, count(*) FROM fact GROUP BY station_id ORDER BY 1"))
            first, last = file.execute("SELECT min(received_at), max(received_at) FROM fact").fetchone()
    except (sqlite3.Error, OtherVersion, OSError) as error:
        return JournalReport(path=path, facts=0, stations={}, oldest=None, newest=None, size=size, problem=str(error))
    return JournalReport(
        path=path,
        facts=sum(stations.values()),
        stations=stations,
        oldest=None if first is None else datetime.fromisoformat(first),
        newest=None if last is None else datetime.fromisoformat(last),
        size=size,
    )
