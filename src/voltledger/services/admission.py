"""Who may connect: a station is known, not disabled, and proves that it is itself."""

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Protocol

from voltledger.domain.identifiers import StationId
from voltledger.services.credentials import PasswordCheck, basic_credentials, hash_password
from voltledger.storage.errors import StoreUnavailable
from voltledger.storage.ports import StationAccess


class StationDirectory(Protocol):
    """Where stations are looked up."""

    async def access_of(self, station_id: StationId) -> StationAccess | None:
        """The station, whatever the letter case of its name; None if there is none."""


class Denial(StrEnum):
    """Why a handshake was refused; for the log and the operator, never for the peer."""

    NO_IDENTITY = "no usable identity in the path"
    UNKNOWN_STATION = "unknown station"
    DISABLED = "station is disabled"
    NO_CREDENTIALS = "no credentials"
    OTHER_USER = "the user name is not the station's identity"
    WRONG_PASSWORD = "wrong password"
    NO_PASSWORD_SET = "no password is set for the station"
    UNAVAILABLE = "the database is away and the station is not remembered"


class Admission:
    """Decides handshakes; remembers stations so that an outage of the store locks nobody out."""

    def __init__(self, directory: StationDirectory) -> None:
        self._directory = directory
        self._check = PasswordCheck()
        self._remembered: dict[str, StationAccess] = {}
        # Checked in place of a password that is not there, so that unknown and wrong take as long.
        self._nobody = hash_password("nobody", generated=False)

    async def admit(self, station_id: StationId | None, headers: Mapping[str, str]) -> StationAccess | Denial:
        """The station that a handshake may act for, or why it may not.

        Every refusal costs the same, whatever its reason, so that none can be told from another.

        Raises: nothing; an outage of the store is a Denial unless the station is remembered.
        """
        if station_id is None:
            access = None
        else:
            try:
                access = await self._find(station_id)
            except StoreUnavailable:
                return Denial.UNAVAILABLE
        if access is not None and access.security_profile == 0 and not access.disabled:
            return access
        credentials = basic_credentials(headers.get("Authorization"))
        right = await self._is_right(access, b"" if credentials is None else credentials[1])
        if access is None:
            return Denial.NO_IDENTITY if station_id is None else Denial.UNKNOWN_STATION
        return _why_not(access, credentials, right=right) or access

    async def _find(self, station_id: StationId) -> StationAccess | None:
        try:
            access = await self._directory.access_of(station_id)
        except StoreUnavailable:
            remembered = self._remembered.get(station_id.lower())
            if remembered is None:
                raise
            return remembered
        if access is not None:
            self._remembered[station_id.lower()] = access
        else:
            self._remembered.pop(station_id.lower(), None)
        return access

    async def _is_right(self, access: StationAccess | None, password: bytes) -> bool:
        """Whether the password is the station's. One slow check is made whenever it is not."""
        stored = None if access is None else access.password_hash
        right = stored is not None and await self._verify(password, stored)
        if not right and (stored is None or stored.startswith("fast$")):
            await self._verify(password, self._nobody)
        return right

    async def _verify(self, password: bytes, stored: str) -> bool:
        if self._check.remembers(password, stored) or stored.startswith("fast$"):
            return self._check(password, stored)
        return await asyncio.to_thread(self._check, password, stored)


def _why_not(access: StationAccess, credentials: tuple[bytes, bytes] | None, *, right: bool) -> Denial | None:
    """Why a known station is refused; None if it is not."""
    if access.disabled:
        return Denial.DISABLED
    if credentials is None:
        return Denial.NO_CREDENTIALS
    if access.password_hash is None:
        return Denial.NO_PASSWORD_SET
    if credentials[0].decode("utf-8", "replace").lower() != access.station_id.lower():
        return Denial.OTHER_USER
    return None if right else Denial.WRONG_PASSWORD
