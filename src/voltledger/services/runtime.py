"""What the HTTP side needs of the running server, as protocols: the program's root plugs in the real parts.

The API and the pages know only this module and the catalogue; they never see a socket, a pool or a loop.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol
from uuid import UUID

import msgspec

from voltledger.config import Settings
from voltledger.domain.commands import Command
from voltledger.domain.identifiers import StationId
from voltledger.services.catalog import Catalog
from voltledger.storage.errors import StoreContention, StoreUnavailable

__all__ = [
    "CallOutcome",
    "Commands",
    "ConnectionInfo",
    "Health",
    "Live",
    "LoopHealth",
    "Outcome",
    "Prepaid",
    "Presence",
    "Runtime",
    "Status",
    "StoreContention",
    "StoreUnavailable",
]

Outcome = Literal["answered", "call_error", "timeout", "not_connected", "unknown"]
"""What became of a call: `unknown` when the connection broke while we waited, so that nobody can say."""


class CallOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one call to a station; `response` is the payload of the answer, where there was one."""

    outcome: Outcome
    response: object | None = None
    call_id: str


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A station's WebSocket: its subprotocol, since when, and the last frame on it."""

    version: str
    since: datetime
    last_frame_at: datetime | None = None
    remote: str = ""


class LoopHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The last run of one periodic loop; all None before the first."""

    last_run: datetime | None = None
    duration_s: float | None = None
    outcome: str | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What `/health` says. `journal` is the number of facts that wait for the database."""

    status: Literal["ok", "degraded"]
    database: str
    redis: str
    stations_connected: int
    sessions_active: int
    sync: Mapping[str, LoopHealth]
    findings_open: int
    journal: int
    version: str


class Commands(Protocol):
    """Asking stations for something."""

    async def call(self, station_id: str, action: str, payload: str, *, timeout_s: float | None = None) -> CallOutcome:
        """Sends a raw payload, the JSON text as it is, and waits for what becomes of it."""

    async def command(
        self,
        station_id: str,
        command: Command,
        *,
        session_id: UUID | None = None,
        timeout_s: float | None = None,
    ) -> CallOutcome:
        """Sends a command in the words of the station's version.

        Raises: NotPossibleNow when that version has no such command.
        """

    def check(self, station_id: str, action: str, payload: bytes) -> str | None:
        """What is wrong with a raw payload by the schema of the station's version; None when nothing is."""


class Presence(Protocol):
    """Which stations are connected."""

    def connected(self) -> Mapping[str, ConnectionInfo]:
        """The live connections by station."""

    async def close_station(self, station_id: StationId, reason: str) -> None:
        """Closes every socket of a station, as when it is disabled; nothing happens where there is none."""


class Prepaid(Protocol):
    """Sessions that are paid for first."""

    async def start(
        self,
        *,
        station_id: str,
        connector: int,
        user_id: str,
        amount_minor: int,
        token: str | None,
        key: str | None,
    ) -> UUID:
        """Sets the amount aside and asks the station to start; returns the session.

        Raises: InvalidInput, NotFound, InsufficientFunds, NotPossibleNow, CurrencyMismatch, and
        SameKeyOtherInput when the key came before with other input.
        """

    async def stop(self, session_id: UUID) -> CallOutcome:
        """Asks the station to end the session's transaction. Raises: NotFound, NotPossibleNow."""


class Status(Protocol):
    """How the server is, without asking the database: it must answer while that is away."""

    def health(self) -> Health:
        """The figures of `/health`."""

    def ready(self) -> bool:
        """Whether new work should come here."""

    def metrics(self) -> bytes:
        """The Prometheus text."""


class Live(Protocol):
    """Readings and frames as they happen, not kept anywhere."""

    def subscribe(self) -> AbstractAsyncContextManager[AsyncIterator[Mapping[str, object]]]:
        """Items from now on, each with a `kind`; a slow reader loses the oldest ones."""


@dataclass(slots=True, kw_only=True)
class Runtime:
    """Everything the API and the pages work with."""

    catalog: Catalog
    commands: Commands
    presence: Presence
    prepaid: Prepaid
    status: Status
    settings: Settings
    live: Live | None = None
