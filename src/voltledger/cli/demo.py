"""The demonstration: a fleet that charges and pays, and misbehaves now and then, on a real server."""

import asyncio
import random
import secrets
from collections.abc import Coroutine, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from voltledger.bootstrap import Node
from voltledger.cli.output import out
from voltledger.config import Settings
from voltledger.domain.errors import DomainError, NotPossibleNow
from voltledger.errors import UserFacingError
from voltledger.simulator import Behaviours, simulate
from voltledger.storage.errors import StoreUnavailable

AUTONOMOUS = 18
REMOTE = 6
FORGETFUL = 1
USERS = ("Asha", "Bilal", "Chandra", "Devi", "Emil", "Farah", "Gopal", "Hana")
TOPUP_MINOR = 500_000
LOW_MINOR = 150_000
TIME_SCALE = 60.0
JOURNAL_MOST_BYTES = 2_000_000
"""Of each of the three fleets, twice: the demonstration may run for weeks."""
BEHAVIOURS = {
    "lost_response": 0.06,
    "lost_stop": 0.07,
    "reconnect": 0.08,
    "available_without_stop": 0.05,
    "orphan": 0.06,
    "duplicate_start": 0.06,
    "stop_then_hang_up": 0.05,
}


def demo_settings(settings: Settings, given: frozenset[str]) -> Settings:
    """Shorter intervals than a real site's, so that repairs are seen within two minutes.

    What the environment sets (`given`) stays.
    """
    wanted = {
        "sync_interval_s": 15.0,
        "orphan_interval_s": 15.0,
        "ghost_grace_s": 10.0,
        "orphan_grace_s": 10.0,
        "call_timeout_s": 8.0,
        "pending_start_s": 30.0,
    }
    return msgspec.structs.replace(settings, **{k: v for k, v in wanted.items() if k not in given})


async def run_demo(node: Node, stop: asyncio.Event) -> None:
    """Registers what a fleet needs and lets it charge until `stop` is set; then the stations end their sessions."""
    await node.prepared()
    passwords = await _register(node)
    out.print(f"open       {node.login_link()}   (signs you in once, within ten minutes)")
    out.print(
        f"{len(passwords)} simulated stations charge at {TIME_SCALE:.0f} times real speed; Ctrl-C stops all of it"
    )
    journal = node.settings.data / "demo-journal.jsonl"
    names = _names()
    await asyncio.gather(
        _fleet(node, names[:AUTONOMOUS], passwords, journal, stop, behaviours=Behaviours.of(BEHAVIOURS)),
        _fleet(node, _remote_names(), passwords, journal, stop, autonomous=False),
        # One station that never sends its StopTransaction and then stays free for a while: a ghost each time.
        _fleet(
            node,
            names[-FORGETFUL:],
            passwords,
            journal,
            stop,
            behaviours=Behaviours.of({"lost_stop": 1.0}),
            session_s=(300.0, 600.0),
            idle_s=(1800.0, 2400.0),
        ),
        _pay_and_start(node, stop),
        _keep_topped_up(node, stop),
    )


def _names() -> list[str]:
    return [f"DEMO-{number:02}" for number in range(1, AUTONOMOUS + REMOTE + FORGETFUL + 1)]


async def _register(node: Node) -> dict[str, str]:
    """Organisations, tariff, users, tokens and stations; what exists is left as it is."""
    passwords = _passwords(node.settings.data / "demo-stations.json")
    catalog = node.catalog
    await _once(catalog.add_organization(name="Green Way Charging", id="green-way"))
    if await catalog.tariff_of_station("DEMO-01") is None:
        await catalog.set_tariff(price_per_kwh_minor=_price(), currency=node.settings.currency)
    for name in USERS:
        await _once(catalog.add_user(name=name, currency=node.settings.currency))
        await _once(catalog.add_token(value=f"DEMO{name.upper()}", user=name.lower()))
    for number, (name, password) in enumerate(passwords.items()):
        organization = "green-way" if number % 2 else "default"
        try:
            await catalog.add_station(id=name, password=password, connectors=2, organization=organization)
        except NotPossibleNow:
            continue
    return passwords


def _price() -> Decimal:
    return Decimal(2_000)


def _passwords(path: Path) -> dict[str, str]:
    """The fleet's passwords, made on the first run and kept beside the data."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        passwords = {name: secrets.token_hex(10) for name in _names()}
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(passwords))
        return passwords


async def _once(adding: Coroutine[Any, Any, object]) -> None:
    try:
        await adding
    except NotPossibleNow:
        return


async def _fleet(
    node: Node,
    names: Sequence[str],
    passwords: dict[str, str],
    journal: Path,
    stop: asyncio.Event,
    *,
    autonomous: bool = True,
    behaviours: Behaviours | None = None,
    session_s: tuple[float, float] = (300.0, 3600.0),
    idle_s: tuple[float, float] = (60.0, 1800.0),
) -> None:
    await simulate(
        f"ws://{_reachable(node)}",
        names,
        journal=journal.with_suffix(f".{names[0]}.jsonl"),
        seed=secrets.randbits(32),
        passwords=passwords,
        tokens=[f"DEMO{name.upper()}" for name in USERS],
        autonomous=autonomous,
        connectors=2,
        time_scale=TIME_SCALE,
        session_s=session_s,
        idle_s=idle_s,
        behaviours=behaviours,
        call_timeout_s=15.0,
        retry_interval_s=5.0,
        journal_most_bytes=JOURNAL_MOST_BYTES,
        stop=stop,
    )


def _remote_names() -> list[str]:
    return _names()[AUTONOMOUS : AUTONOMOUS + REMOTE]


def _reachable(node: Node) -> str:
    host = node.settings.ocpp.host
    return f"{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{node.ocpp_port}"


async def _pay_and_start(node: Node, stop: asyncio.Event) -> None:
    """Users pay for a charge and start it from afar, now and then."""
    draw = random.Random(secrets.randbits(32))
    while not stop.is_set():
        await _wait(stop, draw.uniform(2.0, 8.0))
        station = draw.choice(_remote_names())
        try:
            await node.prepaid.start(
                station_id=station,
                connector=draw.randint(1, 2),
                user_id=draw.choice(USERS).lower(),
                amount_minor=draw.choice((10_000, 20_000, 30_000, 50_000, 80_000)),
                token=None,
                key=None,
            )
        except (DomainError, StoreUnavailable):
            continue  # In use, not connected yet, or the wallet is low: the next try is another.


async def _keep_topped_up(node: Node, stop: asyncio.Event) -> None:
    while not stop.is_set():
        try:
            for name in USERS:
                if (await node.catalog.wallet(name.lower())).balance_minor < LOW_MINOR:
                    await node.catalog.top_up(name.lower(), TOPUP_MINOR)
        except StoreUnavailable:
            pass
        await _wait(stop, 5.0)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


def refuse_foreign_database(settings: Settings) -> None:
    """The demonstration registers stations and moves money: never in somebody's real books by accident."""
    if settings.database_url and "demo" not in settings.database_url.rpartition("/")[2]:
        raise UserFacingError(
            "the demo writes stations and payments: unset DATABASE_URL, or name a database with 'demo' in its name"
        )
