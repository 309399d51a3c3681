"""Plants bugs, one after the other, and says whether the suite catches them (S-03).

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.planted                       all of them
    VOLTLEDGER_DEV=1 ./voltledger python -m tools.planted --bug 12,20           these
    VOLTLEDGER_DEV=1 ./voltledger python -m tools.planted --sample 6 --seed 4   some of them

Each bug gets a copy of the source, the tests and the tools in a temporary folder; the working tree is never touched.
A bug is caught when a test that is named for it fails as a test fails: by an assertion, or by what the table names.
An import that fails, a fixture that breaks or another exception is told apart and counts as not caught. The same
tests have to pass without any bug, or no verdict is worth anything. Exit status 1 unless every bug is caught.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tools.planted.bugs import BUGS, Bug, Edit
from tools.planted.reporter import REPORT

ROOT = Path(__file__).resolve().parents[2]
_OURS = frozenset({ROOT, ROOT / "src"})
COPIED = ("src", "tests", "tools", "pyproject.toml")
LIMIT_S = 120.0
"""How long the tests of one bug may take; they are meant to take a few seconds."""
COMMAND = "VOLTLEDGER_DEV=1 ./voltledger python -m tools.planted"
RIGHT = frozenset({"AssertionError", "Failed"})
"""How a test says that something is not as it should be; the second is what pytest itself raises."""


class Verdict(StrEnum):
    """What became of a bug."""

    CAUGHT = "caught"  # a test failed as tests fail
    SURVIVED = "SURVIVED"  # every test passed: a hole in the suite
    WRONG = "WRONG REASON"  # a test failed, though not by an assertion
    BROKEN = "BROKEN"  # the tests could not be run, so that nothing is proven


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A verdict, the test that led to it, and what it said."""

    verdict: Verdict
    test: str = ""
    said: str = ""
    seconds: float = 0.0


class BadEdit(Exception):
    """An edit does not fit the source as it is: change the table of the bugs."""


def edited(text: str, edit: Edit) -> str:
    """The text after an edit. Raises: BadEdit unless the old text is there exactly once, and the new one differs."""
    found = text.count(edit.old)
    if found != 1 or edit.old == edit.new:
        start = edit.old.strip().partition("\n")[0]
        raise BadEdit(f"{edit.file}: {start!r} is there {found} times, not once: correct tools/planted/bugs.py")
    return text.replace(edit.old, edit.new)


def edited_files(bug: Bug, source: Path = ROOT / "src" / "voltledger") -> dict[str, str]:
    """The files that a bug changes, as they are with it. Raises: BadEdit."""
    files: dict[str, str] = {}
    for edit in bug.edits:
        try:
            before = files.get(edit.file) or (source / edit.file).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BadEdit(f"{edit.file} does not exist: correct tools/planted/bugs.py") from None
        files[edit.file] = edited(before, edit)
    return files


@contextmanager
def planted(bug: Bug | None) -> Iterator[Path]:
    """A copy of the working tree with a bug in it, or with none. Raises: BadEdit."""
    with tempfile.TemporaryDirectory(prefix="vl-planted-") as folder:
        copy = Path(folder)
        for name in COPIED:
            origin = ROOT / name
            if origin.is_dir():
                # Compiled files come along, with the times of their sources: compiling takes longer than most tests.
                shutil.copytree(origin, copy / name, ignore=shutil.ignore_patterns("*.tmp"), symlinks=True)
            else:
                shutil.copy2(origin, copy / name)
        for file, text in ({} if bug is None else edited_files(bug, copy / "src" / "voltledger")).items():
            (copy / "src" / "voltledger" / file).write_text(text, encoding="utf-8")
        yield copy


def run_tests(copy: Path, tests: Sequence[str], *, stop_at_first: bool) -> list[dict[str, Any]] | str:
    """Runs tests in a copy: what the reporter wrote, or the end of the output where pytest did not get that far."""
    report = copy / "planted-report"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-p",
        "tools.planted.reporter",
    ]
    command += ["-x"] if stop_at_first else []
    run = subprocess.Popen(
        [*command, *tests],
        cwd=copy,
        env=_environment(copy) | {REPORT: str(report)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = run.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGINT)  # so that pytest ends the servers that it started
        try:
            output, _ = run.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            run.kill()
            output, _ = run.communicate()
        return f"not done within {LIMIT_S:g} s\n{output[-1_000:]}"
    lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    said = [json.loads(line) for line in lines]
    sources = [line["path"] for line in said if line["what"] == "source"]
    if len(sources) != 1 or not Path(sources[0]).is_relative_to(copy.resolve()):
        return f"the copy was not what was tested ({sources})\n{output[-1_000:]}"
    if run.returncode not in (0, 1) and not any(line["what"] == "collection" for line in said):
        return output[-1_000:]
    return said


def _environment(copy: Path) -> dict[str, str]:
    """This process's, with the copy in place of the working tree, and nothing of a pytest that may run around us."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "FAILPOINTS", "COV_"))}
    others = [p for p in kept.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p).resolve() not in _OURS]
    kept["PYTHONPATH"] = os.pathsep.join([str(copy / "src"), str(copy), *others])
    return kept


def judge(said: list[dict[str, Any]] | str, shows_as: Sequence[str] = ()) -> Found:
    """What tests say about a bug; `shows_as` names exceptions by which it may show besides failed assertions."""
    if isinstance(said, str):
        return Found(verdict=Verdict.BROKEN, said=said)
    broken = [line for line in said if line["what"] in ("collection", "setup", "teardown")]
    calls = [line for line in said if line["what"] == "call"]
    failed = [line for line in calls if line["outcome"] == "failed"]
    for line in failed:
        timed_out = line["error"] == "Failed" and line["problem"].startswith("Timeout")
        right = (line["error"] in RIGHT and not timed_out) or line["error"] in shows_as
        verdict = Verdict.CAUGHT if right else Verdict.WRONG
        return Found(verdict=verdict, test=line["test"], said=f"{line['error']}: {line['problem']}")
    if broken:
        return Found(verdict=Verdict.BROKEN, test=broken[0]["test"], said=broken[0]["problem"])
    if not calls or any(line["outcome"] != "passed" for line in calls):
        return Found(verdict=Verdict.BROKEN, said="no test ran, or one was skipped")
    return Found(verdict=Verdict.SURVIVED)


def check(bug: Bug) -> Found:
    """Plants one bug and runs its tests."""
    began = time.monotonic()
    try:
        with planted(bug) as copy:
            found = judge(run_tests(copy, bug.tests, stop_at_first=True), bug.shows_as)
    except BadEdit as problem:
        found = Found(verdict=Verdict.BROKEN, said=str(problem))
    return _timed(found, began)


def check_without(bugs: Sequence[Bug]) -> Found:
    """Runs the tests of some bugs without any: SURVIVED is what has to come out."""
    began = time.monotonic()
    tests = list(dict.fromkeys(test for bug in bugs for test in bug.tests))
    with planted(None) as copy:
        found = judge(run_tests(copy, tests, stop_at_first=False))
    return _timed(found, began)


def _timed(found: Found, began: float) -> Found:
    return Found(verdict=found.verdict, test=found.test, said=found.said, seconds=round(time.monotonic() - began, 1))


def check_all(bugs: Sequence[Bug], jobs: int, *, tell: bool = True) -> tuple[Found, dict[int, Found]]:
    """What comes of the tests without a bug, and of each bug by its number."""
    found: dict[int, Found] = {}
    with ThreadPoolExecutor(jobs) as pool:
        plain = pool.submit(check_without, bugs)
        running: dict[Future[Found], Bug] = {pool.submit(check, bug): bug for bug in bugs}
        for done in as_completed(running):
            bug = running[done]
            found[bug.number] = done.result()
            if tell:
                _tell(bug, found[bug.number])
        return plain.result(), found


def _tell(bug: Bug, found: Found) -> None:
    print(f"{found.verdict:<12} {found.seconds:5.1f} s  {bug.number:2}  {bug.name}", flush=True)
    if found.verdict is not Verdict.CAUGHT:
        print(f"{'':24}{bug.breaks}", flush=True)
        if found.test or found.said:
            print(f"{'':24}{found.test}\n{found.said}".rstrip(), flush=True)
        print(f"{'':24}again: {COMMAND} --bug {bug.number}", flush=True)


def chosen(numbers: str | None, sample: int | None, seed: int) -> list[Bug]:
    """The bugs that were asked for. Raises: ValueError for a number that no bug has."""
    if numbers is not None:
        known = {bug.number: bug for bug in BUGS}
        wanted = [int(number) for number in numbers.split(",")]
        unknown = [number for number in wanted if number not in known]
        if unknown:
            raise ValueError(f"there is no bug {unknown[0]}: they are 1 to {len(BUGS)}")
        return [known[number] for number in wanted]
    if sample is not None:
        return sorted(random.Random(seed).sample(BUGS, min(sample, len(BUGS))), key=lambda bug: bug.number)
    return list(BUGS)


def _as_json(bugs: Sequence[Bug], plain: Found, found: dict[int, Found], seconds: float) -> dict[str, Any]:
    rows = [
        {
            "number": bug.number,
            "name": bug.name,
            "breaks": bug.breaks,
            "instead": bug.instead,
            **asdict(found[bug.number]),
        }
        for bug in bugs
    ]
    return {"without_a_bug": asdict(plain), "bugs": rows, "seconds": round(seconds, 1)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line; see the module."""
    parser = argparse.ArgumentParser(prog="tools.planted", description="Plants bugs and says whether they are caught.")
    parser.add_argument("--bug", metavar="N,M", help="only these")
    parser.add_argument("--sample", type=int, metavar="K", help="K of them, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the verdicts to this file as well")
    asked = parser.parse_args(arguments)
    try:
        bugs = chosen(asked.bug, asked.sample, asked.seed)
    except ValueError as problem:
        parser.error(str(problem))
    began = time.monotonic()
    plain, found = check_all(bugs, asked.jobs)
    seconds = time.monotonic() - began
    caught = sum(one.verdict is Verdict.CAUGHT for one in found.values())
    print(f"{caught} of {len(bugs)} caught in {seconds:.0f} s")
    worthless = plain.verdict is not Verdict.SURVIVED
    if worthless:
        print(f"and yet nothing is proven: without any bug {plain.test} fails as well\n{plain.said}")
    if asked.json is not None:
        text = json.dumps(_as_json(bugs, plain, found, seconds), indent=2)
        asked.json.write_text(text + "\n", encoding="utf-8")
    return 0 if caught == len(bugs) and not worthless else 1
