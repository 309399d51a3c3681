"""What evidence proves, and what follows from it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.domain.make import orphan, pending, running, time
from voltledger.domain.events import ConnectorStatus
from voltledger.domain.quantities import duration_text
from voltledger.domain.reconciliation.evidence import Proof, Question, Reply, Witness, evidence_of, steady_for
from voltledger.domain.reconciliation.verdict import (
    Remedy,
    judge_free_connector,
    judge_session,
    may_reactivate,
)
from voltledger.domain.session.blocking import why_blocked
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import State

C = ConnectorStatus
GRACE = timedelta(minutes=5)
ASKED = Question(at=time(59), reply=Reply.ACCEPTED)
UNANSWERED = Question(at=time(59), reply=Reply.UNANSWERED)
RESTARTED: dict[str, object] = {
    "booted_at": time(56),
    "status_since": time(56),
    "status_at": time(56.2),
    "asked": Question(at=time(56.1), reply=Reply.ACCEPTED),
}


def witness(**changes: object) -> Witness:
    """At minute 60: connected since 0, Available since 50, the meter last heard of at 49, asked at 59."""
    members: dict[str, object] = {
        "now": time(60),
        "connected_since": time(0),
        "status": C.AVAILABLE,
        "status_since": time(50),
        "status_at": time(59),
        "heard_at": time(49),
        "asked": ASKED,
    }
    return Witness(**{**members, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "changes", "proof"),
    [
        ("Available after the last reading", {}, Proof.ENDED),
        ("Available, and no reading ever", {"heard_at": None}, Proof.ENDED),
        ("Available before the last reading", {"heard_at": time(51)}, Proof.NOTHING),
        ("Available at the very last reading", {"heard_at": time(50)}, Proof.NOTHING),
        ("Available, nobody knows since when", {"status_since": None}, Proof.NOTHING),
        ("Available, and the station is offline", {"connected_since": None}, Proof.NOTHING),
        ("Charging, and the station is offline", {"status": C.CHARGING, "connected_since": None}, Proof.NOTHING),
        ("silence for years", {"status": None, "status_since": None, "heard_at": time(-(10**6))}, Proof.NOTHING),
        *(
            (f"{status}", {"status": status}, Proof.RUNNING)
            for status in (C.CHARGING, C.SUSPENDED_EV, C.SUSPENDED_EVSE)
        ),
        *(
            (f"{status}", {"status": status}, Proof.NOTHING)
            for status in C
            if status not in (C.AVAILABLE, C.CHARGING, C.SUSPENDED_EV, C.SUSPENDED_EVSE)
        ),
    ],
)
def test_evidence(what: str, changes: dict[str, object], proof: Proof) -> None:
    evidence = evidence_of(witness(**changes))
    assert evidence[0].proof is proof, what
    assert all(e.proof is Proof.NOTHING for e in evidence[1:])
    assert all(e.text for e in evidence)


@pytest.mark.parametrize(
    ("what", "changes", "remedy"),
    [
        ("proven, steady and asked", {}, Remedy.CLOSE),
        ("not asked yet", {"asked": None}, Remedy.ASK),
        ("asked before the status came", {"asked": Question(at=time(49), reply=Reply.ACCEPTED)}, Remedy.ASK),
        ("asked, and it reported before that only", {"status_at": time(58.9)}, Remedy.CLOSE),
        ("asked just now, its report is on the way", {"status_at": time(58.9), "now": time(59.5)}, Remedy.WAIT),
        ("it cannot be asked", {"asked": Question(at=time(59), reply=Reply.REFUSED)}, Remedy.CLOSE),
        ("the question was never put", {"asked": UNANSWERED}, Remedy.ASK),
        ("the question was never put, for 49 minutes", {"asked": UNANSWERED, "now": time(99)}, Remedy.ASK),
        ("the question is never answered, ten graces long", {"asked": UNANSWERED, "now": time(100)}, Remedy.CLOSE),
        ("we came back less than the grace time ago", {"quiet_since": time(56)}, Remedy.WAIT),
        ("we came back the grace time ago", {"quiet_since": time(55)}, Remedy.CLOSE),
        (
            "never answered, and we came back a while ago",
            {"asked": UNANSWERED, "now": time(100), "quiet_since": time(60)},
            Remedy.ASK,
        ),
        ("restarted since, free for 20 s", {**RESTARTED, "now": time(56 + 1 / 3)}, Remedy.CLOSE),
        ("restarted since, free for 19 s", {**RESTARTED, "now": time(56.3)}, Remedy.WAIT),
        ("restarted since, not asked yet", {**RESTARTED, "now": time(56.4), "asked": None}, Remedy.ASK),
        (
            "restarted since, cannot be asked",
            {**RESTARTED, "now": time(56.4), "asked": Question(at=time(56.1), reply=Reply.REFUSED)},
            Remedy.WAIT,
        ),
        (
            "restarted since, and said nothing of the connector",
            {**RESTARTED, "now": time(56.4), "status_at": time(55.9)},
            Remedy.WAIT,
        ),
        ("restarted before the last reading", {**RESTARTED, "now": time(56.4), "heard_at": time(56.1)}, Remedy.WAIT),
        (
            "Available before and after a restart",
            {**RESTARTED, "now": time(56.4), "status_since": time(1)},
            Remedy.CLOSE,
        ),
        ("restarted and charging", {**RESTARTED, "now": time(60), "status": C.CHARGING}, Remedy.NONE),
        ("Available for less than the grace time", {"status_since": time(56)}, Remedy.WAIT),
        ("Available for exactly the grace time", {"status_since": time(55)}, Remedy.CLOSE),
        ("connected for less than the grace time", {"connected_since": time(56)}, Remedy.WAIT),
        ("offline", {"connected_since": None}, Remedy.WAIT),
        ("it charges", {"status": C.CHARGING}, Remedy.NONE),
        ("a reading came after Available", {"heard_at": time(58)}, Remedy.WAIT),
        ("Finishing", {"status": C.FINISHING}, Remedy.WAIT),
        ("Faulted", {"status": C.FAULTED}, Remedy.WAIT),
        ("Unavailable", {"status": C.UNAVAILABLE}, Remedy.WAIT),
        ("nothing at all for a year", {"now": time(10**6), "status": None, "status_since": None}, Remedy.WAIT),
        ("offline for a year", {"now": time(10**6), "connected_since": None}, Remedy.WAIT),
    ],
)
def test_a_session_that_we_believe_runs(what: str, changes: dict[str, object], remedy: Remedy) -> None:
    verdict = judge_session(witness(**changes), GRACE)
    assert verdict.remedy is remedy, what
    assert verdict.as_mapping()


@pytest.mark.parametrize(
    ("what", "changes", "stray_wh", "remedy"),
    [
        ("charging for the grace time", {"status": C.CHARGING}, 0, Remedy.ADOPT),
        ("suspended for the grace time", {"status": C.SUSPENDED_EV}, 0, Remedy.ADOPT),
        ("charging for less", {"status": C.CHARGING, "status_since": time(57)}, 0, Remedy.WAIT),
        ("just connected", {"status": C.CHARGING, "connected_since": time(57)}, 0, Remedy.WAIT),
        ("charging, offline", {"status": C.CHARGING, "connected_since": None}, 0, Remedy.NONE),
        ("Available", {}, 0, Remedy.NONE),
        ("Preparing", {"status": C.PREPARING}, 0, Remedy.NONE),
        ("its meter rises", {"status": C.PREPARING}, 1, Remedy.ADOPT),
        ("its meter rises although it says Available", {}, 250, Remedy.ADOPT),
        ("its meter rose and it is offline", {"connected_since": None}, 250, Remedy.NONE),
        ("its meter fell", {}, -250, Remedy.NONE),
        ("its meter rises, and we have just come back", {"quiet_since": time(56)}, 250, Remedy.WAIT),
        ("charging, and we have just come back", {"status": C.CHARGING, "quiet_since": time(56)}, 0, Remedy.WAIT),
    ],
)
def test_a_connector_on_which_we_believe_nothing_runs(
    what: str, changes: dict[str, object], stray_wh: int, remedy: Remedy
) -> None:
    verdict = judge_free_connector(witness(**changes), stray_energy_wh=stray_wh, grace=GRACE)
    assert verdict.remedy is remedy, what


def test_nothing_is_steady_that_is_not_connected_or_has_no_status() -> None:
    assert steady_for(witness(), GRACE)
    assert not steady_for(witness(connected_since=None), GRACE)
    assert not steady_for(witness(status_since=None), GRACE)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply.ACCEPTED, "said Available again"),
        (Reply.REFUSED, "cannot be asked"),
        (Reply.UNANSWERED, "did not answer"),
    ],
)
def test_a_verdict_says_what_became_of_the_question(reply: Reply, says: str) -> None:
    verdict = judge_session(
        witness(asked=Question(at=time(59), reply=reply), now=time(200), status_at=time(199)), GRACE
    )
    assert verdict.remedy is Remedy.CLOSE
    assert says in verdict.evidence[-1].text


def test_the_driver_who_is_refused_reads_what_blocks_since_when_and_when_it_is_looked_at() -> None:
    every = timedelta(minutes=2)
    free = why_blocked(running(), witness(), looked_at_every=every)
    assert "in use: a session began at 10:00:00 UTC" in free
    assert "Available since 10:50:00 UTC" in free
    assert "every 2 minutes" in free
    charging = why_blocked(running(), witness(status=C.CHARGING), looked_at_every=every)
    assert charging.endswith("a session has been running on it since 10:00:00 UTC; try again when it has ended")
    waiting = why_blocked(pending(), witness(), looked_at_every=every)
    assert waiting.endswith("a paid start waits for the station, until 10:02:00 UTC; try again after that")
    assert not any("anna" in text for text in (free, charging, waiting))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 seconds"), (1, "1 second"), (120, "2 minutes"), (5_400, "1 hour 30 minutes"), (31_536_000, "365 days")],
)
def test_a_duration_for_people(seconds: int, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


def _ended(state: State, *, concluded: bool, **changes: object) -> ChargingSession:
    return running(state=state, concluded=concluded, ended_at=time(50), **changes)


@pytest.mark.parametrize(
    ("what", "session", "may"),
    [
        ("a ghost of ten minutes ago", _ended(State.GHOST, concluded=True), True),
        ("one that was superseded", _ended(State.TERMINATED, concluded=True), True),
        ("one that was completed by hand", _ended(State.COMPLETED, concluded=True), True),
        ("one that the station ended", _ended(State.COMPLETED, concluded=False), False),
        ("one that the station ended early", _ended(State.TERMINATED, concluded=False), False),
        ("one that still runs", running(), False),
        ("one that never began", pending(state=State.TERMINATED, concluded=True, ended_at=time(50)), False),
        ("an orphan that we had closed", orphan(state=State.GHOST, concluded=True, ended_at=time(50)), False),
    ],
)
def test_a_recent_session_goes_on_only_where_its_end_was_our_conclusion(
    what: str, session: ChargingSession, may: bool
) -> None:
    assert may_reactivate(session, now=time(60), window=timedelta(minutes=15)) is may, what


def test_a_session_is_not_reactivated_after_the_window() -> None:
    session = _ended(State.GHOST, concluded=True)
    assert may_reactivate(session, now=time(65), window=timedelta(minutes=15))
    assert not may_reactivate(session, now=time(66), window=timedelta(minutes=15))
