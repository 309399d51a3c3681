"""What the page says: marks with words, a sentence where truths disagree, and the money in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec
import pytest

from voltledger.dashboard.view import ago, picture
from voltledger.services.catalog import (
    Connector,
    Counts,
    FindingCount,
    LoopRun,
    MoneyOf,
    OpenSession,
    Overview,
    SessionRow,
    Station,
    money_sentence,
)
from voltledger.services.runtime import ConnectionInfo

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ROW = SessionRow(
    id=UUID(int=1),
    status="COMPLETED",
    station="CP-1",
    connector=1,
    user="anna",
    transaction_id="7",
    started_at=NOW,
    ended_at=NOW,
    stop_reason="Local",
    energy_wh=12_345,
    paid_minor=50_000,
    refunded_minor=25_310,
    currency="INR",
    estimated=False,
    settled_at=NOW,
    price_per_kwh_minor=Decimal("2000.0000"),
    fee_percent=Decimal("10"),
    power_w=None,
    soc_percent=None,
    heard_at=None,
    created_at=NOW,
    organization="default",
    suspect=False,
    cost_minor=24_690,
    fee_minor=2_469,
    share_minor=22_221,
    refund_minor=25_310,
    owed_minor=0,
)
SESSION = OpenSession(
    id=UUID(int=2),
    station_id="CP-1",
    evse=1,
    status="ONGOING",
    user="anna",
    started_at=NOW,
    created_at=NOW,
    energy_wh=1000,
    power_w=7400.0,
    heard_at=NOW,
)
BOOKS = MoneyOf(
    currency="INR",
    wallets_minor=70,
    held_minor=20,
    fees_minor=1,
    payable_minor=9,
    receivable_minor=0,
    received_minor=100,
)


def _overview(*, findings_open: int = 0, stations: int = 1, money: MoneyOf = BOOKS) -> Overview:
    counts = Counts(
        stations=stations,
        sessions_active=0,
        sessions_pending=0,
        sessions_unsettled=0,
        findings_open=findings_open,
    )
    loop = LoopRun(name="cleanup", last_run=NOW, duration_s=None, outcome=None)
    found = [FindingCount(kind="ghost", state=state, count=2) for state in ("open", "repaired")]
    return Overview(counts=counts, power_w=0.0, money=[money], findings=found, loops=[loop])


def _station(status: str, session: OpenSession | None) -> Station:
    connector = Connector(
        station_id="CP-1",
        evse=1,
        connector=1,
        status=status,
        raw_status=status,
        error_code="NoError",
        info="",
        occurred_at=None,
        received_at=NOW,
        since=NOW,
        session=session,
    )
    return Station(
        id="CP-1",
        organization="default",
        status="AVAILABLE",
        security_profile=1,
        ocpp_versions=["ocpp1.6"],
        connector_count=1,
        vendor="",
        model="",
        serial="",
        firmware="",
        booted_at=None,
        last_seen_at=None,
        out_of_order_since=None,
        disabled_at=None,
        created_at=NOW,
        connectors=[connector],
        sessions=[session] if session else [],
    )


def _doubt(status: str, session: OpenSession | None, *, connected: bool = True) -> str:
    live = {"CP-1": ConnectionInfo(version="ocpp1.6", since=NOW)} if connected else {}
    shown = picture(
        now=NOW,
        overview=_overview(),
        stations=[_station(status, session)],
        connected=live,
        running=[],
        ended=[],
        findings=[],
    )
    return shown.stations[0].connectors[0].doubt


def test_a_settled_session_is_one_sentence_of_money() -> None:
    assert money_sentence(ROW) == (
        "Paid 500.00 INR, used 12.345 kWh x 20.00 = 246.90 INR, refunded 253.10 INR; "
        "the organisation gets 222.21 INR, the platform fee is 24.69 INR."
    )


def test_energy_beyond_the_payment_is_said_to_be_owed() -> None:
    row = msgspec.structs.replace(ROW, paid_minor=20_000, refunded_minor=0, owed_minor=4_690)
    assert "; 46.90 INR is owed to us; " in money_sentence(row)


def test_what_a_running_session_used_beyond_its_payment_is_said() -> None:
    row = msgspec.structs.replace(ROW, status="ONGOING", settled_at=None, ended_at=None, paid_minor=20_000)
    assert money_sentence(row) == (
        "Paid 200.00 INR, used 12.345 kWh x 20.00 = 246.90 INR, 46.90 INR of it not paid for so far."
    )
    assert "not paid for" not in money_sentence(msgspec.structs.replace(row, paid_minor=24_690))


def test_the_sentence_of_the_books_names_what_drivers_owe() -> None:
    owing = msgspec.structs.replace(BOOKS, receivable_minor=7, payable_minor=16)
    for books, words in ((owing, "fees are 0.01 INR, drivers owe 0.07 INR."), (BOOKS, "fees are 0.01 INR.")):
        shown = picture(
            now=NOW, overview=_overview(money=books), stations=[], connected={}, running=[], ended=[], findings=[]
        )
        assert shown.money[0].sentence.endswith(words)
        assert shown.money[0].balanced


def test_an_ended_session_that_is_not_settled_says_so() -> None:
    assert money_sentence(msgspec.structs.replace(ROW, settled_at=None)).endswith("; not settled yet.")


@pytest.mark.parametrize(
    ("status", "session", "connected", "words"),
    [
        ("Charging", SESSION, True, ""),
        ("Available", None, True, ""),
        ("Available", SESSION, True, "The station says Available; our session is open"),
        ("Charging", None, True, "The station says Charging; we know of no session"),
        ("Charging", SESSION, False, "the station is not connected now"),
    ],
)
def test_a_sentence_stands_where_the_truths_disagree(
    status: str, session: OpenSession | None, connected: bool, words: str
) -> None:
    doubt = _doubt(status, session, connected=connected)
    assert words in doubt
    assert bool(doubt) == bool(words)


@pytest.mark.parametrize(
    ("overview", "connected", "words"),
    [
        (_overview(), 1, "All right"),
        (_overview(), 0, "No station is connected"),
        (_overview(stations=0), 0, "No stations yet"),
        (_overview(findings_open=1), 1, "1 finding waits for an operator"),
        (_overview(findings_open=2), 1, "2 findings wait for an operator"),
        (_overview(money=msgspec.structs.replace(BOOKS, held_minor=21)), 1, "The books do not balance"),
    ],
)
def test_the_first_sentence_says_whether_all_is_right(overview: Overview, connected: int, words: str) -> None:
    live = {str(n): ConnectionInfo(version="ocpp1.6", since=NOW) for n in range(connected)}
    shown = picture(now=NOW, overview=overview, stations=[], connected=live, running=[], ended=[], findings=[])
    assert words in shown.headline.word
    assert shown.finding_counts == [("ghost", 4)]
    assert shown.loops[0][1].word == "running"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s ago"), (59, "59 s ago"), (61, "1 min ago"), (7200, "2 h ago"), (90_000, "1 d ago")]
)
def test_times_are_told_in_one_unit(seconds: int, text: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text
