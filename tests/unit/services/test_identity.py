"""Which station a handshake is for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltledger.gateway.identity import station_id_of


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        ("/CP-1", "CP-1"),
        ("/ocpp/CP-1", "CP-1"),
        ("/a/b/c/CP-1", "CP-1"),
        ("/ocpp/CP-1/", "CP-1"),
        ("/ocpp/CP-1///", "CP-1"),
        ("/ocpp/CP-1?token=x", "CP-1"),
        ("/ocpp/CP-1/?a=/b", "CP-1"),
        ("/ocpp/CP-1#part", "CP-1"),
        ("/ws://192.168.0.5:9000/CP_1/SERIAL_1234", "SERIAL_1234"),
        ("/ocpp/RDAM%7C123", "RDAM|123"),
        ("/ocpp/RDAM|123", "RDAM|123"),
        ("/CP%2D1", "CP-1"),
        ("/CP.1", "CP.1"),
        ("/" + "a" * 48, "a" * 48),
        ("/%C3%9Cber-1", "Über-1"),
        ("/" + "%C3%9C" * 48, "Ü" * 48),
        # Decoded once: what is left is a name with a percent sign, not another name.
        ("/CP%252D1", "CP%2D1"),
        ("/a%252fb", "a%2fb"),
        ("", None),
        ("/", None),
        ("///", None),
        ("/?CP-1", None),
        ("/" + "a" * 49, None),
        ("/" + "%C3%9C" * 49, None),
        ("/a%2fb", None),
        ("/a%2Fb", None),
        ("/a%5Cb", None),
        ("/..", None),
        ("/ocpp/..", None),
        ("/%2e%2e", None),
        ("/%2E.", None),
        ("/a..b", None),
        ("/.", None),
        ("/a:b", None),
        ("/a%3Ab", None),
        ("/a%20b", None),
        ("/a b", None),
        ("/a%00b", None),
        ("/a%0Ab", None),
        ("/a%7Fb", None),
        ("/a%C2%85b", None),
        ("/a%E2%80%AEb", None),
        ("/a%23b", None),
        ("/a%3Fb", None),
        ("/a%", None),
        ("/a%4", None),
        ("/a%zz", None),
        ("/%FF%FE", None),
        ("/%C3", None),
    ],
)
def test_a_path(path: str, identity: str | None) -> None:
    assert station_id_of(path) == identity


@given(st.text(max_size=80))
def test_no_path_gives_an_identity_that_could_do_harm(path: str) -> None:
    identity = station_id_of(path)
    if identity is not None:
        assert 1 <= len(identity) <= 48
        assert identity.isprintable()
        assert not set(identity) & set("/\\:?# \x00")
        assert ".." not in identity
