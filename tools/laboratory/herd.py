"""Thousands of stations at once: all return after an outage (O-03), and all charge through one (the memory of issue 3).

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.herd --only O-03-closed --stations 5000
    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.herd --only memory --stations 2000 --away 600

The stations live in two processes of their own. PostgreSQL goes away behind a proxy that refuses connections.
`O-03-closed` has no journal: every socket is closed, and all come back. `O-03-journal` keeps one, and the server is
killed and started again at the end of the outage, so that all come back while the journal is drained. Exit status 1
if anything differs.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tools.laboratory.desk import PASSWORD, enlist
from tools.laboratory.proofs import Promise, Proof, Task, command
from tools.laboratory.replays import books_say, check_books, end_all
from tools.laboratory.station import Station
from tools.laboratory.world import TOKEN, Lab, LabFailed, Site, until
from voltledger.simulator.journal import Journal

PROCESSES = 2
BACK_S = 600.0
GROWTH_MIB = 50.0
PER_STATION_KIB = 150.0
"""What a connected station may cost the server at most, beyond what it needs without one."""


# --- the processes of the stations ------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Counts:
    """What the stations of all processes are about."""

    online: int = 0
    quiet: int = 0
    facts: int = 0
    refused: int = 0
    timed_out: int = 0
    discarded: int = 0


class Herd:
    """The other end of the stations' processes."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process], journals: Sequence[Path], count: int) -> None:
        self.journals = list(journals)
        self.count = count
        self._processes = processes
        self._latest: list[dict[str, int]] = [{} for _ in processes]
        self._readers = [asyncio.create_task(self._read(n, one)) for n, one in enumerate(processes)]

    @property
    def counts(self) -> Counts:
        """The sums of what the processes said last, twice a second."""
        return Counts(**{key: sum(one.get(key, 0) for one in self._latest) for key in Counts.__slots__})

    async def say(self, word: str) -> None:
        """Tells all processes: `charge` or `leave`."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write(word.encode() + b"\n")
                await process.stdin.drain()

    async def close(self) -> None:
        """Ends them."""
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), 30)
            except TimeoutError:
                process.kill()
                await process.wait()
        await end_all(self._readers)

    async def _read(self, number: int, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while line := await process.stdout.readline():
            self._latest[number] = json.loads(line)


@asynccontextmanager
async def herd(site: Site, count: int, pace_s: float, seed: int) -> AsyncIterator[Herd]:
    """So many registered stations that connect at once, in `PROCESSES` processes."""
    names = await enlist(site, "HERD-", count)
    processes, journals = [], []
    for number in range(PROCESSES):
        journal = site.folder / f"herd-{number}.jsonl"
        order = {
            "names": names[number::PROCESSES],
            "url": f"ws://127.0.0.1:{site.ocpp_port}",
            "journal": str(journal),
            "pace_s": pace_s,
            "seed": seed,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tools.laboratory.herd", "--stations-of"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(os.environ) | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            cwd=Path(__file__).parents[2],
        )
        processes.append(process)
        journals.append(journal)
        if process.stdin is not None:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            await process.stdin.drain()
    found = Herd(processes, journals, count)
    try:
        yield found
    finally:
        await found.close()


class _Stations:
    """One process of stations: each charges one car, from `charge` to `leave`."""

    def __init__(self, order: dict[str, Any], journal: Journal) -> None:
        self._draw = random.Random(f"{order['seed']}/{order['names'][0]}")
        self._pace_s = order["pace_s"]
        self._leaving = asyncio.Event()
        self._facts = 0
        self._waits: set[asyncio.Task[None]] = set()
        self.stations = [
            Station(
                name,
                lambda: PASSWORD,
                lambda: order["url"],
                journal,
                # As firmware does that has been refused: a few seconds, not all alike.
                reconnect_s=lambda: self._draw.uniform(1.0, 6.0),
            )
            for name in order["names"]
        ]
        self.tasks = [asyncio.create_task(one.run()) for one in self.stations]

    def obey(self, word: str) -> None:
        """What the other end wants."""
        if word == "charge":
            self.tasks += [asyncio.create_task(self._charge(one)) for one in self.stations]
        else:
            self._leaving.set()

    def report(self) -> dict[str, int]:
        """The figures."""
        for task in self.tasks:
            if task.done() and task.exception() is not None:
                raise LabFailed(f"a station failed: {task.exception()!r}")
        return {
            "online": sum(one.online.is_set() for one in self.stations),
            "quiet": sum(one.is_quiet for one in self.stations),
            "facts": self._facts,
            "refused": sum(one.refused for one in self.stations),
            "timed_out": sum(one.timed_out for one in self.stations),
            "discarded": sum(one.discarded for one in self.stations),
        }

    async def _charge(self, station: Station) -> None:
        draw = random.Random(self._draw.random())
        register = draw.randrange(100_000)
        began = datetime.now(UTC) - timedelta(seconds=1)
        visit = station.begin(connector=1, token=TOKEN, register_wh=register, at=began)
        while not self._leaving.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), self._pace_s * draw.uniform(0.5, 1.5))
                break
            register += draw.randint(1, 30)
            # A station samples whether or not it is heard: what it says waits in its queue.
            fact = station.meter(visit, register, (datetime.now(UTC) - began).total_seconds() / 60)
            self._later(fact)
        await asyncio.sleep(draw.uniform(0, 5))
        self._later(station.end(visit, register, (datetime.now(UTC) - began).total_seconds() / 60))

    def _later(self, fact: Any) -> None:
        async def wait() -> None:
            await fact.answered.wait()
            self._facts += 1

        waiting = asyncio.create_task(wait())
        self._waits.add(waiting)
        waiting.add_done_callback(self._waits.discard)


async def _be_stations() -> None:
    """The process of the stations: orders on the standard input, figures on the standard output."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = json.loads(await reader.readline())
    with Journal(order["journal"]) as journal:
        stations = _Stations(order, journal)

        async def tell() -> None:
            while True:
                print(json.dumps(stations.report()), flush=True)
                await asyncio.sleep(0.5)

        telling = asyncio.create_task(tell())
        try:
            while not telling.done() and (line := await reader.readline()):
                stations.obey(line.decode().strip())
        finally:
            await end_all([telling, *stations.tasks])


# --- the server, seen from outside --------------------------------------------------------------------------------


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def journal_mib(site: Site) -> float:
    """Size of the server's journal with its log."""
    files = (site.folder / "data" / "journal").glob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20


async def _all_online(flock: Herd, site: Site, what: str) -> float:
    """Waits until every station is connected; seconds."""
    began = time.monotonic()
    server = site.server

    def is_done() -> bool:
        if server is not None and server.ended:
            raise LabFailed("the server ended by itself")
        return flock.counts.online == flock.count

    await until(is_done, BACK_S, what)
    return time.monotonic() - began


async def _drained(flock: Herd, site: Site) -> float:
    """Cars leave; waits until every message is answered, recorded and settled; seconds."""
    began = time.monotonic()
    await flock.say("leave")
    await asyncio.sleep(6)  # cars leave within five seconds
    await until(lambda: flock.counts.quiet == flock.count, BACK_S, "every message is answered")
    await until(lambda: _settled(site), BACK_S, "everything is settled")
    return time.monotonic() - began


async def _settled(site: Site) -> bool:
    rows = await books_say(
        site,
        "SELECT NOT EXISTS (SELECT 1 FROM job WHERE state = 'waiting') AND NOT EXISTS (SELECT 1 "
        "FROM charging_session WHERE status IN ('PENDING', 'ONGOING', 'ORPHANED') OR settled_at IS NULL)",
    )
    await asyncio.sleep(0.3)
    return bool(rows[0][0])


async def _journal_is_empty(site: Site) -> bool:
    await asyncio.sleep(0.2)
    with contextlib.suppress(Exception):
        async with site.api() as api:
            health = (await api.get(f"http://127.0.0.1:{site.http_port}/health")).json()
            return bool(health["status"] == "ok" and health["journal"] == 0)
    return False


def _judge_manners(flock: Herd, proof: Proof) -> None:
    counts = flock.counts
    for name in ("refused", "discarded", "timed_out"):
        if getattr(counts, name):
            proof.differ(f"{getattr(counts, name)} transaction messages {name.replace('_', ' ')}")


# --- O-03 -----------------------------------------------------------------------------------------------------------


async def herd_closed(lab: Lab, task: Task, proof: Proof) -> None:
    """Without a journal: every socket is closed in the outage, and all return at once."""
    await _herd_returns(lab, task, proof, with_journal=False)


async def herd_journal(lab: Lab, task: Task, proof: Proof) -> None:
    """With the journal: the server is killed and started at the end of the outage, and all return at once."""
    await _herd_returns(lab, task, proof, with_journal=True)


async def _herd_returns(lab: Lab, task: Task, proof: Proof, *, with_journal: bool) -> None:
    count, away_s = task.of(task.options.herd, 20), task.options.closed
    async with (
        lab.site(VOLTLEDGER_JOURNAL="on" if with_journal else "off") as site,
        herd(site, count, pace_s=20.0, seed=task.seed) as flock,
    ):
        server = await site.start()
        first_s = await _all_online(flock, site, "all stations are connected")
        before = resident_mib(server.pid)
        await flock.say("charge")
        await asyncio.sleep(10)
        await site.line.down()
        least = count
        over = time.monotonic() + away_s
        while time.monotonic() < over:
            least = min(least, flock.counts.online)
            await asyncio.sleep(0.5)
        if with_journal:
            await site.kill()
            server = await site.start()
            await asyncio.sleep(1)
        elif least:
            proof.differ(f"{least} stations stayed connected: they did not all return")
        await site.line.heal()
        highest = resident_mib(server.pid)
        watch = asyncio.create_task(_highest(server.pid, highest))
        back_s = await _all_online(flock, site, "all stations are back")
        drained_s = await _drained(flock, site)
        highest = await _stop(watch)
        after = resident_mib(server.pid)
        if highest > 150 + count * PER_STATION_KIB / 1024:
            proof.differ(f"the server needed {highest:.0f} MiB for {count} stations")
        _judge_manners(flock, proof)
        await check_books(site, proof, flock.journals)
    proof.figure = (
        f"{count} stations, {'journal, server killed at the end' if with_journal else 'no journal'}, {away_s:.0f} s "
        f"away: first connected in {first_s:.0f} s, all back {back_s:.0f} s after the outage, drained and settled "
        f"{drained_s:.0f} s later; RSS {before:.0f} MiB before, {highest:.0f} at most, {after:.0f} after"
    )


async def _highest(pid: int, known: float) -> float:
    try:
        while True:
            known = max(known, resident_mib(pid))
            await asyncio.sleep(0.2)
    except asyncio.CancelledError:
        return known


async def _stop(watch: "asyncio.Task[float]") -> float:
    watch.cancel()
    return await watch


# --- memory -----------------------------------------------------------------------------------------------------------


async def memory(lab: Lab, task: Task, proof: Proof) -> None:
    """Stations charge through an outage with the journal; the server's memory stays as it is."""
    count, away_s, pace_s = task.of(task.options.stations, 20), task.options.away, task.options.pace
    async with lab.site() as site, herd(site, count, pace_s=pace_s, seed=task.seed) as flock:
        server = await site.start()
        await _all_online(flock, site, "all stations are connected")
        await flock.say("charge")
        await asyncio.sleep(max(10.0, pace_s * 1.5))
        before, facts = resident_mib(server.pid), flock.counts.facts
        await site.line.down()
        # The journal takes over after the hold time; what it costs to begin with is no growth.
        await asyncio.sleep(away_s / 2)
        middle = resident_mib(server.pid)
        await asyncio.sleep(away_s / 2)
        end, size = resident_mib(server.pid), journal_mib(site)
        facts = flock.counts.facts - facts
        online = flock.counts.online
        await site.line.heal()
        began = time.monotonic()
        await until(lambda: _journal_is_empty(site), BACK_S, "the journal is drained")
        empty_s = time.monotonic() - began
        await _drained(flock, site)
        after = resident_mib(server.pid)
        if online != count:
            proof.differ(f"{count - online} stations were not connected at the end of the outage")
        if not facts or not size:
            proof.differ("nothing was journaled: the proof proves nothing")
        for name, value in (("at the middle", middle), ("at the end", end), ("after it", after)):
            if value - before > GROWTH_MIB:
                proof.differ(f"the server grew by {value - before:.0f} MiB {name}")
        _judge_manners(flock, proof)
        await check_books(site, proof, flock.journals)
    proof.figure = (
        f"{count} stations charging through {away_s:.0f} s with the journal: {facts} messages answered meanwhile, "
        f"journal {size:.1f} MiB, drained in {empty_s:.1f} s; RSS {before:.0f} MiB before, {middle:.0f} at the middle, "
        f"{end:.0f} at the end, {after:.0f} after"
    )


PROMISES = [
    Promise(name="O-03-closed", target="5,000 return: no crash, all drained, nobody locked out", work=herd_closed),
    Promise(name="O-03-journal", target="5,000 return: no crash, all drained, nobody locked out", work=herd_journal),
    Promise(name="memory", target="2,000 stations through 10 min: growth <= 50 MiB, clean", work=memory),
]


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--herd", type=int, default=5_000, help="stations of O-03")
    parser.add_argument("--closed", type=float, default=30.0, help="seconds without PostgreSQL in O-03")
    parser.add_argument("--stations", type=int, default=2_000, help="stations of the proof of memory")
    parser.add_argument("--away", type=float, default=600.0, help="seconds without PostgreSQL in the proof of memory")
    parser.add_argument("--pace", type=float, default=10.0, help="seconds between two samples in the proof of memory")


def main() -> int:
    """The command line."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1:] == ["--stations-of"]:
        asyncio.run(_be_stations())
        return 0
    return command(__doc__ or "", PROMISES, _options)


if __name__ == "__main__":
    sys.exit(main())
