"""What a simulated station did in truth: its visits, its messages, and the answers that it got."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class Visit:
    """One true transaction. Times in virtual seconds, registers in Wh."""

    station: str
    connector: int
    token: str
    start_wh: int
    began: float
    stop_wh: int | None = None
    ended: float | None = None
    measured_wh: int = 0  # the highest register that was ever told
    transaction_id: int | None = None
    ids: set[int] = field(default_factory=set)  # every id that an answer gave it
    facts: "list[Fact]" = field(default_factory=list)
    forgotten: bool = False  # the station itself lost a message of it
    remote: bool = False  # begun by a command

    @property
    def name(self) -> str:
        """For messages to a person."""
        return f"{self.station}/{self.connector} at {self.began:.0f} s"


@dataclass(slots=True, eq=False)
class Fact:
    """One transaction message, from the moment it became true."""

    visit: Visit
    action: str
    body: dict[str, Any]
    number: int
    attempts: int = 0
    not_before: float = 0.0
    message_id: str | None = None
    state: str = "waiting"  # waiting, answered, discarded, forgotten
    ignore: int = 0  # answers that the station does not see
    hang_up: str = ""  # "", "keep" or "forget": the station hangs up after sending it
    skip_id: bool = False  # sent without the transaction's id, although the station may learn it yet
    exchanges: list[tuple[str, str]] = field(default_factory=list)  # payload sent, answer got
    sent: list[str] = field(default_factory=list)
    replay: "str | None" = None  # a payload that was answered before, sent once more


@dataclass(slots=True, kw_only=True)
class Traits:
    """What a station is like."""

    attempts: int = 3
    interval_s: float = 20.0
    timeout_s: float = 30.0
    ids: str = "random"  # random, counter (per connection)
    same_id: bool = False  # a retry keeps its message id
    pipeline: int = 1
    clock: str = "right"  # right, epoch, ahead, back, dst
    keeps_queue: bool = True  # through a power loss
    start_once: bool = False  # gives a start up after its first failure, and says -1 from then on
    unknown_id: int | None = -1  # what it says of a transaction that has no id; None: nothing
    offset_text: bool = False  # writes times with an offset
    transaction_data: bool = False
    boot_on_reconnect: bool = False
    late_ends: bool = False  # some ends are said long after what followed them
    moving_start: bool = False  # a repeated start has the time of the repeat
