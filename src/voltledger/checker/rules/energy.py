"""Energy, and sessions that are over: G3, G9."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import timedelta
from enum import StrEnum

from voltledger.checker.difference import Difference
from voltledger.checker.dump import InboxRow, Session
from voltledger.checker.journals import Fate, TrueSession
from voltledger.checker.meter import readings_of
from voltledger.checker.world import Pair, World


class Known(StrEnum):
    """What the server can know of a visit's energy."""

    EXACT = "exact"  # it recorded the end
    LATER = "later"  # the station still has something to tell
    QUARANTINED = "quarantined"  # it recorded the end, could not tell whose, and asks a person
    NEVER = "never"  # the station itself lost it


def every_wh_is_booked(world: World) -> list[Difference]:
    """G3: the energy of each session is the truth, or, where the station told less, what it told."""
    found = [
        Difference(
            rule="G3",
            subject=world.sessions[session_id].name,
            what="The raw frames of this session prove another energy than is booked.",
            expected=energy,
            found=world.sessions[session_id].energy_wh,
        )
        for session_id, energy in world.rebuilt.items()
        if world.sessions[session_id].energy_wh != energy
    ]
    for pair in world.pairs:
        if pair.book is not None:
            found.extend(_energy(world, pair.true, pair.book))
        else:
            found.extend(_poisoned(world, pair.true))
    return [*found, *_counted_twice(world)]


def _counted_twice(world: World) -> Iterable[Difference]:
    """A session made for readings that nobody claimed, over registers that another session was charged for.

    One meter passes a register once. Only sessions of one day are compared: a meter may be reset or swapped.
    """
    at_place: dict[tuple[str, int], list[Session]] = defaultdict(list)
    for session in world.dump.sessions:
        if session.meter_start_wh is not None and session.energy_wh > 0:
            at_place[(session.station_id, session.evse_id)].append(session)
    for sessions in at_place.values():
        for orphan in (session for session in sessions if session.origin == "orphan"):
            for other in sessions:
                shared = _shared_wh(orphan, other)
                near = abs(orphan.created_at - other.created_at) < timedelta(days=1)
                later = other.origin != "orphan" or other.id.int > orphan.id.int
                if shared > 0 and near and later and other.id != orphan.id:
                    what = f"It was made for energy that {other.name} was charged for: counted twice."
                    yield Difference(rule="G3", subject=orphan.name, what=what, expected=0, found=shared)


def _shared_wh(one: Session, other: Session) -> int:
    """How much of the register two sessions both count."""
    first, second = one.meter_start_wh or 0, other.meter_start_wh or 0
    return min(first + one.energy_wh, second + other.energy_wh) - max(first, second)


def _poisoned(world: World, true: TrueSession) -> Iterable[Difference]:
    """Readings of a visit without a session are evidence for reconciliation; those that broke our code are not."""
    rows = [row for row in (world.record_of(fact) for fact in true.facts) if row is not None]
    poison = sum(row.state == "poison" for row in rows)
    if poison:
        what = "It has no session, and what it told made the server's own code fail: kept raw, booked nowhere."
        yield Difference(rule="G3", subject=true.name, what=what, expected=0, found=poison)


def _energy(world: World, true: TrueSession, book: Session) -> Iterable[Difference]:
    known = what_is_known(world, true)
    if known is Known.EXACT:
        if book.energy_wh != true.energy_wh:
            what = "Its end was recorded and the books hold another energy than the car took."
            yield _wh(true, what, true.energy_wh, book.energy_wh)
        return
    if book.energy_wh > true.energy_wh:
        yield _wh(true, "The books hold more energy than the car took.", true.energy_wh, book.energy_wh)
    told = told_wh(world, true, book)
    if book.energy_wh < told:
        yield _wh(true, "The station told of more energy, and was answered, than the books hold.", told, book.energy_wh)
    if known is Known.NEVER and true.ended_at is not None and not book.is_open and not book.estimated:
        yield Difference(
            rule="G3", subject=true.name, what="Its end was never heard, yet its energy is not marked as estimated."
        )


def _wh(true: TrueSession, what: str, expected: int, found: int) -> Difference:
    return Difference(rule="G3", subject=true.name, what=what, expected=expected, found=found)


def what_is_known(world: World, true: TrueSession) -> Known:
    """What the server can know of the end of a visit."""
    stops = true.of("StopTransaction")
    rows = [row for row in (world.record_of(stop) for stop in stops) if row is not None]
    if any(row.state == "applied" for row in rows):
        return Known.EXACT
    if any(_explained(world, row) for row in rows):
        return Known.QUARANTINED
    if any(stop.good_answers for stop in stops):
        return Known.EXACT  # answered and nowhere to be seen: G1 names it, and the energy is owed all the same
    if true.ended_at is None or any(stop.fate is Fate.QUEUED for stop in stops):
        return Known.LATER
    return Known.NEVER


def _explained(world: World, row: InboxRow) -> bool:
    """Whether a person has a finding about a Stop that fitted no session."""
    key = f"unmatched_stop:{row.station_id}:{row.dedupe_key.hex()}"
    return row.state == "quarantined" and any(finding.key == key for finding in world.dump.findings)


def told_wh(world: World, true: TrueSession, book: Session) -> int:
    """The least energy that the station told of in answered readings of this very transaction.

    A visit that was never begun has no start register: its first reading is where its energy begins.
    """
    ours = {ref for ref in _refs(true) if (named := world.named(true.station, ref)) is not None and named.id == book.id}
    registers = _registers(true, ours.__contains__)
    if any(world.record_of(fact) is not None for fact in true.of("StartTransaction")):
        registers.append(true.start_register_wh)
    return max(registers) - min(registers) if registers else 0


def _refs(true: TrueSession) -> set[str]:
    """The transactions that its readings name."""
    return {str(a.payload.get("transactionId")) for fact in true.of("MeterValues") for a in fact.attempts}


def _registers(true: TrueSession, counts: Callable[[str], bool]) -> list[int]:
    """Registers of answered readings whose transaction counts."""
    return [
        reading.register_wh
        for fact in true.of("MeterValues")
        for answer in fact.good_answers
        if counts(str(answer.attempt.payload.get("transactionId")))
        for reading in readings_of(answer.attempt.payload, None)
        if reading.register_wh is not None
    ]


def stray_wh(true: TrueSession) -> int:
    """What the answered readings of a visit without a session told of."""
    registers = _registers(true, lambda ref: True)
    return max(registers) - min(registers) if registers else 0


def missing_wh(world: World, pair: Pair) -> tuple[Known, int]:
    """Why the books hold less than the truth, where that is no difference, and how much less."""
    known = what_is_known(world, pair.true)
    booked = 0 if pair.book is None else pair.book.energy_wh
    return known, 0 if known is Known.EXACT else max(0, pair.true.energy_wh - booked)


def no_session_is_open_that_is_over(world: World) -> list[Difference]:
    """G9: no session is open whose station said, by a Stop or by a free connector, that it is over."""
    found = {
        ended.session_id: Difference(
            rule="G9",
            subject=_name(world, ended.session_id),
            what="Its StopTransaction was recorded and it is still open.",
        )
        for ended in world.dump.ended_yet_open
    }
    for pair in world.pairs:
        over = pair.book is not None and pair.book.is_open and pair.true.ended_at is not None
        if pair.book is not None and over and what_is_known(world, pair.true) is Known.EXACT:
            what = "The car is gone, its StopTransaction was answered, and its session is still open."
            found.setdefault(pair.book.id, Difference(rule="G9", subject=pair.true.name, what=what))
    for free in world.dump.free_connectors:
        if world.dump.at - free.since > timedelta(seconds=world.limits.ghost_s):
            what = f"Connector {free.evse_id} has been free since {free.since:%Y-%m-%d %H:%M:%S} and it is still open."
            found.setdefault(free.session_id, Difference(rule="G9", subject=_name(world, free.session_id), what=what))
    return list(found.values())


def _name(world: World, session_id: object) -> str:
    session = world.sessions.get(session_id)  # type: ignore[call-overload]  # any id may be asked for
    return f"session {session_id}" if session is None else str(session.name)
