"""The proxy breaks lines as it says, and only then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tools.laboratory.proxy import Catch, Fault, Mode, PostgresWords, Proxy, Where, proxied
from tools.laboratory.world import _socket_of


@asynccontextmanager
async def echoing() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything back."""
    writers: list[asyncio.StreamWriter] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with proxied(("127.0.0.1", server.sockets[0].getsockname()[1])) as proxy:
        yield proxy
    server.close()
    for writer in writers:
        writer.transport.abort()
    await asyncio.sleep(0.01)


@asynccontextmanager
async def line_to(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def silent(reader: asyncio.StreamReader, seconds: float = 0.15) -> bool:
    try:
        await asyncio.wait_for(reader.read(100), seconds)
    except TimeoutError:
        return True
    return False


async def test_without_a_fault_everything_passes() -> None:
    async with echoing() as proxy, line_to(proxy) as (reader, writer):
        data = bytes(range(256)) * 2000
        writer.write(data)
        assert await asyncio.wait_for(reader.readexactly(len(data)), 5) == data


async def test_latency_delays_each_way() -> None:
    async with echoing() as proxy, line_to(proxy) as (reader, writer):
        proxy.fault = Fault(latency_s=0.1)
        began = time.monotonic()
        writer.write(b"x")
        await asyncio.wait_for(reader.readexactly(1), 5)
        assert 0.19 < time.monotonic() - began < 2


async def test_bandwidth_limits() -> None:
    async with echoing() as proxy, line_to(proxy) as (reader, writer):
        proxy.fault = Fault(bandwidth=10_000)
        began = time.monotonic()
        writer.write(b"x" * 1000)
        await asyncio.wait_for(reader.readexactly(1000), 5)
        assert time.monotonic() - began > 0.19


async def test_slices_arrive_one_by_one() -> None:
    async with echoing() as proxy, line_to(proxy) as (reader, writer):
        proxy.fault = Fault(slice_bytes=3, latency_s=0.01)
        writer.write(b"0123456789")
        first = await asyncio.wait_for(reader.read(100), 5)
        assert first == b"012"
        assert await asyncio.wait_for(reader.readexactly(7), 5) == b"3456789"


async def test_a_black_hole_swallows_old_and_new_lines_and_can_be_healed() -> None:
    async with echoing() as proxy, line_to(proxy) as (reader, writer):
        proxy.fault = Fault(mode=Mode.BLACK_HOLE)
        writer.write(b"x")
        assert await silent(reader)
        async with line_to(proxy) as (other, second):
            second.write(b"y")
            assert await silent(other)
        await proxy.heal()
        assert await asyncio.wait_for(reader.readexactly(1), 5) == b"x"


async def test_half_open_lets_the_client_speak_into_nothing() -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(10))
        writer.write(b"answer")
        await reader.read(10)
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with proxied(("127.0.0.1", server.sockets[0].getsockname()[1])) as proxy, line_to(proxy) as (reader, writer):
        proxy.fault = Fault(mode=Mode.HALF_OPEN)
        writer.write(b"words")
        assert await silent(reader)
        assert heard == [b"words"]
    server.close()
    await asyncio.sleep(0.01)


async def test_reset_is_a_reset() -> None:
    async with echoing() as proxy, line_to(proxy) as (reader, writer):
        writer.write(b"x")
        await reader.readexactly(1)
        await proxy.reset()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.readexactly(1), 5)


async def test_down_refuses_and_comes_back_on_the_same_port() -> None:
    async with echoing() as proxy:
        port = proxy.port
        await proxy.down()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        await proxy.heal()
        async with line_to(proxy) as (reader, writer):
            writer.write(b"x")
            assert await asyncio.wait_for(reader.readexactly(1), 5) == b"x"
        assert proxy.port == port


async def test_a_slow_close_is_slow() -> None:
    async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close_at_once, "127.0.0.1", 0)
    async with proxied(("127.0.0.1", server.sockets[0].getsockname()[1])) as proxy:
        proxy.fault = Fault(slow_close_s=0.2)
        began = time.monotonic()
        async with line_to(proxy) as (reader, _):
            assert await asyncio.wait_for(reader.read(1), 5) == b""
        assert time.monotonic() - began > 0.19
    server.close()


async def test_a_line_is_caught_half_way_through_what_it_says() -> None:
    async with echoing() as proxy, line_to(proxy) as (reader, writer):
        catch = Catch(sees=b"answer", where=Where.HALF, from_server=True)
        proxy.catches.append(catch)
        writer.write(b"other")
        assert await asyncio.wait_for(reader.readexactly(5), 5) == b"other"
        writer.write(b"the answer")
        assert await asyncio.wait_for(reader.readexactly(5), 5) == b"the a"
        assert catch.reached.is_set()
        assert await silent(reader)
        catch.go.set()
        assert await asyncio.wait_for(reader.readexactly(5), 5) == b"nswer"


# --- around a COMMIT of PostgreSQL ------------------------------------------------------------------------


@asynccontextmanager
async def _table(dsn: str) -> AsyncIterator[tuple[Proxy, asyncpg.Connection]]:
    """A proxied connection to a database with an empty table, and a connection beside it."""
    direct = await asyncpg.connect(dsn)
    await direct.execute("CREATE TABLE t (n int)")
    async with proxied(_socket_of(dsn), postgres=True) as proxy:
        try:
            yield proxy, direct
        finally:
            await direct.close()


async def _through(proxy: Proxy, dsn: str) -> asyncpg.Connection:
    from urllib.parse import urlsplit

    parts = urlsplit(dsn)
    return await asyncpg.connect(
        host="127.0.0.1",
        port=proxy.port,
        user=parts.username,
        password=parts.password,
        database=parts.path.strip("/"),
        timeout=10,
    )


@pytest.mark.parametrize(("where", "rows"), [(Where.BEFORE, 0), (Where.AFTER, 1)])
async def test_a_commit_is_cut_before_it_arrives_or_before_its_reply(
    database_dsn: str, where: Where, rows: int
) -> None:
    async with _table(database_dsn) as (proxy, direct):
        connection = await _through(proxy, database_dsn)
        proxy.catches.append(Catch(sees=b"INTO t", where=where, cut=True))
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES ($1)", 1)
        assert await direct.fetchval("SELECT count(*) FROM t") == rows
        connection.terminate()


@pytest.mark.parametrize(("where", "rows"), [(Where.BEFORE, 0), (Where.AFTER, 1)])
async def test_a_statement_outside_a_unit_of_work_is_cut_likewise(database_dsn: str, where: Where, rows: int) -> None:
    async with _table(database_dsn) as (proxy, direct):
        connection = await _through(proxy, database_dsn)
        proxy.catches.append(Catch(sees=b"INTO t", where=where, cut=True))
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            await connection.execute("INSERT INTO t VALUES ($1)", 1)
        assert await direct.fetchval("SELECT count(*) FROM t") == rows
        connection.terminate()


async def test_other_units_of_work_pass_the_catch_and_the_nth_is_caught(database_dsn: str) -> None:
    async with _table(database_dsn) as (proxy, direct):
        connection = await _through(proxy, database_dsn)
        catch = Catch(sees=b"INTO t", where=Where.BEFORE, cut=True, nth=2)
        proxy.catches.append(catch)
        async with connection.transaction():
            await connection.fetch("SELECT count(*) FROM t WHERE n = $1", 1)
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES ($1)", 1)
        assert not catch.reached.is_set()
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES ($1)", 2)
        assert await direct.fetchval("SELECT array_agg(n) FROM t") == [1]
        connection.terminate()


def test_words_in_pieces_are_put_together() -> None:
    words = PostgresWords()
    startup = (12).to_bytes(4, "big") + (196608).to_bytes(4, "big") + b"abcd"
    begin = b"Q" + (10).to_bytes(4, "big") + b"BEGIN\0"
    insert = b"Q" + (14).to_bytes(4, "big") + b"INSERT t;\0"
    commit = b"Q" + (12).to_bytes(4, "big") + b"COMMIT;\0"
    stream = startup + begin + insert + commit
    found = [pair for byte in stream for pair in words.read(bytes([byte]))]
    assert b"".join(message for message, _ in found) == stream
    assert [commits for _, commits in found] == [None, None, None, b"INSERT t;\0"]
