"""Settings: defaults, what is refused and how, `.env`, secrets."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from voltledger.config import (
    Address,
    Settings,
    describe_settings,
    find_checkout,
    hide_url_password,
    load_settings,
)
from voltledger.errors import ConfigError, UserFacingError, VoltledgerError


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = load_settings({})
    assert settings.database_url is None
    assert settings.redis_host is None
    assert settings.http == Address("127.0.0.1", 8080)
    assert settings.ocpp == Address("127.0.0.1", 9000)
    assert (settings.sync_interval_s, settings.orphan_interval_s, settings.cleanup_interval_s) == (
        60,
        120,
        3600,
    )
    assert settings.platform_fee_percent == Decimal(10)
    assert settings.unknown_station_status == 401
    assert settings.insecure_dev is False


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("DATABASE_URL", "postgres://u:p@db/x", "database_url", "postgres://u:p@db/x"),
        ("REDIS_PORT", "6380", "redis_port", 6380),
        ("VOLTLEDGER_HTTP", "0.0.0.0:80", "http", Address("0.0.0.0", 80)),
        ("VOLTLEDGER_OCPP", "[::1]:9000", "ocpp", Address("::1", 9000)),
        ("VOLTLEDGER_LOG", "JSON", "log", "json"),
        ("VOLTLEDGER_SYNC_INTERVAL_S", "1.5", "sync_interval_s", 1.5),
        ("VOLTLEDGER_PLATFORM_FEE_PERCENT", "12.75", "platform_fee_percent", Decimal("12.75")),
        ("VOLTLEDGER_CURRENCY", "EUR", "currency", "EUR"),
        ("VOLTLEDGER_INSECURE_DEV", "yes", "insecure_dev", True),
        ("VOLTLEDGER_DATA", "/srv/books", "data", Path("/srv/books")),
        ("VOLTLEDGER_WORKERS", " 4 ", "workers", 4),
    ],
)
def test_a_good_value_is_read(variable: str, text: str, field: str, value: object) -> None:
    assert getattr(load_settings({variable: text}), field) == value


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DATABASE_URL", "mysql://u:p@db/x"),
        ("DATABASE_URL", "postgresql://u:p@db:notaport/x"),
        ("REDIS_PORT", "0"),
        ("REDIS_PORT", "70000"),
        ("REDIS_HOST", "redis://cache"),
        ("VOLTLEDGER_HTTP", "8080"),
        ("VOLTLEDGER_HTTP", "host:99999"),
        ("VOLTLEDGER_OCPP", "::1:9000"),
        ("VOLTLEDGER_LOG", "xml"),
        ("VOLTLEDGER_LOG_LEVEL", "loud"),
        ("VOLTLEDGER_SYNC_INTERVAL_S", "0"),
        ("VOLTLEDGER_SYNC_INTERVAL_S", "nan"),
        ("VOLTLEDGER_SYNC_INTERVAL_S", "1e3"),
        ("VOLTLEDGER_SYNC_INTERVAL_S", "1m"),
        ("VOLTLEDGER_STOP_RETRIES", "-1"),
        ("VOLTLEDGER_STOP_RETRIES", "3.5"),
        ("VOLTLEDGER_STOP_RETRIES", "٣"),
        ("VOLTLEDGER_PLATFORM_FEE_PERCENT", "101"),
        ("VOLTLEDGER_PLATFORM_FEE_PERCENT", "NaN"),
        ("VOLTLEDGER_PLATFORM_FEE_PERCENT", "ten"),
        ("VOLTLEDGER_CURRENCY", "rupee"),
        ("VOLTLEDGER_UNKNOWN_STATION_STATUS", "200"),
        ("VOLTLEDGER_INSECURE_DEV", "maybe"),
        ("VOLTLEDGER_WORKERS", "0"),
        ("VOLTLEDGER_DATA", "~no-such-user-here/x"),
    ],
)
def test_a_bad_value_stops_the_start_with_one_line_that_names_it(variable: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({variable: text})
    line = str(caught.value)
    assert line.startswith(f"{variable} ")
    assert "must be" in line or "names a home folder" in line
    assert "\n" not in line


def test_bounds_of_seconds_are_said_as_people_read_them() -> None:
    with pytest.raises(ConfigError, match=r"from 0 to 31536000 \(365 days\)"):
        load_settings({"VOLTLEDGER_GHOST_GRACE_S": "-1"})


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("VOLTLEDGER_SYNC_INTERVALS", "did you mean VOLTLEDGER_SYNC_INTERVAL_S?"),
        ("VOLTLEDGER_OCCP", "did you mean VOLTLEDGER_OCPP?"),
        ("VOLTLEDGER_HTPP", "did you mean VOLTLEDGER_HTTP?"),
        ("VOLTLEDGER_ZZZZZZZZZZZZZZ", "`voltledger serve --help` lists the names"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(variable: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({variable: "1"})
    assert variable in str(caught.value)
    assert hint in str(caught.value)


def test_names_of_the_script_and_of_the_tests_and_of_others_are_left_alone() -> None:
    load_settings({"VOLTLEDGER_ENV": "/x", "VOLTLEDGER_DEV": "1", "VOLTLEDGER_TEST_X": "?", "PATH": "/bin"})


def test_a_config_error_is_for_the_user_and_exits_with_2() -> None:
    error = ConfigError("a\nb")
    assert isinstance(error, UserFacingError)
    assert isinstance(error, VoltledgerError)
    assert error.exit_status == 2
    assert str(error) == "a b"


def test_dotenv_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "# the user's own example\n"
        'DATABASE_URL="postgresql://username:password@localhost:5432/vine_mobility"\n'
        "REDIS_HOST=localhost\n"
        "REDIS_PORT=6379   # usual\n"
        "REDIS_PASSWORD=\n"
        "\n"
        "export VOLTLEDGER_CURRENCY='EUR'\n"
        "VOLTLEDGER_WORKERS = 2\n"
        "OTHER=a#b c # d\n"
    )
    settings = load_settings({"VOLTLEDGER_CURRENCY": "USD"}, dotenv)
    assert settings.database_url == "postgresql://username:password@localhost:5432/vine_mobility"
    assert (settings.redis_host, settings.redis_port, settings.redis_password) == ("localhost", 6379, None)
    assert settings.currency == "USD"
    assert settings.workers == 2


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("REDIS_PASSWORD=a#b", "a#b"),
        ("REDIS_PASSWORD=a b", "a b"),
        ("REDIS_PASSWORD=a  # note", "a"),
        ("REDIS_PASSWORD='a # b'", "a # b"),
        ('REDIS_PASSWORD="a \\"b\\" # c" # d', 'a "b" # c'),
        ("REDIS_PASSWORD=$HOME", "$HOME"),
        ("REDIS_PASSWORD= # nothing", None),
        ("REDIS_PASSWORD=it's", "it's"),
    ],
)
def test_dotenv_values_are_taken_literally(tmp_path: Path, line: str, password: str | None) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(line + "\n")
    assert load_settings({}, dotenv).redis_password == password


@pytest.mark.parametrize("line", ["just words", "=x", '"A"=b', "A='open", 'A="open'])
def test_a_broken_dotenv_line_is_named(tmp_path: Path, line: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("\n" + line + "\n")
    with pytest.raises(ConfigError, match="line 2 is not NAME=value"):
        load_settings({}, dotenv)


def test_a_dotenv_that_is_not_text_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings({}, tmp_path / ".env")


def test_a_missing_dotenv_is_no_error(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path / ".env") == load_settings({})


def test_no_secret_appears_in_a_repr_or_an_error() -> None:
    settings = load_settings(
        {"DATABASE_URL": "postgresql://u:hunter2@db/x?sslpassword=hunter3", "REDIS_PASSWORD": "hunter4"}
    )
    for text in (repr(settings), str(settings), f"{settings}", str(list(settings.__rich_repr__()))):
        assert "hunter" not in text
        assert "postgresql://u:********@db/x" in text
    with pytest.raises(ConfigError) as caught:
        load_settings({"DATABASE_URL": "mysql://u:hunter2@db/x"})
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:********@h/d"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("postgresql://u:p@a@h/d", "postgresql://u:********@h/d"),
        ("postgresql:///d?user=u&password=p", "postgresql:///d?user=u&password=********"),
    ],
)
def test_the_password_of_a_url_is_hidden(url: str, shown: str) -> None:
    assert hide_url_password(url) == shown


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_settings({}).workers = 3  # type: ignore[misc]


def test_every_field_is_described_once_with_meaning_unit_and_default() -> None:
    docs = describe_settings()
    assert [doc.field for doc in docs] == [field.name for field in msgspec.structs.fields(Settings)]
    assert len({doc.variable for doc in docs}) == len(docs)
    for doc in docs:
        assert doc.meaning.endswith(".")
        assert doc.unit
        assert doc.default
        assert doc.default not in ("None", ".")


def test_shown_defaults_are_values_that_the_setting_accepts() -> None:
    for doc in describe_settings():
        if doc.default and " " not in doc.default and doc.default != "none":
            default = getattr(load_settings({}), doc.field)
            assert getattr(load_settings({doc.variable: doc.default}), doc.field) == default


def test_the_data_folder_of_a_checkout_is_in_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "voltledger"\n')
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"XDG_DATA_HOME": "/elsewhere"})
    assert settings.data == tmp_path / ".voltledger"
    assert settings.log_file == tmp_path / "ocpp-server.log"


def test_without_a_checkout_the_data_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voltledger.config.find_checkout", lambda: None)
    assert load_settings({"XDG_DATA_HOME": str(tmp_path)}).data == tmp_path / "voltledger"
    assert load_settings({"XDG_DATA_HOME": "relative", "HOME": "/h"}).data == Path("/h/.local/share/voltledger")
    settings = load_settings({"HOME": "/h"})
    assert settings.log_file == Path("/h/.local/share/voltledger/ocpp-server.log")


def test_another_projects_pyproject_is_no_checkout(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    assert find_checkout(tmp_path) != tmp_path
