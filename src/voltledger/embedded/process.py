"""Running a server as a child: under which user, for how long, and how it is stopped.

A child runs in a session of its own, so Ctrl-C in a terminal reaches voltledger only and voltledger decides
when the servers go. If voltledger is killed, the kernel sends the child its death signal (Linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LINUX: bool = sys.platform == "linux"
_PR_SET_PDEATHSIG = 1
_PREFERRED_USERS = ("voltledger", "postgres", "nobody")
# Loaded before any fork: a child between fork and exec must not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True) if _LINUX else None


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that root runs a server as."""

    uid: int
    gid: int


def identity_for(existing: Path) -> Identity | None:
    """Who runs the server whose files are in `existing`. None: the user we are.

    Only root changes. Files that exist keep their owner; new ones get the first user that exists of
    voltledger, postgres and nobody.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(OSError):
        owner = existing.stat()
        if owner.st_uid != 0:
            return Identity(owner.st_uid, owner.st_gid)
    for name in _PREFERRED_USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Identity(entry.pw_uid, entry.pw_gid)
    return Identity(65534, 65534)


def give_to(path: Path, identity: Identity | None) -> None:
    """Makes the user that runs the server the owner of `path`."""
    if identity is not None:
        os.chown(path, identity.uid, identity.gid)


def spawn(
    command: Sequence[str | Path],
    *,
    identity: Identity | None,
    folder: Path,
    log: Path,
    death_signal: signal.Signals,
    stdin: bytes | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a server whose output goes to the end of `log`.

    Raises: RuntimeError outside the main thread, since the child would die with its thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("start embedded servers from the main thread")
    with log.open("ab") as output:
        child = subprocess.Popen(
            [os.fspath(part) for part in command],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=folder,
            env=_environment(),
            start_new_session=True,
            umask=0o077,
            preexec_fn=_dies_with_parent(death_signal),  # noqa: PLW1509 - no other thread runs this early
            **_as_user(identity),
        )
    if stdin is not None and child.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(stdin)
            child.stdin.close()
    return child


def run(
    command: Sequence[str | Path],
    *,
    identity: Identity | None,
    folder: Path,
    stdin: str = "",
    timeout_s: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end as the server's user. Its exit status is the caller's to judge.

    Raises: OSError if the program cannot be run by that user.
    """
    return subprocess.run(
        [os.fspath(part) for part in command],
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=folder,
        env=_environment(),
        timeout=timeout_s,
        umask=0o077,
        check=False,
        **_as_user(identity),
    )


def can_use_folder(folder: Path, identity: Identity | None) -> bool:
    """Whether the server's user can enter and write the folder."""
    try:
        answer = run(["/bin/sh", "-c", 'cd -- "$1" && [ -w . ]', "sh", folder], identity=identity, folder=Path("/"))
    except OSError:
        return False
    return answer.returncode == 0


def stop(process: subprocess.Popen[bytes], *escalation: tuple[signal.Signals, float]) -> None:
    """Stops a child: each signal in turn, each with its time in seconds; the last resort is SIGKILL."""
    for number, patience_s in (*escalation, (signal.SIGKILL, 10.0)):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)


def stop_orphan(pid: int, folder: Path, *escalation: tuple[signal.Signals, float]) -> None:
    """Stops a server that an earlier voltledger left behind, if `pid` is really that server of `folder`."""
    for number, patience_s in (*escalation, (signal.SIGKILL, 10.0)):
        if not works_in(pid, folder):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        wait_until(lambda: not works_in(pid, folder), patience_s)


def works_in(pid: int, folder: Path) -> bool:
    """Whether the process lives and has `folder` as its working folder, as our servers do."""
    if pid <= 1:
        return False
    if _LINUX:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2]
            return state.split()[0] != "Z" and os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(folder)
        except (OSError, IndexError):
            return False
    listing = subprocess.run(
        ["lsof", "-a", "-p", str(pid), "-d", "cwd", "-Fn"], capture_output=True, text=True, check=False
    )
    return f"n{os.path.realpath(folder)}" in listing.stdout.splitlines()


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Polls a condition; says whether it became true in time."""
    deadline = time.monotonic() + timeout_s
    pause = 0.002
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True


def last_lines(log: Path, since: int, count: int = 3) -> str:
    """The end of what a server wrote after `since` bytes, on one line, for an error message."""
    try:
        with log.open("rb") as file:
            file.seek(since)
            text = file.read()[-8000:].decode("utf-8", "replace")
    except OSError:
        return "it left no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    plain = [re.sub(r"^[0-9]{4}-[0-9-]+ [0-9:.]+ \S+ \[[0-9]+\] ", "", line) for line in lines]
    telling = [line for line in plain if not line.endswith("database system is shut down")]
    return " / ".join(telling[-count:]) or "it wrote nothing"


def _environment() -> dict[str, str]:
    """Little and fixed: no PG* variable or locale of the user reaches a server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}


def _as_user(identity: Identity | None) -> Mapping[str, Any]:
    if identity is None:
        return {}
    return {"user": identity.uid, "group": identity.gid, "extra_groups": []}


def _dies_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    libc = _LIBC
    if libc is None:
        return None
    parent = os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask_kernel
