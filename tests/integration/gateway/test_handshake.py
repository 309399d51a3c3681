"""Who gets a socket, and what a refusal shows: the same bytes whatever was wrong."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.acceptance.world import Server, Site, basic, fresh
from tests.integration.gateway.conftest import Opener


async def _handshake(server: Server, path: str, headers: dict[str, str]) -> bytes:
    """Everything that a handshake is answered with, byte for byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.ocpp_port)
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: ocpp1.6",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    try:
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return await asyncio.wait_for(reader.read(65_536), 10)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_every_refusal_is_the_same_401_to_the_byte(server: Server, site: Site) -> None:
    nobody = fresh("NOBODY")
    disabled = await Site(server, site.books, site.api).register()
    answer = await site.api.patch(f"stations/{disabled.id}", json={"disabled": True})
    assert answer.status_code == 200
    refused = {
        "no credentials": await _handshake(server, f"/{site.id}", {}),
        "wrong password": await _handshake(server, f"/{site.id}", basic(site.id, "wrong")),
        "empty password": await _handshake(server, f"/{site.id}", basic(site.id, "")),
        "another's name": await _handshake(server, f"/{site.id}", basic(nobody, site.password)),
        "another's path": await _handshake(server, f"/{nobody}", basic(site.id, site.password)),
        "not Basic": await _handshake(server, f"/{site.id}", {"Authorization": "Bearer x"}),
        "no base64": await _handshake(server, f"/{site.id}", {"Authorization": "Basic ###"}),
        "unknown": await _handshake(server, f"/{nobody}", basic(nobody, "anything")),
        "unknown, nothing": await _handshake(server, f"/{nobody}", {}),
        "no identity": await _handshake(server, "/", basic("", "x")),
        "a path trick": await _handshake(server, f"/%2e%2e%2f{site.id}", basic(site.id, site.password)),
        "decoded twice": await _handshake(server, f"/{site.id.replace('-', '%252D')}", basic(site.id, site.password)),
        "disabled": await _handshake(server, f"/{disabled.id}", basic(disabled.id, disabled.password)),
    }
    assert len(set(refused.values())) == 1, refused
    (only,) = set(refused.values())
    assert only.startswith(b"HTTP/1.1 401 "), only
    assert b"WWW-Authenticate: Basic" in only
    for word in (b"known", b"password", b"voltledger/", site.id.encode()):
        assert word not in only.split(b"\r\n\r\n", 1)[1], "the body tells nothing"
    welcome = await _handshake_head(server, f"/{site.id}", basic(site.id, site.password))
    assert welcome.startswith(b"HTTP/1.1 101 "), "the right password opens the same path"


async def _handshake_head(server: Server, path: str, headers: dict[str, str]) -> bytes:
    subprotocols: Any = ["ocpp1.6"]
    async with connect(
        f"ws://127.0.0.1:{server.ocpp_port}{path}", subprotocols=subprotocols, additional_headers=headers
    ) as socket:
        assert socket.response is not None
        return f"HTTP/1.1 {socket.response.status_code} ".encode()


@pytest.mark.parametrize(
    "shape",
    ["/{id}", "/ocpp/{id}", "/{id}/", "/ocpp/{id}/", "/any/where/{id}", "/{escaped}", "/{lower}", "/{id}?token=1"],
)
async def test_a_station_is_found_under_every_spelling_of_its_path(
    server: Server, site: Site, wire: Opener, shape: str
) -> None:
    path = shape.format(id=site.id, escaped=site.id.replace("-", "%2D"), lower=site.id.lower())
    async with wire(path) as socket:
        await socket.heartbeat()
        shown = (await site.api.get(f"stations/{site.id}")).json()
        assert shown["connected"], "it is this station that is connected, under its own spelling"


async def test_the_user_name_may_differ_in_case_as_the_path_may(server: Server, site: Site, wire: Opener) -> None:
    async with wire(f"/{site.id.lower()}", user=site.id.lower()) as socket:
        await socket.heartbeat()


async def test_an_id_with_a_blank_and_a_letter_beyond_ascii_is_percent_decoded_once(server: Server, site: Site) -> None:
    odd = await Site(server, site.books, site.api).register()
    name = f"{odd.id}|é"
    made = await site.api.post("stations", json={"id": name, "password": site.password})
    assert made.status_code == 201, made.text
    subprotocols: Any = ["ocpp1.6"]
    url = f"ws://127.0.0.1:{server.ocpp_port}/{odd.id}%7C%C3%A9"
    async with connect(url, subprotocols=subprotocols, additional_headers=basic(name, site.password)):
        shown = (await site.api.get(f"stations/{odd.id}%7C%C3%A9")).json()
        assert shown["id"] == name


@pytest.mark.parametrize("offered", [None, ["ocpp2.0.1"], ["soap"]])
async def test_without_a_version_in_common_the_socket_is_closed_and_the_station_is_not_connected(
    server: Server, site: Site, offered: Any
) -> None:
    url = f"ws://127.0.0.1:{server.ocpp_port}/{site.id}"
    headers = basic(site.id, site.password)
    async with connect(url, subprotocols=offered, additional_headers=headers) as socket:
        await asyncio.wait_for(socket.wait_closed(), 10)
        assert socket.close_code == 1002
    shown = (await site.api.get(f"stations/{site.id}")).json()
    assert not shown["connected"]


async def test_the_best_version_in_common_is_taken(server: Server, site: Site) -> None:
    offered: Any = ["ocpp9", "ocpp1.6", "ocpp1.5"]
    url = f"ws://127.0.0.1:{server.ocpp_port}/{site.id}"
    async with connect(url, subprotocols=offered, additional_headers=basic(site.id, site.password)) as socket:
        assert socket.subprotocol == "ocpp1.6"


async def test_plain_http_on_the_stations_port_is_refused_and_harms_nobody(server: Server, wire: Opener) -> None:
    async with wire() as socket:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.ocpp_port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        first = await asyncio.wait_for(reader.readline(), 10)
        assert first.startswith(b"HTTP/1.1 4")
        writer.close()
        await writer.wait_closed()
        _, noise = await asyncio.open_connection("127.0.0.1", server.ocpp_port)
        noise.write(b"\x16\x03\x01\x00\xff" * 50)
        await noise.drain()
        await socket.heartbeat()
        noise.close()
