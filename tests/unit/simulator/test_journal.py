"""The journal and what is read from it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from voltledger.simulator import Journal, JournalDamaged, JournalLine, Kind, read_journal, true_sessions
from voltledger.simulator.journal import last_registers

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def line(kind: Kind, **fields: object) -> JournalLine:
    return JournalLine(at=AT, station="S", kind=kind, session=1, connector=1, **fields)  # type: ignore[arg-type]


def write(path: Path, *lines: JournalLine) -> None:
    with Journal(path) as journal:
        for one in lines:
            journal.write(one)


def test_a_whole_session_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "j.jsonl"
    write(
        path,
        line(Kind.SESSION_BEGIN, token="T", register_wh=100, behaviour="frozen"),
        line(Kind.QUEUED, fact=1, action="StartTransaction", register_wh=100),
        line(Kind.SENT, fact=1, action="StartTransaction", register_wh=100),
        line(Kind.ANSWERED, fact=1, action="StartTransaction", payload={"transactionId": 42}),
        line(Kind.SESSION_END, register_wh=350, energy_wh=250, reason="Local"),
        line(Kind.QUEUED, fact=2, action="StopTransaction", register_wh=350),
        line(Kind.ANSWERED, fact=2, action="StopTransaction", error="InternalError"),
    )
    (session,) = true_sessions(path)
    assert (session.token, session.behaviour, session.transaction_ref) == ("T", "frozen", "42")
    assert (session.energy_wh, session.ended, session.reason) == (250, True, "Local")
    assert (session.start_answered, session.stop_answered, session.pending) == (True, False, 1)
    assert last_registers(path) == {("S", 1): 350}


def test_a_session_cut_short_has_the_last_register_known(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(
        path,
        line(Kind.SESSION_BEGIN, token="T", register_wh=100),
        line(Kind.QUEUED, fact=1, action="MeterValues", register_wh=180),
    )
    (session,) = true_sessions(path)
    assert not session.ended
    assert session.energy_wh == 80


def test_runs_of_one_journal_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for register in (0, 500):
        write(path, line(Kind.SESSION_BEGIN, token="T", register_wh=register))
    assert [session.start_register_wh for session in true_sessions(path)] == [0, 500]
    assert len({session.run for session in true_sessions(path)}) == 2


def test_a_torn_last_line_is_left_out_and_the_next_run_writes_below_it(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(path, line(Kind.SESSION_BEGIN, token="T", register_wh=1))
    with path.open("ab") as file:
        file.write(b'{"at":"2026-01')
    assert len(list(read_journal(path))) == 2
    write(path, line(Kind.SESSION_BEGIN, token="T", register_wh=2))
    assert len(true_sessions(path)) == 2


def test_damage_anywhere_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(path, line(Kind.SESSION_BEGIN, token="T", register_wh=1), line(Kind.SESSION_END, register_wh=2))
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], b"rubbish", lines[2], b""]))
    with pytest.raises(JournalDamaged, match="line 2"):
        list(read_journal(path))


def test_a_journal_of_limited_size_keeps_truths_only_and_the_registers_of_both_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, most_bytes=5_000) as journal:
        journal.write(JournalLine(at=AT, station="OLD", kind=Kind.SESSION_END, session=1, connector=1, register_wh=7))
        for number in range(25):
            journal.write(line(Kind.SESSION_BEGIN, token="T", register_wh=number * 10))
            journal.write(line(Kind.SENT, fact=1, action="MeterValues", payload={"much": "x" * 200}))
            journal.write(line(Kind.SESSION_END, register_wh=number * 10 + 5))
    parts = [path, path.with_name("j.jsonl.1")]
    assert all(part.stat().st_size < 5_300 for part in parts)
    kinds = {one.kind for part in parts for one in read_journal(part)}
    assert kinds == {Kind.RUN, Kind.SESSION_BEGIN, Kind.SESSION_END}
    assert last_registers(path) == {("OLD", 1): 7, ("S", 1): 245}, "the meters of both parts go on"
    assert true_sessions(path)[-1].energy_wh == 5


def test_a_journal_without_a_limit_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        for _ in range(100):
            journal.write(line(Kind.SENT, fact=1, action="MeterValues", payload={"much": "x" * 200}))
    assert sum(one.kind is Kind.SENT for one in read_journal(path)) == 100
    assert list(tmp_path.iterdir()) == [path]
