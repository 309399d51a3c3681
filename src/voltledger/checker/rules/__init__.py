"""The rules G1 to G12, each a function from a world to its differences.

facts    G1 nothing answered is missing, G2 one session each, G4 one answer each, G10 nothing given up because of us
energy   G3 every Wh, G9 no open session that is over
money    G5 the books balance, G6 one net charge at the right price
effects  G7 outside effects once, G8 nothing stuck
places   G11 Redis agrees, G12 nobody holds what is another's
"""

from collections.abc import Callable, Mapping

from voltledger.checker.difference import Difference
from voltledger.checker.rules.effects import nothing_is_stuck, outside_effects_happen_once
from voltledger.checker.rules.energy import every_wh_is_booked, no_session_is_open_that_is_over
from voltledger.checker.rules.facts import (
    answered_facts_are_recorded,
    every_answer_is_the_same,
    nothing_was_given_up,
    one_session_each,
)
from voltledger.checker.rules.money import one_net_charge_each, the_books_balance
from voltledger.checker.rules.places import nobody_holds_what_is_anothers, redis_agrees
from voltledger.checker.world import World

Rule = Callable[[World], list[Difference]]

RULES: Mapping[str, Rule] = {
    "G1": answered_facts_are_recorded,
    "G2": one_session_each,
    "G3": every_wh_is_booked,
    "G4": every_answer_is_the_same,
    "G5": the_books_balance,
    "G6": one_net_charge_each,
    "G7": outside_effects_happen_once,
    "G8": nothing_is_stuck,
    "G9": no_session_is_open_that_is_over,
    "G10": nothing_was_given_up,
    "G11": redis_agrees,
    "G12": nobody_holds_what_is_anothers,
}
