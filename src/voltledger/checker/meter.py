"""Energy from registers, worked out from raw OCPP 1.6 payloads. Written from ADR 0005 and the specification.

Energy is the sum of the register's positive steps. A register that falls begins anew, a step beyond 200 kWh that is
also beyond a megawatt is no energy, a late reading changes nothing. At the end the final register decides: above the
last reading it adds, between start and last reading it takes back, below the start it is ignored. Registers are cut to
whole Wh. A time far ahead of its receipt is placed five minutes ahead of it and says nothing about the order: a lower
register is then an older one. Source: OCPP 1.6 §4.7, §6.49, §7.31.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from typing import Any

AHEAD = timedelta(minutes=5)
FAR_WH = 200_000
MEGAWATT_W = 1_000_000
LIMIT_WH = 10**15
EARLIEST = datetime(2015, 1, 1, tzinfo=UTC)
REGISTER = "Energy.Active.Import.Register"
UNITS = {"wh": Decimal(1), "kwh": Decimal(1000)}
PLACES = ({"outlet"}, {"cable", "body"})
PHASES = {"l1": 1, "l2": 2, "l3": 3, "l1-n": 1, "l2-n": 2, "l3-n": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An instant and the import register then; None where the station said none. Units: Wh.

    `unordered`: its time was ahead of its receipt, so that it proves no order.
    """

    at: datetime
    register_wh: int | None
    unordered: bool = False


def readings_of(payload: Mapping[str, Any], received_at: datetime | None, member: str = "meterValue") -> list[Reading]:
    """What a payload says of the register, in its order; one reading for each instant and context."""
    found = []
    for value in _list(payload.get(member)):
        samples = [s for s in _list(value.get("sampledValue")) if isinstance(s, dict)]
        at = moment(value.get("timestamp"), received_at)
        placed = placed_at(at, received_at)
        contexts = dict.fromkeys(str(s.get("context") or "Sample.Periodic") for s in samples)
        for context in contexts:
            same = [s for s in samples if str(s.get("context") or "Sample.Periodic") == context]
            found.append(Reading(at=placed, register_wh=_register(same), unordered=placed < at))
    return found


def _list(value: Any) -> list[Any]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _register(samples: Iterable[Mapping[str, Any]]) -> int | None:
    """The unphased sample at the outlet, else the sum of its phases, else the same at cable or body."""
    registers = [
        s
        for s in samples
        if (s.get("measurand") or REGISTER) == REGISTER and s.get("format") != "SignedData" and s.get("value")
    ]
    for places in PLACES:
        here = [s for s in registers if str(s.get("location") or "Outlet").casefold() in places]
        whole = [n for s in here if not s.get("phase") and (n := _number(s)) is not None]
        if whole:
            return _whole(whole[0])
        phases: dict[int, Decimal | None] = {}
        for sample in here:
            phase = PHASES.get(str(sample.get("phase") or "").casefold())
            if phase is not None:
                phases.setdefault(phase, _number(sample))
        numbers = [n for n in phases.values() if n is not None]
        if numbers and len(numbers) == len(phases):
            return _whole(sum(numbers, Decimal(0)))
    return None


def _number(sample: Mapping[str, Any]) -> Decimal | None:
    scale = UNITS.get(str(sample.get("unit") or "Wh").casefold())
    try:
        number = Decimal(str(sample.get("value")).strip())
    except InvalidOperation:
        return None
    return None if scale is None or not number.is_finite() or abs(number.adjusted()) > 30 else number * scale


def _whole(value: Decimal) -> int | None:
    return None if abs(value) > LIMIT_WH else int(value.to_integral_value(ROUND_FLOOR))


def register_of(value: Any) -> int | None:
    """meterStart or meterStop; -1 is how some stations say that they do not know. Units: Wh."""
    try:
        register = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if register == -1 or abs(register) > LIMIT_WH else register


def moment(text: Any, received_at: datetime | None) -> datetime:
    """A station's time where it can be true, else the time of receipt."""
    fallback = received_at or EARLIEST
    try:
        at = datetime.fromisoformat(str(text).strip().upper())
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):
        return fallback
    if received_at is not None and not EARLIEST <= at <= received_at + timedelta(days=1):
        return fallback
    return at


def placed_at(at: datetime, received_at: datetime | None) -> datetime:
    """Where a register is placed in time: never far ahead of its receipt."""
    return at if received_at is None else min(at, received_at + AHEAD)


@dataclass(slots=True, kw_only=True)
class Meter:
    """One transaction's register as it is heard, message by message. Units: Wh."""

    start_wh: int | None = None
    last_wh: int | None = None
    last_at: datetime | None = None
    energy_wh: int = 0

    def hear(self, readings: Iterable[Reading]) -> None:
        """Readings of one message, by time."""
        for reading in sorted(readings, key=lambda r: r.at):
            older = reading.unordered and self.last_wh is not None and (reading.register_wh or 0) < self.last_wh
            if reading.register_wh is not None and not older:
                self._step(reading.register_wh, reading.at)

    def begin(self, register_wh: int | None, at: datetime) -> None:
        """The register at the start; where none was given the first reading is it."""
        if register_wh is not None:
            self.start_wh = self.last_wh = register_wh
            self.last_at = at

    def finish(self, register_wh: int | None, at: datetime) -> None:
        """The register at the end, which decides."""
        if register_wh is None:
            return
        if self.last_wh is None or self.last_at is None:
            self.start_wh = self.last_wh = register_wh
        elif register_wh >= self.last_wh:
            self._step(register_wh, max(at, self.last_at))
        elif self.start_wh is not None and register_wh >= self.start_wh:
            self.energy_wh = max(0, self.energy_wh - (self.last_wh - register_wh))

    def _step(self, register_wh: int, at: datetime) -> None:
        if self.last_wh is None or self.last_at is None:
            self.start_wh, self.last_wh, self.last_at = register_wh, register_wh, at
            return
        if at < self.last_at:
            return
        step = register_wh - self.last_wh
        hours = (at - self.last_at).total_seconds() / 3600
        if step > 0 and not (step > FAR_WH and step > MEGAWATT_W * hours):
            self.energy_wh += step
        self.last_wh, self.last_at = register_wh, at
