"""What could lose data or keep the server from starting, each with its remedy."""

import asyncio
import errno
import http.client
import json
import resource
import socket
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from voltledger.bootstrap import driver_dsn
from voltledger.config import Address, Settings
from voltledger.embedded import find_running_postgres
from voltledger.storage.errors import SchemaMismatch
from voltledger.storage.postgres.migrate import pending

UNSAFE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
OPEN_FILES_WANTED = 4096


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """One line: ok, warning or failure, with the remedy in its text."""

    state: str
    what: str
    text: str


def examine(settings: Settings) -> list[Examined]:
    """Checks database, ports, open-file limit. Effects: connects, binds and closes; changes nothing."""
    running = _running_version(settings.http)
    return [
        *asyncio.run(_database(settings)),
        _port("HTTP port", settings.http, running, "VOLTLEDGER_HTTP"),
        _port("station port", settings.ocpp, running, "VOLTLEDGER_OCPP"),
        _open_files(),
    ]


async def _database(settings: Settings) -> list[Examined]:
    dsn = driver_dsn(settings.database_url) if settings.database_url else find_running_postgres(settings.data)
    if dsn is None:
        return [_ok("PostgreSQL", "embedded, not running now: it starts with `voltledger serve`")]
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, TimeoutError) as error:
        return [
            _bad(
                "PostgreSQL",
                f"cannot connect ({type(error).__name__}: {error}): start it or correct DATABASE_URL",
            )
        ]
    try:
        return [*await _settings(connection), await _schema(connection), await _clock(connection)]
    finally:
        await connection.close()


async def _settings(connection: Any) -> list[Examined]:
    found = [_ok("PostgreSQL", f"version {await connection.fetchval('SHOW server_version')}")]
    for name, wanted in UNSAFE.items():
        value = await connection.fetchval(f"SHOW {name}")
        if value == wanted:
            found.append(_ok(name, "on"))
        else:
            found.append(_bad(name, f"is {value}: answered facts could be lost; set it to on in postgresql.conf"))
    return found


async def _schema(connection: Any) -> Examined:
    try:
        missing = await pending(connection)
    except SchemaMismatch as error:
        return _bad("schema", str(error))
    if missing:
        return Examined(state="warning", what="schema", text=f"lacks {', '.join(missing)}: run voltledger migrate")
    return _ok("schema", "up to date")


async def _clock(connection: Any) -> Examined:
    theirs = await connection.fetchval("SELECT clock_timestamp()")
    apart = abs((datetime.now(UTC) - theirs).total_seconds())
    if apart > 2:
        return _bad("clock", f"{apart:.0f} s apart from the database's: synchronise both with NTP")
    return _ok("clock", f"{apart * 1000:.0f} ms apart from the database's")


def _port(what: str, address: Address, running: str | None, setting: str) -> Examined:
    """Free, used by our own server (`running` is its version), or taken by somebody else."""
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            if running is not None and error.errno == errno.EADDRINUSE:
                return _ok(what, f"{address} is used by the voltledger {running} that runs here")
            text = f"{address} cannot be had ({error.strerror}): end what uses it, or set {setting} to another address"
            return Examined(state="warning", what=what, text=text)
    return _ok(what, f"{address} is free")


def _running_version(address: Address) -> str | None:
    """The version of the voltledger that serves at an address; None if nothing or something else does."""
    host = "127.0.0.1" if address.host in ("0.0.0.0", "") else "::1" if address.host == "::" else address.host
    connection = http.client.HTTPConnection(host, address.port, timeout=2)
    try:
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read(100_000))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    ours = isinstance(health, dict) and {"stations_connected", "findings_open", "journal", "version"} <= health.keys()
    return str(health["version"]) if ours else None


def _open_files() -> Examined:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < OPEN_FILES_WANTED:
        text = f"{soft}: each station needs one; raise it with ulimit -n {OPEN_FILES_WANTED}"
        return Examined(state="warning", what="open files", text=text)
    return _ok("open files", str(soft))


def _ok(what: str, text: str) -> Examined:
    return Examined(state="ok", what=what, text=text)


def _bad(what: str, text: str) -> Examined:
    return Examined(state="failure", what=what, text=text)
