"""What the proofs of the laboratory have in common: one report each, and their command line."""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tools.laboratory.world import Lab, LabFailed, laboratory


@dataclass(slots=True, kw_only=True)
class Proof:
    """What came of one promise. `figure` is what was done, in numbers; `differences` is empty when it held."""

    promise: str
    target: str
    figure: str = ""
    reached: bool = False
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def differ(self, what: str) -> None:
        """Notes a difference; beyond the first hundred they are no news."""
        if len(self.differences) < 100:
            self.differences.append(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """How much, from which seed, with which of the command's own options."""

    scale: float = 1.0
    seed: int = 1
    options: argparse.Namespace = field(default_factory=argparse.Namespace)

    def of(self, count: int, least: int = 1) -> int:
        """A full count at this scale."""
        return max(least, round(count * self.scale))


Work = Callable[[Lab, Task, Proof], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """One promise, its target in words, and the work that proves it."""

    name: str
    target: str
    work: Work


async def prove(lab: Lab, promise: Promise, task: Task) -> Proof:
    """Does the work of one promise; what fails is a difference, never an end of the others."""
    proof = Proof(promise=promise.name, target=promise.target)
    began = time.monotonic()
    try:
        await promise.work(lab, task, proof)
    except (LabFailed, TimeoutError) as problem:
        proof.differ(str(problem) or type(problem).__name__)
    except Exception as problem:
        # A proof that breaks has proved nothing; the others are still to be made.
        proof.differ(f"the laboratory failed: {type(problem).__name__}: {problem}")
    proof.seconds = round(time.monotonic() - began, 1)
    proof.reached = not proof.differences
    return proof


def tell(proof: Proof) -> None:
    """One line, and what differs."""
    mark = "ok  " if proof.reached else "FAIL"
    count = len(proof.differences)
    print(f"{mark} {proof.promise}  {proof.figure}; {count} differences; {proof.seconds:.1f} s", flush=True)
    for difference in proof.differences[:10]:
        print(f"       {difference}", flush=True)


def command(doc: str, promises: list[Promise], add: Callable[[argparse.ArgumentParser], None] | None = None) -> int:
    """The command line of a module of proofs; the exit status."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="how much of the full count is done")
    parser.add_argument("--only", default="", help=f"of {','.join(p.name for p in promises)}; all by default")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the report goes")
    if add is not None:
        add(parser)
    given = parser.parse_args()
    wanted = [name for name in given.only.split(",") if name]
    unknown = set(wanted) - {p.name for p in promises}
    if unknown:
        parser.error(
            f"{', '.join(sorted(unknown))}: not proved here; choose from {', '.join(p.name for p in promises)}"
        )
    chosen = [p for p in promises if not wanted or p.name in wanted]
    proofs = asyncio.run(_prove_all(chosen, Task(scale=given.scale, seed=given.seed, options=given)))
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(proof) for proof in proofs], indent=1) + "\n", encoding="utf-8")
    return 0 if all(proof.reached for proof in proofs) else 1


async def _prove_all(promises: list[Promise], task: Task) -> list[Proof]:
    proofs = []
    async with laboratory() as lab:
        for promise in promises:
            proofs.append(await prove(lab, promise, task))
            tell(proofs[-1])
    return proofs
