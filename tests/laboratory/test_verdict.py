"""The laboratory's judge can fail: a good visit, then one thing is changed behind its back, and it says so."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.laboratory.conftest import Running
from tools.laboratory import cell as cell_module
from tools.laboratory.cell import run_cell
from tools.laboratory.points import Cell, Point, Spot, cells
from tools.laboratory.verdict import Expected, differences
from tools.laboratory.world import Site
from voltledger.simulator.journal import Journal, JournalLine, Kind, read_journal

UNLOCK = "SET session_replication_role = replica; "
"""Switches the rules of the books off: what is planted here no program could do."""

PLANTED = {
    "answered and not recorded": "DELETE FROM inbox WHERE action = 'MeterValues'",
    "answers differ": "UPDATE inbox SET response = '{\"transactionId\": 1}' WHERE action = 'StartTransaction'",
    "no raw frame": "DELETE FROM frame WHERE action = 'MeterValues' AND from_station",
    "sessions in the books, 1 in truth": "INSERT INTO charging_session SELECT (json_populate_record(s,"
    " json_build_object('id', gen_random_uuid(), 'transaction_ref', 'x', 'start_key', null))).*"
    " FROM charging_session s",
    "missing: session 1": "UPDATE charging_session SET transaction_ref = 'other'",
    "Wh in the books": "UPDATE charging_session SET energy_wh = energy_wh + 1",
    "COMPLETED, settled None": "UPDATE charging_session SET settled_at = NULL",
    "estimated True": "UPDATE charging_session SET estimated = true",
    "has no settlement": "DELETE FROM settlement",
    "wanted": "UPDATE settlement SET cost_minor = cost_minor + 1, share_minor = share_minor + 1,"
    " covered_minor = covered_minor + 1, refund_minor = refund_minor - 1",
    "settlement 1, session 2": "UPDATE charging_session SET settle_version = 2",
    "entries that do not balance": "UPDATE ledger_posting SET amount_minor = amount_minor + 1 WHERE line = 1",
    "entries without lines": "DELETE FROM ledger_posting WHERE entry_id = (SELECT max(entry_id) FROM ledger_posting)",
    "balances that are not the sum": "UPDATE ledger_account SET balance_minor = balance_minor + 1"
    " WHERE kind = 'wallet'",
    "money still held": "UPDATE ledger_posting SET amount_minor = amount_minor + 1 WHERE side = 'C' AND account_id ="
    " (SELECT id FROM ledger_account WHERE kind = 'held')",
    "earned, beyond the true cost": "UPDATE ledger_posting SET amount_minor = amount_minor + 1 WHERE account_id ="
    " (SELECT id FROM ledger_account WHERE kind = 'platform_fee')",
    "money from outside": "UPDATE ledger_posting SET amount_minor = amount_minor + 1 WHERE account_id ="
    " (SELECT id FROM ledger_account WHERE kind = 'provider')",
    "1 jobs": "UPDATE job SET state = 'held'",
    "1 outbox": "UPDATE outbox SET state = 'waiting'",
    "1 open": "UPDATE charging_session SET status = 'ONGOING'",
    "1 poison": "UPDATE inbox SET state = 'poison' WHERE action = 'StartTransaction'",
    "nobody was told": "UPDATE inbox SET state = 'poison' WHERE action = 'StartTransaction'",
    "1 doubtful": "UPDATE inbox SET state = 'conflict' WHERE action = 'StartTransaction'",
}


@asynccontextmanager
async def judged(running: Running) -> AsyncIterator[tuple[Site, Any]]:
    """A site after a good visit, and its books; the server is gone."""
    from tools.laboratory.scenarios import Stage, new_station, visit

    async with running.lab.site() as site:
        with Journal(site.journal) as journal:
            station = new_station(site, journal, random.Random(1))
            await site.start()
            online = asyncio.create_task(station.run())
            healed = asyncio.Event()
            healed.set()

            async def fault() -> None:
                await healed.wait()

            await visit(Stage(site=site, station=station, draw=random.Random(1), fault=fault))
            await cell_module.wait_until_quiet(site)
            online.cancel()
            await asyncio.gather(online, return_exceptions=True)
        await site.kill()
        books = await site.books()
        try:
            yield site, books
        finally:
            await books.close()


def test_every_difference_that_is_planted_is_found_and_nothing_without_one(running: Running) -> None:
    async def plant_all() -> dict[str, list[str]]:
        found = {}
        async with judged(running) as (site, books):
            found["nothing"] = await differences(books, site.journal, Expected())
            for what, sql in PLANTED.items():
                transaction = books.transaction()
                await transaction.start()
                await books.execute(UNLOCK + sql)
                found[what] = await differences(books, site.journal, Expected())
                await transaction.rollback()
        return found

    found = running.do(plant_all())
    assert found.pop("nothing") == []
    missed = {what: said for what, said in found.items() if not any(what in sentence for sentence in said)}
    assert missed == {}


@pytest.mark.parametrize(
    ("kind", "more", "sentence"),
    [
        (Kind.DISCARDED, {}, "discarded a transaction message"),
        (Kind.TIMED_OUT, {}, "left unanswered"),
        (Kind.ANSWERED, {"error": "InternalError x"}, "CALLERROR to a transaction message"),
    ],
)
def test_what_was_done_to_a_station_is_found_in_its_journal(
    running: Running, kind: Kind, more: dict[str, Any], sentence: str
) -> None:
    async def judge() -> list[str]:
        async with judged(running) as (site, books):
            last = [line for line in read_journal(site.journal) if line.kind is Kind.SENT][-1]
            with Journal(site.journal) as journal:
                journal.write(
                    JournalLine(at=last.at, station=last.station, kind=kind, fact=last.fact, action=last.action, **more)
                )
            return await differences(books, site.journal, Expected())

    assert any(sentence in found for found in running.do(judge()))


def test_a_start_asked_for_twice_is_found(running: Running) -> None:
    async def judge() -> list[str]:
        async with judged(running) as (site, books):
            with Journal(site.journal) as journal:
                for _ in range(2):
                    line = next(iter(read_journal(site.journal)))
                    asked = JournalLine(
                        at=line.at,
                        station="LAB-1",
                        kind=Kind.COMMAND,
                        action="RemoteStartTransaction",
                        payload={"x": 1},
                    )
                    journal.write(asked)
            return await differences(books, site.journal, Expected())

    assert any("asked for twice" in found for found in running.do(judge()))


def test_a_point_that_is_never_reached_fails_its_cell(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_module, "FIRE_S", 2.0)
    point = Point(number=9, what="no such point", holds="", spots=(Spot(at="no.such_point"),))
    outcome = running.do(run_cell(running.lab, Cell(point=point, spot=point.spots[0], action="kill", seed=1)))
    assert not outcome.fired
    assert not outcome.ok


def test_a_program_that_answers_before_its_commit_is_caught(running: Running) -> None:
    """The oldest mistake, without changing the program: PostgreSQL forgets what was committed."""
    wanted = next(c for c in cells(("kill",), 1, frozenset({21})))
    forgetful = dataclasses.replace(wanted, spot=dataclasses.replace(wanted.spot, nth=(3,)))

    async def forget(site: Site) -> None:
        books = await site.books()
        try:
            await books.execute(UNLOCK + "DELETE FROM inbox WHERE action = 'StartTransaction'")
        finally:
            await books.close()

    outcome = running.do(_run_with(running, forgetful, forget))
    assert any("answered and not recorded: StartTransaction" in problem for problem in outcome.problems)


async def _run_with(running: Running, cell: Cell, between: Any) -> Any:
    """Runs a cell and does something to its books between the fault and the healing."""
    original = cell_module._Run._heal

    async def heal(self: Any) -> None:
        await between(self.site)
        await original(self)

    cell_module._Run._heal = heal  # type: ignore[method-assign]
    try:
        return await run_cell(running.lab, cell)
    finally:
        cell_module._Run._heal = original  # type: ignore[method-assign]
