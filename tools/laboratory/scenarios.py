"""What stations and people do in a cell, until everything that they wanted has happened.

A scenario knows nothing of the fault. It insists as real stations and programs do: a station resends by its rules,
a caller of the API sends the same request with the same key again until it gets an answer.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
from websockets.exceptions import WebSocketException

from tools.laboratory.station import Station, Visit
from tools.laboratory.world import STATIONS, TOKEN, USER, LabFailed, Site, until
from voltledger.simulator.connection import Address, open_socket

PATIENCE_S = 60.0
"""How long a scenario insists. Longer than any hold, wait and back-off in the program together."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """What a scenario works with. `topped_up_minor` is what it put into the wallet."""

    site: Site
    station: Station
    draw: random.Random
    fault: Callable[[], Awaitable[None]]  # waits until the fault has been healed
    topped_up_minor: int = 0


Scenario = Callable[[Stage], Coroutine[Any, Any, None]]


async def visit(stage: Stage) -> None:
    """A local start, two meter values, a stop."""
    car = _arrive(stage, TOKEN)
    _charge_and_leave(stage, car)
    await _delivered(stage)


async def status(stage: Stage) -> None:
    """A status, said again until it is answered, then a visit."""
    await _say_status(stage, 1, "Preparing")
    await visit(stage)


async def _say_status(stage: Stage, connector: int, what: str) -> None:
    while not await stage.station.status(connector, what):
        await asyncio.wait_for(stage.station.online.wait(), PATIENCE_S)
        await asyncio.sleep(0.05)


async def nameless(stage: Stage) -> None:
    """The station loses the answer to its start, and says -1 at the stop."""
    stage.station.ignores = "StartTransaction"
    car = _arrive(stage, TOKEN)
    stage.station.end(car, car.start_wh + stage.draw.randint(1, 9_000), 15)
    await _delivered(stage)


async def takeover(stage: Stage) -> None:
    """While the station charges, a second socket under its name says something."""
    car = _arrive(stage, TOKEN)
    await _delivered(stage)
    for _ in range(3):
        if await _second_socket(stage):
            break
    _charge_and_leave(stage, car)
    await _delivered(stage)


async def _second_socket(stage: Stage) -> bool:
    name = stage.station.name
    address = Address(url=stage.site.url, station=name, password=stage.station.password)
    try:
        socket = await open_socket(address)
        try:
            await socket.send('[2,"second","Heartbeat",{}]')
            await asyncio.wait_for(socket.recv(), 10)
        finally:
            await socket.close()
    except (OSError, WebSocketException, TimeoutError):
        await asyncio.sleep(0.1)
        return False
    return True


async def prepaid(stage: Stage) -> None:
    """Somebody pays, and the station begins when it is asked to; or is never asked, and the money comes back."""
    station = stage.station
    cars: list[Visit] = []

    def obey(action: str, payload: dict[str, Any]) -> dict[str, Any]:
        if action == "RemoteStartTransaction":
            car = station.begin(
                connector=payload["connectorId"], token=payload["idTag"], register_wh=stage.draw.randint(0, 99_999)
            )
            cars.append(car)
            _charge_and_leave(stage, car)
        return {"status": "Accepted"}

    station.on_command = obey
    await asyncio.wait_for(station.online.wait(), PATIENCE_S)
    body = {
        "station": station.name,
        "connector": 1,
        "user": USER,
        "amount_minor": stage.draw.randint(20_000, 40_000),
    }
    answer = await _insist(stage, "sessions", body, "a start")
    session = str(answer["id"])
    await until(lambda: _is_over(stage, session), PATIENCE_S, "the end of the paid session")
    await _delivered(stage)


async def _is_over(stage: Stage, session: str) -> bool:
    sql = "SELECT status NOT IN ('PENDING', 'ONGOING', 'ORPHANED') FROM charging_session WHERE id = $1::uuid"
    return await _says(stage, sql, session)


async def _says(stage: Stage, sql: str, *arguments: object) -> bool:
    """What the books say; no while PostgreSQL is being killed, since it comes back."""
    try:
        books = await stage.site.books()
        try:
            return bool(await books.fetchval(sql, *arguments))
        finally:
            await books.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
        return False


async def topup(stage: Stage) -> None:
    """Money comes in, and the caller asks once more after it has got its answer."""
    stage.topped_up_minor = stage.draw.randint(1, 1_000_000)
    path, body = f"wallets/{quote(USER)}/topups", {"amount_minor": stage.topped_up_minor}
    first = await _insist(stage, path, body, "a payment")
    again = await _insist(stage, path, body, "a payment")
    if first != again:
        raise LabFailed(f"the same payment was answered differently: {first}, then {again}")


async def ghost(stage: Stage) -> None:
    """The connector becomes free without a stop; the server concludes; the true stop comes after all."""
    station = stage.station
    station.on_command = lambda action, payload: {"status": "NotImplemented"}
    car = _arrive(stage, TOKEN)
    station.meter(car, car.start_wh + stage.draw.randint(1, 4_000), 5)
    await _delivered(stage)
    await _say_status(stage, car.connector, "Available")
    await until(lambda: _is_concluded(stage), PATIENCE_S, "the end of the ghost")
    await stage.fault()
    station.end(car, car.register_wh + stage.draw.randint(1, 4_000), 18)
    await _delivered(stage)


async def _is_concluded(stage: Stage) -> bool:
    return await _says(stage, "SELECT count(*) FROM charging_session WHERE status = 'GHOST' OR estimated")


SCENARIOS: dict[str, Scenario] = {
    "visit": visit,
    "restart": visit,
    "migrate": visit,
    "poison": visit,
    "status": status,
    "nameless": nameless,
    "takeover": takeover,
    "prepaid": prepaid,
    "topup": topup,
    "ghost": ghost,
}

SETTINGS: dict[str, dict[str, object]] = {
    "prepaid": {"VOLTLEDGER_PENDING_START_S": 10, "VOLTLEDGER_CALL_TIMEOUT_S": 3},
    "ghost": {"VOLTLEDGER_GHOST_GRACE_S": 0.2, "VOLTLEDGER_ORPHAN_INTERVAL_S": 1, "VOLTLEDGER_CALL_TIMEOUT_S": 3},
}
"""Settings of the server that a scenario needs, so that nobody waits for minutes."""


def new_station(site: Site, journal: Any, draw: random.Random) -> Station:
    """The station of a cell."""
    name = STATIONS[0]
    ids = draw.choice(("unique", "counter"))
    return Station(name, lambda: site.registered.passwords[name], lambda: site.url, journal, message_ids=ids)


def _arrive(stage: Stage, token: str) -> Visit:
    return stage.station.begin(
        connector=stage.draw.choice((1, 2)), token=token, register_wh=stage.draw.randint(0, 99_999)
    )


def _charge_and_leave(stage: Stage, car: Visit) -> None:
    register = car.start_wh
    for minutes in (5, 10):
        register += stage.draw.randint(0, 3_000)
        stage.station.meter(car, register, minutes)
    stage.station.end(car, register + stage.draw.randint(1, 3_000), 15)


async def _delivered(stage: Stage) -> None:
    await until(lambda: stage.station.is_quiet, PATIENCE_S, "the station's last answer")


async def _insist(stage: Stage, path: str, body: Mapping[str, object], key: str) -> Any:
    """The same request with the same key until it is answered: what a program does that must not pay twice."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    last: object = None
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with stage.site.api() as api:
                answer = await api.post(path, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError as error:
            last = error
        else:
            if answer.status_code in (200, 201):
                return answer.json()
            last = answer.text
            if answer.status_code not in (409, 500, 503):
                raise LabFailed(f"{path} was refused: {answer.status_code} {answer.text}")
        await asyncio.sleep(0.1)
    raise LabFailed(f"{path} was never answered: {last}")
