"""What each station of a fleet gets."""

from voltledger.simulator import FleetConfig, StationSettings
from voltledger.simulator.fleet import fleet_settings


def config(**fields: object) -> FleetConfig:
    return FleetConfig(url="ws://x", journal="unused", **fields)  # type: ignore[arg-type]


def test_stations_are_numbered_and_each_connector_has_its_own_token_when_there_are_enough() -> None:
    tokens = [f"T{number}" for number in range(6)]
    template = StationSettings(connectors=2)
    settings = fleet_settings(config(stations=3, tokens=tokens, station=template, prefix="CP", seed=9))
    assert [one.station for one in settings] == ["CP-0001", "CP-0002", "CP-0003"]
    assert sorted(token for one in settings for token in one.tokens) == tokens
    assert {one.seed for one in settings} == {9}


def test_too_few_tokens_are_shared() -> None:
    settings = fleet_settings(config(stations=["A", "B", "C"], tokens=["T1", "T2"]))
    assert [one.tokens for one in settings] == [("T1", "T2")] * 3


def test_meters_go_on_where_the_journal_left_them() -> None:
    template = StationSettings(connectors=2)
    settings = fleet_settings(config(stations=["A", "B"], station=template), registers={("A", 1): 10, ("A", 2): 20})
    assert [one.registers_wh for one in settings] == [(10, 20), ()]
