"""The table of crash points: where this system is made to fail, how it gets there, and what must hold afterwards.

The numbers are those of the design (56 points). Each point has one or more spots: a failpoint in the program, a moment
on a line that the proxy recognises, or something that a station does. Every action applies at every spot unless a
reason is declared here; an action that applies and never fires fails the run. What does not exist yet says so, with
the issue that brings it.

After every cell, whatever happened, the books must agree with what the stations know (see `verdict`); `holds` says
what is special at a point.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from tools.laboratory.proxy import Where
from voltledger.failpoints import RAISED

ACTIONS = ("kill", "term", "stop", "cancel", "terminate", "postmaster", "link", "raise")
"""A1 to A8: SIGKILL, SIGTERM, SIGSTOP with SIGCONT later, cancellation at that await, the session ended by PostgreSQL,
SIGKILL to PostgreSQL, the line to PostgreSQL (or, where a point is on it, to the station or to Redis) broken, an
exception."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OnLine:
    """A moment on a line: of a COMMIT to PostgreSQL (`line` "postgres"), or of bytes (`wire`, `redis`)."""

    line: str
    sees: bytes
    where: Where
    nth: int = 1
    from_server: bool = False
    frozen: bool = False  # the session that works on it is stopped, so that it gets the COMMIT and does nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """One way to reach a point.

    `at` is a failpoint's name, a moment on a line, or the name of something that the station does. `nth` are the hits
    that a seed may draw. With `by_hand` the point waits, and the laboratory does `first` and then the action.
    """

    at: str | OnLine
    scenario: str = "visit"
    nth: tuple[int, ...] = (1,)
    also: str = ""
    by_hand: bool = False
    first: str = ""
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """A short name, unique within a point together with the scenario."""
        if isinstance(self.at, str):
            return self.at
        words = "_".join(self.at.sees.decode().strip('"').lower().split())
        return f"{self.at.line}-{words}-{self.at.where}"

    @property
    def is_failpoint(self) -> bool:
        """Whether the program has a line for it."""
        return isinstance(self.at, str) and "." in self.at

    @property
    def raises(self) -> tuple[str, ...]:
        """The exceptions that can arise here; a seed takes one after the other."""
        return RAISED[:2] if self.name.startswith(OUTSIDE_UNITS) else RAISED

    def reason(self, action: str) -> str | None:
        """Why an action does not apply here; None if it does."""
        if action in self.reasons:
            return self.reasons[action]
        if action in ("cancel", "raise") and (not self.is_failpoint or self.by_hand):
            return "no code of ours runs at this moment"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One numbered point."""

    number: int
    what: str
    holds: str
    spots: tuple[Spot, ...] = ()
    not_built: str = ""


def _fp(at: str, scenario: str = "visit", *nth: int, **more: object) -> Spot:
    return Spot(at=at, scenario=scenario, nth=nth or (1,), **more)  # type: ignore[arg-type]


def _issue(number: int) -> str:
    return f"not built yet: issue {number}"


LANE = "a lane of the intake is cancelled by nobody but the drain, which `term` tries"
CONNECTION = "the lane of a connection is cancelled by nobody: it outlives its socket on purpose"
LASTING = "background work is cancelled by nobody but the drain, which `term` tries"
STANDS = "nothing is awaited there: no cancellation can arrive"
START_UP = "the start is cancelled by nobody"
in_lane = {"cancel": LANE}
in_connection = {"cancel": CONNECTION}
in_background = {"cancel": LASTING}
FACTS = (1, 2, 3, 4)
"""The facts of a visit: start, two meter values, stop."""

OUTSIDE_UNITS = (
    *("handshake.", "socket.", "owner.", "frame.", "fact.", "answer.", "cache.", "command."),
    *("t1.before_begin", "t1.committed", "t1.answered", "t2.committed", "prepaid.committed", "ghost.committed"),
    *("outbox.marked",),
)
"""Failpoints that stand in no unit of work: errors of PostgreSQL cannot arise there."""

POINTS: tuple[Point, ...] = (
    # --- receive ---------------------------------------------------------------------------------------------
    Point(
        number=1,
        what="TCP accepted, upgrade not read",
        holds="nothing is remembered; the slot is freed",
        spots=(Spot(at="half-connect"),),
    ),
    Point(
        number=2,
        what="credentials checked, 101 not sent",
        holds="the station tries again and is let in",
        spots=(_fp("handshake.checked"),),
    ),
    Point(
        number=3,
        what="101 sent, owner epoch not committed",
        holds="no command may target it; the next connection works",
        spots=(_fp("socket.opened"),),
    ),
    Point(
        number=4,
        what="epoch committed, nothing read",
        holds="the takeover of the older socket is complete or can be repeated",
        spots=(_fp("owner.claimed"), _fp("owner.claimed", "takeover", 2)),
    ),
    Point(
        number=5,
        what="half a frame received",
        holds="it is thrown away; the station says it again",
        spots=(Spot(at="half-frame"),),
    ),
    Point(
        number=6,
        what="full frame received, not parsed",
        holds="it is not answered, so it is still in the station's queue",
        spots=(_fp("frame.received", "visit", 2, 3, 4, 5),),
    ),
    Point(
        number=7,
        what="parsed and checked, before BEGIN",
        holds="the same",
        spots=(
            _fp("fact.parsed", "visit", *FACTS, reasons=in_connection),
            _fp("t1.before_begin", "visit", 2, 3, 5, reasons=in_lane),
        ),
    ),
    # --- persist (T1) ----------------------------------------------------------------------------------------
    Point(
        number=8,
        what="BEGIN done, rows locked",
        holds="the lock is gone",
        spots=(_fp("t1.locked", "visit", *FACTS, reasons=in_lane),),
    ),
    Point(
        number=9,
        what="inbox row inserted",
        holds="rolled back",
        spots=(_fp("t1.after_inbox", "visit", *FACTS, reasons=in_lane),),
    ),
    Point(
        number=10,
        what="transaction id drawn from the sequence",
        holds="a gap in the ids, no more",
        spots=(_fp("t1.ref_drawn", reasons=in_lane),),
    ),
    Point(
        number=11,
        what="session row changed",
        holds="rolled back with the inbox",
        spots=(_fp("t1.after_sessions", "visit", 1, 2, reasons=in_lane),),
    ),
    Point(
        number=12,
        what="hold placed",
        holds="no hold without a session, no session without its hold",
        spots=(
            _fp("t1.after_hold", reasons=in_lane),
            _fp("t1.after_hold", "prepaid"),
            _fp("prepaid.before_commit", "prepaid"),
            _fp("prepaid.committed", "prepaid"),
        ),
    ),
    Point(
        number=13,
        what="meter samples inserted",
        holds="rolled back",
        spots=(_fp("t1.after_readings", "visit", 1, 2, reasons=in_lane),),
    ),
    Point(
        number=14,
        what="settle job inserted",
        holds="rolled back",
        spots=(_fp("t1.after_jobs", reasons=in_lane),),
    ),
    Point(
        number=15,
        what="COMMIT not yet sent",
        holds="rolled back; said again, it happens once",
        spots=(
            _fp("t1.before_commit", "visit", *FACTS, reasons=in_lane),
            Spot(at=OnLine(line="postgres", sees=b"INTO inbox", where=Where.BEFORE), nth=FACTS),
        ),
    ),
    Point(
        number=16,
        what="COMMIT sent, WAL not flushed",
        holds="absent or there, and never answered before it is there",
        spots=(Spot(at=OnLine(line="postgres", sees=b"INTO inbox", where=Where.BEFORE, frozen=True), nth=FACTS),),
    ),
    Point(
        number=17,
        what="WAL flushed, reply lost (ambiguous)",
        holds="said again, it meets its key and gets the stored answer",
        spots=(Spot(at=OnLine(line="postgres", sees=b"INTO inbox", where=Where.AFTER), nth=FACTS),),
    ),
    Point(
        number=18,
        what="COMMIT acknowledged, answer not queued",
        holds="as 17",
        spots=(_fp("t1.committed", "visit", *FACTS, reasons=in_lane),),
    ),
    # --- answer ----------------------------------------------------------------------------------------------
    Point(
        number=19,
        what="answer in memory only",
        holds="said again, it gets an identical answer",
        spots=(_fp("answer.before_send", "visit", 2, 3, 4, 5, reasons=in_connection),),
    ),
    Point(
        number=20,
        what="answer half on the wire",
        holds="the same",
        spots=(Spot(at=OnLine(line="wire", sees=b'"transactionId"', where=Where.HALF, from_server=True)),),
    ),
    Point(
        number=21,
        what="answer delivered, then a crash",
        holds="not said again; nothing else was needed from memory",
        spots=(_fp("answer.sent", "visit", 2, 3, 4, 5, reasons=in_connection),),
    ),
    Point(
        number=22,
        what="socket closed by the station during T1",
        holds="T1 is wholly in or wholly out, and its connection comes back clean",
        spots=(
            _fp("t1.after_inbox", "visit", *FACTS, by_hand=True, first="hang-up"),
            _fp("t1.before_commit", "visit", *FACTS, by_hand=True, first="hang-up"),
            _fp("t1.committed", "visit", *FACTS, by_hand=True, first="hang-up"),
        ),
    ),
    Point(
        number=23,
        what="T1 failed by our own mistake: kept raw (T1')",
        holds="the raw row is kept, the answer is valid, somebody is told",
        spots=(_fp("poison.before_commit", "visit", also="t1.locked:2:raise:ValueError", reasons=in_lane),),
    ),
    # --- what is in memory -----------------------------------------------------------------------------------
    Point(
        number=24,
        what="memory and cache updated, or not",
        holds="nothing of it was needed",
        spots=(
            _fp("t1.answered", "visit", *FACTS, reasons={"cancel": STANDS}),
            _fp("cache.noted", "visit", *FACTS, reasons={"cancel": STANDS}),
        ),
    ),
    Point(number=25, what="2.x: Ended stored, Started missing", holds="it waits", not_built=_issue(6)),
    Point(
        number=26,
        what="a 1.6 stop with -1 matched",
        holds="recorded with its reason; matched once",
        spots=(
            _fp("t1.after_sessions", "nameless", 2, reasons=in_lane),
            _fp("t1.committed", "nameless", 2, reasons=in_lane),
        ),
    ),
    # --- settle (T2) -----------------------------------------------------------------------------------------
    Point(
        number=27,
        what="job claimed, nothing done",
        holds="claimed again at once",
        spots=(_fp("t2.claimed", reasons=in_background),),
    ),
    Point(
        number=28,
        what="price computed",
        holds="computed again from the frozen terms, the same to the cent",
        spots=(_fp("t2.priced", reasons=in_background),),
    ),
    Point(
        number=29,
        what="settlement row inserted",
        holds="rolled back",
        spots=(_fp("t2.after_settlement", reasons=in_background),),
    ),
    Point(
        number=30,
        what="ledger entry inserted, its lines not",
        holds="rolled back",
        spots=(_fp("ledger.after_entries", "visit", 2, reasons=in_background),),
    ),
    Point(
        number=31,
        what="balances updated",
        holds="rolled back with the entry",
        spots=(_fp("ledger.after_balances", "visit", 2, reasons=in_background),),
    ),
    Point(
        number=32,
        what="hold captured and released",
        holds="in T2, so the same",
        spots=(
            _fp("t2.after_entries", "prepaid", reasons=in_background),
            _fp("t2.before_commit", "prepaid", reasons=in_background),
        ),
    ),
    Point(
        number=33,
        what="COMMIT of T2 ambiguous",
        holds="done again, it meets its key: done, no second entry",
        spots=(
            Spot(at=OnLine(line="postgres", sees=b"INTO settlement", where=Where.AFTER)),
            Spot(at=OnLine(line="postgres", sees=b"INTO settlement", where=Where.BEFORE)),
        ),
    ),
    Point(
        number=34,
        what="T2 committed, nothing told",
        holds="the job was marked in T2 itself",
        spots=(_fp("t2.committed", reasons=in_background),),
    ),
    Point(
        number=35,
        what="worker stopped until its session is taken from it; another finishes; it wakes",
        holds="one charge",
        spots=(
            Spot(
                at="t2.priced",
                scenario="visit",
                by_hand=True,
                first="rival",
                reasons={
                    action: "this point is about a worker that sleeps; 27 to 34 try the others"
                    for action in ACTIONS
                    if action not in ("stop", "kill")
                },
            ),
        ),
    ),
    # --- other flows of money --------------------------------------------------------------------------------
    Point(
        number=36,
        what="top-up: before its commit",
        holds="asked again with its key, credited once",
        spots=(_fp("ledger.after_balances", "topup"),),
    ),
    Point(
        number=37,
        what="top-up: committed, not answered",
        holds="asked again with its key: the same answer, no second credit",
        spots=(Spot(at=OnLine(line="postgres", sees=b"INTO ledger_entry", where=Where.AFTER), scenario="topup"),),
    ),
    Point(number=38, what="refund: requested, provider not called", holds="called later", not_built=_issue(8)),
    Point(number=39, what="refund: provider called, reply lost", holds="same key", not_built=_issue(8)),
    Point(number=40, what="refund: reply received, not committed", holds="same key", not_built=_issue(8)),
    Point(number=41, what="payout: batch closed, not sent", holds="same batch", not_built=_issue(8)),
    Point(number=42, what="payout: bank rejects after success", holds="owed again", not_built=_issue(8)),
    # --- Redis -----------------------------------------------------------------------------------------------
    Point(
        number=43,
        what="outbox row claimed",
        holds="sent at least once",
        spots=(_fp("outbox.claimed", reasons=in_background),),
    ),
    Point(
        number=44,
        what="XDEL sent, no reply",
        holds="repeating it is harmless",
        spots=(Spot(at=OnLine(line="redis", sees=b"XDEL", where=Where.AFTER)),),
    ),
    Point(
        number=45,
        what="Redis cleared, outbox not marked",
        holds="repeating it is harmless",
        spots=(_fp("outbox.delivered", reasons=in_background),),
    ),
    Point(
        number=46,
        what="outbox marked, Redis lost everything",
        holds="nothing of value lived only there",
        spots=(_fp("outbox.marked", "visit", by_hand=True, first="flush"),),
    ),
    # --- notify ----------------------------------------------------------------------------------------------
    Point(number=47, what="notice claimed, not sent", holds="sent later", not_built=_issue(9)),
    Point(number=48, what="notice sent, reply lost", holds="sent again, same id", not_built=_issue(9)),
    Point(number=49, what="reply got, not marked", holds="the same", not_built=_issue(9)),
    # --- commands --------------------------------------------------------------------------------------------
    Point(
        number=50,
        what="command recorded as being sent, not on the wire",
        holds="unknown after a restart, never sent again by itself",
        spots=(_fp("command.claimed", "prepaid", reasons=in_background),),
    ),
    Point(
        number=51,
        what="command on the wire",
        holds="the same",
        spots=(_fp("command.on_wire", "prepaid", reasons=in_background),),
    ),
    Point(
        number=52,
        what="answer to a command received, not committed",
        holds="unknown; what the station does tells the rest",
        spots=(
            _fp("command.answered", "prepaid", reasons=in_background),
            _fp("command.finished", "prepaid", reasons=in_background),
        ),
    ),
    Point(
        number=53,
        what="credential change: station accepted, not committed",
        holds="old and new are both let in until one is used",
        not_built=_issue(5),
    ),
    # --- reconcile and life cycle ----------------------------------------------------------------------------
    Point(
        number=54,
        what="ghost chosen or closed, then the true stop arrives",
        holds="closed once as estimated; the true stop corrects it",
        spots=(
            _fp("ghost.before_commit", "ghost", reasons=in_background),
            _fp("ghost.committed", "ghost", reasons=in_background),
        ),
    ),
    Point(
        number=55,
        what="crash during the recovery at the start",
        holds="a second start finishes it",
        spots=(_fp("recover.half", "restart", reasons={"cancel": START_UP}),),
    ),
    Point(
        number=56,
        what="migration half-way",
        holds="rolled back; the next start does it",
        spots=(_fp("migrate.half", "migrate", reasons={"cancel": START_UP}),),
    ),
)


def _cut(scenario: str, sees: bytes, *nth: int, also: str = "") -> tuple[Spot, Spot]:
    before, after = (
        Spot(at=OnLine(line="postgres", sees=sees, where=where), scenario=scenario, nth=nth or (1,), also=also)
        for where in (Where.BEFORE, Where.AFTER)
    )
    return before, after


AMBIGUOUS = Point(
    number=0,
    what="the line to PostgreSQL is cut at a commit: before it arrives, and before its reply does",
    holds="no difference, whatever kind of unit of work it was",
    spots=(
        *_cut("visit", b"INTO inbox", *FACTS),
        *_cut("status", b"INTO connector"),
        *_cut("visit", b"INTO station_owner"),
        *_cut("visit", b"INTO settlement"),
        *_cut("visit", b"UPDATE outbox"),
        *_cut("visit", b"nextval"),
        *_cut("poison", b"INTO inbox", 2, also="t1.locked:2:raise:ValueError"),
        *_cut("nameless", b"INTO inbox", 2),
        *_cut("prepaid", b"INTO ledger_entry"),
        *_cut("prepaid", b"UPDATE command c SET"),
        *_cut("prepaid", b"UPDATE command SET"),
        *_cut("topup", b"INTO ledger_entry"),
        *_cut("ghost", b"UPDATE charging_session", 1, 2),
    ),
)
"""R-03: every kind of unit of work that exists, cut before and after its commit; see `ambiguous`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One action at one spot with one seed."""

    point: Point
    spot: Spot
    action: str
    seed: int

    @property
    def id(self) -> str:
        """What names it on the command line: number:scenario:spot:action:seed."""
        hand = f"+{self.spot.first}" if self.spot.first else ("-frozen" if _frozen(self.spot) else "")
        return f"{self.point.number}:{self.spot.scenario}:{self.spot.name}{hand}:{self.action}:{self.seed}"


def _frozen(spot: Spot) -> bool:
    return isinstance(spot.at, OnLine) and spot.at.frozen


def cells(actions: tuple[str, ...], seeds: int, numbers: frozenset[int] = frozenset()) -> Iterator[Cell]:
    """Every cell that applies, in order; all points unless some are named."""
    for point in POINTS:
        if numbers and point.number not in numbers:
            continue
        for spot in point.spots:
            for action in actions:
                if spot.reason(action) is None:
                    for seed in range(1, seeds + 1):
                        yield Cell(point=point, spot=spot, action=action, seed=seed)


def ambiguous(seeds: int) -> Iterator[Cell]:
    """The cells of R-03."""
    for spot in AMBIGUOUS.spots:
        for seed in range(1, seeds + 1):
            yield Cell(point=AMBIGUOUS, spot=spot, action="cut", seed=seed)


def failpoint_names() -> frozenset[str]:
    """The names that the table says the program has."""
    return frozenset(str(spot.at) for point in POINTS for spot in point.spots if spot.is_failpoint)
