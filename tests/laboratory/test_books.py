"""The proof of the books at a small scale, and each of its checks with books that are broken on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.laboratory.conftest import Running
from tools.laboratory import books
from tools.laboratory.books import PROMISES, Bench, Outcome
from voltledger.checker import Figures, Verdict
from voltledger.domain.ledger.settlement import Settlement, settle
from voltledger.storage.postgres.queries import SQL

SCALES = {"L-01": 0.003, "L-03": 0.002, "L-04": 0.003, "L-05": 0.005, "L-06": 0.004, "L-07": 0.0024, "L-08": 0.012}
TAMPER = "SET session_replication_role = replica; "
Measure = Callable[..., Outcome]


@pytest.fixture
def measure(running: Running) -> Measure:
    """Measures one promise, with SQL that breaks its books before or after."""

    def run(promise: str, scale: float = 0.0001, **broken: str) -> Outcome:
        return running.do(books.measure(Bench(lab=running.lab, scale=scale, **broken), promise))  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize("promise", PROMISES)
def test_the_promise_holds(measure: Measure, promise: str) -> None:
    outcome = measure(promise, SCALES.get(promise, 0.001))
    assert outcome.differences == [], f"{outcome}"
    assert outcome.reached or promise == "L-08", f"{outcome}"


@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        ("UPDATE ledger_posting SET amount_minor = amount_minor + 1 WHERE entry_id = 9 AND line = 1", "entry 9: "),
        ("UPDATE ledger_account SET balance_minor = balance_minor + 1 WHERE code = 'wallet:w1-0:INR'", "wallet:w1-0"),
        ("DELETE FROM ledger_posting WHERE entry_id = 9; DELETE FROM ledger_entry WHERE id = 9", "acknowledged"),
    ],
)
def test_an_entry_that_was_broken_among_many_is_noticed(measure: Measure, broken: str, seen: str) -> None:
    assert seen in str(measure("L-01", after=TAMPER + broken))


@pytest.mark.parametrize(
    ("missing", "attempts"),
    [
        (
            "DROP TRIGGER entry_balances ON ledger_entry; DROP TRIGGER posting_balances ON ledger_posting",
            ["sides that differ", "one side only", "no lines", "two currencies"],
        ),
        ("DROP TRIGGER posting_with_its_entry ON ledger_posting", ["two lines in an old entry"]),
        ("ALTER FUNCTION check_entry_balanced() RESET search_path", ["a temporary table for the accounts"]),
        ("ALTER FUNCTION check_posting_with_entry() RESET search_path", ["a temporary table for the entries"]),
        ("DROP TRIGGER balance_is_posted ON ledger_account", ["a balance beside the lines"]),
        ("DROP TRIGGER posting_moves_balance ON ledger_posting", ["lines beside a balance"]),
        ("GRANT INSERT ON ledger_entry TO voltledger_app", ["lines with the number of an older entry"]),
    ],
)
def test_a_rule_that_is_missing_shows_as_attempts_that_are_accepted(
    measure: Measure, missing: str, attempts: list[str]
) -> None:
    found = measure("L-01", before=missing).differences
    assert {f"accepted from the application's role: {name}" for name in attempts} <= set(found)


def test_a_right_too_many_shows_as_a_change_that_is_accepted(measure: Measure) -> None:
    right = "GRANT UPDATE (reason) ON ledger_entry TO voltledger_app; DROP TRIGGER entry_never_changes ON ledger_entry"
    assert measure("L-02", before=right).differences == ["accepted: UPDATE ledger_entry SET reason = reason"]


@pytest.mark.parametrize("promise", ["L-03", "L-06"])
def test_a_version_that_is_settled_twice_is_noticed(
    measure: Measure, monkeypatch: pytest.MonkeyPatch, promise: str
) -> None:
    """Workers that forget what was settled, on a database without the keys that would stop them."""
    monkeypatch.setitem(SQL, "settle_latest", SQL["settle_latest"].replace("WHERE", "WHERE random() < 0.2 AND"))
    monkeypatch.setitem(
        SQL, "entries_insert", SQL["entries_insert"].replace("ON CONFLICT ON CONSTRAINT entry_once", "")
    )
    monkeypatch.setitem(SQL, "entries_insert", SQL["entries_insert"].replace("DO NOTHING", ""))
    without = (
        "ALTER TABLE settlement DROP CONSTRAINT settlement_once;"
        "ALTER TABLE ledger_entry DROP CONSTRAINT entry_once;"
        "ALTER TABLE ledger_account DROP CONSTRAINT account_not_overdrawn"
    )
    assert measure(promise, before=without).differences


def test_an_update_that_gets_lost_is_noticed(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SQL, "accounts_lock", SQL["accounts_lock"].replace("FOR UPDATE", ""))
    without = "DROP TRIGGER IF EXISTS balance_is_posted ON ledger_account"
    assert any("balance" in text for text in measure("L-04", 0.003, before=without).differences)


@pytest.mark.parametrize("part", ["fee", "share", "refund", "owed"])
def test_one_minor_unit_is_noticed(measure: Measure, monkeypatch: pytest.MonkeyPatch, part: str) -> None:

    def wrong(*arguments: object, **named: object) -> Settlement:
        settlement = settle(*arguments, **named)  # type: ignore[arg-type]
        return replace(settlement, settled=replace(settlement.settled, **{part: getattr(settlement.settled, part) + 1}))

    monkeypatch.setattr(books, "settle", wrong)
    assert measure("L-05").differences


def test_a_second_effect_of_a_key_is_noticed(measure: Measure) -> None:
    again = TAMPER + "UPDATE ledger_account SET balance_minor = balance_minor + 7 WHERE code = 'wallet:driver:INR'"
    assert "were paid in, the wallet grew by" in str(measure("L-07", after=again))


def test_a_checker_that_finds_nothing_is_noticed(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    async def blind(dsn: str) -> Verdict:
        await asyncio.sleep(0)
        return Verdict(differences=(), figures=Figures(), took_s=0.0)

    monkeypatch.setattr(books, "verify", blind)
    assert any(text.startswith("not found: ") for text in measure("L-08", 0.1).differences)


@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        ("UPDATE settlement SET settled_at = now() WHERE version = 1", "was edited"),
        (
            "UPDATE settlement SET energy_wh = energy_wh - 1 WHERE version = 2",
            "should be",
        ),
    ],
)
def test_history_that_was_edited_is_noticed(measure: Measure, broken: str, seen: str) -> None:
    assert any(seen in text for text in measure("L-09", after=TAMPER + broken).differences)
