"""Everything that can be chosen about one simulated station.

What concerns the car passes in simulated time (a session, a sample interval, an outage); what concerns the
server passes in real time (timeouts, retries, heartbeats), because the server lives there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from voltledger.simulator.behaviour import Behaviours

Range = tuple[float, float]


class ClockFault(StrEnum):
    """What is wrong with a station's clock."""

    NONE = "none"
    EPOCH = "epoch"  # never synchronised: counts from 1 January 1970 at each power-up
    OFFSET = "offset"  # wrong by a fixed number of seconds, for example local time labelled UTC


class MessageIds(StrEnum):
    """How a station names its messages."""

    RANDOM = "random"  # a random UUID from the seed
    COUNTER = "counter"  # 1, 2, 3 ..., beginning again at each power-up


@dataclass(frozen=True, slots=True, kw_only=True)
class StationSettings:
    """One station.

    Shapes: registers_wh 0..n, one per connector from the first; missing ones are drawn from the seed.
    Units:  names end in `_s` for seconds: those with a range are simulated, those for the server are real.
    """

    station: str = "SIM-0001"
    seed: int = 0
    connectors: int = 1
    tokens: tuple[str, ...] = ("SIMTOKEN01",)
    autonomous: bool = True  # False: charges after a RemoteStartTransaction only
    sessions: int | None = None  # how many sessions it begins by itself; None: no end
    behaviours: Behaviours = field(default_factory=Behaviours)
    time_scale: float = 1.0  # simulated seconds per real second

    idle_s: Range = (60.0, 600.0)
    prepare_s: Range = (5.0, 20.0)
    session_s: Range = (1200.0, 3600.0)
    finish_s: Range = (5.0, 30.0)
    outage_s: Range = (30.0, 300.0)
    late_stop_s: float = 300.0
    sample_interval_s: float = 60.0  # simulated; also ChangeConfiguration MeterValueSampleInterval
    outlet_power_w: float | None = None
    registers_wh: tuple[int, ...] = ()

    call_timeout_s: float = 30.0
    message_attempts: int = 3
    retry_interval_s: float = 60.0
    lost_answer_wait_s: float = 1.0  # how soon a deliberately lost answer counts as a timeout
    boot_retry_s: float = 10.0
    retry_same_id: bool = False
    message_ids: MessageIds = MessageIds.RANDOM
    boot_on_reconnect: bool = False
    authorize: bool = True  # send Authorize before a locally started session
    unknown_transaction_id: int = -1  # of a Stop whose Start was never answered; some say 0

    clock_fault: ClockFault = ClockFault.NONE
    clock_offset_s: float = 0.0

    vendor: str = "VoltSim"
    model: str = "Honest-1"
    firmware: str = "1.0.0"
    configuration: Mapping[str, str] = field(default_factory=dict)  # further keys, writable

    def __post_init__(self) -> None:
        if self.connectors < 1:
            raise ValueError("a station has at least one connector")
        if not self.tokens:
            raise ValueError("a station needs at least one token")
        if self.time_scale <= 0:
            raise ValueError("time_scale must be above 0")
        if self.message_attempts < 1:
            raise ValueError("message_attempts must be at least 1")
