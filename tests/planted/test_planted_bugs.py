"""The suite catches planted bugs, and the runner that says so can say otherwise (S-03)."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tools.planted import runner
from tools.planted.bugs import BUGS, LISTED, Bug, Edit
from tools.planted.runner import (
    COMMAND,
    ROOT,
    BadEdit,
    Verdict,
    check,
    check_all,
    chosen,
    edited_files,
    judge,
)

SAMPLE = 6
QUICK = BUGS[3]
"""A bug whose tests need no server."""
HARMLESS = Edit(
    file="services/intake.py", old='"""T1: recording what stations say', new='"""T1: writing down what they say'
)


def _seed() -> int:
    """Another sample each day; VOLTLEDGER_PLANTED_SEED repeats one."""
    text = os.environ.get("VOLTLEDGER_PLANTED_SEED")
    return int(text) if text else datetime.now(UTC).toordinal()


def test_the_table_has_the_thirty_of_the_list_and_some_of_our_own() -> None:
    assert [bug.number for bug in BUGS] == list(range(1, len(BUGS) + 1))
    assert (LISTED, len(BUGS) >= LISTED + 3) == (30, True)
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert [bug.number for bug in BUGS if not bug.tests or not bug.edits] == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.number}-{bug.name}")
def test_each_edit_applies_exactly_once_to_the_source_as_it_is(bug: Bug) -> None:
    changed = edited_files(bug)
    for file, text in changed.items():
        assert text != (ROOT / "src" / "voltledger" / file).read_text(encoding="utf-8")
        if file.endswith(".py"):
            compile(text, file, "exec")


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.number}-{bug.name}")
def test_each_test_that_is_named_exists(bug: Bug) -> None:
    for test in bug.tests:
        file, _, name = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {name.partition('[')[0]}(" in text, f"{test} is gone: correct tools/planted/bugs.py"


@pytest.mark.timeout(240)
def test_a_sample_of_the_bugs_is_caught() -> None:
    seed = _seed()
    bugs = chosen(None, SAMPLE, seed)
    plain, found = check_all(bugs, 1, tell=False)
    again = f"again: {COMMAND} --sample {SAMPLE} --seed {seed}"
    assert plain.verdict is Verdict.SURVIVED, f"{plain.test} fails without any bug: {plain.said}; {again}"
    missed = {bug.name: found[bug.number] for bug in bugs if found[bug.number].verdict is not Verdict.CAUGHT}
    assert missed == {}, again


def test_a_change_that_breaks_nothing_survives() -> None:
    found = check(replace(QUICK, edits=(HARMLESS,)))
    assert found.verdict is Verdict.SURVIVED, found


def test_source_that_cannot_be_imported_is_no_bug_that_was_caught() -> None:
    broken = Edit(file="ocpp/registry.py", old="import hashlib\n", new="import hashlib_that_does_not_exist\n")
    found = check(replace(QUICK, edits=(broken,)))
    assert (found.verdict, "hashlib_that_does_not_exist" in found.said) == (Verdict.BROKEN, True), found


def test_an_edit_that_does_not_fit_any_more_is_loud(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("a = 1\na = 1\n", encoding="utf-8")
    for old in ("a = 1\n", "b = 1\n"):
        edit = Edit(file="twice.py", old=old, new="a = 2\n")
        with pytest.raises(BadEdit, match=r"correct tools/planted/bugs\.py"):
            edited_files(replace(QUICK, edits=(edit,)), tmp_path)
    gone = Edit(file="gone.py", old="a", new="b")
    assert check(replace(QUICK, edits=(gone,))).verdict is Verdict.BROKEN


def test_the_command_tells_what_it_found_and_fails_unless_all_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    harmless = replace(QUICK, number=2, edits=(HARMLESS,))
    monkeypatch.setattr(runner, "BUGS", (replace(QUICK, number=1), harmless))
    verdicts = tmp_path / "verdicts.json"
    assert runner.main(["--jobs", "2", "--json", str(verdicts)]) == 1
    told = capsys.readouterr().out
    assert f"again: {COMMAND} --bug 2" in told
    assert "1 of 2 caught" in told
    kept = json.loads(verdicts.read_text(encoding="utf-8"))
    assert [bug["verdict"] for bug in kept["bugs"]] == ["caught", "SURVIVED"]
    assert kept["without_a_bug"]["verdict"] == "SURVIVED"
    with pytest.raises(SystemExit):
        runner.main(["--bug", "3"])
    assert "there is no bug 3" in capsys.readouterr().err


def _line(
    what: str = "call", outcome: str = "failed", error: str | None = "AssertionError", problem: str = ""
) -> dict[str, Any]:
    return {"what": what, "test": "t", "outcome": outcome, "error": error, "problem": problem}


@pytest.mark.parametrize(
    ("what", "said", "verdict"),
    [
        ("an assertion", [_line()], Verdict.CAUGHT),
        ("an expected exception that was not raised", [_line(error="Failed", problem="DID NOT RAISE")], Verdict.CAUGHT),
        ("an exception that the table names", [_line(error="Named")], Verdict.CAUGHT),
        ("any other exception", [_line(error="KeyError")], Verdict.WRONG),
        ("a test that hung", [_line(error="Failed", problem="Timeout (>120.0s) from pytest-timeout.")], Verdict.WRONG),
        ("a fixture that broke", [_line("setup")], Verdict.BROKEN),
        ("a file that cannot be imported", [{"what": "collection", "test": "t", "problem": "no"}], Verdict.BROKEN),
        ("no test at all", [], Verdict.BROKEN),
        ("a test that was skipped", [_line(outcome="skipped", error="Skipped")], Verdict.BROKEN),
        ("a pytest that did not start", "usage: pytest", Verdict.BROKEN),
        ("tests that pass", [_line(outcome="passed", error=None)], Verdict.SURVIVED),
    ],
)
def test_a_verdict(what: str, said: list[dict[str, Any]] | str, verdict: Verdict) -> None:
    assert judge(said, ("Named",)).verdict is verdict, what
