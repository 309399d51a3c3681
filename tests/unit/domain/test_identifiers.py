"""Names: tokens as they are compared, and transaction ids that cannot be guessed or given twice."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest

from tests.unit.domain.make import T0, token_record
from voltledger.domain.events import Authorization, AuthorizationStatus
from voltledger.domain.identifiers import normal_token, transaction_ref
from voltledger.domain.quantities import round_minor, whole_wh
from voltledger.domain.session.tokens import TokenRecord, authorize

KEY = bytes(range(16))


def test_200_000_transaction_ids_are_all_different_and_fit_a_positive_32_bit_integer() -> None:
    refs = [int(transaction_ref(number, KEY)) for number in range(1, 200_001)]
    assert len(set(refs)) == 200_000
    assert min(refs) >= 1
    assert max(refs) <= 2**31 - 1


def test_the_highest_numbers_of_the_sequence_give_valid_transaction_ids_too() -> None:
    top = [int(transaction_ref(number, KEY)) for number in range(2**31 - 1_000, 2**31 - 1)]
    assert len(set(top)) == 999
    assert all(1 <= ref <= 2**31 - 1 for ref in top)
    assert not set(top) & {int(transaction_ref(number, KEY)) for number in range(1, 1_000)}


def test_no_number_gives_transaction_0_whatever_the_key() -> None:
    for number in range(40):
        key = bytes([number])
        before = _number_behind(0, key)
        while before >= 1 << 31:
            before = _number_behind(before, key)
        assert 1 <= int(transaction_ref(before, key)) <= 2**31 - 1


def _number_behind(value: int, key: bytes) -> int:
    """The Feistel network backwards, turn by turn."""
    left, right = value >> 16, value & 0xFFFF
    for turn in reversed(range(4)):
        digest = hashlib.blake2b(left.to_bytes(2, "big") + bytes([turn]), key=key, digest_size=2).digest()
        left, right = right ^ int.from_bytes(digest, "big"), left
    return (left << 16) | right


def test_transaction_ids_cannot_be_counted_on_and_differ_between_installations() -> None:
    refs = [int(transaction_ref(number, KEY)) for number in range(1, 2_001)]
    steps = [abs(b - a) for a, b in pairwise(refs)]
    assert sum(step < 2**20 for step in steps) < 20
    assert sum(ref < 2**30 for ref in refs) in range(800, 1_200)
    other = [int(transaction_ref(number, b"another installation's key")) for number in range(1, 2_001)]
    assert len(set(refs) & set(other)) < 20


@pytest.mark.parametrize("text", ["ab12", "AB12", " Ab12 ", "\tab12\n"])
def test_tokens_are_compared_without_case_and_blanks(text: str) -> None:
    assert normal_token(text) == "AB12"


@pytest.mark.parametrize(
    ("what", "record", "status"),
    [
        ("nobody registered it", None, AuthorizationStatus.INVALID),
        ("it is good", token_record(), AuthorizationStatus.ACCEPTED),
        ("it is good until later", token_record(expires_at=T0 + timedelta(seconds=1)), AuthorizationStatus.ACCEPTED),
        ("it expires now", token_record(expires_at=T0), AuthorizationStatus.EXPIRED),
        ("it is blocked", token_record(status=AuthorizationStatus.BLOCKED), AuthorizationStatus.BLOCKED),
        (
            "it is blocked and has expired",
            token_record(status=AuthorizationStatus.BLOCKED, expires_at=T0 - timedelta(days=1)),
            AuthorizationStatus.EXPIRED,
        ),
    ],
)
def test_a_token_is_answered(what: str, record: TokenRecord | None, status: AuthorizationStatus) -> None:
    assert authorize(record, T0).status is status, what


def test_the_answer_about_a_token_tells_its_group_and_expiry() -> None:
    later = T0 + timedelta(days=1)
    assert authorize(token_record(group="FLEET", expires_at=later), T0) == Authorization(
        status=AuthorizationStatus.ACCEPTED, group="FLEET", expires_at=later
    )


@pytest.mark.parametrize(
    ("register", "wh"), [("0", 0), ("0.99", 0), ("150.02000000000001", 150), ("10997.9999", 10_997), ("-0.1", -1)]
)
def test_a_register_is_the_last_full_wh_that_it_reached(register: str, wh: int) -> None:
    assert whole_wh(Decimal(register)) == wh


@pytest.mark.parametrize(
    ("amount", "minor"),
    [("0.5", 1), ("1.5", 2), ("2.5", 3), ("2.4999", 2), ("-0.5", -1), ("24690", 24_690), ("0.4999999999999", 0)],
)
def test_money_is_rounded_to_the_nearest_unit_and_halves_away_from_zero(amount: str, minor: int) -> None:
    assert round_minor(Decimal(amount)) == minor
