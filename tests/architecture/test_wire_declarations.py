"""Every message of a version is declared, or named in `not_supported` with a reason; never both."""

import json
from pathlib import Path

import pytest

from tests.unit.ocpp.wire import FIXTURES, FOLDERS, RECEIVED, judge, sample, schema_folder
from voltledger.ocpp.action import AnyFromStation, AnyToStation, Delivery
from voltledger.ocpp.not_supported import NOT_SUPPORTED, WHOLE_VERSIONS
from voltledger.ocpp.registry import dialect
from voltledger.ocpp.rpc import ErrorCode, Version
from voltledger.ocpp.v16 import types

V16 = dialect(Version.V16)
DECLARED: list[AnyFromStation | AnyToStation] = [*V16.from_station.values(), *V16.to_station.values()]
IDS = [f"{type(d).__name__}-{d.name}" for d in DECLARED]


@pytest.mark.parametrize("version", Version)
def test_every_schema_is_declared_or_excused(version: Version) -> None:
    if version in WHOLE_VERSIONS:
        assert not dialect(version).from_station
        assert not dialect(version).to_station
        assert version not in NOT_SUPPORTED
        return
    actions = {
        path.stem.removesuffix("Response").removesuffix("Request") for path in schema_folder(version).glob("*.json")
    }
    served = set(dialect(version).from_station) | set(dialect(version).to_station)
    excused = set(NOT_SUPPORTED.get(version, {}))
    assert actions == served | excused
    assert not served & excused
    assert all(NOT_SUPPORTED.get(version, {}).values())


@pytest.mark.parametrize("declaration", DECLARED, ids=IDS)
def test_every_declaration_has_samples_that_keep_to_the_original_schemas(
    declaration: AnyFromStation | AnyToStation,
) -> None:
    request, response = sample(declaration.name)
    assert request[2] == declaration.name
    judge(declaration.name, response=False).validate(request[3])
    judge(declaration.name, response=True).validate(response[2])


def test_every_sample_belongs_to_a_declaration() -> None:
    assert {path.stem for path in FIXTURES.glob("*.json")} == {d.name for d in DECLARED}


@pytest.mark.parametrize("declaration", DECLARED, ids=IDS)
def test_a_declaration_names_its_types_its_version_and_its_clause(
    declaration: AnyFromStation | AnyToStation,
) -> None:
    assert types.REQUESTS[declaration.name] is declaration.request
    assert types.RESPONSES[declaration.name] is declaration.response
    assert "§" in declaration.source or "whitepaper" in declaration.source
    assert declaration.versions == (Version.V16,)


def test_the_facts_of_transactions_are_committed_before_they_are_answered() -> None:
    facts = {d.name for d in V16.from_station.values() if d.delivery is Delivery.TRANSACTIONAL}
    assert facts == {"StartTransaction", "MeterValues", "StopTransaction"}


@pytest.mark.parametrize("version", WHOLE_VERSIONS)
def test_a_version_that_is_not_served_refuses_every_action(version: Version) -> None:
    refusal = dialect(version).read("BootNotification", b"{}", RECEIVED)
    assert getattr(refusal, "code", None) is ErrorCode.NOT_IMPLEMENTED
    assert dialect(version).check_call("Reset", b"{}") is not None


def test_generated_types_carry_no_prose_of_the_schemas() -> None:
    for version in FOLDERS:
        module = "v16" if version is Version.V16 else "v2"
        text = (Path(types.__file__).parents[1] / module / "types.py").read_text(encoding="utf-8")
        for path in schema_folder(version).glob("*.json"):
            for prose in _prose(json.loads(path.read_text(encoding="utf-8-sig"))):
                assert prose not in text


def _prose(schema: object) -> list[str]:
    """Descriptions and comments of at least a few words."""
    found: list[str] = []
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in {"description", "comment"} and isinstance(value, str) and len(value.split()) > 2:
                found.append(value)
            else:
                found += _prose(value)
    elif isinstance(schema, list):
        for value in schema:
            found += _prose(value)
    return found
