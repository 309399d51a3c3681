"""`judge`: a run with simulated stations, after it has come to rest."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from voltledger.checker.dump import Dump, read_dump, snapshot
from voltledger.checker.journals import Fate, Journals, read_journals
from voltledger.checker.redis_state import CacheValue, read_redis
from voltledger.checker.rules import RULES
from voltledger.checker.rules.energy import Known, missing_wh, stray_wh
from voltledger.checker.sinks import read_sinks
from voltledger.checker.verdict import Figures, Money, Verdict
from voltledger.checker.world import Limits, World


async def judge(
    dsn: str,
    journals: Sequence[Path | str] = (),
    sinks: Sequence[Path | str] = (),
    redis: str | Mapping[str, CacheValue] | None = None,
    *,
    limits: Limits | None = None,
) -> Verdict:
    """Compares what stations and outside parties wrote down with the books; rules G1 to G12.

    Shapes: `redis` is an address, or what `read_redis` found earlier; None leaves G11 out. Without journals the rules
            about the truth (G1 to G4, G10) have nothing to compare.
    Effects: reads files, one read-only snapshot of PostgreSQL, and Redis; changes nothing.
    Raises: CheckerError for what cannot be read.
    """
    began = time.monotonic()
    truth = read_journals(journals)
    seen = read_sinks(sinks)
    async with snapshot(dsn) as connection:
        dump = await read_dump(connection, stations=sorted(truth.stations), targets=sorted({s.sink for s in seen}))
        # While the snapshot is open: what changes meanwhile would look like a difference.
        cached = await read_redis(redis) if isinstance(redis, str) else redis
    world = World(journals=truth, dump=dump, sinks=seen, redis=cached, limits=limits or Limits())
    return judge_world(world, took_s=time.monotonic() - began)


def judge_world(world: World, *, took_s: float = 0.0) -> Verdict:
    """All rules over a world; pure but for the clock that measures it."""
    began = time.monotonic()
    found = [difference for rule in RULES.values() for difference in rule(world)]
    figures = figures_of(world)
    return Verdict(differences=tuple(found), figures=figures, took_s=round(took_s + time.monotonic() - began, 3))


def figures_of(world: World) -> Figures:
    """How much there was, and where energy is that the books do not hold."""
    dump = world.dump
    figures = Figures(
        sessions=len(dump.sessions),
        wh=sum(session.energy_wh for session in dump.sessions),
        entries=dump.entries,
        outside_effects=len({(line.sink, line.effect) for line in world.sinks}),
        money=_money(dump),
    )
    _count_truth(world.journals, figures)
    for pair in world.pairs:
        known, wh = missing_wh(world, pair)
        if pair.book is None:
            strays = stray_wh(pair.true)
            figures.wh_among_strays += strays
            wh -= strays
        match known:
            case Known.NEVER:
                figures.wh_lost_by_stations += wh
            case Known.LATER:
                figures.wh_with_stations += wh
            case Known.QUARANTINED:
                figures.wh_in_quarantine += wh
            case _:
                pass
    figures.facts_not_provable = sum(world.frames_trimmed.values())
    return figures


def _count_truth(journals: Journals, figures: Figures) -> None:
    fates = [fact.fate for fact in journals.facts]
    figures.true_sessions = len(journals.sessions)
    figures.true_wh = sum(true.energy_wh for true in journals.sessions)
    figures.facts = len(fates)
    figures.facts_answered = fates.count(Fate.ANSWERED)
    figures.facts_with_stations = fates.count(Fate.QUEUED)
    figures.facts_lost_by_stations = fates.count(Fate.LOST) + fates.count(Fate.FORGOTTEN)
    figures.facts_discarded = fates.count(Fate.DISCARDED)


def _money(dump: Dump) -> dict[str, Money]:
    money: dict[str, Money] = {}
    for currency, amount in dump.topped_up.items():
        money.setdefault(currency, Money()).topped_up = amount
    for account in dump.accounts:
        of = money.setdefault(account.currency, Money())
        of.wallets += account.posted if account.kind == "wallet" else 0
        of.held += account.posted if account.kind == "held" else 0
    latest = {settlement.session_id: settlement for settlement in dump.settlements}
    for last in latest.values():
        of = money.setdefault(last.currency, Money())
        of.cost += last.cost_minor
        of.refund += last.refund_minor
        of.owed += last.owed_minor
        of.fee += last.fee_minor
        of.share += last.share_minor
    return money
