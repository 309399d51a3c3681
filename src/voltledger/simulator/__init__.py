"""A fleet of simulated charging stations that is honest about what each station really did.

`simulate` runs many stations by themselves; `SimulatedStation` is one station in the hands of a test;
`read_journal` and `true_sessions` tell afterwards what was true, whatever the server believes.
"""

from voltledger.simulator.behaviour import Behaviour, Behaviours
from voltledger.simulator.client import ClientSession, SimulatedStation
from voltledger.simulator.errors import (
    CallRefused,
    JournalDamaged,
    NoAnswer,
    NotConnected,
    NothingExpected,
    SimulatorError,
)
from voltledger.simulator.fleet import Fleet, FleetConfig, FleetProgress, Progress, run_fleet, simulate, station_names
from voltledger.simulator.journal import (
    Journal,
    JournalLine,
    Kind,
    TrueSession,
    read_journal,
    true_sessions,
)
from voltledger.simulator.settings import ClockFault, MessageIds, StationSettings
from voltledger.simulator.station import Station

__all__ = [
    "Behaviour",
    "Behaviours",
    "CallRefused",
    "ClientSession",
    "ClockFault",
    "Fleet",
    "FleetConfig",
    "FleetProgress",
    "Journal",
    "JournalDamaged",
    "JournalLine",
    "Kind",
    "MessageIds",
    "NoAnswer",
    "NotConnected",
    "NothingExpected",
    "Progress",
    "SimulatedStation",
    "SimulatorError",
    "Station",
    "StationSettings",
    "TrueSession",
    "read_journal",
    "run_fleet",
    "simulate",
    "station_names",
    "true_sessions",
]
