"""A quarter of the seeds that are run with every change; see `seeds`."""

from __future__ import annotations

import pytest

from tests.simulation.seeds import chunks, run


@pytest.mark.parametrize("first", chunks(0))
def test_no_promise_is_broken_in_any_world(first: int) -> None:
    run(first)
