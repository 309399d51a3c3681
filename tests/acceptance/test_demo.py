"""The demonstration as a person sees it: started, stopped with Ctrl-C, and started again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests import support
from tests.acceptance.world import Server, run, short_folder
from voltledger.simulator import read_journal, true_sessions

UNTOLD = {"lost_stop", "orphan", "available_without_stop"}
"""What a station leaves open by design; the next run's passes find it."""


class Demo(Server):
    """`voltledger demo` on embedded databases."""

    command = "demo"


def _lines(demo: Demo, folder: Path, *words: str) -> list[Any]:
    answer = run(*words, "--json", env=demo.env, folder=folder)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


async def test_ctrl_c_ends_the_sessions_of_the_simulated_stations_so_that_the_next_run_finds_none_stale() -> None:
    with short_folder() as folder:
        demo = Demo(folder, None)
        demo.start()
        try:
            await support.wait_until(lambda: demo.health()["sessions_active"] >= 6, 60, what="six charging sessions")
        finally:
            demo.stop()
        assert "the simulated stations end their sessions first" in demo.output()
        journals = sorted((folder / "data").glob("demo-journal*.jsonl"))
        assert len(journals) == 3
        true = [session for journal in journals for session in true_sessions(journal)]
        assert len(true) >= 6
        assert all(session.ended for session in true), "every car has left"
        untold = {(session.station, session.connector) for session in true if session.behaviour in UNTOLD}
        active = {
            (row["station"], row["connector"])
            for row in _lines(demo, folder, "session", "list", "--status", "ONGOING", "--limit", "500")
        }
        assert active <= untold, "the end of every other session was reported and recorded"
        kinds = {line.kind.value for journal in journals for line in read_journal(journal)}
        assert "sent" not in kinds, "the demonstration keeps what is true, not what was said"
