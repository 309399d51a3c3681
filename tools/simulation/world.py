"""One world of one seed: what is in it, what happens in it, and what goes wrong."""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextvars import Context
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

from tools.simulation.faults import Faults
from tools.simulation.journal import Fact, Traits
from tools.simulation.loop import DoesNotEnd, VirtualLoop
from tools.simulation.network import Link
from tools.simulation.node import OWNER, Node, Shape
from tools.simulation.station import Station
from voltledger.domain.events import AuthorizationStatus
from voltledger.domain.identifiers import OrganizationId, StationId, TokenValue, UserId
from voltledger.domain.quantities import Minor
from voltledger.domain.session.book import Policy
from voltledger.domain.session.tokens import TokenRecord
from voltledger.services.facts import Committed
from voltledger.storage.memory.database import Access, MemoryDatabase
from voltledger.storage.memory.journal import JournalDisk
from voltledger.storage.memory.live import MemoryLive
from voltledger.storage.memory.rows import OrganizationRow, StationRow, TariffRow

BASE = datetime(2026, 3, 28, 20, 0, tzinfo=UTC)
TOKENS = ("CARDA", "CARDB", "STRANGER", "BLOCKED")
PRICES = ("2000", "1999.5", "33.3333", "0.5", "1234.5678", "0")
FEES = ("10", "12.345", "0", "33.333")
DAY = 86_400.0


class Payment:
    """A paid start that somebody asked for, again and again with one key, until an answer came."""

    __slots__ = ("amount", "connector", "key", "outcomes", "station", "user")

    def __init__(self, key: str, station: str, connector: int, user: str, amount: int) -> None:
        self.key = key
        self.station = station
        self.connector = connector
        self.user = user
        self.amount = amount
        self.outcomes: list[UUID | str | None] = []


class World:
    """Everything of one seed. `run` once, then look at `failures`."""

    def __init__(self, seed: int, *, shape: type[Shape] = Shape, record: bool = False) -> None:
        self.seed = seed
        self.shape = shape
        self.loop = VirtualLoop()
        self.loop.on_task = self._remember_task
        self.loop.put_off = self._put_off
        self.rng = Random(seed)
        self.base = BASE
        self.failures: list[str] = []
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.lines: list[str] | None = [] if record else None
        self._trace = hashlib.blake2b(digest_size=16)
        self._ids = 0
        self._states: dict[UUID, str] = {}
        self._runs: Counter[int] = Counter()
        self.users = {"anna": UserId("anna"), "ben": UserId("ben")}
        self.top_ups: dict[str, int] = {}
        self.payments: list[Payment] = []
        self.stations: dict[str, Station] = {}
        self.nodes: dict[int, Node] = {}
        self.everybody: list[Node] = []
        self._draw()

    # --- what everybody uses ---------------------------------------------------------------------------

    def now(self) -> datetime:
        """The servers' clock."""
        return self.base + timedelta(seconds=self.loop.time())

    def new_id(self) -> UUID:
        """A fresh identifier; they sort by time of creation."""
        self._ids += 1
        return UUID(int=self._ids)

    def new_token(self) -> str:
        """A token for one paid start."""
        self._ids += 1
        return f"VL{self._ids:08d}"

    def delay(self) -> float:
        """How long a frame is on its way."""
        return self.rng.uniform(0.005, 0.2)

    def note(self, who: str, what: str, *more: object) -> None:
        """One line of the trace, whose hash tells whether two runs were the same."""
        line = f"{self.loop.time():.3f} {who} {what} {more}"
        self._trace.update(line.encode())
        if self.lines is not None:
            self.lines.append(line)

    @property
    def trace(self) -> str:
        """The hash of all that happened."""
        return self._trace.hexdigest()

    def _remember_task(self, task: asyncio.Task[Any], context: Context | None) -> None:
        owner = OWNER.get() if context is None else context.get(OWNER)
        if owner is not None:
            owner.tasks.append(task)

    def _put_off(self, when: float) -> float:
        """A ladder that probes every second would do so 86,400 times in a day without a database; it need not."""
        until = self.faults.outage_until
        if when + 60.0 < until:
            task = asyncio.current_task()
            if task is not None and task.get_name() == "ladder":
                return until + self.rng.random()
        return when

    def saw(self, committed: Sequence[Committed]) -> None:
        """Counts which event met which state of a session."""
        for one in committed:
            decision = one.decision
            if decision is None or decision.session_id is None:
                continue
            before = self._states.get(decision.session_id, "none")
            self.pairs[(before, type(one.fact.event).__name__)] += 1
            for session in decision.sessions:
                self._states[session.id] = session.state.value

    def has_work(self) -> bool:
        """Whether something in the database waits for a node."""
        database = self.database
        return (
            any(job.state == "waiting" for job in database.jobs)
            or any(command.state == "queued" for command in database.commands)
            or any(session.state == "PENDING" for session in database.sessions)
        )

    # --- nodes and lines ---------------------------------------------------------------------------------

    def start_node(self, number: int) -> None:
        """A server starts, or starts again."""
        self._runs[number] += 1
        node = Node(self, number, self._runs[number])
        self.nodes[number] = node
        self.everybody.append(node)
        self.note(node.name, "starts")
        node.start()

    def crash(self, node: Node, down_s: float) -> None:
        """A server dies as by `kill -9`, and is started again a while later."""
        if node.dead:
            return
        self.faults.counts["crash"] += 1
        self.note(node.name, "dies")
        node.die()
        self.loop.call_later(down_s, self.start_node, node.number)

    def open_link(self, station: Station) -> Link | None:
        """A station connects; None when it is refused."""
        alive = [node for node in self.nodes.values() if not node.dead and node.takes_stations]
        if not alive:
            self.note(station.name, "is refused")
            return None
        node = alive[0] if len(alive) == 1 else self.rng.choice(alive)
        link = Link(self, station, node)
        self.note(station.name, "connects to", node.number)
        node.take(link)
        return link

    def begin_remote(self, station: Station, connector: int, token: str) -> None:
        """A station begins what it was asked to begin; the car leaves at some time."""
        if station.begin(connector, token, remote=True) is not None:
            self._plan_visit(station, connector, self.loop.time())

    def draw_lost_answer(self, station: Station, fact: Fact) -> bool:
        """Whether the station will not see the first answer to a message."""
        lost = not self.faults.healed and self.rng.random() < self.lost_answers
        if lost:
            self.faults.counts["answer lost"] += 1
        return lost

    def draw_replay(self, station: Station, fact: Fact) -> None:
        """Some messages come again: soon, or after days."""
        if self.rng.random() < self.replays:
            self.faults.counts["replay"] += 1
            after_s = self.rng.choice((0.0, 1.0, 300.0, DAY, 30 * DAY))
            self.loop.call_later(after_s * self.rng.uniform(0.5, 1.0), station.replay, fact)

    # --- drawing it ------------------------------------------------------------------------------------

    def _draw(self) -> None:
        rng = self.rng
        self.price = Decimal(rng.choice(PRICES))
        self.fee_percent = Decimal(rng.choice(FEES))
        self.policy = Policy(local_hold=Minor(rng.choice((0, 500, 50_000))), heartbeat_s=300)
        self.node_count = rng.choice((1, 1, 2))
        # A journal belongs to one node: facts of one station in two journals have no order. See the promises of 4.8.
        self.with_journal = rng.random() < 0.6 and self.node_count == 1
        self.disks = {1: JournalDisk(), 2: JournalDisk()}
        self.lost_answers = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.replays = rng.choice((0.0, 0.1, 0.1, 0.5))
        self.database = MemoryDatabase(now=self.now, transaction_key=seed_key(self.seed))
        self.faults = Faults(self, Random(rng.getrandbits(32)))
        self._draw_rows()
        for number in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
            self._draw_station(f"S{number + 1}")
        self.horizon = rng.choice((1_800.0, 5_400.0, 10_800.0))
        self._draw_faults()

    def _draw_rows(self) -> None:
        database, rng = self.database, self.rng
        organization = OrganizationRow(id=OrganizationId("default"))
        database.organizations.rows[organization.id] = organization
        database.tariffs.append(
            TariffRow(scope="default", currency="INR", price_per_kwh_minor=self.price, valid_from=BASE)
        )
        for token, user, status in (
            ("CARDA", "anna", AuthorizationStatus.ACCEPTED),
            ("CARDB", "ben", AuthorizationStatus.ACCEPTED),
            ("BLOCKED", "ben", AuthorizationStatus.BLOCKED),
        ):
            value = TokenValue(token)
            database.tokens.rows[value] = TokenRecord(value=value, status=status, user_id=self.users[user])
        setup = MemoryLive(Access(database))
        for user, user_id in self.users.items():
            database.drivers.rows[user_id] = "INR"
            amount = rng.choice((100, 20_000, 10_000_000))
            self.top_ups[f"first-{user}"] = amount
            finish(setup.top_up(f"first-{user}", user_id, "INR", amount))

    def _draw_station(self, name: str) -> None:
        rng = self.rng
        connectors = rng.choice((1, 1, 2))
        traits = Traits(
            attempts=rng.choice((3, 3, 5)),
            interval_s=rng.choice((5.0, 60.0)),
            ids=rng.choice(("random", "counter")),
            same_id=rng.random() < 0.3,
            pipeline=rng.choice((1, 1, 1, 3)),
            clock=rng.choice(("right",) * 6 + ("epoch", "ahead", "back", "dst")),
            keeps_queue=rng.random() < 0.8,
            start_once=rng.random() < 0.08,
            unknown_id=rng.choice((-1, -1, 0, None)),
            offset_text=rng.random() < 0.2,
            transaction_data=rng.random() < 0.2,
            boot_on_reconnect=rng.random() < 0.2,
            moving_start=rng.random() < 0.1,
            late_ends=rng.random() < 0.1,
        )
        self.database.stations.rows[StationId(name)] = StationRow(id=StationId(name), connectors=connectors)
        station = Station(self, name, connectors, traits, Random(rng.getrandbits(32)))
        self.stations[name] = station
        self.loop.call_at(rng.uniform(0.0, 5.0), station.connect)
        for connector in range(1, connectors + 1):
            at = rng.uniform(5.0, 600.0)
            for _ in range(rng.choice((1, 1, 2))):
                self.loop.call_at(at, self._visit, station, connector)
                at += rng.uniform(1_200.0, 4_000.0)

    def _visit(self, station: Station, connector: int) -> None:
        token = self.rng.choice(("CARDA", "CARDA", "CARDB", "STRANGER", "BLOCKED"))
        if station.begin(connector, token) is not None:
            self._plan_visit(station, connector, self.loop.time())

    def _plan_visit(self, station: Station, connector: int, at: float) -> None:
        rng = self.rng
        lasts = rng.uniform(30.0, 1_000.0)
        steps = rng.choice((0, 1, 2, 3))
        energy = rng.choice((0, 1, rng.randrange(100, 60_000), rng.randrange(100, 60_000)))
        for step in range(1, steps + 1):
            part = energy * step // (steps + 1) - energy * (step - 1) // (steps + 1)
            self.loop.call_at(at + lasts * step / (steps + 1), self._charge, station, connector, part, True)
        rest = energy - energy * steps // (steps + 1)
        self.loop.call_at(at + lasts - 0.001, self._charge, station, connector, rest, False)
        reason = rng.choice((None, None, "Local", "EVDisconnected", "DeAuthorized", "EmergencyStop"))
        self.loop.call_at(at + lasts, self._end, station, connector, station.running.get(connector), reason)

    def _charge(self, station: Station, connector: int, wh: int, tell: bool) -> None:
        station.charge(connector, wh, tell=tell)

    def _end(self, station: Station, connector: int, visit: object, reason: str | None) -> None:
        if station.running.get(connector) is not visit or not station.powered:
            return
        draw = self.rng.random()
        hang_up = "" if draw > 0.1 or self.faults.healed else ("forget" if draw < 0.02 else "keep")
        if hang_up:
            self.faults.counts[f"hang up, {hang_up}"] += 1
        station.end(connector, reason, late_meter=self.rng.random() < 0.1, hang_up=hang_up)

    def _draw_faults(self) -> None:
        rng, loop = self.rng, self.loop
        for number in range(1, self.node_count + 1):
            loop.call_at(0.0, self.start_node, number)
        self.faults.jitter = rng.choice((0.0, 0.05, 0.3))
        for _ in range(rng.choice((0, 1, 2, 4))):
            kind = rng.choice(("crash", "crash", "away", "away", "contention", "wait", "yield"))
            self.faults.plan[rng.randrange(1, 400)] = (kind, rng.choice((0.3, 2.0, 20.0, 120.0)))
        for _ in range(rng.choice((0, 0, 1, 2))):
            seconds = rng.choice((1.0, 5.0, 30.0, 600.0, 3_600.0, DAY))
            loop.call_at(rng.uniform(0, self.horizon), self.faults.begin_outage, seconds * rng.uniform(0.5, 1.0))
        for _ in range(rng.choice((0, 0, 1, 2, 3))):
            loop.call_at(rng.uniform(0, self.horizon), self._disturb, rng.randrange(8))
        for number in range(rng.choice((0, 0, 1, 2))):
            self._draw_payment(number)
        if rng.random() < 0.3:
            loop.call_at(rng.uniform(0, self.horizon), self._top_up, "more", rng.choice(("anna", "ben")), 5_000)
        loop.call_at(self.horizon + DAY, self._heal)

    def _draw_payment(self, number: int) -> None:
        rng = self.rng
        station = rng.choice(list(self.stations.values()))
        payment = Payment(
            f"pay-{number}",
            station.name,
            rng.randrange(1, station.connectors + 1),
            rng.choice(("anna", "ben")),
            rng.choice((50, 5_000, 100_000)),
        )
        self.payments.append(payment)
        self.loop.call_at(rng.uniform(10.0, self.horizon), self._pay, payment, 1)

    def _pay(self, payment: Payment, attempt: int) -> None:
        """Asks, and asks once more with the same key when no answer came, or sometimes all the same."""
        alive = [node for node in self.nodes.values() if not node.dead]
        if alive:
            task = self.rng.choice(alive).spawn(self._paying(payment, self.rng.choice(alive)))
            task.add_done_callback(lambda _: None)
        if attempt < 3:
            self.loop.call_later(self.rng.choice((0.1, 30.0, 400.0)), self._pay_again, payment, attempt + 1)

    def _pay_again(self, payment: Payment, attempt: int) -> None:
        known = any(outcome is not None for outcome in payment.outcomes)
        if not known or self.rng.random() < 0.2:
            self._pay(payment, attempt)

    async def _paying(self, payment: Payment, node: Node) -> None:
        outcome = await node.pay(
            key=payment.key,
            station=payment.station,
            connector=payment.connector,
            user=payment.user,
            amount=payment.amount,
        )
        payment.outcomes.append(outcome)
        self.note("api", "pay", payment.key, str(outcome))

    def _top_up(self, key: str, user: str, amount: int) -> None:
        alive = [node for node in self.nodes.values() if not node.dead]
        if not alive or self.faults.is_out:
            self.loop.call_later(60.0, self._top_up, key, user, amount)
            return
        self.top_ups[key] = amount
        alive[0].spawn(self._topping_up(alive[0], key, user, amount))
        self.loop.call_later(60.0, self._top_up_until_done, key, user, amount)

    async def _topping_up(self, node: Node, key: str, user: str, amount: int) -> None:
        await node.top_up(key=key, user=user, amount=amount)

    def _top_up_until_done(self, key: str, user: str, amount: int) -> None:
        if ("topup", key, 1) not in self.database.entries.rows or self.rng.random() < 0.3:
            self._top_up(key, user, amount)

    def _disturb(self, what: int) -> None:
        """Something goes wrong at a station or on its line."""
        rng = self.rng
        station = rng.choice(list(self.stations.values()))
        link = station.link
        if what in (0, 1) and link is not None:
            self.faults.counts["line cut"] += 1
            link.cut_by_station(frames_arrive=rng.random() < 0.5)
        elif what == 2 and link is not None:
            self.faults.counts["black hole"] += 1
            link.silent = True
            self.loop.call_later(25.0, self._notice, link)
        elif what in (3, 4):
            self.faults.counts["power loss"] += 1
            station.lose_power(rng.choice((5.0, 300.0, 4_000.0)), rng.choice(("stop", "stop", "go on", "forget")))
        elif what == 5 and link is not None:
            self.faults.counts["second socket"] += 1
            station.second_socket()
        elif what == 6:
            self.faults.counts["clock set"] += 1
            station.shift_clock(rng.choice((3_600.0, -3_600.0, -30.0, 5.0)))
        elif what == 7:
            node = rng.choice(list(self.nodes.values()))
            self.crash(node, rng.choice((1.0, 30.0, 900.0)))

    def _notice(self, link: Link) -> None:
        if link.up:
            link.cut_by_station(frames_arrive=False)

    def _heal(self) -> None:
        """No more faults from here on."""
        self.note("world", "heals")
        self.faults.healed = True
        self.faults.outage_until = -1.0

    # --- running it --------------------------------------------------------------------------------------

    def run(self) -> list[str]:
        """Lets everything happen until nothing is left to do, then asks the checker; the failures."""
        from tools.simulation.checker import check

        state = random.getstate()
        random.seed(self.seed)
        try:
            self.loop.run()
        except DoesNotEnd as error:
            self.failures.append(f"does not come to rest: {error}")
        finally:
            random.setstate(state)
        if not self.failures:
            self.failures.extend(check(self))
        self.failures.extend(
            str(problem.get("message")) + repr(problem.get("exception")) for problem in self.loop.problems
        )
        self._close()
        return self.failures

    def _close(self) -> None:
        """Ends what waits, so that no task is left to be destroyed."""
        self.loop.forget_timers()
        for station in self.stations.values():
            station.powered = False
        while any(not task.done() for node in self.everybody for task in node.tasks):
            for node in self.everybody:
                node.stop_tasks()
            self.loop.run()


def seed_key(seed: int) -> bytes:
    """The installation's key of a world."""
    return seed.to_bytes(16, "big", signed=False)


def finish(work: Coroutine[Any, Any, Any]) -> None:
    """Runs what never waits."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise RuntimeError("this was not to wait")
