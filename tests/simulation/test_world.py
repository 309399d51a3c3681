"""The simulation itself: the same seed is the same run, and the checker can fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tools.simulation.loop import DoesNotEnd, VirtualLoop
from tools.simulation.planted import PLANTED
from tools.simulation.world import World

CATCH_WITHIN = 400


def test_the_same_seed_gives_the_same_run() -> None:
    for seed in range(20):
        traces = set()
        for _ in range(2):
            world = World(seed)
            world.run()
            traces.add(world.trace)
        assert len(traces) == 1, f"seed {seed} does not repeat itself"


def test_other_seeds_give_other_runs() -> None:
    traces = set()
    for seed in range(20):
        world = World(seed)
        world.run()
        traces.add(world.trace)
    assert len(traces) == 20


def test_a_run_does_not_depend_on_the_hashes_of_the_process() -> None:
    code = (
        "from tools.simulate_seeds import be_quiet; be_quiet()\n"
        "from tools.simulation.world import World\n"
        "worlds = [World(seed) for seed in range(12)]\n"
        "[world.run() for world in worlds]\n"
        "print([world.trace for world in worlds])"
    )
    root = Path(__file__).parents[2]
    printed = []
    for hashes in ("1", "2"):
        path = os.pathsep.join([str(root), str(root / "src"), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        printed.append(done.stdout)
    assert printed[0] == printed[1]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str) -> None:
    for seed in range(CATCH_WITHIN):
        if World(seed, shape=PLANTED[name]).run():
            return
    pytest.fail(f"{name} was not caught within {CATCH_WITHIN} seeds")


def test_worlds_see_every_kind_of_fault_and_the_states_that_matter() -> None:
    faults: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for seed in range(500):
        world = World(seed)
        world.run()
        faults.update(world.faults.counts)
        pairs.update(world.pairs)
    wanted = (
        "crash",
        "outage",
        "line cut",
        "black hole",
        "power loss",
        "second socket",
        "clock set",
        "answer lost",
        "replay",
        "hang up, keep",
        "hang up, forget",
    )
    assert [fault for fault in wanted if not faults[fault]] == []
    assert any(fault.startswith("away at t1.committed") for fault in faults), "no ambiguous commit"
    for pair in (
        ("none", "TransactionStarted"),
        ("ONGOING", "MeterReported"),
        ("ONGOING", "TransactionEnded"),
        ("COMPLETED", "MeterReported"),
        ("TERMINATED", "TransactionEnded"),
    ):
        assert pairs[pair], f"{pair} was never seen"


def test_virtual_time_jumps_to_the_next_timer() -> None:
    loop, seen = VirtualLoop(), []

    async def work() -> None:
        for seconds in (86_400.0, 0.5):
            await asyncio.sleep(seconds)
            seen.append(loop.time())

    task = loop.create_task(work())
    loop.run()
    assert task.done()
    assert seen == [86_400.0, 86_400.5]


def test_a_world_that_turns_in_circles_is_stopped() -> None:
    loop = VirtualLoop(limit=1_000)

    def again() -> None:
        loop.call_later(1.0, again)

    again()
    with pytest.raises(DoesNotEnd):
        loop.run()
