"""A lean 1.6 station that keeps its transaction messages as the specification says, and a journal of what it did.

It says one thing at a time, transaction messages in the order in which they became true. While it is offline it keeps
them and no attempt is spent (OCPP 1.6 ed. 2 §3.7); an answer that does not come in time, or a CALLERROR, spends one,
and after the last the message is discarded (§3.7.1). Its journal is that of `voltledger.simulator.journal`.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from voltledger.simulator.connection import CONNECT_ERRORS, Address, abort, open_socket
from voltledger.simulator.journal import Journal, JournalLine, Kind

ATTEMPTS = 3
RETRY_S = 1.0
ANSWER_S = 30.0
RECONNECT_S = 0.03
SAMPLE = timedelta(seconds=60)


@dataclass(slots=True, kw_only=True, eq=False)
class Visit:
    """One car: what really happened."""

    number: int
    connector: int
    token: str
    began_at: datetime
    start_wh: int
    register_wh: int
    transaction_id: int | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Fact:
    """A transaction message, kept until it is answered or given up. `payload` is made when it is sent."""

    number: int
    action: str
    visit: Visit
    payload: Callable[[], dict[str, Any]]
    attempts: int = 0
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Station:
    """One station; `run` keeps it online until it is cancelled.

    `message_ids` is "unique" or "counter" (from 1 again on each connection, as some firmware does); `reconnect_s` says
    how long it waits before it connects again.
    """

    def __init__(
        self,
        name: str,
        password: Callable[[], str],
        url: Callable[[], str],
        journal: Journal,
        *,
        message_ids: str = "unique",
        reconnect_s: Callable[[], float] = lambda: RECONNECT_S,
    ) -> None:
        self.name = name
        self._password = password
        self.commands: list[tuple[str, str, dict[str, Any]]] = []  # message id, action, payload
        self.on_command: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda action, payload: {
            "status": "Accepted"
        }
        self.online = asyncio.Event()
        self.on_frame: Callable[[str], None] = lambda text: None
        self.half_of: str | None = None  # of the next call of this action only half is sent
        self.half_sent = asyncio.Event()
        self.ignores: str | None = None  # the firmware does not use the answer to this action, and forgets it
        self.discarded = 0
        self.timed_out = 0
        self.refused = 0
        self._url = url
        self._journal = journal
        self._counter = message_ids == "counter"
        self._reconnect_s = reconnect_s
        self._queue: deque[Fact] = deque()
        self._something = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._waiting: dict[str, asyncio.Future[list[Any] | None]] = {}
        self._numbers = {"fact": 0, "visit": 0, "message": 0}
        self._booted = False
        self._talking = asyncio.Lock()
        self._later: set[asyncio.Task[None]] = set()

    @property
    def password(self) -> str:
        """What it proves itself with."""
        return self._password()

    # --- what happens at the station --------------------------------------------------------------------

    def begin(self, *, connector: int, token: str, register_wh: int, at: datetime | None = None) -> Visit:
        """A car begins to charge."""
        visit = Visit(
            number=self._next("visit"),
            connector=connector,
            token=token,
            began_at=at or datetime.now(UTC) - timedelta(minutes=20),
            start_wh=register_wh,
            register_wh=register_wh,
        )
        self._note(Kind.SESSION_BEGIN, visit=visit, register_wh=register_wh, token=token, behaviour="normal")
        payload = {
            "connectorId": connector,
            "idTag": token,
            "meterStart": register_wh,
            "timestamp": wire_time(visit.began_at),
        }
        self._keep("StartTransaction", visit, lambda: payload)
        return visit

    def meter(self, visit: Visit, register_wh: int, minutes: float) -> Fact:
        """A meter sample, so many minutes after the start."""
        visit.register_wh = register_wh
        at = wire_time(visit.began_at + timedelta(minutes=minutes))
        sample = {"measurand": "Energy.Active.Import.Register", "unit": "Wh", "value": str(register_wh)}

        def payload() -> dict[str, Any]:
            value = {"timestamp": at, "sampledValue": [sample]}
            return {"connectorId": visit.connector, **_transaction(visit), "meterValue": [value]}

        return self._keep("MeterValues", visit, payload)

    def end(self, visit: Visit, register_wh: int, minutes: float) -> Fact:
        """The car leaves."""
        visit.register_wh = register_wh
        self._note(
            Kind.SESSION_END,
            visit=visit,
            register_wh=register_wh,
            energy_wh=register_wh - visit.start_wh,
            reason="Local",
        )
        at = wire_time(visit.began_at + timedelta(minutes=minutes))

        def payload() -> dict[str, Any]:
            number = -1 if visit.transaction_id is None else visit.transaction_id
            return {
                "transactionId": number,
                "idTag": visit.token,
                "meterStop": register_wh,
                "timestamp": at,
                "reason": "Local",
            }

        return self._keep("StopTransaction", visit, payload)

    @property
    def is_quiet(self) -> bool:
        """Every transaction message has been answered or given up."""
        return not self._queue

    def forget_head(self, kind: Kind = Kind.FORGOTTEN) -> None:
        """The firmware drops its oldest message, answered or not."""
        fact = self._queue.popleft()
        self._note(kind, visit=fact.visit, fact=fact.number, action=fact.action)

    def hang_up(self) -> None:
        """Cuts the line at once, without a close frame."""
        if self._socket is not None:
            abort(self._socket)

    async def status(self, connector: int, status: str) -> bool:
        """A StatusNotification, lost with the connection; whether it was answered."""
        payload = {
            "connectorId": connector,
            "errorCode": "NoError",
            "status": status,
            "timestamp": wire_time(datetime.now(UTC)),
        }
        return await self._say("StatusNotification", payload) is not None

    # --- the line ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connects again and again, and says what waits."""
        while True:
            address = Address(url=self._url(), station=self.name, password=self.password)
            try:
                self._socket = await open_socket(address)
            except CONNECT_ERRORS as error:
                self._note(Kind.CONNECT_FAILED, error=type(error).__name__)
                await asyncio.sleep(self._reconnect_s())
                continue
            self._note(Kind.CONNECTED)
            if self._counter:
                self._numbers["message"] = 0
            try:
                await self._live(self._socket)
            finally:
                self.online.clear()
                abort(self._socket)
                self._socket = None
            self._note(Kind.DISCONNECTED)
            await asyncio.sleep(self._reconnect_s())

    async def _live(self, socket: ClientConnection) -> None:
        reader = asyncio.create_task(self._read(socket))
        talker = asyncio.create_task(self._talk())
        try:
            await asyncio.wait({reader, talker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reader, talker):
                task.cancel()
            results = await asyncio.gather(reader, talker, return_exceptions=True)
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_result(None)
            self._waiting.clear()
        for result in results:
            if isinstance(result, Exception) and not isinstance(result, ConnectionClosed):
                raise result

    async def _talk(self) -> None:
        """Boot once, then the connectors' status, then whatever is kept, oldest first."""
        if not self._booted:
            boot = {"chargePointVendor": "Laboratory", "chargePointModel": "Lean"}
            if await self._say("BootNotification", boot) is None:
                return
            self._booted = True
        self.online.set()
        while True:
            self._something.clear()
            if self._queue:
                await self._deliver(self._queue[0])
            else:
                await self._something.wait()

    async def _deliver(self, fact: Fact) -> None:
        payload = fact.payload()
        try:
            answer = await self._call(fact.action, payload, fact)
        except TimeoutError:
            self.timed_out += 1
            self._note(Kind.TIMED_OUT, visit=fact.visit, fact=fact.number, action=fact.action)
            await self._failed(fact)
            return
        if answer is None:
            return
        if answer[0] == 4:
            self.refused += 1
            self._note_answer(fact, answer[1], error=f"{answer[2]} {answer[3]}")
            await self._failed(fact)
            return
        if fact.action == self.ignores:
            self.ignores = None
            self._note_answer(fact, answer[1], kind=Kind.ANSWER_IGNORED, payload=answer[2])
            self.forget_head()
            fact.answered.set()
            return
        self._note_answer(fact, answer[1], payload=answer[2])
        if fact.action == "StartTransaction" and fact.visit.transaction_id is None:
            fact.visit.transaction_id = answer[2]["transactionId"]
        if self._queue and self._queue[0] is fact:
            self._queue.popleft()
        fact.answered.set()

    async def _failed(self, fact: Fact) -> None:
        fact.attempts += 1
        if fact.attempts >= ATTEMPTS:
            self.discarded += 1
            self._note(Kind.DISCARDED, visit=fact.visit, fact=fact.number, action=fact.action, payload=fact.payload())
            if self._queue and self._queue[0] is fact:
                self._queue.popleft()
            fact.answered.set()
        else:
            await asyncio.sleep(RETRY_S * fact.attempts)

    async def _say(self, action: str, payload: dict[str, Any]) -> Any:
        """A call that is worth nothing later; its answer, or None."""
        try:
            answer = await self._call(action, payload, None)
        except (TimeoutError, ConnectionClosed):
            return None
        return answer[2] if answer is not None and answer[0] == 3 else None

    async def _call(self, action: str, payload: dict[str, Any], fact: Fact | None) -> list[Any] | None:
        async with self._talking:
            socket = self._socket
            if socket is None:
                return None
            message_id = f"{self._next('message')}" if self._counter else f"{self.name}-{self._next('message')}"
            waiting: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
            self._waiting[message_id] = waiting
            if fact is not None:
                self._note(
                    Kind.SENT,
                    visit=fact.visit,
                    fact=fact.number,
                    action=action,
                    message_id=message_id,
                    payload=payload,
                    attempt=fact.attempts + 1,
                )
            try:
                await self._transmit(socket, json.dumps([2, message_id, action, payload]), action)
                async with asyncio.timeout(ANSWER_S):
                    return await waiting
            finally:
                self._waiting.pop(message_id, None)

    async def _transmit(self, socket: ClientConnection, text: str, action: str) -> None:
        if action != self.half_of:
            await socket.send(text)
            return
        self.half_of = None
        frame = Frame(Opcode.TEXT, text.encode()).serialize(mask=True)
        socket.transport.write(frame[: len(frame) // 2])
        self.half_sent.set()

    async def _read(self, socket: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in socket:
                self.on_frame(str(text))
                frame = json.loads(text)
                if frame[0] == 2:
                    task = asyncio.create_task(self._obey(socket, frame))
                    self._later.add(task)
                    task.add_done_callback(self._later.discard)
                elif (waiting := self._waiting.get(frame[1])) is not None and not waiting.done():
                    waiting.set_result(frame)

    async def _obey(self, socket: ClientConnection, frame: list[Any]) -> None:
        _, message_id, action, payload = frame
        self.commands.append((message_id, action, payload))
        answer = self.on_command(action, payload)
        self._note(Kind.COMMAND, message_id=message_id, action=action, payload=payload, reason=answer.get("status"))
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps([3, message_id, answer]))

    # --- the journal --------------------------------------------------------------------------------------

    def _keep(self, action: str, visit: Visit, payload: Callable[[], dict[str, Any]]) -> Fact:
        fact = Fact(number=self._next("fact"), action=action, visit=visit, payload=payload)
        self._queue.append(fact)
        self._note(Kind.QUEUED, visit=visit, fact=fact.number, action=action, payload=payload())
        self._something.set()
        return fact

    def _note_answer(self, fact: Fact, message_id: str, kind: Kind = Kind.ANSWERED, **more: Any) -> None:
        self._note(kind, visit=fact.visit, fact=fact.number, action=fact.action, message_id=message_id, **more)

    def _note(self, kind: Kind, *, visit: Visit | None = None, **more: Any) -> None:
        named: dict[str, Any] = {} if visit is None else {"connector": visit.connector, "session": visit.number}
        self._journal.write(JournalLine(at=datetime.now(UTC), station=self.name, kind=kind, **named, **more))

    def _next(self, what: str) -> int:
        self._numbers[what] += 1
        return self._numbers[what]


def wire_time(at: datetime) -> str:
    """As stations write a time."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _transaction(visit: Visit) -> dict[str, int]:
    return {} if visit.transaction_id is None else {"transactionId": visit.transaction_id}
