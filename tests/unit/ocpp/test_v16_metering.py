"""Sampled values of 1.6 as readings: what counts, what is kept, what is left out."""

from decimal import Decimal
from typing import Any

import pytest

from tests.unit.ocpp.wire import read
from voltledger.domain.events import MeterReported, Reading

AT = "2026-11-23T10:14:00Z"
IMPORT = "Energy.Active.Import.Register"


def readings(*samples: dict[str, Any]) -> tuple[Reading, ...]:
    payload = {"connectorId": 1, "meterValue": [{"timestamp": AT, "sampledValue": list(samples)}]}
    event = read("MeterValues", payload).event
    assert isinstance(event, MeterReported)
    return event.readings


def one(*samples: dict[str, Any]) -> Reading:
    (reading,) = readings(*samples)
    return reading


def test_a_bare_value_is_the_import_register_in_wh() -> None:
    reading = one({"value": "12345"})
    assert (reading.register_wh, reading.context, dict(reading.others)) == (12345, "Sample.Periodic", {})
    assert reading.power_w is reading.current_a is reading.soc_percent is None


@pytest.mark.parametrize(
    ("value", "unit", "register_wh"),
    [
        ("12345", "Wh", 12345),
        ("6.61", "Wh", 6),
        ("0.15002000000000001", "kWh", 150),
        ("1231.877", "kWh", 1_231_877),
        ("1231.877", "KWH", 1_231_877),
        ("  4200 ", "Wh", 4200),
        ("0", None, 0),
        ("1.2E3", None, 1200),
        (604.213, "Wh", 604),
        (604, "Wh", 604),
        ("12", "W", None),
        ("12", "MWh", None),
        ("1,5", "kWh", None),
        ("", "Wh", None),
        ("null", "Wh", None),
        ("NaN", "Wh", None),
        ("Infinity", "Wh", None),
        ("1_000", "Wh", None),
        ("9" * 20, "Wh", None),
        ("1e999999", "Wh", None),
        ("1e99", "Wh", None),
        ("x" * 20_000, "Wh", None),
    ],
)
def test_a_register_is_read_exactly_or_not_at_all(value: Any, unit: str | None, register_wh: int | None) -> None:
    sample = {"value": value} if unit is None else {"value": value, "unit": unit}
    assert one(sample, {"value": "50", "measurand": "SoC"}).register_wh == register_wh


def test_one_sample_that_cannot_be_read_costs_only_itself() -> None:
    reading = one({"value": "null"}, {"value": "11000.50", "measurand": "Power.Active.Import", "unit": "W"})
    assert reading.register_wh is None
    assert reading.power_w == Decimal("11000.50")


def test_power_current_and_charge_are_exact() -> None:
    reading = one(
        {"value": "10.99710", "measurand": "Power.Active.Import", "unit": "kW"},
        {"value": "16.02", "measurand": "Current.Import", "unit": "A"},
        {"value": "63.5", "measurand": "SoC", "unit": "Percent", "location": "EV"},
    )
    assert str(reading.power_w) == "10997.10"
    assert (reading.current_a, reading.soc_percent) == (Decimal("16.02"), Decimal("63.5"))
    assert reading.register_wh is None


def phase(name: str, value: str, measurand: str = IMPORT, **more: str) -> dict[str, Any]:
    return {"value": value, "measurand": measurand, "phase": name, **more}


def test_the_unphased_register_wins_over_its_phases() -> None:
    reading = one(phase("L1", "10"), phase("L2", "20"), phase("L3", "30"), {"value": "61"})
    assert reading.register_wh == 61
    assert reading.others[f"{IMPORT}.L1"] == "10"


def test_phases_are_added_where_there_is_no_total() -> None:
    assert one(phase("L1-N", "10.4"), phase("L2-N", "20.4"), phase("L3-N", "30.4")).register_wh == 61
    assert one(phase("L1", "10")).register_wh == 10


def test_a_phase_counts_once_and_neutral_never() -> None:
    assert one(phase("L1", "10"), phase("L1-N", "10"), phase("N", "99"), phase("L1-L2", "99")).register_wh == 10


def test_a_sum_with_a_phase_that_cannot_be_read_is_no_register() -> None:
    assert one(phase("L1", "10"), phase("L2", "?"), phase("L3", "30")).register_wh is None


def test_the_outlet_wins_and_the_inlet_never_counts() -> None:
    inlet = {"value": "900", "measurand": IMPORT, "location": "Inlet"}
    body = {"value": "70", "measurand": IMPORT, "location": "Body"}
    assert one(inlet, body, {"value": "61", "location": "Outlet"}).register_wh == 61
    assert one(inlet, body).register_wh == 70
    assert one(inlet).register_wh is None
    assert one(inlet).others == {f"{IMPORT}@Inlet": "900"}


def test_intervals_and_export_are_not_the_register() -> None:
    reading = one(
        {"value": "5", "measurand": "Energy.Active.Import.Interval"},
        {"value": "7", "measurand": "Energy.Active.Export.Register"},
        {"value": "50.0", "measurand": "Frequency", "unit": "Hz"},
        {"value": "9", "measurand": "com.northwind.Humidity"},
    )
    assert reading.register_wh is None
    assert reading.others == {
        "Energy.Active.Import.Interval": "5",
        "Energy.Active.Export.Register": "7",
        "Frequency": "50.0",
        "com.northwind.Humidity": "9",
    }


def test_signed_data_is_kept_and_not_computed_with() -> None:
    signed = {"value": "OCMF|{}|{}", "format": "SignedData", "measurand": IMPORT}
    reading = one(signed, {"value": "61"})
    assert reading.register_wh == 61
    assert reading.others == {f"{IMPORT}.SignedData": "OCMF|{}|{}"}
    assert one(signed).register_wh is None


def test_power_of_phases_adds_up_and_current_does_not() -> None:
    reading = one(
        phase("L1", "3.6", "Power.Active.Import", unit="kW"),
        phase("L2", "3.7", "Power.Active.Import", unit="kW"),
        phase("L1", "15.9", "Current.Import"),
        phase("L2", "16.1", "Current.Import"),
    )
    assert (reading.power_w, reading.current_a) == (Decimal(7300), Decimal("16.1"))


def test_contexts_that_are_mixed_in_one_meter_value_are_told_apart() -> None:
    begin, periodic = readings(
        {"value": "100", "context": "Transaction.Begin"},
        {"value": "160", "context": "Sample.Periodic"},
        {"value": "63", "measurand": "SoC", "context": "Transaction.Begin"},
    )
    assert (begin.context, begin.register_wh, begin.soc_percent) == ("Transaction.Begin", 100, Decimal(63))
    assert (periodic.context, periodic.register_wh) == ("Sample.Periodic", 160)


def test_an_empty_meter_value_gives_no_reading() -> None:
    assert readings() == ()
    assert one({"unit": "Wh"}).register_wh is None
