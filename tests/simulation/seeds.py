"""Which seeds are run with every change: 10,000, in files that the workers share.

VOLTLEDGER_SIMULATION_SEEDS asks for another number.
"""

from __future__ import annotations

import gc
import os

import pytest

from tools.simulate_seeds import commit_id, run_seeds

SEEDS = int(os.environ.get("VOLTLEDGER_SIMULATION_SEEDS", "10000"))
FILES = 4
CHUNK = 250


def chunks(file: int) -> list[int]:
    """The first seed of each chunk that a file runs."""
    return list(range(file * CHUNK, SEEDS, FILES * CHUNK))


def run(first: int) -> None:
    """Runs one chunk; a failure says how to see it again."""
    gc.freeze()
    try:
        tally = run_seeds(first, min(CHUNK, SEEDS - first))
    finally:
        gc.unfreeze()
    for seed, failures in tally.failures.items():
        pytest.fail(f"python -m tools.simulate_seeds -v --seed {seed} --commit {commit_id()}: {failures}")
