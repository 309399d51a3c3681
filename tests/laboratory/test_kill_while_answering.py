"""SIGKILL at the crash points around commits and answers (R-02)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.laboratory.points import Cell, cells


@pytest.mark.parametrize("cell", list(cells(("kill",), 2, frozenset(range(15, 27)))), ids=lambda cell: cell.id)
def test_killed_while_answering_nothing_is_lost_or_doubled(passes: Callable[[Cell], None], cell: Cell) -> None:
    passes(cell)
