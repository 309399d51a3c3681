"""Energy from registers: whole Wh, reset-aware, never negative, never invented."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from voltledger.domain.quantities import Wh

PLAUSIBLE_POWER_W = 1_000_000
"""No connector in the field delivers more than a megawatt; a step beyond this and
`PLAUSIBLE_JUMP_WH` together is a placeholder or a swapped meter, not energy."""

PLAUSIBLE_JUMP_WH = 200_000
"""A step of up to 200 kWh is believed whatever the clocks say: a whole offline session may arrive
as one step, and station clocks jump."""


class StepKind(StrEnum):
    """What one register step turned out to be."""

    ENERGY = "energy"
    SAME = "same"
    RESET = "reset"  # the register fell: a meter was reset or swapped; that step is not energy
    JUMP = "jump"  # beyond physics: a placeholder start or a unit mix-up; not energy
    LATE = "late"  # older than what we have; kept, and already contained in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One register step, judged. `energy_wh` is 0 unless kind is ENERGY."""

    kind: StepKind
    energy_wh: Wh


def judge_step(*, before: Wh, before_at: datetime, after: Wh, after_at: datetime) -> Step:
    """What the step from one register reading to the next is worth.

    Units: registers in whole Wh of one meter; times aware UTC.
    Source: OCPP 1.6 §7.31 Energy.Active.Import.Register.
    """
    if after_at < before_at:
        return Step(kind=StepKind.LATE, energy_wh=Wh(0))
    difference = after - before
    if difference < 0:
        return Step(kind=StepKind.RESET, energy_wh=Wh(0))
    if difference == 0:
        return Step(kind=StepKind.SAME, energy_wh=Wh(0))
    if difference > PLAUSIBLE_JUMP_WH:
        hours = (after_at - before_at).total_seconds() / 3600
        if difference > PLAUSIBLE_POWER_W * hours:
            return Step(kind=StepKind.JUMP, energy_wh=Wh(0))
    return Step(kind=StepKind.ENERGY, energy_wh=Wh(difference))
