"""One laboratory for each pytest process, on a loop of its own that lives as long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from tools.laboratory.cell import run_cell
from tools.laboratory.points import Cell
from tools.laboratory.world import Lab, laboratory

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A cell starts and restarts servers; on a slow machine a series of them takes longer than other tests may.

    They go first: what takes longest must not be what the other worker waits for at the end.
    """
    items.sort(key=lambda item: "laboratory" not in item.path.parts)
    for item in items:
        if "laboratory" in item.path.parts:
            item.add_marker(pytest.mark.timeout(400))


class Running:
    """A laboratory, and how to do something in it from an ordinary test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._context = laboratory()
        self.lab: Lab = self.do(self._context.__aenter__())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs on the laboratory's loop."""
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        """Ends everything that the laboratory started."""
        self.do(self._context.__aexit__(None, None, None))
        self.do(asyncio.sleep(0.01))
        self.do(self._loop.shutdown_asyncgens())
        self._loop.close()


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """The laboratory of this process."""
    running = Running()
    yield running
    running.close()


@pytest.fixture
def passes(running: Running) -> Callable[[Cell], None]:
    """Runs a cell and demands that it fired and that nothing differs."""

    def check(cell: Cell) -> None:
        outcome = running.do(run_cell(running.lab, cell))
        again = f"VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.matrix --cell {cell.id}"
        assert outcome.fired, f"{cell.id} was never reached {outcome.problems}; again: {again}\n{outcome.log[-3000:]}"
        assert outcome.problems == [], f"again: {again}\n{outcome.log[-3000:]}"

    return check
