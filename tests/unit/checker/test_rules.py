"""Each rule passes a clean world and finds each difference planted in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from tests.unit.checker.worlds import (
    ACCEPTED,
    NOW,
    OWING,
    REFUNDED,
    RUNNING,
    Builder,
    build,
    change,
    meter_values,
    world_of,
)
from voltledger.checker import World, as_text, judge_world
from voltledger.checker.dump import (
    Account,
    Crossed,
    EndedYetOpen,
    FindingRow,
    FreeConnector,
    Hold,
    OddEntry,
    OffBalance,
    OutboxRow,
    Unbalanced,
    Unfinished,
)
from voltledger.checker.rules import RULES
from voltledger.checker.sinks import SinkLine

START = {"connectorId": 1, "idTag": "CARD-A", "meterStart": 1_000, "timestamp": str(REFUNDED)}
STRANGER = UUID(int=99)


def rules_of(world: World) -> set[str]:
    """The rules that found something."""
    return {difference.rule for difference in judge_world(world).differences}


def test_a_clean_world_has_no_difference(tmp_path: Path) -> None:
    verdict = judge_world(world_of(build(tmp_path / "j")))
    assert verdict.clean, as_text(verdict)
    figures = verdict.figures
    assert (figures.sessions, figures.true_sessions, figures.wh, figures.true_wh) == (3, 3, 36_500, 36_500)
    assert (figures.facts, figures.facts_answered, figures.facts_with_stations) == (9, 9, 0)
    inr = figures.money["INR"]
    assert (inr.cost, inr.fee, inr.share, inr.refund, inr.owed, inr.held) == (
        70_000,
        7_000,
        63_000,
        40_000,
        10_000,
        20_000,
    )


Plant = Callable[[Builder], object]


def _drop_last_record(b: Builder) -> None:
    lost = b.dump.inbox.pop()
    b.dump.frames = [f for f in b.dump.frames if f.dedupe_key != lost.dedupe_key]


def _answer_again(b: Builder, answer: dict[str, object], kind: str = "late_answer") -> None:
    visit = b.scribe.visit("CP-1", 1, 1_000)
    fact = visit.queue("StartTransaction")
    visit.answered(fact, "StartTransaction", visit.send(fact, "StartTransaction", START), answer, kind=kind)


def _unanswered(b: Builder, fate: str | None, attempts: int = 1, error: str | None = None) -> None:
    visit = b.scribe.visit("CP-2", 2, 50)
    fact = visit.queue("StartTransaction")
    for _ in range(attempts):
        message_id = visit.send(fact, "StartTransaction", {"connectorId": 2, "meterStart": 50})
        if error is not None:
            visit.answered(fact, "StartTransaction", message_id, None, error=error)
    if fate is not None:
        visit.fate(fate, fact, "StartTransaction")


def _orphan(b: Builder, state: str) -> None:
    """A visit without a start, whose readings name a transaction that we never gave."""
    visit = b.scribe.visit("CP-2", 2, 100, behaviour="orphan")
    for register in (150, 400):
        payload = meter_values(999, register)
        fact = visit.queue("MeterValues")
        visit.answered(fact, "MeterValues", visit.send(fact, "MeterValues", payload), {})
        b.record("CP-2", None, "MeterValues", payload, {}, state)
        visit.register_wh = register
    visit.end()


def _stray_session(b: Builder, start: int) -> None:
    """An orphaned session beside the refunded one, which ended at 6,000 Wh."""
    b.book(STRANGER, "CP-1", [start, start + 416], paid=0, ended=True)
    change(b.dump.sessions, -1, origin="orphan", transaction_ref=None)


def _second_session(b: Builder) -> None:
    b.book(STRANGER, "CP-1", [0, 0], paid=0, ended=True)
    change(b.dump.sessions, -1, energy_wh=0)


def _later_version(b: Builder, **members: object) -> None:
    """The refunded session took 1,000 Wh more than was settled: 2,000 are owed and the refund stays."""
    change(b.dump.sessions, 0, energy_wh=6_000, settle_version=2)
    second = {
        "version": 2,
        "energy_wh": 6_000,
        "cost_minor": 12_000,
        "covered_minor": 10_000,
        "refund_minor": 40_000,
        "owed_minor": 2_000,
        "fee_minor": 1_200,
        "share_minor": 10_800,
        **members,
    }
    b.dump.settlements.append(b.dump.settlements[0])
    change(b.dump.settlements, -1, **second)
    change(b.dump.money, 0, receivable=-2_000, payable=10_800, platform_fee=1_200)


PLANTED: dict[str, tuple[str, Plant]] = {
    "an answered fact is gone": ("G1", _drop_last_record),
    "a fact that nobody said is recorded": (
        "G1",
        lambda b: b.record("CP-1", REFUNDED, "StartTransaction", {"x": 1}, {}),
    ),
    "an answered start has no session": ("G2", lambda b: b.dump.sessions.pop(0)),
    "a session that nobody drove": ("G2", _second_session),
    "two visits are one session": (
        "G2",
        lambda b: change(b.dump.inbox, 4, session_id=REFUNDED),
    ),
    "one visit's end ended another's session": (
        "G2",
        lambda b: change(b.dump.inbox, 3, session_id=OWING),
    ),
    "a session at another connector": ("G2", lambda b: change(b.dump.sessions, 0, evse_id=2)),
    "one Wh too few after the end": ("G3", lambda b: change(b.dump.sessions, 0, energy_wh=4_999)),
    "one Wh too many after the end": ("G3", lambda b: change(b.dump.sessions, 0, energy_wh=5_001)),
    "a running session knows less than it was told": ("G3", lambda b: change(b.dump.sessions, 2, energy_wh=1_499)),
    "a running session knows more than was taken": ("G3", lambda b: change(b.dump.sessions, 2, energy_wh=1_501)),
    "readings of no session broke our code": ("G3", lambda b: _orphan(b, "poison")),
    "strays over another session's registers": ("G3", lambda b: _stray_session(b, 5_999)),
    "the same start got another transaction": (
        "G4",
        lambda b: _answer_again(b, {"transactionId": 77, "idTagInfo": ACCEPTED}),
    ),
    "the same start got another status": (
        "G4",
        lambda b: _answer_again(b, {"transactionId": 1, "idTagInfo": {"status": "Blocked"}}),
    ),
    "the stored answer is another": (
        "G4",
        lambda b: change(b.dump.inbox, 0, response='{"transactionId": 5, "idTagInfo": {"status": "Accepted"}}'),
    ),
    "an entry does not balance": (
        "G5",
        lambda b: b.dump.unbalanced.append(Unbalanced(entry_id=1, currency="INR", amount=5)),
    ),
    "a kept balance is not the sum": ("G5", lambda b: change(b.dump.accounts, 1, balance_minor=119_999)),
    "a currency is not nothing in all": ("G5", lambda b: change(b.dump.accounts, 0, posted=-199_999)),
    "a wallet is below zero in all": (
        "G5",
        lambda b: b.dump.accounts.extend(
            [
                Account(code="wallet:ben:INR", kind="wallet", owner="ben", currency="INR", posted=-1, balance_minor=-1),
                Account(code="x", kind="provider", owner="", currency="INR", posted=1),
            ]
        ),
    ),
    "a wallet was below zero between": (
        "G5",
        lambda b: b.dump.off_balance.append(
            OffBalance(code="wallet:anna:INR", entry_id=2, line=1, running=-1, balance_after=-1)
        ),
    ),
    "an entry without its settlement": (
        "G5",
        lambda b: b.dump.odd_entries.append(OddEntry(id=9, kind="settlement", source_id="x", version=1, what="alone")),
    ),
    "a cost is one minor unit off": ("G6", lambda b: change(b.dump.settlements, 0, cost_minor=10_001)),
    "a refund is one minor unit off": ("G6", lambda b: change(b.dump.settlements, 0, refund_minor=39_999)),
    "a fee is one minor unit off": ("G6", lambda b: change(b.dump.settlements, 1, fee_minor=6_001)),
    "settled at another price": ("G6", lambda b: change(b.dump.settlements, 0, price_per_kwh_minor=Decimal(1999))),
    "a version is left out": ("G6", lambda b: change(b.dump.settlements, 0, version=2)),
    "charged for other energy": ("G6", lambda b: change(b.dump.settlements, 0, energy_wh=4_999)),
    "ended and never settled": ("G6", lambda b: change(b.dump.sessions, 0, settled_at=None)),
    "settled without a settlement": ("G6", lambda b: b.dump.settlements.pop(0)),
    "charged twice": ("G6", lambda b: change(b.dump.money, 0, wallet=-20_000, payable=18_000)),
    "charged to nobody": ("G6", lambda b: b.dump.money.pop(1)),
    "a debt that is not booked": ("G6", lambda b: change(b.dump.money, 1, receivable=0)),
    "paid another amount than was set aside": ("G6", lambda b: change(b.dump.holds, 2, amount=20_001)),
    "a settlement of no session": ("G6", lambda b: change(b.dump.settlements, 0, session_id=STRANGER)),
    "a later version takes a refund back": (
        "G6",
        lambda b: _later_version(b, covered_minor=12_000, refund_minor=38_000, owed_minor=0),
    ),
    "money is held for a settled session": ("G8", lambda b: change(b.dump.money, 0, held=1)),
    "a job is stuck": (
        "G8",
        lambda b: b.dump.unfinished.append(
            Unfinished(what="job", name="settle x v1", state="waiting", since=NOW - timedelta(seconds=61))
        ),
    ),
    "a job is left to a person for no reason": (
        "G8",
        lambda b: b.dump.unfinished.append(
            Unfinished(what="job", name="settle x v1", state="held", since=NOW, subject=str(REFUNDED))
        ),
    ),
    "a start is overdue": (
        "G8",
        lambda b: change(b.dump.sessions, 2, status="PENDING", pending_until=NOW - timedelta(seconds=61)),
    ),
    "an end was recorded and the session is open": (
        "G9",
        lambda b: b.dump.ended_yet_open.append(EndedYetOpen(session_id=RUNNING, station_id="CP-2", received_at=NOW)),
    ),
    "the car is gone and the session is open": (
        "G9",
        lambda b: change(b.dump.sessions, 0, status="ONGOING", settled_at=None),
    ),
    "a ghost": (
        "G9",
        lambda b: b.dump.free_connectors.append(
            FreeConnector(session_id=RUNNING, station_id="CP-2", evse_id=1, since=NOW - timedelta(seconds=601))
        ),
    ),
    "a message was given up": ("G10", lambda b: _unanswered(b, "discarded", attempts=3)),
    "a message got an error": ("G10", lambda b: _unanswered(b, None, error="InternalError")),
    "an inbox row names another station's session": (
        "G12",
        lambda b: b.dump.crossed.append(Crossed(what="inbox row", subject="x", expected="CP-1", found="CP-2")),
    ),
    "a session is another organisation's": (
        "G12",
        lambda b: b.dump.moved.append(Crossed(what="session", subject="x", expected="a", found="b")),
    ),
    "readings of nobody": ("G12", lambda b: setattr(b.dump, "readings_of_nobody", 3)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found(name: str, tmp_path: Path) -> None:
    rule, plant = PLANTED[name]
    builder = build(tmp_path / "j")
    plant(builder)
    assert rule in rules_of(world_of(builder))


def _same_transaction_for_another_visit(b: Builder) -> None:
    visit = b.scribe.visit("CP-1", 1, 1_000)
    fact = visit.queue("StartTransaction")
    message_id = visit.send(fact, "StartTransaction", START | {"timestamp": "another"})
    visit.answered(fact, "StartTransaction", message_id, {"transactionId": 1, "idTagInfo": ACCEPTED})


SAID: dict[str, Plant] = {
    "two visits were taken for one": lambda b: change(b.dump.inbox, 4, session_id=REFUNDED),
    "was booked to another session": lambda b: change(b.dump.inbox, 3, session_id=OWING),
    "The same message was answered differently": lambda b: _answer_again(b, {"transactionId": 77}),
    "was given to two visits": _same_transaction_for_another_visit,
    "count 1, 2, 3 without a gap": lambda b: change(b.dump.settlements, 0, version=2),
    "priced by other terms": lambda b: change(b.dump.settlements, 0, currency="EUR"),
    "another number of settlements": lambda b: change(b.dump.sessions, 0, settle_version=2),
    "Session and settlement differ in refund": lambda b: change(b.dump.sessions, 0, refunded_minor=39_999),
    "Session and settlement differ in paid": lambda b: change(b.dump.sessions, 0, paid_minor=50_001),
    "charged for other Wh": lambda b: change(b.dump.settlements, 0, energy_wh=4_999),
    "counted twice": lambda b: _stray_session(b, 5_999),
}


@pytest.mark.parametrize("sentence", SAID)
def test_a_difference_says_what_is_wrong(sentence: str, tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    SAID[sentence](builder)
    assert [d for d in judge_world(world_of(builder)).differences if sentence in d.what]


def test_every_rule_has_been_seen_to_fail() -> None:
    elsewhere = {"G7", "G11"}
    assert {rule for rule, _ in PLANTED.values()} | elsewhere == set(RULES)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [SinkLine(sink="webhook", effect="mail:1", id="e1"), SinkLine(sink="webhook", effect="mail:1", id="e2")],
        [SinkLine(sink="webhook", effect="mail:1", id="e1"), SinkLine(sink="webhook", effect="mail:9", id="e9")],
        [SinkLine(sink="webhook", effect="mail:1", id="e1", money=True)] * 2,
        [SinkLine(sink="webhook", effect="mail:1", id="e1", money=True, performed=False)],
        [SinkLine(sink="webhook", effect="mail:1", id="e1", amount_minor=n, currency="INR") for n in (1, 2)],
    ],
    ids=["never arrived", "two ids", "unknown", "money twice", "money never", "two amounts"],
)
def test_outside_effects_are_judged(lines: list[SinkLine], tmp_path: Path) -> None:
    world = world_of(build(tmp_path / "j"))
    world.sinks = lines or [SinkLine(sink="webhook", effect="other", id="o", at=NOW - timedelta(days=30))]
    assert rules_of(world) == {"G7"}


def test_an_effect_that_waits_is_no_missing_one(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    builder.dump.outbox.append(OutboxRow(effect_key="mail:2", target="webhook", state="waiting", created_at=NOW))
    assert rules_of(world_of(builder)) == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status:CP-1", {"1": "Charging"}),
        ("status:CP-9", {"1": "Available"}),
        ("status:CP-1", "a list"),
        ("owner:CP-1", "node-b"),
        ("owner:CP-1", {"a": "b"}),
        ("events:CP-1", [{"c": "1", "s": str(RUNNING)}]),
        ("events:CP-1", [{"c": "1", "s": str(STRANGER)}]),
        ("events:CP-1", "a hash"),
    ],
)
def test_what_redis_makes_up_is_found(key: str, value: object, tmp_path: Path) -> None:
    world = world_of(build(tmp_path / "j"))
    world.redis = {key: value}  # type: ignore[dict-item]
    assert rules_of(world) == {"G11"}


@pytest.mark.parametrize("redis", [None, {}])
def test_an_empty_redis_is_no_difference(redis: dict[str, str] | None, tmp_path: Path) -> None:
    world = world_of(build(tmp_path / "j"))
    world.redis = redis
    assert rules_of(world) == set()


def test_a_correction_that_leaves_the_refund_is_right(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    _later_version(builder)
    found = judge_world(world_of(builder)).differences
    assert {d.rule for d in found} == {"G3", "G6"}, "the truth is still 5,000 Wh"
    assert all("Wh" in d.what or "energy" in d.what for d in found)


def test_money_held_anew_is_charged_before_anything_is_owed(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    _later_version(builder, covered_minor=12_000, refund_minor=38_000, owed_minor=0)
    builder.dump.holds.append(Hold(session_id=REFUNDED, version=2, amount=40_000))
    change(builder.dump.sessions, 0, refunded_minor=38_000)
    change(builder.dump.money, 0, wallet=-12_000, receivable=0)
    found = judge_world(world_of(builder)).differences
    assert [d for d in found if "energy" not in d.what and "Wh" not in d.what] == []


def _stop_that_nobody_got(builder: Builder, fate: str | None) -> None:
    """The owing visit's Stop was not recorded; the server knows 29,000 Wh of 30,000."""
    stop = next(row for row in builder.dump.inbox if row.action == "StopTransaction" and row.session_id == OWING)
    builder.dump.inbox.remove(stop)
    builder.dump.frames = [f for f in builder.dump.frames if f.dedupe_key != stop.dedupe_key]
    lines = [line for line in builder.scribe.path.read_text().splitlines() if '"session": 2' in line]
    answered = next(line for line in lines if '"answered"' in line and "StopTransaction" in line)
    text = builder.scribe.path.read_text().replace(
        answered, answered.replace('"answered"', f'"{fate}"') if fate else answered.replace('"answered"', '"timed_out"')
    )
    builder.scribe.path.write_text(text)


@pytest.mark.parametrize(
    ("fate", "estimated", "figure"),
    [
        ("forgotten", True, "wh_lost_by_stations"),
        ("lost", True, "wh_lost_by_stations"),
        (None, False, "wh_with_stations"),
    ],
)
def test_energy_that_a_station_kept_is_counted_apart(
    fate: str | None, estimated: bool, figure: str, tmp_path: Path
) -> None:
    builder = build(tmp_path / "j")
    _stop_that_nobody_got(builder, fate)
    meters = [row for row in builder.dump.inbox if row.action == "MeterValues" and row.session_id == OWING]
    assert meters
    text = builder.scribe.path.read_text().replace('"value": "30010"', '"value": "29010"')
    builder.scribe.path.write_text(text)
    builder.dump.frames = [f for f in builder.dump.frames if f.dedupe_key != meters[0].dedupe_key]
    builder.dump.inbox.remove(meters[0])
    builder.record(
        "CP-1",
        OWING,
        "MeterValues",
        meter_values(2, 30_010)
        | {"meterValue": [{"timestamp": "2026-03-01T11:10:00Z", "sampledValue": [{"value": "29010", "unit": "Wh"}]}]},
        {},
    )
    change(builder.dump.sessions, 1, energy_wh=29_000, estimated=estimated)
    change(
        builder.dump.settlements,
        1,
        energy_wh=29_000,
        cost_minor=58_000,
        owed_minor=8_000,
        fee_minor=5_800,
        share_minor=52_200,
    )
    change(builder.dump.money, 1, receivable=-8_000, payable=52_200, platform_fee=5_800)
    change(builder.dump.accounts, 3, posted=-8_000)
    change(builder.dump.accounts, 4, posted=61_200)
    change(builder.dump.accounts, 5, posted=6_800)
    verdict = judge_world(world_of(builder))
    assert verdict.clean, as_text(verdict)
    assert getattr(verdict.figures, figure) == 1_000
    change(builder.dump.sessions, 1, energy_wh=28_999)
    assert "G3" in rules_of(world_of(builder)), "below what was told and answered, the server lost it"


def test_an_end_that_was_never_heard_must_be_marked_as_estimated(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    _stop_that_nobody_got(builder, "lost")
    assert "G3" in rules_of(world_of(builder))


def test_a_stop_in_quarantine_is_explained_by_its_finding_only(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    at = next(
        n for n, row in enumerate(builder.dump.inbox) if row.action == "StopTransaction" and row.session_id == REFUNDED
    )
    change(builder.dump.inbox, at, state="quarantined", session_id=None)
    change(builder.dump.sessions, 0, energy_wh=4_999, estimated=True)
    assert "G3" in rules_of(world_of(builder))
    key = f"unmatched_stop:CP-1:{builder.dump.inbox[at].dedupe_key.hex()}"
    finding = FindingRow(kind="unmatched_stop", key=key, state="open", station_id="CP-1", found_at=NOW)
    builder.dump.findings.append(finding)
    change(builder.dump.sessions, 0, energy_wh=5_000)
    assert "G3" not in rules_of(world_of(builder))


def test_another_id_of_an_outage_is_the_same_answer(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    change(builder.dump.inbox, 0, response='{"transactionId": 500, "idTagInfo": {"status": "Accepted"}}')
    assert rules_of(world_of(builder)) == {"G4"}
    builder.dump.aliases = {("CP-1", "500"): REFUNDED}
    assert rules_of(world_of(builder)) == set()


def test_a_message_that_the_station_itself_would_not_hear_answered_is_not_our_fault(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    visit = builder.scribe.visit("CP-2", 2, 50)
    fact = visit.queue("StartTransaction")
    payload = {"connectorId": 2, "meterStart": 50}
    answer = {"transactionId": 9, "idTagInfo": ACCEPTED}
    for _ in range(3):
        message_id = visit.send(fact, "StartTransaction", payload)
        visit.answered(fact, "StartTransaction", message_id, answer, kind="answer_ignored")
    visit.fate("discarded", fact, "StartTransaction")
    builder.record("CP-2", UUID(int=9), "StartTransaction", payload, answer)
    builder.book(UUID(int=9), "CP-2", [50, 50], paid=0, ended=False, evse=2)
    assert rules_of(world_of(builder)) == set()


def test_facts_whose_frames_were_trimmed_are_let_pass_in_number_only(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    builder.dump.frames.clear()
    assert "G1" not in rules_of(world_of(builder))
    builder.dump.inbox.pop()
    assert "G1" in rules_of(world_of(builder))


def test_readings_of_a_transaction_that_never_began_are_counted_apart(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    _orphan(builder, "applied")
    verdict = judge_world(world_of(builder))
    assert verdict.clean, as_text(verdict)
    assert (verdict.figures.wh_among_strays, verdict.figures.wh_lost_by_stations) == (250, 50)


def test_a_session_made_for_a_visit_without_a_start_is_its_session(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    _orphan(builder, "applied")
    builder.book(UUID(int=999), "CP-2", [150, 400], paid=0, ended=True, evse=2)
    # Adopted late, while the next car charged: the transaction that it names tells whose it is.
    later = {"origin": "orphan", "created_at": NOW + timedelta(days=999), "estimated": True}
    change(builder.dump.sessions, -1, **later)
    change(builder.dump.accounts, 3, posted=-10_500)
    change(builder.dump.accounts, 4, posted=63_450)
    change(builder.dump.accounts, 5, posted=7_050)
    verdict = judge_world(world_of(builder))
    assert verdict.clean, as_text(verdict)
    assert (verdict.figures.wh_among_strays, verdict.figures.wh_lost_by_stations) == (0, 50)
    change(builder.dump.sessions, -1, energy_wh=249)
    assert rules_of(world_of(builder)) == {"G3", "G6"}
    change(builder.dump.sessions, -1, energy_wh=250, transaction_ref="1000")
    assert rules_of(world_of(builder)) == {"G2"}, "a transaction that no station named"


def test_an_orphan_that_begins_where_another_session_ended_shares_nothing(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    _stray_session(builder, 6_000)
    assert "G3" not in rules_of(world_of(builder))


def test_a_living_system_may_move_stations(tmp_path: Path) -> None:
    builder = build(tmp_path / "j")
    builder.dump.moved.append(Crossed(what="session", subject="x", expected="a", found="b"))
    world = world_of(builder)
    world.live = True
    assert rules_of(world) == set()
