"""Figure: CPU of server, PostgreSQL and Redis for a MeterValues message, in a closed loop.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.bench_meters --stations 100 --seconds 20

Starts `voltledger serve` on embedded databases in a temporary folder; every station has a session and
sends its next MeterValues (four samples) as soon as the last one is answered, which is after its commit.
"""

import argparse
import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from tools.kill_run import Server, register


class Client(WSListener):  # type: ignore[misc]  # picows is not typed as a base class
    """One station: a session, then MeterValues as fast as they are answered."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.transport: WSTransport | None = None
        self.closed_loop = False
        self.done = 0
        self.register = 1000
        self.transaction = 0
        self.latencies: list[float] = []
        self._sent_at = 0.0

    def on_ws_connected(self, transport: WSTransport) -> None:
        """The socket is open."""
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """An answer: the next message goes out at once in the closed loop."""
        if frame.msg_type is not WSMsgType.TEXT:
            return
        if not self.closed_loop:
            self.answers.put_nowait(json.loads(frame.get_payload_as_ascii_text()))
            return
        self.latencies.append(time.perf_counter() - self._sent_at)
        self.done += 1
        self.send_meters()

    async def call(self, action: str, payload: dict[str, Any]) -> Any:
        """One call and its answer."""
        assert self.transport is not None
        self.transport.send(WSMsgType.TEXT, json.dumps([2, f"{self.name}-{action}", action, payload]).encode())
        return (await self.answers.get())[2]

    def send_meters(self) -> None:
        """A MeterValues of four samples."""
        assert self.transport is not None
        self.register += 3
        at = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        text = (
            f'[2,"{self.name}-{self.register}","MeterValues",{{"connectorId":1,"transactionId":{self.transaction},'
            f'"meterValue":[{{"timestamp":"{at}","sampledValue":[{{"value":"{self.register}",'
            '"measurand":"Energy.Active.Import.Register","unit":"Wh"},'
            '{"value":"7360.5","measurand":"Power.Active.Import","unit":"W"},'
            '{"value":"32.1","measurand":"Current.Import","unit":"A"},'
            '{"value":"54","measurand":"SoC","unit":"Percent"}]}]}]'
        )
        self._sent_at = time.perf_counter()
        self.transport.send(WSMsgType.TEXT, text.encode())


async def open_station(url: str, name: str, token: str) -> Client:
    """A connected station with a running session."""
    authorization = base64.b64encode(f"{name}:password-of-{name}".encode()).decode()
    headers = {"Authorization": f"Basic {authorization}", "Sec-WebSocket-Protocol": "ocpp1.6"}
    _, client = await ws_connect(lambda: Client(name), f"{url}/{name}", extra_headers=headers)
    await client.call("BootNotification", {"chargePointVendor": "Bench", "chargePointModel": "B1"})
    started = await client.call(
        "StartTransaction",
        {
            "connectorId": 1,
            "idTag": token,
            "meterStart": 1000,
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        },
    )
    client.transaction = started["transactionId"]
    return client


def cpu_s(pid: int, *, children: bool) -> float:
    """CPU seconds of a process so far, or of its living and reaped children."""
    ticks = os.sysconf("SC_CLK_TCK")
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / ticks
    if not children:
        return own
    total = own + (int(fields[13]) + int(fields[14])) / ticks
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        total += cpu_s(int(child), children=True)
    return total


def children_named(pid: int) -> dict[str, int]:
    """The server's direct children by program name."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
        found[Path(f"/proc/{child}/comm").read_text(encoding="ascii").strip()] = int(child)
    return found


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run; the figures."""
    server = Server(folder)
    names = [f"BENCH-{n:05}" for n in range(arguments.stations)]
    await register(server, names, arguments.stations)
    server.start()
    await server.ready()
    assert server.process is not None
    clients = [
        await open_station(f"ws://127.0.0.1:{server.ocpp}", name, f"TOKEN{n:05}") for n, name in enumerate(names)
    ]
    for client in clients:
        client.closed_loop = True
        client.send_meters()
    await asyncio.sleep(2)
    pid, kin = server.process.pid, children_named(server.process.pid)
    before = _reading(pid, kin, clients)
    await asyncio.sleep(arguments.seconds)
    after = _reading(pid, kin, clients)
    latencies = sorted(x for c in clients for x in c.latencies[-2000:])
    server.stop()
    messages = after["messages"] - before["messages"]
    return {
        "stations": arguments.stations,
        "messages": messages,
        "messages_s": round(messages / arguments.seconds),
        **{
            f"{name}_us": round((after[name] - before[name]) / messages * 1e6, 1)
            for name in after
            if name != "messages"
        },
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 2),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 2),
    }


def _reading(pid: int, kin: dict[str, int], clients: list[Client]) -> dict[str, float]:
    found = {"server": cpu_s(pid, children=False), "messages": float(sum(c.done for c in clients))}
    for name, child in kin.items():
        kind = "postgres" if name.startswith("postgres") else "redis"
        found[kind] = cpu_s(child, children=True)
    return found


def main() -> None:
    """Runs and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stations", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--evidence", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="voltledger-bench-"))
    folder.chmod(0o711)
    try:
        report = asyncio.run(measure(arguments, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report["at"] = datetime.now(UTC).isoformat(timespec="seconds")
    report["commit"] = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    report["machine"] = f"{os.cpu_count()} cores, Python {sys.version.split()[0]}"
    print(json.dumps(report, indent=1))
    if arguments.evidence is not None:
        arguments.evidence.mkdir(parents=True, exist_ok=True)
        name = f"{report['at'][:10]}-meters-{arguments.stations}-stations.json"
        (arguments.evidence / name).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
