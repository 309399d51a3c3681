"""Answers that were given to requests with an idempotency key."""

from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.views.feed import StoredAnswer


class Answers(Subject):
    """The answer that a request gets again when it comes again."""

    async def stored_answer(self, actor: str, key: str) -> StoredAnswer | None:
        """The answer that an actor's request with this idempotency key got."""
        async with self._store.unit_of_work() as work:
            return await work.one("catalog_idempotency_get", StoredAnswer, actor, key)

    async def store_answer(self, actor: str, key: str, answer: StoredAnswer) -> None:
        """Keeps an answer for its key; the first one stands."""
        async with self._store.unit_of_work() as work:
            await work.run("catalog_idempotency_put", actor, key, answer.request_hash, answer.status, answer.response)
