"""Effects outside the database: sent after the commit that caused them, marked after they were sent."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from voltledger.failpoints import ARMED, fp
from voltledger.logs import get_logger, log_failure
from voltledger.storage.postgres.pool import Connection, Database
from voltledger.storage.postgres.queries import SQL
from voltledger.storage.postgres.rows import columns_of, safe_text

log = get_logger(__name__)


class PostgresOutbox:
    """See `sync.workers.OutboxStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def send_waiting(self, send: Callable[[str, Any], Awaitable[bool]], limit: int) -> tuple[int, int]:
        """Sends up to `limit` effects in the order they were caused.

        The rows stay locked while they are sent: a crash in between sends them again, never not at all.
        One that fails for a reason of its own waits, longer each time, and does not stop the others; how often it was
        tried and why it failed stand in its row.
        """
        async with self._database.unit_of_work() as connection:
            rows = await connection.fetch(SQL["outbox_claim"], limit)
            if ARMED and rows:
                await fp("outbox.claimed")
            outcome, failed = await _send_each(rows, send)
            if ARMED and rows:
                await fp("outbox.delivered")
            sent = [row_id for row_id, done in outcome.items() if done]
            later = [row_id for row_id, done in outcome.items() if not done]
            if sent:
                await connection.execute(SQL["outbox_sent"], sent)
            if later:
                await connection.execute(SQL["outbox_later"], later)
            await _put_off(connection, failed)
        if ARMED and sent:
            await fp("outbox.marked")
        return len(sent), len(later) + len(failed)


async def _send_each(
    rows: Sequence[Any], send: Callable[[str, Any], Awaitable[bool]]
) -> tuple[dict[int, bool], list[tuple[int, str]]]:
    """What became of each effect: sent, its target is away, or failed with a problem."""
    outcome: dict[int, bool] = {}
    failed = []
    for row in rows:
        try:
            outcome[row["id"]] = await send(row["target"], row["payload"])
        except Exception as error:
            log_failure(
                log,
                "an effect failed; it is tried again later",
                target=row["target"],
                effect=row["effect_key"],
                attempts=row["attempts"] + 1,
                exc_info=error,
            )
            failed.append((row["id"], safe_text(f"{type(error).__name__}: {error}"[:500])))
    return outcome, failed


async def _put_off(connection: Connection, failed: Sequence[tuple[int, str]]) -> None:
    if failed:
        await connection.execute(SQL["outbox_failed"], *columns_of(failed, 2))
