"""Two sockets of one station: the newest wins at its first frame, and the old one takes nothing with it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.acceptance.world import Books, Site
from tests.integration.gateway.conftest import Opener, Wire
from tests.support import wait_until


async def _ask_through_the_api(site: Site, action: str = "ClearCache") -> Any:
    answer = await site.api.post(f"stations/{site.id}/calls/{action}", json={})
    return answer.status_code, answer.json()


async def _answer_next(socket: Wire, answer: object) -> Any:
    """Takes the next request of the server and answers it."""
    while True:
        frame = await socket.receive()
        if frame[0] == 2:
            await socket.send([3, frame[1], answer])
            return frame


async def test_the_newest_socket_wins_and_the_late_close_of_the_old_one_does_not_remove_it(
    site: Site, books: Books, wire: Opener
) -> None:
    async with wire() as old:
        await old.heartbeat()
        async with wire() as new:
            # Nothing is said on it yet: the old one still speaks for the station.
            asking = asyncio.ensure_future(_ask_through_the_api(site))
            assert (await _answer_next(old, {"status": "Accepted"}))[2] == "ClearCache"
            assert (await asking)[1]["outcome"] == "answered"

            await new.heartbeat()
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(old.receive(), 10)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1000
            await old.socket.wait_closed()

            # The old one is gone for good, and the new one is still the station.
            for _ in range(2):
                asking = asyncio.ensure_future(_ask_through_the_api(site))
                assert (await _answer_next(new, {"status": "Rejected"}))[2] == "ClearCache"
                status, answer = await asking
                assert (status, answer["outcome"], answer["response"]) == (200, "answered", {"status": "Rejected"})
            owner = await books.sql.fetchrow("SELECT * FROM station_owner WHERE station_id = $1", site.id)
            assert owner["disconnected_at"] is None


async def test_a_socket_whose_line_went_dead_is_replaced_before_anyone_notices(site: Site, wire: Opener) -> None:
    async with wire() as dead:
        await dead.heartbeat()
        dead.socket.transport.pause_reading()  # type: ignore[attr-defined]  # it hears nothing any more
        async with wire() as new:
            await new.heartbeat()
            asking = asyncio.ensure_future(_ask_through_the_api(site))
            await _answer_next(new, {"status": "Accepted"})
            assert (await asking)[1]["outcome"] == "answered"
        dead.socket.transport.abort()


async def test_sockets_that_chase_each_other_do_not_evict_each_other_for_ever(site: Site, wire: Opener) -> None:
    """Firmware that opens two sockets, and reopens whichever is closed (stack H): it ends by itself."""
    evictions = 0
    async with AsyncExitStack() as stack:
        sockets = [await stack.enter_async_context(wire()) for _ in range(2)]
        for socket in sockets:
            await socket.heartbeat()
        for _ in range(8):
            closed = [socket for socket in sockets if await _is_closed(socket)]
            if not closed:
                break
            evictions += len(closed)
            for socket in closed:
                sockets.remove(socket)
                sockets.append(await stack.enter_async_context(wire()))
                await sockets[-1].heartbeat()
        else:
            raise AssertionError("the two go on evicting each other")
        assert 1 <= evictions <= 5
        for socket in sockets:
            await socket.heartbeat()

        # When the newest of them goes, the one that is left is the station: it can be asked.
        newest = sockets.pop()
        await newest.socket.close()
        (left,) = sockets

        async def connected() -> bool:
            return bool((await site.api.get(f"stations/{site.id}")).json()["connected"])

        await wait_until(connected, 5, what="the socket that is left speaks for the station")
        asking = asyncio.ensure_future(_ask_through_the_api(site))
        await asyncio.wait_for(_answer_next(left, {"status": "Accepted"}), 10)
        assert (await asking)[1]["outcome"] == "answered"


async def _is_closed(socket: Wire) -> bool:
    try:
        await asyncio.wait_for(socket.socket.wait_closed(), 0.4)
    except TimeoutError:
        return False
    return True


async def test_a_station_that_connects_and_says_nothing_can_be_asked(site: Site, wire: Opener) -> None:
    """Reconnecting without a boot is normal; the next heartbeat may be minutes away."""
    async with wire() as silent:

        async def connected() -> bool:
            return bool((await site.api.get(f"stations/{site.id}")).json()["connected"])

        await wait_until(connected, 5, what="a silent station shown as connected")
        asking = asyncio.ensure_future(_ask_through_the_api(site))
        await asyncio.wait_for(_answer_next(silent, {"status": "Accepted"}), 10)
        assert (await asking)[1]["outcome"] == "answered"


async def test_a_station_that_left_is_offline_in_the_rows_and_asking_it_is_a_409(
    site: Site, books: Books, wire: Opener
) -> None:
    async with wire() as socket:
        await socket.heartbeat()

    async def offline() -> bool:
        status = await books.sql.fetchval('SELECT status FROM "ChargePoint" WHERE id = $1', site.id)
        return bool(status == "OFFLINE")

    await wait_until(offline, 5, what="OFFLINE")
    status, answer = await _ask_through_the_api(site)
    assert (status, answer["outcome"]) == (409, "not_connected")


async def test_a_socket_that_closes_with_its_first_frame_leaves_no_station_connected(
    site: Site, books: Books, wire: Opener
) -> None:
    """A frame, and gone: whatever was under way for the takeover, nobody holds the station afterwards."""
    for _ in range(10):
        async with wire() as hasty:
            await hasty.send([2, "1", "Heartbeat", {}])
            hasty.socket.transport.abort()

    async def nobody() -> bool:
        shown = (await site.api.get(f"stations/{site.id}")).json()
        owner = await books.sql.fetchrow("SELECT * FROM station_owner WHERE station_id = $1", site.id)
        return not shown["connected"] and (owner is None or owner["disconnected_at"] is not None)

    await wait_until(nobody, 10, what="nobody holds the station")
