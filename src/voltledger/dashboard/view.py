"""From what is recorded and what is live to what the page shows: words, marks and sentences.

A mark is a tone (good, busy, bad, none), an icon and a word: never a colour alone.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from voltledger.services.catalog import (
    Connector,
    FindingView,
    LoopRun,
    MoneyOf,
    OpenSession,
    Overview,
    SessionRow,
    Station,
    energy_text,
    money_sentence,
    money_text,
    session_of,
)
from voltledger.services.runtime import ConnectionInfo, Health


class Mark(msgspec.Struct, frozen=True):
    """A state as it is shown."""

    tone: str
    icon: str
    word: str


class ConnectorLine(msgspec.Struct, frozen=True, kw_only=True):
    """One connector: what the station says, what we concluded, and a sentence where they disagree."""

    number: int
    says: Mark
    since: datetime | None
    detail: str
    session: Mark
    energy: str
    doubt: str


class StationCard(msgspec.Struct, frozen=True, kw_only=True):
    """One station with its socket and its connectors."""

    id: str
    about: str
    socket: Mark
    connected: bool
    since: datetime | None
    last_frame_at: datetime | None
    recorded: str
    note: str
    connectors: list[ConnectorLine]


class SessionLine(msgspec.Struct, frozen=True, kw_only=True):
    """One session with its money."""

    id: str
    mark: Mark
    place: str
    user: str
    since: datetime | None
    ended_at: datetime | None
    power: str
    energy: str
    used_percent: int | None
    sentence: str
    note: str


class MoneyLine(msgspec.Struct, frozen=True, kw_only=True):
    """The money of one currency, as rows and as a sentence."""

    currency: str
    rows: list[tuple[str, str]]
    sentence: str
    balanced: bool


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows at one moment."""

    at: datetime
    headline: Mark
    zero: Mark
    figures: list[tuple[str, str]]
    running: list[SessionLine]
    ended: list[SessionLine]
    stations: list[StationCard]
    more_stations: int
    money: list[MoneyLine]
    findings: list[tuple[FindingView, Mark]]
    finding_counts: list[tuple[str, int]]
    open_findings: int
    loops: list[tuple[LoopRun, Mark]]


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What is not well, in a word and sentences; `is_old` says that the rest of the page may be."""

    mark: Mark
    sentence: str
    is_old: bool


def trouble(health: Health) -> Trouble | None:
    """What `/health` says, for people; None when all is well."""
    if health.status == "ok":
        return None
    away = health.database != "ok"
    told = []
    if away:
        told.append("PostgreSQL does not answer.")
        if health.stations_connected:
            told.append(f"Charging goes on at {health.stations_connected} connected stations.")
    if health.journal:
        told.append(
            f"{health.journal} facts wait in this node's journal and are recorded "
            + ("as soon as it is back." if away else "now.")
        )
    if health.redis != "ok":
        told.append("Redis does not answer; stations and money do not need it, and it is refilled when it is back.")
    return Trouble(mark=Mark("bad", "⚠", "degraded"), sentence=" ".join(told), is_old=away)


_SAYS: Mapping[str, Mark] = {
    "Available": Mark("good", "○", "Available"),
    "Charging": Mark("good", "⚡", "Charging"),
    "Occupied": Mark("good", "◐", "Occupied"),
    "Preparing": Mark("busy", "◔", "Preparing"),
    "Finishing": Mark("busy", "◕", "Finishing"),
    "SuspendedEV": Mark("busy", "‖", "Suspended by the vehicle"),
    "SuspendedEVSE": Mark("busy", "‖", "Suspended by the station"),
    "Reserved": Mark("busy", "◇", "Reserved"),
    "Unavailable": Mark("none", "–", "Unavailable"),
    "Faulted": Mark("bad", "✕", "Faulted"),
}
_SESSION: Mapping[str, Mark] = {
    "PENDING": Mark("busy", "…", "Waiting for the station"),
    "ONGOING": Mark("good", "⚡", "Charging"),
    "ORPHANED": Mark("bad", "⚠", "Orphaned"),
    "COMPLETED": Mark("good", "✓", "Completed"),
    "TERMINATED": Mark("none", "■", "Terminated"),
    "GHOST": Mark("bad", "⚠", "Ghost, closed"),
}
_FINDING: Mapping[str, Mark] = {
    "open": Mark("bad", "⚠", "open"),
    "repaired": Mark("good", "✓", "repaired"),
    "noted": Mark("none", "•", "noted"),
    "dismissed": Mark("none", "–", "dismissed"),
}
_DRAWING = frozenset(("Charging", "Occupied", "SuspendedEV", "SuspendedEVSE", "Finishing", "Preparing"))


def picture(
    *,
    now: datetime,
    overview: Overview,
    stations: Sequence[Station],
    connected: Mapping[str, ConnectionInfo],
    running: Sequence[SessionRow],
    ended: Sequence[SessionRow],
    findings: Sequence[FindingView],
) -> Picture:
    """The page's content, all of it derived from the arguments."""
    counts = overview.counts
    return Picture(
        at=now,
        headline=_headline(overview, len(connected)),
        zero=_zero(overview),
        figures=[
            ("stations connected", f"{len(connected)} of {counts.stations}"),
            ("sessions charging", f"{counts.sessions_active}"),
            ("flowing now", power_text(overview.power_w)),
            ("waiting to start", f"{counts.sessions_pending}"),
        ],
        running=[_session_line(row) for row in running],
        ended=[_session_line(row) for row in ended],
        stations=[_station_card(station, connected.get(station.id)) for station in stations],
        more_stations=max(0, counts.stations - len(stations)),
        money=[_money_line(m) for m in overview.money],
        findings=[(f, _FINDING.get(f.state, Mark("none", "•", f.state))) for f in findings],
        finding_counts=_by_kind(overview),
        open_findings=counts.findings_open,
        loops=[(run, _loop_mark(run)) for run in overview.loops],
    )


def _headline(overview: Overview, connected: int) -> Mark:
    counts = overview.counts
    if any(m.unexplained_minor for m in overview.money):
        return Mark("bad", "✕", "The books do not balance: run `voltledger verify` now.")
    if counts.findings_open:
        noun = "finding waits" if counts.findings_open == 1 else "findings wait"
        return Mark("busy", "⚠", f"{counts.findings_open} {noun} for an operator; the books balance.")
    if counts.stations == 0:
        return Mark("none", "•", "No stations yet: add one with `voltledger station add`.")
    if connected == 0:
        return Mark("busy", "⚠", "No station is connected; the books balance.")
    return Mark("good", "✓", "All right: nothing waits for a person, and the books balance.")


def _zero(overview: Overview) -> Mark:
    """The numbers that must be zero, as one mark."""
    parts = []
    for money in overview.money:
        if money.unexplained_minor:
            parts.append(f"{money_text(money.unexplained_minor, money.currency)} unexplained")
    if overview.counts.findings_open:
        count = overview.counts.findings_open
        parts.append(f"{count} open finding{'' if count == 1 else 's'}")
    if overview.counts.sessions_unsettled:
        parts.append(f"{overview.counts.sessions_unsettled} ended, not settled yet")
    if parts:
        return Mark("busy", "⚠", "Not zero: " + ", ".join(parts))
    return Mark("good", "✓", "All zero")


def _by_kind(overview: Overview) -> list[tuple[str, int]]:
    totals: dict[str, int] = {}
    for count in overview.findings:
        totals[count.kind] = totals.get(count.kind, 0) + count.count
    return sorted(totals.items())


def _station_card(station: Station, connection: ConnectionInfo | None) -> StationCard:
    socket = Mark("good", "●", "Connected") if connection else Mark("none", "○", "Not connected")
    note = ""
    if station.disabled_at is not None:
        note = "Disabled: it may not connect."
    elif station.out_of_order_since is not None:
        note = "Taken out of order by us, because it did not stop when asked to."
    return StationCard(
        id=station.id,
        about=" ".join(part for part in (station.vendor, station.model) if part),
        socket=socket,
        connected=connection is not None,
        since=connection.since if connection else station.last_seen_at,
        last_frame_at=connection.last_frame_at if connection else None,
        recorded=station.status.replace("_", " ").capitalize(),
        note=note,
        connectors=_connector_lines(station, connection is not None),
    )


def _connector_lines(station: Station, connected: bool) -> list[ConnectorLine]:
    """One line a connector that was reported or has a session; connector 0 only when something is wrong."""
    lines = [
        _connector_line(c, c.session, connected)
        for c in station.connectors
        if c.evse > 0 or c.status in ("Faulted", "Unavailable")
    ]
    reported = {c.evse for c in station.connectors}
    for session in station.sessions:
        if session.evse not in reported:
            lines.append(_unreported_line(session))
    return lines


def _connector_line(connector: Connector, session: OpenSession | None, connected: bool) -> ConnectorLine:
    error = connector.error_code if connector.error_code not in ("", "NoError") else ""
    return ConnectorLine(
        number=connector.evse,
        says=_SAYS.get(connector.status, Mark("none", "?", connector.status)),
        since=connector.since,
        detail=" ".join(part for part in (error, connector.info) if part),
        session=_session_mark(session),
        energy=_energy_of(session),
        doubt=_doubt(connector, session, connected),
    )


def _unreported_line(session: OpenSession) -> ConnectorLine:
    return ConnectorLine(
        number=session.evse,
        says=Mark("none", "?", "Nothing said yet"),
        since=None,
        detail="",
        session=_session_mark(session),
        energy=_energy_of(session),
        doubt="",
    )


def _session_mark(session: OpenSession | None) -> Mark:
    if session is None:
        return Mark("none", "–", "No session")
    return _SESSION.get(session.status, Mark("none", "•", session.status))


def _energy_of(session: OpenSession | None) -> str:
    """A session's energy, or nothing where none can have flowed yet."""
    if session is None or session.status == "PENDING":
        return ""
    return energy_text(session.energy_wh)


def _doubt(connector: Connector, session: OpenSession | None, connected: bool) -> str:
    """A sentence where the station and our record disagree."""
    running = session is not None and session.status in ("ONGOING", "ORPHANED")
    if running and not connected:
        return "Charging when we last heard of it; the station is not connected now."
    if running and connector.status == "Available":
        return "The station says Available; our session is open. The next passes find out."
    if session is None and connector.status == "Charging":
        return "The station says Charging; we know of no session. The next passes find out."
    return ""


def _session_line(row: SessionRow) -> SessionLine:
    session = session_of(row)
    used = min(100, session.cost_minor * 100 // row.paid_minor) if row.paid_minor else None
    notes = []
    if row.estimated:
        notes.append("the energy is an estimate")
    if row.suspect:
        notes.append("evidence disagrees: the money waits until an operator decides its finding")
    return SessionLine(
        id=str(row.id),
        mark=_SESSION.get(row.status, Mark("none", "•", row.status)),
        place=f"{row.station}, connector {row.connector}",
        user=row.user or "nobody known",
        since=row.started_at or row.created_at,
        ended_at=row.ended_at,
        power=power_text(row.power_w) if row.power_w is not None and row.ended_at is None else "",
        energy="" if row.status == "PENDING" else energy_text(row.energy_wh),
        used_percent=used,
        sentence=money_sentence(row),
        note="; ".join(notes).capitalize(),
    )


def _money_line(money: MoneyOf) -> MoneyLine:
    def text(amount: int) -> str:
        return money_text(amount, money.currency)

    balanced = money.unexplained_minor == 0
    owed = f", drivers owe {text(money.receivable_minor)}" if money.receivable_minor else ""
    return MoneyLine(
        currency=money.currency,
        rows=[
            ("Users can spend", text(money.wallets_minor)),
            ("Set aside for sessions", text(money.held_minor)),
            ("Refunded to users", text(money.refunded_minor)),
            ("Platform fees", text(money.fees_minor)),
            ("Payable to organisations", text(money.payable_minor)),
            ("Receivable", text(money.receivable_minor)),
            ("Unexplained", text(money.unexplained_minor)),
        ],
        sentence=(
            f"{text(money.received_minor)} came in; {text(money.wallets_minor)} can be spent, "
            f"{text(money.held_minor)} is set aside, organisations are owed {text(money.payable_minor)}, "
            f"fees are {text(money.fees_minor)}{owed}."
        ),
        balanced=balanced,
    )


def _loop_mark(run: LoopRun) -> Mark:
    if run.outcome is None:
        return Mark("busy", "…", "running")
    if run.outcome.startswith(("failed", "the database is away")):
        return Mark("bad", "✕", run.outcome)
    return Mark("good", "✓", run.outcome)


def power_text(power_w: float) -> str:
    """Watts as people write them: `11.0 kW`."""
    return f"{power_w / 1000:,.1f} kW"


def ago(at: datetime, now: datetime) -> str:
    """How long ago, in one unit."""
    seconds = max(0, int((now - at).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
