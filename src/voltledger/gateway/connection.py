"""One station's WebSocket: frames in order, answers after their commit, our calls one at a time.

Inbound and outbound never wait for each other: replies to our calls are taken up as they are read,
the station's own calls go through a lane of their own, in order, one after the other.
"""

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from voltledger.domain.events import Answer, Booted, StatusReported
from voltledger.domain.identifiers import StationId
from voltledger.failpoints import ARMED, fp
from voltledger.gateway.masking import mask
from voltledger.logs import get_logger, log_failure, log_ocpp, log_orphan
from voltledger.ocpp.action import Delivery
from voltledger.ocpp.registry import Dialect, Inbound, Refusal
from voltledger.ocpp.rpc import (
    BadFrame,
    Call,
    CallError,
    CallResult,
    CallResultError,
    Conversation,
    ErrorCode,
    MatchedReply,
    Send,
    decode_frame,
    encode_call,
    encode_error,
    encode_result,
)
from voltledger.services.frontdesk import FrontDesk
from voltledger.services.intake import InboundFact, Intake, NotRecorded
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.ports import FrameRecord

log = get_logger(__name__)

MAX_WAITING_CALLS = 16
MAX_MISHANDLED = 10_000
TRY_AGAIN_LATER = 1013
INTERNAL_ERROR = 1011


@dataclass(frozen=True, slots=True, kw_only=True)
class WireOutcome:
    """What became of a call of ours on the wire."""

    outcome: Literal["answered", "call_error", "timeout", "unknown"]
    reply: CallResult | CallError | CallResultError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionServices:
    """What a connection works with; the same for all."""

    intake: Intake
    frontdesk: FrontDesk
    now: Callable[[], datetime]
    first_frame: Callable[["StationConnection"], Any]
    keep_frame: Callable[[FrameRecord], None]
    count: Callable[[str, str, str], None]
    mishandled: set[tuple[StationId, bytes | None]] = field(default_factory=set)
    """Transaction messages that made our code fail once, of stations that were sent away for it."""


class StationConnection:
    """One authenticated socket. `epoch` is 0 until its first frame took the station over."""

    def __init__(
        self, socket: ServerConnection, station_id: StationId, dialect: Dialect, services: ConnectionServices
    ) -> None:
        self.socket = socket
        self.station_id = station_id
        self.dialect = dialect
        self.epoch = 0
        self.since = services.now()
        self.last_frame_at: datetime | None = None
        self.remote = _address(socket)
        self._services = services
        self._waiting: deque[Call] = deque()
        self._room = asyncio.Event()
        self._lane: asyncio.Task[None] | None = None
        self._conversation = Conversation()
        self._calling = asyncio.Lock()
        self._replies: dict[str, asyncio.Future[CallResult | CallError | CallResultError | None]] = {}

    async def run(self) -> None:
        """Reads until the socket closes, then ends what waits. A recorded fact stays recorded."""
        try:
            async for message in self.socket:
                await self._take(message)
        except ConnectionClosed:
            pass
        finally:
            self._give_up_calls()
            if self._lane is not None:
                with contextlib.suppress(Exception):
                    await self._lane

    async def close(self, code: int, reason: str) -> None:
        """Closes the socket; safe to call twice."""
        await self.socket.close(code, reason)

    # --- what the station sends ---------------------------------------------------------------

    async def _take(self, message: str | bytes) -> None:
        if ARMED:
            await fp("frame.received")
        self.last_frame_at = self._services.now()
        if self.epoch == 0:
            await self._services.first_frame(self)
        frame = decode_frame(message, self.dialect.version)
        if isinstance(frame, Call):
            await self._queue(frame)
        elif isinstance(frame, CallResult | CallError | CallResultError):
            self._take_reply(frame)
        elif isinstance(frame, BadFrame):
            await self._refuse_frame(frame)
        elif isinstance(frame, Send):
            log_ocpp(log, "unanswered message", station=self.station_id, action=frame.action)

    async def _queue(self, call: Call) -> None:
        """Puts a call into the lane; a station that sends faster than we record waits (back-pressure)."""
        while len(self._waiting) >= MAX_WAITING_CALLS:
            self._room.clear()
            await self._room.wait()
        self._waiting.append(call)
        if self._lane is None or self._lane.done():
            self._lane = asyncio.create_task(self._work_lane())

    async def _work_lane(self) -> None:
        while self._waiting:
            call = self._waiting.popleft()
            self._room.set()
            try:
                answer = await self._handle(call)
                self._services.count(self.dialect.version, call.action, "in")
                if ARMED:
                    await fp("answer.before_send")
                await self.socket.send(answer)
                if ARMED:
                    await fp("answer.sent")
            except ConnectionClosed:
                continue  # The facts that follow were read and are recorded all the same.
            except NotRecorded:
                await self._send_away(TRY_AGAIN_LATER)
                return
            except asyncio.CancelledError:
                # Nobody would ever answer this call: a cut line costs the station no attempt, a timeout does.
                self.socket.transport.abort()
                raise
            except Exception as error:
                # Our own mistake with one call; those behind it must not wait for ever.
                log_failure(log, "a call made our code fail", station=self.station_id, exc_info=error)
                if not await self._after_mistake(call, error):
                    return

    async def _send_away(self, code: int) -> None:
        self._waiting.clear()
        self._room.set()
        await self.close(code, "try again later")

    async def _after_mistake(self, call: Call, error: Exception) -> bool:
        """Whether the lane goes on after a call that made our code fail.

        A transaction message is never refused: that would cost the station one of its attempts. The first time the
        socket is closed, and the message comes again; if it fails again it is kept raw and answered.
        """
        raw = self.dialect.unreadable(call.action, call.payload, f"handling it failed: {type(error).__name__}")
        if raw is None:
            await self._refuse(call)
            return True
        key = (self.station_id, raw.dedupe_key)
        if key not in self._services.mishandled:
            if len(self._services.mishandled) >= MAX_MISHANDLED:
                self._services.mishandled.clear()
            self._services.mishandled.add(key)
            await self._send_away(INTERNAL_ERROR)
            return False
        try:
            answer = await self._record(call, raw, self._services.now())
            await self.socket.send(encode_result(call, answer.encode()))
        except ConnectionClosed:
            return True
        except Exception as second:
            log_failure(log, "a fact could not even be kept raw", station=self.station_id, exc_info=second)
            await self._send_away(INTERNAL_ERROR)
            return False
        self._services.mishandled.discard(key)
        return True

    async def _refuse(self, call: Call) -> None:
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(
                encode_error(call, ErrorCode.INTERNAL_ERROR, "this could not be handled", self.dialect.version)
            )

    async def _handle(self, call: Call) -> str:
        """The answer to a call, when everything that it says is recorded."""
        received_at = self._services.now()
        inbound = self.dialect.read(call.action, call.payload, received_at)
        if isinstance(inbound, Refusal):
            self._keep(call.action, call.message_id, bytes(call.payload).decode("utf-8", "replace"), received_at)
            return encode_error(call, inbound.code, inbound.description, self.dialect.version)
        if inbound.delivery is Delivery.PLAIN:
            return encode_result(call, await self._answer_plainly(call, inbound, received_at))
        return encode_result(call, (await self._record(call, inbound, received_at)).encode())

    async def _record(self, call: Call, inbound: Inbound, received_at: datetime) -> str:
        fact = InboundFact(
            station_id=self.station_id,
            epoch=self.epoch,
            action=call.action,
            message_id=call.message_id,
            payload=bytes(call.payload).decode("utf-8", "replace"),
            event=inbound.event,  # type: ignore[arg-type]  # the declaration's delivery says which events it makes
            dedupe_key=inbound.dedupe_key if inbound.delivery is Delivery.TRANSACTIONAL else None,
            received_at=received_at,
            encode=lambda answer: self.dialect.answer(inbound, answer),
            version=str(self.dialect.version),
        )
        if ARMED and fact.dedupe_key is not None:
            await fp("fact.parsed")
        answer = await self._services.intake.submit(fact)
        if isinstance(inbound.event, Booted | StatusReported):
            self._keep_answer(call, answer)
        return answer

    async def _answer_plainly(self, call: Call, inbound: Inbound, received_at: datetime) -> bytes:
        answer = await self._ask_frontdesk(inbound, received_at)
        payload = self.dialect.answer(inbound, answer)
        if call.action != "Heartbeat":
            self._keep(call.action, call.message_id, bytes(call.payload).decode("utf-8", "replace"), received_at)
            self._keep_answer(call, payload.decode())
        return payload

    async def _ask_frontdesk(self, inbound: Inbound, received_at: datetime) -> Answer:
        """The answer from what is known.

        While the store is away it is held for a while, as facts are, and then given from memory; where facts
        are not taken at all any more, NotRecorded closes the socket.
        """
        event: Any = inbound.event  # the declaration's delivery says which events it makes
        frontdesk, intake = self._services.frontdesk, self._services.intake
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + intake.hold_s / 2, 0.05
        while not intake.away:
            try:
                return await frontdesk.answer(self.station_id, event, received_at)
            except StoreUnavailable:
                if clock() + pause > deadline:
                    break
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)
        if not intake.answers_from_memory:
            raise NotRecorded
        return frontdesk.answer_from_memory(self.station_id, event, received_at)

    async def _refuse_frame(self, frame: BadFrame) -> None:
        log_orphan(log, "malformed frame", station=self.station_id, problem=frame.description)
        if frame.respond:
            with contextlib.suppress(ConnectionClosed):
                await self.socket.send(encode_error(frame, frame.code, frame.description, self.dialect.version))

    # --- what we ask ---------------------------------------------------------------------------

    async def call(self, action: str, payload: bytes, timeout_s: float) -> WireOutcome:
        """Sends one request and waits for its reply; one outstanding at a time.

        The time to wait begins when the frame is sent, not when it is queued here.
        """
        async with self._calling:
            message_id = str(uuid.uuid4())
            loop = asyncio.get_running_loop()
            future: asyncio.Future[CallResult | CallError | CallResultError | None] = loop.create_future()
            self._replies[message_id] = future
            self._conversation.begin(message_id, action, loop.time(), timeout_s)
            try:
                return await self._send_and_wait(message_id, action, payload, timeout_s, future)
            finally:
                self._replies.pop(message_id, None)

    async def _send_and_wait(
        self,
        message_id: str,
        action: str,
        payload: bytes,
        timeout_s: float,
        future: "asyncio.Future[CallResult | CallError | CallResultError | None]",
    ) -> WireOutcome:
        self._keep(action, message_id, mask(action, payload.decode()), self._services.now(), from_station=False)
        self._services.count(self.dialect.version, action, "out")
        try:
            await self.socket.send(encode_call(message_id, action, payload))
            if ARMED:
                await fp("command.on_wire")
            reply = await asyncio.wait_for(future, timeout_s)
        except TimeoutError:
            self._conversation.expired(asyncio.get_running_loop().time() + timeout_s)
            return WireOutcome(outcome="timeout")
        except ConnectionClosed:
            return WireOutcome(outcome="unknown")
        if reply is None:
            return WireOutcome(outcome="unknown")
        return WireOutcome(outcome="answered" if isinstance(reply, CallResult) else "call_error", reply=reply)

    def _take_reply(self, frame: CallResult | CallError | CallResultError) -> None:
        matched = self._conversation.match(frame)
        if not isinstance(matched, MatchedReply):
            log_ocpp(
                log,
                "reply to nothing that waits",
                station=self.station_id,
                late=matched.late,
                action=matched.action,
            )
            return
        text = _reply_text(frame)
        kind = 3 if isinstance(frame, CallResult) else 4
        self._services.keep_frame(
            FrameRecord(
                station_id=self.station_id,
                from_station=True,
                kind=kind,
                action=matched.call.action,
                message_id=frame.message_id,
                payload=text,
                at=self._services.now(),
            )
        )
        future = self._replies.get(matched.call.message_id)
        if future is not None and not future.done():
            future.set_result(frame)

    def _give_up_calls(self) -> None:
        self._conversation.abandon()
        for future in self._replies.values():
            if not future.done():
                future.set_result(None)

    # --- the recorded conversation ---------------------------------------------------------------

    def _keep(self, action: str, message_id: str, payload: str, at: datetime, *, from_station: bool = True) -> None:
        self._services.keep_frame(
            FrameRecord(
                station_id=self.station_id,
                from_station=from_station,
                kind=2,
                action=action,
                message_id=message_id,
                payload=payload,
                at=at,
            )
        )

    def _keep_answer(self, call: Call, payload: str) -> None:
        self._services.keep_frame(
            FrameRecord(
                station_id=self.station_id,
                from_station=False,
                kind=3,
                action=call.action,
                message_id=call.message_id,
                payload=payload,
                at=self._services.now(),
            )
        )


def _reply_text(frame: CallResult | CallError | CallResultError) -> str:
    if isinstance(frame, CallResult):
        return bytes(frame.payload).decode("utf-8", "replace")
    return msgspec.json.encode([frame.code, frame.description[:450]]).decode()


def _address(socket: ServerConnection) -> str:
    address = socket.remote_address
    return str(address[0]) if address else ""
