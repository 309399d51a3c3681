"""The journal's file: what was kept is there after a crash, and bad files have a defined outcome each."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from voltledger.domain.identifiers import StationId, TransactionRef
from voltledger.storage.errors import JournalUnavailable
from voltledger.storage.ports import JournaledFact
from voltledger.storage.sqlite import SqliteJournal, inspect_journal
from voltledger.storage.sqlite.journal import OtherVersion

BIG = 100_000_000


def fact(number: int, *, station: str = "CP-1", key: bytes | None = None, payload: str = "{}") -> JournaledFact:
    """A fact; its key follows from its number unless given."""
    return JournaledFact(
        station_id=StationId(station),
        version="ocpp1.6",
        action="MeterValues",
        message_id=f"m-{number}",
        payload=payload,
        epoch=3,
        received_at=datetime(2026, 1, 2, 3, 4, 5, number, tzinfo=UTC),
        dedupe_key=f"key-{number}".encode() if key is None else key,
        transaction_ref=TransactionRef(str(number)),
        response=f'{{"answer":{number}}}',
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal" / "facts.sqlite"


@pytest.fixture
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(path, max_bytes=BIG)
    await journal.open()
    yield journal
    await journal.close()


async def test_facts_come_out_as_they_went_in_and_in_order(journal: SqliteJournal) -> None:
    facts = [fact(3), fact(1, station="CP-2"), fact(2)]
    answers = await journal.append(facts)
    assert [(a.response, a.new) for a in answers] == [(f.response, True) for f in facts]
    out = await journal.oldest(0, 10)
    assert [replace(f, number=0) for f in out] == facts
    assert [f.number for f in await journal.oldest(out[0].number, 1)] == [out[1].number]
    assert await journal.waiting() == {"CP-1": 2, "CP-2": 1}
    await journal.remove([out[0].number, out[1].number])
    assert [f.message_id for f in await journal.oldest(0, 10)] == ["m-2"]


async def test_a_fact_said_again_is_kept_once_and_gets_its_first_answer(journal: SqliteJournal) -> None:
    await journal.append([fact(1)])
    again = await journal.append([replace(fact(1), response='{"answer":"other"}', message_id="again"), fact(2)])
    assert [(a.response, a.new) for a in again] == [('{"answer":1}', False), ('{"answer":2}', True)]
    # The same key of another station is another fact, and what has no key is never a repeat.
    await journal.append([fact(1, station="CP-2")])
    await journal.append([replace(fact(7), dedupe_key=None), replace(fact(7), dedupe_key=None)])
    assert len(await journal.oldest(0, 10)) == 5


async def test_text_that_no_file_can_hold_does_not_stop_a_fact(journal: SqliteJournal) -> None:
    await journal.append([fact(1, payload='{"idTag":"\ud800\x00"}')])
    assert (await journal.oldest(0, 1))[0].payload == '{"idTag":"?\x00"}'


async def test_an_append_is_all_or_nothing(journal: SqliteJournal, path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute(
            "CREATE TRIGGER no BEFORE INSERT ON fact WHEN NEW.message_id = 'm-2' BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    with pytest.raises(JournalUnavailable, match=r"facts\.sqlite: no"):
        await journal.append([fact(1), fact(2)])
    assert await journal.waiting() == {}
    await journal.append([fact(3)])
    assert await journal.waiting() == {"CP-1": 1}


async def test_what_was_kept_survives_a_kill_at_any_moment(path: Path) -> None:
    """A child appends and says so, line by line; it is killed in the middle of it."""
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from tests.integration.journal.test_file import BIG, fact\n"
        "from voltledger.storage.sqlite import SqliteJournal\n"
        "async def main():\n"
        "    journal = SqliteJournal(Path(sys.argv[1]), max_bytes=BIG)\n"
        "    await journal.open()\n"
        "    for n in range(1, 100000):\n"
        "        await journal.append([fact(2 * n), fact(2 * n + 1)])\n"
        "        print(n, flush=True)\n"
        "asyncio.run(main())\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in (str(Path.cwd()), *sys.path) if entry)}
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=env, text=True) as child:
        assert child.stdout is not None
        said = 0
        while said < 40:
            said = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in child.stdout.read().split("\n")[:-1] if line.isdecimal())])
    journal = SqliteJournal(path, max_bytes=BIG)
    await journal.open()
    kept = {f.message_id for f in await journal.oldest(0, 1_000_000)}
    await journal.close()
    assert {f"m-{n}" for n in range(2, 2 * said + 2)} <= kept
    assert len(kept) in (2 * said, 2 * said + 2), "an append that was not told is there as a whole or not at all"


async def test_a_journal_at_its_bound_takes_nothing_more_until_it_is_emptied(path: Path) -> None:
    journal = SqliteJournal(path, max_bytes=150_000)
    await journal.open()
    kept, refused = 0, ""
    while not refused and kept < 100:
        try:
            await journal.append([fact(kept, payload="x" * 10_000)])
            kept += 1
        except JournalUnavailable as full:
            refused = str(full)
    assert "VOLTLEDGER_JOURNAL_MAX_MB" in refused
    assert 3 <= kept < 30
    assert await journal.waiting() == {"CP-1": kept}
    await journal.close()


async def test_a_full_disk_keeps_nothing_for_certain_and_heals(journal: SqliteJournal, path: Path) -> None:
    """SQLite's own bound on pages gives the error of a full disk (SQLITE_FULL)."""
    await journal._do(lambda: journal._sql("PRAGMA max_page_count = 30"))
    with pytest.raises(JournalUnavailable, match="full"):
        await journal.append([fact(1), fact(2, payload="x" * 500_000)])
    assert await journal.waiting() == {}
    await journal._do(lambda: journal._sql("PRAGMA max_page_count = 1000000"))
    await journal.append([fact(1), fact(2, payload="x" * 500_000)])
    assert await journal.waiting() == {"CP-1": 2}


async def test_an_emptied_journal_gives_its_space_back(journal: SqliteJournal, path: Path) -> None:
    await journal.append([fact(n, payload="x" * 10_000) for n in range(600)])
    assert path.stat().st_size + path.with_name("facts.sqlite-wal").stat().st_size > 6_000_000
    await journal.remove([f.number for f in await journal.oldest(0, 1000)])
    assert path.stat().st_size + path.with_name("facts.sqlite-wal").stat().st_size < 100_000
    # Numbers go on rising: a reader behind the old ones sees what comes next.
    await journal.append([fact(9_999)])
    assert (await journal.oldest(600, 10))[0].number == 601


async def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    journal = SqliteJournal(tmp_path / "file" / "facts.sqlite", max_bytes=BIG)
    with pytest.raises(JournalUnavailable):
        await journal.open()
    with pytest.raises(JournalUnavailable, match="not open"):
        await journal.append([fact(1)])
    await journal.close()


@pytest.mark.parametrize("head", ["PRAGMA user_version = 2", "PRAGMA application_id = 7"])
async def test_a_journal_of_another_version_is_left_alone_and_says_what_to_do(path: Path, head: str) -> None:
    journal = SqliteJournal(path, max_bytes=BIG)
    await journal.open()
    await journal.append([fact(1)])
    await journal.close()
    with sqlite3.connect(path) as other:
        other.execute(head)
    before = path.read_bytes()
    journal = SqliteJournal(path, max_bytes=BIG)
    with pytest.raises(OtherVersion, match="voltledger journal --drain"):
        await journal.open()
    await journal.close()
    assert path.read_bytes() == before
    report = inspect_journal(path)
    assert report.facts == 0
    assert "not a journal that this version understands" in str(report.problem)


async def test_a_damaged_journal_is_set_aside_and_what_can_be_read_is_taken_over(path: Path) -> None:
    journal = SqliteJournal(path, max_bytes=BIG)
    await journal.open()
    await journal.append([fact(n, payload="x" * 900) for n in range(400)])
    await journal.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    journal = SqliteJournal(path, max_bytes=BIG)
    await journal.open()
    kept = await journal.oldest(0, 1000)
    assert 300 < len(kept) < 400
    assert [f.received_at for f in kept] == sorted(f.received_at for f in kept)
    assert all(f.payload == "x" * 900 for f in kept)
    await journal.append([fact(1_000)])
    await journal.close()
    (aside,) = path.parent.glob("*.damaged-*.sqlite")
    assert aside.read_bytes()[middle : middle + 4096] == b"\xff" * 4096
    assert len(aside.read_bytes()) == len(data)
    assert inspect_journal(path).facts == len(kept) + 1
    assert "malformed" in str(inspect_journal(aside).problem)


async def test_a_file_that_is_no_database_is_set_aside_too(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"\x00garbage" * 4096)
    journal = SqliteJournal(path, max_bytes=BIG)
    await journal.open()
    await journal.append([fact(1)])
    await journal.close()
    assert inspect_journal(path).facts == 1
    assert len(list(path.parent.glob("*.damaged-*.sqlite"))) == 1


async def test_looking_into_a_journal_changes_nothing_also_while_it_is_written(
    journal: SqliteJournal, path: Path
) -> None:
    await journal.append([fact(1), fact(2, station="CP-2"), fact(3)])
    report = await asyncio.to_thread(inspect_journal, path)
    assert (report.facts, report.stations, report.problem) == (3, {"CP-1": 2, "CP-2": 1}, None)
    assert report.oldest == fact(1).received_at
    assert report.newest == fact(3).received_at
    await journal.append([fact(4)])
    assert inspect_journal(path).facts == 4
