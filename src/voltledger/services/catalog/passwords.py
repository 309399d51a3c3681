"""Passwords of stations: made here or given by a person; only the hash is kept."""

import asyncio
import secrets
import string

from voltledger.domain.errors import InvalidInput
from voltledger.services.credentials import hash_password

_LETTERS = string.ascii_letters + string.digits + "-_"
_LENGTH = 24
LEAST_PASSWORD = 4
"""A shorter one is refused."""
WEAK_PASSWORD = 16
"""A shorter one is taken, with a warning to people: OCPP 1.6 security wants 16 to 20 bytes (AuthorizationKey)."""


def new_password() -> str:
    """A station password that can be typed: 24 letters of 64, which is 144 bits of randomness."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))


async def secret_for(password: str | None, *, wanted: bool) -> tuple[str | None, str | None]:
    """The password and what is kept of it; both None where none is given and none is wanted."""
    if password is None:
        if not wanted:
            return None, None
        made = new_password()
        return made, hash_password(made, generated=True)
    if not LEAST_PASSWORD <= len(password) <= 128 or not password.isprintable():
        raise InvalidInput(
            "password",
            f"must be {LEAST_PASSWORD} to 128 characters without control characters, better {WEAK_PASSWORD} or more; "
            "leave it out and one is made",
        )
    return password, await asyncio.to_thread(hash_password, password, generated=False)
