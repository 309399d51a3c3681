"""Commands on what has been recorded: sessions and findings, and the way into the database by hand."""

import asyncio
from typing import Any, Literal
from uuid import UUID

import asyncpg
from cyclopts import App

from voltledger.bootstrap import driver_dsn
from voltledger.cli.manage import Json, plain, settings_here, with_catalog
from voltledger.cli.numbers import Whole
from voltledger.cli.output import emit, emit_rows
from voltledger.cli.servers import command_database
from voltledger.embedded import find_running_postgres
from voltledger.errors import UserFacingError
from voltledger.services.catalog import FindingView, Session, energy_text, money_text

session = App(name="session", help="Charging sessions.")
finding = App(name="finding", help="Findings: reasons to doubt data, for an operator to decide.")

RECORDS = (session, finding)


def session_id_of(text: str) -> UUID:
    """A session's id. Raises: UserFacingError."""
    try:
        return UUID(text)
    except ValueError:
        raise UserFacingError(f"{text!r} is no session id: voltledger session list shows them") from None


@session.command(name="list")
def session_list(
    *,
    station: str | None = None,
    user: str | None = None,
    status: tuple[str, ...] = (),
    limit: Whole = 20,
    json: Json = False,
) -> None:
    """Lists sessions, the newest first; --status may be given several times.

    Example: voltledger session list --station CP-1 --status ONGOING --limit 50
    """
    page = with_catalog(
        lambda catalog: catalog.sessions(status=status or None, station=station, user=user, limit=limit)
    )
    columns = {
        "id": "session",
        "status": "status",
        "place": "station",
        "user": "user",
        "started": "started",
        "energy": "energy",
        "paid": "paid",
        "cost": "cost",
    }
    rows: list[Any] = list(page.items) if json else [_session_line(one) for one in page.items]
    emit_rows(rows, columns, json=json, empty="No session is like that: leave out a filter to see more.")


def _session_line(one: Session) -> dict[str, Any]:
    return {
        "id": one.id,
        "status": one.status,
        "place": f"{one.station}/{one.connector}",
        "user": one.user,
        "started": None if one.started_at is None else f"{one.started_at:%Y-%m-%d %H:%M}",
        "energy": energy_text(one.energy_wh),
        "paid": money_text(one.paid_minor, one.currency),
        "cost": money_text(one.cost_minor, one.currency),
    }


@session.command(name="show")
def session_show(id: str, *, json: Json = False) -> None:
    """Shows one session; `voltledger explain` tells its story.

    Example: voltledger session show 01890a5d-ac96-774b-bcce-b302099a8057
    """
    session_id = session_id_of(id)
    story = with_catalog(lambda catalog: catalog.explain(session_id))
    emit(story.session, json=json, text=f"{plain(story.session)}\n\n{story.sentence}")


@finding.command(name="list")
def finding_list(
    *,
    state: Literal["open", "repaired", "noted", "dismissed"] | None = None,
    kind: str | None = None,
    station: str | None = None,
    limit: Whole = 20,
    json: Json = False,
) -> None:
    """Lists findings, the newest first; the open ones wait for an operator.

    Example: voltledger finding list --state open
    """
    page = with_catalog(lambda catalog: catalog.findings(state=state, kind=kind, station=station, limit=limit))
    columns = {
        "id": "finding",
        "kind": "kind",
        "state": "state",
        "station": "station",
        "evse": "connector",
        "session": "session",
        "summary": "what",
    }
    emit_rows(page.items, columns, json=json, empty="No finding is like that: stations, cache and books agree.")


@finding.command(name="accept")
def finding_accept(id: Whole, *, json: Json = False) -> None:
    """Notes an open finding as true. Example: voltledger finding accept 17"""
    _decided(with_catalog(lambda catalog: catalog.close_finding(id, "accept")), json=json)


@finding.command(name="dismiss")
def finding_dismiss(id: Whole, *, json: Json = False) -> None:
    """Notes an open finding as nothing. Example: voltledger finding dismiss 17"""
    _decided(with_catalog(lambda catalog: catalog.close_finding(id, "dismiss")), json=json)


def _decided(found: FindingView, *, json: bool) -> None:
    emit(found, json=json, text=f"Finding {found.id} ({found.kind}) is {found.state}.")


def dsn(*, json: Json = False) -> None:
    """Prints the address of the database, password included; the embedded one has it while its server runs.

    Example: voltledger dsn
    """
    settings = settings_here()
    embedded = not settings.database_url
    address = find_running_postgres(settings.data) if embedded else driver_dsn(settings.database_url or "")
    if address is None:
        raise UserFacingError(
            f"the embedded PostgreSQL of {settings.data} does not run now: start it with voltledger serve and "
            'ask again, or let voltledger sql "SELECT ..." start it for one statement'
        )
    emit({"dsn": address, "embedded": embedded}, json=json, text=address)


def sql(statement: str, *, json: Json = False) -> None:
    """Runs one SQL statement on the database, the embedded one too, and prints its rows.

    Example: voltledger sql 'SELECT id, status FROM "ChargePoint"'
    """
    with command_database(settings_here()) as address:
        rows, told = asyncio.run(_run(address, statement))
    columns = {name: name for name in rows[0]} if rows else {}
    emit_rows(rows, columns, json=json, empty=told)


async def _run(address: str, statement: str) -> tuple[list[dict[str, Any]], str]:
    try:
        connection = await asyncpg.connect(address, timeout=10)
        try:
            prepared = await connection.prepare(statement)
            rows = [{name: _shown(value) for name, value in row.items()} for row in await prepared.fetch()]
            return rows, prepared.get_statusmsg() or "done"
        finally:
            await connection.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UserFacingError(f"the database refuses this statement: {error}") from None
    except OSError as error:
        raise UserFacingError(f"PostgreSQL does not answer ({error}): start it or correct DATABASE_URL") from None


def _shown(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
