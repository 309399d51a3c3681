"""Stations' passwords: never kept, quickly checked when thousands come back at once.

A password that this system made is random enough for one fast keyed hash. One that a person chose
gets scrypt, small enough for a handshake (about 8 ms), and a check that succeeded is remembered in
memory until the password changes, so that a reconnection storm costs one hash a station.
"""

import base64
import binascii
import hashlib
import hmac
import os

SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 12, 8, 1
MAX_REMEMBERED = 200_000


def hash_password(password: str, *, generated: bool) -> str:
    """The text to keep for a password; `generated` ones are random and at least 16 bytes strong."""
    salt = os.urandom(16)
    if generated:
        return f"fast${salt.hex()}${_fast(password.encode(), salt).hex()}"
    return f"scrypt${salt.hex()}${_slow(password.encode(), salt).hex()}"


def verify_password(given: bytes, stored: str) -> bool:
    """Whether the bytes that a station sent are the password.

    Stations hold keys as text or as hex digits, and send either form (OCPP 1.6 security extension,
    AuthorizationKey), so the text, its bytes and its hex digits all count.
    """
    kind, salt_hex, digest_hex = stored.split("$")
    make = _fast if kind == "fast" else _slow
    salt, digest = bytes.fromhex(salt_hex), bytes.fromhex(digest_hex)
    return any(hmac.compare_digest(make(form, salt), digest) for form in _forms(given))


def _forms(given: bytes) -> list[bytes]:
    if len(given) > 256:
        return []
    forms = [given, given.hex().encode(), given.hex().upper().encode()]
    try:
        forms.append(bytes.fromhex(given.decode("ascii")))
    except (ValueError, UnicodeDecodeError):
        pass
    return forms


def _fast(password: bytes, salt: bytes) -> bytes:
    return hashlib.blake2b(password, key=salt, digest_size=32, person=b"voltledger").digest()


def _slow(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P, dklen=32)


class PasswordCheck:
    """Checks passwords and remembers, in memory only, which one was right for which stored text."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._right: dict[str, bytes] = {}

    def remembers(self, given: bytes, stored: str) -> bool:
        """Whether this very password was right before; costs a microsecond."""
        known = self._right.get(stored)
        return known is not None and hmac.compare_digest(known, self._mark(given))

    def __call__(self, given: bytes, stored: str) -> bool:
        """Whether `given` is the password behind `stored`."""
        if self.remembers(given, stored):
            return True
        if not verify_password(given, stored):
            return False
        if len(self._right) > MAX_REMEMBERED:
            self._right.clear()
        self._right[stored] = self._mark(given)
        return True

    def _mark(self, given: bytes) -> bytes:
        return hashlib.blake2b(given, key=self._key, digest_size=16).digest()


def basic_credentials(header: str | None) -> tuple[bytes, bytes] | None:
    """User name and password of a Basic Authorization header, as bytes; None if there are none."""
    if header is None or len(header) > 4096:
        return None
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None
