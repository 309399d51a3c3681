"""The same request twice is one effect: answers kept by actor and Idempotency-Key.

A request that was refused leaves nothing behind, so that it can be sent again once its cause is gone.
The effects carry the key themselves where they move money, so that a crash between effect and answer
repeats neither.
"""

import asyncio
import hashlib
import weakref
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

from litestar import Response

from voltledger.api.wire import JSON, AnyRequest, actor_of, encode, runtime_of
from voltledger.domain.errors import InvalidInput, SameKeyOtherInput
from voltledger.services.catalog import StoredAnswer

Answer = TypeVar("Answer")
HEADER = "idempotency-key"

_LOCKS: weakref.WeakValueDictionary[tuple[str, str], asyncio.Lock] = weakref.WeakValueDictionary()
"""Requests of one key wait for each other within this process."""


def key_of(request: AnyRequest) -> str | None:
    """The request's idempotency key. Raises: InvalidInput."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= 200 or not key.isprintable():
        raise InvalidInput("Idempotency-Key", "must be 1 to 200 printable characters")
    return key


async def once(request: AnyRequest, effect: Callable[[], Awaitable[Answer]], *, status: int) -> Response[Answer]:
    """The answer of `effect`, done once for a key; without a key it is simply done.

    Raises: SameKeyOtherInput when the key came with another path or body.
    """
    key = key_of(request)
    if key is None:
        return _response(encode(await effect()), status)
    actor = actor_of(request).id
    lock = _LOCKS.setdefault((actor, key), asyncio.Lock())
    async with lock:
        return await _once(request, effect, status=status, actor=actor, key=key)


async def _once(
    request: AnyRequest, effect: Callable[[], Awaitable[Answer]], *, status: int, actor: str, key: str
) -> Response[Answer]:
    catalog = runtime_of(request).catalog
    fingerprint = await _fingerprint(request)
    stored = await catalog.stored_answer(actor, key)
    if stored is None:
        body = encode(await effect())
        await catalog.store_answer(actor, key, StoredAnswer(request_hash=fingerprint, status=status, response=body))
        return _response(body, status)
    if stored.request_hash != fingerprint:
        raise SameKeyOtherInput("this Idempotency-Key was used for another request; use a new one for a new request")
    return _response(stored.response, stored.status)


async def _fingerprint(request: AnyRequest) -> bytes:
    query = request.scope.get("query_string", b"")
    parts = (request.method.encode(), request.url.path.encode(), query, await request.body())
    return hashlib.sha256(b"\0".join(parts)).digest()


def _response(body: bytes, status: int) -> Response[Answer]:
    return Response(cast(Answer, body), status_code=status, media_type=JSON)
