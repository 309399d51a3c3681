"""Keys to the API: shown once, kept as a hash, and remembered for two seconds where they are used."""

import hashlib
import secrets
import time
from datetime import datetime
from typing import Literal

from voltledger.config import Address
from voltledger.domain.errors import InvalidInput
from voltledger.services.catalog.pages import MAX_PAGE
from voltledger.services.catalog.store import CatalogStore, change
from voltledger.services.catalog.subject import Subject
from voltledger.services.catalog.values import text_of
from voltledger.services.catalog.views.base import Page, Value
from voltledger.services.catalog.views.people import Actor, ApiKey, ApiKeyAdded

Role = Literal["viewer", "operator", "finance", "admin", "driver"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "finance", "admin", "driver")
_CACHE_S = 2.0
_CACHE_SIZE = 10_000


class Keys(Subject):
    """Keys to the API and who they belong to."""

    def __init__(self, store: CatalogStore, *, ocpp: Address, currency: str = "INR") -> None:
        super().__init__(store, ocpp=ocpp, currency=currency)
        self._actors: dict[bytes, tuple[Actor | None, float]] = {}

    async def add_key(
        self, *, role: str, name: str = "", user: str | None = None, expires_at: datetime | None = None
    ) -> ApiKeyAdded:
        """Makes a key: 32 random bytes, shown this once. A `driver` key needs its user, others have none."""
        if role not in ROLES:
            raise InvalidInput("role", f"must be one of {', '.join(ROLES)}")
        if (role == "driver") != (user is not None):
            raise InvalidInput("user", "must be given for the role driver, and only for it")
        key = f"vl_{secrets.token_urlsafe(32)}"
        key_id = f"key_{secrets.token_hex(6)}"
        label = text_of("name", name, most=200, least=0)
        async with self._store.unit_of_work() as work:
            await work.one("catalog_key_add", Value, key_id, _digest(key), role, label, user, expires_at)
        return ApiKeyAdded(key=key, id=key_id, role=role)

    async def keys(self) -> Page[ApiKey]:
        """The newest keys, without their secrets."""
        async with self._store.unit_of_work() as work:
            return Page(items=await work.many("catalog_keys", ApiKey, MAX_PAGE))

    async def revoke_key(self, id: str) -> None:
        """Ends a key: here at once, on other nodes within two seconds. Raises: NotFound."""
        async with self._store.unit_of_work() as work:
            await change(work, "catalog_key_revoke", id, what=f"key {id}")
        self._actors.clear()

    async def actor_of(self, key: str) -> Actor | None:
        """Who a key belongs to, or None; remembered for two seconds, by its hash only.

        Raises: StoreUnavailable.
        """
        digest = _digest(key)
        known = self._actors.get(digest)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        async with self._store.unit_of_work() as work:
            actor = await work.one("catalog_key_by_hash", Actor, digest)
        if len(self._actors) >= _CACHE_SIZE:
            self._actors.clear()
        self._actors[digest] = (actor, time.monotonic() + _CACHE_S)
        return actor


def _digest(key: str) -> bytes:
    """Keys are random, so that one round of a fast hash protects them."""
    return hashlib.sha256(key.encode()).digest()
