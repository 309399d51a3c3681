"""SIGKILL at the crash points up to the middle of a unit of work (R-02)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.laboratory.points import Cell, cells


@pytest.mark.parametrize("cell", list(cells(("kill",), 2, frozenset(range(1, 15)))), ids=lambda cell: cell.id)
def test_killed_while_receiving_nothing_is_lost_or_doubled(passes: Callable[[Cell], None], cell: Cell) -> None:
    passes(cell)
