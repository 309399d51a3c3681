"""`voltledger journal`: what waits on the disk, shown and recorded; one line and an exit status for each trouble."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from tests.acceptance.world import Server, ago, run
from tests.integration.cli.conftest import Cli
from tests.integration.journal.test_file import BIG
from voltledger.domain.identifiers import StationId, TransactionRef
from voltledger.embedded import lock_data_folder
from voltledger.storage.ports import JournaledFact
from voltledger.storage.sqlite import SqliteJournal


def _facts(station: str = "CP-1") -> list[JournaledFact]:
    """A session that was answered in an outage: start, one reading, stop."""
    ref = TransactionRef("1234567")
    sample = {"measurand": "Energy.Active.Import.Register", "unit": "Wh", "value": "1400"}
    reading = {"timestamp": ago(600), "sampledValue": [sample]}
    said: list[tuple[str, dict[str, object], str]] = [
        (
            "StartTransaction",
            {"connectorId": 1, "idTag": "T", "meterStart": 1_000, "timestamp": ago(700)},
            '{"transactionId":1234567,"idTagInfo":{"status":"Invalid"}}',
        ),
        ("MeterValues", {"connectorId": 1, "transactionId": 1_234_567, "meterValue": [reading]}, "{}"),
        ("StopTransaction", {"transactionId": 1_234_567, "meterStop": 1_777, "timestamp": ago(500)}, "{}"),
    ]
    return [
        JournaledFact(
            station_id=StationId(station),
            version="ocpp1.6",
            action=action,
            message_id=f"m-{number}",
            payload=json.dumps(payload),
            epoch=3,
            received_at=datetime.now(UTC),
            dedupe_key=f"{station}-{number}".encode(),
            transaction_ref=ref if number == 0 else None,
            response=response,
        )
        for number, (action, payload, response) in enumerate(said)
    ]


def write(path: Path, *facts: JournaledFact) -> Path:
    """A journal file with these facts in it."""

    async def work() -> None:
        journal = SqliteJournal(path, max_bytes=BIG)
        await journal.open()
        await journal.append(facts)
        await journal.close()

    asyncio.run(work())
    return path


def own(folder: Path) -> Path:
    """Where this node's journal is."""
    return folder / "data" / "journal" / "facts.sqlite"


def damage(path: Path) -> Path:
    """Makes a file unreadable from its second page on."""
    data = bytearray(path.read_bytes())
    data[4_096:] = b"\xff" * (len(data) - 4_096)
    path.write_bytes(data)
    return path


def query(dsn: str, sql: str) -> list[tuple[object, ...]]:
    """Rows of the books."""

    async def work() -> list[tuple[object, ...]]:
        connection = await asyncpg.connect(dsn)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(work())


SESSIONS = "SELECT transaction_ref, status, energy_wh FROM charging_session"


def test_without_a_journal_it_says_so(cli: Cli, folder: Path) -> None:
    status, out, _ = cli("journal")
    assert status == 0
    assert "no journal yet" in out
    listed = cli.json("journal")
    assert (listed["facts"], listed["file"]) == (0, str(own(folder)))
    assert not own(folder).exists(), "looking makes nothing"


def test_what_waits_is_shown_with_its_stations(cli: Cli, folder: Path) -> None:
    path = write(own(folder), *_facts("CP-1"), _facts("CP-2")[0])
    status, out, _ = cli("journal")
    assert status == 0
    assert "4 facts wait" in out
    assert "CP-1 (3), CP-2 (1)" in out
    assert "voltledger journal --drain" in out
    listed = cli.json("journal")
    assert (listed["facts"], listed["stations"], listed["problem"]) == (4, {"CP-1": 3, "CP-2": 1}, None)
    assert listed["bytes"] == path.stat().st_size
    assert listed["oldest"] <= listed["newest"]


def test_drained_the_facts_are_in_the_books_and_the_file_is_empty(cli: Cli, folder: Path) -> None:
    cli.json("station", "add", "CP-1")
    write(own(folder), *_facts())
    assert cli.json("journal", "--drain") == {"file": str(own(folder)), "recorded": 3, "left": 0}
    assert query(cli.dsn, SESSIONS) == [("1234567", "COMPLETED", 777)]
    status, out, _ = cli("journal")
    assert (status, "empty, everything is in PostgreSQL" in out) == (0, True)
    status, out, _ = cli("journal", "--drain")
    assert (status, out.strip()) == (0, "0 facts are in PostgreSQL now, 0 still wait")


def test_another_nodes_journal_is_drained_as_often_as_one_likes(cli: Cli, folder: Path) -> None:
    cli.json("station", "add", "CP-1")
    for _ in range(2):
        path = write(folder / "theirs.sqlite", *_facts())
        assert cli.json("journal", "--file", str(path))["facts"] == 3
        assert cli.json("journal", "--file", str(path), "--drain")["recorded"] == 3
        assert query(cli.dsn, SESSIONS) == [("1234567", "COMPLETED", 777)]
        path.unlink()
    assert not own(folder).exists()


def test_a_file_that_is_not_there_is_one_line_and_status_1(cli: Cli, folder: Path) -> None:
    status, out, err = cli("journal", "--file", str(folder / "nothing.sqlite"), "--drain")
    assert (status, out) == (1, "")
    assert len(err.strip().splitlines()) == 1
    assert "is not a file: name a journal" in err


@pytest.mark.parametrize("drain", [False, True])
def test_a_journal_of_another_version_is_left_alone(cli: Cli, folder: Path, drain: bool) -> None:
    path = write(own(folder), *_facts())
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA user_version = 2")
    file.close()
    before = path.read_bytes()
    status, out, err = cli("journal", *(["--drain"] if drain else []))
    assert status == 1
    assert "not a journal that this version understands" in (err if drain else out)
    assert len((out + err).strip().splitlines()) == 1
    assert path.read_bytes() == before


def test_a_damaged_journal_is_shown_as_such_and_drained_as_far_as_it_can_be_read(cli: Cli, folder: Path) -> None:
    path = damage(write(own(folder), *_facts()))
    status, out, _ = cli("journal")
    assert status == 1
    assert "cannot be read" in out
    status, out, err = cli("journal", "--drain", "--json")
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["left"] == 0
    (aside,) = path.parent.glob("*.damaged-*.sqlite")
    assert aside.stat().st_size > 4_096, "kept for whoever can read more of it"
    shown = cli.lines("journal")
    assert [line["file"] for line in shown] == [str(path), str(aside)]
    assert (shown[0]["problem"], shown[1]["problem"] is None) == (None, False)


def test_without_postgresql_nothing_is_drained_and_nothing_is_lost(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(own(folder), *_facts())
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nowhere")
    status, out, err = cli("journal", "--drain")
    assert (status, out) == (1, "")
    assert "PostgreSQL does not answer" in err
    assert len(err.strip().splitlines()) == 1
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM fact").fetchone() == (3,)
    file.close()


def test_a_journal_that_a_server_uses_is_shown_and_not_drained(cli: Cli, folder: Path) -> None:
    write(own(folder), *_facts())
    lock = lock_data_folder(folder / "data")
    try:
        assert cli.json("journal")["facts"] == 3
        status, out, err = cli("journal", "--drain")
    finally:
        lock.release()
    assert (status, out) == (1, "")
    assert len(err.strip().splitlines()) == 1, err


def test_a_running_server_drains_its_own_journal_at_its_start(cli: Cli, folder: Path) -> None:
    cli.json("station", "add", "CP-1")
    server = Server(folder, cli.dsn)
    write(server.data / "journal" / "facts.sqlite", *_facts())
    server.start()
    try:
        done = run("journal", "--drain", env=server.env, folder=folder)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert server.health()["journal"] == 0
        assert query(cli.dsn, SESSIONS) == [("1234567", "COMPLETED", 777)]
    finally:
        server.stop()
