"""Runs simulated worlds, one a seed, and says which seeds break a promise.

    python -m tools.simulate_seeds --seeds 10000 --jobs 2          10,000 worlds in two processes
    python -m tools.simulate_seeds --seed 4711 -v                  one world, with everything that happened
    python -m tools.simulate_seeds --compare 2000                  the same histories on both stores (see S-02)

A failure prints how to see it again. The summary at the end is JSON: seeds, failures, seeds a second and core, which
events met which states of a session, which faults happened.
"""

import argparse
import asyncio
import gc
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import structlog

from tools.simulation.world import World
from voltledger import logs

CHUNK = 50


@dataclass(slots=True)
class Tally:
    """What came of some seeds."""

    seeds: int = 0
    frames: int = 0
    cpu_s: float = 0.0
    failures: dict[int, list[str]] = field(default_factory=dict)
    pairs: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        """Takes in what came of others."""
        self.seeds += other.seeds
        self.frames += other.frames
        self.cpu_s += other.cpu_s
        self.failures.update(other.failures)
        self.pairs.update(other.pairs)
        self.faults.update(other.faults)

    def as_json(self) -> dict[str, Any]:
        """For machines, and for the evidence of a release."""
        return {
            "seeds": self.seeds,
            "failures": {str(seed): found for seed, found in sorted(self.failures.items())},
            "frames": self.frames,
            "seeds_per_second_and_core": round(self.seeds / self.cpu_s, 1) if self.cpu_s else None,
            "pairs": dict(sorted(self.pairs.items())),
            "faults": dict(sorted(self.faults.items())),
        }


def be_quiet() -> None:
    """No log lines: a world fails on purpose all the time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    for log in logs._all_logs:
        log._attach()


def run_seeds(first: int, count: int) -> Tally:
    """Runs some seeds in this process."""
    tally = Tally()
    began = time.process_time()
    for seed in range(first, first + count):
        world = World(seed)
        failures = world.run()
        tally.seeds += 1
        tally.frames += len(world.database.frames)
        tally.pairs.update({f"{state} x {event}": n for (state, event), n in world.pairs.items()})
        tally.faults.update(world.faults.counts)
        if failures:
            tally.failures[seed] = failures
    tally.cpu_s = time.process_time() - began
    return tally


def _prepare_worker() -> None:
    be_quiet()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _chunk(first: int) -> Tally:
    return run_seeds(first, CHUNK)


def commit_id() -> str:
    """The commit that this runs from, for telling somebody else how to see a failure."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return found.stdout.strip() or "unknown"


def _results(first: int, seeds: int, jobs: int) -> Iterator[Tally]:
    starts = range(first, first + seeds, CHUNK)
    with get_context("spawn").Pool(jobs, _prepare_worker) as pool:
        yield from pool.imap_unordered(_chunk, starts)


def run_many(first: int, seeds: int, jobs: int, out: Path | None) -> int:
    """Runs many seeds, tells of progress on stderr and of the end on stdout; the exit code."""
    total, began = Tally(), time.monotonic()
    for tally in _results(first, seeds, jobs):
        total.add(tally)
        for seed, failures in tally.failures.items():
            print(f"FAILED --seed {seed} --commit {commit_id()}: {failures[0]}", file=sys.stderr)
        rate = total.seeds / max(0.001, time.monotonic() - began)
        print(f"\r{total.seeds} of {seeds} seeds, {rate:.0f} a second", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    text = json.dumps({"first": first, "commit": commit_id(), **total.as_json()}, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    return 1 if total.failures else 0


def run_one(seed: int, *, verbose: bool) -> int:
    """Runs one seed and shows it; the exit code."""
    be_quiet()
    world = World(seed, record=True)
    failures = world.run()
    if verbose:
        for line in world.lines or ():
            print(line)
        for station in world.stations.values():
            print(station.name, station.traits)
        for session in world.database.sessions:
            print(session)
    print(json.dumps({"seed": seed, "commit": commit_id(), "trace": world.trace, "failures": failures}, indent=2))
    return 1 if failures else 0


def run_compare(first: int, histories: int) -> int:
    """Runs histories on both stores, on a PostgreSQL of its own; the exit code."""
    from tools.simulation.histories import compare_many
    from voltledger.embedded import start_postgres
    from voltledger.storage.postgres.migrate import migrate

    be_quiet()
    with tempfile.TemporaryDirectory(prefix="voltledger-compare-") as folder:
        Path(folder).chmod(0o711)
        server = start_postgres(Path(folder) / "postgres", durable=False)
        try:
            asyncio.run(migrate(server.dsn))
            differing = asyncio.run(compare_many(server.dsn, range(first, first + histories)))
        finally:
            server.stop()
    for seed, difference in differing.items():
        print(f"DIFFERS --compare 1 --first {seed} --commit {commit_id()}:\n{difference}", file=sys.stderr)
    print(json.dumps({"histories": histories, "first": first, "commit": commit_id(), "differing": sorted(differing)}))
    return 1 if differing else 0


def main() -> int:
    """Reads the command line; see the module."""
    parser = argparse.ArgumentParser(description="Runs simulated worlds, one a seed.")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (default 1,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--compare", type=int, metavar="N", help="N histories on both stores")
    parser.add_argument("--commit", help="what a failure was seen with; only shown")
    parser.add_argument("--out", type=Path, help="write the summary to this file as well")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --seed: everything that happened")
    asked = parser.parse_args()
    if asked.commit is not None and asked.commit != commit_id():
        print(f"this is commit {commit_id()}, not {asked.commit}: results may differ", file=sys.stderr)
    if asked.compare is not None:
        return run_compare(asked.first, asked.compare)
    if asked.seed is not None:
        return run_one(asked.seed, verbose=asked.verbose)
    return run_many(asked.first, asked.seeds, asked.jobs, asked.out)


if __name__ == "__main__":
    sys.exit(main())
