"""Rows to domain values and back: the one place that knows the columns of a session."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from voltledger.domain.identifiers import (
    OrganizationId,
    SessionId,
    StationId,
    TokenValue,
    TransactionRef,
    UserId,
)
from voltledger.domain.quantities import Minor, Price, Wh
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import ENDED, State

SESSION_COLUMNS: tuple[tuple[str, str], ...] = (
    ("id", "uuid"),
    ("station_id", "text"),
    ("evse_id", "int"),
    ("connector_id", "int"),
    ("organization_id", "text"),
    ("status", "text"),
    ("origin", "text"),
    ("transaction_ref", "text"),
    ("start_key", "bytea"),
    ("token", "text"),
    ("driver_id", "text"),
    ("created_at", "timestamptz"),
    ("started_at", "timestamptz"),
    ("ended_at", "timestamptz"),
    ("stop_reason", "text"),
    ("meter_start_wh", "bigint"),
    ("meter_stop_wh", "bigint"),
    ("register_wh", "bigint"),
    ("register_at", "timestamptz"),
    ("energy_wh", "bigint"),
    ("power_w", "double precision"),
    ("soc_percent", "double precision"),
    ("heard_at", "timestamptz"),
    ("currency", "text"),
    ("price_per_kwh_minor", "numeric"),
    ("fee_percent", "numeric"),
    ("paid_minor", "bigint"),
    ("refunded_minor", "bigint"),
    ("settle_version", "int"),
    ("end_reported", "boolean"),
    ("estimated", "boolean"),
    ("suspect", "boolean"),
    ("id_confirmed", "boolean"),
    ("stop_requested_at", "timestamptz"),
    ("stop_attempts", "int"),
    ("pending_until", "timestamptz"),
)
"""Columns of `charging_session` that a `ChargingSession` holds, with the types to pass them as."""

_STATES = {state.value: state for state in State}
_ENDED = frozenset(state.value for state in ENDED)
_ORIGINS = {origin.value: origin for origin in Origin}

COLUMN_LIST = ", ".join(name for name, _ in SESSION_COLUMNS)


def session_of(row: Mapping[str, Any]) -> ChargingSession:
    """A session from a row that has `COLUMN_LIST`."""
    return ChargingSession(
        id=SessionId(row["id"]),
        station_id=StationId(row["station_id"]),
        evse_id=row["evse_id"],
        connector_id=row["connector_id"],
        organization_id=OrganizationId(row["organization_id"]),
        state=_STATES[row["status"]],
        origin=_ORIGINS[row["origin"]],
        transaction_ref=_maybe(TransactionRef, row["transaction_ref"]),
        start_key=row["start_key"],
        token=_maybe(TokenValue, row["token"]),
        user_id=_maybe(UserId, row["driver_id"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        stop_reason=row["stop_reason"],
        meter_start_wh=_maybe(Wh, row["meter_start_wh"]),
        meter_stop_wh=_maybe(Wh, row["meter_stop_wh"]),
        register_wh=_maybe(Wh, row["register_wh"]),
        register_at=row["register_at"],
        energy_wh=Wh(row["energy_wh"]),
        power_w=_decimal(row["power_w"]),
        soc_percent=_decimal(row["soc_percent"]),
        heard_at=row["heard_at"],
        price=Price(per_kwh_minor=row["price_per_kwh_minor"], currency=row["currency"]),
        fee_percent=row["fee_percent"],
        paid_minor=Minor(row["paid_minor"]),
        refunded_minor=Minor(row["refunded_minor"]),
        settle_version=row["settle_version"],
        concluded=row["status"] in _ENDED and not row["end_reported"],
        estimated=row["estimated"],
        suspect=row["suspect"],
        id_confirmed=row["id_confirmed"],
        stop_requested_at=row["stop_requested_at"],
        stop_attempts=row["stop_attempts"],
        pending_until=row["pending_until"],
    )


def session_values(session: ChargingSession) -> tuple[Any, ...]:
    """A session's values in the order of `SESSION_COLUMNS`."""
    return (
        session.id,
        session.station_id,
        session.evse_id,
        session.connector_id,
        session.organization_id,
        session.state.value,
        session.origin.value,
        session.transaction_ref,
        session.start_key,
        session.token,
        session.user_id,
        session.created_at,
        session.started_at,
        session.ended_at,
        session.stop_reason,
        session.meter_start_wh,
        session.meter_stop_wh,
        session.register_wh,
        session.register_at,
        session.energy_wh,
        as_float(session.power_w),
        as_float(session.soc_percent),
        session.heard_at,
        session.price.currency,
        session.price.per_kwh_minor,
        session.fee_percent,
        session.paid_minor,
        session.refunded_minor,
        session.settle_version,
        session.state in ENDED and not session.concluded,
        session.estimated,
        session.suspect,
        session.id_confirmed,
        session.stop_requested_at,
        session.stop_attempts,
        session.pending_until,
    )


def columns_of(rows: Iterable[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows turned into columns, for `unnest`; `width` empty lists when there are no rows."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]


def _save_sessions_sql() -> str:
    """Inserts sessions, or brings those that exist to the given values.

    A session saved this way has begun, ended or changed its end: what it owes is settled anew, so
    settled_at is cleared. Only settlement sets it. `saves` tells our writes from a person's.
    """
    arrays = ", ".join(f"${i}::{kind}[]" for i, (_, kind) in enumerate(SESSION_COLUMNS, 1))
    fixed = {"id", "created_at", "station_id"}
    updates = ", ".join(f"{name} = EXCLUDED.{name}" for name, _ in SESSION_COLUMNS if name not in fixed)
    return (
        f"INSERT INTO charging_session ({COLUMN_LIST}) SELECT * FROM unnest({arrays}) "
        f"ON CONFLICT (id) DO UPDATE SET {updates}, settled_at = NULL, saves = charging_session.saves + 1"
    )


SAVE_SESSIONS = _save_sessions_sql()


def safe_text(text: str) -> str:
    """Text as PostgreSQL can keep it: what a station sent may hold NUL or half a character."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def as_float(value: Decimal | None) -> float | None:
    """Power, current and charge are shown, never billed: a float will do in their columns."""
    return None if value is None else float(value)


def _decimal(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def _maybe(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)
