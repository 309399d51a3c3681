"""What a station wants done: the shell does it, in this order, and decides nothing."""

from dataclasses import dataclass

from voltledger.simulator.journal import JournalLine
from voltledger.simulator.wire import Frame


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this frame on the current socket."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Note:
    """Write this line to the journal, before the next effect."""

    line: JournalLine


@dataclass(frozen=True, slots=True)
class Cut:
    """Abort the TCP connection without a close frame."""

    why: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the socket politely, without waiting for any answer."""


@dataclass(frozen=True, slots=True)
class SecondSocket:
    """Open another connection under the same identity, and move to it or go on with the first."""

    take_over: bool


Effect = Transmit | Note | Cut | HangUp | SecondSocket
