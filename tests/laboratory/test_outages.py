"""PostgreSQL or Redis away for seconds, in four of their ways (O-01, O-02; all: tools/laboratory/outages.py)."""

from __future__ import annotations

import pytest

from tests.laboratory.conftest import Running
from tools.laboratory.outages import outage

AWAY_S = 3.0
HOLD_S = 1.0


@pytest.mark.parametrize("kind", ["kill", "freeze", "read-only", "redis-gone"])
def test_no_message_is_refused_or_given_up_and_the_books_are_right(running: Running, kind: str) -> None:
    found = running.do(outage(running.lab, kind, AWAY_S, hold_s=HOLD_S, stations=4, seed=1))
    assert (found.timed_out, found.refused, found.discarded, found.differences) == (0, 0, 0, [])
    assert found.sessions > 4
    assert found.answered_while_away > 10, "stations are served meanwhile"
    assert found.degraded, "an operator sees it"
    assert (found.journal_at_most > 10) is not kind.startswith("redis"), "the journal is for PostgreSQL"
    assert found.resident_after < found.resident_before + 50, "MiB"
