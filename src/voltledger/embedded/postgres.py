"""An embedded PostgreSQL: one cluster in the data folder, reached over a private Unix socket.

Files, below the server's folder (see `folder`):
    cluster/      the database cluster; the books
    password      of the superuser, mode 0600
    databases     names of the databases made so far
    run/          the socket, if the path is short enough
    binaries/     a copy of the programs, if the server's user cannot reach the installed ones
    postgres.log  what the server writes
"""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from voltledger.embedded import process
from voltledger.embedded.binaries import PostgresBinaries, find_postgres
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

SUPERUSER = "voltledger"
_PORT = 5432  # only a part of the socket's name: nothing listens on TCP
_READY_TIMEOUT_S = 300  # recovery after a crash may replay much
_FAST, _IMMEDIATE = (signal.SIGINT, 60.0), (signal.SIGQUIT, 20.0)


@dataclass(slots=True)
class RunningPostgres:
    """A server that this process has started. Stop it from the thread you like, once or more often."""

    dsn: str
    pid: int
    version: str
    socket_folder: Path
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
        """Whether another PostgreSQL than the one we started works on the cluster."""
        cluster = self._folder.base / "cluster"
        facts = _postmaster_facts(cluster)
        return facts is not None and facts.pid != self.pid and process.works_in(facts.pid, cluster)

    def start_again(self) -> None:
        """Starts it once more after it has ended, at the same address; does not wait until it is ready.

        Raises: OSError; RuntimeError outside the main thread.
        """
        self._process = self._spawn()
        self.pid = self._process.pid

    def stop(self) -> None:
        """Ends connections, writes a checkpoint and stops. Does nothing if the server has stopped.

        Effects: removes the socket folder if it was a temporary one, and frees the data folder.
        """
        if os.getpid() != self._owner:  # a forked copy of us must not stop the server of its parent
            return
        atexit.unregister(self.stop)
        process.stop(self._process, _FAST, _IMMEDIATE)
        remove_socket_folder(self._folder, self.socket_folder)
        self._lock.release()


def start_postgres(
    data_folder: Path, *, bin_dir: Path | None = None, durable: bool = True, database: str = "voltledger"
) -> RunningPostgres:
    """Starts PostgreSQL on the cluster of the data folder, making both if they are missing.

    `durable=False` switches fsync off and exists for tests only.

    Effects: files in the data folder; a child process that ends with this one.
    Raises: EmbeddedError in one of its kinds; RuntimeError outside the main thread.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", database):
        raise ValueError("a database name is made of small letters, digits and underscores")
    data_folder = data_folder.absolute()
    lock = lock_data_folder(data_folder, "postgres.lock")
    try:
        folder = server_folder(data_folder, "postgres", "cluster")
        _stop_what_an_earlier_run_left(folder)
        cluster = folder.base / "cluster"
        copies = folder.base / "binaries"
        copies.mkdir(mode=0o711, exist_ok=True)
        binaries = find_postgres(bin_dir, major=_major_of(cluster), copies=copies, identity=folder.identity)
        if not cluster.exists():
            _make_cluster(folder, binaries, durable=durable)
        _make_database(folder, binaries, database)
        return _launch(folder, binaries, lock, durable=durable, database=database)
    except OSError as problem:
        lock.release()
        raise ServerDidNotStart(f"PostgreSQL cannot be started on {data_folder}: {problem}") from problem
    except BaseException:
        lock.release()
        raise


def find_running_postgres(data_folder: Path, *, database: str = "voltledger") -> str | None:
    """The DSN of the embedded server that another process runs on this data folder, or None.

    For commands that work beside a running server.
    """
    base = existing_base(data_folder.absolute(), "postgres")
    facts = _postmaster_facts(base / "cluster")
    if facts is None or not facts.ready or not process.works_in(facts.pid, base / "cluster"):
        return None
    try:
        return _dsn((base / "password").read_text(encoding="utf-8"), facts.socket_folder, database)
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class _PostmasterFacts:
    pid: int
    socket_folder: Path
    ready: bool


def _postmaster_facts(cluster: Path) -> _PostmasterFacts | None:
    """What the server says of itself in postmaster.pid, or None while it says nothing."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        sockets = lines[4].strip() if len(lines) > 4 else ""
        ready = len(lines) > 7 and lines[7].strip() == "ready"
        return _PostmasterFacts(int(lines[0]), Path(sockets), ready)
    except (OSError, ValueError, IndexError):
        return None


def _stop_what_an_earlier_run_left(folder: ServerFolder) -> None:
    """We hold the lock, so a server on this cluster has lost its voltledger."""
    cluster = folder.base / "cluster"
    facts = _postmaster_facts(cluster)
    if facts is not None:
        process.stop_orphan(facts.pid, cluster, _FAST, _IMMEDIATE)
    shutil.rmtree(folder.base / "cluster.new", ignore_errors=True)


def _major_of(cluster: Path) -> int | None:
    try:
        return int((cluster / "PG_VERSION").read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ServerDidNotStart(f"{cluster / 'PG_VERSION'} is damaged: restore it from a backup") from None


def _make_cluster(folder: ServerFolder, binaries: PostgresBinaries, *, durable: bool) -> None:
    """Makes the cluster beside its place and moves it there when it is whole."""
    new = folder.private("cluster.new")
    password = secrets.token_urlsafe(24)
    password_file = folder.private("run") / "initial-password"
    locale = (
        ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if binaries.major >= 17
        else ["--locale=C.UTF-8"]
    )
    try:
        write_secret(password_file, password + "\n")
        process.give_to(password_file, folder.identity)
        command: list[str | Path] = [
            binaries.folder / "initdb",
            *("-D", new, "-U", SUPERUSER, f"--pwfile={password_file}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums", "--no-instructions"),
            *locale,
            *([] if durable else ["--no-sync"]),
        ]
        answer = process.run(command, identity=folder.identity, folder=folder.base)
    finally:
        password_file.unlink(missing_ok=True)
    if answer.returncode != 0:
        shutil.rmtree(new, ignore_errors=True)
        lines = [line.strip() for line in answer.stdout.splitlines() if "error" in line.lower()]
        reason = (lines or answer.stdout.strip().splitlines() or ["it said nothing"])[-1]
        raise ServerDidNotStart(f"PostgreSQL could not make a cluster in {folder.base}: {reason}")
    write_secret(folder.base / "password", password)
    (folder.base / "databases").unlink(missing_ok=True)
    new.rename(folder.base / "cluster")


def _make_database(folder: ServerFolder, binaries: PostgresBinaries, name: str) -> None:
    """Makes the database once, in single-user mode: no client library is needed for that."""
    record = folder.base / "databases"
    known = record.read_text(encoding="utf-8").split() if record.exists() else []
    if name in known:
        return
    command: list[str | Path] = [
        binaries.folder / "postgres",
        "--single",
        "-D",
        folder.base / "cluster",
        "postgres",
    ]
    answer = process.run(command, identity=folder.identity, folder=folder.base, stdin=f"CREATE DATABASE {name};\n")
    if answer.returncode != 0 or ("ERROR" in answer.stdout and "already exists" not in answer.stdout):
        errors = [line for line in answer.stdout.splitlines() if "ERROR" in line or "FATAL" in line]
        reason = " ".join(errors) or "it said nothing"
        raise ServerDidNotStart(f"PostgreSQL could not make the database {name}: {reason}")
    record.write_text("\n".join([*known, name]) + "\n", encoding="utf-8")


def _launch(
    folder: ServerFolder, binaries: PostgresBinaries, lock: DataFolderLock, *, durable: bool, database: str
) -> RunningPostgres:
    cluster = folder.base / "cluster"
    password = (folder.base / "password").read_text(encoding="utf-8")
    sockets = socket_folder(folder)
    log = folder.base / "postgres.log"
    log_start = shorten_log(log)
    options = {
        "listen_addresses": "",
        "port": str(_PORT),
        "unix_socket_directories": str(sockets),
        "unix_socket_permissions": "0700",
        "password_encryption": "scram-sha-256",
        "cluster_name": "voltledger",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
        "log_destination": "stderr",
        "max_connections": "200",
        "huge_pages": "off",
        "jit": "off",
        **({} if durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
    }
    spawn = partial(
        process.spawn,
        [
            binaries.folder / "postgres",
            *("-D", cluster),
            *(part for name, value in options.items() for part in ("-c", f"{name}={value}")),
        ],
        identity=folder.identity,
        folder=folder.base,
        log=log,
        death_signal=signal.SIGINT,
    )
    child = spawn()

    def is_ready() -> bool:
        facts = _postmaster_facts(cluster)
        return facts is not None and facts.pid == child.pid and facts.ready

    try:
        process.wait_until(lambda: child.poll() is not None or is_ready(), _READY_TIMEOUT_S)
        if child.poll() is not None or not is_ready():
            raise ServerDidNotStart(
                f"PostgreSQL {binaries.version} did not start: {process.last_lines(log, log_start)} (see {log})"
            )
    except BaseException:
        process.stop(child, _FAST, _IMMEDIATE)
        remove_socket_folder(folder, sockets)
        raise
    running = RunningPostgres(
        dsn=_dsn(password, sockets, database),
        pid=child.pid,
        version=binaries.version,
        socket_folder=sockets,
        log=log,
        _process=child,
        _spawn=spawn,
        _folder=folder,
        _lock=lock,
        _owner=os.getpid(),
    )
    atexit.register(running.stop)
    return running


def _dsn(password: str, sockets: Path, database: str) -> str:
    secret = quote(password.strip(), safe="")
    return f"postgresql://{SUPERUSER}:{secret}@/{database}?host={quote(str(sockets), safe='/')}&port={_PORT}"
