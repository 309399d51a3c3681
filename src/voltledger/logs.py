"""Logging: console and `ocpp-server.log`, human lines or JSON lines.

Rules:
- One event is one line, whatever a station or a user put into its values: control characters, line
  separators, ANSI escapes, bidirectional and invisible characters are written as escapes.
- Values of names like password, key or authorization are never written; of a token only its beginning is.
- Structured values (payloads, raw frames) are searched for such names too.
- A disabled level costs one empty call.

The kinds of event and their signs are the user's own: 🔄 regular sync (debug), 📡 OCPP (info), 🚨 orphans
(warning), ❌ failures (error), ✅ success (info). The helpers `log_sync` ... `log_success` set both.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from voltledger.config import Settings
from voltledger.errors import UserFacingError

SIGNS: Mapping[str, str] = {"sync": "🔄", "ocpp": "📡", "orphan": "🚨", "failure": "❌", "success": "✅"}

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_NOISY_LIBRARIES = ("asyncio", "uvicorn", "websockets", "litestar", "httpx", "httpcore", "picows")
_MAX_VALUE_CHARACTERS = 4096
_MAX_DEPTH = 12
_ROTATE_AT_BYTES = 10_000_000
_KEEP_FILES = 5


class Log:
    """A logger of one module. A method of a disabled level does nothing, at the cost of an empty call."""

    __slots__ = ("bind", "debug", "error", "exception", "info", "name", "warning")

    def __init__(self, name: str) -> None:
        self.name = name
        self._attach()
        _all_logs.append(self)

    def _attach(self) -> None:
        bound: FilteringBoundLogger = structlog.get_logger(self.name).bind()
        self.debug: Callable[..., Any] = bound.debug
        self.info: Callable[..., Any] = bound.info
        self.warning: Callable[..., Any] = bound.warning
        self.error: Callable[..., Any] = bound.error
        self.exception: Callable[..., Any] = bound.exception
        self.bind: Callable[..., FilteringBoundLogger] = bound.bind


_all_logs: list[Log] = []


def get_logger(name: str) -> Log:
    """The logger of one module, made once at the top of it. `configure_logging` may run later."""
    return Log(name)


AnyLog = Log | FilteringBoundLogger


def log_sync(log: AnyLog, event: str, **fields: Any) -> None:
    """🔄 Regular work of the sync loops, at debug."""
    log.debug(event, kind="sync", **fields)


def log_ocpp(log: AnyLog, event: str, **fields: Any) -> None:
    """📡 Something a station told us or was told, at info."""
    log.info(event, kind="ocpp", **fields)


def log_orphan(log: AnyLog, event: str, **fields: Any) -> None:
    """🚨 An orphaned or ghost session, at warning."""
    log.warning(event, kind="orphan", **fields)


def log_failure(log: AnyLog, event: str, **fields: Any) -> None:
    """❌ Something that should have worked and did not, at error."""
    log.error(event, kind="failure", **fields)


def log_success(log: AnyLog, event: str, **fields: Any) -> None:
    """✅ Something worth telling has worked, at info."""
    log.info(event, kind="success", **fields)


def configure_logging(settings: Settings, *, console: TextIO | None = None) -> None:
    """Sends all logging of this process to the console (stderr) and to the log file. May be called again.

    Effects: creates the log file and its folder; replaces the handlers of the root logger.
    Raises: UserFacingError if the log file cannot be written.
    """
    level = _LEVELS[settings.log_level]
    render = render_json if settings.log == "json" else render_human
    try:
        settings.log_file.parent.mkdir(parents=True, exist_ok=True)
        file_handler = SharedRotatingFile(settings.log_file)
    except OSError as problem:
        raise UserFacingError(
            f"cannot write the log file {settings.log_file} ({problem.strerror}): "
            "set VOLTLEDGER_LOG_FILE to a file that you can write"
        ) from None
    handlers: list[logging.Handler] = [logging.StreamHandler(console or sys.stderr), file_handler]
    root = logging.getLogger()
    for old in root.handlers[:]:
        if getattr(old, "voltledger", False):
            root.removeHandler(old)
            old.close()
    for handler in handlers:
        handler.setFormatter(_OneLineFormatter(render))
        handler.voltledger = True  # type: ignore[attr-defined]
        root.addHandler(handler)
    root.setLevel(level)
    for library in _NOISY_LIBRARIES:
        logging.getLogger(library).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)
    _configure_structlog(render, level)


# --- Rendering ------------------------------------------------------------------------------------------

Event = MutableMapping[str, Any]
Render = Callable[[Event], str]


def render_human(event: Event) -> str:
    """`2026-11-23T11:51:30.123Z INFO  📡 text name=value`, always one line."""
    level = str(event.pop("level", "info"))
    kind = event.pop("kind", None) or ("failure" if level in ("error", "critical") else None)
    sign = SIGNS.get(str(kind), "  ")
    text = escape(_cut(_scrub_text(str(event.pop("event", "")))))
    fields = [f"{escape(str(name))}={_human_value(value)}" for name, value in _safe_items(event, _AT_END)]
    return " ".join([str(event["timestamp"]), f"{level.upper():<7}", sign, text, *fields])


def render_json(event: Event) -> str:
    """One JSON object on one line; characters that could mislead a reader are `\\uXXXX`."""
    head: dict[str, Any] = {
        "timestamp": event["timestamp"],
        "level": event.pop("level", "info"),
        "event": _cut(_scrub_text(str(event.pop("event", "")))),
    }
    body = {str(name): _plain(value) for name, value in _safe_items(event, ("timestamp",))}
    text = json.dumps({**head, **body}, ensure_ascii=False, default=str, separators=(",", ":"), allow_nan=True)
    return _UNSAFE.sub(_json_escape, text)


def escape(text: str) -> str:
    """The text with every character that could break or forge a line written as an escape."""
    if text.isprintable() and "\\" not in text:
        return text
    return _UNSAFE.sub(_human_escape, text.replace("\\", "\\\\"))


_AT_END = ("timestamp", "kind")

# Controls (Cc), formatting characters with bidi and zero width (Cf), line separators (Zl, Zp) and lone
# surrogates (Cs). tests/unit/test_logs.py compares this with the Unicode tables.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}


def _human_escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT_ESCAPES.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}")


def _json_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _human_value(value: object) -> str:
    if isinstance(value, str):
        text = value
    elif isinstance(value, Mapping | list | tuple):
        text = json.dumps(_plain(value), ensure_ascii=False, default=str, separators=(",", ":"))
        return escape(_cut(text))
    else:
        text = str(value)
    text = escape(_cut(text))
    if text and not re.search(r'[\s"=]', text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _plain(value: object) -> Any:
    if isinstance(value, str):
        return _cut(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _cut(str(value))


def _cut(text: str) -> str:
    if len(text) <= _MAX_VALUE_CHARACTERS:
        return text
    return f"{text[:_MAX_VALUE_CHARACTERS]}… (+{len(text) - _MAX_VALUE_CHARACTERS} characters)"


# --- Secrets --------------------------------------------------------------------------------------------

_HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"passw|passphrase|secret|authorization|credential|cookie|privatekey|signingkey|apikey|"
    r"authorizationkey|^key$|key$|^pin$|^pwd$|^dsn$"
)
_NOT_SECRET = frozenset({"idempotencykey", "rediskey", "configurationkey", "configkey", "publickey", "unknownkey"})
_TOKEN_NAME = re.compile(r"token$|idtag$|^rfid$|^emaid$")
_SECRET_VARIABLE = re.compile(r"(?i)passw|secret|authorizationkey|privatekey|apikey|credential")
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^/\s:@]*):[^/\s]*@")
_AUTH_SCHEME = re.compile(r"(?i)\b(basic|bearer|digest)\s+[A-Za-z0-9+/=_.~-]{4,}")
_JSON_SECRET = re.compile(
    r'(?i)("[^"]{0,40}(?:passw|secret|authorizationkey|authorization|apikey|privatekey)[^"]{0,40}"\s*:\s*)'
    r'"(?:[^"\\]|\\.)*"?'
)
_JSON_TOKEN = re.compile(r'(?i)("(?:parent)?id_?(?:tag|token)"\s*:\s*")((?:[^"\\]|\\.)*)')


def mask(value: object, name: str = "", depth: int = 0) -> Any:
    """The value without secrets: whole if `name` is harmless, a beginning of a token, else stars."""
    if depth > _MAX_DEPTH:
        return "…"
    if isinstance(value, msgspec.Struct):
        value = {key: getattr(value, key) for key in value.__struct_fields__}
    if isinstance(value, Mapping):
        return _mask_mapping(value, depth)
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode("utf-8", "backslashreplace")
    role = _role_of_name(name)
    if role == "secret" and value is not None:
        return _HIDDEN
    if isinstance(value, list | tuple | set | frozenset):
        return [mask(item, name, depth + 1) for item in value]
    if isinstance(value, str):
        if role == "token":
            return mask_token(value)
        return _scrub_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return _scrub_text(str(value))


@lru_cache(maxsize=4096)
def _role_of_name(name: str) -> Literal["secret", "token", "plain"]:
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    if plain in _NOT_SECRET:
        return "plain"
    if _SECRET_NAME.search(plain):
        return "secret"
    return "token" if _TOKEN_NAME.search(plain) else "plain"


def mask_token(token: str) -> str:
    """The first four characters of a token and `…`; of a short one at most half."""
    return token[: min(4, len(token) // 2)] + "…" if token else ""


def _mask_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    # ChangeConfiguration says {"key": NAME, "value": ...}, SetVariables {"variable": {"name": NAME}, ...}.
    variable = value.get("variable")
    named = variable.get("name") if isinstance(variable, Mapping) else value.get("key")
    is_variable = isinstance(named, str) and any(
        key in value for key in ("value", "attributeValue", "attribute_value", "readonly", "variable")
    )
    hide_value = is_variable and isinstance(named, str) and _SECRET_VARIABLE.search(named)
    masked: dict[str, Any] = {}
    for key, item in value.items():
        text = str(key)
        if is_variable and text == "key":
            masked[text] = item
        elif hide_value and text in ("value", "attributeValue", "attribute_value"):
            masked[text] = _HIDDEN
        else:
            masked[text] = mask(item, text, depth + 1)
    return masked


def _scrub_text(text: str) -> str:
    """Text with the secrets hidden that can be told by their shape: URLs, HTTP credentials, JSON."""
    if "{" in text and '"' in text:
        if text.lstrip()[:1] in ("[", "{"):
            try:
                return json.dumps(mask(json.loads(text)), ensure_ascii=False, separators=(",", ":"))
            except (ValueError, RecursionError):
                pass
        text = _JSON_SECRET.sub(rf'\1"{_HIDDEN}"', text)
        text = _JSON_TOKEN.sub(lambda match: match[1] + mask_token(match[2]), text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{_HIDDEN}@", text)
    return _AUTH_SCHEME.sub(rf"\1 {_HIDDEN}", text) if " " in text else text


def _safe_items(event: Event, leave_out: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, mask(value, name)) for name, value in event.items() if name not in leave_out]


# --- structlog and the standard library -----------------------------------------------------------------


def _configure_structlog(render: Render, level: int) -> None:
    def to_line(logger: Any, method: str, event: Event) -> tuple[tuple[str], dict[str, Any]]:
        event["timestamp"] = _now()
        event["level"] = "error" if method == "exception" else method
        _describe_exception(event)
        try:
            line = render(event)
        except Exception as problem:  # a value whose repr fails must not stop the work that logs it
            line = f"{_now()} ERROR   ❌ a log event could not be written error={type(problem).__name__}"
        return (line,), {"extra": {"line": line}}

    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, to_line],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    for log in _all_logs:
        log._attach()


def _describe_exception(event: Event) -> None:
    info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = f"{type(error).__name__}: {error}"
        event["at"] = _places(error.__traceback__)


def _places(traceback: TracebackType | None) -> str:
    """The last calls of a traceback as `file:line function < caller ...`, innermost first."""
    places = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        places.append(f"{os.path.basename(code.co_filename)}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return " < ".join(places[::-1][:12])


class _OneLineFormatter(logging.Formatter):
    """Writes lines that structlog has rendered as they are and renders those of other libraries."""

    def __init__(self, render: Render) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        line = getattr(record, "line", None)
        if not isinstance(line, str):
            event: Event = {
                "timestamp": _now(record.created),
                "level": record.levelname.lower(),
                "event": record.getMessage(),
                "logger": record.name,
            }
            if record.exc_info:
                event["exc_info"] = record.exc_info
            _describe_exception(event)
            line = self._render(event)
            record.line = line
        return line


def _now(seconds: float | None = None) -> str:
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class SharedRotatingFile(logging.Handler):
    """A log file that several processes may write and rotate.

    Each line is one append. Before it, the process checks that its file is still the one of that name;
    the one that finds the file full renames it while it holds a lock.
    """

    def __init__(self, path: Path, *, rotate_at: int = _ROTATE_AT_BYTES, keep: int = _KEEP_FILES) -> None:
        super().__init__()
        self._path = path
        self._rotate_at = rotate_at
        self._keep = keep
        self._guard = threading.Lock()
        self._file = self._open()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            with self._guard:
                self._follow()
                if os.fstat(self._file).st_size + len(line) > self._rotate_at:
                    self._rotate(len(line))
                os.write(self._file, line)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        with self._guard:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
        super().close()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _follow(self) -> None:
        """Opens the file again if another process has renamed it or somebody has removed it."""
        try:
            named, ours = os.stat(self._path), os.fstat(self._file)
            same = (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)
        except FileNotFoundError:
            same = False
        if not same:
            fresh = self._open()
            os.close(self._file)
            self._file = fresh

    def _rotate(self, coming: int) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._follow()
            if self._rotate_at - coming < os.fstat(self._file).st_size > 0:
                for number in range(self._keep - 1, 0, -1):
                    source = self._numbered(number)
                    if source.exists():
                        source.replace(self._numbered(number + 1))
                self._path.replace(self._numbered(1))
                self._follow()
        finally:
            os.close(folder)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


# Until configure_logging runs, only warnings and errors show, on stderr, as safe lines.
_configure_structlog(render_human, logging.WARNING)
