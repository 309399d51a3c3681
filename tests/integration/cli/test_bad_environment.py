"""What keeps a server from starting: one line that says what to do, a status that is not 0, nothing damaged."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests import support
from tests.acceptance.world import Server

Program = Callable[..., "subprocess.CompletedProcess[str]"]


def one_line(done: subprocess.CompletedProcess[str], *hints: str) -> str:
    """The one line of a program that did not start; `hints` are words that help."""
    assert done.returncode not in (0, -6, -9, -11), done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("voltledger: ")
    assert "Traceback" not in done.stdout
    for hint in hints:
        assert hint in lines[0], f"{hint!r} is not in: {lines[0]}"
    return lines[0]


def _with_password(dsn: str, password: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:{password}@"))


async def _tables(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [r["tablename"] for r in await connection.fetch("SELECT tablename FROM pg_tables ORDER BY 1")]
    finally:
        await connection.close()


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("station", "list"), ("reconcile",)], ids=" ".join)
def test_a_wrong_password_in_database_url_is_one_line_without_the_password(
    program: Program, database_dsn: str, command: tuple[str, ...]
) -> None:
    secret = "not-the-password"
    line = one_line(program(*command, DATABASE_URL=_with_password(database_dsn, secret)), "DATABASE_URL")
    assert secret not in line


@pytest.mark.parametrize("command", [("serve",), ("migrate",)], ids=" ".join)
def test_a_database_that_does_not_exist_is_one_line(
    program: Program, database_dsn: str, command: tuple[str, ...]
) -> None:
    one_line(program(*command, DATABASE_URL=support.with_database(database_dsn, "nowhere")), "DATABASE_URL")


@pytest.mark.parametrize(
    "url",
    ["nonsense", "mysql://u:p@h/d", "postgresql://u:p@h:port/d", "postgresql://[::1/d", "http://127.0.0.1/"],
)
def test_a_database_url_that_is_none_is_one_line(program: Program, url: str) -> None:
    one_line(program("serve", DATABASE_URL=url), "DATABASE_URL")


def test_a_parameter_that_the_driver_does_not_know_is_one_line(program: Program, database_dsn: str) -> None:
    one_line(program("serve", DATABASE_URL=f"{database_dsn}&sslmode=perhaps"), "DATABASE_URL")


def test_a_database_that_is_away_is_one_line_for_a_command(program: Program) -> None:
    port = support.free_port()
    for command in (("station", "list"), ("migrate",), ("reconcile", "--dry-run")):
        one_line(program(*command, DATABASE_URL=f"postgresql://u:p@127.0.0.1:{port}/d"), "DATABASE_URL")


def test_an_occupied_port_is_one_line_that_names_the_setting(program: Program, database_dsn: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        free = f"127.0.0.1:{support.free_port()}"
        for http, ocpp, named in ((busy, free, "VOLTLEDGER_HTTP"), (free, busy, "VOLTLEDGER_OCPP")):
            done = program("serve", DATABASE_URL=database_dsn, VOLTLEDGER_HTTP=http, VOLTLEDGER_OCPP=ocpp)
            line = done.stderr.strip().splitlines()[-1:]
            assert done.returncode != 0
            assert line, done.stdout
            assert named in line[0]
            assert busy in line[0]
            assert "Traceback" not in done.stderr + done.stdout
        # The program's own server on the other port is gone with it.
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(free.rpartition(":")[2]))) != 0


def test_a_data_folder_that_cannot_be_written_is_one_line(program: Program, folder: Path, database_dsn: str) -> None:
    file = folder / "a-file"
    file.write_text("precious")
    one_line(program("serve", VOLTLEDGER_DATA=file / "data", DATABASE_URL=database_dsn), str(file))
    one_line(program("serve", VOLTLEDGER_DATA=file, DATABASE_URL=database_dsn), str(file))
    assert file.read_text() == "precious"
    if os.path.isdir("/proc/1"):
        one_line(program("serve", VOLTLEDGER_DATA="/proc/nothing", DATABASE_URL=database_dsn), "/proc/nothing")


def test_an_unknown_name_is_one_line_that_guesses_the_right_one(program: Program, database_dsn: str) -> None:
    done = program("serve", DATABASE_URL=database_dsn, VOLTLEDGER_SYNC_INTERVALL_S=60)
    assert "VOLTLEDGER_SYNC_INTERVAL_S" in one_line(done, "VOLTLEDGER_SYNC_INTERVALL_S")
    one_line(program("serve", DATABASE_URL=database_dsn, VOLTLEDGER_HOLD_S="soon"), "VOLTLEDGER_HOLD_S")


def test_a_newer_schema_is_refused_and_left_alone(program: Program, database_dsn: str) -> None:
    async def from_the_future() -> None:
        connection = await asyncpg.connect(database_dsn)
        await connection.execute("INSERT INTO schema_migration (version, checksum) VALUES ('9999_pre_future', 'x')")
        await connection.close()

    asyncio.run(from_the_future())
    before = asyncio.run(_tables(database_dsn))
    for command in (("serve",), ("migrate",), ("user", "add", "Asha")):
        one_line(program(*command, DATABASE_URL=database_dsn), "9999_pre_future", "newer release")
    assert asyncio.run(_tables(database_dsn)) == before


def test_a_second_server_on_the_same_data_folder_is_refused_and_the_first_serves_on(
    program: Program, folder: Path, database_dsn: str
) -> None:
    first = Server(folder, database_dsn)
    first.start()
    try:
        done = program(
            "serve",
            DATABASE_URL=database_dsn,
            VOLTLEDGER_HTTP=f"127.0.0.1:{support.free_port()}",
            VOLTLEDGER_OCPP=f"127.0.0.1:{support.free_port()}",
        )
        one_line(done, str(first.data))
        assert first.health()["status"] in ("ok", "degraded")
        assert first.health()["database"] == "ok"
        # Other commands work beside a running server.
        assert program("station", "list", DATABASE_URL=database_dsn).returncode == 0
        assert "shown this once" in first.output(), "the first admin key is printed"
    finally:
        first.stop()
    assert "Traceback" not in first.output()
    # And a stop in order gives the folder back.
    again = Server(folder, database_dsn)
    again.start()
    again.stop()
    assert again.output().count("first admin API key") == 1, "once, ever"
