"""Names of things, as types, so that one cannot be passed for another."""

import hashlib
from typing import NewType
from uuid import UUID

StationId = NewType("StationId", str)
"""Identity in the station's URL, percent-decoded once, 1..48 characters."""

SessionId = NewType("SessionId", UUID)
"""Our charging session; a version 7 UUID, so that identifiers sort by time of creation."""

TransactionRef = NewType("TransactionRef", str)
"""OCPP's transaction as text; it means something only together with its station."""

UserId = NewType("UserId", str)
OrganizationId = NewType("OrganizationId", str)
TokenValue = NewType("TokenValue", str)
"""A token as compared: trimmed and upper-cased (see `normal_token`)."""

IdempotencyKey = NewType("IdempotencyKey", str)


def normal_token(text: str) -> TokenValue:
    """The form in which tokens are compared: stations change case and pad with blanks."""
    return TokenValue(text.strip().upper())


TRANSACTION_REF_BITS = 31


def transaction_ref(number: int, key: bytes) -> TransactionRef:
    """The OCPP transaction id behind a sequence number: unique, 1..2^31-1, and not to be guessed.

    A permutation of the 31-bit numbers (a Feistel network over 32 bits, walked until the result
    fits), so that two numbers never give the same id. `key` is the installation's own.
    """
    value = number
    while True:
        value = _feistel(value, key)
        if 1 <= value < 1 << TRANSACTION_REF_BITS:
            return TransactionRef(str(value))


def _feistel(value: int, key: bytes) -> int:
    left, right = value >> 16, value & 0xFFFF
    for turn in range(4):
        digest = hashlib.blake2b(right.to_bytes(2, "big") + bytes([turn]), key=key, digest_size=2).digest()
        left, right = right, left ^ int.from_bytes(digest, "big")
    return (left << 16) | right
