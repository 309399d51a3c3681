"""What people and programs get to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.checker.worlds import build, change, world_of
from voltledger.checker import CheckerError, Difference, Figures, Verdict, as_json, as_text, judge_world
from voltledger.checker.report import SHOWN
from voltledger.checker.sinks import read_sinks


def test_a_difference_reads_as_one_sentence(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    change(builder.dump.sessions, 0, energy_wh=4_999)
    text = as_text(judge_world(world_of(builder)))
    wanted = (
        "G3  CP-1 session 1 (normal): Its end was recorded and the books hold another energy than the car took. "
        "Expected 5000, found 4999."
    )
    assert wanted in text.splitlines()
    assert "1 difference." in text


def test_json_has_everything(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    change(builder.dump.accounts, 1, balance_minor=1)
    told = json.loads(as_json(judge_world(world_of(builder))))
    assert told["clean"] is False
    assert told["differences"] == [
        {
            "rule": "G5",
            "subject": "wallet:anna:INR",
            "what": "The kept balance is not the sum of its lines.",
            "expected": 120_000,
            "found": 1,
        }
    ]
    assert told["figures"]["money"]["INR"]["cost"] == 70_000


def test_people_are_spared_a_thousand_lines() -> None:
    many = tuple(Difference(rule="G1", subject=f"fact {n}", what="Gone.") for n in range(SHOWN + 7))
    text = as_text(Verdict(differences=many, figures=Figures()))
    assert text.count("Gone.") == SHOWN
    assert "7 more" in text


def test_a_sink_may_be_torn_at_its_end_only(tmp_path: Path) -> None:
    line = '{"sink": "webhook", "effect": "mail:1", "id": "e1"}\n'
    path = tmp_path / "sink"
    path.write_text(line + line + '{"sink"')
    assert len(read_sinks([path])) == 2
    path.write_text('{"sink"\n' + line)
    with pytest.raises(CheckerError, match="line 1 is damaged"):
        read_sinks([path])
    with pytest.raises(CheckerError, match="cannot be read"):
        read_sinks([tmp_path / "nothing"])
