"""The line to PostgreSQL is cut at a commit, before it arrives or before its reply does (R-03)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.laboratory.points import Cell, ambiguous


@pytest.mark.parametrize("cell", list(ambiguous(1)), ids=lambda cell: cell.id)
def test_a_commit_that_nobody_knows_of_makes_no_difference(passes: Callable[[Cell], None], cell: Cell) -> None:
    passes(cell)
