"""--help of every command, group and sub-command: it works, and it has an example."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from cyclopts import App

from tests.integration.cli.conftest import Cli
from voltledger.cli.app import app
from voltledger.config import describe_settings

CONTRACT = {"serve", "demo", "simulate", "migrate", "doctor", "reconcile", "explain"}
GROUPS = {"station", "token", "user", "org", "wallet", "tariff", "apikey", "session", "finding"}


def _commands(of: App, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in of:
        if name.startswith("-"):
            continue
        inner = of[name]
        within = list(_commands(inner, (*words, name)))
        yield from within or [(*words, name)]


COMMANDS = sorted(_commands(app))


def test_every_command_of_the_contract_exists() -> None:
    assert {words[0] for words in COMMANDS} >= CONTRACT
    assert {words[0] for words in COMMANDS if len(words) == 2} >= GROUPS
    for words in (("station", "add"), ("token", "add"), ("user", "add"), ("wallet", "topup"), ("tariff", "set")):
        assert words in COMMANDS


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_works_and_has_an_example_that_names_the_command(cli: Cli, words: tuple[str, ...]) -> None:
    status, out, err = cli(*words, "--help")
    assert (status, err) == (0, "")
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", out)
    assert f"Example: voltledger {' '.join(words)}" in text
    options = text.split("Example:")[1]
    if words[0] not in ("serve", "demo", "simulate"):
        assert "--json" in options


def test_help_of_serve_shows_every_setting(cli: Cli) -> None:
    _, out, _ = cli("serve", "--help")
    for row in describe_settings():
        assert row.variable in out, f"{row.variable} is not shown"


def test_help_and_version_of_the_whole(cli: Cli) -> None:
    status, out, _ = cli("--help")
    assert status == 0
    for name in CONTRACT | GROUPS:
        assert name in out
    status, out, _ = cli("--version")
    assert (status, bool(re.fullmatch(r"\d+\.\d+\.\d+\S*", out.strip()))) == (0, True)
