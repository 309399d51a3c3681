"""Simulated worlds say nothing in the log: they fail on purpose all the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tools.simulate_seeds import be_quiet
from voltledger import logs


@pytest.fixture(scope="package", autouse=True)
def quiet() -> Iterator[None]:
    """No log lines in this folder; as before afterwards."""
    before = structlog.get_config()
    be_quiet()
    yield
    structlog.configure(**before)
    for log in logs._all_logs:
        log._attach()
