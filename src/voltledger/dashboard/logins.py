"""Logins of browsers: kept in memory only, so that a restart asks for the key again.

Rules: the cookie holds 32 random bytes and we keep only their hash; a login ends after 30 minutes without
a request and after 12 hours in any case; a login code works once, within ten minutes.
"""

import hashlib
import secrets
import time
from collections.abc import Callable

import msgspec

from voltledger.services.catalog import Actor, Catalog

IDLE_S = 30 * 60
LIFETIME_S = 12 * 3600
CODE_S = 10 * 60
MOST = 1000
"""How many logins and codes there may be at once; the oldest one gives way."""


class _Login(msgspec.Struct):
    actor: Actor
    idle_until: float
    ends: float


class Sessions:
    """The logins of browsers; see the module for their rules. `clock` counts seconds."""

    def __init__(self, catalog: Catalog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._catalog = catalog
        self._clock = clock
        self._logins: dict[bytes, _Login] = {}
        self._codes: dict[bytes, float] = {}

    def make_login_code(self) -> str:
        """A code for `/login?code=...`, good once and for ten minutes; whoever has it may see everything."""
        code = secrets.token_urlsafe(24)
        _make_room(self._codes)
        self._codes[_digest(code)] = self._clock() + CODE_S
        return code

    def login_with_code(self, code: str) -> str | None:
        """The cookie's value for a code, which is used up; None when it is not, or no longer, good."""
        until = self._codes.pop(_digest(code), None)
        if until is None or until <= self._clock():
            return None
        return self._begin(Actor(id="login code", role="viewer"))

    async def login_with_key(self, key: str) -> str | None:
        """The cookie's value for an API key; None when it is not valid, or a driver's.

        Raises: StoreUnavailable.
        """
        actor = await self._catalog.actor_of(key.strip())
        if actor is None or actor.role == "driver":
            return None
        return self._begin(actor)

    def actor_of(self, cookie: str | None) -> Actor | None:
        """Whose login a cookie is; using it keeps it alive."""
        if not cookie:
            return None
        login = self._logins.get(_digest(cookie))
        now = self._clock()
        if login is None or now >= min(login.idle_until, login.ends):
            self.logout(cookie)
            return None
        login.idle_until = now + IDLE_S
        return login.actor

    def logout(self, cookie: str | None) -> None:
        """Ends a login; nothing happens when there is none."""
        if cookie:
            self._logins.pop(_digest(cookie), None)

    def _begin(self, actor: Actor) -> str:
        cookie = secrets.token_urlsafe(32)
        now = self._clock()
        _make_room(self._logins)
        self._logins[_digest(cookie)] = _Login(actor=actor, idle_until=now + IDLE_S, ends=now + LIFETIME_S)
        return cookie


def _make_room(kept: dict[bytes, _Login] | dict[bytes, float]) -> None:
    while len(kept) >= MOST:
        del kept[next(iter(kept))]


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
