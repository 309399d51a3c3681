"""Crash loops, rolling restarts, commands, and backups that are restored: R-11 to R-13, O-05.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.restarts --scale 0.1 --only R-11

A real server on a real PostgreSQL, 50 stations on real sockets. One node: two behind one address come with a later
issue. Exit status 1 if anything differs.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from tools.laboratory.cell import run_cell, wait_until_quiet
from tools.laboratory.desk import PASSWORD, enlist
from tools.laboratory.points import cells
from tools.laboratory.proofs import Promise, Proof, Task, command
from tools.laboratory.replays import check_books, end_all
from tools.laboratory.station import Station
from tools.laboratory.verdict import absent_answers
from tools.laboratory.world import TOKEN, Lab, LabFailed, Site, until
from voltledger.checker import judge, verify
from voltledger.simulator.journal import Journal

STATIONS = 50
PACE_S = 0.25
"""Between two messages of one station."""
CRASH_LOOP_S = 600.0
BACK_S = 60.0
COMMAND_POINTS = frozenset((50, 51, 52))


class Fleet:
    """Stations that charge car after car until they are told to stop."""

    def __init__(self, names: Sequence[str], url: str, journal: Journal, draw: random.Random) -> None:
        self.stations = [
            Station(
                name,
                lambda: PASSWORD,
                lambda: url,
                journal,
                message_ids=draw.choice(("unique", "counter")),
                reconnect_s=lambda: draw.uniform(0.1, 0.5),
            )
            for name in names
        ]
        self.stopping = False
        self.facts = 0
        self.sessions = 0
        self._draw = draw
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        """Everybody connects and charges."""
        self._tasks = [asyncio.create_task(one.run()) for one in self.stations]
        self._tasks += [asyncio.create_task(self._charge(one)) for one in self.stations]

    async def end(self) -> None:
        """Hangs up."""
        await end_all(self._tasks)

    def check(self) -> None:
        """Raises what a station failed with."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                raise LabFailed(f"a station failed: {task.exception()!r}")

    @property
    def is_online(self) -> bool:
        """Whether all are connected."""
        return all(one.online.is_set() for one in self.stations)

    @property
    def is_quiet(self) -> bool:
        """Whether all cars have left and everything is answered."""
        done = all(task.done() for task in self._tasks[len(self.stations) :])
        return done and all(one.is_quiet for one in self.stations)

    def judge(self, proof: Proof) -> None:
        """What must not be done to a station."""
        self.check()
        for name in ("refused", "discarded", "timed_out"):
            count = sum(getattr(one, name) for one in self.stations)
            if count:
                proof.differ(f"{count} transaction messages {name.replace('_', ' ')}")

    async def _charge(self, station: Station) -> None:
        draw = random.Random(self._draw.random())
        register = draw.randrange(100_000)
        clock = datetime.now(UTC) - timedelta(hours=1)
        await asyncio.sleep(draw.uniform(0, 1))
        while not self.stopping:
            self.sessions += 1
            visit = station.begin(connector=1, token=TOKEN, register_wh=register, at=clock)
            second = 0
            for _ in range(draw.randint(1, 4)):
                second += 1
                register += draw.randint(1, 300)
                await self._answered(station.meter(visit, register, second / 60), draw)
            register += draw.randint(0, 50)
            await self._answered(station.end(visit, register, (second + 1) / 60), draw)
            clock += timedelta(seconds=second + 2)

    async def _answered(self, fact: Any, draw: random.Random) -> None:
        await fact.answered.wait()
        self.facts += 1
        await asyncio.sleep(PACE_S * draw.uniform(0.2, 1.8))


@asynccontextmanager
async def charging(site: Site, count: int, seed: int) -> AsyncIterator[Fleet]:
    """A started server and a fleet that charges."""
    names = await enlist(site, "RUN-", count)
    with Journal(site.journal) as journal:
        fleet = Fleet(names, f"ws://127.0.0.1:{site.ocpp_port}", journal, random.Random(seed))
        await site.start()
        await until(site.listens, 20, "the server listens")
        fleet.begin()
        try:
            await until(lambda: fleet.is_online, BACK_S, "all stations are connected")
            yield fleet
        finally:
            await fleet.end()


async def drained(site: Site, fleet: Fleet) -> float:
    """Lets the cars leave and waits until nothing waits any more; how long that took in seconds."""
    began = time.monotonic()
    fleet.stopping = True
    await until(lambda: fleet.is_quiet, BACK_S, "every queue of a station is empty")
    await wait_until_quiet(site)
    return time.monotonic() - began


# --- R-11 -----------------------------------------------------------------------------------------------------------


async def crash_loop(lab: Lab, task: Task, proof: Proof) -> None:
    """kill -9 every 0.2 to 2 s, half of them counted from the start of the process, half from when it listens."""
    draw = random.Random(f"crashes/{task.seed}")
    kills = early = 0
    async with lab.site() as site, charging(site, task.of(STATIONS, 10), task.seed) as fleet:
        over = time.monotonic() + max(6.0, CRASH_LOOP_S * task.scale)
        while time.monotonic() < over:
            if draw.random() < 0.5:
                # Counted from its first handshake on: a start that is slower than the kills would never serve.
                await until(lambda: site.listens() or time.monotonic() > over, BACK_S, "the server listens")
            await asyncio.sleep(draw.uniform(0.2, 2.0))
            early += not site.listens()
            await site.kill()
            kills += 1
            await site.start()
            fleet.check()
        at_last = fleet.facts
        took = await drained(site, fleet)
        books = await site.books()
        try:
            for absent in await absent_answers(books, site.journal):
                proof.differ(absent)
        finally:
            await books.close()
        fleet.judge(proof)
        await check_books(site, proof, [site.journal])
    if took > BACK_S:
        proof.differ(f"the queues were empty only {took:.0f} s after the last kill")
    proof.figure = (
        f"{kills} kills ({early} while the server started), {len(fleet.stations)} stations, {at_last} messages "
        f"answered meanwhile in {fleet.sessions} sessions, all queues empty {took:.1f} s after the last kill"
    )


# --- R-12 -----------------------------------------------------------------------------------------------------------


async def rolling_restarts(lab: Lab, task: Task, proof: Proof) -> None:
    """SIGTERM under load; the next server on the same addresses."""
    count = task.of(50, 3)
    slowest = 0.0
    async with lab.site() as site, charging(site, STATIONS if task.scale >= 0.2 else 10, task.seed) as fleet:
        for _ in range(count):
            await asyncio.sleep(0.5)
            server = site.server
            if server is None or server.ended:
                raise LabFailed("the server ended by itself")
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            await server.wait_end(30)
            await site.kill()
            await site.start()
            await until(lambda: fleet.is_online, BACK_S, "all stations are back")
            slowest = max(slowest, time.monotonic() - began)
            fleet.check()
        await drained(site, fleet)
        fleet.judge(proof)
        await check_books(site, proof, [site.journal])
    proof.figure = (
        f"{count} restarts of one node under load, {len(fleet.stations)} stations, {fleet.facts} messages in "
        f"{fleet.sessions} sessions, all stations back within {slowest:.1f} s of SIGTERM"
    )


# --- R-13 -----------------------------------------------------------------------------------------------------------


async def command_points(lab: Lab, task: Task, proof: Proof) -> None:
    """The crash matrix' points of commands, killed there."""
    wanted = list(cells(("kill",), task.of(2), COMMAND_POINTS))
    missing = COMMAND_POINTS - {cell.point.number for cell in wanted}
    if missing:
        proof.differ(f"the crash matrix has no cells for the points {sorted(missing)}")
    for cell in wanted:
        outcome = await run_cell(lab, cell)
        if not outcome.ok:
            proof.differ(f"{cell.id}: {'; '.join(outcome.problems) or 'never fired'}")
    spots = sorted({cell.spot.name for cell in wanted})
    proof.figure = f"{len(wanted)} cells of tools.laboratory.matrix, kill at {', '.join(spots)}"


# --- O-05 -----------------------------------------------------------------------------------------------------------


async def backups(lab: Lab, task: Task, proof: Proof) -> None:
    """Dumps while stations charge, each restored into a database of its own and judged there."""
    programs = Path(os.readlink(f"/proc/{lab.postgres.pid}/exe")).parent
    count = task.of(10, 2)
    seen: list[int] = []
    async with lab.site() as site, charging(site, task.of(STATIONS, 10), task.seed) as fleet:
        with tempfile.TemporaryDirectory(prefix="vl-backup-") as folder:
            for number in range(count):
                await asyncio.sleep(1.0)
                seen.append(await _dump_and_restore(lab, site, programs, Path(folder) / f"{number}", number, proof))
        await drained(site, fleet)
        fleet.judge(proof)
        await check_books(site, proof, [site.journal])
    if len(set(seen)) < 2:
        proof.differ(f"the dumps hold {seen} facts: nothing was recorded between them")
    proof.figure = (
        f"{count} dumps (pg_dump) under load, each restored and judged; {seen[0]} to {seen[-1]} facts in them. "
        "Point-in-time recovery from WAL is not proved here"
    )


async def _dump_and_restore(lab: Lab, site: Site, programs: Path, file: Path, number: int, proof: Proof) -> int:
    """One round; how many facts the restored database holds."""
    name = f"restored_{number}"
    await _run(programs / "pg_dump", "-Fc", "-f", str(file), "-d", _plain(site.dsn))
    await lab.admin(f"CREATE DATABASE {name}")
    try:
        await _run(programs / "pg_restore", "--exit-on-error", "-d", _plain(lab.dsn(name)), str(file))
        for verdict in (await judge(lab.dsn(name)), await verify(lab.dsn(name))):
            for difference in verdict.differences:
                proof.differ(f"dump {number}: {difference}")
        return await _facts_in(lab, name)
    finally:
        await lab.admin(f"DROP DATABASE {name} WITH (FORCE)")


async def _facts_in(lab: Lab, name: str) -> int:
    books = await asyncpg.connect(lab.dsn(name))
    try:
        return int(await books.fetchval("SELECT count(*) FROM inbox"))
    finally:
        await books.close()


def _plain(dsn: str) -> str:
    """An address as libpq reads it."""
    return dsn.replace("postgres://", "postgresql://")


async def _run(program: Path, *words: str) -> None:
    """Runs a program of PostgreSQL. Raises: LabFailed with what it says."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    environ["LD_LIBRARY_PATH"] = str(program.parent.parent / "lib")
    process = await asyncio.create_subprocess_exec(
        str(program), *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environ
    )
    _, said = await process.communicate()
    if process.returncode:
        raise LabFailed(f"{program.name}: {said.decode(errors='replace')[-500:]}")


PROMISES = [
    Promise(name="R-11", target="10 min of kills: then all queues empty <= 60 s, clean", work=crash_loop),
    Promise(name="R-12", target="50 restarts: 0 lost, 0 CALLERROR, all stations back <= 60 s", work=rolling_restarts),
    Promise(name="R-13", target="0 commands sent twice; unknown is shown as unknown", work=command_points),
    Promise(name="O-05", target="10 restores: consistent", work=backups),
]


def main() -> int:
    """The command line."""
    return command(__doc__ or "", PROMISES)


if __name__ == "__main__":
    sys.exit(main())
