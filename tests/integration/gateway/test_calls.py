"""What we ask of a station: one call at a time, each with its own outcome."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.acceptance.world import Books, Site, ago
from tests.integration.gateway.conftest import Opener, Wire
from tests.support import wait_until


def _call(site: Site, action: str, body: object, query: str = "") -> asyncio.Task[Any]:
    async def ask() -> Any:
        answer = await site.api.post(f"stations/{site.id}/calls/{action}{query}", content=json.dumps(body))
        assert answer.status_code == 200, answer.text
        return answer.json()

    site.api.headers["Content-Type"] = "application/json"
    return asyncio.ensure_future(ask())


async def _next_call(socket: Wire) -> Any:
    while True:
        frame = await asyncio.wait_for(socket.receive(), 10)
        if frame[0] == 2:
            return frame


async def test_a_call_without_an_answer_is_a_timeout_and_its_late_reply_completes_nothing(
    site: Site, books: Books, wire: Opener
) -> None:
    async with wire() as socket:
        await socket.heartbeat()
        first = _call(site, "GetConfiguration", {"key": ["HeartbeatInterval"]}, "?timeout_s=0.5")
        unanswered = await _next_call(socket)
        outcome = await first
        assert (outcome["outcome"], outcome["response"]) == ("timeout", None)

        second = _call(site, "ClearCache", {})
        newer = await _next_call(socket)
        await socket.send([3, unanswered[1], {"status": "Accepted"}])  # late, and of the right shape for the newer
        await socket.heartbeat()
        assert not second.done(), "a late reply is not the answer to another call"
        await socket.send([3, newer[1], {"status": "Rejected"}])
        assert (await second)["response"] == {"status": "Rejected"}
        states = await books.sql.fetch(
            "SELECT action, state FROM command WHERE station_id = $1 ORDER BY created_at", site.id
        )
        assert [(row["action"], row["state"]) for row in states] == [
            ("GetConfiguration", "timeout"),
            ("ClearCache", "answered"),
        ]


async def test_call_errors_of_every_length_are_an_outcome(site: Site, wire: Opener) -> None:
    async with wire() as socket:
        await socket.heartbeat()
        shapes: list[list[Any]] = [
            ["NotSupported"],
            ["NotSupported", "no"],
            ["NotSupported", "no", {}],
            ["FormationViolation", "", {}, "more than there is"],
            [None, None],
            [],
            ["InternalError", "x" * 450, {"request": "x" * 2_000}],
        ]
        for shape in shapes:
            asking = _call(site, "ClearCache", {})
            frame = await _next_call(socket)
            await socket.send([4, frame[1], *shape])
            outcome = await asking
            assert outcome["outcome"] == "call_error", f"{shape}: {outcome}"
        await socket.heartbeat()


async def test_an_answer_that_does_not_fit_its_schema_is_handed_on_and_ends_nothing(site: Site, wire: Opener) -> None:
    async with wire() as socket:
        await socket.heartbeat()
        for answer in ({"status": "Maybe"}, {}, None, [1], "text", {"status": 7, "more": "x"}):
            asking = _call(site, "ClearCache", {})
            frame = await _next_call(socket)
            await socket.send([3, frame[1], answer])
            outcome = await asking
            assert outcome["outcome"] in ("answered", "call_error"), f"{answer}: {outcome}"
        await socket.heartbeat()


async def test_one_call_is_open_at_a_time_and_the_next_goes_out_after_it(site: Site, wire: Opener) -> None:
    async with wire() as socket:
        await socket.heartbeat()
        askings = [_call(site, "ClearCache", {}, "?timeout_s=5") for _ in range(3)]
        for _ in askings:
            frame = await _next_call(socket)
            await socket.heartbeat()
            assert not [other for other in socket.others if other[0] == 2], "two calls at once"
            await socket.send([3, frame[1], {"status": "Accepted"}])
        assert [a["outcome"] for a in await asyncio.gather(*askings)] == ["answered"] * 3


async def test_a_raw_call_goes_out_as_it_was_given(site: Site, wire: Opener) -> None:
    async with wire() as socket:
        await socket.heartbeat()
        body = '{ "value" : "300",\n "key" : "HeartbeatInterval" }'
        asking = asyncio.ensure_future(
            site.api.post(
                f"stations/{site.id}/calls/ChangeConfiguration",
                content=body,
                headers={"Content-Type": "application/json"},
            )
        )
        text = await asyncio.wait_for(socket.socket.recv(), 10)
        assert isinstance(text, str)
        assert text.endswith(',"ChangeConfiguration",{"value":"300","key":"HeartbeatInterval"}]')
        await socket.send([3, json.loads(text)[1], {"status": "Accepted"}])
        assert (await asking).json()["outcome"] == "answered"


async def test_a_remote_start_and_a_call_of_the_station_cross_without_a_deadlock(
    site: Site, books: Books, wire: Opener
) -> None:
    """The station answers a start only when its own request is answered, and we do not wait for each other."""
    async with wire() as socket:
        await socket.heartbeat()
        order = {"station": site.id, "connector": 1, "user": site.user, "amount_minor": 10_000}
        answer = await site.api.post("sessions", json=order)
        assert answer.status_code == 201, answer.text
        session_id = answer.json()["id"]
        remote = await _next_call(socket)
        assert remote[2] == "RemoteStartTransaction"
        # Our call is open; the station asks first, twice, and is answered.
        token = remote[3]["idTag"]
        authorized = await asyncio.wait_for(socket.ask("a", "Authorize", {"idTag": token}), 5)
        assert authorized[2]["idTagInfo"]["status"] == "Accepted"
        start = {"connectorId": 1, "idTag": token, "meterStart": 0, "timestamp": ago(0)}
        begun = await asyncio.wait_for(socket.ask("s", "StartTransaction", start), 5)
        await socket.send([3, remote[1], {"status": "Accepted"}])
        await books.in_status(session_id, "ONGOING")
        stop = {"transactionId": begun[2]["transactionId"], "meterStop": 10, "timestamp": ago(0)}
        assert (await socket.ask("e", "StopTransaction", stop))[0] == 3
        assert (await books.settled(session_id))["cost_minor"] == 20


async def test_a_start_that_nobody_answered_may_still_happen(site: Site, books: Books, wire: Opener) -> None:
    """A timeout proves nothing: the money stays set aside, and the transaction is the session's."""
    async with wire() as socket:
        await socket.heartbeat()
        order = {"station": site.id, "connector": 1, "user": site.user, "amount_minor": 10_000}
        session_id = (await site.api.post("sessions", json=order)).json()["id"]
        remote = await _next_call(socket)

        async def timed_out() -> bool:
            state = await books.sql.fetchval("SELECT state FROM command WHERE session_id::text = $1", session_id)
            return bool(state == "timeout")

        await wait_until(timed_out, 10, what="the timeout")
        assert (await books.session(session_id))["status"] == "PENDING"
        start = {"connectorId": 1, "idTag": remote[3]["idTag"], "meterStart": 0, "timestamp": ago(0)}
        begun = await socket.ask("s", "StartTransaction", start)
        row = await books.in_status(session_id, "ONGOING")
        assert row["transaction_ref"] == str(begun[2]["transactionId"])
        stop = {"transactionId": begun[2]["transactionId"], "meterStop": 0, "timestamp": ago(0)}
        await socket.ask("e", "StopTransaction", stop)
        assert (await books.settled(session_id))["refund_minor"] == 10_000


async def test_a_call_open_when_the_socket_dies_has_an_unknown_outcome(site: Site, books: Books, wire: Opener) -> None:
    async with wire() as socket:
        await socket.heartbeat()
        asking = _call(site, "ClearCache", {}, "?timeout_s=20")
        await _next_call(socket)
        socket.socket.transport.abort()
        assert (await asyncio.wait_for(asking, 10))["outcome"] == "unknown"


async def test_the_commands_of_the_contract_reach_the_wire(site: Site, wire: Opener) -> None:
    """Version-neutral verbs, each as the 1.6 message that it is."""
    verbs: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
        ("reset", {"kind": "Soft"}, "Reset", {"type": "Soft"}),
        ("unlock", {"connector": 2}, "UnlockConnector", {"connectorId": 2}),
        (
            "availability",
            {"operative": False, "connector": 1},
            "ChangeAvailability",
            {"connectorId": 1, "type": "Inoperative"},
        ),
        (
            "trigger",
            {"message": "StatusNotification", "connector": 1},
            "TriggerMessage",
            {"requestedMessage": "StatusNotification", "connectorId": 1},
        ),
        ("start", {"token": "ABC", "connector": 1}, "RemoteStartTransaction", {"connectorId": 1, "idTag": "ABC"}),
        ("stop", {"transaction_id": "7"}, "RemoteStopTransaction", {"transactionId": 7}),
    ]
    async with wire() as socket:
        await socket.heartbeat()
        for verb, body, action, payload in verbs:
            asking = asyncio.ensure_future(site.api.post(f"stations/{site.id}/commands/{verb}", json=body))
            frame = await _next_call(socket)
            assert (frame[2], frame[3]) == (action, payload)
            await socket.send([3, frame[1], {"status": "Accepted"}])
            answer = await asking
            assert (answer.status_code, answer.json()["outcome"]) == (200, "answered"), answer.text
