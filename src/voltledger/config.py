"""All settings: one frozen class, read from the environment and from `.env`.

Rules:
- A setting is one field of `Settings` and one row of `_ROWS`: variable, how its text is read, unit, meaning.
  The help texts and the documentation come from `describe_settings()`, so there is no second list.
- The environment wins over `.env`. A variable that is set but empty counts as not set.
- An unknown `VOLTLEDGER_*` name or a bad value raises `ConfigError`: one line that says what to do.
- The text of a secret appears neither in the repr of the settings nor in an error message.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from voltledger.errors import ConfigError

LogFormat = Literal["human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

# Names the start script and the test suite read. Settings ignores them.
_SCRIPT_NAMES = frozenset({"VOLTLEDGER_ENV", "VOLTLEDGER_DEV"})
_TEST_PREFIX = "VOLTLEDGER_TEST_"
_HIDDEN = "********"


class Address(msgspec.Struct, frozen=True):
    """Where a listener binds."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of a running voltledger. Durations in seconds, money in minor units."""

    database_url: str | None = None
    redis_host: str | None = None
    redis_port: int = 6379
    redis_password: str | None = None
    data: Path
    http: Address = Address("127.0.0.1", 8080)
    ocpp: Address = Address("127.0.0.1", 9000)
    log: LogFormat = "human"
    log_file: Path
    log_level: LogLevel = "info"
    sync_interval_s: float = 60
    orphan_interval_s: float = 120
    cleanup_interval_s: float = 3600
    event_retention_s: float = 86400
    ghost_grace_s: float = 60
    orphan_grace_s: float = 60
    offline_grace_s: float = 1800
    stop_retries: int = 3
    reactivate_window_s: float = 3600
    platform_fee_percent: Decimal = Decimal(10)
    currency: str = "INR"
    local_hold_minor: int = 50_000
    pending_start_s: float = 180
    heartbeat_s: int = 300
    ping_s: float = 30
    call_timeout_s: float = 30
    hold_s: float = 8
    journal: bool = True
    journal_max_mb: int = 1024
    outage_unknown_tokens: str = "refuse"
    max_frame_bytes: int = 1_048_576
    unknown_station_status: int = 401
    insecure_dev: bool = False
    meter_sample_s: int = 60
    pool_size: int = 8
    workers: int = 1

    def __repr__(self) -> str:
        shown = []
        for row in _ROWS:
            value = getattr(self, row.field)
            shown.append(f"{row.field}={row.show(value)}")
        return f"Settings({', '.join(shown)})"

    __str__ = __repr__

    def __rich_repr__(self) -> Any:
        for row in _ROWS:
            yield row.field, row.show(getattr(self, row.field))


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDoc:
    """What a person needs to know of one setting."""

    variable: str
    field: str
    meaning: str
    unit: str
    default: str
    secret: bool


class _Bad(Exception):
    """The text of a value cannot be used; the message says what it should be."""


@dataclass(frozen=True, slots=True)
class _Row:
    variable: str
    field: str
    read: Callable[[str], Any]
    unit: str
    meaning: str
    default: str | None = None  # only where the class has none that can be shown
    secret: bool = False

    def show(self, value: object) -> str:
        if value is None:
            return "None"
        if self.field == "database_url":
            return repr(hide_url_password(str(value)))
        return _HIDDEN if self.secret else repr(value)


# --- Reading one value ----------------------------------------------------------------------------------


def _number(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise _Bad(f"must be a whole number from {least} to {most}")
        return int(text)

    return read


def _seconds(least: float, most: float = 31_536_000) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) or not least <= float(text) <= most:
            raise _Bad(f"must be a number of seconds from {_seconds_text(least)} to {_seconds_text(most)}")
        return float(text)

    return read


def _seconds_text(seconds: float) -> str:
    """A bound as people read it: 31536000 (365 days)."""
    for name, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size and seconds % size == 0:
            return f"{seconds:.0f} ({seconds / size:.0f} {name})"
    return f"{seconds:g}"


def _percent(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not (value.is_finite() and 0 <= value <= 100):
        raise _Bad("must be a number from 0 to 100")
    return value


def _choice(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise _Bad(
                f"must be {' or '.join(choices)}" if len(choices) < 3 else f"must be one of {', '.join(choices)}"
            )
        return text.lower()

    return read


def _switch(text: str) -> bool:
    words = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in words:
        raise _Bad("must be true or false")
    return words[text.lower()]


def _address(text: str) -> Address:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise _Bad("must be HOST:PORT, like 127.0.0.1:8080 or [::1]:8080")
    return Address(match[1].strip("[]"), int(match[2]))


def _host(text: str) -> str:
    if not re.fullmatch(r"[^\s/@?#]+", text):
        raise _Bad("must be a host name or an address")
    return text


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise _Bad("must be a currency code of three capital letters, like INR")
    return text


def _database_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise _Bad("must be a URL like postgresql://user:password@host:5432/database") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise _Bad("must be a URL like postgresql://user:password@host:5432/database")
    return text


def _path(text: str) -> Path:
    if "\0" in text:
        raise _Bad("must be a path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise _Bad("names a home folder that does not exist") from None


def _text(text: str) -> str:
    return text


# --- The table ------------------------------------------------------------------------------------------

_ROWS: tuple[_Row, ...] = (
    _Row(
        "DATABASE_URL",
        "database_url",
        _database_url,
        "URL",
        "PostgreSQL 15 or later to keep the books in.",
        "embedded PostgreSQL under the data folder",
        secret=True,
    ),
    _Row("REDIS_HOST", "redis_host", _host, "host", "Redis or Valkey server.", "embedded server"),
    _Row("REDIS_PORT", "redis_port", _number(1, 65535), "port", "Port of REDIS_HOST."),
    _Row("REDIS_PASSWORD", "redis_password", _text, "text", "Password of REDIS_HOST.", "none", secret=True),
    _Row(
        "VOLTLEDGER_DATA",
        "data",
        _path,
        "folder",
        "Where everything that must survive a restart is kept.",
        ".voltledger in a checkout, else voltledger in the XDG data folder",
    ),
    _Row("VOLTLEDGER_HTTP", "http", _address, "HOST:PORT", "Where the API and the dashboard listen."),
    _Row("VOLTLEDGER_OCPP", "ocpp", _address, "HOST:PORT", "Where charging stations connect."),
    _Row("VOLTLEDGER_LOG", "log", _choice("human", "json"), "human or json", "Shape of the log lines."),
    _Row(
        "VOLTLEDGER_LOG_FILE",
        "log_file",
        _path,
        "file",
        "Log file, rotated at 10 MB, five old ones kept.",
        "ocpp-server.log in the working folder of a checkout, else in the data folder",
    ),
    _Row(
        "VOLTLEDGER_LOG_LEVEL",
        "log_level",
        _choice("debug", "info", "warning", "error"),
        "debug, info, warning or error",
        "Least important kind of line that is logged.",
    ),
    _Row("VOLTLEDGER_SYNC_INTERVAL_S", "sync_interval_s", _seconds(1), "s", "Time between database syncs."),
    _Row(
        "VOLTLEDGER_ORPHAN_INTERVAL_S",
        "orphan_interval_s",
        _seconds(1),
        "s",
        "Time between searches for orphaned and ghost sessions.",
    ),
    _Row("VOLTLEDGER_CLEANUP_INTERVAL_S", "cleanup_interval_s", _seconds(1), "s", "Time between clean-ups."),
    _Row(
        "VOLTLEDGER_EVENT_RETENTION_S",
        "event_retention_s",
        _seconds(60),
        "s",
        "Age at which a station's events leave Redis.",
    ),
    _Row(
        "VOLTLEDGER_GHOST_GRACE_S",
        "ghost_grace_s",
        _seconds(0),
        "s",
        "How long a connector must be free before its active session counts as a ghost.",
    ),
    _Row(
        "VOLTLEDGER_ORPHAN_GRACE_S",
        "orphan_grace_s",
        _seconds(0),
        "s",
        "How long a station must charge without a session before that counts as orphaned.",
    ),
    _Row(
        "VOLTLEDGER_OFFLINE_GRACE_S",
        "offline_grace_s",
        _seconds(0),
        "s",
        "How long a station may be away before its sessions are reported as unknown.",
    ),
    _Row(
        "VOLTLEDGER_STOP_RETRIES",
        "stop_retries",
        _number(0, 100),
        "times",
        "How often a remote stop is repeated when the station does not obey.",
    ),
    _Row(
        "VOLTLEDGER_REACTIVATE_WINDOW_S",
        "reactivate_window_s",
        _seconds(0),
        "s",
        "How long after its end a session can be found still charging and be made active again.",
    ),
    _Row(
        "VOLTLEDGER_PLATFORM_FEE_PERCENT",
        "platform_fee_percent",
        _percent,
        "%",
        "The platform's part of what was used; the organisation gets the rest.",
    ),
    _Row("VOLTLEDGER_CURRENCY", "currency", _currency, "ISO 4217", "Currency of new users and tariffs."),
    _Row(
        "VOLTLEDGER_LOCAL_HOLD_MINOR",
        "local_hold_minor",
        _number(0, 10**15),
        "minor units",
        "Wallet money set aside when a driver starts at the station itself.",
    ),
    _Row(
        "VOLTLEDGER_PENDING_START_S",
        "pending_start_s",
        _seconds(1),
        "s",
        "How long a remotely started session waits for the station to begin; then it is paid back.",
    ),
    _Row(
        "VOLTLEDGER_HEARTBEAT_S",
        "heartbeat_s",
        _number(1, 86400),
        "s",
        "Heartbeat interval given to stations.",
    ),
    _Row("VOLTLEDGER_PING_S", "ping_s", _seconds(0), "s", "Time between WebSocket pings to a station; 0: none."),
    _Row(
        "VOLTLEDGER_CALL_TIMEOUT_S",
        "call_timeout_s",
        _seconds(0.1),
        "s",
        "How long a station may take to answer.",
    ),
    _Row(
        "VOLTLEDGER_HOLD_S",
        "hold_s",
        _seconds(0),
        "s",
        "How long an answer to a station is held back while the database is away.",
    ),
    _Row(
        "VOLTLEDGER_JOURNAL",
        "journal",
        _switch,
        "on or off",
        "Whether facts of stations are kept on this node's disk and answered while the database is away; "
        "off sends the stations away instead.",
    ),
    _Row(
        "VOLTLEDGER_JOURNAL_MAX_MB",
        "journal_max_mb",
        _number(1, 1_000_000),
        "MB",
        "Size of the journal from which on stations are sent away.",
    ),
    _Row(
        "VOLTLEDGER_OUTAGE_UNKNOWN_TOKENS",
        "outage_unknown_tokens",
        _choice("refuse", "accept"),
        "refuse or accept",
        "What a token that this node has not seen is told while the database is away.",
    ),
    _Row(
        "VOLTLEDGER_MAX_FRAME_BYTES",
        "max_frame_bytes",
        _number(1024, 2**30),
        "bytes",
        "Largest WebSocket message that is accepted.",
    ),
    _Row(
        "VOLTLEDGER_UNKNOWN_STATION_STATUS",
        "unknown_station_status",
        _number(400, 499),
        "HTTP status",
        "Answer to a station that is unknown or has a wrong password.",
    ),
    _Row(
        "VOLTLEDGER_INSECURE_DEV",
        "insecure_dev",
        _switch,
        "true or false",
        "Accept every station without a password. For a desk, never for a network.",
    ),
    _Row(
        "VOLTLEDGER_METER_SAMPLE_S",
        "meter_sample_s",
        _number(0, 86400),
        "s",
        "Interval of meter samples that is set in stations; 0: left alone.",
    ),
    _Row(
        "VOLTLEDGER_POOL_SIZE",
        "pool_size",
        _number(1, 1000),
        "connections",
        "Most PostgreSQL connections of each process.",
    ),
    _Row(
        "VOLTLEDGER_WORKERS",
        "workers",
        _number(1, 256),
        "processes",
        "Gateway processes on the one OCPP port.",
    ),
)

_BY_VARIABLE: Mapping[str, _Row] = {row.variable: row for row in _ROWS}


# --- Loading --------------------------------------------------------------------------------------------


def load_settings(environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """The settings in force: the environment, else `.env`, else the defaults.

    Reads no file but `dotenv`, and only if that exists.

    Raises: ConfigError for an unknown name, a bad value or an unreadable `.env`.
    """
    given = {**(_read_dotenv(dotenv) if dotenv is not None else {}), **environ}
    values: dict[str, Any] = {}
    for variable, text in given.items():
        row = _BY_VARIABLE.get(variable)
        if row is None:
            _refuse_unknown(variable)
        elif text.strip():
            values[row.field] = _read_value(row, text.strip())
    checkout = find_checkout()
    if "data" not in values:
        values["data"] = _default_data(checkout, given)
    if "log_file" not in values:
        values["log_file"] = _default_log_file(checkout, values["data"])
    return Settings(**values)


def describe_settings() -> list[SettingDoc]:
    """What `serve --help` and the documentation print: one row a setting, in the order of the table."""
    defaults = Settings(data=Path(), log_file=Path())
    return [
        SettingDoc(
            variable=row.variable,
            field=row.field,
            meaning=row.meaning,
            unit=row.unit,
            default=row.default if row.default is not None else _show_default(getattr(defaults, row.field)),
            secret=row.secret,
        )
        for row in _ROWS
    ]


def hide_url_password(url: str) -> str:
    """The URL with its password, also one given as a query parameter, replaced by stars."""
    shown = re.sub(r"^([^:/?#]+://[^:/?#]*):[^/?#]*@", rf"\1:{_HIDDEN}@", url)
    return re.sub(r"(?i)([?&](?:ssl)?password)=[^&#]*", rf"\1={_HIDDEN}", shown)


def find_checkout(start: Path | None = None) -> Path | None:
    """The checkout of voltledger that the working folder or this package lies in, or None."""
    candidates = [start or Path.cwd(), Path(__file__).resolve().parents[2]]
    for folder in candidates:
        try:
            text = (folder / "pyproject.toml").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if re.search(r'(?m)^name = "voltledger"$', text):
            return folder
    return None


def _read_value(row: _Row, text: str) -> Any:
    try:
        return row.read(text)
    except _Bad as problem:
        shown = "" if row.secret else f", not {_short(text)!r}"
        raise ConfigError(f"{row.variable} {problem}{shown}") from None


def _refuse_unknown(variable: str) -> None:
    if not variable.startswith("VOLTLEDGER_") or variable in _SCRIPT_NAMES or variable.startswith(_TEST_PREFIX):
        return
    near = difflib.get_close_matches(variable, _BY_VARIABLE, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else "`voltledger serve --help` lists the names"
    raise ConfigError(f"{_short(variable)} is not a setting: {hint}")


_ESCAPES = {"n": "\n", "t": "\t"}
# A `#` after a blank starts a comment; elsewhere in a bare value it belongs to the value.
_DOTENV_LINE = re.compile(
    r"""(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)\s*=\s*
        (?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>[^']*)'|(?P<bare>(?!["'])(?:[^\s#]|(?<=\S)\#|\s(?!\s*\#))*))
        (?:\s*\#.*)?\s*""",
    re.VERBOSE,
)


def _read_dotenv(path: Path) -> dict[str, str]:
    """`NAME=value` lines, with `export`, comments and quotes. Nothing is expanded."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"cannot read {path}: {_reason(problem)}") from None
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _DOTENV_LINE.fullmatch(stripped)
        if match is None:
            raise ConfigError(f"{path} line {number} is not NAME=value")
        if match["double"] is not None:
            values[match["name"]] = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), match["double"])
        else:
            values[match["name"]] = match["single"] if match["single"] is not None else match["bare"].strip()
    return values


def _default_data(checkout: Path | None, environ: Mapping[str, str]) -> Path:
    if checkout is not None:
        return checkout / ".voltledger"
    xdg = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(xdg):
        return Path(xdg) / "voltledger"
    return Path(environ.get("HOME") or os.path.expanduser("~")) / ".local" / "share" / "voltledger"


def _default_log_file(checkout: Path | None, data: Path) -> Path:
    here = Path.cwd()
    folder = here if checkout is not None and os.access(here, os.W_OK) else data
    return folder / "ocpp-server.log"


def _show_default(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def _reason(problem: Exception) -> str:
    return (problem.strerror or str(problem)) if isinstance(problem, OSError) else "it is not UTF-8 text"
