"""What the documents tell people to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.integration.cli.conftest import Cli
from voltledger.cli.demo import USERS

ROOT = Path(__file__).parents[3]


def _statements() -> list[str]:
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sql\n(.*?)```", page, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if not line.startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";") if statement.strip()]


def test_the_statements_for_operators_can_be_run(cli: Cli) -> None:
    statements = _statements()
    assert len(statements) >= 5
    for statement in statements:
        status, _, err = cli("sql", statement)
        assert (status, err) == (0, ""), statement


def test_the_columns_for_operators_are_those_of_the_views(cli: Cli) -> None:
    page = (ROOT / "docs/operating.md").read_text(encoding="utf-8")
    for view in ("ChargePoint", "ChargeSession", "WalletTransaction"):
        (row,) = re.findall(rf'^\| `"{view}"` \|(.*)\|$', page, flags=re.MULTILINE)
        named = {name.strip('"') for name in re.findall(r"`([^`]+)`", row)} - {"voltledger station"}
        there = {
            found["column_name"]
            for found in cli.lines(
                "sql", f"SELECT column_name FROM information_schema.columns WHERE table_name = '{view}'"
            )
        }
        assert named == there, view


def test_the_steps_of_the_readme_work_beside_the_demo_s_users(cli: Cli) -> None:
    """`make run` first, then the steps with a real station, in one database."""
    for name in USERS:
        cli.json("user", "add", name, "--currency", "INR")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = [
        shlex.split(part.strip(), comments=True)[1:]
        for line in readme.splitlines()
        if line.startswith("./voltledger")
        for part in line.split(" && ")
    ]
    skipped = ("serve", "simulate", "doctor", "explain")
    done = [w for w in words if w[0] not in skipped]
    assert len(done) >= 8
    for command in done:
        status, _, err = cli(*command)
        assert (status, err) == (0, ""), command
