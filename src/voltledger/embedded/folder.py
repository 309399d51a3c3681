"""The data folder: who uses it, and where a server keeps its files.

Usually a server's files are in the data folder itself (`postgres/`, `redis/`). When root runs voltledger, the
server runs as another user, who may be unable to get there: a checkout under a home of mode 0700, say. Then
the files go to a folder of their own under /var/lib/voltledger, and the data folder holds a pointer
(`postgres.location`) to it. The books go where the pointer says for as long as it exists; a pointer to a
folder that is gone is an error and never a silent new start.

Sockets need short paths: Linux allows 107 bytes. They are in `run/` of the server's files when that is short
enough, else in a new private folder in the system's temporary folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from voltledger.embedded import process
from voltledger.embedded.errors import DataFolderBusy, DataFolderUnusable

_STATE_ROOT = Path("/var/lib/voltledger")
_SOCKET_FOLDER_BYTES = 85  # leaves room for the longest socket name, on macOS (103 bytes) too


class DataFolderLock:
    """Holds the data folder for this process. Given up by `release`, or by the end of the process."""

    def __init__(self, file: int) -> None:
        self._file = file

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> DataFolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_data_folder(data_folder: Path, name: str = "lock") -> DataFolderLock:
    """Takes the data folder for this process, making it if it is missing.

    Raises: DataFolderBusy if another process has it, DataFolderUnusable if it cannot be written.
    """
    make_folder(data_folder)
    path = data_folder / name
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise _unusable(data_folder, problem) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(file, 32).decode("ascii", "replace").strip()
        os.close(file)
        by = f" (process {holder})" if holder.isdigit() else ""
        raise DataFolderBusy(
            f"another voltledger{by} is using {data_folder}: stop it, or set VOLTLEDGER_DATA to another folder"
        ) from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
    return DataFolderLock(file)


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """Where one server keeps its files, and the user who runs it."""

    base: Path
    identity: process.Identity | None

    def private(self, name: str) -> Path:
        """A folder of the server's user, mode 0700."""
        path = self.base / name
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        process.give_to(path, self.identity)
        path.chmod(0o700)
        return path


def server_folder(data_folder: Path, name: str, content: str) -> ServerFolder:
    """Finds or makes the folder of the server `name`, where its user can reach it.

    `content` is the folder in it that decides about the owner, `cluster` for PostgreSQL.

    Raises: DataFolderUnusable.
    """
    make_folder(data_folder)
    pointer = data_folder / f"{name}.location"
    try:
        if pointer.exists():
            base = Path(pointer.read_text(encoding="utf-8").strip())
            if not base.is_dir():
                raise DataFolderUnusable(
                    f"{pointer} says that the data is in {base}, which is gone: bring it back, or remove "
                    f"{pointer} to start with nothing"
                )
            return ServerFolder(base, process.identity_for(base / content))
        base = data_folder / name
        identity = process.identity_for(base / content)
        _make_base(base)
        folder = ServerFolder(base, identity)
        if process.can_use_folder(folder.private("run"), identity):
            return folder
        if identity is None or (base / content).exists():
            raise DataFolderUnusable(
                f"the files in {base} belong to another user or cannot be reached: start voltledger as their "
                "owner, or set VOLTLEDGER_DATA to another folder"
            )
        shutil.rmtree(base)
        _STATE_ROOT.mkdir(mode=0o711, parents=True, exist_ok=True)
        base = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_STATE_ROOT))
        base.chmod(0o711)
        folder = ServerFolder(base, identity)
        if not process.can_use_folder(folder.private("run"), identity):
            raise DataFolderUnusable(
                f"user {identity.uid} can reach neither {data_folder} nor {_STATE_ROOT}: set VOLTLEDGER_DATA "
                "to a folder that every user can enter"
            )
        pointer.write_text(f"{base}\n", encoding="utf-8")
        return folder
    except OSError as problem:
        raise _unusable(data_folder, problem) from None


def existing_base(data_folder: Path, name: str) -> Path:
    """Where the files of a server are, without making anything."""
    try:
        return Path((data_folder / f"{name}.location").read_text(encoding="utf-8").strip())
    except OSError:
        return data_folder / name


def socket_folder(folder: ServerFolder) -> Path:
    """A private folder whose path is short and plain enough for a socket.

    A temporary one of an earlier run, which may have been killed, is removed.
    """
    record = folder.base / "sockets"
    with contextlib.suppress(OSError):
        old = Path(record.read_text(encoding="utf-8").strip())
        if old.name.startswith("voltledger-") and old.parent == Path(_temporary_root()):
            shutil.rmtree(old, ignore_errors=True)
    run = folder.private("run")
    if len(os.fsencode(run)) <= _SOCKET_FOLDER_BYTES and re.fullmatch(r"[A-Za-z0-9/_.+-]+", str(run)):
        record.unlink(missing_ok=True)
        return run
    short = Path(tempfile.mkdtemp(prefix="voltledger-", dir=_temporary_root()))
    process.give_to(short, folder.identity)
    record.write_text(f"{short}\n", encoding="utf-8")
    return short


def remove_socket_folder(folder: ServerFolder, sockets: Path) -> None:
    """Removes a temporary socket folder once its server has stopped."""
    if sockets != folder.base / "run":
        shutil.rmtree(sockets, ignore_errors=True)
        with contextlib.suppress(OSError):
            (folder.base / "sockets").unlink()


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)


def shorten_log(path: Path, most_bytes: int = 5_000_000) -> int:
    """Moves a log that has grown too long aside. Returns the size from which new lines start."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if size <= most_bytes:
        return size
    path.replace(path.with_name(path.name + ".1"))
    return 0


def make_folder(data_folder: Path) -> None:
    """Makes the data folder if it is missing; root leaves it enterable for the servers' user.

    Raises: DataFolderUnusable.
    """
    try:
        if not data_folder.is_dir():
            data_folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        if not os.access(data_folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as problem:
        raise _unusable(data_folder, problem) from None


def _make_base(base: Path) -> None:
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o711)
    if os.access(base, os.W_OK):
        with contextlib.suppress(PermissionError):
            base.chmod(0o711)


def _temporary_root() -> str:
    return "/tmp"  # TMPDIR is often a long path; what is made in here is private and has a random name


def _unusable(data_folder: Path, problem: OSError) -> DataFolderUnusable:
    return DataFolderUnusable(
        f"cannot use the data folder {data_folder} ({problem.strerror}): make it writable, or set "
        "VOLTLEDGER_DATA to another folder"
    )
