"""What we ask of stations: recorded before it is sent, sent at most once, its outcome kept.

Queued commands (the effects of decisions) wait in the database until their station is connected.
A command that was being sent when this node died is `unknown` afterwards, never sent again by itself.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol
from uuid import UUID

import msgspec

from voltledger.domain import commands as domain_commands
from voltledger.domain.commands import Command
from voltledger.domain.identifiers import StationId
from voltledger.failpoints import ARMED, fp
from voltledger.gateway.connection import StationConnection, WireOutcome
from voltledger.gateway.masking import mask
from voltledger.gateway.registry import ConnectionRegistry
from voltledger.logs import get_logger, log_failure, log_ocpp
from voltledger.ocpp.action import Unsupported
from voltledger.ocpp.registry import dialect
from voltledger.ocpp.rpc import CallResult, Version
from voltledger.services.runtime import CallOutcome
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.ports import QueuedCommand

log = get_logger(__name__)

POLL_S = 2.0
GIVE_UP_S = 10.0
"""So long after its timeout a call that is still recorded as being sent has been forgotten."""


class CommandStore(Protocol):
    """Where commands are recorded."""

    async def begin_command(
        self,
        command_id: UUID,
        station_id: StationId,
        session_id: UUID | None,
        action: str,
        payload: str,
        epoch: int,
    ) -> None:
        """Records a call before it is sent."""

    async def finish_command(self, command_id: UUID, state: str, response: str | None) -> None:
        """Records what became of a call."""

    async def claim_commands(self, stations: list[str], node: str) -> list[QueuedCommand]:
        """The oldest queued command of each station."""

    async def expire_commands(self) -> int:
        """Gives up queued commands whose time is over."""

    async def give_up_commands(self, node: str, older_than_s: float, except_for: list[UUID]) -> list[UUID]:
        """Calls of this node that nobody waits for any more: their outcome is unknown from now on."""


OutcomeHook = Callable[[QueuedCommand, CallOutcome], Awaitable[None]]


class StationCommands:
    """Sends calls to connected stations; see `services.runtime.Commands`."""

    def __init__(
        self,
        store: CommandStore,
        registry: ConnectionRegistry,
        *,
        node: str,
        timeout_s: float,
        new_id: Callable[[], UUID],
        on_outcome: OutcomeHook,
    ) -> None:
        self._store = store
        self._registry = registry
        self._node = node
        self._timeout_s = timeout_s
        self._new_id = new_id
        self._on_outcome = on_outcome
        self._wake = asyncio.Event()
        self._busy: dict[StationId, asyncio.Task[None]] = {}
        self._under_way: set[UUID] = set()
        self._unrecorded: dict[UUID, tuple[str, str | None]] = {}

    # --- asked by a person or a program, now ---------------------------------------------------

    async def call(self, station_id: str, action: str, payload: str, *, timeout_s: float | None = None) -> CallOutcome:
        """Sends a raw call as it is and waits for its outcome. Raises StoreUnavailable."""
        connection = self._registry.current(station_id)
        if connection is None:
            return CallOutcome(outcome="not_connected", response=None, call_id="")
        return await self._send_recorded(connection, None, action, payload, timeout_s)

    async def command(
        self,
        station_id: str,
        command: Command,
        *,
        session_id: UUID | None = None,
        timeout_s: float | None = None,
    ) -> CallOutcome:
        """Translates a command into the station's dialect and sends it. Raises StoreUnavailable."""
        connection = self._registry.current(station_id)
        if connection is None:
            return CallOutcome(outcome="not_connected", response=None, call_id="")
        outgoing = connection.dialect.command(command)
        if isinstance(outgoing, Unsupported):
            return CallOutcome(outcome="call_error", response={"problem": "not supported"}, call_id="")
        return await self._send_recorded(connection, session_id, outgoing.action, outgoing.payload.decode(), timeout_s)

    def check(self, station_id: str, action: str, payload: bytes) -> str | None:
        """A sentence about what is wrong with a raw call, by the station's version; None if nothing is."""
        connection = self._registry.current(station_id)
        speaks = connection.dialect if connection is not None else dialect(Version.V16)
        return speaks.check_call(action, payload)

    async def _send_recorded(
        self,
        connection: StationConnection,
        session_id: UUID | None,
        action: str,
        payload: str,
        timeout_s: float | None,
    ) -> CallOutcome:
        command_id = self._new_id()
        await self._store.begin_command(
            command_id, connection.station_id, session_id, action, mask(action, payload), connection.epoch
        )
        self._under_way.add(command_id)
        try:
            outcome = await self._send(connection, str(command_id), action, payload.encode(), timeout_s)
            await self._finish(command_id, outcome)
        finally:
            self._under_way.discard(command_id)
        return outcome

    async def _send(
        self,
        connection: StationConnection,
        call_id: str,
        action: str,
        payload: bytes,
        timeout_s: float | None,
    ) -> CallOutcome:
        wire = await connection.call(action, payload, timeout_s or self._timeout_s)
        return _outcome_of(wire, connection, action, call_id)

    async def _finish(self, command_id: UUID, outcome: CallOutcome) -> None:
        response = None if outcome.response is None else msgspec.json.encode(outcome.response).decode()
        try:
            await self._store.finish_command(command_id, outcome.outcome, response)
        except StoreUnavailable:
            self._unrecorded[command_id] = (outcome.outcome, response)
            log_failure(log, "outcome of a command not recorded yet", command=str(command_id))

    async def _record_outcomes(self) -> None:
        """Records what became of calls while the store was away, and gives up those that nobody waits for."""
        for command_id, (outcome, response) in list(self._unrecorded.items()):
            await self._store.finish_command(command_id, outcome, response)
            del self._unrecorded[command_id]
        given_up = await self._store.give_up_commands(self._node, self._timeout_s + GIVE_UP_S, list(self._under_way))
        for lost in given_up:
            log_failure(log, "nobody knows what became of a command", command=str(lost))

    # --- effects of decisions, in their own time --------------------------------------------------

    def wake(self) -> None:
        """There may be a queued command, or a station that one waits for."""
        self._wake.set()

    async def run(self) -> None:
        """Sends queued commands as their stations are free, until cancelled."""
        while True:
            self._wake.clear()  # Before looking: what is queued while we look must be looked at again.
            try:
                await self._record_outcomes()
                await self._send_queued()
            except StoreUnavailable:
                pass
            except Exception as error:
                log_failure(log, "dispatching commands failed", exc_info=error)
            try:
                await asyncio.wait_for(self._wake.wait(), POLL_S)
            except TimeoutError:
                continue

    async def _send_queued(self) -> None:
        free = [station for station in self._registry.connected() if StationId(station) not in self._busy]
        if not free:
            return
        await self._store.expire_commands()
        for queued in await self._store.claim_commands(free, self._node):
            if ARMED:
                await fp("command.claimed")
            task = asyncio.create_task(self._send_one(queued), name=f"command-{queued.id}")
            self._busy[queued.station_id] = task
            self._under_way.add(queued.id)
            task.add_done_callback(partial(self._freed, queued))

    def _freed(self, queued: QueuedCommand, _: "asyncio.Task[None]") -> None:
        self._busy.pop(queued.station_id, None)
        self._under_way.discard(queued.id)
        self.wake()

    async def _send_one(self, queued: QueuedCommand) -> None:
        connection = self._registry.current(queued.station_id)
        if connection is None:
            outcome = CallOutcome(outcome="not_connected", response=None, call_id=str(queued.id))
        else:
            outcome = await self._send_translated(connection, queued)
        if ARMED:
            await fp("command.answered")
        await self._finish(queued.id, outcome)
        if ARMED:
            await fp("command.finished")
        log_ocpp(log, "command", station=queued.station_id, action=queued.action, outcome=outcome.outcome)
        try:
            await self._on_outcome(queued, outcome)
        except (StoreUnavailable, StoreContention):
            log_failure(log, "the database is away; deadlines take this up", command=str(queued.id))

    async def _send_translated(self, connection: StationConnection, queued: QueuedCommand) -> CallOutcome:
        if not queued.neutral:
            return await self._send(connection, str(queued.id), queued.action, queued.payload.encode(), None)
        kind = getattr(domain_commands, queued.action)
        outgoing = connection.dialect.command(msgspec.json.decode(queued.payload, type=kind))
        if isinstance(outgoing, Unsupported):
            return CallOutcome(outcome="call_error", response={"problem": "not supported"}, call_id=str(queued.id))
        return await self._send(connection, str(queued.id), outgoing.action, outgoing.payload, None)


def _outcome_of(wire: WireOutcome, connection: StationConnection, action: str, call_id: str) -> CallOutcome:
    if wire.reply is None:
        return CallOutcome(outcome=wire.outcome, response=None, call_id=call_id)
    if isinstance(wire.reply, CallResult):
        reply = connection.dialect.read_reply(action, wire.reply.payload)
        return CallOutcome(outcome="answered", response=reply.body, call_id=call_id)
    body = {"code": wire.reply.code, "description": wire.reply.description}
    return CallOutcome(outcome="call_error", response=body, call_id=call_id)
