"""What came out: every difference, and the figures that say how much was looked at."""

import msgspec

from voltledger.checker.difference import Difference


class Money(msgspec.Struct, kw_only=True):
    """One currency's money in settled sessions and in the books. Units: minor units."""

    topped_up: int = 0
    wallets: int = 0
    held: int = 0
    cost: int = 0
    refund: int = 0
    owed: int = 0
    fee: int = 0
    share: int = 0


class Figures(msgspec.Struct, kw_only=True):
    """How much was looked at. Units: Wh; counts.

    `wh_lost_by_stations` is energy that a station itself never told and never will; `wh_with_stations` what it will
    tell later; `wh_in_quarantine` what it told in a way that needs a person, who has a finding about it;
    `wh_among_strays` what it told of a transaction that it never began.
    """

    sessions: int = 0
    true_sessions: int = 0
    facts: int = 0
    facts_answered: int = 0
    facts_with_stations: int = 0
    facts_lost_by_stations: int = 0
    facts_discarded: int = 0
    facts_not_provable: int = 0
    wh: int = 0
    true_wh: int = 0
    wh_lost_by_stations: int = 0
    wh_with_stations: int = 0
    wh_in_quarantine: int = 0
    wh_among_strays: int = 0
    entries: int = 0
    outside_effects: int = 0
    sessions_rebuilt: int = 0
    not_provable: dict[str, int] = {}
    money: dict[str, Money] = {}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The differences, none if all is well, and the figures. Units: seconds."""

    differences: tuple[Difference, ...]
    figures: Figures
    took_s: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether nothing differs."""
        return not self.differences
