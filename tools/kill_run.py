"""Proof: prepaid sessions while the server is killed, and the books against the stations' own journal.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.kill_run --sessions 1000 --kills 10 --seed 1

Starts `voltledger serve` on embedded databases in a temporary folder, lets simulated stations charge,
kills the server with SIGKILL at random moments (its databases go down with it), starts it again, waits
until everything is quiet, and lets the independent checker (docs/verifying.md) judge the stations' journal against
the books, and the books against the raw frames. Exit status 1 if anything differs. `--evidence FOLDER` leaves a dated
report.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from tests.support import free_port
from voltledger.bootstrap import open_catalog
from voltledger.checker import Limits, Verdict, judge, verify
from voltledger.cli.servers import command_database
from voltledger.config import load_settings
from voltledger.simulator import Behaviours, FleetProgress, simulate

PRICE_MINOR = 2_000
TOPUP_MINOR = 100_000_000
QUIET = Limits(unfinished_s=30, ghost_s=120)
MISBEHAVE = {
    "lost_response": 0.08,
    "reconnect": 0.06,
    "duplicate_start": 0.06,
    "stop_then_hang_up": 0.06,
    "power_loss": 0.02,
}


class Server:
    """`voltledger serve` as a child process that can be killed."""

    def __init__(self, folder: Path) -> None:
        self.http, self.ocpp = free_port(), free_port()
        self.environ = {
            **os.environ,
            "VOLTLEDGER_DATA": str(folder / "data"),
            "VOLTLEDGER_HTTP": f"127.0.0.1:{self.http}",
            "VOLTLEDGER_OCPP": f"127.0.0.1:{self.ocpp}",
            "VOLTLEDGER_LOG_FILE": str(folder / "server.log"),
            "VOLTLEDGER_LOG_LEVEL": "warning",
        }
        for name in ("DATABASE_URL", "REDIS_HOST", "VOLTLEDGER_DEV", "VOLTLEDGER_ENV"):
            self.environ.pop(name, None)
        self.process: subprocess.Popen[bytes] | None = None
        self._output = (folder / "server.out").open("ab")

    def start(self) -> None:
        """Starts it; `ready` waits for it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "voltledger", "serve"],
            env=self.environ,
            stdout=self._output,
            stderr=self._output,
        )

    async def ready(self, limit_s: float = 60) -> float:
        """Waits until it serves with its database, and returns how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            with contextlib.suppress(OSError, ValueError):
                health = await asyncio.to_thread(self.health)
                if health["database"] == "ok":
                    return time.monotonic() - began
            await asyncio.sleep(0.05)
        raise SystemExit("the server did not become ready; see its log")

    def health(self) -> Any:
        """What /health says."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/health", timeout=2) as answer:
            return json.load(answer)

    def kill(self) -> None:
        """SIGKILL: no `finally` runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM and the end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


async def register(server: Server, stations: list[str], users: int) -> None:
    """Stations, a tariff, and users with tokens and money."""
    settings = load_settings(server.environ)
    with command_database(settings) as dsn:
        async with open_catalog(settings, dsn) as catalog:
            await catalog.set_tariff(price_per_kwh_minor=Decimal(PRICE_MINOR), currency="INR")
            for number in range(users):
                user = await catalog.add_user(name=f"user {number}")
                await catalog.add_token(value=f"TOKEN{number:05}", user=user.id)
                await catalog.top_up(user.id, TOPUP_MINOR, key=f"first-{number}")
            for name in stations:
                await catalog.add_station(id=name, password=f"password-of-{name}")


async def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole run; returns what it found."""
    server = Server(folder)
    stations = [f"KILL-{n:04}" for n in range(1, arguments.stations + 1)]
    await register(server, stations, arguments.stations)
    server.start()
    await server.ready()
    began = time.monotonic()
    journal = folder / "journal.jsonl"
    fleet = asyncio.create_task(
        simulate(
            f"ws://127.0.0.1:{server.ocpp}",
            stations,
            journal=journal,
            seed=arguments.seed,
            passwords=lambda name: f"password-of-{name}",
            tokens=[f"TOKEN{n:05}" for n in range(arguments.stations)],
            sessions_per_station=-(-arguments.sessions // arguments.stations),
            time_scale=arguments.scale,
            session_s=(300.0, 1500.0),
            idle_s=(30.0, 200.0),
            behaviours=Behaviours.of(MISBEHAVE),
            call_timeout_s=8.0,
            retry_interval_s=2.0,
            progress=_tell,
        )
    )
    restarts = await _kill_again_and_again(server, fleet, arguments)
    await fleet
    await _quiet(server)
    wall = time.monotonic() - began
    server.stop()
    with command_database(load_settings(server.environ)) as dsn:
        report = report_of(await judge(dsn, [journal], limits=QUIET), await verify(dsn))
    return {**report, "kills": arguments.kills, "restart_s": restarts, "wall_s": round(wall, 1)}


def _tell(progress: FleetProgress) -> None:
    print(
        f"\r{progress.sessions_ended} ended, {progress.sessions_active} active, {progress.connected} connected, "
        f"{progress.messages_waiting} waiting   ",
        end="",
        file=sys.stderr,
        flush=True,
    )


async def _kill_again_and_again(
    server: Server, fleet: "asyncio.Task[Any]", arguments: argparse.Namespace
) -> list[float]:
    draw = random.Random(arguments.seed)
    took = []
    for _ in range(arguments.kills):
        await asyncio.wait({fleet}, timeout=draw.uniform(*arguments.between))
        if fleet.done():
            raise SystemExit("the sessions ended before the last kill: give more sessions or less time between")
        server.kill()
        await asyncio.sleep(draw.uniform(0, 1.0))
        server.start()
        took.append(round(await server.ready(), 2))
    return took


async def _quiet(server: Server) -> None:
    """Waits until nothing is left to do: no running session and nothing unsettled."""
    for _ in range(600):
        health = await asyncio.to_thread(server.health)
        if health["sessions_active"] == 0 and health["journal"] == 0:
            await asyncio.sleep(3)
            return
        await asyncio.sleep(0.2)


def report_of(judged: Verdict, verified: Verdict) -> dict[str, Any]:
    """What the checker found by the journals and by the raw frames, in the words of earlier reports."""
    figures, money = judged.figures, judged.figures.money["INR"]
    return {
        "true_sessions": figures.true_sessions,
        "book_sessions": figures.sessions,
        "true_wh": figures.true_wh,
        "book_wh": figures.wh,
        "book_cost_minor": money.cost,
        "refund_minor": money.refund,
        "messages": figures.facts,
        "wh_lost_by_stations": figures.wh_lost_by_stations,
        "wh_with_stations": figures.wh_with_stations,
        "discarded_by_stations": figures.facts_discarded,
        "rebuilt_from_frames": verified.figures.sessions_rebuilt,
        "checker_s": [judged.took_s, verified.took_s],
        "differences": [msgspec.to_builtins(d) for d in (*judged.differences, *verified.differences)],
    }


def main() -> None:
    """Runs, prints the report, exits 1 on any difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--stations", type=int, default=50)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=float, default=120.0)
    parser.add_argument("--between", type=float, nargs=2, default=(3.0, 9.0))
    parser.add_argument("--evidence", type=Path)
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="voltledger-kill-"))
    folder.chmod(0o711)
    try:
        report = asyncio.run(run(arguments, folder))
    finally:
        if arguments.keep:
            print(f"\nkept {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report["seed"] = arguments.seed
    report["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    report["commit"] = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    report["machine"] = (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    print("\n" + json.dumps(report, indent=1))
    if arguments.evidence is not None:
        arguments.evidence.mkdir(parents=True, exist_ok=True)
        name = f"{report['at'][:10]}-kill-run-seed-{arguments.seed}.json"
        (arguments.evidence / name).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if report["differences"] else 0)


if __name__ == "__main__":
    main()
