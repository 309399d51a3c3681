"""Folders and child processes for the tests of the embedded servers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHILDREN = Path(__file__).with_name("children.py")


class Child:
    """A Python process with embedded servers."""

    def __init__(self, which: str, folder: Path, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(CHILDREN), which, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            **options,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait(10)} and said nothing"
        self.facts: dict[str, Any] = json.loads(line)

    def end(self) -> int:
        """Lets it end by itself."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate(timeout=60)
        return self.process.wait(60)

    def kill(self) -> None:
        """As a crash or the kernel would: nothing of it runs any more."""
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """`child("both", folder)` starts a child; what still runs at the end is stopped."""
    children: list[Child] = []

    def start(which: str, folder: Path, **options: Any) -> Child:
        children.append(Child(which, folder, **options))
        return children[-1]

    yield start
    for each in children:
        if each.process.poll() is None:
            each.end()
        for stream in (each.process.stdin, each.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def data_folder() -> Iterator[Path]:
    """A data folder with a short path that every user can enter; what it points to is removed as well."""
    top = Path(tempfile.mkdtemp(prefix="vl-data-"))
    top.chmod(0o711)
    yield top / "data"
    forget(top / "data")
    shutil.rmtree(top, ignore_errors=True)


def forget(data: Path) -> None:
    """Removes the folders that a data folder points to."""
    for pointer in data.glob("*.location"):
        shutil.rmtree(pointer.read_text().strip(), ignore_errors=True)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
