"""`voltledger journal`: what waits on this node's disk for the database, and how to record it."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from voltledger.bootstrap import JournalReport, drain_journal, inspect_journal, journal_of
from voltledger.cli.manage import Json, settings_here
from voltledger.cli.output import emit, out
from voltledger.cli.servers import command_database
from voltledger.config import Settings
from voltledger.embedded import lock_data_folder
from voltledger.errors import UserFacingError


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A journal file, as `--json` shows it. Sizes in bytes; `problem` says why it could not be read."""

    file: str
    facts: int
    stations: dict[str, int]
    oldest: str | None
    newest: str | None
    bytes: int
    problem: str | None


def journal(*, drain: bool = False, file: Path | None = None, json: Json = False) -> None:
    """Shows facts that were answered while PostgreSQL was away and are not in it yet; --drain records them.

    A running server drains its own journal. For one that never comes back, copy its journal here and name it
    with --file: recording a fact that is recorded already changes nothing.

    Example: voltledger journal --file facts.sqlite --drain
    """
    settings = settings_here()
    own = journal_of(settings)
    path = own if file is None else file
    if file is not None and not path.is_file():
        raise UserFacingError(f"{path} is not a file: name a journal (facts.sqlite of another node)")
    if drain:
        _drain(settings, path, is_own=path.resolve() == own.resolve(), json=json)
        return
    reports = [inspect_journal(path)]
    if file is None:
        reports += [inspect_journal(aside) for aside in sorted(path.parent.glob("*.damaged-*.sqlite"))]
    for report in reports:
        emit(_listed(report), json=json, text=_told(report, is_own=report.path == own))
    if any(report.problem is not None and report.path == path and path.exists() for report in reports):
        sys.exit(1)


def _listed(report: JournalReport) -> Listed:
    return Listed(
        file=str(report.path),
        facts=report.facts,
        stations=report.stations,
        oldest=None if report.oldest is None else report.oldest.isoformat(),
        newest=None if report.newest is None else report.newest.isoformat(),
        bytes=report.size,
        problem=report.problem,
    )


def _told(report: JournalReport, *, is_own: bool) -> str:
    if not report.path.exists():
        return f"{report.path}: no journal yet; the server makes it when it starts"
    if report.problem is not None:
        kept = "" if is_own else " It was set aside; what could be read of it has been taken over."
        return f"{report.path}: cannot be read ({report.problem}).{kept}"
    if not report.facts:
        return f"{report.path}: empty, everything is in PostgreSQL"
    who = ", ".join(f"{station} ({count})" for station, count in list(report.stations.items())[:20])
    more = "" if len(report.stations) <= 20 else f" and {len(report.stations) - 20} more stations"
    when = "" if report.oldest is None or report.newest is None else f", from {report.oldest} to {report.newest}"
    what = "the server records them when PostgreSQL is back; without a server: voltledger journal --drain"
    return f"{report.path}: {report.facts} facts wait{when}\n  {who}{more}\n  {what}"


def _drain(settings: Settings, path: Path, *, is_own: bool, json: bool) -> None:
    lock: Any = lock_data_folder(settings.data) if is_own else None
    try:
        with command_database(settings) as dsn:
            recorded, left = asyncio.run(drain_journal(settings, dsn, path, _progress))
    finally:
        if lock is not None:
            lock.release()
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    emit(
        {"file": str(path), "recorded": recorded, "left": left},
        json=json,
        text=f"{recorded} facts are in PostgreSQL now, {left} still wait",
    )
    if left:
        if not json:
            out.print("PostgreSQL went away, or a row is locked: run the same command again")
        sys.exit(1)


def _progress(left: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{left} facts wait", end="", file=sys.stderr, flush=True)
