"""Replays, orders, message ids, transaction ids, clocks, long outages: R-04 to R-07, R-09, R-15.

    VOLTLEDGER_DEV=1 ./voltledger python -m tools.laboratory.replays --scale 0.1 --only R-04,R-05

The frames go through the gateway, the intake and the stores of the server in this process, to a real PostgreSQL
(`tools/laboratory/desk.py`); message ids also through real sockets to a real server; outages of up to a day pass in
the virtual time of `tools/simulation`. The server's own clock is not moved here. Exit status 1 if anything differs.
"""

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from tools.laboratory.cell import wait_until_quiet
from tools.laboratory.desk import PASSWORD, Desk, Line, desk, enlist, in_turns
from tools.laboratory.proofs import Promise, Proof, Task, command
from tools.laboratory.station import Station, wire_time
from tools.laboratory.verdict import price
from tools.laboratory.world import TOKEN, Lab, Site, until
from tools.simulate_seeds import be_quiet
from tools.simulation.faults import Faults
from tools.simulation.journal import Fact, Traits
from tools.simulation.station import Station as SimulatedStation
from tools.simulation.world import World, seed_key
from voltledger.checker import judge, verify
from voltledger.domain.identifiers import StationId
from voltledger.domain.quantities import Minor
from voltledger.domain.session.book import Policy
from voltledger.simulator.journal import Journal
from voltledger.storage.memory.database import MemoryDatabase
from voltledger.storage.memory.journal import JournalDisk
from voltledger.storage.memory.rows import StationRow

HANDS = 200
"""Stations that talk at once."""
METERS = 3
LONG_AGO = timedelta(days=31)


# --- one visit and its messages -----------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Visit:
    """What really happened at one connector. Units: registers in Wh."""

    station: str
    connector: int
    began_at: datetime
    registers: tuple[int, ...]
    ref: int | None = None

    @property
    def energy_wh(self) -> int:
        """What the car took."""
        return self.registers[-1] - self.registers[0]

    def at(self, minute: float) -> str:
        """A time after its start, as on the wire."""
        return wire_time(self.began_at + timedelta(minutes=minute))

    def start(self, *, moved_s: float = 0.0) -> dict[str, Any]:
        """StartTransaction."""
        return {
            "connectorId": self.connector,
            "idTag": TOKEN,
            "meterStart": self.registers[0],
            "timestamp": self.at(moved_s / 60),
        }

    def meter(self, number: int, ref: object = None) -> dict[str, Any]:
        """The number-th MeterValues, from 1."""
        samples = [
            {"value": str(self.registers[number]), "measurand": "Energy.Active.Import.Register", "unit": "Wh"},
            {"value": "7200.5", "measurand": "Power.Active.Import", "unit": "W"},
        ]
        value = {"timestamp": self.at(number * 10), "sampledValue": samples}
        named = {} if ref is None else {"transactionId": ref}
        return {"connectorId": self.connector, **named, "meterValue": [value]}

    def stop(self, ref: object) -> dict[str, Any]:
        """StopTransaction."""
        return {
            "transactionId": ref,
            "idTag": TOKEN,
            "meterStop": self.registers[-1],
            "timestamp": self.at(len(self.registers) * 10),
            "reason": "Local",
        }


def draw_visit(draw: random.Random, station: str, began_at: datetime, *, connector: int = 1, base: int = 0) -> Visit:
    """A visit with `METERS` samples between start and stop."""
    registers = [base + draw.randrange(1_000)]
    for _ in range(METERS + 1):
        registers.append(registers[-1] + draw.randint(1, 1_000))
    return Visit(station=station, connector=connector, began_at=began_at, registers=tuple(registers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A frame as it was said, and its answer."""

    station: str
    message_id: str
    action: str
    payload: str
    answer: Any


async def books_say(site: Site, sql: str, *arguments: object) -> list[Any]:
    """Rows of the books."""
    books = await site.books()
    try:
        return list(await books.fetch(sql, *arguments))
    finally:
        await books.close()


ALL_THAT_COUNTS = """
    SELECT (SELECT count(*) FROM charging_session) sessions,
           (SELECT coalesce(sum(energy_wh), 0) FROM charging_session)::bigint wh,
           (SELECT md5(coalesce(string_agg(concat_ws(':', id, status, energy_wh, transaction_ref, meter_start_wh,
             meter_stop_wh, started_at, ended_at, settle_version, estimated), ',' ORDER BY id), ''))
             FROM charging_session) states,
           (SELECT count(*) FROM settlement) settlements,
           (SELECT coalesce(sum(cost_minor), 0) FROM settlement)::bigint cost,
           (SELECT count(*) FROM ledger_entry) entries,
           (SELECT coalesce(sum(amount_minor), 0) FROM ledger_posting)::bigint postings,
           (SELECT md5(string_agg(concat_ws(':', id, balance_minor), ',' ORDER BY id)) FROM ledger_account) balances,
           (SELECT count(*) FROM reading) readings,
           (SELECT count(*) FROM stray_reading) strays,
           (SELECT count(*) FROM inbox) facts,
           (SELECT count(*) FROM finding) findings,
           (SELECT count(*) FROM command) commands,
           (SELECT count(*) FROM job) jobs"""


async def snapshot(site: Site) -> dict[str, Any]:
    """Everything that a repeat must not change."""
    return dict((await books_say(site, ALL_THAT_COUNTS))[0])


async def check_books(site: Site, proof: Proof, journals: Sequence[Path] = ()) -> None:
    """The checker and the rebuilding of the books from raw frames."""
    verdicts = [await judge(site.dsn, journals), await verify(site.dsn)]
    for verdict in verdicts:
        for difference in verdict.differences:
            proof.differ(str(difference))


# --- R-04 -----------------------------------------------------------------------------------------------------------


async def replays(lab: Lab, task: Task, proof: Proof) -> None:
    """Frames again: same id, new id, new connection, after the settlement, 31 days later."""
    sessions = task.of(2_000, HANDS // 10)
    wanted = task.of(100_000)
    async with lab.site() as site, desk(site) as node:
        replay = _Replay(node, task.seed, proof)
        names = await enlist(site, "R04-", min(HANDS, sessions))
        node.behind = LONG_AGO
        shares = [(name, len(range(n, sessions, len(names)))) for n, name in enumerate(names)]
        await in_turns(shares, HANDS, lambda share: replay.record(*share))
        rows = await books_say(site, "SELECT transaction_ref, energy_wh, status FROM charging_session")
        found = {row["transaction_ref"]: (row["energy_wh"], row["status"]) for row in rows}
        truth = {str(visit.ref): (visit.energy_wh, "COMPLETED") for visit in replay.visits}
        if found != truth:
            proof.differ(f"{len(found)} sessions recorded, {len(truth)} in truth, or not with their energy")
        await node.settle()
        await replay.again_all(site, "settled", max(1, (wanted - replay.count) // 2))
        node.behind = timedelta()
        await in_turns(names, HANDS, replay.leave_one_charging)
        await replay.again_all(site, "31 days later", max(1, wanted - replay.count))
        await check_books(site, proof)
    ways = ", ".join(f"{count} {way}" for way, count in replay.ways.items())
    proof.figure = f"{replay.count} replays of {len(replay.said)} frames of {len(replay.visits)} sessions ({ways})"


class _Replay:
    """Who said what, and says it again."""

    def __init__(self, node: Desk, seed: int, proof: Proof) -> None:
        self.said: list[Said] = []
        self.visits: list[Visit] = []
        self.ways: Counter[str] = Counter()
        self._node = node
        self._seed = seed
        self._proof = proof

    @property
    def count(self) -> int:
        """Replays so far."""
        return sum(self.ways.values())

    async def record(self, station: str, sessions: int) -> None:
        """One station's sessions; each frame again at once, and each session again over a new connection."""
        draw = random.Random(f"{self._seed}/{station}")
        line = self._node.connect(station)
        began = self._node.now() - timedelta(hours=2 * sessions + 1)
        base = 0
        for number in range(sessions):
            visit = draw_visit(draw, station, began + timedelta(hours=2 * number), base=base)
            base = visit.registers[-1]
            self.visits.append(visit)
            session = await self._say_visit(line, visit, draw)
            other = self._node.connect(station)
            for one in draw.sample(session, len(session)):
                await self._again(other, one, "over a new connection", None)
            await line.close()
            line = other
        await line.close()

    async def _say_visit(self, line: Line, visit: Visit, draw: random.Random) -> list[Said]:
        session = [await self._say(line, "StartTransaction", visit.start())]
        visit.ref = session[0].answer["transactionId"]
        await self._at_once(line, session[-1], draw)
        for number in range(1, METERS + 1):
            session.append(await self._say(line, "MeterValues", visit.meter(number, visit.ref)))
            await self._at_once(line, session[-1], draw)
        session.append(await self._say(line, "StopTransaction", visit.stop(visit.ref)))
        await self._at_once(line, session[-1], draw)
        self.said += session
        return session

    async def _say(self, line: Line, action: str, payload: dict[str, Any]) -> Said:
        text = json.dumps(payload)
        frame = await line.call(action, text)
        if frame[0] != 3:
            self._proof.differ(f"{line.station}: {action} was refused: {frame}")
        return Said(station=line.station, message_id=frame[1], action=action, payload=text, answer=frame[2])

    async def _at_once(self, line: Line, one: Said, draw: random.Random) -> None:
        await self._again(line, one, "with the same id", one.message_id)
        for _ in range(draw.randint(0, 2)):
            await self._again(line, one, "with a new id", None)

    async def _again(self, line: Line, one: Said, way: str, message_id: str | None) -> None:
        # A new id: spelled otherwise as well, since a retry may be put together anew.
        text = one.payload if message_id else json.dumps(json.loads(one.payload), sort_keys=True)
        frame = await line.call(one.action, text, message_id)
        self.ways[way] += 1
        if frame[0] != 3 or frame[2] != one.answer:
            self._proof.differ(f"{one.station}: {one.action} {way}: first {one.answer}, then {frame[2:]}")

    async def leave_one_charging(self, station: str) -> None:
        """A car charges now, which no frame of long ago may touch."""
        draw = random.Random(f"{self._seed}/now/{station}")
        line = self._node.connect(station)
        visit = draw_visit(draw, station, self._node.now() - timedelta(minutes=15), base=10_000_000)
        started = await self._say(line, "StartTransaction", visit.start())
        await self._say(line, "MeterValues", visit.meter(1, started.answer["transactionId"]))
        await line.close()

    async def again_all(self, site: Site, way: str, count: int) -> None:
        """So many replays of everything, in any order, each frame up to five times; nothing may change."""
        before = await snapshot(site)
        draw = random.Random(f"{self._seed}/{way}")
        of_station: dict[str, list[Said]] = {}
        for one in draw.choices(self.said, k=count):
            of_station.setdefault(one.station, []).append(one)

        async def repeat(station: str) -> None:
            line = self._node.connect(station)
            for one in of_station[station]:
                await self._again(line, one, way, draw.choice((one.message_id, None)))
            await line.close()

        await in_turns(list(of_station), HANDS, repeat)
        await self._node.settle()
        after = await snapshot(site)
        for name, value in before.items():
            if after[name] != value:
                self._proof.differ(f"replays {way} changed {name}: {value} before, {after[name]} after")


# --- R-05 -----------------------------------------------------------------------------------------------------------

ACTIONS = {"S": "StartTransaction", "M": "MeterValues", "E": "StopTransaction"}
SHAPES = ("late meters", "start lost", "stop first", "answer lost", "start moved")


@dataclass(slots=True, kw_only=True)
class Order:
    """One permutation: what is said in which order. `exact`: the books must be right without a person."""

    visit: Visit
    shape: str
    steps: list[tuple[str, int, bool]]  # action's letter, number, whether the transaction is named
    exact: bool
    words: list[str] = field(default_factory=list)


def draw_order(draw: random.Random, station: str, at: datetime) -> Order:
    """A visit in an order that a station can cause.

    A transaction is named only by a station that knows it; before that a message says -1 or nothing.
    """
    visit = draw_visit(draw, station, at - timedelta(hours=2), connector=draw.choice((1, 2)))
    shape = draw.choice(SHAPES)
    meters = draw.sample(range(1, METERS + 1), draw.randint(0, METERS))
    if shape == "late meters":
        rest = [("M", n, True) for n in meters] + [("E", 0, True)]
        draw.shuffle(rest)
        steps = [("S", 0, False), *rest]
    elif shape == "start moved":
        steps = [("S", 0, False)] + [("S", draw.randint(1, 90), False) for _ in range(draw.randint(1, 2))]
        steps += [("M", n, True) for n in sorted(meters)] + [("E", 0, True)]
    elif shape == "start lost":
        steps = [("M", n, False) for n in sorted(meters)] + [("E", 0, False)]
    elif shape == "answer lost":
        steps = [("S", 0, False)] + [("M", n, False) for n in sorted(meters)] + [("E", 0, False)]
    else:
        early = draw.sample(meters, draw.randint(0, len(meters)))
        late = [n for n in meters if n not in early]
        steps = [("M", n, False) for n in early] + [("E", 0, False), ("S", 0, False)] + [("M", n, True) for n in late]
    exact = shape in ("late meters", "start moved")
    for _ in range(draw.choice((0, 0, 1, 2))):
        # Once more, later: what was said, as it was said.
        where = draw.randrange(len(steps))
        again = draw.randint(where + 1, len(steps))
        if steps[where][0] != "S" or shape != "start moved":
            steps.insert(again, steps[where])
    return Order(visit=visit, shape=shape, steps=steps, exact=exact)


async def orders(lab: Lab, task: Task, proof: Proof) -> None:
    """Permutations, each at a station of its own; then every session against what really happened."""
    count = task.of(10_000, 20)
    draw = random.Random(f"orders/{task.seed}")
    async with lab.site() as site, desk(site) as node:
        names = await enlist(site, "R05-", count)
        drawn = [draw_order(draw, name, node.now()) for name in names]
        await in_turns(drawn, HANDS, lambda order: _say_order(node, order, proof))
        await node.settle()
        tally = await _judge_orders(site, drawn, proof)
        await check_books(site, proof)
    kinds = ", ".join(f"{number} {name}" for name, number in sorted(tally.items()))
    proof.figure = f"{count} permutations of {len(SHAPES)} shapes: {kinds}"


async def _say_order(node: Desk, order: Order, proof: Proof) -> None:
    visit, line = order.visit, node.connect(order.visit.station)
    said: dict[tuple[str, int, bool], str] = {}
    try:
        for step in order.steps:
            letter, number, named = step
            ref = visit.ref if named else -1
            if step not in said:
                said[step] = json.dumps(_payload_of(visit, letter, number, ref))
            action = ACTIONS[letter]
            frame = await line.call(action, said[step])
            order.words.append(f"{letter}{number}{'' if named or letter == 'S' else ' without id'}")
            if frame[0] != 3:
                proof.differ(f"{visit.station}: {action} was refused: {frame}")
            elif letter == "S":
                if visit.ref not in (None, frame[2]["transactionId"]):
                    proof.differ(f"{visit.station}: {' '.join(order.words)}: another transactionId for one start")
                visit.ref = frame[2]["transactionId"]
    finally:
        await line.close()


FINAL = """
    SELECT s.station_id, s.status, s.energy_wh, s.meter_start_wh, t.cost_minor, t.energy_wh AS settled_wh
      FROM charging_session s LEFT JOIN LATERAL (SELECT * FROM settlement WHERE session_id = s.id
           ORDER BY version DESC LIMIT 1) t ON true"""


def _payload_of(visit: Visit, letter: str, number: int, ref: int | None) -> dict[str, Any]:
    if letter == "S":
        return visit.start(moved_s=float(number))
    return visit.meter(number, ref) if letter == "M" else visit.stop(ref)


async def _judge_orders(site: Site, drawn: Sequence[Order], proof: Proof) -> Counter[str]:
    sessions: dict[str, list[Any]] = {}
    for row in await books_say(site, FINAL):
        sessions.setdefault(row["station_id"], []).append(row)
    cases = {
        row[0]
        for row in await books_say(
            site,
            "SELECT station_id FROM inbox WHERE state IN ('quarantined', 'conflict')"
            " UNION SELECT station_id FROM finding",
        )
    }
    tally: Counter[str] = Counter()
    for order in drawn:
        found = sessions.get(order.visit.station, [])
        problem = _judge_order(order, found, order.visit.station in cases)
        if problem:
            proof.differ(f"{order.visit.station}, {order.shape} ({', '.join(order.words)}): {problem}")
        is_exact = len(found) == 1 and _is_right(order.visit, found[0])
        tally["equal to the oracle" if is_exact else "open cases"] += 1
    return tally


def _is_right(visit: Visit, row: Any) -> bool:
    figures = (row["status"], row["energy_wh"], row["settled_wh"], row["cost_minor"])
    return bool(figures == ("COMPLETED", visit.energy_wh, visit.energy_wh, price(visit.energy_wh)))


def _judge_order(order: Order, found: Sequence[Any], has_case: bool) -> str:
    """What is wrong with a permutation; nothing if it is right, or an open case without wrong money."""
    if len(found) > 1:
        return f"{len(found)} sessions of one visit"
    if found and _is_right(order.visit, found[0]):
        return ""
    what = f"{[tuple(row.values()) for row in found]}, true {order.visit.energy_wh} Wh"
    if order.exact:
        return f"not as the oracle says: {what}"
    if not has_case:
        return f"neither right nor a case: {what}"
    if found and found[0]["settled_wh"] is not None:
        return f"a case, and money moved that is wrong: {what}"
    return ""


# --- R-06 -----------------------------------------------------------------------------------------------------------


async def message_ids(lab: Lab, task: Task, proof: Proof) -> None:
    """Counters from 1 on each connection (real sockets); one id for everything; a new id for each retry."""
    count = task.of(1_000, 10)
    restarted, cuts = await _counters(lab, task, proof, count)
    async with lab.site() as site, desk(site) as node:
        draw = random.Random(f"ids/{task.seed}")
        names = await enlist(site, "R06-", 2 * count)
        visits = [draw_visit(draw, name, node.now() - timedelta(hours=2)) for name in names]
        retries: Counter[str] = Counter()
        await in_turns(visits[:count], HANDS, lambda visit: _say_with_one_id(node, visit, proof))
        await in_turns(visits[count:], HANDS, lambda visit: _say_with_retries(node, visit, draw, proof, retries))
        await node.settle()
        rows = {row["station_id"]: row for row in await books_say(site, FINAL)}
        total = len(await books_say(site, FINAL))
        if total != len(visits):
            proof.differ(f"{total} sessions of {len(visits)} visits")
        for visit in visits:
            if visit.station not in rows or not _is_right(visit, rows[visit.station]):
                proof.differ(f"{visit.station}: {rows.get(visit.station)}, true {visit.energy_wh} Wh")
        await check_books(site, proof)
    proof.figure = (
        f"{restarted} sessions with counters from 1 over sockets ({cuts} cuts), {count} with one id for all, "
        f"{count} with {retries['retries']} retries under new ids"
    )


async def _say_with_one_id(node: Desk, visit: Visit, proof: Proof) -> None:
    line = node.connect(visit.station)
    for action, payload in _messages(visit):
        frame = await line.call(action, json.dumps(payload()), "1")
        _heed(visit, action, frame, proof)
    await line.close()


async def _say_with_retries(node: Desk, visit: Visit, draw: random.Random, proof: Proof, retries: Counter[str]) -> None:
    """Says each message, hangs up before its answer or does not use it, and says it again under another id."""
    line = node.connect(visit.station)
    for number, (action, payload) in enumerate(_messages(visit)):
        text = json.dumps(payload())
        for attempt in range(draw.randint(1, 2)):
            line.say(action, text, f"{number}-{attempt}")
            await line.close()
            line = node.connect(visit.station)
            retries["retries"] += 1
        _heed(visit, action, await line.call(action, text, f"{number}-last"), proof)
    await line.close()


def _messages(visit: Visit) -> list[tuple[str, Any]]:
    return [
        ("StartTransaction", visit.start),
        *(("MeterValues", lambda n=n: visit.meter(n, visit.ref)) for n in range(1, METERS + 1)),
        ("StopTransaction", lambda: visit.stop(visit.ref)),
    ]


def _heed(visit: Visit, action: str, frame: Any, proof: Proof) -> None:
    if frame[0] != 3:
        proof.differ(f"{visit.station}: {action} was refused: {frame}")
    elif action == "StartTransaction":
        visit.ref = frame[2]["transactionId"]


async def _counters(lab: Lab, task: Task, proof: Proof, count: int) -> tuple[int, int]:
    """Stations on real sockets whose ids begin at 1 on each connection, and who hang up all the time."""
    async with lab.site() as site:
        names = await enlist(site, "CNT-", min(50, count))
        await site.start()
        await until(site.listens, 20, "the server listens")
        with Journal(site.journal) as journal:
            fleet = [_counting(name, site, journal) for name in names]
            lines = [asyncio.create_task(station.run()) for station in fleet]
            shares = [len(range(n, count, len(fleet))) for n in range(len(fleet))]
            plays = [
                _charge_and_hang_up(station, share, random.Random(f"{task.seed}/{station.name}"))
                for station, share in zip(fleet, shares, strict=True)
            ]
            try:
                async with asyncio.timeout(60 + count):
                    cuts = sum(await asyncio.gather(*plays))
                await wait_until_quiet(site)
            finally:
                await end_all(lines)
        for station in fleet:
            if station.refused or station.timed_out or station.discarded:
                proof.differ(
                    f"{station.name}: {station.refused} refused, {station.timed_out} timed out, "
                    f"{station.discarded} discarded"
                )
        await check_books(site, proof, [site.journal])
    if not cuts:
        proof.differ("no station hung up: the counters began once")
    return sum(shares), cuts


def _counting(name: str, site: Site, journal: Journal) -> Station:
    return Station(name, lambda: PASSWORD, lambda: f"ws://127.0.0.1:{site.ocpp_port}", journal, message_ids="counter")


async def _charge_and_hang_up(station: Station, sessions: int, draw: random.Random) -> int:
    """So many sessions, hanging up at any moment; how often."""
    register = cut = 0
    began = datetime.now(UTC) - timedelta(minutes=sessions + 5)
    for number in range(sessions):
        visit = station.begin(connector=1, token=TOKEN, register_wh=register, at=began + timedelta(seconds=60 * number))
        station.meter(visit, register + draw.randint(1, 300), 0.3)
        register += draw.randint(300, 900)
        fact = station.end(visit, register, 0.6)
        while not station.is_quiet:
            # Long enough that a busy server gets an answer through; a station that hangs up sooner never hears one.
            await asyncio.sleep(draw.uniform(0.01, 0.1))
            if draw.random() < 0.05 and station.online.is_set():
                station.hang_up()
                cut += 1
        await fact.answered.wait()
    return cut


async def end_all(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancels and waits."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# --- R-07 -----------------------------------------------------------------------------------------------------------

STRANGE: dict[str, object] = {
    "-1": -1,
    "0": 0,
    "missing": ...,
    "null": None,
    "empty text": "",
    "-5": -5,
    "2^31": 2**31,
    "10^20": 10**20,
    "a number as text": "1999999999",
    "unknown": 1_888_888_888,
    "foreign": "foreign",
    "reused": "reused",
}
HISTORIES = ("id never used", "id used", "ended")


async def strange_ids(lab: Lab, task: Task, proof: Proof) -> None:
    """Ends with ids that name no transaction of the station; all 36 at any scale."""
    draw = random.Random(f"strange/{task.seed}")
    cells = [(name, history) for name in STRANGE for history in HISTORIES]
    answered: list[str] = []
    async with lab.site() as site, desk(site) as node:
        names = await enlist(site, "R07-", 2 * len(cells))
        for number, (name, history) in enumerate(cells):
            cell = _Strange(site, node, draw, names[2 * number], names[2 * number + 1], proof, f"{name}, {history}")
            if await cell.run(STRANGE[name], history):
                answered.append(name)
        await check_books(site, proof)
    proof.figure = f"{len(answered)} of {len(cells)} ends answered with a .conf ({len(STRANGE)} shapes)"


class _Strange:
    """One cell: a station, a transaction that is foreign to it, an earlier visit, an end that names oddly."""

    def __init__(
        self, site: Site, node: Desk, draw: random.Random, station: str, other: str, proof: Proof, what: str
    ) -> None:
        self._site, self._node, self._proof, self._what = site, node, proof, what
        now = node.now()
        self._earlier = draw_visit(draw, station, now - timedelta(hours=6))
        self._visit = draw_visit(draw, station, now - timedelta(hours=2), base=50_000)
        self._foreign = draw_visit(draw, other, now - timedelta(hours=2))

    async def run(self, shape: object, history: str) -> bool:
        """Says it all; whether the odd end was answered with a .conf."""
        line, other = self._node.connect(self._visit.station), self._node.connect(self._foreign.station)
        for action, payload in _messages(self._earlier):
            await self._say(line, self._earlier, action, payload())
        for action, payload in _messages(self._foreign)[:-1]:
            await self._say(other, self._foreign, action, payload())
        script = _messages(self._visit)
        for action, payload in script[: {"id never used": 1, "id used": 3, "ended": 5}[history]]:
            await self._say(line, self._visit, action, payload())
        named = {"foreign": self._foreign.ref, "reused": self._earlier.ref}
        ref = named[shape] if isinstance(shape, str) and shape in named else shape
        await self._node.settle()
        before = await self._sessions()
        is_answered = await self._say_odd(line, ref)
        await self._look(before, history, "after the odd end")
        if history != "ended":
            await self._say(line, self._visit, *_concrete(script[-1]))
        await self._look(before, "ended", "after the true end")
        await line.close()
        await other.close()
        return is_answered

    async def _say_odd(self, line: Line, ref: object) -> bool:
        meter, stop = self._visit.meter(METERS, ref), self._visit.stop(ref)
        for payload in (meter, stop):
            payload["transactionId"] = ref
            if ref is ...:
                del payload["transactionId"]
        frames = [
            await line.call("MeterValues", json.dumps(meter)),
            await line.call("StopTransaction", json.dumps(stop)),
        ]
        for frame in frames:
            if frame[0] != 3:
                self._proof.differ(f"{self._what}: refused: {frame}")
        return all(frame[0] == 3 for frame in frames)

    async def _say(self, line: Line, visit: Visit, action: str, payload: dict[str, Any]) -> None:
        _heed(visit, action, await line.call(action, json.dumps(payload)), self._proof)

    async def _sessions(self) -> dict[str, tuple[Any, ...]]:
        await self._node.settle()
        sql = FINAL.replace("SELECT s.", "SELECT s.transaction_ref, s.", 1) + " WHERE s.station_id = ANY($1)"
        rows = await books_say(self._site, sql, [self._visit.station, self._foreign.station])
        return {row["transaction_ref"]: tuple(row.values()) for row in rows}

    async def _look(self, before: dict[str, tuple[Any, ...]], history: str, when: str) -> None:
        after = await self._sessions()
        if set(after) != set(before):
            self._proof.differ(f"{self._what}: {when} there are other sessions: {set(after) ^ set(before)}")
        for visit in (self._earlier, self._foreign):
            if after.get(str(visit.ref)) != before[str(visit.ref)]:
                self._proof.differ(f"{self._what}: {when} another session changed: {after.get(str(visit.ref))}")
        own = after.get(str(self._visit.ref))
        energy = self._visit.energy_wh
        if own is not None and own[2:4] == ("COMPLETED", energy) and own[5:] == (price(energy), energy):
            return
        if history == "ended":
            self._proof.differ(f"{self._what}: {when} the session is {own}, true {energy} Wh")
        elif own is None or own[5] is not None:
            self._proof.differ(f"{self._what}: {when} money moved that is wrong: {own}, true {energy} Wh")
        elif not await books_say(
            self._site,
            "SELECT 1 FROM inbox WHERE station_id = $1 AND state IN ('quarantined', 'conflict') LIMIT 1",
            self._visit.station,
        ):
            self._proof.differ(f"{self._what}: {when} the end is neither attached nor a case")


def _concrete(message: tuple[str, Any]) -> tuple[str, dict[str, Any]]:
    return message[0], message[1]()


# --- R-15 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What a station's clock says at start, two samples and stop, and the times that stand; None: that of receipt."""

    name: str
    says: tuple[str, str, str, str]
    start: datetime | None
    stop: datetime | None


def clocks(now: datetime) -> list[Clock]:
    """Clocks that field reports tell of. Rule: believed inside [2015, receipt + 1 day], else the time of receipt."""
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    noon = today - timedelta(hours=12)
    minutes = [noon + timedelta(minutes=10 * n) for n in range(4)]

    def same(name: str, times: Sequence[datetime], start: datetime | None, stop: datetime | None) -> Clock:
        return Clock(name=name, says=tuple(map(wire_time, times)), start=start, stop=stop)  # type: ignore[arg-type]  # four

    def spelled(name: str, form: str, shift: timedelta = timedelta()) -> Clock:
        texts = tuple((at + shift).strftime(form) for at in minutes)
        return Clock(name=name, says=texts, start=minutes[0], stop=minutes[3])  # type: ignore[arg-type]  # four

    hour, day = timedelta(hours=1), timedelta(days=1)
    epoch = [datetime(1970, 1, 1, 0, n, tzinfo=UTC) for n in range(4)]
    late = [at + timedelta(days=3653) for at in minutes]
    leap = noon.replace(hour=23, minute=59, second=0) - day
    return [
        same("1970", epoch, None, None),
        same("ten years ahead", late, None, None),
        same("1970, set right while charging", [*epoch[:2], *minutes[2:]], None, minutes[3]),
        same("summer time begins", [*minutes[:2], *(at + hour for at in minutes[2:])], minutes[0], minutes[3] + hour),
        same("summer time ends", [*minutes[:2], *(at - hour for at in minutes[2:])], minutes[0], minutes[3] - hour),
        same("backwards by a day", [*minutes[:2], *(at - day for at in minutes[2:])], minutes[0], minutes[3] - day),
        Clock(
            name="leap second",
            says=(
                wire_time(leap),
                leap.strftime("%Y-%m-%dT23:59:20Z"),
                leap.strftime("%Y-%m-%dT23:59:50Z"),
                leap.strftime("%Y-%m-%dT23:59:60Z"),
            ),
            start=leap,
            stop=leap.replace(second=59),
        ),
        spelled("no zone", "%Y-%m-%dT%H:%M:%S"),
        spelled("offset", "%Y-%m-%dT%H:%M:%S+05:30", timedelta(hours=5, minutes=30)),
        spelled("offset without a colon, and a blank", "%Y-%m-%d %H:%M:%S+0530", timedelta(hours=5, minutes=30)),
        spelled("nanoseconds", "%Y-%m-%dT%H:%M:%S.000000000Z"),
        Clock(name="no time at all", says=("", "yesterday", "0000-00-00T00:00:00Z", "99999"), start=None, stop=None),
        Clock(name="year 9999", says=("9999-12-31T23:59:59Z",) * 4, start=None, stop=None),
    ]


async def station_clocks(lab: Lab, task: Task, proof: Proof) -> None:
    """A visit on each clock; nothing is refused, times stand by the rule, energy and price are exact."""
    draw = random.Random(f"clocks/{task.seed}")
    async with lab.site() as site, desk(site) as node:
        shapes = clocks(node.now())
        names = await enlist(site, "R15-", len(shapes))
        for clock, name in zip(shapes, names, strict=True):
            visit = draw_visit(draw, name, node.now())
            received = node.now()
            await _say_on_clock(node, clock, visit, proof)
            await node.settle()
            await _judge_clock(site, clock, visit, (received, node.now()), proof)
        await check_books(site, proof)
    proof.figure = f"{len(shapes)} clocks of stations (the server's own clock is not moved here)"


async def _say_on_clock(node: Desk, clock: Clock, visit: Visit, proof: Proof) -> None:
    line = node.connect(visit.station)
    for number, text in enumerate(clock.says):
        if number == 0:
            action, payload = "StartTransaction", visit.start() | {"timestamp": text}
        elif number == 3:
            action, payload = "StopTransaction", visit.stop(visit.ref) | {"timestamp": text}
        else:
            action, payload = "MeterValues", visit.meter(number, visit.ref)
            payload["meterValue"][0]["timestamp"] = text
        frame = await line.call(action, json.dumps(payload))
        if frame[0] != 3:
            proof.differ(f"{clock.name}: {action} at {text!r} was refused: {frame}")
            return
        _heed(visit, action, frame, proof)
    await line.close()


async def _judge_clock(
    site: Site, clock: Clock, visit: Visit, received: tuple[datetime, datetime], proof: Proof
) -> None:
    sql = FINAL.replace("SELECT s.", "SELECT s.started_at, s.ended_at, s.", 1) + " WHERE s.station_id = $1"
    rows = await books_say(site, sql, visit.station)
    if len(rows) != 1 or not _is_right(visit, rows[0]):
        proof.differ(f"{clock.name}: {[tuple(row.values()) for row in rows]}, true {visit.energy_wh} Wh")
        return
    for name, wanted in (("started_at", clock.start), ("ended_at", clock.stop)):
        found = rows[0][name]
        if (wanted is not None and found != wanted) or (wanted is None and not received[0] <= found <= received[1]):
            proof.differ(f"{clock.name}: {name} is {found}, by the rule {wanted or 'the time of receipt'}")
    doubtful = await books_say(
        site, "SELECT action, state FROM inbox WHERE station_id = $1 AND state <> 'applied'", visit.station
    )
    if doubtful:
        proof.differ(f"{clock.name}: not applied: {[tuple(row.values()) for row in doubtful]}")


# --- R-09 -----------------------------------------------------------------------------------------------------------

LENGTHS_S = (1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 120, 300, 600, 1_200, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400)
QUIET_S = 600.0
DAY_S = 86_400.0


class OutageWorld(World):
    """One node without another fault, stations with the real rules of retries, one outage of the database."""

    def __init__(self, seed: int, *, away_s: float, stations: int, with_journal: bool) -> None:
        self._away_s = away_s
        self._count = stations
        self._journals = with_journal
        self.answered_away = 0
        super().__init__(seed)

    def _draw(self) -> None:
        rng = self.rng
        self.loop._limit = 50_000_000
        self.price, self.fee_percent = Decimal(2_000), Decimal(10)
        self.policy = Policy(local_hold=Minor(500), heartbeat_s=300)
        self.node_count, self.with_journal = 1, self._journals
        self.disks = {1: JournalDisk(), 2: JournalDisk()}
        self.lost_answers = self.replays = 0.0
        self.database = MemoryDatabase(now=self.now, transaction_key=seed_key(self.seed))
        self.faults = Faults(self, random.Random(rng.getrandbits(32)))
        self._draw_rows()
        self.horizon = 2 * QUIET_S + self._away_s
        for number in range(self._count):
            self._draw_outage_station(f"S{number + 1}")
        self.loop.call_at(0.0, self.start_node, 1)
        self.loop.call_at(QUIET_S, self.faults.begin_outage, self._away_s)
        self.loop.call_at(self.horizon + DAY_S, self._heal)

    def _draw_outage_station(self, name: str) -> None:
        rng = self.rng
        self.database.stations.rows[StationId(name)] = StationRow(id=StationId(name), connectors=1)
        traits = Traits(attempts=3, interval_s=60.0, timeout_s=30.0)
        station = SimulatedStation(self, name, 1, traits, random.Random(rng.getrandbits(32)))
        self.stations[name] = station
        self.loop.call_at(rng.uniform(0.0, 5.0), station.connect)
        at = rng.uniform(10.0, QUIET_S)
        # One that surely charges when the database goes away, and others all through the outage.
        self.loop.call_at(at, self._visit, station, 1)
        for _ in range(4):
            self.loop.call_at(rng.uniform(QUIET_S, self.horizon), self._visit, station, 1)

    def facts(self) -> list[Fact]:
        """Every transaction message of every station."""
        return [fact for station in self.stations.values() for visit in station.visits for fact in visit.facts]


async def long_outages(lab: Lab, task: Task, proof: Proof) -> None:
    """Outages of 1 s to 24 h in virtual time, with the journal and without."""
    count = task.of(50, 5)
    lengths = LENGTHS_S if task.scale >= 0.5 else LENGTHS_S[::5]
    facts = attempts = 0
    for number, away_s in enumerate(lengths):
        for with_journal in (True, False):
            world = OutageWorld(
                1_000 * task.seed + number, away_s=float(away_s), stations=count, with_journal=with_journal
            )
            failures = await asyncio.to_thread(world.run)
            kind = f"{away_s} s away, {'with' if with_journal else 'without'} a journal"
            for failure in failures:
                proof.differ(f"{kind}: {failure}")
            said = world.facts()
            facts += len(said)
            attempts += sum(fact.attempts for fact in said)
            _judge_outage(world, kind, proof)
    proof.figure = (
        f"{len(lengths)} outages of {lengths[0]} s to {lengths[-1]} s x {count} stations x journal on and off in "
        f"virtual time: {facts} transaction messages, {attempts} attempts spent"
    )


def _judge_outage(world: OutageWorld, kind: str, proof: Proof) -> None:
    for station in world.stations.values():
        spent = sum(fact.attempts for visit in station.visits for fact in visit.facts)
        if station.discards:
            proof.differ(f"{kind}: {station.name} discarded {[fact.action for fact in station.discards]}")
        if spent > 1:
            proof.differ(f"{kind}: {station.name} spent {spent} attempts")
        if station.queue:
            proof.differ(f"{kind}: {station.name} still keeps {len(station.queue)} messages")
        if not station.visits:
            proof.differ(f"{kind}: {station.name} never charged: the proof proves nothing")


PROMISES = [
    Promise(name="R-04", target="100,000 replays: 0 new sessions, Wh, cents; the same answers", work=replays),
    Promise(name="R-05", target="10,000 permutations: equal to the oracle or an open case", work=orders),
    Promise(name="R-06", target="1,000 sessions each way: 0 lost, 0 double", work=message_ids),
    Promise(name="R-07", target="36 of 36 answered; 0 stop a foreign session", work=strange_ids),
    Promise(name="R-09", target="20 outages x 50 stations: 0 discards, at most 1 attempt each", work=long_outages),
    Promise(name="R-15", target="10 clocks: nothing refused, times and prices by rule", work=station_clocks),
]


def main() -> int:
    """The command line."""
    be_quiet()
    return command(__doc__ or "", PROMISES)


if __name__ == "__main__":
    sys.exit(main())
