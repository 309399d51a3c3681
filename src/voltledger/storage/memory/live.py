"""What the gateway asks while stations are connected, in memory: tokens, ownership, commands; and money coming in."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from voltledger.domain.identifiers import StationId, TokenValue, UserId
from voltledger.domain.ledger.holds import topup_entry
from voltledger.domain.quantities import Minor
from voltledger.domain.session.states import State
from voltledger.domain.session.tokens import TokenRecord
from voltledger.storage.memory.database import Access, KeyTaken, MemoryDatabase, Transaction
from voltledger.storage.memory.ledger import post_entries
from voltledger.storage.memory.rows import CommandRow, OwnerRow
from voltledger.storage.ports import FrameRecord, QueuedCommand

CALL_LIFE = timedelta(hours=1)


class MemoryLive:
    """Tokens, ownership and commands; see the ports in `services` and `gateway`."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @property
    def _database(self) -> MemoryDatabase:
        return self._access.database

    async def token(self, value: TokenValue) -> TokenRecord | None:
        """A registered token."""
        await self._access.point("live.read")
        return self._database.tokens.rows.get(value)

    async def is_expected(self, station_id: StationId, value: TokenValue) -> bool:
        """Whether an open session of the station has this token."""
        await self._access.point("live.read")
        return any(s.token == value and s.is_open and s.station_id == station_id for s in self._database.sessions)

    async def all_tokens(self, limit: int) -> list[TokenRecord]:
        """Registered tokens, the newest first."""
        await self._access.point("live.read")
        return list(self._database.tokens)[::-1][:limit]

    async def expected_tokens(self) -> set[tuple[StationId, TokenValue]]:
        """Tokens of sessions that were asked for and have not begun, with their stations."""
        await self._access.point("live.read")
        pending = (s for s in self._database.sessions if s.state is State.PENDING)
        return {(s.station_id, s.token) for s in pending if s.token is not None}

    async def claim(self, station_id: StationId, node: str, at: datetime) -> int:
        """Takes a station over and returns its new epoch; what an older one was sending has an unknown outcome."""
        async with self._access.transaction("live.claim") as work:
            await work.lock(("owner", station_id))
            owner = work.get(self._database.owners, station_id)
            epoch = 1 if owner is None else owner.epoch + 1
            work.put(self._database.owners, station_id, OwnerRow(node=node, epoch=epoch, connected_at=at))
            for command_id, command in work.scan(self._database.commands):
                if command.station_id == station_id and command.state == "sending":
                    _set_state(work, command_id, command, "unknown")
            return epoch

    async def release(self, station_id: StationId, epoch: int, at: datetime) -> None:
        """Notes that the socket of this epoch is gone; nothing if a newer one holds the station."""
        async with self._access.transaction("live.release") as work:
            await work.lock(("owner", station_id))
            owner = work.get(self._database.owners, station_id)
            if owner is None or owner.epoch != epoch:
                return
            work.put(self._database.owners, station_id, msgspec.structs.replace(owner, disconnected_at=at))
            await work.lock(("station", station_id))
            station = work.get(self._database.stations, station_id)
            if station is not None and station.out_of_order_since is None:
                offline = msgspec.structs.replace(station, status="OFFLINE", derived_status="OFFLINE", last_seen_at=at)
                work.put(self._database.stations, station_id, offline)

    async def not_held(self, stations: Sequence[str], node: str) -> list[StationId]:
        """Of stations whose sockets are open here, those that are not recorded as this node's."""
        await self._access.point("live.read")
        found = []
        for name in stations:
            owner = self._database.owners.rows.get(StationId(name))
            if owner is None or owner.node != node or owner.disconnected_at is not None:
                found.append(StationId(name))
        return found

    async def recover_node(self, node: str) -> None:
        """Takes up what an earlier run at this address left behind: it is dead, since the address is ours."""
        async with self._access.transaction("live.recover") as work:
            left = {
                station_id: owner
                for station_id, owner in work.scan(self._database.owners)
                if owner.node.split("#")[0] == node.split("#")[0] and owner.node != node
            }
            for command_id, command in work.scan(self._database.commands):
                if command.state == "sending" and command.station_id in left:
                    _set_state(work, command_id, command, "unknown")
            for station_id, owner in left.items():
                if owner.disconnected_at is None:
                    gone = msgspec.structs.replace(owner, disconnected_at=self._database.now())
                    work.put(self._database.owners, station_id, gone)

    async def begin_command(
        self, command_id: UUID, station_id: StationId, session_id: UUID | None, action: str, payload: str, epoch: int
    ) -> None:
        """Records a call before it is sent."""
        async with self._access.transaction("live.command") as work:
            command = CommandRow(
                id=command_id,
                station_id=station_id,
                effect_key=None,
                session_id=session_id,
                neutral=False,
                action=action,
                payload=payload,
                state="sending",
                number=self._database.next_number("command"),
                expires_at=self._database.now() + CALL_LIFE,
                epoch=epoch,
                sent_at=self._database.now(),
            )
            work.put(self._database.commands, command_id, command)

    async def finish_command(self, command_id: UUID, state: str, response: str | None) -> None:
        """Records what became of a call."""
        async with self._access.transaction("live.finish") as work:
            command = work.get(self._database.commands, command_id)
            if command is not None:
                done = msgspec.structs.replace(command, state=state, response=response)
                work.put(self._database.commands, command_id, done)

    async def claim_commands(self, stations: Sequence[str], node: str) -> list[QueuedCommand]:
        """The oldest queued command of each station, now being sent by this node."""
        if not any(command.state == "queued" for command in self._database.commands):
            await self._access.point("live.read")
            return []
        async with self._access.transaction("live.claim_commands") as work:
            now = self._database.now()
            oldest: dict[StationId, CommandRow] = {}
            for _, command in sorted(work.scan(self._database.commands), key=lambda item: item[1].number):
                owner = self._database.owners.rows.get(command.station_id)
                held = owner is not None and owner.node == node and owner.disconnected_at is None
                wanted = command.state == "queued" and command.expires_at > now and command.station_id in stations
                if held and wanted:
                    oldest.setdefault(command.station_id, command)
            for command in oldest.values():
                await work.lock(("command", command.id))
                sending = msgspec.structs.replace(command, state="sending", sent_at=now)
                work.put(self._database.commands, command.id, sending)
        return [
            QueuedCommand(
                id=c.id,
                station_id=c.station_id,
                session_id=c.session_id,
                neutral=c.neutral,
                action=c.action,
                payload=c.payload,
            )
            for c in oldest.values()
        ]

    async def give_up_commands(self, node: str, older_than_s: float, except_for: Sequence[UUID]) -> list[UUID]:
        """Calls of this node that nobody waits for any more: their outcome is unknown from now on."""
        before = self._database.now() - timedelta(seconds=older_than_s)
        async with self._access.transaction("live.give_up") as work:
            given_up = []
            for command_id, command in work.scan(self._database.commands):
                owner = self._database.owners.rows.get(command.station_id)
                ours = owner is not None and owner.node == node and command_id not in except_for
                if ours and command.state == "sending" and command.sent_at is not None and command.sent_at < before:
                    _set_state(work, command_id, command, "unknown")
                    given_up.append(command_id)
        return given_up

    async def expire_commands(self) -> int:
        """Gives up queued commands whose time is over."""
        now = self._database.now()
        over = [c for c in self._database.commands if c.state == "queued" and c.expires_at <= now]
        if not over:
            await self._access.point("live.read")
            return 0
        async with self._access.transaction("live.expire") as work:
            for command in over:
                await work.lock(("command", command.id))
                _set_state(work, command.id, command, "expired")
        return len(over)

    async def keep_frames(self, frames: Sequence[FrameRecord]) -> None:
        """Writes messages that are no facts."""
        async with self._access.transaction("live.frames") as work:
            for frame in frames:
                work.append(self._database.frames, frame)

    async def top_up(self, key: str, user_id: UserId, currency: str, amount_minor: int) -> bool:
        """Money that came in for a user's wallet; False when this key came before."""
        entry = topup_entry(key=key, user=user_id, currency=currency, amount=Minor(amount_minor))
        try:
            async with self._access.transaction("topup") as work:
                await post_entries(work, () if entry is None else (entry,))
        except KeyTaken:
            return False
        return True


def _set_state(work: Transaction, command_id: UUID, command: CommandRow, state: str) -> None:
    work.put(work.database.commands, command_id, msgspec.structs.replace(command, state=state))
