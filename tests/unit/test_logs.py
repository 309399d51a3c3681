"""Logs: one line an event, no secret in any of them, the user's signs, a file that processes share."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from voltledger import logs
from voltledger.config import load_settings
from voltledger.errors import UserFacingError

Start = Callable[..., io.StringIO]


@pytest.fixture
def start_logging(tmp_path: Path) -> Iterator[Start]:
    """`start_logging(VOLTLEDGER_LOG="json")` configures logging and returns the console."""

    def start(**environ: str) -> io.StringIO:
        console = io.StringIO()
        environ.setdefault("VOLTLEDGER_LOG_FILE", str(tmp_path / "logs" / "ocpp-server.log"))
        logs.configure_logging(load_settings(environ), console=console)
        # pytest's own handlers would keep the raw text, which xdist cannot send. pytest re-adds them.
        root = logging.getLogger()
        for handler in root.handlers[:]:
            if not getattr(handler, "voltledger", False):
                root.removeHandler(handler)
        return console

    level = logging.getLogger().level
    yield start
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if getattr(handler, "voltledger", False):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
    logging.captureWarnings(False)
    logs._configure_structlog(logs.render_human, logging.WARNING)


@pytest.mark.parametrize(
    ("helper", "level", "sign", "word"),
    [
        (logs.log_sync, "debug", "🔄", "DEBUG"),
        (logs.log_ocpp, "info", "📡", "INFO"),
        (logs.log_orphan, "warning", "🚨", "WARNING"),
        (logs.log_failure, "error", "❌", "ERROR"),
        (logs.log_success, "info", "✅", "INFO"),
    ],
)
def test_each_kind_has_its_level_and_sign(
    start_logging: Start, helper: Callable[..., None], level: str, sign: str, word: str
) -> None:
    log = logs.get_logger("test")
    console = start_logging(VOLTLEDGER_LOG_LEVEL="debug")
    helper(log, "something happened", station="CP-1", duration_s=0.25)
    line = console.getvalue()
    assert line.endswith(f"{sign} something happened station=CP-1 duration_s=0.25\n")
    assert line.split()[1] == word
    console = start_logging(VOLTLEDGER_LOG_LEVEL="debug", VOLTLEDGER_LOG="json")
    helper(log, "something happened")
    assert json.loads(console.getvalue()).items() >= {"level": level, "kind": console_kind(sign)}.items()


def console_kind(sign: str) -> str:
    return next(kind for kind, each in logs.SIGNS.items() if each == sign)


def test_lines_go_to_the_console_and_to_the_file(start_logging: Start, tmp_path: Path) -> None:
    console = start_logging()
    logs.get_logger("test").info("twice")
    assert (tmp_path / "logs" / "ocpp-server.log").read_text() == console.getvalue()
    assert console.getvalue().count("twice") == 1


def test_a_level_that_is_off_writes_nothing_and_formats_nothing(start_logging: Start) -> None:
    class Explosive:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    log = logs.get_logger("test")
    console = start_logging(VOLTLEDGER_LOG_LEVEL="warning")
    logs.log_sync(log, "sync", value=Explosive())
    log.info("info", value=Explosive())
    assert console.getvalue() == ""


def test_configuring_again_replaces_and_does_not_double(start_logging: Start) -> None:
    log = logs.get_logger("test")
    first = start_logging()
    second = start_logging(VOLTLEDGER_LOG="json")
    log.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 1


HOSTILE = [
    "a\nb",
    "a\r\nERROR ❌ forged",
    "a\rb",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\u202egnp.exe",
    "a\u2066b\u2069",
    "a\u2028b\u2029c",
    "a\x00b\x7f\x85",
    "zero\u200bwidth\ufeff",
    "tag\U000e0041",
    "lone \ud800 surrogate",
    "%0a",
    'quote" name=value',
    "back\\nslash",
    "\x0b\x0c",
]
FIELDS = [
    "station",
    "vendor",
    "model",
    "serial",
    "firmware",
    "reason",
    "event",
    "url",
    "user_agent",
    "payload",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("shape", ["human", "json"])
def test_x_65_hostile_text_in_any_place_stays_one_harmless_line(start_logging: Start, text: str, shape: str) -> None:
    console = start_logging(VOLTLEDGER_LOG=shape)
    log = logs.get_logger("test")
    for field in FIELDS:
        if field == "event":
            log.info(text)
        else:
            log.info("boot", **{field: text})
    log.info("nested", payload={text: [text, {"a": text}]}, **{text: 1})
    logging.getLogger("library").warning("%s", text)
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    lines = console.getvalue().split("\n")
    assert len(lines) == len(FIELDS) + 3 + 1
    assert lines[-1] == ""
    for line in lines[:-1]:
        assert not [character for character in line if unicodedata.category(character) in UNSAFE_CATEGORIES]
        if shape == "json":
            json.loads(line)


UNSAFE_CATEGORIES = ("Cc", "Cf", "Cs", "Zl", "Zp")


def test_every_control_and_formatting_character_of_unicode_is_escaped() -> None:
    missed = [
        hex(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in UNSAFE_CATEGORIES and logs.escape(chr(code)) == chr(code)
    ]
    assert missed == []


def test_escapes_in_human_lines_cannot_be_confused_with_the_text_itself() -> None:
    assert logs.escape("a\nb") == r"a\nb"
    assert logs.escape(r"a\nb") == r"a\\nb"


def test_json_lines_give_the_hostile_text_back(start_logging: Start) -> None:
    console = start_logging(VOLTLEDGER_LOG="json")
    logs.get_logger("test").info("x", vendor="a\r\n\x1b\u202e\U000e0041\\n")
    assert json.loads(console.getvalue())["vendor"] == "a\r\n\x1b\u202e\U000e0041\\n"


def test_a_human_value_cannot_pretend_to_be_another_field(start_logging: Start) -> None:
    console = start_logging()
    logs.get_logger("test").info("x", vendor='v" status=Accepted')
    assert console.getvalue().endswith('vendor="v\\" status=Accepted"\n')


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "redis_password",
        "AuthorizationKey",
        "authorization",
        "Authorization",
        "key",
        "api_key",
        "apikey",
        "private_key",
        "client_secret",
        "cookie",
        "Set-Cookie",
        "BasicAuthPassword",
        "dsn",
    ],
)
def test_the_value_of_a_secret_name_is_never_written(start_logging: Start, name: str) -> None:
    for shape in ("human", "json"):
        console = start_logging(VOLTLEDGER_LOG=shape)
        logs.get_logger("test").info("x", **{name: "hunter2"}, outer={"inner": [{name: "hunter2"}]})
        assert "hunter2" not in console.getvalue()
        assert "***" in console.getvalue()


@pytest.mark.parametrize("name", ["token", "id_tag", "idTag", "parentIdTag", "access_token"])
def test_a_token_is_shown_by_its_beginning_only(start_logging: Start, name: str) -> None:
    console = start_logging()
    logs.get_logger("test").info("x", **{name: "04A2B3C4D5"}, payload={name: "04A2B3C4D5"})
    assert "04A2…" in console.getvalue()
    assert "B3C4" not in console.getvalue()


@pytest.mark.parametrize(
    ("token", "shown"), [("04A2B3C4", "04A2…"), ("04A2B3", "04A…"), ("0", "…"), ("", ""), ("AB", "A…")]
)
def test_a_short_token_is_not_shown_whole(token: str, shown: str) -> None:
    assert logs.mask_token(token) == shown


def test_a_fencing_token_is_a_number_and_no_secret() -> None:
    assert logs.mask(17, "fencing_token") == 17


def test_an_idempotency_key_is_no_secret() -> None:
    assert logs.mask("settle:42", "idempotency_key") == "settle:42"


CHANGE = {"key": "AuthorizationKey", "value": "hunter2"}
SET = {
    "setVariableData": [
        {
            "component": {"name": "SecurityCtrlr"},
            "variable": {"name": "BasicAuthPassword"},
            "attributeValue": "hunter2",
        }
    ]
}


@pytest.mark.parametrize(
    "value",
    [
        CHANGE,
        SET,
        [CHANGE],
        json.dumps([2, "1", "ChangeConfiguration", CHANGE]),
        json.dumps([2, "1", "SetVariables", SET]),
        'cut off [2,"1","X",{"password":"hunter2","b',
        '{"password": "hunter2',
        "postgresql://user:hunter2@host/db",
        "redis://:hunter2@host",
        "Authorization: Basic hunter2hunter2",
        "sent Bearer hunter2.abc.def",
        {"headers": {"Authorization": "Basic hunter2"}},
    ],
)
def test_a_secret_inside_a_payload_frame_or_url_is_never_written(start_logging: Start, value: Any) -> None:
    for shape in ("human", "json"):
        console = start_logging(VOLTLEDGER_LOG=shape)
        logs.get_logger("test").info("x", value=value)
        assert "hunter2" not in console.getvalue()
    console = start_logging()
    logs.get_logger("test").info(str(value) if isinstance(value, str) else json.dumps(value))
    logging.getLogger("library").warning("%s", value if isinstance(value, str) else json.dumps(value))
    assert "hunter2" not in console.getvalue()


def test_a_configuration_key_that_is_no_secret_stays_readable() -> None:
    change = {"key": "HeartbeatInterval", "value": "300"}
    assert logs.mask(change) == change


def test_tokens_inside_frames_are_shortened() -> None:
    frame = '[2,"1","StartTransaction",{"connectorId":1,"idTag":"04A2B3C4D5","meterStart":0}]'
    assert "04A2…" in logs.mask(frame)
    assert "B3C4" not in logs.mask(frame)
    nested = {"idToken": {"idToken": "04A2B3C4D5", "type": "ISO14443"}}
    assert logs.mask(nested) == {"idToken": {"idToken": "04A2…", "type": "ISO14443"}}


def test_structs_are_searched_too() -> None:
    class Login(msgspec.Struct):
        user: str
        password: str

    assert logs.mask(Login("u", "hunter2")) == {"user": "u", "password": "***"}


def test_a_value_of_any_size_and_depth_gives_a_short_line(start_logging: Start) -> None:
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    console = start_logging()
    logs.get_logger("test").info("x", long="y" * 1_000_000, deep=deep, raw="[" * 100_000)
    assert len(console.getvalue()) < 20_000
    assert "(+995904 characters)" in console.getvalue()


def test_an_exception_is_one_line_with_its_place(start_logging: Start) -> None:
    console = start_logging()
    log = logs.get_logger("test")
    try:
        raise KeyError("no such session")
    except KeyError:
        log.exception("could not settle", session=7)
    line = console.getvalue()
    assert line.count("\n") == 1
    assert "❌ could not settle session=7 error=\"KeyError: 'no such session'\" at=" in line
    assert "test_logs.py:" in line


def test_a_value_that_cannot_be_shown_does_not_stop_the_work(start_logging: Start) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    console = start_logging()
    logs.get_logger("test").info("x", value=Broken())
    assert "a log event could not be written" in console.getvalue()


def test_libraries_are_heard_from_warning_on(start_logging: Start) -> None:
    console = start_logging(VOLTLEDGER_LOG="json")
    logging.getLogger("websockets.server").info("connection open")
    logging.getLogger("websockets.server").warning("odd")
    (line,) = console.getvalue().splitlines()
    assert json.loads(line)["logger"] == "websockets.server"


def test_a_log_file_that_cannot_be_written_is_one_clear_line(start_logging: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserFacingError, match="set VOLTLEDGER_LOG_FILE"):
        start_logging(VOLTLEDGER_LOG_FILE=str(tmp_path / "file" / "x.log"))


# --- The file -------------------------------------------------------------------------------------------


def _write(handler: logging.Handler, text: str) -> None:
    handler.emit(logging.LogRecord("n", logging.INFO, "p", 1, text, None, None))


def test_a_full_file_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    handler = logs.SharedRotatingFile(tmp_path / "a.log", rotate_at=100, keep=2)
    for number in range(12):
        _write(handler, f"{number:02d}" + "x" * 40)
    handler.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.1", "a.log.2"]
    kept = "".join((tmp_path / name).read_text() for name in ("a.log.2", "a.log.1", "a.log"))
    assert [line[:2] for line in kept.splitlines()] == ["06", "07", "08", "09", "10", "11"]


def test_two_writers_share_a_rotated_file_without_losing_a_line(tmp_path: Path) -> None:
    writers = [logs.SharedRotatingFile(tmp_path / "a.log", rotate_at=200, keep=50) for _ in range(2)]
    for number in range(100):
        _write(writers[number % 2], f"{number:03d}" + "x" * 30)
    for writer in writers:
        writer.close()
    lines = [line[:3] for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert sorted(lines) == [f"{number:03d}" for number in range(100)]


def test_a_file_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    handler = logs.SharedRotatingFile(tmp_path / "a.log")
    _write(handler, "one")
    (tmp_path / "a.log").unlink()
    _write(handler, "two")
    handler.close()
    assert (tmp_path / "a.log").read_text() == "two\n"
