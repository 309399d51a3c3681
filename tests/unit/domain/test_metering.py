"""What one step of a register is worth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domain.make import time
from voltledger.domain.billing.metering import PLAUSIBLE_JUMP_WH, PLAUSIBLE_POWER_W, StepKind, judge_step
from voltledger.domain.quantities import Wh


@pytest.mark.parametrize(
    ("what", "before", "after", "minutes", "kind", "energy"),
    [
        ("an ordinary step", 1_000, 1_250, 1, StepKind.ENERGY, 250),
        ("no step", 1_000, 1_000, 1, StepKind.SAME, 0),
        ("two readings of one instant", 1_000, 1_250, 0, StepKind.ENERGY, 250),
        ("a fall", 1_000, 999, 1, StepKind.RESET, 0),
        ("an older reading", 1_000, 900, -1, StepKind.LATE, 0),
        ("an older and higher reading", 1_000, 1_100, -1, StepKind.LATE, 0),
        ("200 kWh at once: an offline session", 0, 200_000, 0, StepKind.ENERGY, 200_000),
        ("one Wh more at once", 0, 200_001, 0, StepKind.JUMP, 0),
        ("a placeholder and the lifetime register", 0, 909_948, 1, StepKind.JUMP, 0),
        ("a truck at a megawatt for an hour", 0, 1_000_000, 60, StepKind.ENERGY, 1_000_000),
        ("beyond a megawatt", 0, 1_000_001, 60, StepKind.JUMP, 0),
    ],
)
def test_a_step(what: str, before: int, after: int, minutes: float, kind: StepKind, energy: int) -> None:
    step = judge_step(before=Wh(before), before_at=time(0), after=Wh(after), after_at=time(minutes))
    assert (step.kind, step.energy_wh) == (kind, energy), what


@given(st.integers(-10, 10**10), st.integers(-10, 10**10), st.floats(-1_000, 100_000))
def test_energy_is_never_negative_nor_more_than_the_register_moved(before: int, after: int, minutes: float) -> None:
    step = judge_step(before=Wh(before), before_at=time(0), after=Wh(after), after_at=time(minutes))
    assert step.energy_wh in (0, after - before)
    assert step.energy_wh >= 0
    assert step.energy_wh <= max(PLAUSIBLE_JUMP_WH, PLAUSIBLE_POWER_W * max(0.0, minutes) / 60)
