"""How behaviours are chosen."""

from collections import Counter
from random import Random

import pytest

from voltledger.simulator import Behaviour, Behaviours


def test_shares_are_kept() -> None:
    behaviours = Behaviours.of({"lost-stop": 0.25, "frozen": 0.25})
    rng = Random(1)
    drawn = Counter(behaviours.draw(rng) for _ in range(4000))
    assert set(drawn) == {Behaviour.NORMAL, Behaviour.LOST_STOP, Behaviour.FROZEN}
    assert all(abs(drawn[one] - 1000) < 150 for one in (Behaviour.LOST_STOP, Behaviour.FROZEN))


@pytest.mark.parametrize(
    ("shares", "complaint"),
    [
        ({"dance": 0.1}, "unknown behaviour 'dance'"),
        ({"frozen": -0.1}, "negative"),
        ({"frozen": 0.6, "orphan": 0.6}, "more than 1"),
    ],
)
def test_nonsense_is_refused_with_a_reason(shares: dict[str, float], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Behaviours.of(shares)
