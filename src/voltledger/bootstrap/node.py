"""One running server: listeners, loops and workers on one event loop.

It starts when PostgreSQL or Redis are away, says so in `/health`, and heals by itself.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from voltledger import __version__
from voltledger.api.serve import serve_http
from voltledger.bootstrap.common import journal_of, new_id, new_token, sync_policy, utc_now
from voltledger.bootstrap.database import prepare_database
from voltledger.config import Settings
from voltledger.dashboard import Sessions, create_site
from voltledger.domain.events import Booted, MeterReported, StatusReported, TransactionEnded, TransactionStarted
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.domain.quantities import Minor
from voltledger.domain.reconciliation.findings import FindingKind
from voltledger.domain.session.book import Policy
from voltledger.domain.session.states import State
from voltledger.errors import UserFacingError
from voltledger.failpoints import ARMED, armed_points, fp_now
from voltledger.gateway.commands import StationCommands
from voltledger.gateway.connection import ConnectionServices, StationConnection
from voltledger.gateway.frames import FrameLog
from voltledger.gateway.readmission import Readmission
from voltledger.gateway.registry import ConnectionRegistry
from voltledger.gateway.reviving import revive
from voltledger.gateway.server import StationListener
from voltledger.logs import get_logger, log_failure, log_ocpp, log_orphan, log_success, log_sync
from voltledger.metrics import Figure, Metrics
from voltledger.services.admission import Admission
from voltledger.services.catalog import Catalog
from voltledger.services.frontdesk import FrontDesk
from voltledger.services.intake import Committed, IdSource, InboundFact, Intake
from voltledger.services.ladder import Ladder, Rung
from voltledger.services.live import LiveFeed
from voltledger.services.prepaid import PrepaidService
from voltledger.services.runtime import Health, Runtime
from voltledger.services.settling import SettledSession, Settling
from voltledger.services.sync import DatabaseSyncService, Step
from voltledger.storage.errors import JournalUnavailable, SchemaMismatch, StoreUnavailable
from voltledger.storage.postgres.catalog import PostgresCatalogStore
from voltledger.storage.postgres.facts import PostgresFactStore
from voltledger.storage.postgres.live import PostgresLive
from voltledger.storage.postgres.outbox import PostgresOutbox
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.settlements import PostgresSettlementStore
from voltledger.storage.postgres.sync import PostgresSyncStore
from voltledger.storage.redis.cache import Cache, CachedEvent, connect
from voltledger.storage.sqlite import SqliteJournal
from voltledger.sync.loops import Loop, Scheduler
from voltledger.sync.workers import Worker, relay_work, settle_work

log = get_logger(__name__)

PRESENCE_S = 10.0
IDS_IN_RESERVE = 4_000
"""Transaction ids that each run keeps for starts while PostgreSQL is away."""
GAUGES_S = 5.0
"""How long the figures of `/health` may take before PostgreSQL counts as away."""
SENT_AWAY_S = 10.0
"""Within this time stations are sent away, each at a moment of its own."""


class Node:
    """One running server."""

    def __init__(
        self,
        settings: Settings,
        *,
        dsn: str,
        redis_socket: str | None = None,
        redis_password: str | None = None,
    ) -> None:
        self.settings = settings
        # The address says whose leftovers are ours; what follows tells this run from an earlier one.
        self.node = f"{socket.gethostname()}:{settings.ocpp}#{secrets.token_hex(6)}"
        self.metrics = Metrics()
        self.live = LiveFeed()
        # Three pools: what people look at must not keep facts waiting, nor must a hanging server keep handshakes.
        self.database = Database(dsn, size=settings.pool_size)
        self.facts_database = Database(dsn, size=6)
        self.live_database = Database(dsn, size=4, patience_s=3)
        self.cache = Cache(
            connect(
                socket_path=redis_socket,
                host=settings.redis_host,
                port=settings.redis_port,
                password=redis_password if redis_socket else settings.redis_password,
            ),
            node=self.node,
        )
        self.ocpp_port = 0
        self.stopping = asyncio.Event()
        self._prepared = asyncio.Event()
        self._listening = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._was_closed = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._committed_facts = 0
        self._pace = 0.0
        self._active = 0
        self._open: dict[str, int] = {}
        self._totals: tuple[dict[str, int], dict[str, int]] = ({}, {})
        self._build()

    # --- what is made of what -----------------------------------------------------------------

    def _build(self) -> None:
        settings = self.settings
        policy = Policy(local_hold=Minor(settings.local_hold_minor), heartbeat_s=settings.heartbeat_s)
        priced: dict[str, Any] = {"currency": settings.currency, "fee_percent": settings.platform_fee_percent}
        facts = PostgresFactStore(self.facts_database, **priced, new_id=new_id, node=self.node)
        self.store = PostgresLive(self.live_database)
        self.frames = FrameLog(self.store)
        self.sync_store = PostgresSyncStore(self.database, **priced, policy=policy, new_id=new_id)
        ids = IdSource(
            new_session_id=lambda: SessionId(new_id()), reserve=facts.reserve_transaction_refs, keep=IDS_IN_RESERVE
        )
        self.frontdesk = FrontDesk(
            self.store,
            heartbeat_s=settings.heartbeat_s,
            accept_unknown=settings.outage_unknown_tokens == "accept",
        )
        self.journal = SqliteJournal(journal_of(settings), max_bytes=settings.journal_max_mb * 1_000_000)
        self._facts = facts
        self.ladder = Ladder(
            self.journal if settings.journal else None,
            probe=self._probe,
            revive=revive,
            now=utc_now,
            on_change=self._rung_changed,
        )
        self.readmission = Readmission(time.monotonic, self._facts_a_second)
        self.intake = Intake(
            facts,
            ids,
            policy,
            hold_s=settings.hold_s,
            on_committed=self._committed,
            on_commit_size=self._count_commit,
            ladder=self.ladder,
            answer_unrecorded=self.frontdesk.answer_unrecorded,
        )
        self.registry = ConnectionRegistry(self.store, self.node, utc_now, self._presence_changed)
        self.commands = StationCommands(
            self.store,
            self.registry,
            node=self.node,
            timeout_s=settings.call_timeout_s,
            new_id=new_id,
            on_outcome=self._command_done,
        )
        self.settling = Worker(
            "settle", settle_work(Settling(PostgresSettlementStore(self.facts_database)), self._settled)
        )
        self.relay = Worker("relay", relay_work(PostgresOutbox(self.database), {"clear_events": self._clear_events}))
        self.prepaid = PrepaidService(
            self.sync_store,
            self.commands,
            self.registry,
            now=utc_now,
            new_id=new_id,
            new_token=new_token,
            pending_for=timedelta(seconds=settings.pending_start_s),
            wake=self._wake_workers,
            quiet_since=lambda: self.ladder.quiet_since,
            may_judge=self._may_judge,
            looks_every=timedelta(seconds=settings.orphan_interval_s),
        )
        self.sync = DatabaseSyncService(
            self.sync_store,
            self.commands,
            sync_policy(settings),
            now=utc_now,
            new_id=new_id,
            wake=self._wake_workers,
            quiet_since=lambda: self.ladder.quiet_since,
            may_judge=self._may_judge,
        )
        self.scheduler = Scheduler(self.sync_store, self._loops(), node=self.node, now=utc_now, on_run=self._loop_ran)
        self.catalog = Catalog(PostgresCatalogStore(self.database), ocpp=settings.ocpp, currency=settings.currency)
        self.runtime = Runtime(
            catalog=self.catalog,
            commands=self.commands,
            presence=self.registry,
            prepaid=self.prepaid,
            status=_StatusOf(self),
            settings=settings,
            live=self.live,
        )
        self.metrics.add_read(self._figures)
        self.logins = Sessions(self.catalog)
        self.app = create_site(self.runtime, self.logins)

    def _loops(self) -> list[Loop]:
        settings = self.settings
        return [
            Loop(name="database", period_s=settings.sync_interval_s, offset_s=0, work=self._run_database_sync),
            Loop(
                name="orphans",
                period_s=settings.orphan_interval_s,
                offset_s=settings.orphan_interval_s * 0.29,
                work=self._run_orphans,
            ),
            Loop(
                name="cleanup",
                period_s=settings.cleanup_interval_s,
                offset_s=settings.cleanup_interval_s * 0.0127,
                work=self._run_cleanup,
            ),
        ]

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listens and begins to work. Raises UserFacingError when it can be known at once that it cannot."""
        if ARMED:
            log_failure(log, "FAILPOINTS is set: this process fails on purpose; unset it", points=armed_points())
        reachable = False
        with contextlib.suppress(StoreUnavailable):
            await self._prepare()
            reachable = True
        if not reachable:
            log_failure(log, "the database is away; serving without it until it is back")
            await self._open_pools(None)
        await self._open_journal()
        self.intake.start()
        self.listener = self._make_listener()
        try:
            http = await self._listen()
        except BaseException:
            await self.listener.stop()
            await self.intake.stop()
            await self.journal.close()
            raise
        self._listening = True
        if reachable:
            with contextlib.suppress(StoreUnavailable):
                await self._recover()
        self._tasks = [http, *(asyncio.create_task(_lasting(name, work)) for name, work in self._background())]
        log_success(log, "serving", http=str(self.settings.http), ocpp=str(self.settings.ocpp), version=__version__)

    def _make_listener(self) -> StationListener:
        services = ConnectionServices(
            intake=self.intake,
            frontdesk=self.frontdesk,
            now=utc_now,
            first_frame=self._first_frame,
            keep_frame=self.frames.keep,
            count=self._count,
        )
        return StationListener(
            Admission(self.store),
            self.registry,
            services,
            unknown_status=self.settings.unknown_station_status,
            max_frame_bytes=self.settings.max_frame_bytes,
            ping_s=self.settings.ping_s,
            takes=lambda: self.ladder.rung != "closed",
            readmits=self.readmission.admits,
        )

    async def _listen(self) -> "asyncio.Task[None]":
        """Binds both addresses. Stations first: whoever reads "ok" in /health may connect one."""
        self.ocpp_port = await self.listener.start(self.settings.ocpp.host, self.settings.ocpp.port)
        ready = asyncio.Event()
        http = asyncio.create_task(
            serve_http(self.app, self.settings.http.host, self.settings.http.port, ready, self.stopping), name="http"
        )
        await _first(http, ready.wait())
        return http

    def _background(self) -> Iterable[tuple[str, Callable[[], Awaitable[None]]]]:
        return (
            ("prepare", self._keep_preparing),
            ("tokens", self._when_prepared(self.frontdesk.keep_in_mind)),
            ("cache", self.cache.run),
            ("watch", self._watch),
            ("presence", self._when_prepared(self._keep_presence)),
            ("deadlines", self._deadlines),
            ("restarts", self._when_prepared(self._look_after_restarts)),
            ("frames", self._when_prepared(self.frames.run)),
            ("commands", self._when_prepared(self.commands.run)),
            ("settle", self._when_prepared(self.settling.run)),
            ("relay", self._when_prepared(self.relay.run)),
            ("sync", self._when_prepared(self.scheduler.run)),
        )

    async def prepared(self) -> None:
        """Waits until the database is there and migrated."""
        await self._prepared.wait()

    async def first_admin_key(self) -> str | None:
        """An admin key, if there is no key at all yet; None otherwise."""
        if (await self.catalog.keys()).items:
            return None
        return (await self.catalog.add_key(role="admin", name="first")).key

    def login_link(self) -> str:
        """An address that signs a person in to the dashboard once, within ten minutes."""
        return f"http://{self.settings.http}/login?code={self.logins.make_login_code()}"

    async def stop(self) -> None:
        """Stops in order: no new facts, those that wait are recorded, then the rest."""
        await self.listener.stop()
        await self.intake.stop()
        self.stopping.set()
        await _end(self._tasks[1:])
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(StoreUnavailable):
            await self.frames.flush()
        await self.cache.flush()
        await self.cache.close()
        for database in self._databases:
            await database.close()
        await self.journal.close()
        log_success(log, "stopped")

    async def _prepare(self) -> None:
        await self._open_pools(await prepare_database(self.database.dsn))
        if self._listening:
            await self._recover()

    @property
    def _databases(self) -> tuple[Database, ...]:
        return (self.database, self.facts_database, self.live_database)

    async def _open_pools(self, role: str | None) -> None:
        for database in self._databases:
            if role is not None:
                database.role = role
            await database.open()

    async def _open_journal(self) -> None:
        """A disk that cannot be written is no reason not to serve: an outage then closes sockets.

        Raises: UserFacingError for a journal of another version.
        """
        try:
            await self.journal.open()
            await self.ladder.open()
        except JournalUnavailable as error:
            log_failure(
                log,
                "the journal cannot be opened: while PostgreSQL is away stations will be sent away",
                problem=str(error),
            )

    async def _recover(self) -> None:
        """Takes up what an earlier run left; only with the address bound is it certain that none runs."""
        await self.store.recover_node(self.node)
        self._prepared.set()

    async def _keep_preparing(self) -> None:
        """Migrates as soon as a database that was away at the start is back."""
        while not self._prepared.is_set():
            await asyncio.sleep(1)
            try:
                await self._prepare()
            except StoreUnavailable:
                continue
            except (UserFacingError, SchemaMismatch) as error:
                log_failure(log, str(error))
                await asyncio.sleep(10)

    def _when_prepared(self, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def wait_and_work() -> None:
            await self._prepared.wait()
            await work()

        return wait_and_work

    # --- what happens -----------------------------------------------------------------------------

    async def _probe(self) -> None:
        """Whether facts can be recorded: PostgreSQL takes writes, and has our schema."""
        if not self._prepared.is_set():
            raise StoreUnavailable("PostgreSQL is not prepared yet")
        await self._facts.probe()

    async def _takes_writes(self) -> bool:
        try:
            async with asyncio.timeout(GAUGES_S):
                await self._probe()
        except (StoreUnavailable, TimeoutError):
            return False
        return True

    def _may_judge(self, station_id: StationId) -> bool:
        """Whether all that a station said is in the books, as far as this node knows."""
        return not self.ladder.keeps(station_id)

    async def _look_after_restarts(self) -> None:
        """Stations that restarted in the middle of a session and say they are free: looked at soon."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                self._tell(await self.sync.find_ghosts_after_restart())
            await asyncio.sleep(5)

    def _rung_changed(self, rung: Rung) -> None:
        """The outage ladder moved: stations are sent away where nothing can be kept."""
        if rung == "closed":
            task = asyncio.create_task(self.registry.send_all_away(SENT_AWAY_S, "try again later"))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        elif rung == "recording":
            if self._was_closed:
                self.readmission.begin()
            self._wake_workers()
        self._was_closed = rung == "closed"

    def _count_commit(self, size: int) -> None:
        self.metrics.batch_size.observe(size)
        self._committed_facts += size

    def _facts_a_second(self) -> float:
        return self._pace

    async def _first_frame(self, connection: StationConnection) -> None:
        await self.registry.take_over(connection)
        self.commands.wake()

    def _presence_changed(self, station_id: StationId, connected: bool) -> None:
        self.metrics.stations_connected.set(len(self.registry.connected()))
        log_ocpp(log, "station connected" if connected else "station disconnected", station=station_id)
        if self.live.watched:
            self.live.publish({"kind": "presence", "station": station_id, "connected": connected})

    def _committed(self, committed: Sequence[Committed]) -> None:
        wake = False
        for one in committed:
            if one.repeated:
                log_ocpp(log, "repeated", station=one.fact.station_id, action=one.fact.action)
                continue
            self._note(one)
            if ARMED and one.decision is not None:
                fp_now("cache.noted")
            decision = one.decision
            if decision is not None and (decision.settle or decision.asks):
                wake = True
            if decision is not None:
                for finding in decision.findings:
                    log_orphan(log, finding.summary, finding=finding.kind.value, station=finding.station_id)
        if wake:
            self._wake_workers()

    def _note(self, one: Committed) -> None:
        """Tells cache, log and watchers of a recorded fact."""
        fact, decision = one.fact, one.decision
        session = decision.sessions[-1] if decision is not None and decision.sessions else None
        evse = session.evse_id if session is not None else (getattr(fact.event, "evse_id", None) or 0)
        event = CachedEvent(
            station_id=fact.station_id,
            evse_id=evse,
            kind=fact.action,
            at=fact.received_at,
            session=None if session is None else session.id,
        )
        if isinstance(fact.event, MeterReported):
            self.cache.note_reading(event)
        else:
            self.cache.note(event)
        if isinstance(fact.event, StatusReported):
            self.cache.note_status(fact.station_id, fact.event.evse_id, fact.event.status.value, fact.received_at)
        if isinstance(fact.event, StatusReported | Booted | TransactionStarted | TransactionEnded):
            log_ocpp(log, fact.action, station=fact.station_id, **_telling(fact))
        if session is not None and self.live.watched:
            self.live.publish(
                {
                    "kind": "reading",
                    "session": str(session.id),
                    "station": fact.station_id,
                    "status": session.state.value,
                    "energy_wh": session.energy_wh,
                    "power_w": None if session.power_w is None else float(session.power_w),
                }
            )

    def _settled(self, settled: Sequence[SettledSession]) -> None:
        for one in settled:
            figures, currency = one.settlement.settled, one.session.price.currency
            self.metrics.settlements.inc()
            if figures.version == 1 and figures.refund:
                self.metrics.refunds.labels(currency).inc(figures.refund)
            log_success(
                log,
                "settled",
                session=str(one.session.id),
                energy_wh=one.session.energy_wh,
                cost_minor=figures.cost,
                refund_minor=figures.refund,
                currency=currency,
            )
        self.relay.wake()

    async def _command_done(self, queued: Any, outcome: Any) -> None:
        await self.prepaid.after_command(queued, outcome)

    async def _clear_events(self, payload: Any) -> bool:
        return await self.cache.clear_events(payload["station"], payload["evse"], payload["session"], payload["until"])

    def _wake_workers(self) -> None:
        self.settling.wake()
        self.commands.wake()
        self.relay.wake()

    def _count(self, version: str, action: str, direction: str) -> None:
        self.metrics.messages.labels(version, action if len(action) <= 50 else "other", direction).inc()

    # --- loops --------------------------------------------------------------------------------------

    async def _keep_presence(self) -> None:
        """On every node: its open sockets are recorded as its own, and when they were last heard of."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                await self.registry.claim_missing()
                for station_id in await self.catalog.disabled_among(list(self.registry.connected())):
                    await self.registry.close_station(StationId(station_id), "disabled")
                await self.sync_store.note_seen(self._seen())
            await self.cache.set_owners(list(self.registry.connected()))
            await asyncio.sleep(PRESENCE_S)

    def _seen(self) -> dict[str, datetime]:
        return {
            station: info.last_frame_at
            for station, info in self.registry.connected().items()
            if info.last_frame_at is not None
        }

    async def _run_database_sync(self) -> str:
        steps = await self.sync.sync_database(self._seen())
        drifted = await self.cache.rebuild_statuses(await self._recorded_statuses())
        self._tell(steps)
        return f"{len(self.registry.connected())} connected, {len(steps)} changed, {len(drifted)} cache entries mended"

    async def _recorded_statuses(self) -> dict[str, dict[str, str]]:
        return {
            station.station_id: {str(c.evse_id): c.status.value for c in station.connectors}
            for station in await self.sync_store.stations_overview()
            if station.connectors
        }

    async def _run_orphans(self) -> str:
        steps = await self.sync.find_orphans_and_ghosts()
        self._tell(steps)
        return f"{len(steps)} repaired" if steps else "nothing to repair"

    async def _run_cleanup(self) -> str:
        retention = timedelta(seconds=self.settings.event_retention_s)
        rows = await self.sync_store.clean_up(retention)
        events = await self.cache.trim(utc_now() - retention)
        return f"{rows} rows and {events} cached events removed"

    async def _deadlines(self) -> None:
        """Every few seconds: starts that never happened, stops that were not obeyed."""
        await self._prepared.wait()
        while True:
            try:
                await self.prepaid.expire_pending()
                self._tell(await self.sync.press_stops())
            except StoreUnavailable:
                pass
            except Exception as error:
                log_failure(log, "deadlines failed", exc_info=error)
            await asyncio.sleep(3)

    def _tell(self, steps: Sequence[Step]) -> None:
        for step in steps:
            log_sync(log, step.what, station=step.station_id, session=str(step.session_id or ""), why=step.why)

    def _loop_ran(self, loop: str, duration_s: float) -> None:
        self.metrics.sync_duration.labels(loop).observe(duration_s)

    async def _watch(self) -> None:
        """Keeps what `/health` and `/metrics` say fresh, and tells when something went away or came back."""
        totals_at, seen_at = 0.0, time.monotonic()
        while True:
            # The best of the last minutes, fading: how fast facts can be recorded.
            self._pace, self._committed_facts = max(0.99 * self._pace, float(self._committed_facts)), 0
            if self._prepared.is_set():
                try:
                    async with asyncio.timeout(GAUGES_S):
                        totals_at = await self._read_gauges(totals_at)
                    seen_at = time.monotonic()
                except (StoreUnavailable, TimeoutError):
                    self.database.available = False
                    if time.monotonic() - seen_at > self.settings.hold_s and not await self._takes_writes():
                        # Nobody has to be held first to find that out.
                        self.ladder.fell("PostgreSQL does not answer")
            await self.cache.ping()
            self.metrics.redis_memory.set(self.cache.memory_bytes)
            self.metrics.pool_in_use.set(sum(database.in_use for database in self._databases))
            self.metrics.journal_facts.set(self.ladder.waiting)
            await asyncio.sleep(1)

    async def _read_gauges(self, totals_at: float) -> float:
        """Reads what is counted in the database; when the totals are to be read again."""
        self._active, self._open = await self.sync_store.gauges()
        if time.monotonic() < totals_at:
            return totals_at
        began = time.monotonic()
        self._totals = await self.sync_store.totals()
        # They look at everything recorded: never more than a hundredth of the time.
        return time.monotonic() + 100 * (time.monotonic() - began)

    # --- status -----------------------------------------------------------------------------------------

    def health(self) -> Health:
        """See `services.runtime.Status`."""
        database = self._database_works()
        well = database and self.cache.available and not self.ladder.waiting
        return Health(
            status="ok" if well else "degraded",
            database="ok" if database else "down",
            redis="ok" if self.cache.available else "down",
            stations_connected=len(self.registry.connected()),
            sessions_active=self._active,
            sync=self.scheduler.health,
            findings_open=sum(self._open.values()),
            journal=self.ladder.waiting,
            version=__version__,
        )

    def ready(self) -> bool:
        """See `services.runtime.Status`."""
        return self._database_works() and not self.stopping.is_set()

    def _database_works(self) -> bool:
        return self._prepared.is_set() and self.database.available and not self.ladder.away

    def metrics_text(self) -> bytes:
        """The figures in Prometheus' text format."""
        return self.metrics.expose()

    def _figures(self) -> Iterable[Figure]:
        found, sessions = self._totals
        return (
            Figure(
                name="voltledger_sessions_active",
                text="Sessions that we believe run.",
                values={"": float(self._active)},
            ),
            Figure(
                name="voltledger_findings_open",
                text="Findings that wait for a person.",
                values=_by_kind(self._open),
                label="kind",
            ),
            Figure(
                name="voltledger_findings",
                text="Findings recorded.",
                values=_by_kind(found),
                label="kind",
                counter=True,
            ),
            Figure(
                name="voltledger_sessions_total",
                text="Sessions by status.",
                values={state.value: float(sessions.get(state.value, 0)) for state in State},
                label="status",
            ),
        )


class _StatusOf:
    """What the API asks about a node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def health(self) -> Health:
        """The figures of `/health`."""
        return self._node.health()

    def ready(self) -> bool:
        """Whether new work should come here."""
        return self._node.ready()

    def metrics(self) -> bytes:
        """The Prometheus text."""
        return self._node.metrics_text()


def _by_kind(counts: Mapping[str, int]) -> dict[str, float]:
    return {kind.value: float(counts.get(kind.value, 0)) for kind in FindingKind}


def _telling(fact: InboundFact) -> dict[str, Any]:
    event = fact.event
    if isinstance(event, StatusReported):
        return {"connector": event.evse_id, "status": event.status.value}
    if isinstance(event, TransactionStarted):
        return {"connector": event.evse_id, "register_wh": event.register_wh}
    if isinstance(event, TransactionEnded):
        return {
            "transaction": event.transaction_ref,
            "register_wh": event.register_wh,
            "reason": event.reason.value,
        }
    if isinstance(event, Booted):
        return {"vendor": event.vendor, "model": event.model}
    return {}


async def _lasting(name: str, work: Callable[[], Awaitable[None]]) -> None:
    """Runs work that should not end; if our own code fails in it, says so and begins again."""
    while True:
        try:
            await work()
        except Exception as error:
            log_failure(log, "background work failed; it begins again", work=name, exc_info=error)
            await asyncio.sleep(1)
        else:
            return


async def _end(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancels tasks until they have ended: a library that opens a connection may swallow one cancellation."""
    rest = set(tasks)
    while rest:
        for task in rest:
            task.cancel()
        _, rest = await asyncio.wait(rest, timeout=0.5)


async def _first(task: "asyncio.Task[Any]", event: Awaitable[Any]) -> None:
    """Waits for an event, or for the failure of the task that should set it."""
    waiting = asyncio.ensure_future(event)
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        await task
