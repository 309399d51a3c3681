"""The sync service: what the user's document calls DatabaseSyncService, run by the loops in `sync/`.

Status, session start and session stop are taken up in real time by the intake. What remains is
comparing, periodically, what stations say with what the books say: ghosts (our session runs and the
connector is free), orphans (the connector charges and we have no session), stations that will not
stop, rows that were changed by hand. Every repair is an ordinary change in one unit of work, keyed,
with a finding that tells its evidence; doing it twice changes nothing the second time.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

import msgspec

from voltledger.domain.commands import TriggerReport
from voltledger.domain.errors import NotPossibleNow
from voltledger.domain.identifiers import SessionId, StationId
from voltledger.domain.quantities import Wh
from voltledger.domain.reconciliation.evidence import Question, Reply, Witness, free_since
from voltledger.domain.reconciliation.findings import Finding, FindingKind, FindingState
from voltledger.domain.reconciliation.verdict import (
    Remedy,
    Verdict,
    judge_free_connector,
    judge_session,
    may_reactivate,
)
from voltledger.domain.session.book import StationBook
from voltledger.domain.session.by_hand import ManualChange, energy_by_register, take_by_hand, together
from voltledger.domain.session.conclude import ask_to_stop, conclude, reopen
from voltledger.domain.session.connectors import station_status
from voltledger.domain.session.finding import finding_about, transaction_of
from voltledger.domain.session.metered import placed_at
from voltledger.domain.session.money import hold_again
from voltledger.domain.session.session import ChargingSession, Origin
from voltledger.domain.session.states import Happening, Refused, State, apply
from voltledger.failpoints import ARMED, fp
from voltledger.logs import get_logger, log_orphan, log_sync
from voltledger.services.runtime import Commands
from voltledger.storage.errors import StoreContention
from voltledger.storage.ports import BookWanted, Changes, OrphanCandidate, StationOverview, StationState

log = get_logger(__name__)


class SyncWork(Protocol):
    """One unit of work of the sync service."""

    async def session(self, session_id: SessionId) -> ChargingSession | None:
        """A session, locked."""

    async def manual_changes(self) -> list[ManualChange]:
        """Changes by hand that nobody has looked at, oldest first, locked."""

    async def take_manual_changes(self, ids: Sequence[int]) -> None:
        """Marks changes by hand as looked at."""

    async def let_go(self) -> int:
        """Settlements that were held and whose session is no longer doubted are due again; returns how many."""

    async def witness(self, session_id: SessionId, now: datetime) -> Witness:
        """What is known of a session's connector now."""

    async def latest_on(self, station_id: StationId, evse_id: int) -> ChargingSession | None:
        """The newest session that began on an EVSE, locked."""

    async def stopping(self, since: datetime, attempts: int) -> list[ChargingSession]:
        """Sessions that were asked to stop and still run."""

    async def changed_by_hand(self) -> list[ChargingSession]:
        """Ended sessions that nobody is to settle, locked."""

    async def lock_evse(self, station_id: StationId, evse_id: int) -> None:
        """Nobody else decides what begins on this EVSE until the unit of work ends."""

    async def book(self, wanted: BookWanted) -> StationBook:
        """A station's book, its open sessions locked."""

    async def save(self, changes: Changes) -> None:
        """Writes everything."""

    async def adopt_strays(self, session: ChargingSession) -> None:
        """Stray readings of the session's EVSE and time become its own: those of its transaction, or of none."""

    async def take_out_of_order(self, station_id: StationId) -> None:
        """A station that will not stop."""

    async def accept_status_by_hand(self, station_id: StationId) -> None:
        """A status that a person set is taken as said."""


class SyncStore(Protocol):
    """Where the sync service reads and repairs."""

    def session_work(self) -> AbstractAsyncContextManager[SyncWork]:
        """Begins a unit of work."""

    async def ghost_candidates(self, *, after_restart: bool = False) -> list[tuple[SessionId, StationId, int]]:
        """Running sessions whose connector says Available; where asked for, only at stations that restarted."""

    async def orphan_candidates(self) -> list[OrphanCandidate]:
        """Connectors that charge without a session."""

    async def stations_overview(self) -> list[StationOverview]:
        """Every station with what its status follows from."""

    async def note_seen(self, seen: Mapping[str, datetime]) -> None:
        """When stations were last heard of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPolicy:
    """Settings of the sync service."""

    ghost_grace: timedelta
    orphan_grace: timedelta
    reactivate_window: timedelta
    stop_retries: int
    stop_patience: timedelta
    answer_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that a pass did, or in a dry run would do; for people."""

    what: str
    station_id: str
    evse_id: int | None
    session_id: UUID | None
    why: str
    done: bool


ALWAYS = datetime.min.replace(tzinfo=UTC)

ASK_AGAIN = timedelta(seconds=60)

CANNOT_ASK = (
    "the station must be asked first, which only the server that holds it can: run this while the server runs, and the "
    "server asks and closes it by itself"
)


class DatabaseSyncService:
    """The passes. Each returns what it did; with `dry_run` what it would do.

    `quiet_since` says since when this node and its database have worked without a gap: all graces and silences count
    from there at the earliest, since nobody is late whom we could not hear. `may_judge` says whether all that a
    station said so far is in the books; others are left alone. Without `commands` nothing can be asked, and what needs
    asking is only proposed.
    """

    def __init__(
        self,
        store: SyncStore,
        commands: Commands | None,
        policy: SyncPolicy,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], UUID],
        wake: Callable[[], None],
        quiet_since: Callable[[], datetime] = lambda: ALWAYS,
        may_judge: Callable[[StationId], bool] = lambda _: True,
    ) -> None:
        self._store = store
        self._quiet_since = quiet_since
        self._may_judge = may_judge
        self._commands = commands
        self._policy = policy
        self._now = now
        self._new_id = new_id
        self._wake = wake
        self._asked: dict[SessionId, Question] = {}

    # --- every 60 seconds ----------------------------------------------------------------------

    async def sync_database(self, seen: Mapping[str, datetime], *, dry_run: bool = False) -> list[Step]:
        """Brings every station's status in step, and takes up what was changed by hand."""
        if seen and not dry_run:
            await self._store.note_seen(seen)
        steps = await self._take_changes_by_hand(dry_run=dry_run)
        steps += await self._settle_changed_by_hand(dry_run=dry_run)
        for station in await self._store.stations_overview():
            if not self._may_judge(station.station_id):
                continue
            if station.status != station.derived_status:
                steps.append(await self._take_status_by_hand(station, dry_run=dry_run))
            else:
                steps.extend(await self._refresh_status(station, dry_run=dry_run))
        return steps

    async def _take_changes_by_hand(self, *, dry_run: bool) -> list[Step]:
        """Registers and energy that a person changed on ended sessions lead to a new version of their settlement."""
        steps = []
        async with self._store.session_work() as work:
            for changes in _by_session(c for c in await work.manual_changes() if self._may_judge(c.station_id)):
                session = await work.session(changes[0].session_id)
                if session is None:
                    continue
                taken, finding = take_by_hand(session, together(changes))
                steps.append(
                    _step("take up figures that were changed by hand", session, finding.summary, done=not dry_run)
                )
                if not dry_run:
                    saved = Changes(findings=[finding])
                    if taken is not None:
                        saved.sessions[taken.id] = taken
                        saved.settle.append(taken)
                    await work.save(saved)
                    await work.take_manual_changes([c.id for c in changes])
        if steps and not dry_run:
            self._wake()
        return steps

    async def _settle_changed_by_hand(self, *, dry_run: bool) -> list[Step]:
        async with self._store.session_work() as work:
            sessions = [s for s in await work.changed_by_hand() if self._may_judge(s.station_id)]
            if sessions and not dry_run:
                await work.save(_by_hand_changes(sessions, self._now()))
            released = 0 if dry_run else await work.let_go()
        if (sessions or released) and not dry_run:
            self._wake()
        return [
            _step(
                "settle a session that was ended by hand",
                s,
                s.stop_reason or "no reason given",
                done=not dry_run,
            )
            for s in sessions
        ]

    async def _take_status_by_hand(self, station: StationOverview, *, dry_run: bool) -> Step:
        finding = Finding(
            kind=FindingKind.MANUAL_CHANGE,
            key=f"manual_status:{station.station_id}:{station.status}:{self._now().isoformat(timespec='seconds')}",
            summary=(
                f"The status of {station.station_id} was changed by hand from {station.derived_status} to "
                f"{station.status}. It is taken as said; the station is asked what it does."
            ),
            station_id=station.station_id,
        )
        if not dry_run:
            async with self._store.session_work() as work:
                await work.accept_status_by_hand(station.station_id)
                await work.save(Changes(findings=[finding]))
            await self._ask(station.station_id, None)
        return Step(
            what="check a station that was changed by hand",
            station_id=station.station_id,
            evse_id=None,
            session_id=None,
            why=f"{station.derived_status} became {station.status}",
            done=not dry_run,
        )

    async def _refresh_status(self, station: StationOverview, *, dry_run: bool) -> list[Step]:
        status = station_status(
            station.connectors,
            connected=station.connected,
            out_of_order=station.out_of_order,
            sessions_running=station.running,
        )
        if status.value == station.status:
            return []
        if not dry_run:
            state = StationState(station_id=station.station_id, status=status, out_of_order=station.out_of_order)
            async with self._store.session_work() as work:
                await work.save(Changes(stations=[state]))
        step = Step(
            what=f"set the status to {status}",
            station_id=station.station_id,
            evse_id=None,
            session_id=None,
            why=f"it was {station.status}",
            done=not dry_run,
        )
        return [step]

    # --- every 2 minutes -------------------------------------------------------------------------

    async def find_orphans_and_ghosts(self, *, dry_run: bool = False) -> list[Step]:
        """Finds and repairs ghosts and orphans. Running it twice changes nothing the second time."""
        steps = await self._find_ghosts(dry_run=dry_run)
        for candidate in await self._store.orphan_candidates():
            if not self._may_judge(candidate.station_id):
                continue
            try:
                steps.extend(await self._judge_orphan(candidate, dry_run=dry_run))
            except StoreContention as error:
                log_sync(
                    log,
                    "an orphan is being taken up by another",
                    station=candidate.station_id,
                    problem=str(error),
                )
        return steps

    async def find_ghosts_after_restart(self) -> list[Step]:
        """Ghosts of stations that restarted and then said that the connector is free; cheap, for a short period."""
        return await self._find_ghosts(dry_run=False, after_restart=True)

    async def _find_ghosts(self, *, dry_run: bool, after_restart: bool = False) -> list[Step]:
        found = await self._store.ghost_candidates(after_restart=after_restart)
        candidates = [c for c in found if self._may_judge(c[1])]
        to_ask = []
        for session_id, station_id, evse_id in candidates:
            async with self._store.session_work() as work:
                witness = await self._witness(work, session_id)
            if after_restart and witness.asked is not None and witness.now - witness.asked.at < ASK_AGAIN:
                continue  # This pass comes every few seconds: a station that does not answer is not asked each time.
            if judge_session(witness, self._policy.ghost_grace).remedy is Remedy.ASK:
                to_ask.append((session_id, station_id, evse_id))
        if to_ask and not dry_run and self._commands is not None:
            await asyncio.gather(*(self._ask_about(*asked) for asked in to_ask))
        steps = []
        for session_id, station_id, _ in candidates:
            try:
                steps.extend(await self._judge_ghost(session_id, dry_run=dry_run))
            except StoreContention as error:
                log_sync(
                    log, "somebody has this session; the next pass looks again", station=station_id, why=str(error)
                )
        if not after_restart:
            known = {c[0] for c in candidates}
            self._asked = {i: question for i, question in self._asked.items() if i in known}
        return steps

    async def _witness(self, work: SyncWork, session_id: SessionId) -> Witness:
        witness = await work.witness(session_id, self._now())
        return replace(witness, asked=self._asked.get(session_id), quiet_since=self._quiet_since())

    async def _ask_about(self, session_id: SessionId, station_id: StationId, evse_id: int) -> None:
        """Asks for status and meter; a refusal proves nothing, an answer arrives as an ordinary fact."""
        at = self._now()
        self._asked[session_id] = Question(at=at, reply=await self._ask(station_id, evse_id))

    async def _ask(self, station_id: StationId, evse_id: int | None) -> Reply:
        """What the station replied to the question for its status; its report arrives as an ordinary fact."""
        replies = []
        for message in ("StatusNotification", "MeterValues"):
            replies.append(await self._ask_for(station_id, TriggerReport(message=message, evse_id=evse_id)))
            if replies[-1] is Reply.UNANSWERED:
                break
        if Reply.ACCEPTED in replies:
            await asyncio.sleep(min(1.0, self._policy.answer_s))
        return replies[0]

    async def _ask_for(self, station_id: StationId, report: TriggerReport) -> Reply:
        if self._commands is None:
            return Reply.UNANSWERED
        try:
            outcome = await self._commands.command(station_id, report, timeout_s=self._policy.answer_s)
        except NotPossibleNow:
            return Reply.REFUSED  # Its version of OCPP has no such question.
        if outcome.outcome == "call_error":
            return Reply.REFUSED
        if outcome.outcome != "answered":
            return Reply.UNANSWERED
        accepted = isinstance(outcome.response, dict) and outcome.response.get("status") == "Accepted"
        return Reply.ACCEPTED if accepted else Reply.REFUSED

    async def _judge_ghost(self, session_id: SessionId, *, dry_run: bool) -> list[Step]:
        async with self._store.session_work() as work:
            session = await work.session(session_id)
            if session is None or not session.is_running:
                return []
            witness = await self._witness(work, session_id)
            verdict = judge_session(witness, self._policy.ghost_grace)
            if verdict.remedy is Remedy.ASK and (dry_run or self._commands is None):
                follows = CANNOT_ASK if self._commands is None else "the station would be asked first"
                return [_step("close a ghost", session, f"{verdict.evidence[0].text}; {follows}", done=False)]
            if verdict.remedy is not Remedy.CLOSE:
                return []
            if not dry_run:
                await self._close_ghost(work, session, witness, verdict)
                if ARMED:
                    await fp("ghost.before_commit")
        if not dry_run:
            if ARMED:
                await fp("ghost.committed")
            log_orphan(log, "ghost session closed", station=session.station_id, session=str(session.id))
            self._wake()
        return [_step("close a ghost", session, verdict.evidence[0].text, done=not dry_run)]

    async def _close_ghost(self, work: SyncWork, session: ChargingSession, witness: Witness, verdict: Verdict) -> None:
        ended_at = free_since(witness) or self._now()
        ended = conclude(session, Happening.GHOST_CLOSED, ended_at, "Ghost")
        ended = msgspec.structs.replace(ended, meter_stop_wh=session.register_wh)
        finding = finding_about(
            session,
            kind=FindingKind.GHOST,
            key=f"ghost:{session.id}:{session.settle_version}",
            summary=(
                f"The session of {transaction_of(session)} was active and connector {session.evse_id} was "
                f"free. Closed at its last measured register ({session.register_wh} Wh, {session.energy_wh} Wh used) "
                "and settled; the station's own end, if it comes, corrects this."
            ),
            state=FindingState.REPAIRED,
            evidence=verdict.as_mapping(),
        )
        await work.save(Changes(sessions={ended.id: ended}, settle=[ended], findings=[finding]))

    async def _judge_orphan(self, candidate: OrphanCandidate, *, dry_run: bool) -> list[Step]:
        witness = Witness(
            now=self._now(),
            connected_since=candidate.connected_since,
            status=candidate.status,
            status_since=candidate.status_since,
            status_at=candidate.status_at,
            heard_at=None,
            quiet_since=self._quiet_since(),
        )
        verdict = judge_free_connector(witness, stray_energy_wh=candidate.energy_wh, grace=self._policy.orphan_grace)
        if verdict.remedy is not Remedy.ADOPT:
            return []
        async with self._store.session_work() as work:
            await work.lock_evse(candidate.station_id, candidate.evse_id)
            book = await work.book(BookWanted(station_id=candidate.station_id, terms=True))
            if book.running_on(candidate.evse_id) is not None or _start_awaited(book, candidate.evse_id):
                return []
            recent = await work.latest_on(candidate.station_id, candidate.evse_id)
            again = (
                recent is not None
                and candidate.transaction_ref in (None, recent.transaction_ref)
                and may_reactivate(recent, now=self._now(), window=self._policy.reactivate_window)
            )
            if recent is not None and again:
                step = _step("reactivate a recent session", recent, verdict.evidence[0].text, done=not dry_run)
                changes = await self._reactivation(work, recent, verdict)
            else:
                session = self._orphan_session(book, candidate)
                step = _step("adopt an orphan", session, verdict.evidence[0].text, done=not dry_run)
                changes = _adoption(session, verdict)
            if not dry_run:
                await work.save(changes)
                if not again:
                    await work.adopt_strays(next(iter(changes.sessions.values())))
        if not dry_run:
            log_orphan(log, "orphaned connector", station=candidate.station_id, connector=candidate.evse_id)
            self._wake()
        return [step]

    async def _reactivation(self, work: SyncWork, recent: ChargingSession, verdict: Verdict) -> Changes:
        state = apply(recent.state, Happening.PROVEN_RUNNING, concluded=recent.concluded)
        if isinstance(state, Refused):
            raise ValueError(f"a {recent.state} session cannot be reactivated")
        refs = {recent.transaction_ref} if recent.transaction_ref is not None else set()
        book = await work.book(BookWanted(station_id=recent.station_id, refs=refs, terms=True))
        reopened, entries = hold_again(book, reopen(recent, state))
        reopened = msgspec.structs.replace(reopened, heard_at=self._now())
        finding = finding_about(
            recent,
            kind=FindingKind.ORPHANED,
            key=f"orphaned:{recent.id}:{recent.settle_version}",
            summary=(
                f"Connector {recent.evse_id} charges although we had closed its session; the session of "
                f"{transaction_of(recent)} is active again."
            ),
            state=FindingState.REPAIRED,
            evidence=verdict.as_mapping(),
        )
        return Changes(sessions={reopened.id: reopened}, entries=list(entries), findings=[finding])

    def _orphan_session(self, book: StationBook, candidate: OrphanCandidate) -> ChargingSession:
        if book.terms is None:
            raise ValueError(f"no terms were loaded for {candidate.station_id}")
        now = self._now()
        return ChargingSession(
            id=SessionId(self._new_id()),
            station_id=candidate.station_id,
            evse_id=candidate.evse_id,
            connector_id=candidate.connector_id,
            state=State.ORPHANED,
            origin=Origin.ORPHAN,
            price=book.terms.price,
            fee_percent=book.terms.fee_percent,
            organization_id=book.terms.organization_id,
            created_at=now,
            transaction_ref=candidate.transaction_ref,
            started_at=candidate.first_at or candidate.status_since or now,
            meter_start_wh=candidate.first_wh,
            register_wh=candidate.last_wh,
            register_at=None if candidate.last_at is None else placed_at(candidate.last_at, now),
            energy_wh=Wh(max(0, candidate.energy_wh)),
            heard_at=candidate.last_at or candidate.status_since,
            stop_requested_at=now,
            stop_attempts=1,
        )

    # --- every few seconds: deadlines --------------------------------------------------------------

    async def press_stops(self, *, dry_run: bool = False) -> list[Step]:
        """Asks again where a stop was asked for and energy still flows; at last takes the station out of order."""
        steps: list[Step] = []
        if self._now() - self._quiet_since() < self._policy.stop_patience:
            return steps  # Whoever obeyed while we were away could not tell us.
        async with self._store.session_work() as work:
            # The first ask is no repeat: a station has been asked once more often than the retries say.
            most = self._policy.stop_retries + 1
            due = await work.stopping(self._now() - self._policy.stop_patience, most)
            for session in due:
                if not self._may_judge(session.station_id):
                    continue
                if (await work.witness(session.id, self._now())).connected_since is None:
                    continue  # Nobody can obey what nobody heard; the stop that is queued waits for the station.
                last = session.stop_attempts >= most
                what = "take out of order a station that will not stop" if last else "ask again to stop"
                steps.append(_step(what, session, f"asked {session.stop_attempts} times", done=not dry_run))
                if not dry_run:
                    await self._press_stop(work, session, last=last)
        if steps and not dry_run:
            self._wake()
        return steps

    async def _press_stop(self, work: SyncWork, session: ChargingSession, *, last: bool) -> None:
        pressed = msgspec.structs.replace(
            session, stop_requested_at=self._now(), stop_attempts=session.stop_attempts + 1
        )
        changes = Changes(sessions={session.id: pressed})
        if last:
            await work.take_out_of_order(session.station_id)
            changes.findings.append(_will_not_stop(session))
            log_orphan(log, "will not stop: out of order", station=session.station_id, session=str(session.id))
        elif pressed.transaction_ref is not None:
            changes.asks.append((session.station_id, ask_to_stop(pressed, "still running")))
        await work.save(changes)


def _start_awaited(book: StationBook, evse_id: int) -> bool:
    return any(s.state is State.PENDING and s.evse_id == evse_id for s in book.sessions.values())


def _adoption(session: ChargingSession, verdict: Verdict) -> Changes:
    known = session.transaction_ref is not None
    finding = finding_about(
        session,
        kind=FindingKind.ORPHANED,
        key=f"orphaned:{session.id}:0",
        summary=(
            f"Connector {session.evse_id} charges and there was no session. One was made, without a payer; the station "
            + ("was asked to stop." if known else "named no transaction, so that it cannot be asked to stop by name.")
        ),
        state=FindingState.OPEN,
        evidence=verdict.as_mapping(),
    )
    asks = [(session.station_id, ask_to_stop(session, "orphaned"))] if known else []
    return Changes(sessions={session.id: session}, findings=[finding], asks=asks)


def _will_not_stop(session: ChargingSession) -> Finding:
    return finding_about(
        session,
        kind=FindingKind.WILL_NOT_STOP,
        key=f"will_not_stop:{session.id}",
        summary=(
            f"Connector {session.evse_id} goes on charging although it was asked to stop {session.stop_attempts} "
            "times. The station is out of order; send someone, or reset it. What flows is recorded and owed."
        ),
        state=FindingState.OPEN,
        evidence={
            "asked": f"{session.stop_attempts} times, last at {session.stop_requested_at}",
            "register": f"{session.register_wh} Wh at {session.register_at}",
            "power": f"{session.power_w} W",
        },
    )


def _by_hand_changes(sessions: list[ChargingSession], now: datetime) -> Changes:
    changes = Changes()
    for session in sessions:
        stop = session.meter_stop_wh
        stated = None if stop is None else energy_by_register(session, stop)
        ended = msgspec.structs.replace(
            session,
            concluded=True,
            estimated=session.started_at is not None,
            ended_at=session.ended_at or now,
            meter_stop_wh=session.meter_stop_wh if session.meter_stop_wh is not None else session.register_wh,
            register_wh=session.register_wh if stated is None else stop,
            energy_wh=session.energy_wh if stated is None else stated,
            power_w=None,
            pending_until=None,
        )
        changes.sessions[ended.id] = ended
        changes.settle.append(ended)
        changes.findings.append(
            finding_about(
                session,
                kind=FindingKind.MANUAL_CHANGE,
                key=f"manual_session:{session.id}:{session.settle_version}",
                summary=(
                    f"The session of {transaction_of(session)} was set to {session.state} by hand. It is settled at "
                    f"{_register_by_hand(session, stated)} ({ended.energy_wh} Wh used)."
                ),
                state=FindingState.REPAIRED,
            )
        )
    return changes


def _register_by_hand(session: ChargingSession, stated: Wh | None) -> str:
    if session.meter_stop_wh is None:
        return "its last measured register"
    if stated is None:
        return f"what was measured, since the meterStop of {session.meter_stop_wh} Wh lies below its start"
    return f"the meterStop that was set, {session.meter_stop_wh} Wh"


def _by_session(changes: Iterable[ManualChange]) -> list[list[ManualChange]]:
    grouped: dict[SessionId, list[ManualChange]] = {}
    for change in changes:
        grouped.setdefault(change.session_id, []).append(change)
    return list(grouped.values())


def _step(what: str, session: ChargingSession, why: str, *, done: bool) -> Step:
    return Step(
        what=what,
        station_id=session.station_id,
        evse_id=session.evse_id,
        session_id=session.id,
        why=why,
        done=done,
    )
