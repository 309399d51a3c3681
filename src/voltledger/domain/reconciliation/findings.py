"""A reason to doubt data, or something that was repaired: what, where, on which evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from voltledger.domain.identifiers import SessionId


class FindingKind(StrEnum):
    """The classes of findings; lower case, as metrics and the API show them."""

    ORPHANED = "orphaned"  # the station charges and there was no session
    GHOST = "ghost"  # our session was active and the connector was free
    WILL_NOT_STOP = "will_not_stop"  # asked to stop again and again, and goes on
    SUPERSEDED = "superseded"  # a new transaction began on a connector with an open session
    UNMATCHED_STOP = "unmatched_stop"  # an end of a transaction that we cannot attribute
    CONFLICTING_STOP = "conflicting_stop"  # a second end with other content; the first stands
    CORRECTED = "corrected"  # the true end of a session that we had closed
    REACTIVATED = "reactivated"  # a session that we had closed went on
    REGISTER_FELL = "register_fell"  # a meter register went backwards
    IMPLAUSIBLE_ENERGY = "implausible_energy"  # a register step beyond physics
    UNKNOWN_ENERGY = "unknown_energy"  # an end without a usable register: estimated, or money held
    UNREADABLE = "unreadable"  # a fact kept raw because it could not be read
    POISON = "poison"  # a fact that made our own code fail; kept raw
    UNKNOWN_TOKEN = "unknown_token"  # energy flows for a token that nobody registered
    NOT_STARTED = "not_started"  # a paid start that the station refused or never began
    MANUAL_CHANGE = "manual_change"  # a row was changed by hand with SQL


class FindingState(StrEnum):
    """What became of it."""

    OPEN = "open"
    REPAIRED = "repaired"
    NOTED = "noted"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding; `key` names it, so that finding it twice records it once.

    `summary` is a sentence for a person that says what happened and what was or can be done.
    """

    kind: FindingKind
    key: str
    summary: str
    station_id: str
    evse_id: int | None = None
    session_id: SessionId | None = None
    state: FindingState = FindingState.NOTED
    evidence: Mapping[str, str] = field(default_factory=dict)
