"""What the sync service and prepaid charging read and repair on PostgreSQL."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from voltledger.domain.events import ConnectorStatus
from voltledger.domain.identifiers import SessionId, StationId, TransactionRef, UserId
from voltledger.domain.ledger.accounts import held, wallet
from voltledger.domain.quantities import Minor, Wh
from voltledger.domain.reconciliation.evidence import Witness
from voltledger.domain.session.book import Policy, StationBook, Terms
from voltledger.domain.session.by_hand import Figures, ManualChange
from voltledger.domain.session.session import ChargingSession
from voltledger.storage.errors import StoreContention
from voltledger.storage.ports import BookWanted, Changes, OrphanCandidate, Payer, StationOverview
from voltledger.storage.postgres.facts import PostgresFactWork, connector_of
from voltledger.storage.postgres.ledger import AlreadyPosted
from voltledger.storage.postgres.pool import CONTENTION, Connection, Database, describe
from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import COLUMN_LIST, columns_of, session_of

_Q = {
    name: SQL[name].replace("{columns}", COLUMN_LIST)
    for name in (
        "session_one",
        "session_open_on",
        "sessions_overdue",
        "sessions_stopping",
        "session_latest_on",
        "sessions_unsettled",
    )
}


class PostgresSyncStore:
    """See the ports in `services.sync` and `services.prepaid`."""

    def __init__(
        self,
        database: Database,
        *,
        currency: str,
        fee_percent: Decimal,
        policy: Policy,
        new_id: Callable[[], UUID],
    ) -> None:
        self._database = database
        self._currency = currency
        self._fee_percent = fee_percent
        self._policy = policy
        self._new_id = new_id

    @asynccontextmanager
    async def session_work(self) -> AsyncIterator["PostgresSessionWork"]:
        """One unit of work. A rival that was first, or in the way, shows as StoreContention."""
        try:
            async with self._database.unit_of_work() as connection:
                facts = PostgresFactWork(connection, self._currency, self._fee_percent, self._new_id)
                yield PostgresSessionWork(connection, facts, self._policy)
        except (asyncpg.UniqueViolationError, AlreadyPosted) as error:
            raise StoreContention("done by another meanwhile") from error
        except CONTENTION as error:
            raise StoreContention(describe(error)) from error

    async def ghost_candidates(self, *, after_restart: bool = False) -> list[tuple[SessionId, StationId, int]]:
        """Running sessions whose connector says Available; where asked for, only at stations that restarted."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["ghost_candidates"], after_restart)
        return [(SessionId(r["id"]), StationId(r["station_id"]), r["evse_id"]) for r in rows]

    async def orphan_candidates(self) -> list[OrphanCandidate]:
        """Connectors that charge without a session."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["orphan_candidates"])
        return [_candidate(row) for row in rows]

    async def stations_overview(self) -> list[StationOverview]:
        """Every station with what its status follows from."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["stations_overview"])
            parts = await connection.fetch(SQL["connectors_of_stations"], [r["id"] for r in rows])
        by_station: dict[str, list[Any]] = {}
        for part in parts:
            by_station.setdefault(part["station_id"], []).append(connector_of(part))
        return [
            StationOverview(
                station_id=StationId(row["id"]),
                status=row["status"],
                derived_status=row["derived_status"],
                out_of_order=row["out_of_order"],
                connected=row["connected"],
                running=row["running"],
                connectors=tuple(by_station.get(row["id"], ())),
            )
            for row in rows
        ]

    async def note_seen(self, seen: Mapping[str, datetime]) -> None:
        """When stations were last heard of."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["stations_seen"], *columns_of(list(seen.items()), 2))

    async def clean_up(self, feed_kept_for: timedelta) -> int:
        """Removes what has served its time; returns the number of rows."""
        async with self._database.connection() as connection:
            done = [await connection.execute(SQL["clean_feed"], feed_kept_for)]
            for name in ("clean_idempotency", "clean_outbox", "clean_runs", "clean_strays"):
                done.append(await connection.execute(SQL[name]))
        return sum(int(tag.split()[-1]) for tag in done)

    async def take_lease(self, name: str, holder: str, ttl: timedelta) -> int | None:
        """The fence if the lease is ours now, else None."""
        async with self._database.connection() as connection:
            fence = await connection.fetchval(SQL["lease_take"], name, holder, ttl)
        return None if fence is None else int(fence)

    async def give_lease_back(self, name: str, holder: str) -> None:
        """Lets another node take over at once."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["lease_give_back"], name, holder)

    async def begin_run(self, loop: str, period: datetime, node: str) -> bool:
        """Whether this node is the one to do this period's run."""
        async with self._database.connection() as connection:
            return await connection.fetchval(SQL["run_begin"], loop, period, node) is not None

    async def end_run(self, loop: str, period: datetime, duration_s: float, outcome: str) -> None:
        """Notes how a run went."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["run_end"], loop, period, duration_s, outcome)

    async def gauges(self) -> tuple[int, dict[str, int]]:
        """Active sessions, and open findings by kind."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["gauges"])
        return row["sessions_active"], _counts(row["findings_open"])

    async def totals(self) -> tuple[dict[str, int], dict[str, int]]:
        """All findings by kind, all sessions by status."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["totals"])
        return _counts(row["findings"]), _counts(row["sessions"])


class PostgresSessionWork:
    """One unit of work over sessions that we act on ourselves."""

    def __init__(self, connection: Connection, facts: PostgresFactWork, policy: Policy) -> None:
        self._connection = connection
        self._facts = facts
        self._policy = policy

    async def terms_of(self, station_id: StationId) -> tuple[Terms, int] | None:
        """What a session at a station is priced by, and its number of connectors."""
        connectors = await self._connection.fetchval(SQL["station_connectors"], station_id)
        if connectors is None:
            return None
        book = await self.book(BookWanted(station_id=station_id, terms=True))
        return None if book.terms is None else (book.terms, int(connectors))

    async def payer(self, user_id: UserId) -> Payer | None:
        """A user and what they can spend, locked."""
        row = await self._connection.fetchrow(SQL["payer"], user_id)
        if row is None:
            return None
        accounts = (held(user_id, row["currency"]), wallet(user_id, row["currency"]))
        balances = dict(await self._connection.fetch(SQL["payer_balance"], [a.code for a in accounts]))
        return Payer(user_id=user_id, currency=row["currency"], spendable=Minor(balances.get("wallet", 0)))

    async def lock_evse(self, station_id: StationId, evse_id: int) -> None:
        """Nobody else decides what begins on this EVSE until the unit of work ends."""
        await self._connection.execute(SQL["evse_lock"], station_id, evse_id)

    async def open_on(self, station_id: StationId, evse_id: int) -> ChargingSession | None:
        """The session that is open on an EVSE."""
        row = await self._connection.fetchrow(_Q["session_open_on"], station_id, evse_id)
        return None if row is None else session_of(row)

    async def session(self, session_id: SessionId) -> ChargingSession | None:
        """A session, locked."""
        row = await self._connection.fetchrow(_Q["session_one"], session_id)
        return None if row is None else session_of(row)

    async def overdue(self, now: datetime) -> list[ChargingSession]:
        """Sessions whose start is overdue, locked."""
        return [session_of(row) for row in await self._connection.fetch(_Q["sessions_overdue"], now)]

    async def stopping(self, since: datetime, attempts: int) -> list[ChargingSession]:
        """Sessions that were asked to stop before `since`, at most `attempts` times, and still run."""
        return [session_of(row) for row in await self._connection.fetch(_Q["sessions_stopping"], since, attempts)]

    async def changed_by_hand(self) -> list[ChargingSession]:
        """Ended sessions that nobody is to settle, locked."""
        return [session_of(row) for row in await self._connection.fetch(_Q["sessions_unsettled"])]

    async def manual_changes(self) -> list[ManualChange]:
        """Changes by hand that nobody has looked at, oldest first, locked."""
        return [_change(row) for row in await self._connection.fetch(SQL["manual_changes"])]

    async def take_manual_changes(self, ids: Sequence[int]) -> None:
        """Marks changes by hand as looked at."""
        await self._connection.execute(SQL["manual_changes_taken"], list(ids))

    async def let_go(self) -> int:
        """Settlements that were held and whose session is no longer doubted are due again; returns how many."""
        return len(await self._connection.fetch(SQL["jobs_let_go"]))

    async def witness(self, session_id: SessionId, now: datetime) -> Witness:
        """What is known of a session's connector now."""
        row = await self._connection.fetchrow(SQL["witness_of_session"], session_id)
        if row is None:
            return Witness(now=now, connected_since=None, status=None, status_since=None, status_at=None, heard_at=None)
        return Witness(
            now=now,
            connected_since=row["connected_at"],
            status=None if row["status"] is None else ConnectorStatus(row["status"]),
            status_since=row["since"],
            status_at=row["received_at"],
            heard_at=row["heard_at"],
            booted_at=row["booted_at"],
        )

    async def latest_on(self, station_id: StationId, evse_id: int) -> ChargingSession | None:
        """The newest session that began on an EVSE, locked."""
        row = await self._connection.fetchrow(_Q["session_latest_on"], station_id, evse_id)
        return None if row is None else session_of(row)

    async def book(self, wanted: BookWanted) -> StationBook:
        """A station's book, its open sessions locked."""
        return (await self._facts.load_books([wanted], self._policy))[wanted.station_id]

    async def save(self, changes: Changes) -> None:
        """Writes everything."""
        await self._facts.save(changes)

    async def adopt_strays(self, session: ChargingSession) -> None:
        """Stray readings of the session's EVSE and time become its own: those of its transaction, or of none."""
        since = session.started_at or session.created_at
        await self._connection.execute(
            SQL["strays_adopt"], session.station_id, session.evse_id, session.id, session.transaction_ref or "", since
        )

    async def take_out_of_order(self, station_id: StationId) -> None:
        """A station that will not stop."""
        await self._connection.execute(SQL["station_take_out"], station_id)

    async def accept_status_by_hand(self, station_id: StationId) -> None:
        """A status that a person set is taken as said."""
        await self._connection.execute(SQL["station_freed_by_hand"], station_id)


def _candidate(row: asyncpg.Record) -> OrphanCandidate:
    return OrphanCandidate(
        station_id=StationId(row["station_id"]),
        evse_id=row["evse_id"],
        connector_id=row["connector_id"],
        status=None if row["status"] is None else ConnectorStatus(row["status"]),
        status_since=row["since"],
        status_at=row["received_at"],
        connected_since=row["connected_at"],
        transaction_ref=TransactionRef(row["transaction_ref"]) if row["transaction_ref"] else None,
        first_wh=None if row["first_wh"] is None else Wh(row["first_wh"]),
        last_wh=None if row["last_wh"] is None else Wh(row["last_wh"]),
        first_at=row["first_at"],
        last_at=row["last_at"],
    )


def _change(row: asyncpg.Record) -> ManualChange:
    before, after = (
        Figures(
            meter_start_wh=row[f"meter_start_{when}_wh"],
            meter_stop_wh=row[f"meter_stop_{when}_wh"],
            energy_wh=Wh(row[f"energy_{when}_wh"]),
        )
        for when in ("before", "after")
    )
    return ManualChange(
        id=row["id"],
        session_id=SessionId(row["session_id"]),
        station_id=StationId(row["station_id"]),
        at=row["changed_at"],
        by=row["changed_by"],
        before=before,
        after=after,
    )


def _counts(text: str | None) -> dict[str, int]:
    return msgspec.json.decode(text, type=dict[str, int]) if text else {}
