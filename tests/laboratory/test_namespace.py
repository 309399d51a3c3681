"""A black hole below TCP: nothing is refused, nothing arrives, and after healing nothing is missing."""

from __future__ import annotations

import asyncio
import sys

import pytest

from tools.laboratory.namespace import NotPermitted, namespace

ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 4321))
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""


async def test_what_is_sent_into_a_black_hole_arrives_when_it_is_healed() -> None:
    try:
        async with namespace() as place:
            server = await asyncio.create_subprocess_exec(
                *place.prefix, sys.executable, "-c", ECHO, place.address, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert server.stdout is not None
                assert await asyncio.wait_for(server.stdout.readline(), 10) == b"ready\n"
                reader, writer = await asyncio.wait_for(asyncio.open_connection(place.address, 4321), 10)
                writer.write(b"before")
                assert await asyncio.wait_for(reader.readexactly(6), 5) == b"before"
                await place.black_hole()
                writer.write(b"within")
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(reading := asyncio.ensure_future(reader.read(10))), 0.4)
                await place.heal()
                assert await asyncio.wait_for(reading, 20) == b"within"
                writer.close()
                await server.wait()
            finally:
                if server.returncode is None:
                    server.kill()
                    await server.wait()
    except NotPermitted as reason:
        pytest.skip(str(reason))
