"""SIGKILL at the crash points of money (R-02)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.laboratory.points import Cell, cells


@pytest.mark.parametrize("cell", list(cells(("kill",), 2, frozenset(range(27, 43)))), ids=lambda cell: cell.id)
def test_killed_while_settling_nothing_is_lost_or_doubled(passes: Callable[[Cell], None], cell: Cell) -> None:
    passes(cell)
