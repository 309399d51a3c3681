"""Crash loop, rolling restarts and restored backups, at the scale of `make test`; all: tools/laboratory/restarts.py."""

from __future__ import annotations

import pytest

from tests.laboratory.conftest import Running
from tools.laboratory.proofs import Promise, Proof, Task, prove
from tools.laboratory.replays import check_books
from tools.laboratory.restarts import PROMISES, charging, drained
from tools.laboratory.world import until

SCALE = 0.01
HERE = [promise for promise in PROMISES if promise.name != "R-13"]  # its cells have tests of their own


@pytest.mark.parametrize("promise", HERE, ids=lambda one: one.name)
def test_the_promise_holds(running: Running, promise: Promise) -> None:
    proof = running.do(prove(running.lab, promise, Task(scale=SCALE, seed=3)))
    assert proof.differences == []
    assert proof.reached


def test_a_fact_that_a_restart_lost_would_be_found(running: Running) -> None:
    """An answered end whose row is gone: the checker says so from the journals."""

    async def lose_one() -> tuple[int, Proof]:
        proof = Proof(promise="none", target="none")
        async with running.lab.site() as site, charging(site, 2, 1) as fleet:
            await until(lambda: fleet.facts > 0, 30, "somebody charges")
            await drained(site, fleet)
            books = await site.books()
            lost = await books.fetchval("SELECT station_id FROM inbox WHERE action = 'StopTransaction' LIMIT 1")
            await books.execute("SET session_replication_role = replica")
            await books.execute("DELETE FROM inbox WHERE station_id = $1 AND action = 'StopTransaction'", lost)
            await books.execute("UPDATE charging_session SET energy_wh = energy_wh + 1 WHERE station_id = $1", lost)
            await books.close()
            await check_books(site, proof, [site.journal])
        return fleet.facts, proof

    facts, proof = running.do(lose_one())
    assert facts
    assert proof.differences
