"""Passwords of stations: the forms that they come in, and what is remembered."""

from __future__ import annotations

import base64

import pytest

from voltledger.services import credentials
from voltledger.services.credentials import PasswordCheck, basic_credentials, hash_password, verify_password

HEX_KEY = "0001020304ff05060708090a0b0c0d0e0f101112"
TEXT_KEY = "test1234test1234"


@pytest.mark.parametrize("generated", [True, False])
@pytest.mark.parametrize(
    ("what", "stored", "given", "right"),
    [
        ("the very text", TEXT_KEY, TEXT_KEY.encode(), True),
        ("its hex digits", TEXT_KEY, TEXT_KEY.encode().hex().encode(), True),
        ("its hex digits in capitals", TEXT_KEY, TEXT_KEY.encode().hex().upper().encode(), True),
        ("a hex key as text", HEX_KEY, HEX_KEY.encode(), True),
        ("a hex key decoded to bytes", HEX_KEY, bytes.fromhex(HEX_KEY), True),
        ("a hex key in capitals, decoded", HEX_KEY.upper(), bytes.fromhex(HEX_KEY), True),
        ("a hex key of printable bytes, decoded", TEXT_KEY.encode().hex(), TEXT_KEY.encode(), True),
        ("another text", TEXT_KEY, b"test1234test1235", False),
        ("a part of it", TEXT_KEY, b"test1234", False),
        ("more than it", TEXT_KEY, TEXT_KEY.encode() + b"x", False),
        ("nothing", TEXT_KEY, b"", False),
        ("another letter case", TEXT_KEY, TEXT_KEY.upper().encode(), False),
        ("bytes that are no text", TEXT_KEY, b"\xff\xfe\x00", False),
        ("very many bytes", TEXT_KEY, b"a" * 100_000, False),
        ("letters beyond ASCII", "pässwörd-pässwörd", "pässwörd-pässwörd".encode(), True),
    ],
)
def test_a_password_is_recognised_in_the_forms_that_stations_send(
    what: str, stored: str, given: bytes, right: bool, generated: bool
) -> None:
    assert verify_password(given, hash_password(stored, generated=generated)) is right, what


def test_the_stored_text_holds_no_password_and_differs_each_time() -> None:
    first, second = (hash_password(TEXT_KEY, generated=True) for _ in range(2))
    assert first != second
    assert TEXT_KEY not in first
    assert TEXT_KEY.encode().hex() not in first


def test_a_password_of_a_person_is_hashed_slowly_and_a_generated_one_fast() -> None:
    assert hash_password(TEXT_KEY, generated=False).startswith("scrypt$")
    assert hash_password(TEXT_KEY, generated=True).startswith("fast$")


def test_a_right_password_is_checked_slowly_once_and_a_wrong_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = hash_password(TEXT_KEY, generated=False)
    asked: list[bytes] = []

    def counted(given: bytes, text: str) -> bool:
        asked.append(given)
        return verify_password(given, text)

    monkeypatch.setattr(credentials, "verify_password", counted)
    check = PasswordCheck()
    assert not check.remembers(TEXT_KEY.encode(), stored)
    assert [check(TEXT_KEY.encode(), stored) for _ in range(3)] == [True, True, True]
    assert len(asked) == 1
    assert [check(b"wrong", stored) for _ in range(2)] == [False, False]
    assert len(asked) == 3
    assert check.remembers(TEXT_KEY.encode(), stored)


def test_a_remembered_password_is_forgotten_with_its_stored_text() -> None:
    check = PasswordCheck()
    assert check(TEXT_KEY.encode(), hash_password(TEXT_KEY, generated=True))
    changed = hash_password("another-password", generated=True)
    assert not check.remembers(TEXT_KEY.encode(), changed)
    assert not check(TEXT_KEY.encode(), changed)


def test_what_is_remembered_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_REMEMBERED", 10)
    check = PasswordCheck()
    hashes = [hash_password(TEXT_KEY, generated=True) for _ in range(30)]
    assert all(check(TEXT_KEY.encode(), stored) for stored in hashes)
    assert sum(check.remembers(TEXT_KEY.encode(), stored) for stored in hashes) <= 11


def _basic(user: bytes, password: bytes) -> str:
    return "Basic " + base64.b64encode(user + b":" + password).decode()


BINARY = bytes(range(246, 256)) + bytes(10)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (_basic(b"CP-1", b"pw"), (b"CP-1", b"pw")),
        (_basic(b"CP-1", b""), (b"CP-1", b"")),
        (_basic(b"", b"pw"), (b"", b"pw")),
        (_basic(b"CP-1", b"a:b:c"), (b"CP-1", b"a:b:c")),
        (_basic(b"CP-1", BINARY), (b"CP-1", BINARY)),
        ("bAsIc" + _basic(b"CP-1", b"pw")[5:], (b"CP-1", b"pw")),
        ("  " + _basic(b"CP-1", b"pw") + " ", (b"CP-1", b"pw")),
        (None, None),
        ("", None),
        ("Basic", None),
        ("Basic !!!", None),
        ("Basic " + base64.b64encode(b"no colon").decode(), None),
        ("Bearer abc", None),
        ("Basic " + "A" * 10_000, None),
        ("Basic Q1A\u00fc", None),
    ],
)
def test_a_basic_header_is_read_as_bytes_and_anything_else_is_no_credentials(
    header: str | None, found: tuple[bytes, bytes] | None
) -> None:
    assert basic_credentials(header) == found
