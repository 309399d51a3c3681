"""A pen for station journals, so that tests write what stations write and nothing of the simulator is needed."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_numbers = itertools.count(1)


@dataclass
class Scribe:
    """Writes one journal."""

    path: Path
    run: str = "run-1"
    _facts: Any = field(default_factory=lambda: itertools.count(1))
    _sessions: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.line("run", station="")

    def line(self, kind: str, **members: Any) -> None:
        """One line, as stations write it."""
        named = {name: value for name, value in members.items() if value is not None}
        text = json.dumps({"at": datetime.now(UTC).isoformat(), "kind": kind, "run": self.run, **named})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def visit(self, station: str, connector: int = 1, start: int = 1_000, token: str = "CARD-A", **more: Any) -> Visit:
        """A car begins to take energy."""
        visit = Visit(self, station, connector, next(self._sessions), start)
        visit.line("session_begin", token=token, behaviour=more.get("behaviour", "normal"))
        return visit


@dataclass
class Visit:
    """One visit, and what its station says of it."""

    scribe: Scribe
    station: str
    connector: int
    number: int
    register_wh: int

    def line(self, kind: str, **members: Any) -> None:
        """One line about this visit."""
        place = {"station": self.station, "connector": self.connector, "session": self.number}
        self.scribe.line(kind, **place, register_wh=self.register_wh, **members)

    def end(self) -> None:
        """The car stops taking energy."""
        self.line("session_end")

    def queue(self, action: str) -> int:
        """A message enters the station's queue; its number."""
        number: int = next(self.scribe._facts)
        self.line("queued", fact=number, action=action)
        return number

    def send(self, fact: int, action: str, payload: dict[str, Any]) -> str:
        """It is sent; its message id."""
        message_id = f"{self.station}-{next(_numbers)}"
        self.line("sent", fact=fact, action=action, message_id=message_id, payload=payload)
        return message_id

    def answered(
        self,
        fact: int,
        action: str,
        message_id: str,
        payload: dict[str, Any] | None,
        *,
        kind: str = "answered",
        error: str | None = None,
    ) -> None:
        """Its answer arrives."""
        self.line(kind, fact=fact, action=action, message_id=message_id, payload=payload, error=error)

    def fate(self, kind: str, fact: int, action: str) -> None:
        """It is discarded, forgotten or lost."""
        self.line(kind, fact=fact, action=action)
