"""Compacting raw payloads, cursors, amounts in words, and passwords and URLs of stations."""

from __future__ import annotations

import json

import pytest

from voltledger.api.wire import compact
from voltledger.config import Address
from voltledger.domain.errors import InvalidInput
from voltledger.services.catalog import energy_text, money_text, new_password, station_url
from voltledger.services.catalog.pages import decode_cursor, encode_cursor


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('{ "b" : 1.0,\n\t"a" : [ 1e5 , true ] }', '{"b":1.0,"a":[1e5,true]}'),
        ('{"text": "two  blanks\\n and \\" a quote"}', '{"text":"two  blanks\\n and \\" a quote"}'),
        ('{"a": 1, "a": 2}', '{"a":1,"a":2}'),
        ('{"s": "\\\\", "t": " "}', '{"s":"\\\\","t":" "}'),
        ("{}", "{}"),
    ],
)
def test_compacting_removes_only_blanks_between_parts(given: str, expected: str) -> None:
    assert compact(given) == expected
    assert json.loads(compact(given)) == json.loads(given)


def test_a_cursor_gives_back_what_it_was_made_from() -> None:
    assert decode_cursor(encode_cursor("CP-1", 7), str, int) == ("CP-1", 7)
    assert decode_cursor(None, str, int) == (None, None)


@pytest.mark.parametrize("cursor", ["", "%%%", "AAAA", encode_cursor(1), encode_cursor("a", "b", "c"), "ä"])
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        decode_cursor(cursor, str, int)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1234560, "INR", "12,345.60 INR"),
        (-5, "EUR", "-0.05 EUR"),
        (1234, "JPY", "1,234 JPY"),
        (1234, "KWD", "1.234 KWD"),
    ],
)
def test_amounts_are_written_in_the_currency_s_own_unit(amount: int, currency: str, text: str) -> None:
    assert money_text(amount, currency) == text


def test_energy_is_written_to_the_watt_hour() -> None:
    assert energy_text(12_345) == "12.345 kWh"


def test_generated_passwords_can_be_typed_and_differ() -> None:
    made = {new_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(p) == 24 and p.replace("-", "").replace("_", "").isalnum() for p in made)


def test_a_station_s_url_is_escaped_and_never_names_all_addresses() -> None:
    assert station_url(Address("127.0.0.1", 9000), "CP 1#2") == "ws://127.0.0.1:9000/CP%201%232"
    assert station_url(Address("0.0.0.0", 9000), "A") == "ws://localhost:9000/A"
    assert station_url(Address("::1", 9000), "A") == "ws://[::1]:9000/A"
