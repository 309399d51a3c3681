"""What is known about one OCPP message, in one declaration.

A declaration joins a message's name, its generated wire types, its translation to or from the
words of the core, and how reliably it must be kept. The registry collects them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeVar

from voltledger.domain.commands import Command
from voltledger.domain.events import Answer, StationEvent
from voltledger.ocpp.rpc import Version
from voltledger.ocpp.structs import OcppStruct

Request = TypeVar("Request", bound=OcppStruct)
Response = TypeVar("Response", bound=OcppStruct)


class Delivery(Enum):
    """How reliably a station's message is kept before it is answered."""

    TRANSACTIONAL = "transactional"
    """A fact: committed before the answer leaves, and recognised when it comes again."""

    STATE = "state"
    """Written in the same batch as facts; the last one counts, so it is not recognised again."""

    PLAIN = "plain"
    """Answered from memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """A command that a station's version cannot express, or not with these values."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FromStation(Generic[Request, Response]):
    """A request that stations send.

    `to_event` also takes the time of receipt. It must cope with members that are None although
    their type says otherwise: that is how the tolerant reader leaves out what it cannot read.
    `identity` gives what makes two requests the same fact; without it the whole request does.
    """

    name: str
    request: type[Request]
    response: type[Response]
    to_event: Callable[[Request, datetime], StationEvent]
    to_response: Callable[[StationEvent, Answer], Response]
    delivery: Delivery
    source: str
    identity: Callable[[Request], object] | None = None
    versions: tuple[Version, ...] = (Version.V16,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToStation(Generic[Request, Response]):
    """A request that we send. Without `command` only the raw interface sends it."""

    name: str
    request: type[Request]
    response: type[Response]
    source: str
    command: type[Command] | None = None
    to_request: Callable[[Any], Request | Unsupported] | None = None
    versions: tuple[Version, ...] = (Version.V16,)


AnyFromStation = FromStation[Any, Any]
AnyToStation = ToStation[Any, Any]
