"""A station that a test drives step by step over a real socket.

It does nothing by itself but answer the server's calls. What the test makes it do is truth: registers only
grow, and each step goes into the journal, if there is one, in the same lines as those of a fleet.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from voltledger.simulator.connection import Address, abort, open_socket
from voltledger.simulator.errors import BadFrame, CallRefused, NoAnswer, NotConnected, NothingExpected
from voltledger.simulator.journal import Journal, JournalLine, Kind
from voltledger.simulator.wire import (
    Call,
    Error,
    Frame,
    Payload,
    Result,
    decode,
    encode,
    sampled_values,
    timestamp,
)

Handler = Callable[[Payload], Payload | Error | None]
"""What a station does with a call of the server: the answer's payload, a refusal, or None for silence."""

_DEFAULT_ANSWERS: dict[str, dict[str, Any]] = {
    "CancelReservation": {"status": "Rejected"},
    "ChangeAvailability": {"status": "Accepted"},
    "ChangeConfiguration": {"status": "Accepted"},
    "ClearCache": {"status": "Accepted"},
    "ClearChargingProfile": {"status": "Unknown"},
    "DataTransfer": {"status": "UnknownVendorId"},
    "GetCompositeSchedule": {"status": "Rejected"},
    "GetConfiguration": {"configurationKey": []},
    "GetDiagnostics": {},
    "GetLocalListVersion": {"listVersion": -1},
    "RemoteStartTransaction": {"status": "Accepted"},
    "RemoteStopTransaction": {"status": "Accepted"},
    "ReserveNow": {"status": "Rejected"},
    "Reset": {"status": "Accepted"},
    "SendLocalList": {"status": "NotSupported"},
    "SetChargingProfile": {"status": "NotSupported"},
    "TriggerMessage": {"status": "Accepted"},
    "UnlockConnector": {"status": "Unlocked"},
    "UpdateFirmware": {},
}


@dataclass(slots=True, kw_only=True)
class ClientSession:
    """A session as the test drives it. Units: Wh."""

    number: int
    connector: int
    token: str
    start: dict[str, Any]  # the StartTransaction as sent, for sending it again
    start_register_wh: int
    transaction_id: int | None = None
    ended: bool = False
    stop: dict[str, Any] = field(default_factory=dict)
    start_fact: int = 0
    stop_fact: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A call that has been sent."""

    answer: asyncio.Future[Result | Error]
    action: str
    session: ClientSession | None
    fact: int | None


class SimulatedStation:
    """One OCPP 1.6J station in a test's hands.

    Effects: one socket; lines in the journal, opened here when it is given as a path.
    Units:   registers in Wh, timeouts in seconds.
    """

    def __init__(
        self,
        url: str,
        station: str,
        *,
        password: str | None = None,
        journal: Journal | Path | str | None = None,
        subprotocol: str = "ocpp1.6",
        connectors: int = 2,
        register_wh: int = 1000,
        timeout_s: float = 10.0,
    ) -> None:
        self.address = Address(url=url, station=station, password=password, subprotocol=subprotocol)
        self.station = station
        self.timeout_s = timeout_s
        self.registers_wh = dict.fromkeys(range(1, connectors + 1), register_wh)
        self.sessions: list[ClientSession] = []
        self.received: list[Call] = []  # every call of the server, in order
        self.handlers: dict[str, Handler] = {}
        self.boot_answer: Payload = {}
        self._owns_journal = isinstance(journal, Path | str)
        self._journal = Journal(journal) if isinstance(journal, Path | str) else journal
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[str, _Waiting] = {}
        self._unexpected: deque[Call] = deque()  # calls of the server no `expect` has taken yet
        self._news = asyncio.Event()
        self._fact_number = 0

    # --- Connection -------------------------------------------------------------------------------------

    async def connect(self) -> Self:
        """Opens a socket.

        Raises: one of `connection.CONNECT_ERRORS`, `websockets.exceptions.InvalidStatus` for a 401.
        """
        await self.close()
        self._socket = await open_socket(self.address)
        self._reader = asyncio.create_task(self._read(self._socket))
        self._note(Kind.CONNECTED)
        return self

    async def close(self) -> None:
        """Closes politely; without a connection it does nothing."""
        socket = self._forget_socket("closed")
        if socket is not None:
            await socket.close()
        await self._join_reader()

    def drop(self) -> None:
        """Cuts the TCP connection without a close frame; calls in flight raise NoAnswer."""
        socket = self._forget_socket("dropped")
        if socket is not None:
            abort(socket)

    async def reconnect(self) -> None:
        """Drops, if need be, and connects again."""
        self.drop()
        await self.connect()

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    @property
    def subprotocol(self) -> str | None:
        """What the server chose."""
        return self._open_socket.subprotocol

    async def wait_closed(self, timeout_s: float | None = None) -> None:
        """Waits until the server, or anybody, has closed the socket.

        Raises: TimeoutError.
        """
        async with asyncio.timeout(self.timeout_s if timeout_s is None else timeout_s):
            while self._socket is not None:
                await self._next_news()

    async def __aenter__(self) -> Self:
        return self if self.is_connected else await self.connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if self._owns_journal and self._journal is not None:
            self._journal.close()

    # --- Calls ------------------------------------------------------------------------------------------

    async def call(
        self,
        action: str,
        payload: Payload,
        *,
        message_id: str | None = None,
        timeout_s: float | None = None,
        session: ClientSession | None = None,
        fact: int | None = None,
    ) -> Payload:
        """Sends a CALL and returns the payload of its answer.

        Raises: NoAnswer when none came in time or the socket went away; CallRefused for a CALLERROR;
                NotConnected.
        """
        message_id = await self.send_call(action, payload, message_id=message_id, session=session, fact=fact)
        return await self.answer_to(message_id, timeout_s=timeout_s)

    async def send_call(
        self,
        action: str,
        payload: Payload,
        *,
        message_id: str | None = None,
        session: ClientSession | None = None,
        fact: int | None = None,
    ) -> str:
        """Sends a CALL without waiting; the message id, for `answer_to`. Several may be in flight."""
        message_id = message_id or str(uuid4())
        socket = self._open_socket
        answer: asyncio.Future[Result | Error] = asyncio.get_running_loop().create_future()
        self._waiting[message_id] = _Waiting(answer=answer, action=action, session=session, fact=fact)
        self._note(
            Kind.SENT,
            session,
            fact=fact,
            message_id=message_id,
            action=action,
            payload=dict(payload),
        )
        await self._send_text(socket, encode(Call(message_id=message_id, action=action, payload=payload)))
        return message_id

    async def answer_to(self, message_id: str, *, timeout_s: float | None = None) -> Payload:
        """The answer to a call sent with `send_call`. Raises as `call` does."""
        waiting = self._waiting[message_id]
        try:
            async with asyncio.timeout(self.timeout_s if timeout_s is None else timeout_s):
                answer = await waiting.answer
        except TimeoutError:
            self._note_call(Kind.TIMED_OUT, message_id, waiting)
            raise NoAnswer(f"{waiting.action}: no answer in time") from None
        finally:
            self._waiting.pop(message_id, None)
        if isinstance(answer, Error):
            raise CallRefused(waiting.action, answer.code, answer.description, answer.details)
        return answer.payload

    async def send(self, frame: Frame | str) -> None:
        """Sends any frame, or any text at all, and expects nothing."""
        await self._send_text(self._open_socket, frame if isinstance(frame, str) else encode(frame))

    async def expect(
        self,
        action: str,
        timeout_s: float | None = None,
        *,
        where: Callable[[Payload], bool] | None = None,
    ) -> Payload:
        """The next call of the server with this name, also one that came before; each is given once.

        It has been answered by its handler already.

        Raises: NothingExpected when it does not come in time.
        """
        try:
            async with asyncio.timeout(self.timeout_s if timeout_s is None else timeout_s):
                while True:
                    for call in self._unexpected:
                        if call.action == action and (where is None or where(call.payload)):
                            self._unexpected.remove(call)
                            return call.payload
                    await self._next_news()
        except TimeoutError:
            came = ", ".join(call.action for call in self._unexpected) or "nothing"
            raise NothingExpected(f"{action} did not come; what came: {came}") from None

    def on(self, action: str, answer: Handler | Payload | None) -> None:
        """Sets what a call of the server is answered with: a payload, a function, or None for silence."""
        self.handlers[action] = answer if callable(answer) else lambda _asked: answer

    # --- What a station does ----------------------------------------------------------------------------

    async def boot(self, **fields: Any) -> Payload:
        """BootNotification; its answer."""
        payload = {"chargePointVendor": "VoltSim", "chargePointModel": "Step-1", **fields}
        self.boot_answer = await self.call("BootNotification", payload)
        self._note(Kind.BOOT, reason=str(self.boot_answer.get("status")), payload=dict(self.boot_answer))
        return self.boot_answer

    async def heartbeat(self) -> Payload:
        return await self.call("Heartbeat", {})

    async def authorize(self, token: str) -> str:
        """Authorize; the status in the answer."""
        answer = await self.call("Authorize", {"idTag": token})
        return str(answer["idTagInfo"]["status"])

    async def status(
        self, connector: int, status: str, *, error_code: str = "NoError", at: float | None = None
    ) -> Payload:
        """StatusNotification, by default of now."""
        payload = {
            "connectorId": connector,
            "errorCode": error_code,
            "status": status,
            "timestamp": timestamp(time.time() if at is None else at),
        }
        return await self.call("StatusNotification", payload)

    async def start_transaction(
        self, connector: int, token: str, *, at: float | None = None, timeout_s: float | None = None
    ) -> ClientSession:
        """A car begins to charge, and the server is told.

        The session exists (`sessions[-1]`) also when this raises, because the car charges all the same;
        `resend_start` tells the server again.
        """
        session = self.begin(connector, token, at=at)
        await self.resend_start(session, timeout_s=timeout_s)
        return session

    def begin(self, connector: int, token: str, *, at: float | None = None) -> ClientSession:
        """A car begins to charge; nothing is sent."""
        register_wh = self.registers_wh[connector]
        start = {
            "connectorId": connector,
            "idTag": token,
            "meterStart": register_wh,
            "timestamp": timestamp(time.time() if at is None else at),
        }
        session = ClientSession(
            number=len(self.sessions) + 1,
            connector=connector,
            token=token,
            start=start,
            start_register_wh=register_wh,
            start_fact=self._new_fact(),
        )
        self.sessions.append(session)
        self._note(Kind.SESSION_BEGIN, session, token=token, behaviour="normal")
        self._note(Kind.QUEUED, session, fact=session.start_fact, action="StartTransaction", payload=dict(start))
        return session

    async def resend_start(
        self,
        session: ClientSession,
        *,
        message_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Payload:
        """StartTransaction of a session, once more; the first transaction id the server gave is kept."""
        answer = await self.call(
            "StartTransaction",
            session.start,
            message_id=message_id,
            timeout_s=timeout_s,
            session=session,
            fact=session.start_fact,
        )
        if session.transaction_id is None:
            session.transaction_id = int(answer["transactionId"])
        return answer

    def charge(self, connector: int, energy_wh: int) -> int:
        """A car takes energy; the register after it. Nothing is sent."""
        if energy_wh < 0:
            raise ValueError("an import register never falls")
        self.registers_wh[connector] += energy_wh
        return self.registers_wh[connector]

    async def meter(
        self,
        session: ClientSession,
        energy_wh: int = 100,
        *,
        power_w: float = 7360.0,
        soc_percent: float | None = None,
        at: float | None = None,
        timeout_s: float | None = None,
    ) -> Payload:
        """The car takes energy and a MeterValues tells of it."""
        register_wh = self.charge(session.connector, energy_wh)
        values = sampled_values(
            register_wh=register_wh, power_w=power_w, current_a=power_w / 230, soc_percent=soc_percent
        )
        sample = {"timestamp": timestamp(time.time() if at is None else at), "sampledValue": values}
        payload = {
            "connectorId": session.connector,
            "transactionId": -1 if session.transaction_id is None else session.transaction_id,
            "meterValue": [sample],
        }
        fact = self._new_fact()
        self._note(Kind.QUEUED, session, fact=fact, action="MeterValues", payload=payload)
        return await self.call("MeterValues", payload, timeout_s=timeout_s, session=session, fact=fact)

    async def stop_transaction(
        self,
        session: ClientSession,
        *,
        reason: str = "Local",
        energy_wh: int = 0,
        at: float | None = None,
        timeout_s: float | None = None,
    ) -> Payload:
        """The car has taken its last energy and the server is told; -1 if the start was never answered."""
        self.end(session, reason=reason, energy_wh=energy_wh, at=at)
        return await self.resend_stop(session, timeout_s=timeout_s)

    def end(
        self,
        session: ClientSession,
        *,
        reason: str = "Local",
        energy_wh: int = 0,
        at: float | None = None,
    ) -> None:
        """The car has taken its last energy; nothing is sent."""
        register_wh = self.charge(session.connector, energy_wh)
        session.ended = True
        session.stop_fact = self._new_fact()
        session.stop = {
            "meterStop": register_wh,
            "timestamp": timestamp(time.time() if at is None else at),
            "reason": reason,
            "idTag": session.token,
        }
        energy_wh = register_wh - session.start_register_wh
        self._note(Kind.SESSION_END, session, energy_wh=energy_wh, reason=reason)
        self._note(Kind.QUEUED, session, fact=session.stop_fact, action="StopTransaction", payload=session.stop)

    async def resend_stop(
        self,
        session: ClientSession,
        *,
        message_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Payload:
        """StopTransaction of a session that has ended, once more."""
        return await self.call(
            "StopTransaction",
            self.stop_payload(session),
            message_id=message_id,
            timeout_s=timeout_s,
            session=session,
            fact=session.stop_fact,
        )

    def stop_payload(self, session: ClientSession) -> dict[str, Any]:
        """The StopTransaction of a session that has ended."""
        transaction_id = -1 if session.transaction_id is None else session.transaction_id
        return {**session.stop, "transactionId": transaction_id}

    # --- Inside -----------------------------------------------------------------------------------------

    @property
    def _open_socket(self) -> ClientConnection:
        if self._socket is None:
            raise NotConnected(f"{self.station} is not connected")
        return self._socket

    async def _send_text(self, socket: ClientConnection, text: str) -> None:
        try:
            await socket.send(text)
        except ConnectionClosed as error:
            raise NotConnected(f"{self.station}: {error}") from error

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                await self._take(socket, text)
        except ConnectionClosed:
            pass
        finally:
            if self._socket is socket:
                self._forget_socket(f"closed with {socket.close_code}")

    async def _take(self, socket: ClientConnection, text: str | bytes) -> None:
        try:
            frame = decode(text)
        except BadFrame:
            return
        if isinstance(frame, Call):
            await self._obey(socket, frame)
            return
        waiting = self._waiting.get(frame.message_id)
        if waiting is None or waiting.answer.done():
            self._note(Kind.LATE_ANSWER, message_id=frame.message_id)
            return
        if isinstance(frame, Error):
            error = f"{frame.code} {frame.description}".rstrip()
            self._note_call(Kind.ANSWERED, frame.message_id, waiting, error=error)
        else:
            self._note_call(Kind.ANSWERED, frame.message_id, waiting, payload=dict(frame.payload))
        waiting.answer.set_result(frame)

    async def _obey(self, socket: ClientConnection, call: Call) -> None:
        answer = self._answer(call)
        response: dict[str, Any] | None = None
        if isinstance(answer, Result):
            response = dict(answer.payload)
        asked = {"request": dict(call.payload), "response": response}
        self._note(Kind.COMMAND, message_id=call.message_id, action=call.action, payload=asked)
        if answer is not None:
            try:
                await socket.send(encode(answer))
            except ConnectionClosed:
                pass  # the test, or the server, has just hung up
        self.received.append(call)
        self._unexpected.append(call)
        self._tell_news()

    def _answer(self, call: Call) -> Result | Error | None:
        handler = self.handlers.get(call.action)
        answer: Payload | Error | None
        if handler is not None:
            answer = handler(call.payload)
        elif call.action in _DEFAULT_ANSWERS:
            answer = _DEFAULT_ANSWERS[call.action]
        else:
            answer = Error(message_id=call.message_id, code="NotImplemented")
        if answer is None:
            return None
        if isinstance(answer, Error):
            return Error(
                message_id=call.message_id,
                code=answer.code,
                description=answer.description,
                details=answer.details,
            )
        return Result(message_id=call.message_id, payload=answer)

    def _forget_socket(self, why: str) -> ClientConnection | None:
        socket, self._socket = self._socket, None
        if socket is None:
            return None
        self._note(Kind.DISCONNECTED, reason=why)
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(NoAnswer(f"{waiting.action}: the connection is gone"))
                waiting.answer.exception()  # nobody may be waiting for it: that is no fault
        self._tell_news()
        return socket

    async def _join_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and reader is not asyncio.current_task():
            await asyncio.gather(reader, return_exceptions=True)

    def _tell_news(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _next_news(self) -> None:
        await self._news.wait()

    def _new_fact(self) -> int:
        self._fact_number += 1
        return self._fact_number

    def _note_call(self, kind: Kind, message_id: str, waiting: _Waiting, **fields: Any) -> None:
        named = {"message_id": message_id, "action": waiting.action, "fact": waiting.fact}
        self._note(kind, waiting.session, **named, **fields)

    def _note(self, kind: Kind, session: ClientSession | None = None, **fields: Any) -> None:
        if self._journal is None:
            return
        if session is not None:
            fields["session"] = session.number
            fields["connector"] = session.connector
            fields["register_wh"] = self.registers_wh[session.connector]
        self._journal.write(JournalLine(at=datetime.now(UTC), station=self.station, kind=kind, **fields))
