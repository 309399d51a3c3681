"""What a frame is called, and which socket it came on, says nothing about whether its fact is known (R-06)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from tests.acceptance.world import Books, Site, ago
from tests.integration.gateway.conftest import Opener


def _start(connector: int, token: str = "T") -> dict[str, Any]:
    return {"connectorId": connector, "idTag": token, "meterStart": 100, "timestamp": ago(600)}


def _stop(transaction: int, register: int) -> dict[str, Any]:
    return {"transactionId": transaction, "meterStop": register, "timestamp": ago(1)}


async def _energies(books: Books, site: Site) -> list[tuple[str, int]]:
    return [(row["status"], row["energy_wh"]) for row in await books.sessions_of(site.id)]


async def test_ids_that_begin_at_1_again_with_each_socket_lose_nothing(site: Site, books: Books, wire: Opener) -> None:
    for connector in (1, 2):
        async with wire() as socket:
            answer = await socket.ask("1", "StartTransaction", _start(connector))
            transaction = answer[2]["transactionId"]
        async with wire() as socket:
            assert (await socket.ask("1", "StopTransaction", _stop(transaction, 100 + connector)))[0] == 3
    assert await _energies(books, site) == [("COMPLETED", 1), ("COMPLETED", 2)]


async def test_an_id_that_is_used_for_another_fact_of_the_same_socket_is_another_fact(
    site: Site, books: Books, wire: Opener
) -> None:
    async with wire() as socket:
        refs = [(await socket.ask("1", "StartTransaction", _start(c)))[2]["transactionId"] for c in (1, 2)]
        assert refs[0] != refs[1]
        for number, ref in enumerate(refs, 1):
            await socket.ask("1", "StopTransaction", _stop(ref, 100 + number))
    assert await _energies(books, site) == [("COMPLETED", 1), ("COMPLETED", 2)]


async def test_stations_that_use_the_same_ids_are_not_mixed_up(site: Site, books: Books, wire: Opener) -> None:
    other = await Site(site.server, site.books, site.api).register()
    start = _start(1)
    async with wire() as one, wire(of=other) as two:
        refs = [(await socket.ask("1", "StartTransaction", start))[2]["transactionId"] for socket in (one, two)]
    assert refs[0] != refs[1]
    assert [await _energies(books, station) for station in (site, other)] == [[("ONGOING", 0)]] * 2


async def test_a_fact_under_a_new_id_is_the_same_fact_with_the_same_answer(
    site: Site, books: Books, wire: Opener
) -> None:
    start = _start(1)
    answers = []
    for number in range(3):
        async with wire() as socket:
            answers.append((await socket.ask(f"attempt {number}", "StartTransaction", start))[2])
    assert answers == [answers[0]] * 3
    stop = _stop(answers[0]["transactionId"], 1_100)
    async with wire() as socket:
        assert [(await socket.ask(f"stop {n}", "StopTransaction", stop))[0] for n in range(2)] == [3, 3]
    assert await _energies(books, site) == [("COMPLETED", 1_000)]
    said = await books.sql.fetch(
        "SELECT action, repeats FROM inbox WHERE station_id = $1 ORDER BY received_at", site.id
    )
    assert [tuple(row) for row in said] == [("StartTransaction", 2), ("StopTransaction", 1)]


async def test_what_an_older_socket_says_after_a_newer_one_took_over_is_recorded_and_answered(
    site: Site, books: Books, wire: Opener
) -> None:
    """Epochs fence commands and presence; a fact that was dropped for its socket would be lost for good."""
    async with AsyncExitStack() as stack:
        sockets = []
        for _ in range(5):  # they chase each other: the last ones stay open side by side
            sockets.append(await stack.enter_async_context(wire()))
            await sockets[-1].heartbeat()
        older, newest = sockets[-2:]
        transaction = (await newest.ask("s", "StartTransaction", _start(1)))[2]["transactionId"]
        asking = asyncio.create_task(older.ask("e", "StopTransaction", _stop(transaction, 1_100)))
        await asyncio.wait([asking], timeout=5)
        assert asking.done(), "it is answered"
        answer = await asking
        assert answer[0] == 3
    assert await _energies(books, site) == [("COMPLETED", 1_000)]
