"""What connectors' reports mean for their station."""

from __future__ import annotations

import pytest

from tests.unit.domain.make import time
from voltledger.domain.events import ConnectorStatus, Instant, StatusReported
from voltledger.domain.session.connectors import ConnectorRecord, StationStatus, is_stale, station_status

C = ConnectorStatus
S = StationStatus


def records(*statuses: tuple[int, ConnectorStatus]) -> list[ConnectorRecord]:
    """The last reports of some EVSEs."""
    return [
        ConnectorRecord(evse_id=evse, connector_id=1, status=status, occurred_at=None, received_at=time(0))
        for evse, status in statuses
    ]


@pytest.mark.parametrize(
    ("connectors", "running", "status"),
    [
        ([], False, S.AVAILABLE),
        ([], True, S.OCCUPIED),
        ([(1, C.AVAILABLE)], False, S.AVAILABLE),
        ([(1, C.AVAILABLE)], True, S.OCCUPIED),
        *(
            ([(1, status)], False, S.OCCUPIED)
            for status in (
                C.OCCUPIED,
                C.PREPARING,
                C.CHARGING,
                C.SUSPENDED_EV,
                C.SUSPENDED_EVSE,
                C.FINISHING,
            )
        ),
        ([(1, C.RESERVED)], False, S.RESERVED),
        ([(1, C.UNAVAILABLE)], False, S.UNAVAILABLE),
        ([(1, C.FAULTED)], False, S.OUT_OF_ORDER),
        ([(1, C.UNKNOWN)], False, S.AVAILABLE),
        # One value a station, and yet no connector that speaks last hides another.
        ([(1, C.CHARGING), (2, C.AVAILABLE)], False, S.OCCUPIED),
        ([(1, C.AVAILABLE), (2, C.CHARGING)], False, S.OCCUPIED),
        ([(1, C.FAULTED), (2, C.AVAILABLE)], False, S.AVAILABLE),
        ([(1, C.FAULTED), (2, C.CHARGING)], False, S.OCCUPIED),
        ([(1, C.FAULTED), (2, C.FAULTED)], False, S.OUT_OF_ORDER),
        ([(1, C.FAULTED), (2, C.UNAVAILABLE)], False, S.UNAVAILABLE),
        ([(1, C.RESERVED), (2, C.AVAILABLE)], False, S.RESERVED),
        ([(1, C.RESERVED), (2, C.CHARGING)], False, S.OCCUPIED),
        # Connector 0 speaks for the whole.
        ([(0, C.UNAVAILABLE), (1, C.CHARGING)], True, S.UNAVAILABLE),
        ([(0, C.FAULTED), (1, C.AVAILABLE)], False, S.OUT_OF_ORDER),
        ([(0, C.AVAILABLE), (1, C.CHARGING)], False, S.OCCUPIED),
        ([(0, C.AVAILABLE), (1, C.FAULTED)], False, S.OUT_OF_ORDER),
        ([(0, C.CHARGING), (1, C.AVAILABLE)], False, S.AVAILABLE),
    ],
)
def test_the_one_status_of_a_connected_station(
    connectors: list[tuple[int, C]], running: bool, status: StationStatus
) -> None:
    given = station_status(records(*connectors), connected=True, out_of_order=False, sessions_running=running)
    assert given is status


@pytest.mark.parametrize("running", [True, False])
def test_a_station_that_is_not_connected_is_offline_and_out_of_order_goes_before(running: bool) -> None:
    charging = records((1, C.CHARGING))
    assert station_status(charging, connected=False, out_of_order=False, sessions_running=running) is S.OFFLINE
    assert station_status(charging, connected=False, out_of_order=True, sessions_running=running) is S.OUT_OF_ORDER
    assert station_status(charging, connected=True, out_of_order=True, sessions_running=running) is S.OUT_OF_ORDER


def _report(at: Instant | None) -> StatusReported:
    return StatusReported(evse_id=1, connector_id=1, status=C.AVAILABLE, raw_status="Available", at=at)


def _recorded(minutes: float | None) -> ConnectorRecord:
    occurred = None if minutes is None else time(minutes)
    return ConnectorRecord(evse_id=1, connector_id=1, status=C.CHARGING, occurred_at=occurred, received_at=time(60))


@pytest.mark.parametrize(
    ("what", "recorded", "at", "received", "stale"),
    [
        ("a replay of what was before", _recorded(50), Instant(at=time(40)), 60, True),
        ("news", _recorded(50), Instant(at=time(55)), 60, False),
        ("the same instant", _recorded(50), Instant(at=time(50)), 60, False),
        ("nothing is recorded", None, Instant(at=time(40)), 60, False),
        ("the recorded one has no time", _recorded(None), Instant(at=time(40)), 60, False),
        ("it has no time", _recorded(50), None, 60, False),
        ("its time cannot be believed", _recorded(50), Instant(at=time(40), suspect=True), 60, False),
        ("the clock was set back and it is fresh", _recorded(50), Instant(at=time(49.5)), 50, False),
    ],
)
def test_a_report_is_stale_only_if_it_tells_of_the_past(
    what: str, recorded: ConnectorRecord | None, at: Instant | None, received: float, stale: bool
) -> None:
    assert is_stale(recorded, _report(at), time(received)) is stale, what
