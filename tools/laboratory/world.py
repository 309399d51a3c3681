"""One laboratory: a PostgreSQL and a Valkey of its own, a launcher of servers, and proxies on every line.

    async with laboratory() as lab, lab.site() as site:
        await site.start("t1.after_inbox:1:kill")

A `Lab` is slow to make and is used for many cells, one after the other. A `Site` is one cell's world: a fresh
database with everybody registered, and a server that is started, killed and started again on the same ports.
"""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import httpx

from tools.laboratory.proxy import Proxy, proxied
from voltledger.bootstrap import migrate_database, open_catalog
from voltledger.config import Settings
from voltledger.embedded import RunningPostgres, start_postgres, start_redis

TEMPLATE = "laboratory"
BARE = "laboratory_bare"
PRICE_MINOR = 2_000
TOPUP_MINOR = 100_000_000
TOKEN = "LABTOKEN"
USER = "driver"
STATIONS = ("LAB-1", "LAB-2")


class LabFailed(AssertionError):
    """The laboratory itself, or what it looks at, did not do what it had to do in time."""


async def until(condition: Callable[[], Any | Awaitable[Any]], limit_s: float, what: str) -> Any:
    """Waits for a condition, plain or async, and returns what it returned. Raises: LabFailed when time is over."""
    deadline = time.monotonic() + limit_s
    pause = 0.002
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabFailed(f"{what}: not within {limit_s:g} s")
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.03)


# --- what is made once ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What the template holds."""

    passwords: dict[str, str]
    api_key: str


class Lab:
    """The slow parts, shared by cells."""

    def __init__(
        self,
        folder: Path,
        postgres: RunningPostgres,
        redis: Proxy,
        redis_password: str,
        cold: "Launcher",
        warm: "Launcher",
    ) -> None:
        self.folder = folder
        self.postgres = postgres
        self.redis = redis
        self.redis_password = redis_password
        self.cold = cold
        self.warm = warm
        self.registered = Registered(passwords={}, api_key="")
        self._numbers = iter(range(1, 1_000_000))

    async def prepare(self) -> None:
        """Makes the databases that cells are copied from."""
        await self.admin(f"CREATE DATABASE {BARE}")
        await self.admin(f"CREATE DATABASE {TEMPLATE}")
        self.registered = await self.register(TEMPLATE)

    async def register(self, database: str) -> Registered:
        """Migrates a database if it has to be, and registers everybody."""
        await migrate_database(self.dsn(database))
        settings = Settings(data=self.folder, log_file=self.folder / "log")
        async with open_catalog(settings, self.dsn(database)) as catalog:
            await catalog.set_tariff(price_per_kwh_minor=Decimal(PRICE_MINOR), currency="INR")
            await catalog.add_user(name=USER, id=USER)
            await catalog.add_token(value=TOKEN, user=USER)
            await catalog.top_up(USER, TOPUP_MINOR, key="first")
            passwords = {}
            for name in STATIONS:
                added = await catalog.add_station(id=name, connectors=2)
                passwords[name] = str(added.password)
            key = (await catalog.add_key(role="admin", name="laboratory")).key
        return Registered(passwords=passwords, api_key=key)

    def dsn(self, database: str) -> str:
        """A database of this PostgreSQL, without a proxy."""
        return self.postgres.dsn.replace("/voltledger?", f"/{database}?")

    async def admin(self, sql: str) -> None:
        """One statement of a superuser."""
        connection = await asyncpg.connect(self.dsn("postgres"))
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    def processes(self) -> list[int]:
        """Every process of PostgreSQL, the first one first."""
        return [self.postgres.pid, *_children(self.postgres.pid)]

    def kill_postgres(self) -> None:
        """SIGKILL to every process of PostgreSQL, the first one first: no checkpoint, no goodbye."""
        first = self.postgres.pid
        family = [first, *_children(first)]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.postgres._process.wait(20)
        deadline = time.monotonic() + 10
        while any(_is_alive(pid) for pid in family[1:]) and time.monotonic() < deadline:
            time.sleep(0.002)

    def restart_postgres(self) -> None:
        """Starts it again, with crash recovery; new lines of the proxies reach it."""
        self.postgres.stop()
        self.postgres = start_postgres(self.folder / "postgres")

    @asynccontextmanager
    async def site(self, *, bare: bool = False, **settings: object) -> AsyncIterator["Site"]:
        """A fresh world for one cell; `settings` are environment variables of its server."""
        name = f"cell_{next(self._numbers)}"
        # With the other strategy, copied sequences fall back behind what they have given when PostgreSQL crashes:
        # values that the original had logged ahead are not logged for the copy.
        await self.admin(f"CREATE DATABASE {name} TEMPLATE {BARE if bare else TEMPLATE} STRATEGY FILE_COPY")
        folder = self.folder / name
        folder.mkdir()
        await self.redis.heal()
        target = _socket_of(self.postgres.dsn)
        async with proxied(target, postgres=True) as line:
            site = Site(self, name, folder, line, settings)
            try:
                async with proxied(("127.0.0.1", site.ocpp_port)) as wire:
                    site.wire = wire
                    yield site
            finally:
                await site.kill()
                with contextlib.suppress(OSError, asyncpg.PostgresError):
                    await self.admin(f"DROP DATABASE {name} WITH (FORCE)")
                shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def laboratory() -> AsyncIterator[Lab]:
    """A laboratory in a temporary folder; everything that it started ends with the block.

    Effects: starts PostgreSQL, Valkey and a launcher. In memory where there is plenty, else on disk.
    """
    folder = _make_folder()
    lab = None
    try:
        cache = start_redis(folder / "redis")
        lab_postgres = start_postgres(folder / "postgres")
        try:
            async with (
                Launcher.started() as cold,
                Launcher.started("--warm") as warm,
                proxied(cache.socket_path) as redis,
            ):
                lab = Lab(folder, lab_postgres, redis, cache.password, cold, warm)
                await lab.prepare()
                yield lab
        finally:
            (lab.postgres if lab is not None else lab_postgres).stop()
            cache.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _make_folder() -> Path:
    """A folder with a short path that the databases' user can enter too."""
    folder = Path(tempfile.mkdtemp(prefix="vl-lab-", dir=_fast_folder()))
    folder.chmod(0o711)
    return folder


def _fast_folder() -> str | None:
    try:
        memory = os.statvfs("/dev/shm")
    except OSError:
        return None
    roomy = memory.f_bavail * memory.f_frsize > 2 * 2**30 and not memory.f_flag & os.ST_NOEXEC
    return "/dev/shm" if roomy and os.access("/dev/shm", os.W_OK) else None


def _socket_of(dsn: str) -> Path:
    query = parse_qs(urlsplit(dsn).query)
    return Path(unquote(query["host"][0])) / f".s.PGSQL.{query['port'][0]}"


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class Launcher:
    """The other end of `tools.laboratory.launcher`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @staticmethod
    @asynccontextmanager
    async def started(*words: str) -> AsyncIterator["Launcher"]:
        """A launcher with its libraries loaded, until the block ends."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("VOLTLEDGER_", "FAILPOINTS"))}
        environ["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tools.laboratory.launcher", *words),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environ,
            cwd=Path(__file__).parents[2],
        )
        launcher = Launcher(process)
        try:
            await launcher._answer()
            yield launcher
        finally:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()

    async def launch(self, *words: str, env: dict[str, str], folder: Path, output: Path) -> int:
        """Starts the program and returns its process id."""
        order = json.dumps({"words": words, "env": env, "folder": str(folder), "output": str(output)})
        if self._process.stdin is None:
            raise LabFailed("the launcher has no standard input")
        self._process.stdin.write(order.encode() + b"\n")
        await self._process.stdin.drain()
        return int(await self._answer())

    async def _answer(self) -> str:
        if self._process.stdout is None:
            raise LabFailed("the launcher has no standard output")
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        if not line:
            raise LabFailed("the launcher ended")
        return line.decode().strip()


# --- what a cell has ---------------------------------------------------------------------------------------


class Server:
    """One process of `voltledger serve`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return bool(select.select([self._handle], [], [], 0)[0])

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, to this process and never to another of its number."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, number)

    async def wait_end(self, limit_s: float) -> None:
        """Waits until it is gone."""
        await until(lambda: self.ended, limit_s, f"the end of server {self.pid}")

    def close(self) -> None:
        """Lets go of the process."""
        os.close(self._handle)


class Site:
    """A database, its lines and its server; see the module."""

    def __init__(self, lab: Lab, database: str, folder: Path, line: Proxy, settings: dict[str, object]) -> None:
        self.lab = lab
        self.database = database
        self.folder = folder
        self.line = line
        self.wire: Proxy | None = None
        self.http_port, self.ocpp_port = _free_port(), _free_port()
        self.journal = folder / "journal.jsonl"
        self.server: Server | None = None
        self.registered = lab.registered
        self._settings = settings
        self._starts = 0

    async def start(self, failpoints: str = "") -> Server:
        """Starts the server; it is not waited for, since it may be meant to die at once."""
        self._starts += 1
        self.points = self.folder / f"points-{self._starts}"
        self.points.mkdir()
        launcher = self.lab.cold if failpoints else self.lab.warm
        self.server = Server(
            await launcher.launch(
                "serve", env=self._environ(failpoints), folder=self.folder, output=self.folder / "output"
            )
        )
        return self.server

    async def start_second(self) -> Server:
        """Another node on the same books, with ports and a data folder of its own."""
        env = self._environ("") | {
            "VOLTLEDGER_DATA": str(self.folder / "data-2"),
            "VOLTLEDGER_HTTP": f"127.0.0.1:{_free_port()}",
            "VOLTLEDGER_OCPP": f"127.0.0.1:{_free_port()}",
            "VOLTLEDGER_LOG_FILE": str(self.folder / "log-2"),
        }
        return Server(await self.lab.warm.launch("serve", env=env, folder=self.folder, output=self.folder / "output"))

    def _environ(self, failpoints: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("VOLTLEDGER_", "REDIS_", "PG", "FAILPOINTS"))}
        kept.pop("DATABASE_URL", None)
        dsn = urlsplit(self.lab.postgres.dsn)
        ours = {
            "DATABASE_URL": f"postgresql://{dsn.username}:{dsn.password}@127.0.0.1:{self.line.port}/{self.database}"
            "?sslmode=disable",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": self.lab.redis.port,
            "REDIS_PASSWORD": self.lab.redis_password,
            "VOLTLEDGER_DATA": self.folder / "data",
            "VOLTLEDGER_HTTP": f"127.0.0.1:{self.http_port}",
            "VOLTLEDGER_OCPP": f"127.0.0.1:{self.ocpp_port}",
            "VOLTLEDGER_LOG_FILE": self.folder / "log",
            "FAILPOINTS": failpoints,
            "FAILPOINTS_FOLDER": self.points,
            **self._settings,
        }
        path = os.pathsep.join(entry for entry in sys.path if entry)
        return kept | {"PYTHONPATH": path, **{name: str(value) for name, value in ours.items()}}

    @property
    def url(self) -> str:
        """Where stations connect: through the proxy."""
        if self.wire is None:
            raise LabFailed("the site is closed")
        return f"ws://127.0.0.1:{self.wire.port}"

    def api(self) -> httpx.AsyncClient:
        """A client of the API, as its administrator."""
        headers = {"Authorization": f"Bearer {self.registered.api_key}"}
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.http_port}/api/v1/", headers=headers, timeout=20, trust_env=False
        )

    def reached(self) -> list[str]:
        """The points that were reached in this start, with their actions."""
        try:
            return (self.points / "reached").read_text().splitlines()
        except FileNotFoundError:
            return []

    def go_on(self) -> None:
        """Tells a point that waits to go on."""
        (self.points / "go").touch()

    def listens(self) -> bool:
        """Whether the server takes connections of stations."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ocpp_port)) == 0

    @property
    def dsn(self) -> str:
        """The database, without a proxy."""
        return self.lab.dsn(self.database)

    async def books(self) -> Any:
        """A connection to the database; the caller closes it."""
        return await asyncpg.connect(self.dsn, timeout=10)

    def repoint(self) -> None:
        """After a restart of PostgreSQL: its socket may be elsewhere."""
        self.line.target = _socket_of(self.lab.postgres.dsn)

    async def kill(self) -> None:
        """SIGKILL, and its end."""
        if self.server is not None:
            self.server.signal(signal.SIGKILL)
            self.server.signal(signal.SIGCONT)
            await self.server.wait_end(10)
            self.server.close()
            self.server = None

    def keep(self, folder: Path) -> None:
        """Copies log and journal to a folder that stays."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log").write_text(self.output(), encoding="utf-8")
        if self.journal.exists():
            shutil.copy(self.journal, folder / "journal.jsonl")

    def output(self) -> str:
        """What all its servers printed and logged."""
        texts = [p.read_text(errors="replace") for p in (self.folder / "output", self.folder / "log") if p.exists()]
        return "\n".join(texts)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
