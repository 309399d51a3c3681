"""The embedded Valkey on real programs."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError

from tests.conftest import embedded_redis_server
from tests.integration.embedded.conftest import Child, alive, forget
from tests.integration.embedded.test_postgres import command_lines
from tests.support import wait_until
from voltledger.embedded import BinariesMissing, DataFolderBusy, RunningRedis, find_running_redis, start_redis
from voltledger.embedded.redis import RedisAddress

linux_only = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")

Start = Callable[..., RunningRedis]


@pytest.fixture
def start() -> Iterator[Start]:
    """`start(folder)` starts a server; all are stopped at the end."""
    servers: list[RunningRedis] = []

    def start_one(folder: Path, **options: Any) -> RunningRedis:
        servers.append(start_redis(folder, **({"server": embedded_redis_server()} | options)))
        return servers[-1]

    yield start_one
    for server in servers:
        server.stop()


def client(server: RunningRedis) -> Redis:
    return Redis(unix_socket_path=str(server.socket_path), password=server.password, decode_responses=True)


async def test_it_answers_and_holds_values_until_it_stops(start: Start, data_folder: Path) -> None:
    server = start(data_folder)
    async with client(server) as redis:
        await redis.set("a", "1")
        assert await redis.get("a") == "1"
    server.stop()
    server.stop()
    assert not server.is_running()
    async with client(start(data_folder)) as redis:
        assert await redis.get("a") is None


async def test_it_never_writes_evicts_or_listens_on_tcp(start: Start, data_folder: Path) -> None:
    async with client(start(data_folder)) as redis:
        settings = await redis.config_get("port", "save", "appendonly", "maxmemory-policy")
    assert settings == {"port": "0", "save": "", "appendonly": "no", "maxmemory-policy": "noeviction"}


async def test_streams_groups_and_scripts_work(start: Start, data_folder: Path) -> None:
    async with client(start(data_folder)) as redis:
        await redis.xadd("s", {"a": "1"}, maxlen=10)
        await redis.xgroup_create("s", "g", "0")
        assert len(await redis.xreadgroup("g", "c", {"s": ">"})) == 1
        script = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
        await redis.set("lock", "me")
        assert await redis.eval(script, 1, "lock", "you") == 0
        assert await redis.eval(script, 1, "lock", "me") == 1


async def test_the_password_is_needed_and_no_command_line_shows_it(start: Start, data_folder: Path) -> None:
    server = start(data_folder)
    async with Redis(unix_socket_path=str(server.socket_path)) as redis:
        with pytest.raises((AuthenticationError, ConnectionError)):  # HELLO is refused before any command
            await redis.ping()
    assert server.password not in command_lines()
    assert stat.S_IMODE((data_folder / "redis" / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.socket_path.parent.stat().st_mode) == 0o700


def test_a_second_instance_on_the_same_folder_is_refused(start: Start, data_folder: Path) -> None:
    start(data_folder)
    with pytest.raises(DataFolderBusy):
        start_redis(data_folder)


def test_a_command_beside_the_server_finds_it(start: Start, data_folder: Path) -> None:
    assert find_running_redis(data_folder) is None
    server = start(data_folder)
    assert find_running_redis(data_folder) == RedisAddress(server.socket_path, server.password)
    server.stop()
    assert find_running_redis(data_folder) is None


@linux_only
async def test_a_killed_parent_takes_both_servers_along(child: Callable[..., Child], data_folder: Path) -> None:
    parent = child("both", data_folder)
    assert alive(parent.facts["postgres"])
    assert alive(parent.facts["redis"])
    parent.kill()
    await wait_until(
        lambda: not alive(parent.facts["postgres"]) and not alive(parent.facts["redis"]),
        30,
        what="the end of both servers",
    )


@linux_only
def test_a_start_right_after_a_kill_stops_what_is_left(
    start: Start, child: Callable[..., Child], data_folder: Path
) -> None:
    parent = child("redis", data_folder)
    os.kill(parent.facts["redis"], signal.SIGSTOP)
    parent.kill()
    assert alive(parent.facts["redis"])
    timer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -CONT {parent.facts['redis']}"])
    assert start(data_folder).is_running()
    timer.wait()
    assert not alive(parent.facts["redis"])


async def test_a_long_or_odd_path_works(start: Start, data_folder: Path) -> None:
    for name in ("long-" + "x" * 150, "with blank, 'quote' and ü"):
        folder = data_folder / name
        folder.mkdir(parents=True)
        folder.chmod(0o711)
        data_folder.chmod(0o711)
        server = start(folder)
        async with client(server) as redis:
            assert await redis.ping()
        server.stop()
        assert not server.socket_path.exists()
        forget(folder)


@root_only
def test_root_drops_to_another_user(start: Start, data_folder: Path) -> None:
    assert Path(f"/proc/{start(data_folder).pid}").stat().st_uid != 0


@root_only
def test_a_program_below_a_closed_home_is_copied(start: Start, data_folder: Path) -> None:
    server = start(data_folder)
    program = os.readlink(f"/proc/{server.pid}/exe")
    server.stop()
    closed = data_folder.parent / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy(program, closed / "a-server")
    assert start(data_folder, server=str(closed / "a-server")).is_running()


def test_a_missing_program_is_refused_with_a_remedy(data_folder: Path) -> None:
    with pytest.raises(BinariesMissing, match="set REDIS_HOST"):
        start_redis(data_folder, server="no-such-server")
