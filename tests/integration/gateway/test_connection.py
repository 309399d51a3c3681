"""What a real station cannot provoke on demand: our own mistakes, and what happens at the same moment."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

from voltledger.domain.events import Answer, FactUnreadable
from voltledger.domain.identifiers import StationId, TransactionRef
from voltledger.gateway.commands import StationCommands
from voltledger.gateway.connection import ConnectionServices, StationConnection
from voltledger.ocpp.registry import dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.facts import InboundFact
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.ports import QueuedCommand

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Socket:
    """Frames in, answers out; it stays open until every frame has its answer."""

    remote_address = ("127.0.0.1", 1)
    close_code: int | None = None

    def __init__(self, frames: list[str]) -> None:
        self._frames = frames
        self.answers: list[Any] = []
        self.closed_with: int | None = None
        self._done = asyncio.Event()
        self.aborted = False
        self.transport = SimpleNamespace(abort=self._abort)

    def _abort(self) -> None:
        self.aborted = True
        self._done.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        for frame in self._frames:
            yield frame
        await self._done.wait()

    async def send(self, text: str) -> None:
        self.answers.append(json.loads(text))
        if len(self.answers) == len(self._frames):
            self._done.set()

    async def close(self, code: int, reason: str) -> None:
        self.closed_with = code
        self._done.set()


class Frontdesk:
    """Fails as many times as it is told to, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)

    async def answer(self, station_id: object, event: object, now: datetime) -> Answer:
        await asyncio.sleep(0)
        if self._failures:
            raise self._failures.pop(0)
        return Answer(at=now, heartbeat_s=300)


def _connection(
    socket: Socket,
    frontdesk: Frontdesk,
    hold_s: float = 5.0,
    intake: Intake | None = None,
    services: ConnectionServices | None = None,
) -> StationConnection:
    async def first_frame(connection: StationConnection) -> None:
        connection.epoch = 1

    stand_ins: dict[str, Any] = {
        "intake": intake or SimpleNamespace(hold_s=hold_s, away=False, answers_from_memory=False),
        "frontdesk": frontdesk,
        "now": lambda: NOW,
        "first_frame": first_frame,
        "keep_frame": lambda frame: None,
        "count": lambda version, action, direction: None,
    }
    wire: Any = socket
    made = services or ConnectionServices(**stand_ins)
    return StationConnection(wire, StationId("CP-1"), dialect(Version.V16), made)


def _heartbeats(count: int) -> list[str]:
    return [json.dumps([2, f"h-{number}", "Heartbeat", {}]) for number in range(count)]


async def test_a_mistake_of_ours_with_one_call_is_told_and_the_calls_behind_it_are_answered() -> None:
    """More calls wait than there is room for: none of them may wait for ever."""
    socket = Socket(_heartbeats(40))
    await asyncio.wait_for(_connection(socket, Frontdesk(RuntimeError("our mistake"))).run(), 5)
    assert socket.answers[0][:3] == [4, "h-0", "InternalError"]
    assert "our mistake" not in json.dumps(socket.answers[0]), "a station is told nothing of our inside"
    assert [answer[:2] for answer in socket.answers[1:]] == [[3, f"h-{number}"] for number in range(1, 40)]


class Intake:
    """Fails as many times as it is told to, then records."""

    hold_s, away, answers_from_memory = 5.0, False, False

    def __init__(self, *failures: Exception) -> None:
        self._failures = list(failures)
        self.recorded: list[InboundFact] = []

    async def submit(self, fact: InboundFact) -> str:
        await asyncio.sleep(0)
        if self._failures:
            raise self._failures.pop(0)
        self.recorded.append(fact)
        return fact.encode(Answer(at=NOW, transaction_ref=TransactionRef("7"), heartbeat_s=300)).decode()


def _stop(message_id: str) -> str:
    stop = {"transactionId": 7, "meterStop": 100, "timestamp": "2026-11-23T11:00:00Z"}
    return json.dumps([2, message_id, "StopTransaction", stop])


async def test_a_transaction_message_that_makes_our_code_fail_is_never_refused() -> None:
    """First the line is closed, which costs the station no attempt; the second time the message is kept raw."""
    intake = Intake(RuntimeError("once"), RuntimeError("twice"))
    first = Socket([_stop("s-1"), *_heartbeats(1)])
    connection = _connection(first, Frontdesk(), intake=intake)
    await asyncio.wait_for(connection.run(), 5)
    assert (first.answers, first.closed_with, intake.recorded) == ([], 1011, [])
    second = Socket([_stop("s-2"), *_heartbeats(1)])
    await asyncio.wait_for(_connection(second, Frontdesk(), services=connection._services).run(), 5)
    assert [answer[:2] for answer in second.answers] == [[3, "s-2"], [3, "h-0"]]
    (kept,) = intake.recorded
    assert isinstance(kept.event, FactUnreadable)
    assert json.loads(kept.payload)["meterStop"] == 100
    assert "twice" not in kept.event.problem


async def test_a_lane_that_is_cancelled_cuts_its_line() -> None:
    """A call that nobody will answer costs the station an attempt; a line that is cut does not."""
    socket = Socket([_stop("s-1")])

    class Never(Intake):
        async def submit(self, fact: InboundFact) -> str:
            lane.append(asyncio.current_task())
            await asyncio.Event().wait()
            return ""

    lane: list[asyncio.Task[Any] | None] = []
    running = asyncio.ensure_future(_connection(socket, Frontdesk(), intake=Never()).run())
    while not lane:
        await asyncio.sleep(0)
    assert lane[0] is not None
    lane[0].cancel()
    await asyncio.wait([running], timeout=5)
    assert running.done()
    assert (socket.aborted, socket.answers) == (True, [])


async def test_a_plain_call_is_held_while_the_store_is_away() -> None:
    socket = Socket(_heartbeats(3))
    away = [StoreUnavailable("away") for _ in range(2)]
    await asyncio.wait_for(_connection(socket, Frontdesk(*away)).run(), 5)
    assert [answer[:2] for answer in socket.answers] == [[3, "h-0"], [3, "h-1"], [3, "h-2"]]


async def test_a_plain_call_is_not_held_for_longer_than_the_hold() -> None:
    socket = Socket(_heartbeats(1))
    away = [StoreUnavailable("away") for _ in range(50)]
    await asyncio.wait_for(_connection(socket, Frontdesk(*away), hold_s=0.2).run(), 5)
    assert (socket.answers, socket.closed_with) == ([], 1013)


async def test_a_command_that_is_queued_while_we_look_is_looked_for_again_at_once() -> None:
    """Not only two seconds later, when the queue is looked at anyway."""
    looks: list[float] = []
    twice = asyncio.Event()

    class Store:
        async def expire_commands(self) -> int:
            return 0

        async def give_up_commands(self, node: str, older_than_s: float, except_for: list[UUID]) -> list[UUID]:
            return []

        async def claim_commands(self, stations: list[str], node: str) -> list[QueuedCommand]:
            looks.append(time.monotonic())
            if len(looks) == 1:
                commands.wake()  # its row is committed just after this look
            else:
                twice.set()
            return []

    async def no_outcome(queued: object, outcome: object) -> None:
        return None

    stand_ins: dict[str, Any] = {
        "store": Store(),
        "registry": SimpleNamespace(connected=lambda: {"CP-1": None}),
        "on_outcome": no_outcome,
    }
    commands = StationCommands(node="n", timeout_s=1, new_id=uuid4, **stand_ins)
    running = asyncio.ensure_future(commands.run())
    await asyncio.wait_for(twice.wait(), 5)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert looks[1] - looks[0] < 1
