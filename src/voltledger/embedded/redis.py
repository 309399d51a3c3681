"""An embedded Valkey (or Redis): a cache on a private Unix socket, empty after every start.

Files, below the server's folder (see `folder`):
    work/         the server's working folder; it writes nothing there
    password      of this run, mode 0600
    run/          the socket, if the path is short enough
    redis.log     what the server writes
"""

from __future__ import annotations

import atexit
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from voltledger.embedded import process
from voltledger.embedded.binaries import find_redis
from voltledger.embedded.errors import ServerDidNotStart
from voltledger.embedded.folder import (
    DataFolderLock,
    ServerFolder,
    existing_base,
    lock_data_folder,
    remove_socket_folder,
    server_folder,
    shorten_log,
    socket_folder,
    write_secret,
)

_READY_TIMEOUT_S = 30
_TERMINATE = (signal.SIGTERM, 10.0)
_SOCKET_NAME = "redis.sock"


@dataclass(slots=True)
class RunningRedis:
    """A server that this process has started."""

    socket_path: Path
    password: str
    pid: int
    log: Path
    _process: subprocess.Popen[bytes]
    _spawn: Callable[[], subprocess.Popen[bytes]]
    _folder: ServerFolder
    _lock: DataFolderLock
    _owner: int

    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def was_stopped(self) -> bool:
        """Whether it has ended in order, as when somebody told it to stop."""
        return self._process.poll() == 0

    @property
    def runs_elsewhere(self) -> bool:
        """Never: the folder is ours, and what is in it cannot be found by another."""
        return False

    def start_again(self) -> None:
        """Starts it once more after it has ended, at the same address and empty; does not wait until it is ready.

        Raises: OSError; RuntimeError outside the main thread.
        """
        self.socket_path.unlink(missing_ok=True)
        self._process = self._spawn()
        self.pid = self._process.pid
        (self._folder.base / "pid").write_text(f"{self.pid}\n", encoding="ascii")

    def stop(self) -> None:
        """Stops the server; what it held is gone. Does nothing if it has stopped."""
        if os.getpid() != self._owner:  # a forked copy of us must not stop the server of its parent
            return
        atexit.unregister(self.stop)
        process.stop(self._process, _TERMINATE)
        remove_socket_folder(self._folder, self.socket_path.parent)
        self._lock.release()


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """How to reach an embedded server that another process runs."""

    socket_path: Path
    password: str


def start_redis(data_folder: Path, *, server: str | None = None) -> RunningRedis:
    """Starts Valkey or Redis; `server` names a program on PATH or a path to one.

    Effects: files in the data folder; a child process that ends with this one.
    Raises: EmbeddedError in one of its kinds; RuntimeError outside the main thread.
    """
    data_folder = data_folder.absolute()
    lock = lock_data_folder(data_folder, "redis.lock")
    try:
        folder = server_folder(data_folder, "redis", "work")
        work = folder.private("work")
        _stop_what_an_earlier_run_left(folder)
        program = find_redis(server, copies=folder.base / "binaries", identity=folder.identity)
        return _launch(folder, work, program, lock)
    except OSError as problem:
        lock.release()
        raise ServerDidNotStart(f"Valkey cannot be started on {data_folder}: {problem}") from problem
    except BaseException:
        lock.release()
        raise


def find_running_redis(data_folder: Path) -> RedisAddress | None:
    """The embedded server that another process runs on this data folder, or None."""
    base = existing_base(data_folder.absolute(), "redis")
    try:
        pid = int((base / "pid").read_text(encoding="ascii"))
        path = Path((base / "socket").read_text(encoding="utf-8"))
        password = (base / "password").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return RedisAddress(path, password) if process.works_in(pid, base / "work") else None


def _stop_what_an_earlier_run_left(folder: ServerFolder) -> None:
    try:
        pid = int((folder.base / "pid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return
    process.stop_orphan(pid, folder.base / "work", _TERMINATE)


def _launch(folder: ServerFolder, work: Path, program: Path, lock: DataFolderLock) -> RunningRedis:
    password = secrets.token_hex(24)
    sockets = socket_folder(folder)
    path = sockets / _SOCKET_NAME
    path.unlink(missing_ok=True)
    log = folder.base / "redis.log"
    log_start = shorten_log(log)
    # Read from standard input, so the password is neither in a file of the server nor on its command line.
    config = f"""\
port 0
unixsocket {path}
unixsocketperm 700
requirepass {password}
dir "{_quoted(work)}"
save ""
appendonly no
maxmemory-policy noeviction
daemonize no
supervised no
loglevel warning
logfile ""
"""
    spawn = partial(
        process.spawn,
        [program, "-"],
        identity=folder.identity,
        folder=work,
        log=log,
        death_signal=signal.SIGTERM,
        stdin=config.encode("utf-8", "surrogateescape"),
    )
    child = spawn()
    try:
        (folder.base / "pid").write_text(f"{child.pid}\n", encoding="ascii")
        write_secret(folder.base / "password", password)
        (folder.base / "socket").write_text(str(path), encoding="utf-8")
        process.wait_until(lambda: child.poll() is not None or _answers(path, password), _READY_TIMEOUT_S)
        if child.poll() is not None or not _answers(path, password):
            raise ServerDidNotStart(f"{program.name} did not start: {process.last_lines(log, log_start)} (see {log})")
    except BaseException:
        process.stop(child, _TERMINATE)
        remove_socket_folder(folder, sockets)
        raise
    running = RunningRedis(
        socket_path=path,
        password=password,
        pid=child.pid,
        log=log,
        _process=child,
        _spawn=spawn,
        _folder=folder,
        _lock=lock,
        _owner=os.getpid(),
    )
    atexit.register(running.stop)
    return running


def _answers(path: Path, password: str) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode("ascii"))
            answer = b""
            while answer.count(b"\n") < 2:
                part = connection.recv(256)
                if not part:
                    return False
                answer += part
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
