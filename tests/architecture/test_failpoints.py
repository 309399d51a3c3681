"""Failpoints: each stands behind ARMED, and the program and the laboratory's table name the same ones."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.laboratory.points import ACTIONS, POINTS, ambiguous, cells, failpoint_names
from voltledger.failpoints import ARMED, BadFailpoints, read_arms

SOURCE = Path(__file__).parents[2] / "src" / "voltledger"
CALLS = {"fp", "fp_now"}


def points_in(source: str) -> Iterator[tuple[str, bool]]:
    """The names that a module's failpoints have, each with whether it stands behind `if ARMED`."""
    tree = ast.parse(source)
    guarded = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and _asks_armed(branch.test)
        for statement in branch.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            name = node.args[0]
            yield (str(name.value) if isinstance(name, ast.Constant) else "?"), id(node) in guarded


def _asks_armed(test: ast.expr) -> bool:
    """`ARMED`, or `ARMED and ...`: whatever follows costs nothing while it is false."""
    first = test.values[0] if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else test
    return isinstance(first, ast.Name) and first.id == "ARMED"


def _all_points() -> list[tuple[str, bool]]:
    modules = [path for path in SOURCE.rglob("*.py") if path.name != "failpoints.py"]
    return [point for path in modules for point in points_in(path.read_text(encoding="utf-8"))]


def test_the_program_and_the_table_name_the_same_failpoints() -> None:
    assert {name for name, _ in _all_points()} == failpoint_names()


def test_each_failpoint_stands_in_one_place() -> None:
    names = [name for name, _ in _all_points()]
    assert sorted(names) == sorted(set(names))


def test_every_failpoint_costs_one_look_while_nothing_is_armed() -> None:
    assert [name for name, guarded in _all_points() if not guarded] == []
    assert not ARMED


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("async def f():\n    if ARMED:\n        await fp('a.b')", [("a.b", True)]),
        ("async def f():\n    if ARMED and x():\n        await fp('a.b')", [("a.b", True)]),
        ("async def f():\n    if x() and ARMED:\n        await fp('a.b')", [("a.b", False)]),
        ("async def f():\n    await fp('a.b')", [("a.b", False)]),
        ("def f():\n    if ARMED:\n        pass\n    else:\n        fp_now('a.b')", [("a.b", False)]),
        ("def f():\n    fp_now(name)", [("?", False)]),
    ],
)
def test_the_check_sees_what_it_has_to(source: str, expected: list[tuple[str, bool]]) -> None:
    assert list(points_in(source)) == expected


def test_the_table_has_all_points_and_says_why_where_something_does_not_apply() -> None:
    assert [point.number for point in POINTS] == list(range(1, 57))
    for point in POINTS:
        assert bool(point.spots) != bool(point.not_built), f"point {point.number}: spots, or an issue, and not both"
        for spot in point.spots:
            assert set(spot.reasons) <= set(ACTIONS), f"point {point.number} gives a reason for an unknown action"
            assert any(spot.reason(action) is None for action in ACTIONS)


def test_every_cell_can_be_named() -> None:
    names = [cell.id for cell in (*cells(ACTIONS, 5), *ambiguous(5))]
    assert len(names) == len(set(names))


def test_arms_are_read() -> None:
    arms = read_arms("t1.after_inbox:2:kill, t2.priced:1:raise:OSError")
    assert [(arm.name, arm.nth, arm.action) for arm in arms] == [
        ("t1.after_inbox", 2, "kill"),
        ("t2.priced", 1, "raise:OSError"),
    ]


@pytest.mark.parametrize(
    "text",
    ["x", "a:1", "a:0:kill", "a:one:kill", ":1:kill", "a:1:boom", "a:1:raise:KeyError", "a:1:kill,", "a:²:kill"],
)
def test_a_value_that_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(BadFailpoints):
        read_arms(text)


def _start(**more: str) -> subprocess.CompletedProcess[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FAILPOINTS")}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-c", "import voltledger.failpoints as f; print(f.ARMED)"],
        env=environ | {"PYTHONPATH": path} | more,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_process_is_armed_by_both_variables_only(tmp_path: Path) -> None:
    assert _start().stdout == "False\n"
    assert _start(FAILPOINTS="").stdout == "False\n"
    assert _start(FAILPOINTS="a.b:1:kill", FAILPOINTS_FOLDER=str(tmp_path)).stdout == "True\n"


@pytest.mark.parametrize("more", [{"FAILPOINTS": "nonsense", "FAILPOINTS_FOLDER": "/"}, {"FAILPOINTS": "a.b:1:kill"}])
def test_a_bad_value_ends_the_start_with_one_line(more: dict[str, str]) -> None:
    ended = _start(**more)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("FAILPOINTS: ")
    assert "unset it" in ended.stderr


def _armed(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    monkeypatch.setattr("voltledger.failpoints._ARMS", read_arms(text))
    monkeypatch.setattr("voltledger.failpoints._FOLDER", folder)
    monkeypatch.setattr("voltledger.failpoints._hits", {})


async def test_the_nth_hit_raises_and_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from voltledger.failpoints import fp

    _armed(monkeypatch, tmp_path, "a.b:2:raise:MemoryError")
    await fp("a.b")
    with pytest.raises(MemoryError):
        await fp("a.b")
    await fp("a.b")
    assert (tmp_path / "reached").read_text() == "a.b raise:MemoryError\n"


async def test_a_point_waits_until_it_is_told_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from voltledger.failpoints import fp

    _armed(monkeypatch, tmp_path, "a.b:1:wait")
    waiting = asyncio.create_task(fp("a.b"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    (tmp_path / "go").touch()
    await asyncio.wait_for(waiting, 5)


async def test_a_task_is_cancelled_at_its_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from voltledger.failpoints import fp

    _armed(monkeypatch, tmp_path, "a.b:1:cancel")
    task = asyncio.create_task(fp("a.b"))
    with pytest.raises(asyncio.CancelledError):
        await task
