"""Imports point inward. The rules are the table `MAY_IMPORT`; the checker only reads source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

# Who may import what of ours. A part that is not named here may not be imported into a part that is.
# Every part may import itself and the parts in EVERYWHERE, except where `domain` says otherwise.
EVERYWHERE = {"errors", "config", "logs", "failpoints"}
PORTS = ("storage.ports", "storage.errors")
MAY_IMPORT: dict[str, set[str]] = {
    "domain": set(),
    "services": {"domain", *PORTS},
    "ocpp": {"domain"},
    "ocpp.v16": {"domain", "ocpp"},
    "ocpp.v2": {"domain", "ocpp"},
    "storage": {"domain"},
    "gateway": {"services", "domain", "ocpp", *PORTS},
    "sync": {"services", "domain", *PORTS},
    "api": {"services", "domain", *PORTS, "ocpp"},
    "dashboard": {"services", "domain", *PORTS, "api"},
    "cli": {
        "services",
        "domain",
        *PORTS,
        "bootstrap",
        "checker",
        "embedded",
        "simulator",
        "api",
        "sync",
        "ocpp",
    },
    "simulator": {"ocpp"},
    "embedded": set(),
    "checker": set(),
    "config": set(),
    "errors": set(),
    "logs": set(),
}
# `domain` is pure: it may use none of ours, not even the settings, and nothing that waits,
# guesses or looks around.
PURE = "domain"
IMPURE_MODULES = {
    "asyncio",
    "asyncpg",
    "http",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "redis",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "structlog",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    "uuid_utils",
    "websockets",
}
# The checker judges the others, so it shares no code with them, and needs little besides.
SEALED = "checker"
SEALED_NEEDS = {"asyncpg", "msgspec"}
IMPURE_CALLS = {"now", "utcnow", "today", "uuid1", "uuid4", "uuid7", "open", "print", "input"}
# Only `bootstrap` knows concrete storage, which is these folders; `migrate` needs the runner alone.
CONCRETE_STORAGE = ("storage.postgres", "storage.redis", "storage.memory")
MAY_KNOW_CONCRETE_STORAGE = {"bootstrap", "storage"}
ALLOWED_EXCEPTIONS = {("cli", "storage.postgres.migrate")}


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What the source of a module (`domain.session.decide`, without `voltledger`) does against the rules."""
    tree = ast.parse(source)
    return [*_import_violations(module, tree, is_package), *_impurities(module, tree)]


def _import_violations(module: str, tree: ast.AST, is_package: bool) -> Iterator[str]:
    part = _part(module)
    for line, target in _imports(module, tree, is_package):
        if not target.startswith("voltledger"):
            if part.split(".")[0] == PURE and _is_impure(target):
                yield f"{module}:{line} is pure and imports {target}"
            if part == SEALED and target.split(".")[0] not in sys.stdlib_module_names | SEALED_NEEDS:
                yield f"{module}:{line} is sealed and imports {target}"
            continue
        inner = target.removeprefix("voltledger").lstrip(".")
        if inner and not _may(part, inner):
            yield f"{module}:{line} imports {inner}"


def _may(part: str, target: str) -> bool:
    top = part.split(".")[0]
    if any(top == who and _within(target, what) for who, what in ALLOWED_EXCEPTIONS):
        return True
    if any(_within(target, concrete) for concrete in CONCRETE_STORAGE) and top not in MAY_KNOW_CONCRETE_STORAGE:
        return False
    if {part, _part(target)} == {"ocpp.v16", "ocpp.v2"}:
        return False
    if _within(target, top):
        return True
    if top not in MAY_IMPORT:  # bootstrap, __main__ and whatever else starts the program
        return True
    if top not in (PURE, SEALED) and target.split(".")[0] in EVERYWHERE | {"__version__"}:
        return True
    return any(_within(target, allowed) for allowed in MAY_IMPORT.get(part, MAY_IMPORT[top]))


def _impurities(module: str, tree: ast.AST) -> Iterator[str]:
    if _part(module).split(".")[0] != PURE:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await):
            yield f"{module}:{node.lineno} is pure and awaits"
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in IMPURE_CALLS:
                yield f"{module}:{node.lineno} is pure and calls {name}()"


def _imports(module: str, tree: ast.AST, is_package: bool) -> Iterator[tuple[int, str]]:
    """All imports, absolute, each with its line: also local ones and those for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node, is_package)
            yield from ((node.lineno, f"{base}.{alias.name}" if base else alias.name) for alias in node.names)


def _absolute(module: str, node: ast.ImportFrom, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = ["voltledger", *module.split(".")]
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _part(module: str) -> str:
    """The row of the table a module belongs to: its folder, for `ocpp` its version's folder."""
    parts = module.split(".")
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ("ocpp.v16", "ocpp.v2") else parts[0]


def _within(target: str, part: str) -> bool:
    return target == part or target.startswith(part + ".")


def _is_impure(target: str) -> bool:
    return any(_within(target, impure) for impure in IMPURE_MODULES)


def _modules() -> list[tuple[str, Path, bool]]:
    found = []
    for path in sorted((SOURCE / "voltledger").rglob("*.py")):
        parts = path.relative_to(SOURCE / "voltledger").with_suffix("").parts
        is_package = parts[-1] == "__init__"
        found.append((".".join(parts[:-1] if is_package else parts), path, is_package))
    return found


def test_imports_point_inward() -> None:
    found = [
        violation
        for module, path, is_package in _modules()
        if module
        for violation in violations(module, path.read_text(encoding="utf-8"), is_package=is_package)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("domain.session.decide", "from voltledger.services import sessions"),
        ("domain.session.decide", "from voltledger.config import Settings"),
        ("domain.session.decide", "from ...storage import ports"),
        ("domain.session.decide", "import asyncio"),
        ("domain.session.decide", "from time import time"),
        ("domain.session.decide", "import os.path"),
        ("domain.session.decide", "from random import choice"),
        ("domain.session.decide", "import socket as s"),
        ("domain.session.decide", "def f():\n    import secrets"),
        ("domain.session.decide", "import datetime\nx = datetime.datetime.now()"),
        ("domain.session.decide", "from datetime import datetime\nx = datetime.now(UTC)"),
        ("domain.session.decide", "async def f(): pass"),
        ("domain.session.decide", "open('x')"),
        ("services.sessions", "from voltledger.storage.postgres import store"),
        ("services.sessions", "from voltledger.storage import postgres"),
        ("services.sessions", "from voltledger import gateway"),
        ("services.sessions", "import voltledger.ocpp.rpc"),
        ("ocpp.rpc", "from voltledger.services import sessions"),
        ("ocpp.v16.core", "from voltledger.ocpp.v2 import types"),
        ("ocpp.v16.core", "from ..v2 import types"),
        ("ocpp.v2.transactions", "from voltledger.ocpp.v16.types import X"),
        ("ocpp.v2", "from ..v16 import types"),
        ("gateway.server", "from voltledger.storage.postgres import store"),
        ("gateway.server", "from voltledger.storage.redis.cache import Cache"),
        ("api.routes", "from voltledger.storage.memory import Store"),
        ("cli.stations", "from voltledger.storage.postgres.store import Store"),
        ("simulator.station", "from voltledger.services import sessions"),
        ("storage.postgres.store", "from voltledger.services import sessions"),
        ("sync.loops", "from voltledger.gateway import server"),
        ("embedded.postgres", "from voltledger.storage.postgres import migrate"),
        ("domain.a", "if TYPE_CHECKING:\n    from voltledger.ocpp import rpc"),
        ("checker.rules.money", "from voltledger.domain.billing.charges import charge_session"),
        ("checker.journals", "from voltledger.simulator.journal import Kind"),
        ("checker.judging", "from voltledger.errors import UserFacingError"),
        ("checker.judging", "from voltledger import __version__"),
        ("checker.dump", "from voltledger.storage.ports import FactKey"),
        ("checker.redis_state", "from redis.asyncio import Redis"),
        ("services.intake", "from voltledger.checker import judge"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert violations(module, source) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "domain.session.decide",
            "from voltledger.domain.ledger import entries\nfrom decimal import Decimal",
        ),
        ("domain.session.decide", "from datetime import datetime, timedelta\nfrom ..events import Started"),
        (
            "services.sessions",
            "from voltledger.storage.ports import UnitOfWork\nfrom voltledger.domain import events",
        ),
        ("services.sessions", "import asyncio, time"),
        ("ocpp.v16.core", "from voltledger.ocpp import rpc\nfrom . import types"),
        ("gateway.server", "from voltledger.ocpp.v16 import core\nfrom voltledger.config import Settings"),
        ("storage.postgres.store", "from voltledger.storage.ports import X\nimport asyncpg"),
        ("cli.migrate", "from voltledger.storage.postgres.migrate import migrate"),
        ("bootstrap", "from voltledger.storage.postgres import store\nfrom voltledger.gateway import server"),
        ("simulator.station", "from voltledger.ocpp import rpc"),
        ("checker.dump", "import asyncpg, msgspec\nfrom voltledger.checker.errors import CheckerError"),
        ("cli.verify", "from voltledger.checker import verify"),
        ("api.routes", "from voltledger import __version__"),
    ],
)
def test_a_proper_import_is_left_alone(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_relative_imports_of_a_package_count_from_the_package() -> None:
    assert violations("ocpp.v2", "from . import types", is_package=True) == []
    assert violations("ocpp.v2", "from ..v16 import types", is_package=True) == ["ocpp.v2:1 imports ocpp.v16.types"]
