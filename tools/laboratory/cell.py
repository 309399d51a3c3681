"""One cell: a fresh world, a scenario, one fault at one point, everything healed, quiet, judged."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tools.laboratory.points import Cell, OnLine
from tools.laboratory.proxy import Catch, Fault, Mode, Proxy
from tools.laboratory.scenarios import PATIENCE_S, SCENARIOS, SETTINGS, Stage, new_station
from tools.laboratory.station import Station
from tools.laboratory.verdict import Expected, differences, second_opinion
from tools.laboratory.world import Lab, LabFailed, Server, Site, until
from voltledger.simulator.journal import Journal

FIRE_S = 45.0
"""How long a point may take to be reached: far longer than any scenario, for machines that are busy."""
IN_PROCESS = {"kill": "kill", "term": "term", "stop": "stop", "cancel": "cancel"}


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a cell. `problems` is empty when all is as it should be."""

    cell: str
    fired: bool = False
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0
    log: str = ""

    @property
    def ok(self) -> bool:
        """Fired, and nothing wrong."""
        return self.fired and not self.problems


async def run_cell(lab: Lab, cell: Cell, *, keep: Path | None = None) -> Outcome:
    """Runs and judges one cell. `keep` names a folder for the journal and the log of a cell that failed."""
    began = time.monotonic()
    outcome = Outcome(cell=cell.id)
    scenario = cell.spot.scenario
    async with lab.site(bare=scenario == "migrate", **SETTINGS.get(scenario, {})) as site:
        try:
            await _Run(lab, site, cell, outcome).go()
        except (LabFailed, TimeoutError) as problem:
            outcome.problems.append(str(problem) or type(problem).__name__)
        except Exception as problem:
            # Whatever one cell does to the laboratory, the others are still to be run.
            outcome.problems.append(f"the laboratory failed: {type(problem).__name__}: {problem}")
        if not outcome.ok:
            outcome.log = site.output()
            if keep is not None:
                site.keep(keep / cell.id.replace(":", "_"))
    outcome.seconds = round(time.monotonic() - began, 2)
    return outcome


class _Run:
    """One cell while it runs."""

    def __init__(self, lab: Lab, site: Site, cell: Cell, outcome: Outcome) -> None:
        self.lab, self.site, self.cell, self.outcome = lab, site, cell, outcome
        self.draw = random.Random(cell.id)
        self.healed = asyncio.Event()
        self.second: Server | None = None
        self._idle: asyncio.StreamWriter | None = None  # a connection that never says what it wants

    async def go(self) -> None:
        """All steps, in order."""
        with Journal(self.site.journal) as journal:
            station = new_station(self.site, journal, self.draw)
            stage = Stage(site=self.site, station=station, draw=self.draw, fault=self._wait_healed)
            online = None
            if self.cell.spot.scenario == "restart":
                online = await self._half_a_visit(station, stage)
            catch = self._catch()
            await self._start()
            tasks = [online or asyncio.create_task(station.run())]
            if self.cell.spot.scenario == "migrate":
                # Nobody is registered before the migration is done: the station is turned away until then.
                tasks.append(asyncio.create_task(self._register_when_migrated()))
            play = asyncio.create_task(SCENARIOS[self.cell.spot.scenario](stage))
            try:
                await self._reach(catch, station, play)
                await self._strike(catch, station)
                await self._heal()
                await self._watch(play)
                for task in tasks[1:]:
                    await asyncio.wait_for(task, PATIENCE_S)
                await self._judge(stage)
            finally:
                await _end(play, *tasks)
                if self._idle is not None:
                    self._idle.transport.abort()
                if self.second is not None:
                    self.second.signal(signal.SIGKILL)
                    await self.second.wait_end(10)
                    self.second.close()

    async def _watch(self, play: "asyncio.Task[None]") -> None:
        """Waits for the end of the scenario. Raises: LabFailed when the server ends before, which nobody told it to."""
        await until(lambda: play.done() or self._server.ended, PATIENCE_S * 2, "the end of the scenario")
        if not play.done():
            raise LabFailed("the server ended by itself")
        await play

    async def _half_a_visit(self, station: Station, stage: Stage) -> "asyncio.Task[None]":
        """A first run that is killed, so that the next one has something to take up."""
        await self.site.start()
        online = asyncio.create_task(station.run())
        await asyncio.wait_for(station.online.wait(), FIRE_S)
        await self.site.kill()
        return online

    async def _register_when_migrated(self) -> None:
        await self.healed.wait()
        self.site.registered = await self.lab.register(self.site.database)

    async def _wait_healed(self) -> None:
        await asyncio.wait_for(self.healed.wait(), PATIENCE_S)

    # --- arming -------------------------------------------------------------------------------------------

    @property
    def _action(self) -> str:
        """What the armed point does by itself; `wait` where the laboratory acts from outside."""
        spot, action = self.cell.spot, self.cell.action
        if spot.by_hand:
            return "wait"
        if action == "raise":
            return f"raise:{spot.raises[(self.cell.seed - 1) % len(spot.raises)]}"
        return IN_PROCESS.get(action, "wait")

    async def _start(self) -> None:
        spot = self.cell.spot
        arms = [spot.also] if spot.also else []
        if spot.is_failpoint:
            arms.append(f"{spot.at}:{self.draw.choice(spot.nth)}:{self._action}")
        await self.site.start(",".join(arms))

    def _catch(self) -> Catch | None:
        at = self.cell.spot.at
        if not isinstance(at, OnLine):
            return None
        nth = self.draw.choice(self.cell.spot.nth)
        catch = Catch(sees=at.sees, where=at.where, from_server=at.from_server, nth=nth)
        self._line.catches.append(catch)
        return catch

    @property
    def _line(self) -> Proxy:
        """The line that a point is on; PostgreSQL's where it is on none."""
        at = self.cell.spot.at
        name = at.line if isinstance(at, OnLine) else "postgres"
        if name == "wire" and self.site.wire is not None:
            return self.site.wire
        return self.lab.redis if name == "redis" else self.site.line

    # --- reaching -----------------------------------------------------------------------------------------

    async def _reach(self, catch: Catch | None, station: Station, play: "asyncio.Task[None]") -> None:
        """Waits until the point is reached. Raises: LabFailed when it is not."""
        spot = self.cell.spot
        if catch is not None:
            await self._or_end(catch.reached.is_set, play)
        elif spot.at == "half-connect":
            await until(self.site.listens, FIRE_S, "the server listens")
            _, self._idle = await asyncio.open_connection("127.0.0.1", self.site.ocpp_port)
        elif spot.at == "half-frame":
            station.half_of = self.draw.choice(("StartTransaction", "MeterValues", "StopTransaction"))
            await self._or_end(station.half_sent.is_set, play)
        else:
            await self._or_end(lambda: f"{spot.at} {self._action}" in self.site.reached(), play)
        self.outcome.fired = True

    async def _or_end(self, reached: Any, play: "asyncio.Task[None]") -> None:
        await until(lambda: reached() or play.done(), FIRE_S, f"{self.cell.spot.name} is reached")
        if not reached():
            if play.exception() is not None:
                raise LabFailed(f"the scenario ended before the point was reached: {play.exception()}")
            # What is done after the last answer, such as a settlement, may still be on its way.
            await until(reached, FIRE_S, f"{self.cell.spot.name} is reached")

    # --- the fault ----------------------------------------------------------------------------------------

    async def _strike(self, catch: Catch | None, station: Station) -> None:
        spot, action = self.cell.spot, self.cell.action
        if spot.first == "hang-up":
            station.hang_up()
            await asyncio.sleep(0.05)  # the server shows nowhere that it has noticed; it reads the end in its next turn
        elif spot.first == "flush":
            await self._flush_redis()
        frozen: list[int] = []
        if catch is not None and isinstance(spot.at, OnLine) and spot.at.frozen:
            frozen = await self._freeze_commit(catch)
        await getattr(self, f"_{action}")()
        if spot.at == "half-frame":
            station.hang_up()
        if spot.first == "rival":
            await self._let_a_rival_settle()
        for pid in frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if catch is not None and action in ("kill", "term", "terminate", "postmaster", "link", "cut"):
            await self._line.reset()
        self.site.go_on()

    async def _kill(self) -> None:
        server = self._server
        if self._action != "kill" or not self.cell.spot.is_failpoint:
            server.signal(signal.SIGKILL)
        await server.wait_end(FIRE_S)

    async def _term(self) -> None:
        if self._action != "term" or not self.cell.spot.is_failpoint:
            self._server.signal(signal.SIGTERM)

    async def _stop(self) -> None:
        server = self._server
        if self._action != "stop" or not self.cell.spot.is_failpoint:
            server.signal(signal.SIGSTOP)
        await until(lambda: _state(server.pid) == "T", FIRE_S, "the server stands still")
        if self.cell.spot.first != "rival":
            await asyncio.sleep(self.draw.uniform(0.05, 0.4))  # the pause is the fault
            server.signal(signal.SIGCONT)

    async def _cancel(self) -> None:
        """Done by the point itself."""

    async def _cut(self) -> None:
        """At the very moment; what `_strike` does for every point on a line."""

    async def _raise(self) -> None:
        """Done by the point itself."""

    async def _terminate(self) -> None:
        """Ends the session that is in a unit of work; where none is, every session of the server."""
        async with self._books() as books:
            busy = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            busy += " AND application_name = 'voltledger'"
            pids = [r[0] for r in await books.fetch(busy + " AND state LIKE 'idle in transaction%'")]
            pids = pids or [r[0] for r in await books.fetch(busy)]
            for pid in pids:
                await books.fetchval("SELECT pg_terminate_backend($1, 2000)", pid)

    async def _postmaster(self) -> None:
        self.lab.kill_postgres()

    async def _link(self) -> None:
        """Breaks the line that the point is on, in the way that the seed draws."""
        line, way = self._line, self.cell.seed % 4
        if way == 1:
            await line.reset()
        elif way == 2:
            line.fault = Fault(mode=Mode.BLACK_HOLE)
        elif way == 3:
            line.fault = Fault(mode=Mode.HALF_OPEN)
        else:
            line.fault = Fault(latency_s=0.3)
        self.site.go_on()
        if way != 1:
            await asyncio.sleep(self.draw.uniform(0.5, 1.0))  # the outage is the fault
        if way in (2, 3):
            await line.reset()

    async def _let_a_rival_settle(self) -> None:
        """PostgreSQL takes the sleeper's session from it, as its own limit would; another node does the work."""
        await self._terminate()
        self.second = await self.site.start_second()
        await until(self._is_settled, FIRE_S, "the other node settles")
        self._server.signal(signal.SIGCONT)

    async def _freeze_commit(self, catch: Catch) -> list[int]:
        """Lets the COMMIT arrive at a session that is stopped: it has been sent, and nothing has been done."""
        async with self._books() as books:
            sql = (
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND state LIKE 'idle in transaction%'"
            )
            pids = [row[0] for row in await books.fetch(sql)]
        if not pids:
            raise LabFailed("no session is in a unit of work at the COMMIT")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        catch.go.set()
        await catch.passed.wait()
        return pids

    async def _flush_redis(self) -> None:
        from redis.asyncio import Redis

        async with Redis(host="127.0.0.1", port=self.lab.redis.port, password=self.lab.redis_password) as client:
            await client.flushall()

    async def _is_settled(self) -> bool:
        async with self._books() as books:
            return bool(await books.fetchval("SELECT count(*) FROM settlement"))

    # --- healing and judging --------------------------------------------------------------------------------

    @property
    def _server(self) -> Server:
        if self.site.server is None:
            raise LabFailed("no server runs")
        return self.site.server

    async def _heal(self) -> None:
        """Everything works again: PostgreSQL, the lines, the server, all without a fault."""
        if self.cell.action == "postmaster":
            self.lab.restart_postgres()
            self.site.repoint()
        for line in (self.site.line, self.lab.redis, self.site.wire):
            if line is not None:
                await line.heal()
        if self.cell.action in ("kill", "term") or self.cell.spot.scenario in ("restart", "migrate"):
            await self._restart_if_ended()
        self.healed.set()

    async def _restart_if_ended(self) -> None:
        if self.cell.action in ("kill", "term"):
            await self._server.wait_end(30)
        elif not self._server.ended:
            # A fault during the start either ends the server or does not; both are fine, and it shows soon.
            with contextlib.suppress(LabFailed):
                await until(lambda: self._server.ended, 1.0, "the server gives up its start")
            if not self._server.ended:
                return
        await self.site.kill()
        await self.site.start()

    async def _judge(self, stage: Stage) -> None:
        async with self._books() as books:
            await wait_until_quiet(self.site)
            expected = Expected(topped_up_minor=stage.topped_up_minor, poison=bool(self.cell.spot.also))
            self.outcome.problems.extend(await differences(books, self.site.journal, expected))
        self.outcome.problems.extend(await second_opinion(self.site.dsn, self.site.journal))

    @asynccontextmanager
    async def _books(self) -> AsyncIterator[Any]:
        connection = await self.site.books()
        try:
            yield connection
        finally:
            await connection.close()


LEFT = """
    SELECT format('job %s %s: %s', subject, state, last_error) FROM job WHERE state <> 'done'
    UNION ALL SELECT format('effect %s waits', effect_key) FROM outbox WHERE state = 'waiting'
    UNION ALL SELECT format('command %s is %s', action, state) FROM command WHERE state IN ('queued', 'sending')
    UNION ALL SELECT format('session %s is %s', transaction_ref, status) FROM charging_session
              WHERE status IN ('PENDING', 'ONGOING', 'ORPHANED')"""


async def wait_until_quiet(site: Site) -> None:
    """Waits until nothing waits in the books, and the server has nothing that is not in the books yet."""

    async def is_quiet() -> bool:
        return await _is_quiet(books) and await _has_nothing(site) and await _is_quiet(books)

    books = await site.books()
    try:
        await until(is_quiet, PATIENCE_S, "nothing is left to do")
    except LabFailed as problem:
        left = await books.fetch(LEFT)
        raise LabFailed(f"{problem}; left: {'; '.join(row[0] for row in left) or 'nothing in the books'}") from None
    finally:
        await books.close()


async def _has_nothing(site: Site) -> bool:
    try:
        async with site.api() as api:
            health = (await api.get(f"http://127.0.0.1:{site.http_port}/health")).json()
    except httpx.TransportError:
        return False
    return bool(health["database"] == "ok" and health["journal"] == 0)


async def _is_quiet(books: Any) -> bool:
    """Nothing waits; what waits for a later moment gets it now, since the passing of time is no part of a cell."""
    await books.execute("UPDATE job SET run_after = now() WHERE state = 'waiting' AND run_after > now()")
    await books.execute("UPDATE outbox SET run_after = now() WHERE state = 'waiting' AND run_after > now()")
    return bool(
        await books.fetchval(
            """SELECT NOT EXISTS (SELECT 1 FROM job WHERE state = 'waiting')
               AND NOT EXISTS (SELECT 1 FROM outbox WHERE state = 'waiting')
               AND NOT EXISTS (SELECT 1 FROM command WHERE state IN ('queued', 'sending'))
               AND NOT EXISTS (SELECT 1 FROM charging_session WHERE status IN ('PENDING', 'ONGOING', 'ORPHANED'))"""
        )
    )


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


async def _end(*tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
