"""Replays, orders, message ids, transaction ids, clocks, outages, at the scale of `make test`; all: the tool itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
import structlog

from tests.laboratory.conftest import Running
from tools.laboratory.desk import desk, enlist
from tools.laboratory.proofs import Promise, Proof, Task, prove
from tools.laboratory.replays import (
    FINAL,
    PROMISES,
    OutageWorld,
    Visit,
    _judge_order,
    _judge_outage,
    books_say,
    check_books,
    draw_order,
    draw_visit,
)
from tools.simulate_seeds import be_quiet
from tools.simulation import node
from voltledger import logs

SCALE = {"R-04": 0.005, "R-05": 0.02, "R-06": 0.01, "R-07": 1.0, "R-09": 0.1, "R-15": 1.0}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Stations misbehave here on purpose all the time; the log is as before afterwards."""
    before = structlog.get_config()
    be_quiet()
    yield
    structlog.configure(**before)
    for log in logs._all_logs:
        log._attach()


@pytest.mark.parametrize("promise", PROMISES, ids=lambda one: one.name)
def test_the_promise_holds(running: Running, promise: Promise) -> None:
    proof = running.do(prove(running.lab, promise, Task(scale=SCALE[promise.name], seed=7)))
    assert proof.differences == []
    assert proof.reached
    assert proof.figure


def test_a_repeat_that_made_a_second_session_would_be_found(running: Running) -> None:
    """The same visit said as another fact: what the guards of R-04 and R-05 look at changes."""

    async def say_it_twice() -> tuple[int, str]:
        async with running.lab.site() as site, desk(site) as at:
            (name,) = await enlist(site, "TWICE-", 1)
            order = draw_order(Random(1), name, at.now())
            visit = order.visit
            line = at.connect(name)
            for payload in (visit.start(), visit.start() | {"meterStart": visit.registers[0] + 1}):
                await line.call("StartTransaction", json.dumps(payload))
            await line.close()
            rows = await books_say(site, "SELECT station_id, status, energy_wh FROM charging_session")
            return len(rows), _judge_order(order, rows, True)

    count, problem = running.do(say_it_twice())
    assert count == 2
    assert problem == "2 sessions of one visit"


def test_money_that_moved_wrongly_would_be_found(running: Running) -> None:
    """A settlement changed behind the server's back differs for the judge of an order, and for the checker."""

    async def change_it() -> tuple[str, str, Proof]:
        proof = Proof(promise="none", target="none")
        async with running.lab.site() as site, desk(site) as at:
            (name,) = await enlist(site, "WRONG-", 1)
            order = draw_order(Random(2), name, at.now())
            visit: Visit = order.visit
            line = at.connect(name)
            visit.ref = (await line.call("StartTransaction", json.dumps(visit.start())))[2]["transactionId"]
            await line.call("StopTransaction", json.dumps(visit.stop(visit.ref)))
            await line.close()
            await at.settle()
            right = _judge_order(order, await books_say(site, FINAL), False)
            books = await site.books()
            await books.execute("ALTER TABLE settlement DISABLE TRIGGER ALL")
            await books.execute("UPDATE settlement SET energy_wh = energy_wh + 1")
            await books.close()
            wrong = _judge_order(order, await books_say(site, FINAL), True)
            await check_books(site, proof)
        return right, wrong, proof

    right, wrong, proof = running.do(change_it())
    assert right == ""
    assert "wrong" in wrong or "oracle" in wrong
    assert proof.differences


def test_holding_messages_for_too_long_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that keeps stations waiting for longer than they wait costs them attempts."""

    def differences() -> list[str]:
        proof = Proof(promise="none", target="none")
        world = OutageWorld(5, away_s=600.0, stations=10, with_journal=False)
        world.run()
        _judge_outage(world, "here", proof)
        return proof.differences

    assert differences() == []
    monkeypatch.setattr(node, "HOLD_S", 500.0)
    assert any("attempts" in one for one in differences())


def test_a_visit_lies_in_the_past_and_counts_upwards() -> None:
    now = datetime(2026, 5, 1, tzinfo=UTC)
    visit = draw_visit(Random(3), "S", now - timedelta(hours=2))
    assert list(visit.registers) == sorted(set(visit.registers))
    assert visit.stop(1)["timestamp"] < now.isoformat()
