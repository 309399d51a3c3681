"""The `voltledger` command."""

import asyncio
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from voltledger import __version__
from voltledger.bootstrap import driver_dsn, migrate_database, open_catalog, open_sync
from voltledger.cli.demo import demo_settings, refuse_foreign_database, run_demo
from voltledger.cli.doctor import examine
from voltledger.cli.journal import journal
from voltledger.cli.manage import GROUPS, Json, settings_here
from voltledger.cli.numbers import Whole
from voltledger.cli.output import emit, emit_rows, out
from voltledger.cli.records import RECORDS, dsn, session_id_of, sql
from voltledger.cli.serve import run_loop, serve_until_stopped
from voltledger.cli.servers import command_database
from voltledger.cli.story import tell
from voltledger.cli.verify import verify
from voltledger.config import Address, Settings, describe_settings
from voltledger.domain.errors import DomainError
from voltledger.embedded.folder import make_folder
from voltledger.errors import UserFacingError
from voltledger.simulator import Behaviours, FleetProgress, Progress, simulate
from voltledger.storage.errors import StorageError, StoreUnavailable

COMPLAIN_S = 5.0

EPILOGUE = "Settings are environment variables or lines of .env in the working folder:\n\n" + "\n".join(
    f"{row.variable:34} {row.meaning} (default {row.default})" for row in describe_settings()
)

app = App(
    name="voltledger",
    help="The central system for EV charging whose books always agree with what the stations did.",
    version=__version__,
    error_console=Console(stderr=True),
)
for group in (*GROUPS, *RECORDS):
    app.command(group)
app.command(dsn)
app.command(sql)
app.command(verify)
app.command(journal)


@app.command(help_epilogue=EPILOGUE, help_format="plaintext")
def serve(*, workers: Whole = 1, http: str | None = None, ocpp: str | None = None) -> None:
    """Runs the server: stations on one port, API and dashboard on another.

    Example: voltledger serve --http 127.0.0.1:8080 --ocpp 0.0.0.0:9000
    """
    serve_until_stopped(_with(settings_here(), workers=workers, http=http, ocpp=ocpp))


@app.command
def demo(*, http: str | None = None, ocpp: str | None = None) -> None:
    """Runs the server with a small simulated fleet that charges, pays and misbehaves.

    Example: voltledger demo
    """
    settings = settings_here()
    refuse_foreign_database(settings)
    given = frozenset(row.field for row in describe_settings() if row.variable in os.environ)
    serve_until_stopped(demo_settings(_with(settings, workers=1, http=http, ocpp=ocpp), given), run_demo)


def _with(settings: Settings, *, workers: int, http: str | None, ocpp: str | None) -> Settings:
    changes: dict[str, object] = {"workers": max(workers, settings.workers)}
    for name, text in (("http", http), ("ocpp", ocpp)):
        if text is not None:
            host, _, port = text.rpartition(":")
            if not port.isdecimal() or not 0 <= int(port) <= 65535:
                raise UserFacingError(f"--{name} must be HOST:PORT, not {text!r}")
            changes[name] = Address(host or "127.0.0.1", int(port))
    return msgspec.structs.replace(settings, **changes)


@app.command(name="simulate")
def simulate_command(
    *,
    url: str = "ws://127.0.0.1:9000",
    stations: Whole = 5,
    password: str | None = None,
    prefix: str = "SIM",
    token: tuple[str, ...] = ("SIMTOKEN01",),
    seed: Whole = 1,
    sessions: Whole | None = None,
    duration_s: float | None = None,
    time_scale: float = 1.0,
    session_s: tuple[float, float] = (1200.0, 3600.0),
    idle_s: tuple[float, float] = (60.0, 600.0),
    sample_s: float = 60.0,
    misbehave: Annotated[tuple[str, ...], Parameter(help="Such as lost_stop=0.1; repeat for more.")] = (),
    journal: Path | None = None,
    json: Json = False,
) -> None:
    """Runs stations that charge against a server, and keeps a journal of what each really did.

    The stations are registered first (voltledger station add SIM-0001 --password ...), the token too. The journal is
    simulate-journal.jsonl in the data folder if none is named. Ends with 1 if no station could connect.

    Example: voltledger simulate --stations 10 --password secret --misbehave lost_stop=0.1 --time-scale 60
    """

    if stations < 1:
        raise UserFacingError(f"--stations must be 1 or more, not {stations}")
    journal = journal or _journal_here()

    async def run() -> FleetProgress:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        return await simulate(
            url,
            stations,
            journal=journal,
            seed=seed,
            passwords=None if password is None else (lambda _: password),
            prefix=prefix,
            tokens=token,
            sessions_per_station=sessions,
            duration_s=duration_s,
            time_scale=time_scale,
            session_s=session_s,
            idle_s=idle_s,
            sample_interval_s=sample_s,
            behaviours=_behaviours(misbehave),
            progress=_complaint(url),
            stop=stop,
        )

    done = run_loop(run())
    if done.reached == 0:
        raise UserFacingError(_nobody_connected(url, done.last_failure))
    emit(done, json=json, text=f"{_done(done)}\nWhat each station really did stands in {journal}")


def _journal_here() -> Path:
    data = settings_here().data
    make_folder(data)
    return data / "simulate-journal.jsonl"


def _complaint(url: str) -> Progress:
    """Says once what to do while no station gets in: a fleet without an end would try for ever in silence."""
    told = False

    def complain(progress: FleetProgress) -> None:
        nonlocal told
        if not told and progress.elapsed_s > COMPLAIN_S and progress.reached == 0 and progress.last_failure:
            told = True
            message = _nobody_connected(url, progress.last_failure)
            print(f"voltledger: {message}; the stations go on trying until Ctrl-C", file=sys.stderr, flush=True)

    return complain


def _nobody_connected(url: str, failure: str | None) -> str:
    if failure is not None and failure.startswith("HTTP 40"):
        remedy = (
            "register each station (voltledger station add SIM-0001 --password PASSWORD; --prefix and --stations make "
            "the names) and give the same --password here"
        )
    else:
        remedy = "start the server with voltledger serve, or name its address with --url"
    return f"no station could connect to {url} ({failure or 'not tried long enough'}): {remedy}"


def _done(done: FleetProgress) -> str:
    lines = [
        f"{done.reached} of {done.stations} stations connected; {done.sessions_begun} sessions began, "
        f"{done.sessions_ended} ended; {done.messages_sent} messages sent, {done.messages_answered} answered, "
        f"{done.messages_timed_out} timed out, {done.messages_waiting} wait."
    ]
    if done.reached < done.stations:
        lines.append(f"Stations that never got in: {done.stations - done.reached} ({done.last_failure}).")
    return "\n".join(lines)


def _behaviours(given: Sequence[str]) -> Behaviours:
    try:
        return Behaviours.of({name: _share(text, share) for text in given for name, _, share in (text.partition("="),)})
    except ValueError as error:
        raise UserFacingError(f"--misbehave: {error}") from None


def _share(text: str, share: str) -> float:
    try:
        number = float(share)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"{text!r} is not NAME=SHARE with a share from 0 to 1, such as lost_stop=0.1 for a tenth")
    return number


@app.command(name="migrate")
def migrate_command(*, json: Json = False) -> None:
    """Brings the database to this program's schema. Example: voltledger migrate"""
    with command_database(settings_here()) as dsn:
        try:
            applied = list(asyncio.run(migrate_database(dsn)))
        except StoreUnavailable as error:
            raise UserFacingError(f"PostgreSQL does not answer ({error}): start it or correct DATABASE_URL") from error
    emit({"applied": applied}, json=json, text=f"applied: {', '.join(applied) or 'nothing, it is up to date'}")


@app.command
def doctor(*, json: Json = False) -> None:
    """Checks what could lose data or keep the server from starting. Example: voltledger doctor"""
    findings = examine(settings_here())
    emit_rows(findings, {"state": "", "what": "checked", "text": "found"}, json=json, empty="")
    if any(finding.state == "failure" for finding in findings):
        sys.exit(1)


@app.command
def reconcile(*, once: bool = True, dry_run: bool = False, json: Json = False) -> None:
    """Compares stations, sessions and books once and repairs; --dry-run only says what it would do.

    Example: voltledger reconcile --dry-run
    """
    settings = settings_here()

    async def run(dsn: str) -> list[object]:
        async with open_sync(settings, dsn) as sync:
            return list(await sync.run(dry_run=dry_run))

    with command_database(settings) as dsn:
        steps = asyncio.run(run(dsn))
    columns = {
        "what": "what",
        "station_id": "station",
        "evse_id": "connector",
        "session_id": "session",
        "why": "why",
    }
    emit_rows(steps, columns, json=json, empty="Everything agrees.")
    if dry_run and steps and not json:
        out.print("Nothing was changed: this was a dry run.")


@app.command
def explain(session: str, *, json: Json = False) -> None:
    """Tells a session's story and why each amount is what it is.

    Example: voltledger explain 01890a5d-ac96-774b-bcce-b302099a8057
    """
    session_id = session_id_of(session)
    settings = settings_here()

    async def run(dsn: str) -> tuple[object, str]:
        async with open_catalog(settings, dsn) as catalog:
            return await tell(catalog, session_id)

    with command_database(settings) as dsn:
        story, text = asyncio.run(run(dsn))
    emit(story, json=json, text=text)


def main() -> None:
    """Runs the command line; errors that a person can mend are one line, without a traceback."""
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except UserFacingError as error:
        _fail(str(error), error.exit_status)
    except (DomainError, StorageError) as error:
        _fail(str(error), 1)
    except CycloptsError as error:
        _fail(f"{str(error).strip()} (voltledger --help shows what there is)", 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str, status: int) -> None:
    print(f"voltledger: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


__all__ = ["app", "driver_dsn", "main"]
