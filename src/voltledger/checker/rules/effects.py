"""Effects outside, and work that is not finished: G7, G8."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from voltledger.checker.difference import Difference
from voltledger.checker.sinks import SinkLine
from voltledger.checker.world import World

OUTBOX_KEPT = timedelta(days=7)
"""For so long the server keeps rows of what it sent; older effects have no row any more."""


def outside_effects_happen_once(world: World) -> list[Difference]:
    """G7: each sent effect arrived at least once under one id; each that moves money moved it exactly once."""
    arrived: dict[tuple[str, str], list[SinkLine]] = defaultdict(list)
    for line in world.sinks:
        arrived[(line.sink, line.effect)].append(line)
    found = []
    known = {(row.target, row.effect_key) for row in world.dump.outbox}
    targets = {line.sink for line in world.sinks}
    for row in world.dump.outbox:
        if row.state == "sent" and row.target in targets and (row.target, row.effect_key) not in arrived:
            found.append(_g7(row.effect_key, f"It is marked as sent and {row.target} never saw it.", 1, 0))
    for (sink, effect), lines in arrived.items():
        if (sink, effect) not in known and not _forgotten(lines, world.dump.at):
            found.append(_g7(effect, f"{sink} saw an effect that we never recorded.", 0, len(lines)))
        found.extend(_once(sink, effect, lines))
    return found


def _forgotten(lines: list[SinkLine], now: datetime) -> bool:
    times = [line.at for line in lines if line.at is not None]
    return bool(times) and now - max(times) > OUTBOX_KEPT


def _once(sink: str, effect: str, lines: list[SinkLine]) -> Iterable[Difference]:
    ids = {line.id for line in lines}
    if len(ids) > 1:
        yield _g7(effect, f"{sink} saw it under {len(ids)} ids and cannot know that it is one.", 1, len(ids))
    amounts = {(line.amount_minor, line.currency) for line in lines}
    if len(amounts) > 1:
        yield _g7(effect, f"{sink} was told different amounts for one effect.", 1, len(amounts))
    if any(line.money for line in lines):
        performed = sum(line.performed for line in lines)
        if performed != 1:
            yield _g7(effect, f"{sink} moved this money {performed} times.", 1, performed)


def _g7(effect: str, what: str, expected: int, found: int) -> Difference:
    return Difference(rule="G7", subject=effect, what=what, expected=expected, found=found)


def nothing_is_stuck(world: World) -> list[Difference]:
    """G8: no job, outbox row, command or awaited start is older than its limit; nothing is left to a person unasked."""
    limit = timedelta(seconds=world.limits.unfinished_s)
    found = []
    for row in world.dump.unfinished:
        if row.state == "held":
            if not _for_a_person(world, row.subject):
                what = f"It is left to a person without a doubt about its session ({row.why or 'no reason given'})."
                found.append(Difference(rule="G8", subject=f"{row.what} {row.name}", what=what))
        elif world.dump.at - row.since > limit:
            waited = f"{(world.dump.at - row.since).total_seconds():.0f} s"
            what = f"It is {row.state} beyond its limit of {world.limits.unfinished_s:g} s ({row.why or 'no error'})."
            found.append(Difference(rule="G8", subject=f"{row.what} {row.name}", what=what, found=waited))
    for session in world.dump.sessions:
        overdue = session.pending_until is not None and world.dump.at - session.pending_until > limit
        if session.status == "PENDING" and overdue:
            what = f"Its start was due until {session.pending_until:%Y-%m-%d %H:%M:%S} and the money is still held."
            found.append(Difference(rule="G8", subject=session.name, what=what))
    return found


def _for_a_person(world: World, subject: str | None) -> bool:
    return any(session.suspect for session in world.dump.sessions if str(session.id) == subject)
