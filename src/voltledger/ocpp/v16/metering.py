"""Sampled values of 1.6 as readings.

Rules: what is absent is None, never zero. One sample that cannot be read is left out and the rest
kept. Numbers stay exact. Signed data is kept as text and not computed with.

The import register of an instant is, in this order: the unphased sample at the outlet, the sum of
the phases at the outlet, the same at the cable or body. What the inlet (the station's whole supply)
or the vehicle counted is never the driver's energy.

Source: OCPP 1.6 §4.7, §7.31; quirks 59-67.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal
from typing import Final

from voltledger.domain.events import Instant, Reading
from voltledger.domain.quantities import Wh, whole_wh
from voltledger.ocpp.clock import instant
from voltledger.ocpp.text import stored
from voltledger.ocpp.tolerant import NUMBER
from voltledger.ocpp.v16.types import (
    MeterValue,
    SampledValue,
    SampledValueContext,
    SampledValueFormat,
    SampledValueLocation,
    SampledValueMeasurand,
    SampledValueUnit,
    TransactionData,
)

_PERIODIC: Final = SampledValueContext.SAMPLE_PERIODIC
_REGISTER: Final = SampledValueMeasurand.ENERGY_ACTIVE_IMPORT_REGISTER
_POWER: Final = SampledValueMeasurand.POWER_ACTIVE_IMPORT
_CURRENT: Final = SampledValueMeasurand.CURRENT_IMPORT
_SOC: Final = SampledValueMeasurand.SO_C
_OUTLET: Final = SampledValueLocation.OUTLET
_SIGNED: Final = SampledValueFormat.SIGNED_DATA
_EXACT: Final = Context(prec=80)
"""No sum or change of unit rounds."""

_Scales = Mapping[SampledValueUnit | None, int]
"""Powers of ten that make Wh, W or A of a unit; one that is not in it cannot be computed with."""

_ENERGY_SCALES: Final[_Scales] = {None: 0, SampledValueUnit.WH: 0, SampledValueUnit.K_WH: 3}
_POWER_SCALES: Final[_Scales] = {None: 0, SampledValueUnit.W: 0, SampledValueUnit.K_W: 3}
_CURRENT_SCALES: Final[_Scales] = {None: 0, SampledValueUnit.A: 0}

_REGISTER_LIMIT: Final = 10**15
"""Wh beyond which a register is no register: a petawatt-hour, and well inside 64 bits."""

_PLAIN: Final = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,24})?")
_DIGITS_LIMIT: Final = 30
"""Places before or after the point beyond which a number measures nothing."""

_RANKS: Final = {
    None: 0,
    SampledValueLocation.OUTLET: 0,
    SampledValueLocation.CABLE: 1,
    SampledValueLocation.BODY: 1,
}
_PHASES: Final = {"L1": 1, "L2": 2, "L3": 3, "L1-N": 1, "L2-N": 2, "L3-N": 3}


def readings(values: Sequence[MeterValue | TransactionData], received_at: datetime) -> tuple[Reading, ...]:
    """One reading per meter value, or one per context where a meter value mixes contexts.

    Shapes: values 0..n, any order; readings keep it.
    """
    found: list[Reading] = []
    for value in values:
        samples = value.sampled_value or ()
        if not samples:
            continue
        at = instant(value.timestamp, received_at)
        context = samples[0].context
        for sample in samples:
            if sample.context != context:
                found.extend(_mixed(at, samples))
                break
        else:
            found.append(_reading(at, context, samples))
    return tuple(found)


def _mixed(at: Instant, samples: Sequence[SampledValue]) -> list[Reading]:
    """One reading per context, in the order in which the contexts appear."""
    by_context: dict[SampledValueContext | None, list[SampledValue]] = {}
    for sample in samples:
        by_context.setdefault(sample.context, []).append(sample)
    return [_reading(at, context, some) for context, some in by_context.items()]


def _reading(at: Instant, context: SampledValueContext | None, samples: Sequence[SampledValue]) -> Reading:
    """Samples of one instant and one context."""
    registers: list[SampledValue] = []
    powers: list[SampledValue] = []
    currents: list[SampledValue] = []
    soc: Decimal | None = None
    others: dict[str, str] = {}
    for sample in samples:
        if not sample.value:
            continue
        measurand = sample.measurand
        if sample.format is _SIGNED:
            others[f"{_name(sample)}.SignedData"] = stored(sample.value)
            continue
        if measurand is None or measurand is _REGISTER:
            registers.append(sample)
        elif measurand is _POWER:
            powers.append(sample)
        elif measurand is _CURRENT:
            currents.append(sample)
        elif measurand is _SOC:
            soc = decimal_of(sample.value)
            continue
        else:
            others[_name(sample)] = stored(sample.value)
            continue
        if sample.phase is not None or (sample.location is not None and sample.location is not _OUTLET):
            others[_name(sample)] = stored(sample.value)
    return Reading(
        at=at,
        context="Sample.Periodic" if context is None or context is _PERIODIC else stored(str(context), 64),
        register_wh=_register_wh(registers) if registers else None,
        power_w=_one_or_sum(powers, _POWER_SCALES) if powers else None,
        current_a=_one_or_highest(currents) if currents else None,
        soc_percent=soc,
        others=others,
    )


def _name(sample: SampledValue) -> str:
    """What a sample is called among the others: its measurand with phase and unusual location."""
    name: str = sample.measurand or _REGISTER
    if sample.phase is not None:
        name = f"{name}.{sample.phase}"
    if sample.location is not None and sample.location is not _OUTLET:
        name = f"{name}@{sample.location}"
    return stored(str(name), 128)


def _register_wh(samples: Sequence[SampledValue]) -> Wh | None:
    """The import register in whole Wh, which is what most stations send: they take no detour."""
    first = samples[0]
    text = first.value
    if first.phase is None and text.isdecimal() and len(text) < 16:
        scale = _ENERGY_SCALES.get(first.unit)
        if scale == 0 and not _RANKS.get(first.location, 1):
            return Wh(int(text))
    value = _one_or_sum(samples, _ENERGY_SCALES)
    return None if value is None or abs(value) > _REGISTER_LIMIT else whole_wh(value)


def _number(sample: SampledValue, scales: _Scales) -> Decimal | None:
    """A sample in Wh, W or A; None if its number or its unit cannot be used."""
    scale = scales.get(sample.unit)
    if scale is None:
        return None
    number = decimal_of(sample.value)
    return _EXACT.scaleb(number, scale) if scale and number is not None else number


def _plain_number(sample: SampledValue, scales: _Scales) -> Decimal | None:
    """The number of a sample that needs no choice: unphased and at the outlet."""
    if sample.phase is not None or _RANKS.get(sample.location, 1):
        return None
    return _number(sample, scales)


def _one_or_sum(samples: Sequence[SampledValue], scales: _Scales) -> Decimal | None:
    """The unphased sample, else the sum of the phases if each of them can be read."""
    if (number := _plain_number(samples[0], scales)) is not None:
        return number
    for rank in (0, 1):
        here = [sample for sample in samples if _RANKS.get(sample.location) == rank]
        for sample in here:
            if sample.phase is None and (number := _number(sample, scales)) is not None:
                return number
        phases = _by_phase(here, scales)
        if phases and None not in phases:
            total = Decimal(0)
            for number in phases:
                total = _EXACT.add(total, number or Decimal(0))
            return total
    return None


def _one_or_highest(samples: Sequence[SampledValue]) -> Decimal | None:
    """The unphased current, else the highest of the phases: currents of phases do not add up."""
    if (number := _plain_number(samples[0], _CURRENT_SCALES)) is not None:
        return number
    for rank in (0, 1):
        here = [sample for sample in samples if _RANKS.get(sample.location) == rank]
        for sample in here:
            if sample.phase is None and (number := _number(sample, _CURRENT_SCALES)) is not None:
                return number
        known = [number for number in _by_phase(here, _CURRENT_SCALES) if number is not None]
        if known:
            return max(known)
    return None


def _by_phase(samples: Sequence[SampledValue], scales: _Scales) -> list[Decimal | None]:
    """One number for each phase that is named; to neutral or not is the same phase."""
    found: dict[int, Decimal | None] = {}
    for sample in samples:
        phase = _PHASES.get(sample.phase or "")
        if phase is not None:
            found.setdefault(phase, _number(sample, scales))
    return list(found.values())


def register(value: int | None) -> Wh | None:
    """meterStart and meterStop in Wh; -1 is how some stations say that they do not know (quirk 55)."""
    if value is None or value == -1 or abs(value) > _REGISTER_LIMIT:
        return None
    return Wh(value)


def decimal_of(text: str) -> Decimal | None:
    """A sample's number exactly as written; None if it is none (empty, `null`, a decimal comma)."""
    if _PLAIN.fullmatch(text):
        return Decimal(text)
    text = text.strip()
    if not NUMBER.fullmatch(text):
        return None
    number = Decimal(text)
    return number if abs(number.adjusted()) <= _DIGITS_LIMIT else None
