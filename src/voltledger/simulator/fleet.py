"""Many stations in one process, and the one function a command line needs.

A fleet ends when every station has done its sessions and delivered what it had to say, when its time is over,
or when it is told to stop; in the last two cases the running sessions are stopped and reported first.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from ssl import SSLContext

from voltledger.simulator.behaviour import Behaviours
from voltledger.simulator.connection import Address
from voltledger.simulator.journal import Journal, last_registers
from voltledger.simulator.runner import StationRunner
from voltledger.simulator.settings import Range, StationSettings
from voltledger.simulator.station import Station

Passwords = Mapping[str, str] | Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetProgress:
    """What a fleet has done so far."""

    stations: int
    connected: int
    reached: int  # connected now or earlier
    finished: int
    sessions_begun: int
    sessions_ended: int
    sessions_active: int
    messages_sent: int
    messages_answered: int
    messages_refused: int
    messages_timed_out: int
    messages_discarded: int
    messages_waiting: int
    elapsed_s: float
    last_failure: str | None  # why a station that is not connected could not connect


Progress = Callable[[FleetProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """A fleet: where it connects, how many stations, and what they have in common.

    Shapes: `station` is the template; each station gets its own name, seed, tokens and registers.
            `tokens` empty means the template's; with at least one per connector each connector has its own.
    Units:  seconds of real time.
    """

    url: str
    stations: int | Sequence[str]
    journal: Path | str
    prefix: str = "SIM"
    seed: int = 0
    passwords: Passwords | None = None
    tokens: Sequence[str] = ()
    station: StationSettings = field(default_factory=StationSettings)
    reconnect_s: float = 1.0
    reconnect_max_s: float = 60.0
    ramp_s: float = 0.0  # the stations connect one after the other within this time
    duration_s: float | None = None
    drain_s: float = 10.0  # how long the end waits for answers
    journal_most_bytes: int | None = None  # None: all of it is kept; see `Journal`
    progress: Progress | None = None
    progress_every_s: float = 0.5
    tls: SSLContext | None = None


class Fleet:
    """Running stations, to be watched and ordered about while `run` is under way."""

    def __init__(self, config: FleetConfig) -> None:
        self.config = config
        self._began = time.monotonic()
        self.runners: dict[str, StationRunner] = {}

    async def run(self, stop: asyncio.Event) -> FleetProgress:
        """Runs until all is done, the time is over or `stop` is set.

        Effects: sockets, one journal.
        Raises:  whatever broke a station's task: that is a fault of the simulator.
        """
        self._began = time.monotonic()
        known = last_registers(self.config.journal)
        with Journal(self.config.journal, most_bytes=self.config.journal_most_bytes) as journal:
            self.runners = {
                settings.station: self._new_runner(settings, journal)
                for settings in fleet_settings(self.config, registers=known)
            }
            tasks = [asyncio.create_task(runner.run()) for runner in self.runners.values()]
            try:
                await self._watch(stop, tasks)
            finally:
                for runner in self.runners.values():
                    runner.stop()
                await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            task.result()
        self._tell()
        return self.progress()

    def power_loss(self, station: str, *, queue_survives: bool = True, outage_s: float | None = None) -> None:
        """Takes the power from one station, on request."""
        runner = self.runners[station]
        runner.order(lambda now: runner.station.power_loss(now, queue_survives=queue_survives, outage_s=outage_s))

    def plug_in(self, station: str, connector: int, token: str) -> None:
        """A driver comes to one station, on request."""
        runner = self.runners[station]
        runner.order(lambda now: runner.station.plug_in(connector, token, now))

    def progress(self) -> FleetProgress:
        """The counts of all stations together."""
        stations = [runner.station for runner in self.runners.values()]
        counts = [station.counts for station in stations]
        failures = [runner.last_failure for runner in self.runners.values() if not runner.is_connected]
        return FleetProgress(
            stations=len(stations),
            connected=sum(runner.is_connected for runner in self.runners.values()),
            reached=sum(runner.was_connected for runner in self.runners.values()),
            finished=sum(station.is_finished for station in stations),
            sessions_begun=sum(count.sessions_begun for count in counts),
            sessions_ended=sum(count.sessions_ended for count in counts),
            sessions_active=sum(len(station.active_sessions) for station in stations),
            messages_sent=sum(count.sent for count in counts),
            messages_answered=sum(count.answered for count in counts),
            messages_refused=sum(count.refused for count in counts),
            messages_timed_out=sum(count.timed_out for count in counts),
            messages_discarded=sum(count.discarded for count in counts),
            messages_waiting=sum(len(station.queue) for station in stations),
            elapsed_s=time.monotonic() - self._began,
            last_failure=next((failure for failure in failures if failure), None),
        )

    async def _watch(self, stop: asyncio.Event, tasks: Sequence["asyncio.Task[None]"]) -> None:
        deadline = None if self.config.duration_s is None else self._began + self.config.duration_s
        while not stop.is_set() and not self._all_finished() and not any(task.done() for task in tasks):
            if deadline is not None and time.monotonic() >= deadline:
                break
            self._tell()
            await self._pause(stop, deadline)
        if not any(task.done() for task in tasks):
            await self._wind_up()

    async def _pause(self, stop: asyncio.Event, deadline: float | None) -> None:
        pause_s = self.config.progress_every_s
        if deadline is not None:
            pause_s = min(pause_s, max(0.0, deadline - time.monotonic()))
        try:
            async with asyncio.timeout(pause_s):
                await stop.wait()
        except TimeoutError:
            pass

    async def _wind_up(self) -> None:
        """Ends what runs, then waits for the answers: a fleet that stops is not a fault."""
        for runner in self.runners.values():
            runner.order(runner.station.wind_up)
        until = time.monotonic() + self.config.drain_s
        await asyncio.sleep(0.02)
        while not self._all_finished() and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def _all_finished(self) -> bool:
        return all(runner.station.is_finished for runner in self.runners.values())

    def _tell(self) -> None:
        if self.config.progress is not None:
            self.config.progress(self.progress())

    def _new_runner(self, settings: StationSettings, journal: Journal) -> StationRunner:
        config = self.config
        address = Address(
            url=config.url,
            station=settings.station,
            password=_password(config.passwords, settings.station),
            tls=config.tls,
        )
        delay_s = Random(f"{config.seed}/{settings.station}/ramp").uniform(0.0, config.ramp_s)
        return StationRunner(
            Station(settings, now=time.time()),
            address,
            journal,
            reconnect_s=config.reconnect_s,
            reconnect_max_s=config.reconnect_max_s,
            start_delay_s=delay_s,
        )


def station_names(count: int, prefix: str = "SIM") -> list[str]:
    """SIM-0001, SIM-0002, ..."""
    return [f"{prefix}-{number:04}" for number in range(1, count + 1)]


def fleet_settings(
    config: FleetConfig, *, registers: Mapping[tuple[str, int], int] | None = None
) -> list[StationSettings]:
    """The settings of each station of a fleet: the template, with its name, tokens and known registers."""
    names = config.stations
    if isinstance(names, int):
        names = station_names(names, config.prefix)
    template = config.station
    tokens = tuple(config.tokens) or template.tokens
    spread = len(tokens) >= len(names) * template.connectors
    return [
        replace(
            template,
            station=name,
            seed=config.seed,
            tokens=tokens[index :: len(names)] if spread else tokens,
            registers_wh=_known_registers(name, template, registers or {}),
        )
        for index, name in enumerate(names)
    ]


def _known_registers(
    station: str, template: StationSettings, registers: Mapping[tuple[str, int], int]
) -> tuple[int, ...]:
    """Meters go on where an earlier run left them, as far as all lower connectors are known too."""
    known: list[int] = []
    for connector in range(1, template.connectors + 1):
        if (station, connector) not in registers:
            break
        known.append(registers[station, connector])
    return tuple(known) or template.registers_wh


def _password(passwords: Passwords | None, station: str) -> str | None:
    if passwords is None:
        return None
    return passwords(station) if callable(passwords) else passwords.get(station)


async def run_fleet(config: FleetConfig, stop: asyncio.Event) -> FleetProgress:
    """Runs a fleet to its end; see `Fleet.run`."""
    return await Fleet(config).run(stop)


async def simulate(
    url: str,
    stations: int | Sequence[str],
    *,
    journal: Path | str,
    seed: int = 0,
    passwords: Passwords | None = None,
    prefix: str = "SIM",
    tokens: Sequence[str] = ("SIMTOKEN01",),
    autonomous: bool = True,
    connectors: int = 1,
    sessions_per_station: int | None = None,
    time_scale: float = 1.0,
    behaviours: Behaviours | Mapping[str, float] | None = None,
    duration_s: float | None = None,
    session_s: Range = (1200.0, 3600.0),
    idle_s: Range = (60.0, 600.0),
    sample_interval_s: float = 60.0,
    call_timeout_s: float = 30.0,
    retry_interval_s: float | None = None,
    progress: Progress | None = None,
    progress_every_s: float = 0.5,
    journal_most_bytes: int | None = None,
    stop: asyncio.Event | None = None,
    tls: SSLContext | None = None,
) -> FleetProgress:
    """Stations that charge, misbehave and lose power; the entry for a command line.

    A station `SIM-0001` connects to `{url}/SIM-0001`, with Basic auth if `passwords` knows it. Without
    `sessions_per_station` and `duration_s` it runs until `stop` is set or the task is cancelled.

    Shapes: `tokens` 1..n; with at least one per connector of the fleet, each connector has its own.
    Units:  `session_s`, `idle_s`, `sample_interval_s` in simulated seconds, `time_scale` of them in a real
            one; the rest in real seconds.
    Effects: sockets, and the journal, which is continued if it exists.
    Raises: ValueError for settings that make no sense.
    """
    if not isinstance(behaviours, Behaviours):
        behaviours = Behaviours.of(behaviours or {})
    template = StationSettings(
        tokens=tuple(tokens),
        autonomous=autonomous,
        connectors=connectors,
        sessions=sessions_per_station,
        behaviours=behaviours,
        time_scale=time_scale,
        session_s=session_s,
        idle_s=idle_s,
        sample_interval_s=sample_interval_s,
        call_timeout_s=call_timeout_s,
        retry_interval_s=max(1.0, 60.0 / time_scale) if retry_interval_s is None else retry_interval_s,
    )
    count = stations if isinstance(stations, int) else len(stations)
    config = FleetConfig(
        url=url,
        stations=stations,
        journal=journal,
        prefix=prefix,
        seed=seed,
        passwords=passwords,
        station=template,
        ramp_s=min(5.0, count * 0.02),
        duration_s=duration_s,
        progress=progress,
        progress_every_s=progress_every_s,
        journal_most_bytes=journal_most_bytes,
        tls=tls,
    )
    return await run_fleet(config, stop or asyncio.Event())
