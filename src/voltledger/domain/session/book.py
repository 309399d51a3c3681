"""What is known of one station while its facts are decided, one after the other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from voltledger.domain.identifiers import OrganizationId, SessionId, StationId, TokenValue, TransactionRef
from voltledger.domain.quantities import Minor, Price
from voltledger.domain.session.connectors import ConnectorRecord
from voltledger.domain.session.session import ChargingSession
from voltledger.domain.session.states import State
from voltledger.domain.session.tokens import TokenRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Settings that the core needs; amounts in minor units, durations as such."""

    local_hold: Minor
    heartbeat_s: int = 300
    late_start_window: timedelta = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a session that starts now is priced by, and for whom."""

    organization_id: OrganizationId
    price: Price
    fee_percent: Decimal


@dataclass(slots=True, kw_only=True)
class StationBook:
    """One station's sessions that a batch of its facts may touch, and what else decides.

    Not shared and not kept: built from the store for one unit of work, changed by the decisions in
    arrival order, thrown away. `terms` are there whenever a fact may open a session. `spendable` maps a user to
    what their wallet can still set aside. `aliases` are ids that transactions had before.
    """

    station_id: StationId
    policy: Policy
    terms: Terms | None = None
    sessions: dict[SessionId, ChargingSession] = field(default_factory=dict)
    tokens: Mapping[TokenValue, TokenRecord] = field(default_factory=dict)
    spendable: dict[str, Minor] = field(default_factory=dict)
    connectors: dict[tuple[int, int], ConnectorRecord] = field(default_factory=dict)
    out_of_order: bool = False
    aliases: dict[TransactionRef, SessionId] = field(default_factory=dict)

    def put(self, session: ChargingSession) -> None:
        """Records a decision, so that the next fact of the batch sees it."""
        self.sessions[session.id] = session

    def by_ref(self, ref: TransactionRef | None) -> ChargingSession | None:
        """The session with this OCPP transaction, of this station only."""
        if ref is None:
            return None
        found = next((s for s in self.sessions.values() if s.transaction_ref == ref), None)
        if found is None and ref in self.aliases:
            return self.sessions.get(self.aliases[ref])
        return found

    def by_start_key(self, key: bytes | None) -> ChargingSession | None:
        """The session that this very start opened before."""
        if key is None:
            return None
        return next((s for s in self.sessions.values() if s.start_key == key), None)

    def running(self) -> list[ChargingSession]:
        """Sessions believed to charge, oldest first."""
        return sorted((s for s in self.sessions.values() if s.is_running), key=_age)

    def running_on(self, evse_id: int) -> ChargingSession | None:
        """The newest session believed to charge on an EVSE."""
        return next((s for s in reversed(self.running()) if s.evse_id == evse_id), None)

    def expected(self, token: TokenValue | None, evse_id: int, now: datetime) -> ChargingSession | None:
        """The asked-for session that a start with this token is the answer to.

        A start that comes after its deadline still belongs to the session that was asked for.
        """
        if token is None:
            return None
        asked = [s for s in self.sessions.values() if s.token == token and self._may_start(s, now)]
        return next((s for s in _waiting_first(asked) if s.evse_id in (evse_id, 0)), None)

    def _may_start(self, session: ChargingSession, now: datetime) -> bool:
        if session.state is State.PENDING:
            return True
        late = session.state is State.TERMINATED and session.concluded and session.started_at is None
        return late and now - session.created_at <= self.policy.late_start_window


def _age(session: ChargingSession) -> tuple[datetime, bytes]:
    return (session.started_at or session.created_at, session.id.bytes)


def _waiting_first(sessions: Iterable[ChargingSession]) -> list[ChargingSession]:
    return sorted(sessions, key=lambda s: (s.state is not State.PENDING, _age(s)))
