"""Who may connect: every denial, and a database that is away."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

import pytest

from voltledger.domain.identifiers import StationId
from voltledger.services.admission import Admission, Denial
from voltledger.services.credentials import hash_password
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.ports import StationAccess

PASSWORD = "a-password-of-a-station"
SAFE = StationAccess(
    station_id=StationId("CP-1"),
    password_hash=hash_password(PASSWORD, generated=True),
    security_profile=1,
    disabled=False,
)


@dataclass
class FakeDirectory:
    """Stations by their name in small letters; may be away."""

    stations: dict[str, StationAccess] = field(default_factory=dict)
    away: bool = False

    async def access_of(self, station_id: StationId) -> StationAccess | None:
        """See `StationDirectory`."""
        if self.away:
            raise StoreUnavailable("away")
        return self.stations.get(station_id.lower())


def station(**changes: object) -> StationAccess:
    """CP-1 with some members replaced."""
    members: dict[str, object] = {
        "station_id": SAFE.station_id,
        "password_hash": SAFE.password_hash,
        "security_profile": 1,
        "disabled": False,
    }
    return StationAccess(**{**members, **changes})  # type: ignore[arg-type]


def headers(user: str = "CP-1", password: str = PASSWORD) -> dict[str, str]:
    """A handshake's headers with Basic credentials."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def admission(*stations: StationAccess) -> tuple[Admission, FakeDirectory]:
    """An admission that knows these stations."""
    directory = FakeDirectory({s.station_id.lower(): s for s in stations})
    return Admission(directory), directory


@pytest.mark.parametrize(
    ("what", "known", "asked", "given", "expected"),
    [
        ("everything is right", SAFE, "CP-1", headers(), "CP-1"),
        ("no identity", SAFE, None, headers(), Denial.NO_IDENTITY),
        ("an unknown station", SAFE, "CP-2", headers("CP-2"), Denial.UNKNOWN_STATION),
        ("an unknown station without credentials", SAFE, "CP-2", {}, Denial.UNKNOWN_STATION),
        ("a disabled station", station(disabled=True), "CP-1", headers(), Denial.DISABLED),
        ("no credentials", SAFE, "CP-1", {}, Denial.NO_CREDENTIALS),
        ("another scheme", SAFE, "CP-1", {"Authorization": "Bearer x"}, Denial.NO_CREDENTIALS),
        ("the wrong password", SAFE, "CP-1", headers(password="wrong"), Denial.WRONG_PASSWORD),
        ("an empty password", SAFE, "CP-1", headers(password=""), Denial.WRONG_PASSWORD),
        ("another user and the right password", SAFE, "CP-1", headers("CP-2"), Denial.OTHER_USER),
        ("no password is set", station(password_hash=None), "CP-1", headers(), Denial.NO_PASSWORD_SET),
        ("no password is set and none is sent", station(password_hash=None), "CP-1", {}, Denial.NO_CREDENTIALS),
        ("no security, and no credentials", station(security_profile=0), "CP-1", {}, "CP-1"),
        ("no security, and disabled", station(security_profile=0, disabled=True), "CP-1", {}, Denial.DISABLED),
        ("another letter case in the path", SAFE, "cp-1", headers("Cp-1"), "CP-1"),
    ],
)
async def test_a_handshake(
    what: str, known: StationAccess, asked: str | None, given: dict[str, str], expected: str | Denial
) -> None:
    door, _ = admission(known)
    outcome = await door.admit(None if asked is None else StationId(asked), given)
    if isinstance(expected, Denial):
        assert outcome is expected, what
    else:
        assert isinstance(outcome, StationAccess), what
        assert outcome.station_id == expected


def test_every_denial_is_in_the_table_or_tested_below() -> None:
    tested = {
        Denial.NO_IDENTITY,
        Denial.UNKNOWN_STATION,
        Denial.DISABLED,
        Denial.NO_CREDENTIALS,
        Denial.WRONG_PASSWORD,
        Denial.OTHER_USER,
        Denial.NO_PASSWORD_SET,
        Denial.UNAVAILABLE,
    }
    assert tested == set(Denial)


async def test_a_station_is_remembered_while_the_database_is_away() -> None:
    door, directory = admission(SAFE)
    await door.admit(StationId("CP-1"), headers())
    directory.away = True
    assert await door.admit(StationId("cp-1"), headers()) == SAFE
    assert await door.admit(StationId("CP-1"), headers(password="wrong")) is Denial.WRONG_PASSWORD
    assert await door.admit(StationId("CP-1"), {}) is Denial.NO_CREDENTIALS


async def test_a_station_that_is_not_remembered_is_told_to_come_back() -> None:
    door, directory = admission(SAFE)
    directory.away = True
    assert await door.admit(StationId("CP-1"), headers()) is Denial.UNAVAILABLE


async def test_a_station_that_was_removed_is_not_remembered() -> None:
    door, directory = admission(SAFE)
    await door.admit(StationId("CP-1"), headers())
    directory.stations.clear()
    assert await door.admit(StationId("CP-1"), headers()) is Denial.UNKNOWN_STATION
    directory.away = True
    assert await door.admit(StationId("CP-1"), headers()) is Denial.UNAVAILABLE


async def test_a_station_that_was_disabled_stays_out_while_the_database_is_away() -> None:
    door, directory = admission(SAFE)
    await door.admit(StationId("CP-1"), headers())
    directory.stations["cp-1"] = station(disabled=True)
    assert await door.admit(StationId("CP-1"), headers()) is Denial.DISABLED
    directory.away = True
    assert await door.admit(StationId("CP-1"), headers()) is Denial.DISABLED


async def test_a_changed_password_counts_at_once() -> None:
    door, directory = admission(SAFE)
    assert await door.admit(StationId("CP-1"), headers()) == SAFE
    directory.stations["cp-1"] = station(password_hash=hash_password("another", generated=False))
    assert await door.admit(StationId("CP-1"), headers()) is Denial.WRONG_PASSWORD
    outcome = await door.admit(StationId("CP-1"), headers(password="another"))
    assert isinstance(outcome, StationAccess)
