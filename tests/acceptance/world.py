"""The world around a running server: the server itself, a station that is not ours, the API, the books.

`Server` is `voltledger serve` as a child process. `Station` is a station on the PyPI package `ocpp`. `Books`
reads the rows with SQL of its own: nothing here asks our code what our code did.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from ocpp.routing import on
from ocpp.v16 import ChargePoint, call, call_result
from ocpp.v16.enums import Action, RegistrationStatus, RemoteStartStopStatus, TriggerMessageStatus
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests import support
from voltledger.embedded import find_running_redis

PRICE_MINOR = 2_000
_names = itertools.count(1)


def fresh(prefix: str) -> str:
    """A name that no other test of this process uses."""
    return f"{prefix}-{os.getpid()}-{next(_names)}"


# --- the program --------------------------------------------------------------------------------------


def environment(**settings: object) -> dict[str, str]:
    """This environment without anything that would configure voltledger, and with `settings`."""
    ours = ("VOLTLEDGER_", "REDIS_", "DATABASE_URL", "PG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return kept | {"PYTHONPATH": path, **{name: str(value) for name, value in settings.items()}}


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path that every user can enter; what it points to goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="vl-world-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        for pointer in folder.rglob("*.location"):
            shutil.rmtree(pointer.read_text().strip(), ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def run(*words: str, env: Mapping[str, str], folder: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """The command line, as a person would call it."""
    return subprocess.run(
        [sys.executable, "-m", "voltledger", *words],
        env=dict(env),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class Server:
    """`voltledger serve` on free ports; the same ports and the same books after a restart."""

    command = "serve"

    def __init__(self, folder: Path, dsn: str | None, **settings: object) -> None:
        self.folder = folder
        self.http_port, self.ocpp_port = support.free_port(), support.free_port()
        self.data = folder / "data"
        database = {} if dsn is None else {"DATABASE_URL": dsn}
        self.env = environment(
            VOLTLEDGER_DATA=self.data,
            VOLTLEDGER_HTTP=f"127.0.0.1:{self.http_port}",
            VOLTLEDGER_OCPP=f"127.0.0.1:{self.ocpp_port}",
            VOLTLEDGER_LOG_FILE=folder / "ocpp-server.log",
            **database,
            **settings,
        )
        self.url = f"http://127.0.0.1:{self.http_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._admin_key: str | None = None

    @property
    def pid(self) -> int:
        """The process that serves now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Server:
        """Starts it and waits until it serves people and stations."""
        with (self.folder / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "voltledger", self.command],
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 40
        while not (self._answers() and self._listens()):
            assert self._process.poll() is None, f"the server ended at once: {self.output()}"
            assert time.monotonic() < deadline, f"the server does not serve: {self.output()}"
            time.sleep(0.03)
        return self

    def kill(self) -> None:
        """As a power cut would: nothing of it runs on."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As a person would."""
        self._end(signal.SIGTERM)

    def output(self) -> str:
        """What it printed, all starts together."""
        return (self.folder / "output").read_text(errors="replace")

    def health(self) -> dict[str, Any]:
        """GET /health."""
        answer: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=10).json()
        return answer

    def cli(self, *words: str) -> Any:
        """A command with --json; the one object that it prints."""
        done = run(*words, "--json", env=self.env, folder=self.folder)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return json.loads(done.stdout)

    def api(self, key: str | None = None) -> httpx.AsyncClient:
        """A client of /api/v1."""
        headers = {"Authorization": f"Bearer {key or self.admin_key}"}
        return httpx.AsyncClient(base_url=f"{self.url}/api/v1/", headers=headers, timeout=15)

    @property
    def admin_key(self) -> str:
        """A key made by the command line, once."""
        if self._admin_key is None:
            self._admin_key = self.cli("apikey", "add", "--role", "admin")["key"]
        return self._admin_key

    def events_of(self, station_id: str) -> list[dict[str, str]]:
        """The station's event log in Redis, oldest first: c connector, k kind, s session."""
        client = self.redis()
        try:
            entries: Any = client.xrange(f"voltledger:events:{station_id}")
            return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in entries]
        finally:
            client.close()

    def redis(self) -> Any:
        """A client of the server's own Redis."""
        from redis import Redis

        address = find_running_redis(self.data)
        assert address is not None, "the server's Redis does not run"
        return Redis(unix_socket_path=str(address.socket_path), password=address.password)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
        if process is not None:
            process.wait(30)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ocpp_port)) == 0


# --- a station that is not ours --------------------------------------------------------------------------


def basic(user: str, password: str) -> dict[str, str]:
    """The header of a station with security profile 1."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def wire_time(at: datetime) -> str:
    """As stations write a time."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def ago(seconds: float) -> str:
    """A time in the past on a station's clock."""
    return wire_time(datetime.now(UTC) - timedelta(seconds=seconds))


class Station(ChargePoint):  # type: ignore[misc]
    """A station: what it is asked stands in `asked`; what it answers is set by the test."""

    def __init__(self, id: str, connection: ClientConnection) -> None:
        super().__init__(id, connection, response_timeout=20)
        self.socket = connection
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.obeys_start = self.obeys_stop = RemoteStartStopStatus.accepted
        self.reports_when_triggered: tuple[int, str, int] | None = None
        self._reports: set[asyncio.Task[Any]] = set()

    @on(Action.remote_start_transaction)
    def on_remote_start(self, **payload: Any) -> call_result.RemoteStartTransaction:
        self.asked.append(("RemoteStartTransaction", payload))
        return call_result.RemoteStartTransaction(status=self.obeys_start)

    @on(Action.remote_stop_transaction)
    def on_remote_stop(self, **payload: Any) -> call_result.RemoteStopTransaction:
        self.asked.append(("RemoteStopTransaction", payload))
        return call_result.RemoteStopTransaction(status=self.obeys_stop)

    @on(Action.trigger_message)
    def on_trigger(self, **payload: Any) -> call_result.TriggerMessage:
        """A station that reports when it is asked to, or one that does not know how."""
        self.asked.append(("TriggerMessage", payload))
        if self.reports_when_triggered is None:
            return call_result.TriggerMessage(status=TriggerMessageStatus.not_implemented)
        report = asyncio.ensure_future(self._report(payload["requested_message"]))
        self._reports.add(report)
        report.add_done_callback(self._reports.discard)
        return call_result.TriggerMessage(status=TriggerMessageStatus.accepted)

    async def _report(self, message: str) -> None:
        assert self.reports_when_triggered is not None
        connector, status, register = self.reports_when_triggered
        if message == "StatusNotification":
            await self.status(connector, status)
        elif message == "MeterValues":
            await self.meter(connector, None, register)

    def asked_for(self, action: str) -> list[dict[str, Any]]:
        """The payloads of what was asked, oldest first."""
        return [payload for name, payload in self.asked if name == action]

    async def boot(self) -> Any:
        """BootNotification."""
        answer = await self.call(call.BootNotification("One", "Real GmbH"))
        assert answer.status == RegistrationStatus.accepted
        return answer

    async def status(self, connector: int, status: str, at: str | None = None) -> None:
        """StatusNotification."""
        await self.call(
            call.StatusNotification(connector_id=connector, error_code="NoError", status=status, timestamp=at or ago(0))
        )

    async def begin(self, connector: int, token: str, register: int = 0, at: str | None = None) -> Any:
        """StartTransaction."""
        return await self.call(
            call.StartTransaction(connector_id=connector, id_tag=token, meter_start=register, timestamp=at or ago(0))
        )

    async def meter(self, connector: int, transaction: int | None, register: int, at: str | None = None) -> None:
        """MeterValues with one register."""
        sample = {"measurand": "Energy.Active.Import.Register", "unit": "Wh", "value": str(register)}
        value = {"timestamp": at or ago(0), "sampled_value": [sample]}
        await self.call(call.MeterValues(connector_id=connector, transaction_id=transaction, meter_value=[value]))

    async def end(self, transaction: int, register: int, *, at: str | None = None, reason: str = "Local") -> Any:
        """StopTransaction."""
        return await self.call(
            call.StopTransaction(transaction_id=transaction, meter_stop=register, timestamp=at or ago(0), reason=reason)
        )

    async def send_unheard(self, action: str, payload: Mapping[str, object]) -> str:
        """Sends a request whose answer nobody waits for; returns its message id."""
        message_id = str(uuid.uuid4())
        await self.socket.send(json.dumps([2, message_id, action, dict(payload)]))
        return message_id

    async def cut(self) -> None:
        """The line goes dead: no close frame."""
        self.socket.transport.abort()
        await self.socket.wait_closed()


@asynccontextmanager
async def online(server: Server, station_id: str, password: str) -> AsyncIterator[Station]:
    """A connected station, until the block ends."""
    url = f"ws://127.0.0.1:{server.ocpp_port}/{station_id}"
    subprotocol: Any = ["ocpp1.6"]
    async with connect(url, subprotocols=subprotocol, additional_headers=basic(station_id, password)) as socket:
        station = Station(station_id, socket)
        reading = asyncio.ensure_future(_read(station))
        try:
            yield station
        finally:
            await socket.close()
            await asyncio.wait_for(reading, 10)


async def _read(station: Station) -> None:
    with contextlib.suppress(ConnectionClosed):
        await station.start()


# --- the books -----------------------------------------------------------------------------------------


class Books:
    """The rows, read with SQL of its own."""

    def __init__(self, connection: Any) -> None:
        self.sql = connection

    async def session(self, session_id: str) -> Any:
        """The row of a session."""
        return await self.sql.fetchrow("SELECT * FROM charging_session WHERE id = $1", uuid.UUID(str(session_id)))

    async def sessions_of(self, station_id: str) -> list[Any]:
        """A station's sessions, oldest first."""
        rows: list[Any] = await self.sql.fetch(
            "SELECT * FROM charging_session WHERE station_id = $1 ORDER BY created_at, id", station_id
        )
        return rows

    async def lines(self, session_id: object) -> dict[tuple[str, int], dict[str, int]]:
        """A session's entries: (kind, version) -> account -> amount, credit positive, debit negative."""
        rows = await self.sql.fetch(
            """SELECT e.kind, e.version, a.code, CASE p.side WHEN 'C' THEN 1 ELSE -1 END * p.amount_minor AS amount
               FROM ledger_entry e
               JOIN ledger_posting p ON p.entry_id = e.id
               JOIN ledger_account a ON a.id = p.account_id
               WHERE e.session_id = $1""",
            uuid.UUID(str(session_id)),
        )
        entries: dict[tuple[str, int], dict[str, int]] = {}
        for row in rows:
            entry = entries.setdefault((row["kind"], row["version"]), {})
            entry[row["code"]] = entry.get(row["code"], 0) + row["amount"]
        return entries

    async def settlements(self, session_id: object) -> list[Any]:
        """The settlements of a session, by version."""
        rows: list[Any] = await self.sql.fetch(
            "SELECT * FROM settlement WHERE session_id = $1 ORDER BY version", uuid.UUID(str(session_id))
        )
        return rows

    async def findings(self, station_id: str, kind: str) -> list[Any]:
        """What was found at a station."""
        rows: list[Any] = await self.sql.fetch(
            "SELECT * FROM finding WHERE station_id = $1 AND kind = $2 ORDER BY id", station_id, kind
        )
        return rows

    async def check(self) -> None:
        """Every entry balances, and every kept balance is the sum of its postings."""
        crooked = await self.sql.fetch(
            """SELECT entry_id FROM ledger_posting GROUP BY entry_id
               HAVING sum(CASE side WHEN 'D' THEN amount_minor ELSE -amount_minor END) <> 0"""
        )
        assert not crooked, f"entries do not balance: {crooked}"
        drifted = await self.sql.fetch(
            """WITH posted AS (
                 SELECT account_id, sum(CASE side WHEN 'C' THEN amount_minor ELSE -amount_minor END) AS amount
                 FROM ledger_posting GROUP BY account_id)
               SELECT a.code, a.balance_minor, coalesce(p.amount, 0) AS posted
               FROM ledger_account a LEFT JOIN posted p ON p.account_id = a.id
               WHERE a.balance_minor IS NOT NULL AND a.balance_minor <> coalesce(p.amount, 0)"""
        )
        assert not drifted, f"balances that are not the sum of their postings: {drifted}"

    async def settled(self, session_id: object, version: int = 1, timeout: float = 15) -> Any:
        """Waits for a settlement and returns it."""

        async def there() -> Any:
            return next((s for s in await self.settlements(session_id) if s["version"] == version), None)

        return await support.wait_until(there, timeout, what=f"settlement {version} of {session_id}")

    async def in_status(self, session_id: object, status: str, timeout: float = 15) -> Any:
        """Waits until a session has a status and returns its row."""

        async def there() -> Any:
            row = await self.session(str(session_id))
            return row if row is not None and row["status"] == status else None

        return await support.wait_until(there, timeout, what=f"status {status} of {session_id}")


@asynccontextmanager
async def open_books(dsn: str) -> AsyncIterator[Books]:
    """The books of a database."""
    connection = await asyncpg.connect(dsn)
    try:
        yield Books(connection)
    finally:
        await connection.close()


# --- what a test needs registered ------------------------------------------------------------------------


class Site:
    """One station with a user who can pay, on a running server."""

    def __init__(self, server: Server, books: Books, api: httpx.AsyncClient) -> None:
        self.server, self.books, self.api = server, books, api
        self.id, self.user = fresh("CP"), fresh("user").lower()
        self.password = "a station's password"
        self.balance = 100_000

    async def register(self, connectors: int = 2) -> Site:
        """Station, user and money, through the API."""
        await self._made("stations", {"id": self.id, "password": self.password, "connectors": connectors})
        await self._made("users", {"id": self.user, "name": self.user, "currency": "INR"})
        await self._made(f"wallets/{self.user}/topups", {"amount_minor": self.balance})
        return self

    async def _made(self, path: str, body: Mapping[str, object]) -> None:
        answer = await self.api.post(path, json=body)
        assert answer.status_code in (200, 201), answer.text

    def online(self) -> Any:
        """The station, connected."""
        return online(self.server, self.id, self.password)

    async def pay_and_begin(
        self, station: Station, connector: int = 1, amount: int = 50_000, register: int = 0
    ) -> tuple[str, int]:
        """A paid session that has begun: its id and its OCPP transaction."""
        before = len(station.asked_for("RemoteStartTransaction"))
        answer = await self.api.post(
            "sessions",
            json={"station": self.id, "connector": connector, "user": self.user, "amount_minor": amount},
        )
        assert answer.status_code == 201, answer.text
        await support.wait_until(
            lambda: len(station.asked_for("RemoteStartTransaction")) > before, what="the remote start"
        )
        asked = station.asked_for("RemoteStartTransaction")[-1]
        started = await station.begin(connector, asked["id_tag"], register)
        await station.status(connector, "Charging")
        return str(answer.json()["id"]), int(started.transaction_id)

    async def wallet(self) -> tuple[int, int]:
        """What can be spent, and what is set aside."""
        answer = (await self.api.get(f"wallets/{self.user}")).json()
        return answer["balance_minor"], answer["held_minor"]
