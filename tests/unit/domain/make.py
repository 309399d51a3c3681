"""Builds the values that the core decides about: short, with times in minutes after `T0`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from voltledger.domain.events import (
    AuthorizationStatus,
    EndReason,
    Instant,
    MeterReported,
    Reading,
    TransactionEnded,
    TransactionStarted,
)
from voltledger.domain.identifiers import (
    OrganizationId,
    SessionId,
    StationId,
    TokenValue,
    TransactionRef,
    UserId,
)
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.session.book import Policy, StationBook, Terms
from voltledger.domain.session.decision import Circumstances
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import State
from voltledger.domain.session.tokens import TokenRecord

T0 = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
STATION = StationId("CP-1")
ANNA = UserId("anna")
TOKEN = TokenValue("ANNA-CARD")
PRICE = Price(per_kwh_minor=Decimal(2000), currency="INR")
POLICY = Policy(local_hold=Minor(50_000), heartbeat_s=300)
TERMS = Terms(organization_id=OrganizationId("acme"), price=PRICE, fee_percent=Decimal(10))

_numbers = itertools.count(1)


def time(minutes: float) -> datetime:
    """`minutes` after T0."""
    return T0 + timedelta(minutes=minutes)


def instant(minutes: float) -> Instant:
    """The same as a station's time that can be believed."""
    return Instant(at=time(minutes))


def session_id(number: int | None = None) -> SessionId:
    """A session's id; a fresh one without a number."""
    return SessionId(UUID(int=next(_numbers) if number is None else number))


def now(minutes: float = 0, *, key: bytes | None = None, ref: str | None = None) -> Circumstances:
    """Circumstances with a fresh id, and a transaction number where a start may need one."""
    number = next(_numbers)
    return Circumstances(
        received_at=time(minutes),
        fact_key=key if key is not None else f"fact-{number}".encode(),
        fresh_id=SessionId(UUID(int=number)),
        fresh_ref=TransactionRef(ref or str(100_000 + number)),
    )


def running(**changes: Any) -> ChargingSession:
    """Anna's session on EVSE 1, running since T0 from 1,000 Wh, 500.00 paid; `changes` replace members."""
    members: dict[str, Any] = {
        "id": session_id(),
        "station_id": STATION,
        "evse_id": 1,
        "connector_id": 1,
        "state": State.ONGOING,
        "origin": Origin.LOCAL,
        "price": PRICE,
        "fee_percent": Decimal(10),
        "organization_id": OrganizationId("acme"),
        "created_at": T0,
        "transaction_ref": TransactionRef("4711"),
        "start_key": b"start-4711",
        "token": TOKEN,
        "user_id": ANNA,
        "started_at": T0,
        "meter_start_wh": Wh(1_000),
        "register_wh": Wh(1_000),
        "register_at": T0,
        "heard_at": T0,
        "paid_minor": Minor(50_000),
    }
    return ChargingSession(**{**members, **changes})


def pending(**changes: Any) -> ChargingSession:
    """What Anna paid 500.00 for on EVSE 1; the station has not started yet."""
    members: dict[str, Any] = {
        "state": State.PENDING,
        "origin": Origin.PREPAID,
        "transaction_ref": None,
        "start_key": None,
        "token": TokenValue("VLPREPAID"),
        "started_at": None,
        "meter_start_wh": None,
        "register_wh": None,
        "register_at": None,
        "heard_at": None,
        "pending_until": time(2),
    }
    return running(**{**members, **changes})


def orphan(**changes: Any) -> ChargingSession:
    """A session that we made because EVSE 1 charged and nobody had said so: 1,000 Wh to 1,500 Wh."""
    members: dict[str, Any] = {
        "state": State.ORPHANED,
        "origin": Origin.ORPHAN,
        "transaction_ref": None,
        "start_key": None,
        "token": None,
        "user_id": None,
        "paid_minor": Minor(0),
        "register_wh": Wh(1_500),
        "register_at": time(10),
        "heard_at": time(10),
        "energy_wh": Wh(500),
    }
    return running(**{**members, **changes})


def token_record(**changes: Any) -> TokenRecord:
    """Anna's registered card."""
    members: dict[str, Any] = {"value": TOKEN, "status": AuthorizationStatus.ACCEPTED, "user_id": ANNA}
    return TokenRecord(**{**members, **changes})


def book(
    *sessions: ChargingSession,
    tokens: Iterable[TokenRecord] | None = None,
    spendable: int = 100_000,
    **changes: Any,
) -> StationBook:
    """The station's book with these sessions; Anna's card is registered unless said otherwise."""
    known = [token_record()] if tokens is None else list(tokens)
    made = StationBook(
        station_id=STATION,
        policy=POLICY,
        terms=TERMS,
        tokens={record.value: record for record in known},
        spendable={str(ANNA): Minor(spendable)},
        **changes,
    )
    for session in sessions:
        made.put(session)
    return made


def start(minutes: float = 0, register_wh: int | None = 1_000, **changes: Any) -> TransactionStarted:
    """A start with Anna's card on EVSE 1."""
    members: dict[str, Any] = {
        "evse_id": 1,
        "connector_id": 1,
        "token": TOKEN,
        "at": instant(minutes),
        "register_wh": None if register_wh is None else Wh(register_wh),
    }
    return TransactionStarted(**{**members, **changes})


def reading(minutes: float, register_wh: int | None = None, **changes: Any) -> Reading:
    """One reading."""
    register = None if register_wh is None else Wh(register_wh)
    return Reading(at=instant(minutes), register_wh=register, **changes)


def meter(*readings: Reading, ref: str | None = "4711", evse: int | None = 1) -> MeterReported:
    """Meter values of a transaction."""
    return MeterReported(evse_id=evse, transaction_ref=None if ref is None else TransactionRef(ref), readings=readings)


def end(
    minutes: float = 60,
    register_wh: int | None = 13_345,
    *,
    ref: str | None = "4711",
    reason: EndReason = EndReason.LOCAL,
    **changes: Any,
) -> TransactionEnded:
    """An end of a transaction; `ref` None is the end that names 0 or -1."""
    return TransactionEnded(
        transaction_ref=None if ref is None else TransactionRef(ref),
        at=instant(minutes),
        register_wh=None if register_wh is None else Wh(register_wh),
        reason=reason,
        **changes,
    )
