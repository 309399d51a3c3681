"""The crash matrix: every point of the table, every action that applies, several seeds.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.matrix --actions kill --seeds 2 --jobs 2

Each cell makes a real server fail at one point, heals everything, waits until nothing is left to do, and compares the
books with what the station knows. Exit status 1 on any difference, and on any cell that applies and never fires; the
command that repeats such a cell is printed.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tools.laboratory.cell import Outcome, run_cell
from tools.laboratory.points import ACTIONS, AMBIGUOUS, POINTS, Cell, ambiguous, cells
from tools.laboratory.world import laboratory

COMMAND = "VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.matrix"


async def run_cells(wanted: Sequence[Cell], *, keep: Path | None, tell: bool = True) -> list[Outcome]:
    """Runs cells one after the other in one laboratory."""
    outcomes = []
    async with laboratory() as lab:
        for cell in wanted:
            outcome = await run_cell(lab, cell, keep=keep)
            outcomes.append(outcome)
            if tell:
                _tell(outcome)
    return outcomes


def _tell(outcome: Outcome) -> None:
    mark = "ok  " if outcome.ok else "FAIL"
    print(f"{mark} {outcome.seconds:6.2f} s  {outcome.cell}", flush=True)
    if not outcome.fired:
        print("      never fired: the point is not reached as the table says", flush=True)
    for problem in outcome.problems:
        print(f"      {problem}", flush=True)
    if not outcome.ok:
        print(f"      again: {COMMAND} --cell {outcome.cell}", flush=True)


def run_parts(wanted: Sequence[Cell], jobs: int, keep: Path | None) -> list[Outcome]:
    """Runs cells in several laboratories at once, each a process of its own."""
    if jobs == 1:
        return asyncio.run(run_cells(wanted, keep=keep))
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="vl-matrix-") as folder:
        parts = []
        for job in range(jobs):
            names, found = Path(folder) / f"cells-{job}", Path(folder) / f"found-{job}"
            names.write_text("\n".join(cell.id for cell in wanted[job::jobs]), encoding="utf-8")
            words = ["--cells-from", str(names), "--json", str(found)]
            words += ["--keep", str(keep)] if keep is not None else []
            process = subprocess.Popen([sys.executable, "-m", "tools.laboratory.matrix", *words])
            parts.append((process, found))
        for process, found in parts:
            process.wait()
            if not found.exists():
                raise SystemExit(f"a part of the matrix ended with status {process.returncode} and without a report")
            outcomes += [Outcome(**one) for one in json.loads(found.read_text(encoding="utf-8"))["cells"]]
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """A table: a line a point, what passed of what was tried under each action."""
    tried: Counter[tuple[int, str]] = Counter()
    passed: Counter[tuple[int, str]] = Counter()
    for outcome in outcomes:
        words = outcome.cell.split(":")
        key = (int(words[0]), words[-2])
        tried[key] += 1
        passed[key] += outcome.ok
    actions = [a for a in (*ACTIONS, "cut") if any(key[1] == a for key in tried)]
    lines = ["point  " + "".join(f"{a:>12}" for a in actions) + "  what"]
    for point in (AMBIGUOUS, *POINTS):
        numbers = [(passed[point.number, a], tried[point.number, a]) for a in actions]
        shown = "".join(f"{f'{ok}/{all_}' if all_ else '-':>12}" for ok, all_ in numbers)
        if any(all_ for _, all_ in numbers) or point.not_built:
            lines.append(f"{point.number:5}  {shown}  {point.what}{f' ({point.not_built})' if point.not_built else ''}")
    return "\n".join(lines)


def main() -> None:
    """Runs what is asked for, prints progress and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", default="kill", help=f"of {', '.join(ACTIONS)}, or all; or cut (R-03)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--points", default="", help="numbers, such as 9,15; all if none are given")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="a file for the outcome of every cell")
    parser.add_argument("--keep", type=Path, help="a folder for log and journal of every cell that fails")
    parser.add_argument("--cell", help="one cell, as it was printed")
    parser.add_argument("--cells-from", type=Path, help="a file with cells, one a line")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped, however this ends
    began = time.monotonic()
    wanted = _wanted(arguments)
    jobs = 1 if arguments.cell or arguments.cells_from else arguments.jobs
    outcomes = run_parts(wanted, min(jobs, len(wanted)), arguments.keep)
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if arguments.json is not None:
        report = {
            "cells": [asdict(outcome) for outcome in outcomes],
            "wall_s": round(time.monotonic() - began, 1),
            "failed": len(failed),
        }
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if arguments.cells_from is None:
        print(summary(outcomes))
        print(f"{len(outcomes)} cells, {len(failed)} failed, {time.monotonic() - began:.1f} s")
        for outcome in failed:
            print(f"  {COMMAND} --cell {outcome.cell}")
    if arguments.cell and failed:
        print(failed[0].log)
    sys.exit(1 if failed else 0)


def _wanted(arguments: argparse.Namespace) -> list[Cell]:
    if arguments.cell or arguments.cells_from:
        names = [arguments.cell] if arguments.cell else arguments.cells_from.read_text(encoding="utf-8").split()
        seeds = max(int(name.rpartition(":")[2]) for name in names)
        every = {cell.id: cell for cell in (*cells(ACTIONS, seeds), *ambiguous(seeds))}
        unknown = [name for name in names if name not in every]
        if unknown:
            raise SystemExit(f"there is no cell {unknown[0]}: see tools/laboratory/points.py")
        return [every[name] for name in names]
    if arguments.actions == "cut":
        return list(ambiguous(arguments.seeds))
    actions = ACTIONS if arguments.actions == "all" else tuple(arguments.actions.split(","))
    if strange := set(actions) - set(ACTIONS):
        raise SystemExit(f"there is no action {', '.join(strange)}: use {', '.join(ACTIONS)}")
    numbers = frozenset(int(number) for number in arguments.points.split(",") if number)
    wanted = list(cells(actions, arguments.seeds, numbers))
    if not wanted:
        raise SystemExit("no cell applies: see the reasons in tools/laboratory/points.py")
    return wanted


if __name__ == "__main__":
    main()
