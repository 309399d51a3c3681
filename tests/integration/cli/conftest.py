"""The command line: in this process where only its answers count, as a process of its own where its end counts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.world import environment, run, short_folder
from voltledger.cli.app import main


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with short_folder() as folder:
        yield folder


@pytest.fixture
def program(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`program("serve", DATABASE_URL=...)` runs the command as a process and waits for its end."""

    def start(*words: str, **settings: object) -> subprocess.CompletedProcess[str]:
        own = {"VOLTLEDGER_DATA": folder / "data", "VOLTLEDGER_LOG_FILE": folder / "ocpp-server.log"}
        return run(*words, env=environment(**{**own, **settings}), folder=folder)

    return start


class Cli:
    """The same command line in this process: no start of Python for each answer."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
        self.dsn = dsn
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Exit status, standard output, standard error."""
        self._monkeypatch.setattr("sys.argv", ["voltledger", *words])
        self._capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        out, err = self._capsys.readouterr()
        return status, out, err

    def json(self, *words: str) -> Any:
        """The one object that a command prints."""
        status, out, err = self(*words, "--json")
        assert status == 0, err
        assert len(out.splitlines()) == 1, out
        return json.loads(out)

    def lines(self, *words: str) -> list[Any]:
        """The objects that a list prints, one a line."""
        status, out, err = self(*words, "--json")
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, database_dsn: str) -> Cli:
    """The command line on a database of this test alone."""
    for name in list(os.environ):
        if name.startswith(("VOLTLEDGER_", "REDIS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", database_dsn)
    monkeypatch.setenv("VOLTLEDGER_DATA", str(folder / "data"))
    monkeypatch.chdir(folder)
    return Cli(capsys, monkeypatch, database_dsn)
