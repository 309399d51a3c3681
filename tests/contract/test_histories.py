"""The same random history on both stores leaves the same rows and gives the same answers.

VOLTLEDGER_HISTORIES asks for another number; `python -m tools.simulate_seeds --compare 2000` is the long run.
"""

from __future__ import annotations

import os

import pytest

from tools.simulation.histories import compare_many
from voltledger.storage.memory import facts as memory_facts

HISTORIES = int(os.environ.get("VOLTLEDGER_HISTORIES", "60"))
CHUNK = 20


@pytest.mark.parametrize("first", range(0, HISTORIES, CHUNK))
async def test_both_stores_agree_on_every_row(database_dsn: str, first: int) -> None:
    differing = await compare_many(database_dsn, range(first, min(first + CHUNK, HISTORIES)))
    assert differing == {}


async def test_a_store_that_behaves_otherwise_is_noticed(database_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_facts, "LOAD_FROM", 10_000)
    monkeypatch.setattr(memory_facts, "_METERED", ("register_wh", "register_at"))
    assert await compare_many(database_dsn, range(3)) != {}
