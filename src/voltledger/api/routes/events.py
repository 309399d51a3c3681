"""The live feed as server-sent events: durable news that can be resumed, and readings as they happen.

A durable item has the id `xid-id`, its place in the order of commits; a client that comes back with
`Last-Event-ID` gets everything after it. Live readings have no id: they are lost with the connection.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any

from litestar import get
from litestar.params import HeaderParameter
from litestar.response import Stream

from voltledger.api.access import bearer_key
from voltledger.api.wire import AnyRequest, encode, runtime_of
from voltledger.domain.errors import InvalidInput
from voltledger.services.catalog import Catalog, FeedPlace, FeedRow
from voltledger.services.runtime import Live, StoreContention, StoreUnavailable

POLL_S = 0.5
CHECK_KEY_S = 1.0
HEARTBEAT_S = 15.0
LIVE_QUEUE = 1000
_PLACE = re.compile(r"(\d{1,19})-(\d{1,19})")


@get("/events", summary="The live feed, as server-sent events", media_type="text/event-stream")
async def events(
    request: AnyRequest,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> Stream:
    """Without `Last-Event-ID` it begins now; with `0-0` at the beginning of all."""
    runtime = runtime_of(request)
    place = _place(last_event_id) if last_event_id else await runtime.catalog.feed_end()
    closing: asyncio.Event = request.app.state.closing
    key = bearer_key(request) or ""
    stream = _stream(runtime.catalog, runtime.live, place, closing, key)
    return Stream(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _place(text: str) -> FeedPlace:
    match = _PLACE.fullmatch(text.strip())
    if match is None or int(match[1]) >= 2**63 or int(match[2]) >= 2**63:
        raise InvalidInput("Last-Event-ID", "is not one that this feed gave")
    return FeedPlace(xid=int(match[1]), id=int(match[2]))


async def _stream(
    catalog: Catalog, live: Live | None, place: FeedPlace, closing: asyncio.Event, key: str
) -> AsyncIterator[bytes]:
    """Durable news looked for twice a second, live ones between, a comment when there is nothing.

    It ends with the server, and within seconds of its key being revoked.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Mapping[str, object]] = asyncio.Queue(LIVE_QUEUE)
    async with AsyncExitStack() as stack:
        if live is not None:
            items = await stack.enter_async_context(live.subscribe())
            pump = asyncio.create_task(_pump(items, queue))
            stack.callback(pump.cancel)
        yield b": voltledger\nretry: 2000\n\n"
        spoke = checked = loop.time()
        while not closing.is_set():
            if loop.time() - checked > CHECK_KEY_S:
                checked = loop.time()
                if await _revoked(catalog, key):
                    return
            rows = await _news(catalog, place)
            for row in rows:
                place = FeedPlace(xid=row.xid, id=row.id)
                yield _durable(row)
            until = loop.time() + (0 if len(rows) >= 500 else POLL_S)
            async for item in _live(queue, until):
                spoke = loop.time()
                yield _ephemeral(item)
            if rows:
                spoke = loop.time()
            elif loop.time() - spoke > HEARTBEAT_S:
                spoke = loop.time()
                yield b": still here\n\n"


async def _revoked(catalog: Catalog, key: str) -> bool:
    """Whether a feed's key has ended; nobody can say while the database is away."""
    try:
        return await catalog.actor_of(key) is None
    except (StoreUnavailable, StoreContention):
        return False


async def _news(catalog: Catalog, place: FeedPlace) -> list[FeedRow]:
    """None while the database is away: the feed goes on by itself when it is back."""
    try:
        return await catalog.feed(place)
    except (StoreUnavailable, StoreContention):
        return []


async def _pump(items: AsyncIterator[Mapping[str, object]], queue: asyncio.Queue[Mapping[str, object]]) -> None:
    async for item in items:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(item)


async def _live(queue: asyncio.Queue[Mapping[str, object]], until: float) -> AsyncIterator[Mapping[str, object]]:
    loop = asyncio.get_running_loop()
    while (left := until - loop.time()) > 0:
        try:
            yield await asyncio.wait_for(queue.get(), left)
        except TimeoutError:
            return


def _durable(row: FeedRow) -> bytes:
    data: dict[str, Any] = {
        "kind": row.kind,
        "station": row.station,
        "session": row.session,
        "at": row.at,
        **row.payload,
    }
    kind = row.kind.replace("\n", " ").replace("\r", " ").encode()
    return b"id: %d-%d\nevent: %s\ndata: %s\n\n" % (row.xid, row.id, kind, encode(data))


def _ephemeral(item: Mapping[str, object]) -> bytes:
    return b"event: live\ndata: %s\n\n" % encode(item)


HANDLERS = (events,)
