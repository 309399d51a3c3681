"""O-01 and O-02: PostgreSQL or Redis goes away, in each of its ways, while stations charge.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.outages --seconds 1,5,30

During each outage stations begin, meter and end sessions. Afterwards: no transaction message was refused, none
timed out, none was given up; the journal is empty; the independent checker finds no difference. `--hold` is the
server's VOLTLEDGER_HOLD_S. Exit status 1 if anything differs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from tools.laboratory.proxy import Fault, Mode
from tools.laboratory.station import Station
from tools.laboratory.world import TOKEN, Lab, Site, laboratory, until
from voltledger.bootstrap import open_catalog
from voltledger.checker import judge
from voltledger.config import Settings
from voltledger.simulator.journal import Journal

PACE_S = 0.15
"""Between two messages of one station."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one outage did. Times in seconds, memory in MiB."""

    kind: str
    seconds: float
    hold_s: float
    sessions: int = 0
    facts: int = 0
    answered_while_away: int = 0
    degraded: bool = False
    journal_at_most: int = 0
    back_s: float = 0.0
    timed_out: int = 0
    refused: int = 0
    discarded: int = 0
    resident_before: float = 0.0
    resident_after: float = 0.0
    differences: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether every promise held."""
        return not (self.differences or self.timed_out or self.refused or self.discarded)


# --- ways to be away ------------------------------------------------------------------------------------------


@asynccontextmanager
async def _restart(lab: Lab, site: Site) -> AsyncIterator[None]:
    """PostgreSQL is shut down in order, and started again."""
    await asyncio.to_thread(lab.postgres.stop)
    yield
    lab.restart_postgres()
    site.repoint()


@asynccontextmanager
async def _kill(lab: Lab, site: Site) -> AsyncIterator[None]:
    lab.kill_postgres()
    yield
    lab.restart_postgres()
    site.repoint()


@asynccontextmanager
async def _freeze(lab: Lab, site: Site) -> AsyncIterator[None]:
    """Every process of PostgreSQL stands still: connections stay open and nothing answers."""
    family = lab.processes()
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def _black_hole(lab: Lab, site: Site) -> AsyncIterator[None]:
    """Packets vanish between the server and PostgreSQL."""
    site.line.fault = Fault(mode=Mode.BLACK_HOLE)
    yield
    await site.line.heal()


@asynccontextmanager
async def _reset(lab: Lab, site: Site) -> AsyncIterator[None]:
    """Nothing listens where PostgreSQL was."""
    await site.line.down()
    yield
    await site.line.heal()


@asynccontextmanager
async def _terminate(lab: Lab, site: Site) -> AsyncIterator[None]:
    """Somebody ends every session of the database, again and again."""

    async def again() -> None:
        connection = await asyncpg.connect(lab.dsn("postgres"))
        try:
            while True:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", site.database
                )
                await asyncio.sleep(0.05)
        finally:
            await connection.close()

    task = asyncio.create_task(again())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _read_only(lab: Lab, site: Site) -> AsyncIterator[None]:
    """The database takes no writes, as a replica does after a fail-over."""
    await lab.admin(f"ALTER DATABASE {site.database} SET default_transaction_read_only = on")
    await _end_sessions(lab, site)
    yield
    await lab.admin(f"ALTER DATABASE {site.database} RESET default_transaction_read_only")
    await _end_sessions(lab, site)


@asynccontextmanager
async def _no_connections(lab: Lab, site: Site) -> AsyncIterator[None]:
    """Every connection that PostgreSQL allows is somebody else's."""
    taken: list[Any] = []
    ended = False
    while not ended:
        try:
            taken.append(await asyncpg.connect(lab.dsn("postgres"), timeout=5))
        except asyncpg.TooManyConnectionsError:
            # Full: now the server's own are ended, and whoever is quicker gets their places.
            ours = await taken[0].fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", site.database
            )
            ended = not ours
    yield
    await asyncio.gather(*(connection.close() for connection in taken))


async def _end_sessions(lab: Lab, site: Site) -> None:
    await lab.admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{site.database}'")


@asynccontextmanager
async def _redis_gone(lab: Lab, site: Site) -> AsyncIterator[None]:
    await lab.redis.down()
    yield
    await lab.redis.heal()


@asynccontextmanager
async def _redis_black_hole(lab: Lab, site: Site) -> AsyncIterator[None]:
    lab.redis.fault = Fault(mode=Mode.BLACK_HOLE)
    yield
    await lab.redis.heal()


POSTGRES: dict[str, Callable[[Lab, Site], Any]] = {
    "restart": _restart,
    "kill": _kill,
    "freeze": _freeze,
    "black-hole": _black_hole,
    "reset": _reset,
    "terminate": _terminate,
    "read-only": _read_only,
    "no-connections": _no_connections,
}
REDIS: dict[str, Callable[[Lab, Site], Any]] = {
    "redis-gone": _redis_gone,
    "redis-black-hole": _redis_black_hole,
}


# --- one outage -------------------------------------------------------------------------------------------------


async def outage(lab: Lab, kind: str, seconds: float, *, hold_s: float, stations: int, seed: int) -> Outcome:
    """Charges, takes a server away for a while, brings it back, waits until all is quiet, and judges."""
    found = Outcome(kind=kind, seconds=seconds, hold_s=hold_s)
    away = (POSTGRES | REDIS)[kind]
    async with lab.site(VOLTLEDGER_HOLD_S=hold_s) as site:
        passwords = await _register(lab, site, stations)
        server = await site.start()
        await until(site.listens, 20, "the server listens")
        await until(lambda: _health(site, database="ok", redis="ok"), 20, "the server is ready")
        journal = Journal(site.journal)
        fleet = [Station(name, partial(passwords.__getitem__, name), lambda: site.url, journal) for name in passwords]
        lines = [asyncio.create_task(station.run()) for station in fleet]
        stop = asyncio.Event()
        visits = [
            asyncio.create_task(_charge(station, random.Random(f"{seed}-{station.name}"), found, stop))
            for station in fleet
        ]
        watch = asyncio.create_task(_watch(site, found))
        try:
            await asyncio.sleep(1.0)
            found.resident_before = _resident(server.pid)
            async with away(lab, site):
                before = found.facts
                await asyncio.sleep(seconds)
                found.answered_while_away = found.facts - before
            back = time.monotonic()
            await until(lambda: _health(site, status="ok"), 60, "the server is well again")
            found.back_s = round(time.monotonic() - back, 2)
            await asyncio.sleep(0.5)
            stop.set()
            await _first_failure(asyncio.gather(*visits), lines)
            await until(lambda: all(station.is_quiet for station in fleet), 60, "every message is answered")
            found.resident_after = _resident(server.pid)
            await until(lambda: _settled(lab, site), 60, "everything is settled")
        finally:
            for task in (watch, *lines, *visits):
                task.cancel()
            await asyncio.gather(watch, *lines, *visits, return_exceptions=True)
        journal.close()
        found.timed_out = sum(station.timed_out for station in fleet)
        found.refused = sum(station.refused for station in fleet)
        found.discarded = sum(station.discarded for station in fleet)
        verdict = await judge(lab.dsn(site.database), [site.journal])
        found.differences = [str(difference) for difference in verdict.differences]
    return found


async def _first_failure(work: "asyncio.Future[Any]", lines: list["asyncio.Task[None]"]) -> None:
    """Waits for work; a station that fails meanwhile fails it."""
    done, _ = await asyncio.wait({work, *lines}, return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()


async def _register(lab: Lab, site: Site, count: int) -> dict[str, str]:
    settings = Settings(data=site.folder, log_file=site.folder / "registration-log")
    passwords = {}
    async with open_catalog(settings, lab.dsn(site.database)) as catalog:
        for number in range(count):
            added = await catalog.add_station(id=f"OUT-{number:03}", connectors=1)
            passwords[f"OUT-{number:03}"] = str(added.password)
    return passwords


async def _charge(station: Station, chance: random.Random, found: Outcome, stop: asyncio.Event) -> None:
    """One car after the other, each message when the one before is answered."""
    register = chance.randrange(1_000_000)
    while not stop.is_set():
        found.sessions += 1
        visit = station.begin(connector=1, token=TOKEN, register_wh=register)
        for minute in range(1, chance.randint(2, 8)):
            register += chance.randint(1, 900)
            await _answered(station.meter(visit, register, minute), found)
            await asyncio.sleep(PACE_S * chance.uniform(0.5, 1.5))
        register += chance.randint(0, 50)
        await _answered(station.end(visit, register, 18.0), found)


async def _answered(fact: Any, found: Outcome) -> None:
    await fact.answered.wait()
    found.facts += 1


async def _watch(site: Site, found: Outcome) -> None:
    """What an operator would see meanwhile."""
    while True:
        health = await asyncio.to_thread(_read_health, site)
        if health is not None:
            found.degraded |= health["status"] == "degraded"
            found.journal_at_most = max(found.journal_at_most, health["journal"])
        await asyncio.sleep(0.1)


def _read_health(site: Site) -> Any:
    with contextlib.suppress(httpx.HTTPError, ValueError):
        return httpx.get(f"http://127.0.0.1:{site.http_port}/health", timeout=3, trust_env=False).json()
    return None


async def _health(site: Site, **wanted: str) -> bool:
    health = await asyncio.to_thread(_read_health, site)
    return health is not None and all(health[name] == value for name, value in wanted.items())


async def _settled(lab: Lab, site: Site) -> bool:
    books = await site.books()
    try:
        return bool(
            await books.fetchval(
                "SELECT NOT EXISTS (SELECT 1 FROM job WHERE state = 'waiting') AND NOT EXISTS (SELECT 1 "
                "FROM charging_session WHERE status IN ('PENDING', 'ONGOING', 'ORPHANED') OR settled_at IS NULL)"
            )
        )
    finally:
        await books.close()


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


async def run(kinds: list[str], seconds: list[float], *, hold_s: float, stations: int, seed: int) -> list[Outcome]:
    """Every kind for every time, one after the other in one laboratory; prints as it goes."""
    found = []
    async with laboratory() as lab:
        for kind in kinds:
            for length in seconds:
                one = await outage(lab, kind, length, hold_s=hold_s, stations=stations, seed=seed)
                found.append(one)
                print(_line(one), flush=True)
    return found


def _line(one: Outcome) -> str:
    verdict = "well" if one.is_well else "; ".join(one.differences[:3]) or "attempts were spent"
    return (
        f"{one.kind:18} {one.seconds:6.0f} s  {one.sessions:5} sessions {one.facts:6} facts, "
        f"{one.answered_while_away:5} answered meanwhile, journal <= {one.journal_at_most:5}, "
        f"back {one.back_s:5.1f} s, "
        f"timeouts {one.timed_out} refused {one.refused} discarded {one.discarded}: {verdict}"
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(POSTGRES | REDIS), help="which outages; all by default")
    parser.add_argument("--seconds", default="1,5,30", help="how long each lasts")
    parser.add_argument("--hold", type=float, default=8.0, help="VOLTLEDGER_HOLD_S of the server")
    parser.add_argument("--stations", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the figures go")
    given = parser.parse_args()
    found = asyncio.run(
        run(
            given.kinds.split(","),
            [float(one) for one in given.seconds.split(",")],
            hold_s=given.hold,
            stations=given.stations,
            seed=given.seed,
        )
    )
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    return 0 if all(one.is_well for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
