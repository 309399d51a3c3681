"""What the gateway asks of PostgreSQL while stations are connected: access, tokens, ownership, commands."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from voltledger.domain.identifiers import StationId, TokenValue
from voltledger.domain.session.tokens import TokenRecord
from voltledger.failpoints import ARMED, fp
from voltledger.storage.ports import FrameRecord, QueuedCommand, StationAccess
from voltledger.storage.postgres.facts import token_of
from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import columns_of, safe_text


class PostgresLive:
    """Stations' access, tokens, ownership and commands; see the ports in `services` and `gateway`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def access_of(self, station_id: StationId) -> StationAccess | None:
        """The station, whatever the letter case of its name."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["station_access"], station_id)
        if row is None:
            return None
        return StationAccess(
            station_id=StationId(row["id"]),
            password_hash=row["password_hash"],
            security_profile=row["security_profile"],
            disabled=row["disabled"],
        )

    async def token(self, value: TokenValue) -> TokenRecord | None:
        """A registered token."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(SQL["token_one"], value)
        return None if row is None else token_of(row)

    async def is_expected(self, station_id: StationId, value: TokenValue) -> bool:
        """Whether an open session of the station has this token."""
        async with self._database.connection() as connection:
            return bool(await connection.fetchval(SQL["token_expected"], station_id, value))

    async def all_tokens(self, limit: int) -> list[TokenRecord]:
        """Registered tokens, the newest first."""
        async with self._database.connection() as connection:
            return [token_of(row) for row in await connection.fetch(SQL["tokens_all"], limit)]

    async def expected_tokens(self) -> set[tuple[StationId, TokenValue]]:
        """Tokens of sessions that were asked for and have not begun, with their stations."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["tokens_expected"])
        return {(StationId(row["station_id"]), TokenValue(row["token"])) for row in rows}

    async def claim(self, station_id: StationId, node: str, at: datetime) -> int:
        """Takes a station over and returns its new epoch."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(SQL["owner_claim"], station_id, node, at))

    async def release(self, station_id: StationId, epoch: int, at: datetime) -> None:
        """Notes that the socket of this epoch is gone."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["owner_release"], station_id, epoch, at)

    async def recover_node(self, node: str) -> None:
        """Takes up what an earlier run at this address left behind: it is dead, since the address is ours.

        `node` is the address, `#`, and what makes this run unique.
        """
        async with self._database.unit_of_work() as connection:
            await connection.execute(SQL["commands_lost"], node)
            if ARMED:
                await fp("recover.half")
            await connection.execute(SQL["owners_left"], node)
            await connection.execute(SQL["lease_left"], node)

    async def not_held(self, stations: Sequence[str], node: str) -> list[StationId]:
        """Of stations whose sockets are open here, those that are not recorded as this node's."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["owners_other"], list(stations), node)
        return [StationId(row["id"]) for row in rows]

    async def begin_command(
        self,
        command_id: UUID,
        station_id: StationId,
        session_id: UUID | None,
        action: str,
        payload: str,
        epoch: int,
    ) -> None:
        """Records a call before it is sent."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["command_insert"], command_id, station_id, session_id, action, payload, epoch)

    async def finish_command(self, command_id: UUID, state: str, response: str | None) -> None:
        """Records what became of a call."""
        async with self._database.connection() as connection:
            await connection.execute(SQL["command_finish"], command_id, state, response)

    async def claim_commands(self, stations: Sequence[str], node: str) -> list[QueuedCommand]:
        """The oldest queued command of each station, now being sent by this node."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["commands_claim"], list(stations), node)
        return [
            QueuedCommand(
                id=row["id"],
                station_id=StationId(row["station_id"]),
                session_id=row["session_id"],
                neutral=row["neutral"],
                action=row["action"],
                payload=row["payload"],
            )
            for row in rows
        ]

    async def give_up_commands(self, node: str, older_than_s: float, except_for: Sequence[UUID]) -> list[UUID]:
        """Calls of this node that nobody waits for any more: their outcome is unknown from now on."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(SQL["commands_give_up"], node, older_than_s, list(except_for))
        return [row["id"] for row in rows]

    async def expire_commands(self) -> int:
        """Gives up queued commands whose time is over."""
        async with self._database.connection() as connection:
            return len(await connection.fetch(SQL["commands_expire"]))

    async def keep_frames(self, frames: Sequence[FrameRecord]) -> None:
        """Writes messages that are no facts."""
        rows = [
            (
                f.station_id,
                f.from_station,
                f.kind,
                safe_text(f.action),
                safe_text(f.message_id),
                safe_text(f.payload),
                f.at,
            )
            for f in frames
        ]
        async with self._database.connection() as connection:
            await connection.execute(SQL["frames_of_connection"], *columns_of(rows, 7))
