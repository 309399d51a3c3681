"""The server itself: ports, the feed over a real connection, and stopping."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest

from tests import support
from tests.integration.api.conftest import World
from voltledger.api import serve_http
from voltledger.errors import UserFacingError


@pytest.fixture
async def address(world: World) -> AsyncIterator[str]:
    """Where the world's application is served."""
    port, ready, stop = support.free_port(), asyncio.Event(), asyncio.Event()
    server = asyncio.create_task(serve_http(world.app, "127.0.0.1", port, ready, stop))
    await asyncio.wait_for(ready.wait(), 10)
    yield f"http://127.0.0.1:{port}"
    stop.set()
    await asyncio.wait_for(server, 10)


async def _events(lines: AsyncIterator[str], count: int) -> list[dict[str, Any]]:
    """The next events of a feed, each with its id."""
    found: list[dict[str, Any]] = []
    event: dict[str, Any] = {}
    async with asyncio.timeout(10):
        async for line in lines:
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                event["data"] = json.loads(value)
            elif not line and event.get("event"):
                found.append(event)
                event = {}
                if len(found) == count:
                    return found
    return found


async def test_the_feed_tells_durable_news_with_a_place_and_live_ones_without(world: World, address: str) -> None:
    headers = {"Authorization": f"Bearer {world.keys['viewer']}"}
    async with (
        httpx.AsyncClient(base_url=address, headers=headers) as client,
        client.stream("GET", "/api/v1/events") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        assert await anext(lines) == ": voltledger"
        await support.wait_until(lambda: world.live.queues)
        world.live.say({"kind": "reading", "station": "CP-1", "power_w": 7400})
        await world.catalog.top_up("anna", 100, key="k1")
        events = await _events(lines, 2)
    live = next(e for e in events if e["event"] == "live")
    durable = next(e for e in events if e["event"] == "topup")
    assert "id" not in live
    assert live["data"]["power_w"] == 7400
    assert durable["data"]["amount_minor"] == 100
    await support.wait_until(lambda: not world.live.queues)


async def test_a_feed_goes_on_after_the_last_event_seen(world: World, address: str) -> None:
    for number in range(5):
        await world.catalog.top_up("anna", 100 + number, key=f"k{number}")
    headers = {"Authorization": f"Bearer {world.keys['viewer']}"}
    async with httpx.AsyncClient(base_url=address, headers=headers) as client:
        async with client.stream("GET", "/api/v1/events", headers={"Last-Event-ID": "0-0"}) as response:
            everything = [e for e in await _events(response.aiter_lines(), 6) if e["event"] == "topup"]
        again = {"Last-Event-ID": everything[2]["id"]}
        async with client.stream("GET", "/api/v1/events", headers=again) as response:
            rest = await _events(response.aiter_lines(), 2)
        refused = await client.get("/api/v1/events", headers={"Last-Event-ID": "yesterday"})
    assert [e["data"]["amount_minor"] for e in everything] == [100, 101, 102, 103, 104]
    assert [e["data"]["amount_minor"] for e in rest] == [103, 104]
    assert refused.status_code == 422


async def test_a_revoked_key_ends_its_open_feed(world: World, address: str) -> None:
    made = await world.catalog.add_key(role="viewer")
    async with (
        httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {made.key}"}) as client,
        client.stream("GET", "/api/v1/events") as response,
        asyncio.timeout(5),
    ):
        lines = response.aiter_lines()
        await anext(lines)
        await world.catalog.revoke_key(made.id)
        assert [line async for line in lines if line.startswith("data")] == []


async def test_news_that_commit_late_are_never_skipped(world: World, database_dsn: str) -> None:
    slow = await asyncpg.connect(database_dsn)
    place = await world.catalog.feed_end()
    late = slow.transaction()
    await late.start()
    await slow.execute("INSERT INTO feed (kind) VALUES ('late')")
    await world.catalog.top_up("anna", 100, key="early")
    assert await world.catalog.feed(place) == []
    await late.commit()
    assert [row.kind for row in await world.catalog.feed(place)] == ["late", "topup"]
    await slow.close()


async def test_an_occupied_port_is_one_line_that_says_what_to_do(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserFacingError, match=f"127.0.0.1:{port} is in use .* VOLTLEDGER_HTTP"):
            await serve_http(world.app, "127.0.0.1", port, asyncio.Event(), asyncio.Event())


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_is_one_line(world: World, host: str) -> None:
    with pytest.raises(UserFacingError):
        await serve_http(world.app, host, 0, asyncio.Event(), asyncio.Event())


async def test_stopping_ends_open_feeds_at_once(world: World) -> None:
    port, ready, stop = support.free_port(), asyncio.Event(), asyncio.Event()
    server = asyncio.create_task(serve_http(world.app, "127.0.0.1", port, ready, stop))
    await asyncio.wait_for(ready.wait(), 10)
    headers = {"Authorization": f"Bearer {world.keys['viewer']}"}
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers) as client,
        client.stream("GET", "/api/v1/events") as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        stop.set()
        await asyncio.wait_for(server, 3)
        assert [line async for line in lines if line.startswith("data")] == []
