"""An answered fact is durable: the server is killed when an answer has arrived (R-01). The first half of the runs."""

from __future__ import annotations

import pytest

from tests.laboratory.conftest import Running
from tools.laboratory.kills import SERIES, run_series


@pytest.mark.parametrize("seed", range(1, 5))
def test_what_was_answered_is_there_after_a_kill(running: Running, seed: int) -> None:
    series = running.do(run_series(running.lab, seed, SERIES))
    assert series.absent == []
    assert series.problems == [], f"again: python -m tools.laboratory.kills --seed {seed} --runs {SERIES} --jobs 1"
    assert series.kills == SERIES
    assert series.postgres_kills == SERIES // 2
    assert series.answered >= SERIES
