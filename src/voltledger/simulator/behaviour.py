"""How a session goes wrong, and how often. Drawn once per session, from the seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Self


class Behaviour(StrEnum):
    """What a station does with one session."""

    NORMAL = "normal"
    LOST_RESPONSE = "lost_response"  # the answer of one transaction message is ignored, so it is repeated
    LOST_STOP = "lost_stop"  # the StopTransaction is forgotten and Available reported: a ghost at the server
    RECONNECT = "reconnect"  # the socket is cut in mid-charge without a close frame
    AVAILABLE_WITHOUT_STOP = "available_without_stop"  # Available at once, the StopTransaction much later
    ORPHAN = "orphan"  # no StartTransaction; MeterValues with an id never given, or just status Charging
    DUPLICATE_START = "duplicate_start"  # the same StartTransaction twice, under two ids
    STOP_THEN_HANG_UP = "stop_then_hang_up"  # StopTransaction, then closes without waiting
    FROZEN = "frozen"  # does not obey RemoteStopTransaction
    DOUBLE_SOCKET = "double_socket"  # a second connection under the same identity beside the first
    POWER_LOSS = "power_loss"  # dark in mid-charge; the queue survives
    AMNESIA = "amnesia"  # dark in mid-charge; queue and sessions are gone


@dataclass(frozen=True, slots=True)
class Behaviours:
    """How often each behaviour is drawn; what is left is normal.

    Raises: ValueError for an unknown name, a negative share, or shares above 1 in total.
    """

    shares: Mapping[Behaviour, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(share < 0 for share in self.shares.values()):
            raise ValueError("a behaviour's share cannot be negative")
        if sum(self.shares.values()) > 1.000001:
            raise ValueError("the shares of all behaviours add up to more than 1")

    @classmethod
    def of(cls, shares: Mapping[str, float]) -> Self:
        """From names as a command line gives them; `-` and `_` are the same."""
        known = {behaviour.value for behaviour in Behaviour}
        plain = {name.replace("-", "_").lower(): share for name, share in shares.items()}
        if unknown := sorted(plain.keys() - known):
            raise ValueError(f"unknown behaviour {unknown[0]!r}; one of {', '.join(sorted(known))}")
        return cls({Behaviour(name): share for name, share in plain.items()})

    @classmethod
    def every(cls, share: float) -> Self:
        """Each misbehaviour with the same share."""
        return cls({behaviour: share for behaviour in Behaviour if behaviour is not Behaviour.NORMAL})

    def draw(self, rng: Random) -> Behaviour:
        """One behaviour. Takes exactly one number from the generator."""
        at = rng.random()
        for behaviour, share in sorted(self.shares.items()):
            if behaviour is Behaviour.NORMAL:
                continue
            if at < share:
                return behaviour
            at -= share
        return Behaviour.NORMAL
