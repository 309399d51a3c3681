"""Judges one cell: the station's journal against the books, twice.

`differences` is the laboratory's own judge: rows are read with SQL, prices are rational numbers rounded once, and what
a cell's circumstances allow is known exactly. `second_opinion` is `voltledger.checker`, which knows more rules and
nothing of the cell.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from tools.laboratory.world import PRICE_MINOR, TOPUP_MINOR
from voltledger.checker import Limits, judge
from voltledger.simulator.journal import JournalLine, Kind, TrueSession, read_journal, true_sessions


@dataclass(slots=True, kw_only=True)
class Expected:
    """What a cell's own circumstances allow. `topped_up_minor`: beyond what the template holds."""

    topped_up_minor: int = 0
    poison: bool = False
    timeouts: bool = False


async def second_opinion(dsn: str, journal: Path) -> list[str]:
    """What the independent checker finds, a sentence each; nothing may be unfinished any more."""
    verdict = await judge(dsn, [journal], limits=Limits(unfinished_s=0.0, ghost_s=0.0))
    return [f"{d.rule} {d.subject}: {d.what} (expected {d.expected}, found {d.found})" for d in verdict.differences]


async def absent_answers(books: Any, journal: Path) -> list[str]:
    """Facts that a station has an answer for and that are not recorded with it. For a server that is down."""
    return await _answered_facts(books, _facts(list(read_journal(journal))))


@dataclass(slots=True)
class _Facts:
    """What one station's journal says of its transaction messages."""

    sent: dict[tuple[str, int], list[str]] = field(default_factory=lambda: defaultdict(list))
    answers: dict[tuple[str, int], list[str]] = field(default_factory=lambda: defaultdict(list))
    actions: dict[tuple[str, int], str] = field(default_factory=dict)


async def differences(books: Any, journal: Path, expected: Expected) -> list[str]:
    """Sentences about everything that is not as it should be."""
    lines = list(read_journal(journal))
    truth = true_sessions(journal)
    return [
        *await _answered_facts(books, _facts(lines)),
        *await _sessions(books, truth, expected),
        *await _ledger(books, truth, expected),
        *await _unfinished(books, expected),
        *_manners(lines, expected),
    ]


def _facts(lines: list[JournalLine]) -> _Facts:
    facts = _Facts()
    for line in lines:
        if line.fact is None:
            continue
        name = (line.station, line.fact)
        if line.kind is Kind.SENT:
            facts.sent[name].append(_canonical(line.payload))
            facts.actions[name] = line.action or ""
        elif line.kind in (Kind.ANSWERED, Kind.ANSWER_IGNORED) and line.error is None:
            facts.answers[name].append(_canonical(line.payload))
    return facts


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


async def _answered_facts(books: Any, facts: _Facts) -> list[str]:
    """Every answered fact is recorded, with the very answer that it got, every time."""
    rows = await books.fetch(
        "SELECT f.station_id, f.action, f.payload, i.response FROM frame f"
        " JOIN inbox i ON i.station_id = f.station_id AND i.dedupe_key = f.dedupe_key WHERE f.dedupe_key IS NOT NULL"
    )
    stored = {(r["station_id"], r["action"], _canonical(json.loads(r["payload"]))): r["response"] for r in rows}
    found = []
    for name, answers in facts.answers.items():
        said = {(name[0], facts.actions[name], payload) for payload in facts.sent[name]}
        responses = {_canonical(json.loads(stored[key])) for key in said if key in stored}
        if not responses:
            found.append(f"answered and not recorded: {facts.actions[name]} {name}")
        elif set(answers) != responses:
            found.append(f"answers differ: {facts.actions[name]} {name} got {answers}, recorded {responses}")
    if len(rows) != await books.fetchval("SELECT count(*) FROM inbox"):
        found.append("a recorded fact has no raw frame, or two")
    return found


async def _sessions(books: Any, truth: list[TrueSession], expected: Expected) -> list[str]:
    rows = await books.fetch("SELECT * FROM charging_session WHERE started_at IS NOT NULL ORDER BY id")
    found = []
    if len(rows) != len(truth):
        found.append(f"{len(rows)} sessions in the books, {len(truth)} in truth: {[tuple(r.values()) for r in rows]}")
    left = list(rows)
    for true in truth:
        row = next((r for r in left if _is_same(r, true)), None)
        if row is None:
            found.append(f"missing: session {true.number} of {true.station}, transaction {true.transaction_ref}")
            continue
        left.remove(row)
        if row["energy_wh"] != true.energy_wh:
            found.append(f"session {true.number}: {row['energy_wh']} Wh in the books, {true.energy_wh} in truth")
        if row["status"] != "COMPLETED" or row["settled_at"] is None or row["estimated"]:
            found.append(
                f"session {true.number}: {row['status']}, settled {row['settled_at']}, estimated {row['estimated']}"
            )
        found.extend(await _settlement(books, true, row))
    return found


def _is_same(row: Any, true: TrueSession) -> bool:
    if true.transaction_ref is not None:
        return bool(row["station_id"] == true.station and row["transaction_ref"] == true.transaction_ref)
    return bool(row["station_id"] == true.station and row["meter_start_wh"] == true.start_register_wh)


async def _settlement(books: Any, true: TrueSession, row: Any) -> list[str]:
    last = await books.fetchrow(
        "SELECT * FROM settlement WHERE session_id = $1 ORDER BY version DESC LIMIT 1", row["id"]
    )
    if last is None:
        return [f"session {true.number} has no settlement"]
    cost = price(true.energy_wh)
    if (last["cost_minor"], last["energy_wh"]) != (cost, true.energy_wh):
        return [f"session {true.number}: settled at {last['cost_minor']} for {last['energy_wh']} Wh, wanted {cost}"]
    if last["version"] != row["settle_version"]:
        return [f"session {true.number}: settlement {last['version']}, session {row['settle_version']}"]
    return []


def price(energy_wh: int) -> int:
    """Minor units: one exact product, rounded once, halves up."""
    return int(Fraction(energy_wh * PRICE_MINOR, 1000) + Fraction(1, 2))


async def _ledger(books: Any, truth: list[TrueSession], expected: Expected) -> list[str]:
    crooked = await books.fetchval(
        "SELECT count(*) FROM (SELECT 1 FROM ledger_posting GROUP BY entry_id HAVING"
        " sum(CASE side WHEN 'D' THEN amount_minor ELSE -amount_minor END) <> 0) x"
    )
    empty = await books.fetchval(
        "SELECT count(*) FROM ledger_entry e WHERE NOT EXISTS (SELECT 1 FROM ledger_posting p WHERE p.entry_id = e.id)"
    )
    drifted = await books.fetchval(
        "SELECT count(*) FROM ledger_account a WHERE balance_minor IS NOT NULL AND balance_minor <>"
        " coalesce((SELECT sum(CASE side WHEN 'C' THEN amount_minor ELSE -amount_minor END)"
        " FROM ledger_posting WHERE account_id = a.id), 0)"
    )
    sums = dict(
        await books.fetch(
            "SELECT a.kind, sum(CASE p.side WHEN 'C' THEN p.amount_minor ELSE -p.amount_minor END)::bigint"
            " FROM ledger_posting p JOIN ledger_account a ON a.id = p.account_id GROUP BY a.kind"
        )
    )
    cost = sum(price(t.energy_wh) for t in truth)
    spent = TOPUP_MINOR + expected.topped_up_minor - sums.get("wallet", 0) - sums.get("receivable", 0)
    wanted = {
        "entries that do not balance": crooked,
        "entries without lines": empty,
        "balances that are not the sum of their lines": drifted,
        "money still held": sums.get("held", 0),
        "earned, beyond the true cost": sums.get("payable", 0) + sums.get("platform_fee", 0) - cost,
        "spent, beyond the true cost": spent - cost,
        "money from outside, beyond what came": -sums.get("provider", 0) - TOPUP_MINOR - expected.topped_up_minor,
    }
    return [f"{what}: {value}" for what, value in wanted.items() if value != 0]


async def _unfinished(books: Any, expected: Expected) -> list[str]:
    counts = await books.fetchrow(
        """SELECT (SELECT count(*) FROM job WHERE state <> 'done') AS jobs,
                  (SELECT count(*) FROM outbox WHERE state <> 'sent') AS outbox,
                  (SELECT count(*) FROM command WHERE state IN ('queued', 'sending')) AS commands,
                  (SELECT count(*) FROM charging_session WHERE status IN ('PENDING', 'ONGOING', 'ORPHANED')) AS open,
                  (SELECT count(*) FROM inbox WHERE state = 'poison') AS poison,
                  (SELECT count(*) FROM inbox WHERE state IN ('conflict', 'quarantined')) AS doubtful,
                  (SELECT count(*) FROM finding WHERE kind = 'poison') AS told,
                  (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND state LIKE 'idle in transaction%' AND state_change < now() - interval '1 second') AS left_open"""
    )
    allowed = {"poison", "told"} if expected.poison else set()
    found = [f"left over: {n} {name}" for name, n in dict(counts).items() if n and name not in allowed]
    if counts["poison"] and not counts["told"]:
        found.append("a poison fact that nobody was told of")
    return found


def _manners(lines: list[JournalLine], expected: Expected) -> list[str]:
    """What must not have been done to a station."""
    found = []
    kinds = [line.kind for line in lines if line.fact is not None]
    refused = [line for line in lines if line.kind is Kind.ANSWERED and line.fact is not None and line.error]
    if Kind.DISCARDED in kinds:
        found.append("the station discarded a transaction message because of us")
    if refused:
        found.append(f"CALLERROR to a transaction message: {refused[0].action} {refused[0].error}")
    if Kind.TIMED_OUT in kinds and not expected.timeouts:
        found.append("a transaction message was left unanswered until the station gave up waiting")
    asked = [json.dumps(line.payload, sort_keys=True) for line in lines if line.action == "RemoteStartTransaction"]
    if len(asked) != len(set(asked)):
        found.append(f"a start was asked for twice: {asked}")
    return found
