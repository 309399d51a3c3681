"""Journals: what stations wrote, over several files and runs, also when a writer died."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.checker.stations import Scribe
from voltledger.checker import CheckerError
from voltledger.checker.journals import Fate, read_journals

PAYLOAD = {"connectorId": 1, "meterStart": 1_000}


def test_attempts_and_answers_of_one_message_belong_together(tmp_path: Path) -> None:
    scribe = Scribe(tmp_path / "j")
    visit = scribe.visit("CP-1")
    fact = visit.queue("StartTransaction")
    first = visit.send(fact, "StartTransaction", PAYLOAD)
    visit.line("timed_out", fact=fact, action="StartTransaction", message_id=first)
    second = visit.send(fact, "StartTransaction", PAYLOAD)
    scribe.line("late_answer", station="CP-1", message_id=first, payload={"transactionId": 7})
    visit.answered(fact, "StartTransaction", second, {"transactionId": 7})
    (told,) = read_journals([tmp_path / "j"]).facts
    assert (told.fate, len(told.attempts), len(told.good_answers)) == (Fate.ANSWERED, 2, 2)
    assert told.attempts[0].content == told.attempts[1].content


def test_the_last_register_known_counts_until_the_end(tmp_path: Path) -> None:
    scribe = Scribe(tmp_path / "j")
    ended, running = scribe.visit("CP-1", start=1_000), scribe.visit("CP-1", 2, start=50)
    for visit in (ended, running):
        visit.register_wh += 500
        visit.line("queued", fact=9 + visit.connector, action="MeterValues")
    ended.end()
    ended.register_wh += 9_999
    ended.line("answered", fact=10, action="MeterValues")
    sessions = read_journals([tmp_path / "j"]).sessions
    assert [(s.energy_wh, s.ended_at is None) for s in sessions] == [(500, False), (500, True)]


@pytest.mark.parametrize("fate", ["discarded", "forgotten", "lost"])
def test_what_a_station_gives_up_is_known(fate: str, tmp_path: Path) -> None:
    visit = Scribe(tmp_path / "j").visit("CP-1")
    visit.fate(fate, visit.queue("StopTransaction"), "StopTransaction")
    assert [fact.fate.value for fact in read_journals([tmp_path / "j"]).facts] == [fate]


def test_the_queue_of_a_simulator_that_died_is_lost(tmp_path: Path) -> None:
    for run in ("run-1", "run-2"):
        Scribe(tmp_path / "j", run=run).visit("CP-1").queue("StopTransaction")
    Scribe(tmp_path / "other").visit("CP-2").queue("StopTransaction")
    facts = read_journals([tmp_path / "j", tmp_path / "other"]).facts
    assert [fact.fate for fact in facts] == [Fate.LOST, Fate.QUEUED, Fate.QUEUED]


def test_a_torn_line_may_end_a_run_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Scribe(path).visit("CP-1")
    whole = path.read_text()
    path.write_text(whole + '{"at": "2026-01-')
    assert len(read_journals([path]).sessions) == 1
    path.write_text(whole + '{"at": "2026-01-\n' + whole)
    assert len(read_journals([path]).sessions) == 1
    path.write_text('{"at": "2026-01-\n' + whole.splitlines()[1] + "\n")
    with pytest.raises(CheckerError, match="line 1 is damaged"):
        read_journals([path])


def test_a_journal_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckerError, match="cannot be read"):
        read_journals([tmp_path / "nothing"])
