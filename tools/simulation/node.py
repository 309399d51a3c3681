"""One server process, made of the program's own parts, on the database in memory."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tools.simulation.network import Link
from voltledger.domain.errors import DomainError
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.gateway.commands import StationCommands
from voltledger.gateway.connection import ConnectionServices, StationConnection
from voltledger.gateway.registry import ConnectionRegistry
from voltledger.gateway.reviving import revive
from voltledger.ocpp.registry import dialect
from voltledger.ocpp.rpc import Version
from voltledger.services.facts import Committed, IdSource
from voltledger.services.frontdesk import FrontDesk
from voltledger.services.intake import Intake
from voltledger.services.ladder import Ladder
from voltledger.services.prepaid import PrepaidService
from voltledger.services.runtime import CallOutcome
from voltledger.services.settling import Settling
from voltledger.storage.errors import StoreContention, StoreUnavailable
from voltledger.storage.memory.database import Access
from voltledger.storage.memory.facts import MemoryFactStore
from voltledger.storage.memory.journal import MemoryJournal
from voltledger.storage.memory.live import MemoryLive
from voltledger.storage.memory.sessions import MemorySessionStore
from voltledger.storage.memory.settlements import MemorySettlementStore
from voltledger.storage.ports import QueuedCommand

if TYPE_CHECKING:
    from tools.simulation.world import World

HOLD_S = 4.0
OWNER: ContextVar["Node | None"] = ContextVar("owner", default=None)


class Node:
    """One run of one server. When it dies, everything in it is gone; the database and its journal's disk stay."""

    def __init__(self, world: "World", number: int, run: int) -> None:
        self.world = world
        self.number = number
        self.name = f"node-{number}#{run}"
        self.dead = False
        self.links: list[Link] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.context: Context = copy_context()
        self.context.run(OWNER.set, self)
        self.access = Access(world.database, self.at_point)
        self.live = MemoryLive(self.access)
        self._build(world)
        self._tick_at: float | None = None
        self._patience_s = 1.0

    def _build(self, world: "World") -> None:
        shape = world.shape
        facts = shape.fact_store(self.access, currency="INR", fee_percent=world.fee_percent, new_id=world.new_id)
        self.ids = IdSource(
            new_session_id=lambda: SessionId(world.new_id()), reserve=facts.reserve_transaction_refs, block=4, keep=4
        )
        self.frontdesk = FrontDesk(self.live, heartbeat_s=300)
        self.ladder: Ladder | None = None
        if world.with_journal:
            self.ladder = Ladder(
                MemoryJournal(world.disks[self.number], self.at_point),
                probe=facts.probe,
                revive=revive,
                now=world.now,
            )
        self.intake: Intake = shape.intake(
            facts,
            self.ids,
            world.policy,
            hold_s=HOLD_S,
            on_committed=self._committed,
            ladder=self.ladder,
            answer_unrecorded=self.frontdesk.answer_unrecorded,
        )
        self.registry = ConnectionRegistry(self.live, self.name, world.now, self._presence)
        self.commands = StationCommands(
            self.live,
            self.registry,
            node=self.name,
            timeout_s=20.0,
            new_id=world.new_id,
            on_outcome=self._command_done,
        )
        self.settling = Settling(shape.settlement_store(self.access))
        self.prepaid = PrepaidService(
            MemorySessionStore(
                self.access,
                currency="INR",
                fee_percent=world.fee_percent,
                policy=world.policy,
                new_id=world.new_id,
            ),
            self.commands,
            self.registry,
            now=world.now,
            new_id=world.new_id,
            new_token=world.new_token,
            pending_for=timedelta(minutes=2),
            wake=self.nudge,
        )
        self._services = ConnectionServices(
            intake=self.intake,
            frontdesk=self.frontdesk,
            now=world.now,
            first_frame=self.registry.take_over,
            keep_frame=lambda frame: None,
            count=lambda version, action, direction: None,
        )

    # --- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to work."""
        self.spawn(self._start())

    async def _start(self) -> None:
        if self.ladder is not None:
            await self.ladder.open()
        self.intake.start()
        for task in self.tasks:
            if task.get_name() == "transaction-ids":
                task.cancel()  # it looks every two seconds for ever; `_tick` does its work
        self._keep_tokens_in_mind()
        await self._look()
        self.nudge()

    def _keep_tokens_in_mind(self) -> None:
        """One look at the tokens; the server looks every two seconds for ever."""
        looking = self.spawn(self.frontdesk.keep_in_mind())
        self.world.loop.call_later(1.0, looking.cancel)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of this node, which dies with it."""
        return self.world.loop.create_task(work, context=self.context.copy())

    def die(self) -> None:
        """All memory is lost at once; no code of it can change anything any more."""
        self.dead = True
        self.access.cut()
        self.stop_tasks()
        for link in self.links:
            link.node_died()

    def stop_tasks(self) -> None:
        """Ends every task; the intake's lanes are not to be started again by what is dead."""
        self.dead = True
        self.intake._stopping = True
        for task in self.tasks:
            if not task.done():
                task.cancel()

    async def at_point(self, name: str) -> None:
        """Where the world may put a fault."""
        if self.dead:
            raise asyncio.CancelledError
        await self.world.faults.strike(self, name)

    # --- stations ------------------------------------------------------------------------------------

    @property
    def takes_stations(self) -> bool:
        """Whether a handshake succeeds now; without the database nobody can be checked."""
        return not self.world.faults.is_out or self.intake.answers_from_memory

    def take(self, link: Link) -> None:
        """A station's socket is open."""
        self.links = [old for old in self.links if old.socket.close_code is None]
        self.links.append(link)
        self.spawn(self._talk(link))

    async def _talk(self, link: Link) -> None:
        socket: Any = link.socket
        connection = StationConnection(socket, StationId(link.station.name), dialect(Version.V16), self._services)
        self.registry.opened(connection)
        try:
            if self.registry.current(connection.station_id) is None:
                await self._services.first_frame(connection)
            await connection.run()
        finally:
            await link.socket.close(1011)  # as the listener's library does when a handler is over
            await asyncio.shield(self.registry.closed(connection))

    def _presence(self, station_id: StationId, present: bool) -> None:
        if present:
            self.nudge()

    # --- its work --------------------------------------------------------------------------------------

    def _committed(self, committed: Sequence[Committed]) -> None:
        self.world.saw(committed)
        if any(one.decision is None or one.decision.settle or one.decision.asks for one in committed):
            self.nudge()  # a repeat too: its first commit may have been one that nobody heard of

    async def _command_done(self, queued: QueuedCommand, outcome: CallOutcome) -> None:
        await self.prepaid.after_command(queued, outcome)

    def nudge(self) -> None:
        """There may be work: settlements, commands, deadlines."""
        self._patience_s = 1.0
        self._schedule(0.05)

    def _schedule(self, after_s: float) -> None:
        at = self.world.loop.time() + after_s
        if self.dead or (self._tick_at is not None and self._tick_at <= at):
            return
        self._tick_at = at
        self.world.loop.call_at(at, self._begin_tick, at)

    def _begin_tick(self, at: float) -> None:
        if self._tick_at == at and not self.dead:
            self._tick_at = None
            self.spawn(self._tick())

    async def _tick(self) -> None:
        try:
            if await self._look():
                self._patience_s = 1.0
        finally:
            if self.world.has_work():
                self._patience_s = min(self._patience_s * 2, 600.0)
                self._schedule(self._patience_s)

    async def _look(self) -> bool:
        """What workers and loops do in turns."""
        database = self.world.database
        with contextlib.suppress(StoreUnavailable, StoreContention):
            await self.ids.stock_up()
            handled = 0
            if any(job.state == "waiting" for job in database.jobs):
                handled, _ = await self.settling.settle_due()
            if any(session.state == "PENDING" for session in database.sessions):
                handled += await self.prepaid.expire_pending()
            if any(command.state == "queued" for command in database.commands):
                await self.commands._send_queued()
            return handled > 0
        return False

    # --- people --------------------------------------------------------------------------------------

    async def pay(self, *, key: str, station: str, connector: int, user: str, amount: int) -> UUID | str | None:
        """A paid start through the API: its session, why it was refused, or None when nobody knows."""
        try:
            return await self.prepaid.start(
                station_id=station, connector=connector, user_id=user, amount_minor=amount, token=None, key=key
            )
        except (StoreUnavailable, StoreContention):
            return None
        except DomainError as refused:
            return type(refused).__name__
        finally:
            self.nudge()  # an outcome that nobody knows wakes nobody; the server's workers look by themselves

    async def top_up(self, *, key: str, user: str, amount: int) -> bool:
        """Money comes in; False when nobody knows whether it did."""
        try:
            await self.live.top_up(key, self.world.users[user], "INR", amount)
        except (StoreUnavailable, StoreContention):
            return False
        return True


class Shape:
    """Which classes a node is made of; planted bugs replace them."""

    fact_store = MemoryFactStore
    settlement_store = MemorySettlementStore
    intake = Intake
