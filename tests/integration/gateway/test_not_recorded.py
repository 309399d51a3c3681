"""A fact that nobody could record: no answer of any kind, and the station is sent away with it still in its queue.

A CALLERROR, or no answer on an open socket, costs a station one of its attempts and at last the fact; being
disconnected does not (OCPP 1.6 §3.7, §3.7.1).
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from tests.integration.gateway.test_connection import NOW, Socket
from voltledger.domain.identifiers import StationId
from voltledger.gateway.connection import ConnectionServices, StationConnection
from voltledger.ocpp.registry import dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.facts import InboundFact, NotRecorded


class Nowhere:
    """An intake that can record nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def submit(self, fact: InboundFact) -> str:
        """See `Intake`."""
        self.asked.append(fact.message_id)
        raise NotRecorded


def _meter(number: int) -> str:
    payload = {"connectorId": 1, "meterValue": [{"timestamp": "2026-11-23T12:00:00Z", "sampledValue": []}]}
    return json.dumps([2, f"m-{number}", "MeterValues", payload])


async def test_a_fact_that_cannot_be_recorded_closes_the_socket_with_1013_and_is_not_answered() -> None:
    async def first_frame(connection: StationConnection) -> None:
        connection.epoch = 1

    intake = Nowhere()
    stand_ins: dict[str, Any] = {
        "intake": intake,
        "frontdesk": SimpleNamespace(),
        "now": lambda: NOW,
        "first_frame": first_frame,
        "keep_frame": lambda frame: None,
        "count": lambda version, action, direction: None,
    }
    socket = Socket([_meter(number) for number in range(5)])
    wire: Any = socket
    connection = StationConnection(wire, StationId("CP-1"), dialect(Version.V16), ConnectionServices(**stand_ins))
    running = asyncio.ensure_future(connection.run())
    await asyncio.wait([running], timeout=2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (socket.answers, socket.closed_with) == ([], 1013)
    assert intake.asked == ["m-0"], "the others are still the station's; none of them may overtake the first"
