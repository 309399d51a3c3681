"""Logins of the page: codes work once and not for long, cookies end by themselves."""

from __future__ import annotations

from typing import Any, cast

import pytest

from voltledger.dashboard.logins import CODE_S, IDLE_S, LIFETIME_S, MOST, Sessions
from voltledger.services.catalog import Actor


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Keys:
    """Knows one key a role."""

    async def actor_of(self, key: str) -> Actor | None:
        return Actor(id="k", role=key.removeprefix("key-")) if key.startswith("key-") else None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(clock: Clock) -> Sessions:
    return Sessions(cast(Any, Keys()), clock=clock)


def test_a_code_logs_in_once_as_a_viewer(sessions: Sessions) -> None:
    code = sessions.make_login_code()
    actor = sessions.actor_of(sessions.login_with_code(code))
    assert actor is not None
    assert actor.role == "viewer"
    assert sessions.login_with_code(code) is None


def test_a_code_is_worth_nothing_after_ten_minutes(sessions: Sessions, clock: Clock) -> None:
    code = sessions.make_login_code()
    clock.now += CODE_S
    assert sessions.login_with_code(code) is None


def test_an_invented_code_or_cookie_is_worth_nothing(sessions: Sessions) -> None:
    assert sessions.login_with_code("guess") is None
    assert sessions.actor_of("guess") is None
    assert sessions.actor_of(None) is None


async def test_a_key_logs_in_with_its_role_unless_it_is_a_driver_s(sessions: Sessions) -> None:
    actor = sessions.actor_of(await sessions.login_with_key(" key-admin "))
    assert actor is not None
    assert actor.role == "admin"
    assert await sessions.login_with_key("key-driver") is None
    assert await sessions.login_with_key("nonsense") is None


def test_a_login_ends_when_it_is_not_used(sessions: Sessions, clock: Clock) -> None:
    cookie = sessions.login_with_code(sessions.make_login_code())
    clock.now += IDLE_S - 1
    assert sessions.actor_of(cookie) is not None
    clock.now += IDLE_S - 1
    assert sessions.actor_of(cookie) is not None
    clock.now += IDLE_S
    assert sessions.actor_of(cookie) is None


def test_a_login_ends_after_twelve_hours_in_any_case(sessions: Sessions, clock: Clock) -> None:
    cookie = sessions.login_with_code(sessions.make_login_code())
    for _ in range(LIFETIME_S // 600):
        assert sessions.actor_of(cookie) is not None
        clock.now += 600
    assert sessions.actor_of(cookie) is None


def test_logging_out_ends_the_login_at_once(sessions: Sessions) -> None:
    cookie = sessions.login_with_code(sessions.make_login_code())
    sessions.logout(cookie)
    assert sessions.actor_of(cookie) is None


def test_the_oldest_code_gives_way_when_there_are_too_many(sessions: Sessions) -> None:
    first = last = sessions.make_login_code()
    for _ in range(MOST):
        last = sessions.make_login_code()
    assert sessions.login_with_code(first) is None
    assert sessions.login_with_code(last) is not None
