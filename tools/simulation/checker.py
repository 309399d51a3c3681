"""The judge of a world that has come to rest. It keeps its own books and shares no code with what it judges.

It reads what the stations did (their journals) and what is committed (rows, as plain values), and prices with exact
fractions. G1 to G10 are the rules of the promises.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tools.simulation.journal import Visit

if TYPE_CHECKING:
    from tools.simulation.station import Station
    from tools.simulation.world import World

RUNNING = ("ONGOING", "ORPHANED")


def half_up(amount: Fraction) -> int:
    """To the nearest whole, halves up; amounts are not negative."""
    return int((amount * 2 + 1) // 2)


def price_of(wh: int, world: "World") -> tuple[int, int]:
    """What energy costs and the platform's part of it, in minor units."""
    cost = half_up(Fraction(str(world.price)) * wh / 1000)
    return cost, half_up(Fraction(cost) * Fraction(str(world.fee_percent)) / 100)


def check(world: "World") -> list[str]:
    """Everything that is wrong, each as a sentence; nothing when all promises were kept."""
    return list(_judge(world))


def _judge(world: "World") -> Iterator[str]:
    books = Books(world)
    for station in world.stations.values():
        yield from _deliveries(station)
        yield from _answers(station, books, world)
        for visit in station.visits:
            yield from _visit(visit, station, books, world)
    yield from _sessions(books, world)
    yield from _money(books, world)
    yield from _payments(books, world)
    yield from _rest(books, world)


class Books:
    """The committed rows, arranged for looking things up."""

    def __init__(self, world: "World") -> None:
        database = world.database
        self.database = database
        self.sessions: list[Any] = list(database.sessions)
        self.by_ref: dict[tuple[str, str], Any] = {
            (s.station_id, s.transaction_ref): s for s in self.sessions if s.transaction_ref is not None
        }
        for (station, ref), session_id in database.aliases.rows.items():
            self.by_ref.setdefault((station, ref), database.sessions.rows[session_id])
        self.keys: dict[tuple[str, str], bytes] = {
            (f.station_id, f.payload): f.dedupe_key for f in database.frames if f.dedupe_key is not None
        }
        self.settlements: dict[Any, list[Any]] = defaultdict(list)
        for row in sorted(database.settlements, key=lambda row: row.version):
            self.settlements[row.session_id].append(row)
        self.flows: dict[Any, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for posting in database.postings:
            entry = database.entries.rows[posting.entry]
            signed = posting.amount if posting.side == "C" else -posting.amount
            self.flows[entry.session_id][posting.account.split(":")[0]] += signed
        self.unmatched = [f for f in database.findings if f.kind == "unmatched_stop"]


# --- stations ------------------------------------------------------------------------------------------


def _deliveries(station: "Station") -> Iterator[str]:
    for fact in station.discards:
        yield f"G10 {station.name} discarded a {fact.action} of {fact.visit.name}"
    for fact in station.queue:
        yield f"G1 {station.name} still waits to say {fact.action} of {fact.visit.name}"


def _answers(station: "Station", books: Books, world: "World") -> Iterator[str]:
    """G1, G4: what was answered is stored, and each repeat got the same answer.

    A repeat that meets a node without database and without memory of it is answered anew, from the journal: then what
    is said of a token may differ, and a start has an id more (an alias).
    """
    seen: dict[str, str] = {}
    for visit in station.visits:
        for fact in visit.facts:
            for payload, answer in fact.exchanges:
                if world.with_journal:
                    answer = str(sorted(json.loads(answer)) if fact.action == "StartTransaction" else "{}")
                if seen.setdefault(payload, answer) != answer:
                    yield f"G4 {station.name} got {seen[payload]} and {answer} for {payload}"
    for payload in seen:
        key = books.keys.get((station.name, payload))
        if key is None or (station.name, key) not in books.database.inbox.rows:
            yield f"G1 {station.name} got an answer for {payload}, which is not recorded"


def _visit(visit: Visit, station: "Station", books: Books, world: "World") -> Iterator[str]:
    """G2, G3, G9: one session for each true transaction, with its energy, ended when the station says so."""
    if len(visit.ids) > 1 and not world.with_journal:
        yield f"G2 {visit.name} was given the ids {sorted(visit.ids)}"
    if visit.forgotten or visit.stop_wh is None:
        return
    if visit.transaction_id is None or any(_is_nameless(fact) for fact in visit.facts):
        yield from _nameless(visit, station, books)
        return
    session = books.by_ref.get((visit.station, str(visit.transaction_id)))
    if session is None:
        yield f"G2 {visit.name} has no session of transaction {visit.transaction_id}"
        return
    if session.state in RUNNING or session.state == "PENDING":
        yield f"G9 {visit.name} has ended and its session is {session.state}"
        return
    wh = visit.stop_wh - visit.start_wh
    twins = [v for v in station.visits if v is not visit and v.transaction_id == visit.transaction_id]
    if twins and all(_look_alike(visit, twin) for twin in twins):
        return  # nobody can tell them apart: nothing had flowed, and the end of the first came after the second's start
    if session.energy_wh != wh:
        yield f"G3 {visit.name} took {wh} Wh, the books say {session.energy_wh}"
    if session.suspect or session.concluded or session.estimated:
        yield f"G9 {visit.name} was told completely, and is suspect, concluded or estimated"


def _look_alike(one: Visit, two: Visit) -> bool:
    """Starts that differ in their time only; a repeat whose clock was set in between looks the same."""
    return (one.connector, one.token, one.start_wh) == (two.connector, two.token, two.start_wh)


def _is_nameless(fact: Any) -> bool:
    return fact.action == "StopTransaction" and any(
        '"transactionId":-1}' in sent or '"transactionId":0}' in sent for sent in fact.sent
    )


def _nameless(visit: Visit, station: "Station", books: Books) -> Iterator[str]:
    """An end that names no transaction: attached with the right energy, or shown to a person."""
    wh = (visit.stop_wh or 0) - visit.start_wh
    attached = [
        s
        for s in books.sessions
        if s.station_id == visit.station and s.meter_start_wh == visit.start_wh and s.meter_stop_wh == visit.stop_wh
    ]
    shown = [
        f
        for f in books.unmatched
        if f.station_id == visit.station and f.evidence.get("register_wh") == str(visit.stop_wh)
    ]
    told = any(fact.action == "StopTransaction" and fact.exchanges for fact in visit.facts)
    if told and not attached and not shown:
        yield f"G3 the nameless end of {visit.name} is neither attached nor shown"
    if any(s.energy_wh != wh for s in attached):
        yield f"G3 {visit.name} took {wh} Wh, the books say {[s.energy_wh for s in attached]}"


# --- sessions and money ----------------------------------------------------------------------------------


def _sessions(books: Books, world: "World") -> Iterator[str]:
    known = {(v.station, v.start_wh, v.connector) for s in world.stations.values() for v in s.visits}
    starts: dict[tuple[str, int, int], int] = defaultdict(int)
    for session in books.sessions:
        if session.started_at is None or session.meter_start_wh is None:
            continue
        place = (session.station_id, session.meter_start_wh, session.evse_id)
        starts[place] += 1
        if place not in known:
            yield f"G2 session {session.id.int} of {place} is of no true transaction"
    for place, count in starts.items():
        true = sum(
            1 for s in world.stations.values() for v in s.visits if (v.station, v.start_wh, v.connector) == place
        )
        if count > true:
            yield f"G2 {count} sessions of {true} true transactions at {place}"


def _money(books: Books, world: "World") -> Iterator[str]:
    """G5, G6: books balance; each ended session has one net charge, the price of its energy."""
    database = books.database
    entries: dict[Any, int] = defaultdict(int)
    balances: dict[str, int] = defaultdict(int)
    for posting in database.postings:
        signed = posting.amount if posting.side == "C" else -posting.amount
        entries[posting.entry] += signed
        balances[posting.account] += signed
    for entry, total in entries.items():
        if total:
            yield f"G5 entry {entry} is out of balance by {total}"
    for account in database.accounts:
        if account.balance is not None and account.balance != balances[account.code]:
            yield f"G5 {account.code} keeps {account.balance}, its postings say {balances[account.code]}"
        if account.balance is not None and account.balance < 0:
            yield f"G5 {account.code} is overdrawn"
    for session in books.sessions:
        yield from _charge(session, books, world)
    for key in world.top_ups:
        if ("topup", key, 1) not in database.entries.rows:
            yield f"G7 the top-up {key} is not recorded"
    for entry in database.entries:
        if entry.kind == "topup" and entry.source_id not in world.top_ups:
            yield f"G7 nobody paid the top-up {entry.source_id}"
    for name, user in world.users.items():
        came_in = sum(
            p.amount for p in database.postings if p.account == f"wallet:{user}:INR" and p.entry[0] == "topup"
        )
        spent = sum(self_paid(session, books) for session in books.sessions if session.user_id == user)
        left = balances[f"wallet:{user}:INR"] + balances[f"held:{user}:INR"]
        if came_in != spent + left:
            yield f"G6 {name} paid in {came_in}, used {spent} and has {left}"


def self_paid(session: Any, books: Books) -> int:
    """What a session took from its user's money."""
    rows = books.settlements.get(session.id)
    return rows[-1].covered if rows else 0


def _charge(session: Any, books: Books, world: "World") -> Iterator[str]:
    name = f"session {session.id.int} ({session.station_id} {session.transaction_ref})"
    flows = books.flows.get(session.id, {})
    held = flows.get("held", 0)
    if session.state in RUNNING or session.state == "PENDING":
        return
    if held:
        yield f"G8 {name} is over and holds {held}"
    rows = books.settlements.get(session.id, [])
    if session.suspect:
        return
    if not rows or [row.version for row in rows] != list(range(1, len(rows) + 1)):
        yield f"G6 {name} is over and has the settlements {[row.version for row in rows]}"
        return
    last = rows[-1]
    cost, fee = price_of(session.energy_wh, world)
    if (last.energy_wh, last.cost, last.fee, last.share) != (session.energy_wh, cost, fee, cost - fee):
        yield f"G6 {name}: {session.energy_wh} Wh cost {cost}, the settlement says {last.cost} for {last.energy_wh} Wh"
    posted = (flows.get("platform_fee", 0), flows.get("payable", 0), -flows.get("receivable", 0))
    if posted != (fee, cost - fee, last.owed):
        yield f"G6 {name}: posted {posted}, wanted {(fee, cost - fee, last.owed)}"
    if -flows.get("wallet", 0) != last.covered or last.covered + last.owed != cost:
        yield f"G6 {name}: the wallet paid {-flows.get('wallet', 0)}, covered {last.covered}, owed {last.owed}"
    if len(rows) == 1 and last.owed != max(0, cost - last.paid):
        yield f"G6 {name}: {last.owed} are owed of {cost} with {last.paid} set aside"


def _payments(books: Books, world: "World") -> Iterator[str]:
    """G7: a paid start happens once, however often it was asked for."""
    prepaid = [s for s in books.sessions if s.origin == "prepaid"]
    answered: set[Any] = set()
    for payment in world.payments:
        ids = {outcome for outcome in payment.outcomes if outcome is not None and not isinstance(outcome, str)}
        if len(ids) > 1:
            yield f"G7 {payment.key} made the sessions {ids}"
        answered |= ids
    known = {session.id for session in prepaid}
    for session_id in answered - known:
        yield f"G7 the paid session {session_id} is not recorded"
    if len(prepaid) > len(world.payments):
        yield f"G7 {len(prepaid)} paid sessions of {len(world.payments)} payments"


def _rest(books: Books, world: "World") -> Iterator[str]:
    """G8: nothing waits for ever; and nothing made our own code fail."""
    database = books.database
    for job in database.jobs:
        if job.state == "waiting" or (job.state == "held" and not _is_suspect(job, books)):
            yield f"G8 the settlement {job.version} of {job.subject} is {job.state}: {job.last_error}"
    for session in books.sessions:
        if session.state == "PENDING":
            yield f"G8 session {session.id.int} is still pending"
    for number, disk in world.disks.items():
        if disk.rows:
            yield f"G8 {len(disk.rows)} facts are left in the journal of node {number}"
    for row in database.inbox:
        if row.state == "poison":
            yield f"G1 a {row.action} of {row.station_id} made our code fail"
    for finding in database.findings:
        if finding.kind in ("poison", "unreadable"):
            yield f"G1 {finding.summary}"


def _is_suspect(job: Any, books: Books) -> bool:
    return any(str(s.id) == job.subject and s.suspect for s in books.sessions)
