"""What Redis holds of ours, read with a client of our own: a few lines of its protocol, no library.

Keys (as the server's cache documents them): `voltledger:status:<station>` a hash of EVSE to status, `at` beside them;
`voltledger:owner:<station>` the node with the socket; `voltledger:events:<station>` a stream whose entries have c
(EVSE), k (kind), t (time), s (session or empty).
"""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from voltledger.checker.errors import CheckerError

PREFIX = "voltledger:"
TIMEOUT_S = 5

CacheValue = str | Mapping[str, str] | list[Mapping[str, str]]
"""A string, a hash, or the entries of a stream, oldest first."""


class _Refused(Exception):
    """Redis answered with an error."""


class _Client:
    """One connection; commands go out and answers come back in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def call(self, *words: str) -> Any:
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            data = word.encode()
            parts += [f"${len(data)}\r\n".encode(), data, b"\r\n"]
        self._writer.write(b"".join(parts))
        await self._writer.drain()
        return await asyncio.wait_for(self._answer(), TIMEOUT_S)

    async def _answer(self) -> Any:
        line = (await self._reader.readuntil(b"\r\n"))[:-2]
        kind, rest = line[:1], line[1:]
        match kind:
            case b"+":
                return rest.decode()
            case b"-":
                raise _Refused(rest.decode("utf-8", "replace"))
            case b":":
                return int(rest)
            case b"$":
                size = int(rest)
                return None if size < 0 else (await self._reader.readexactly(size + 2))[:-2].decode("utf-8", "replace")
            case _:
                return [await self._answer() for _ in range(int(rest))]

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def read_redis(address: str) -> dict[str, CacheValue]:
    """Everything under our prefix, by the rest of its key (`status:CP-1`).

    Shapes: `address` is redis://:password@host:port/0 or unix:///path?password=...; a key of a type that is none of
            ours reads as its type's name, which no rule expects.
    Raises: CheckerError when Redis does not answer.
    """
    try:
        client = await asyncio.wait_for(_open(address), TIMEOUT_S)
        try:
            return {key.removeprefix(PREFIX): await _value(client, key) for key in await _keys(client)}
        finally:
            await client.close()
    except (TimeoutError, OSError, asyncio.IncompleteReadError, _Refused, ValueError) as error:
        raise CheckerError(f"Redis does not answer ({type(error).__name__}: {error}): check its address") from error


async def _open(address: str) -> _Client:
    parts = urlsplit(address)
    password = parts.password or next(iter(parse_qs(parts.query).get("password", [])), None)
    if parts.scheme == "unix":
        client = _Client(*await asyncio.open_unix_connection(unquote(parts.path)))
    else:
        client = _Client(*await asyncio.open_connection(parts.hostname or "localhost", parts.port or 6379))
    if password:
        await client.call("AUTH", unquote(password))
    return client


async def _keys(client: _Client) -> list[str]:
    found: set[str] = set()
    cursor = "0"
    while True:
        cursor, keys = await client.call("SCAN", cursor, "MATCH", f"{PREFIX}*", "COUNT", "1000")
        found.update(keys)
        if cursor == "0":
            return sorted(found)


async def _value(client: _Client, key: str) -> CacheValue:
    kind = str(await client.call("TYPE", key))
    match kind:
        case "hash":
            return _mapping(await client.call("HGETALL", key))
        case "string":
            return str(await client.call("GET", key))
        case "stream":
            return [_mapping(fields) for _, fields in await client.call("XRANGE", key, "-", "+")]
        case _:
            return f"a {kind}"


def _mapping(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
