"""The proof: everything that is done to break the promises, one stage after the other, and a report of what came out.

    make proof                                   # all stages, at most 80 minutes on two cores
    VOLTLEDGER_DEV=1 ./voltledger python -m tools.proof --only kills,outages --scale 0.1

Each stage is a command of its own that can be run again by itself; the report names it. It is written to
docs/evidence/ as JSON and as a page, with date, commit, seed and machine. Exit status 1 if any stage found a
difference, or did not come to its end.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One command. `words` makes its arguments from the scale, the seed and the file for its figures."""

    name: str
    promises: str
    words: Callable[[float, int, Path], Sequence[str]]
    minutes: float
    needs: str


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a stage found."""

    name: str
    promises: str
    command: str
    seconds: float = 0.0
    status: int | None = None
    figures: Any = None
    last_lines: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether it came to its end and found nothing."""
        return self.status == 0


def _count(whole: int, scale: float, least: int = 1) -> str:
    return str(max(least, round(whole * scale)))


STAGES = (
    Stage(
        name="simulation",
        promises="S-01, S-05, R-05, R-06, R-09",
        words=lambda scale, seed, out: (
            *("-m", "tools.simulate_seeds", "--seeds", _count(150_000, scale, 100), "--first", str(seed * 1_000_000)),
            *("--jobs", "2", "--out", str(out)),
        ),
        minutes=6,
        needs="nothing but the program",
    ),
    Stage(
        name="stores",
        promises="S-02",
        words=lambda scale, seed, out: (
            *("-m", "tools.simulate_seeds", "--compare", _count(2_000, scale, 20), "--first", str(seed)),
            *("--out", str(out)),
        ),
        minutes=6,
        needs="PostgreSQL",
    ),
    Stage(
        name="matrix",
        promises="R-02, R-08, R-13, R-14",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.matrix", "--actions", "all" if scale >= 1 else "kill"),
            *("--seeds", _count(1, scale), "--jobs", "2"),
            *("--json", str(out)),
        ),
        minutes=18,
        needs="PostgreSQL, Redis, servers",
    ),
    Stage(
        name="cuts",
        promises="R-03",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.matrix", "--actions", "cut", "--seeds", _count(5, scale), "--jobs", "2"),
            *("--json", str(out)),
        ),
        minutes=5,
        needs="PostgreSQL, Redis, servers, proxies",
    ),
    Stage(
        name="kills",
        promises="R-01, R-10",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.kills", "--runs", _count(1_000, scale, 50), "--jobs", "2", "--json", str(out)),
        ),
        minutes=10,
        needs="PostgreSQL, Redis, servers",
    ),
    Stage(
        name="outages",
        promises="O-01, O-02",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.outages", "--seconds", "1,5,30" if scale >= 1 else "3"),
            *("--hold", "8" if scale >= 1 else "1", "--seed", str(seed), "--json", str(out)),
        ),
        minutes=11,
        needs="PostgreSQL, Redis, servers, proxies",
    ),
    Stage(
        name="replays",
        promises="R-04, R-05, R-06, R-07, R-09, R-15",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.replays", "--scale", f"{scale:g}", "--seed", str(seed), "--json", str(out)),
        ),
        minutes=8,
        needs="PostgreSQL",
    ),
    Stage(
        name="restarts",
        promises="R-11, R-12",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.restarts", "--scale", f"{scale * 0.3:g}", "--seed", str(seed)),
            *("--json", str(out)),
        ),
        minutes=6,
        needs="PostgreSQL, Redis, servers",
    ),
    Stage(
        name="books",
        promises="L-01 to L-09",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.books", "--scale", f"{scale * 0.5:g}", "--seed", str(seed), "--json", str(out)),
        ),
        minutes=6,
        needs="PostgreSQL, servers",
    ),
    Stage(
        name="herd",
        promises="O-03, memory through an outage",
        words=lambda scale, seed, out: (
            *("-m", "tools.laboratory.herd", "--scale", f"{scale * 0.3:g}", "--seed", str(seed), "--json", str(out)),
        ),
        minutes=6,
        needs="PostgreSQL, Redis, servers",
    ),
    Stage(
        name="planted",
        promises="S-03",
        words=lambda scale, seed, out: (
            "-m",
            "tools.planted",
            *(() if scale >= 1 else ("--sample", _count(33, scale, 3), "--seed", str(seed))),
            *("--jobs", "2", "--json", str(out)),
        ),
        minutes=8,
        needs="the test suite",
    ),
)


def run_stage(stage: Stage, scale: float, seed: int, folder: Path) -> Outcome:
    """Runs one stage; its lines are shown as they come."""
    out = folder / f"{stage.name}.json"
    words = tuple(stage.words(scale, seed, out))
    shown = [word for word in words if word != str(out)]
    with contextlib.suppress(ValueError):
        del shown[next(i for i, word in enumerate(words) if word == str(out)) - 1]
    found = Outcome(
        name=stage.name, promises=stage.promises, command=f"VOLTLEDGER_DEV=1 ./voltledger python {' '.join(shown)}"
    )
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        for line in child.stdout or ():
            print(f"  {line.rstrip()}", flush=True)
            found.last_lines = [*found.last_lines[-14:], line.rstrip()]
    found.status = child.returncode
    found.seconds = round(time.monotonic() - began, 1)
    with contextlib.suppress(OSError, ValueError):
        found.figures = json.loads(out.read_text())
    return found


def machine() -> dict[str, Any]:
    """What it was measured on, without names of hosts or paths."""
    memory = 0
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    return {
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def commit() -> str:
    """What was proven; `-dirty` where the files differ from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    return "unknown"


def write_report(found: Sequence[Outcome], scale: float, seed: int, began: datetime) -> Path:
    """Leaves the evidence, as figures and as a page; returns the page."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    stem = EVIDENCE / f"{began:%Y-%m-%d}-proof"
    facts = {
        "date": began.isoformat(timespec="seconds"),
        "commit": commit(),
        "seed": seed,
        "scale": scale,
        "machine": machine(),
        "stages": [asdict(one) for one in found],
    }
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
    lines = [
        f"# Proof of {began:%Y-%m-%d}",
        "",
        f"Commit {facts['commit']}, seed {seed}, scale {scale:g}; {machine()['cores']} cores, Python "
        f"{machine()['python']}. What the promises are: [proof.md](../proof.md). The figures of every stage: "
        f"[{stem.name}.json]({stem.name}.json).",
        "",
        "| stage | promises | verdict | seconds |",
        "| --- | --- | --- | --- |",
        *(
            f"| {one.name} | {one.promises} | {'holds' if one.holds else '**does not hold**'} | {one.seconds:.0f} |"
            for one in found
        ),
    ]
    for one in found:
        lines += ["", f"## {one.name}", "", f"`{one.command}`", "", "```", *one.last_lines, "```"]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return stem.with_suffix(".md")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some of {','.join(stage.name for stage in STAGES)}")
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the counts, for a look")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-report", action="store_true", help="leaves nothing in docs/evidence")
    given = parser.parse_args()
    wanted = None if given.only is None else set(given.only.split(","))
    unknown = (wanted or set()) - {stage.name for stage in STAGES}
    if unknown:
        parser.error(f"no such stage: {', '.join(sorted(unknown))}")
    stages = [stage for stage in STAGES if wanted is None or stage.name in wanted]
    began = datetime.now(UTC)
    print(f"{len(stages)} stages, about {sum(stage.minutes for stage in stages) * given.scale:.0f} minutes", flush=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="vl-proof-") as folder:
        for number, stage in enumerate(stages, 1):
            print(f"[{number}/{len(stages)}] {stage.name}: {stage.promises}", flush=True)
            found.append(run_stage(stage, given.scale, given.seed, Path(folder)))
            print(f"  {'holds' if found[-1].holds else 'DOES NOT HOLD'} after {found[-1].seconds:.0f} s", flush=True)
    if not given.no_report:
        print(f"report: {write_report(found, given.scale, given.seed, began).relative_to(ROOT)}")
    return 0 if all(one.holds for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
