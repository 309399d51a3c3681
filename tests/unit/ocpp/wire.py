"""Helpers of the wire tests: sample frames, and the original schemas as the judge."""

import json
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema_rs

from voltledger.ocpp.registry import Inbound, dialect
from voltledger.ocpp.rpc import Version

FIXTURES = Path(__file__).parents[2] / "fixtures" / "wire" / "v16"
RECEIVED = datetime(2026, 11, 23, 10, 15, 1, 250_000, tzinfo=UTC)
V16 = dialect(Version.V16)
FOLDERS = {Version.V16: "v16", Version.V201: "v201", Version.V21: "v21"}


def schema_folder(version: Version) -> Path:
    """Where the installed package `ocpp` keeps the schemas of a version."""
    package = Path(str(distribution("ocpp").locate_file("ocpp")))
    return package / FOLDERS[version] / "schemas"


def schema_of(action: str, *, response: bool, version: Version = Version.V16) -> Any:
    """The original schema of one message."""
    request = "" if version is Version.V16 else "Request"
    path = schema_folder(version) / f"{action}{'Response' if response else request}.json"
    return json.loads(path.read_text(encoding="utf-8-sig"))


@cache
def judge(action: str, *, response: bool) -> jsonschema_rs.Validator:
    """Judges payloads by the original schema, formats included."""
    return jsonschema_rs.validator_for(schema_of(action, response=response), validate_formats=True)


def sample(action: str) -> tuple[Any, Any]:
    """The sample frames of an action: request and response."""
    frames = json.loads((FIXTURES / f"{action}.json").read_text(encoding="utf-8"))
    return frames["request"], frames["response"]


def read(action: str, payload: object) -> Inbound:
    """Reads a payload that must not be refused."""
    inbound = V16.read(action, json.dumps(payload).encode(), RECEIVED)
    assert isinstance(inbound, Inbound), inbound
    return inbound
