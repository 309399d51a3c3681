"""`voltledger verify` as a person calls it."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.acceptance.world import Server, environment, run, short_folder
from tests.integration.checker.conftest import Node


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with short_folder() as folder:
        yield folder


async def _call(node: Node, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    own = {"VOLTLEDGER_DATA": folder / "data", "VOLTLEDGER_LOG_FILE": folder / "log", "DATABASE_URL": node.dsn}
    return await asyncio.to_thread(run, "verify", *words, env=environment(**own), folder=folder)


async def test_it_says_what_differs_and_ends_with_one(node: Node, folder: Path) -> None:
    await node.visit()
    await node.settle()
    clean = await _call(node, folder)
    assert (clean.returncode, clean.stderr) == (0, "")
    assert clean.stdout.splitlines()[0] == "No difference."
    await node.damage("UPDATE charging_session SET energy_wh = 4999")
    damaged = await _call(node, folder, "--json")
    assert damaged.returncode == 1
    told = json.loads(damaged.stdout)
    assert [(d["rule"], d["expected"], d["found"]) for d in told["differences"]] == [("G3", 5_000, 4_999)]
    session = await node.sql.fetchval("SELECT id FROM charging_session")
    alone = await _call(node, folder, "--session", str(session))
    assert (alone.returncode, "G3" in alone.stdout) == (1, True)


async def test_mistakes_are_one_line_that_says_what_to_do(node: Node, folder: Path) -> None:
    for words, told in (
        (("--session", "five"), "voltledger session list"),
        (("--session", str(UUID(int=5))), "there is no session"),
    ):
        done = await _call(node, folder, *words)
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, "")
        assert told in done.stderr


@pytest.mark.slow
def test_it_works_beside_a_running_server_and_without_one(folder: Path) -> None:
    server = Server(folder, None).start()
    try:
        assert server.cli("verify")["clean"] is True
    finally:
        server.stop()
    assert server.cli("verify")["clean"] is True
