"""SIGKILL at the crash points of Redis, commands, reconciliation and starts (R-02, R-13)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.laboratory.points import Cell, cells


@pytest.mark.parametrize("cell", list(cells(("kill",), 2, frozenset(range(43, 57)))), ids=lambda cell: cell.id)
def test_killed_at_its_edges_nothing_is_lost_or_doubled(passes: Callable[[Cell], None], cell: Cell) -> None:
    passes(cell)
