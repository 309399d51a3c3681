"""Letting stations back in after an outage, as fast as their facts can be recorded and no faster."""

from collections.abc import Callable

LEAST_A_SECOND = 25.0
"""Handshakes that are always let in; a small site comes back at once."""
FACTS_EACH = 4.0
"""A station that comes back brings about so many facts within its first second: boot, statuses, a queue."""
LASTS_S = 120.0


class Readmission:
    """A token bucket for handshakes, in force for a while after stations were sent away.

    `facts_a_second` is how fast facts were recorded lately, as measured.
    """

    def __init__(self, clock: Callable[[], float], facts_a_second: Callable[[], float]) -> None:
        self._clock = clock
        self._facts_a_second = facts_a_second
        self._until = 0.0
        self._tokens = 0.0
        self._at = 0.0

    def begin(self) -> None:
        """Stations that were sent away may come back from now on."""
        self._at = self._clock()
        self._until = self._at + LASTS_S
        self._tokens = LEAST_A_SECOND

    def admits(self) -> bool:
        """Whether one more handshake is taken now."""
        now = self._clock()
        if now >= self._until:
            return True
        rate = max(LEAST_A_SECOND, self._facts_a_second() / FACTS_EACH)
        self._tokens = min(rate, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
