"""Effects outside the database: sent after the commit that caused them, marked after they were sent."""

from collections.abc import Awaitable, Callable
from typing import Any

from voltledger.storage.postgres.pool import Database
from voltledger.storage.postgres.queries import SQL


class PostgresOutbox:
    """See `sync.workers.OutboxStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def send_waiting(self, send: Callable[[str, Any], Awaitable[bool]], limit: int) -> tuple[int, int]:
        """Sends up to `limit` effects in the order they were caused.

        The rows stay locked while they are sent: a crash in between sends them again, never not at all.
        """
        async with self._database.unit_of_work() as connection:
            rows = await connection.fetch(SQL["outbox_claim"], limit)
            outcome = {row["id"]: await send(row["target"], row["payload"]) for row in rows}
            sent = [row_id for row_id, done in outcome.items() if done]
            later = [row_id for row_id, done in outcome.items() if not done]
            if sent:
                await connection.execute(SQL["outbox_sent"], sent)
            if later:
                await connection.execute(SQL["outbox_later"], later)
        return len(sent), len(later)
