"""A pytest plugin that writes down what became of each test, and of what kind its failure was."""

import json
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

REPORT = "PLANTED_REPORT"
"""The variable that names the file; a line of JSON for each thing that happened."""


def _write(**said: Any) -> None:
    with Path(os.environ[REPORT]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(said) + "\n")


def pytest_sessionstart() -> None:
    """Says whose code is tested: it has to be the copy's."""
    import voltledger

    _write(what="source", path=str(Path(str(voltledger.__file__)).resolve()))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be imported proves nothing about a bug."""
    if report.failed:
        _write(what="collection", test=report.nodeid, problem=str(report.longrepr)[-500:])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The outcome of a test, and of what is around it only where that failed."""
    report = yield
    if report.when == "call" or report.failed:
        _write(
            what=report.when,
            test=item.nodeid,
            outcome=report.outcome,
            error=None if call.excinfo is None else call.excinfo.typename,
            problem="" if call.excinfo is None else str(call.excinfo.value)[:2_000],
        )
    return report
