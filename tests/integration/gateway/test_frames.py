"""Bad frames: answered or ignored, never the end of a socket, neither their own nor another's."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from websockets.exceptions import ConnectionClosed

from tests.acceptance.world import Books, Site, ago
from tests.integration.gateway.conftest import Opener
from tests.support import wait_until

MALFORMED: dict[str, str | bytes] = {
    "no JSON": "hello",
    "cut off": '[2,"1","Heartbeat"',
    "an object": "{}",
    "a number": "42",
    "null": "null",
    "an empty array": "[]",
    "empty text": "",
    "blanks": "  \n ",
    "only a type": "[2]",
    "a type that does not exist": '[9,"1","Heartbeat",{}]',
    "a type of 2.1": '[6,"1","NotifyPeriodicEventStream",{}]',
    "a text for a type": '["two","1","Heartbeat",{}]',
    "an id that is an object": '[2,{},"Heartbeat",{}]',
    "an action that is a number": '[2,"1",7,{}]',
    "a result of nothing": '[3,"never-asked",{}]',
    "an error of nothing": '[4,"never-asked","InternalError","",{}]',
    "an error of three elements": '[4,"never-asked","GenericError"]',
    "a result without an id": "[3]",
    "deeply nested": "[" * 5_000 + "]" * 5_000,
    "NUL in the id": '[2,"a\\u0000b","Heartbeat",{}]',
    "a lone surrogate": '[2,"\\ud800","Heartbeat",{}]',
    "NaN": '[2,"1","MeterValues",{"connectorId":NaN}]',
    "a payload that is a list": '[2,"1","Heartbeat",[]]',
    "a payload that is text": '[2,"1","BootNotification","x"]',
    "a payload that is null": '[2,"1","BootNotification",null]',
    "a huge number": '[2,"1","StartTransaction",{"connectorId":1e400}]',
    "binary": b'[2,"1","Heartbeat",{}]',
    "binary that is no text": b"\xff\xfe\x00\x01",
    "binary with a broken text in it": b'[2,"1","DataTransfer",{"vendorId":"\xff\xfe"}]',
    "binary with a broken text in a fact": b'[2,"1","StopTransaction",{"transactionId":7,"idTag":"\xff"}]',
    "binary, empty": b"",
}


async def test_malformed_frames_end_neither_their_own_connection_nor_another(site: Site, wire: Opener) -> None:
    bystander = await Site(site.server, site.books, site.api).register()
    async with wire() as socket, wire(of=bystander) as other:
        await socket.heartbeat()
        await other.heartbeat()
        for name, frame in MALFORMED.items():
            await socket.send(frame)
            try:
                await asyncio.wait_for(socket.heartbeat(), 10)
            except (ConnectionClosed, TimeoutError) as problem:
                raise AssertionError(f"{name}: the socket did not live on: {problem!r}") from problem
        await other.heartbeat()
        shown = (await site.api.get(f"stations/{site.id}")).json()
        assert shown["connected"]
        refusals = [frame for frame in socket.others if frame[0] == 4]
        assert all(len(frame) == 5 and len(frame[3]) <= 255 for frame in refusals)
        assert any(frame[1] == "1" for frame in refusals), "what has an id is answered under it"


async def test_an_unknown_action_is_answered_not_implemented(wire: Opener) -> None:
    async with wire() as socket:
        answer = await socket.ask("m-1", "CustomOperation", {})
        assert answer[:3] == [4, "m-1", "NotImplemented"]
        assert answer[4] == {}
        await socket.heartbeat()


async def test_a_message_of_the_server_sent_by_a_station_is_refused_too(wire: Opener) -> None:
    async with wire() as socket:
        answer = await socket.ask("m-1", "RemoteStartTransaction", {"idTag": "X"})
        assert answer[0] == 4
        assert answer[2] in ("NotImplemented", "NotSupported")
        await socket.heartbeat()


async def test_facts_with_odd_message_ids_are_recorded_and_answered_under_them(
    site: Site, books: Books, wire: Opener
) -> None:
    """NUL cannot be stored as text; a number is no text; both are echoed as they came."""
    ids: list[Any] = ["with\u0000nul", 17, "", "x" * 300, "é 🔌"]
    async with wire() as socket:
        for number, message_id in enumerate(ids, 1):
            start = {"connectorId": number, "idTag": "T", "meterStart": number, "timestamp": ago(60)}
            answer = await asyncio.wait_for(socket.ask(message_id, "StartTransaction", start), 10)
            assert answer[0] == 3, f"{message_id!r}: {answer}"
            status = {"connectorId": number, "errorCode": "NoError", "status": "Charging"}
            answer = await asyncio.wait_for(socket.ask(message_id, "StatusNotification", status), 10)
            assert answer == [3, message_id, {}]
        assert len(await books.sessions_of(site.id)) == len(ids)
        poison = await books.findings(site.id, "poison")
        assert not poison, "nothing about an id is beyond us"


async def test_a_refused_call_with_a_nul_does_not_take_other_frames_with_it(
    site: Site, books: Books, wire: Opener
) -> None:
    """The conversation is written in batches; one bad row must not lose the others."""
    async with wire() as socket:
        await socket.ask("a\u0000b", "Custom\u0000Operation", {})
        await socket.ask("kept", "Authorize", {"idTag": "SOMEONE"})

        async def kept() -> bool:
            rows = await books.sql.fetch("SELECT action FROM frame WHERE station_id = $1", site.id)
            return any(row["action"] == "Authorize" for row in rows)

        await wait_until(kept, 5, what="the frame beside the bad one")


async def test_an_oversized_frame_closes_only_its_own_socket_with_1009(site: Site, wire: Opener) -> None:
    bystander = await Site(site.server, site.books, site.api).register()
    async with wire() as socket, wire(of=bystander) as other:
        await socket.heartbeat()
        await other.heartbeat()
        await socket.send([2, "1", "DataTransfer", {"vendorId": "V", "data": "x" * 60_000}])
        assert (await socket.receive())[0] in (3, 4), "what is just small enough is answered"
        with contextlib.suppress(ConnectionClosed):
            await socket.send([2, "2", "DataTransfer", {"vendorId": "V", "data": "x" * 70_000}])
        await asyncio.wait_for(socket.socket.wait_closed(), 10)
        assert socket.socket.close_code == 1009
        await other.heartbeat()
    async with wire() as again:
        await again.heartbeat()


async def test_facts_sent_without_waiting_are_answered_in_order(site: Site, books: Books, wire: Opener) -> None:
    """Twice as many as the server keeps waiting: the rest waits in the station's own socket."""
    count = 40
    async with wire() as socket:
        start = {"connectorId": 1, "idTag": "T", "meterStart": 0, "timestamp": ago(3_600)}
        begun = await socket.ask("start", "StartTransaction", start)
        transaction = begun[2]["transactionId"]
        for number in range(1, count + 1):
            sample = {"measurand": "Energy.Active.Import.Register", "unit": "Wh", "value": str(number * 10)}
            value = {"timestamp": ago(3_600 - number), "sampledValue": [sample]}
            payload = {"connectorId": 1, "transactionId": transaction, "meterValue": [value]}
            await socket.send([2, f"m-{number}", "MeterValues", payload])
            if number % 10 == 0:
                await socket.send([2, f"h-{number}", "Heartbeat", {}])
        stop = {"transactionId": transaction, "meterStop": 500, "timestamp": ago(1), "reason": "Local"}
        await socket.send([2, "stop", "StopTransaction", stop])
        answers = [await asyncio.wait_for(socket.receive(), 20) for _ in range(count + count // 10 + 1)]
        assert all(frame[0] == 3 for frame in answers)
        expected = []
        for number in range(1, count + 1):
            expected.append(f"m-{number}")
            if number % 10 == 0:
                expected.append(f"h-{number}")
        assert [frame[1] for frame in answers] == [*expected, "stop"]
        (row,) = await books.sessions_of(site.id)
        assert (row["status"], row["energy_wh"]) == ("COMPLETED", 500)
        readings = await books.sql.fetchval("SELECT count(*) FROM reading WHERE session_id = $1", row["id"])
        assert readings >= count, "none was lost"


async def test_a_stop_of_another_stations_transaction_touches_nothing(site: Site, books: Books, wire: Opener) -> None:
    """A transaction id is not a key to somebody else's session; the stop is answered and kept all the same."""
    victim = await Site(site.server, site.books, site.api).register()
    async with wire(of=victim) as honest, wire() as thief:
        start = {"connectorId": 1, "idTag": "T", "meterStart": 0, "timestamp": ago(60)}
        transaction = (await honest.ask("s", "StartTransaction", start))[2]["transactionId"]
        for number in (transaction, 0, -1, 2**31):
            stop = {"transactionId": number, "meterStop": 1, "timestamp": ago(1)}
            assert (await thief.ask(f"stop {number}", "StopTransaction", stop))[0] == 3
        (row,) = await books.sessions_of(victim.id)
        assert row["status"] == "ONGOING"
        assert not await books.sessions_of(site.id)
        assert len(await books.findings(site.id, "unmatched_stop")) == 4, "each is kept for a person"
