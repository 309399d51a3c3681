"""R-01: an answered fact is durable. The server is killed the moment an answer has reached the station, and every
second time PostgreSQL with it; before anything starts again, the answered facts must be in the books.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.kills --runs 200 --jobs 2

Two stations charge without a pause. Which answer it is that the kill follows is drawn from the seed. At the end of a
series everything is delivered and settled, and the books are compared with what the stations know. Exit status 1 if
an answered fact is absent, or anything differs.
"""

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tools.laboratory.cell import wait_until_quiet
from tools.laboratory.station import Station
from tools.laboratory.verdict import Expected, absent_answers, differences, second_opinion
from tools.laboratory.world import STATIONS, TOKEN, Lab, LabFailed, Site, laboratory, until
from voltledger.simulator.journal import Journal

SERIES = 25
"""Kills in one database, before everything is delivered and judged."""
MOST_ANSWERS = 9
LIMIT_S = 90.0


@dataclass(slots=True, kw_only=True)
class Series:
    """What a series of kills found."""

    seed: int
    kills: int = 0
    postgres_kills: int = 0
    answered: int = 0
    absent: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """All kills done, nothing absent, nothing different."""
        return not self.absent and not self.problems


class _Driver:
    """One station that charges car after car, on a clock of its own that begins ten minutes ago."""

    def __init__(self, station: Station, draw: random.Random) -> None:
        self.station = station
        self.stopping = False
        self._draw = draw
        self._clock = datetime.now(UTC) - timedelta(minutes=10)
        self._registers = {1: 0, 2: 0}

    async def run(self) -> None:
        """Begins another visit when the last one is delivered, until told to stop."""
        while not self.stopping:
            self._visit()
            while not self.station.is_quiet:
                await asyncio.sleep(0.002)

    def _visit(self) -> None:
        connector = self._draw.choice((1, 2))
        register = self._registers[connector]
        car = self.station.begin(connector=connector, token=TOKEN, register_wh=register, at=self._clock)
        for second in (1, 2):
            register += self._draw.randint(0, 300)
            self.station.meter(car, register, second / 60)
        self._registers[connector] = register = register + self._draw.randint(1, 300)
        self.station.end(car, register, 3 / 60)
        self._clock += timedelta(seconds=4)


async def run_series(lab: Lab, seed: int, kills: int, *, keep: Path | None = None) -> Series:
    """One series in a fresh database. `keep` names a folder for log and journal of a series that failed."""
    began = time.monotonic()
    series = Series(seed=seed)
    draw = random.Random(f"kills/{seed}")
    async with lab.site() as site:
        try:
            with Journal(site.journal) as journal:
                await _kill_again_and_again(site, journal, draw, series, kills)
        except (LabFailed, TimeoutError) as problem:
            series.problems.append(str(problem) or type(problem).__name__)
        if keep is not None and not series.ok:
            site.keep(keep / f"kills-{seed}")
    series.seconds = round(time.monotonic() - began, 1)
    return series


async def _kill_again_and_again(site: Site, journal: Journal, draw: random.Random, series: Series, kills: int) -> None:
    async with _driven(site, journal, draw) as drivers:
        for number in range(kills):
            await _kill_after_an_answer(site, drivers, draw, series)
            with_postgres = number % 2 == 1
            if with_postgres:
                site.lab.kill_postgres()
                series.postgres_kills += 1
                site.lab.restart_postgres()
                site.repoint()
            series.kills += 1
            books = await site.books()
            try:
                series.absent += await absent_answers(books, site.journal)
            finally:
                await books.close()
        await site.start()
        for driver in drivers:
            driver.stopping = True
        await until(lambda: all(driver.station.is_quiet for driver in drivers), LIMIT_S, "the last answers")
        await wait_until_quiet(site)
        books = await site.books()
        try:
            series.problems += await differences(books, site.journal, Expected())
        finally:
            await books.close()
        series.problems += await second_opinion(site.dsn, site.journal)


async def _kill_after_an_answer(site: Site, drivers: list[_Driver], draw: random.Random, series: Series) -> None:
    """Starts the server, lets some facts be answered, and kills it from within the reading of the last answer."""
    server = await site.start()
    left = draw.randint(1, MOST_ANSWERS)
    dead = asyncio.Event()

    def hear(text: str) -> None:
        nonlocal left
        # Answers to facts: {} to meter values, idTagInfo to the others; heartbeat and boot carry the time.
        if not text.startswith("[3,") or "currentTime" in text or dead.is_set():
            return
        left -= 1
        series.answered += 1
        if left == 0:
            server.signal(signal.SIGKILL)
            dead.set()

    for driver in drivers:
        driver.station.on_frame = hear
    await asyncio.wait_for(dead.wait(), LIMIT_S)
    await site.kill()
    # What had left the server before its end has arrived when the lines are closed.
    await until(lambda: not any(d.station.online.is_set() for d in drivers), LIMIT_S, "the stations notice the end")


@asynccontextmanager
async def _driven(site: Site, journal: Journal, draw: random.Random) -> AsyncIterator[list[_Driver]]:
    drivers = []
    for name in STATIONS:
        password = site.registered.passwords[name]
        ids = draw.choice(("unique", "counter"))
        station = Station(name, lambda p=password: p, lambda: site.url, journal, message_ids=ids)  # type: ignore[misc]
        drivers.append(_Driver(station, random.Random(draw.random())))
    tasks = [asyncio.create_task(d.station.run()) for d in drivers] + [asyncio.create_task(d.run()) for d in drivers]
    try:
        yield drivers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_all(seeds: list[tuple[int, int]], keep: Path | None) -> list[Series]:
    """Several series, each a seed and its kills, in one laboratory."""
    found = []
    async with laboratory() as lab:
        for seed, kills in seeds:
            series = await run_series(lab, seed, kills, keep=keep)
            found.append(series)
            _tell(series)
    return found


def _tell(series: Series) -> None:
    print(
        f"{'ok  ' if series.ok else 'FAIL'} seed {series.seed}: {series.kills} kills ({series.postgres_kills} with"
        f" PostgreSQL), {series.answered} answers, {len(series.absent)} absent, {series.seconds:.1f} s",
        flush=True,
    )
    for problem in (*series.absent, *series.problems):
        print(f"      {problem}", flush=True)


def plan(runs: int, seed: int) -> list[tuple[int, int]]:
    """Series of at most `SERIES` kills that add up to `runs`."""
    sizes = [SERIES] * (runs // SERIES) + ([runs % SERIES] if runs % SERIES else [])
    return [(seed + number, size) for number, size in enumerate(sizes)]


def main() -> None:
    """Runs, prints, exits 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path, help="a file for what was found")
    parser.add_argument("--keep", type=Path, help="a folder for log and journal of every series that fails")
    parser.add_argument("--series", help=argparse.SUPPRESS)  # a part of a run with several jobs
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is stopped, however this ends
    began = time.monotonic()
    if arguments.series:
        found = asyncio.run(run_all([tuple(pair) for pair in json.loads(arguments.series)], arguments.keep))
    else:
        found = _in_parts(plan(arguments.runs, arguments.seed), arguments.jobs, arguments.keep)
    report = {
        "kills": sum(s.kills for s in found),
        "with_postgres": sum(s.postgres_kills for s in found),
        "answers": sum(s.answered for s in found),
        "absent": sum(len(s.absent) for s in found),
        "failed": sum(not s.ok for s in found),
        "wall_s": round(time.monotonic() - began, 1),
        "series": [asdict(s) for s in found],
    }
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    if not arguments.series:
        print(json.dumps({key: value for key, value in report.items() if key != "series"}))
    sys.exit(1 if report["failed"] else 0)


def _in_parts(series: list[tuple[int, int]], jobs: int, keep: Path | None) -> list[Series]:
    found: list[Series] = []
    with tempfile.TemporaryDirectory(prefix="vl-kills-") as folder:
        parts = []
        for job in range(min(jobs, len(series))):
            path = Path(folder) / f"found-{job}"
            words = ["--series", json.dumps(series[job::jobs]), "--json", str(path)]
            words += ["--keep", str(keep)] if keep is not None else []
            parts.append((subprocess.Popen([sys.executable, "-m", "tools.laboratory.kills", *words]), path))
        for process, path in parts:
            process.wait()
            if not path.exists():
                raise SystemExit(f"a part ended with status {process.returncode} and without a report")
            found += [Series(**one) for one in json.loads(path.read_text(encoding="utf-8"))["series"]]
    return found


if __name__ == "__main__":
    main()
