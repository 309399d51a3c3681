"""What can go wrong in the simulator.

SimulatorError
├── NoAnswer          the server did not answer a CALL in time, or the connection went away first
├── CallRefused       the server answered with a CALLERROR
├── NotConnected      a step needs a connection and there is none
├── NothingExpected   the server did not send the call a test waited for
├── BadFrame          a frame that is not OCPP-J
└── JournalDamaged    a journal line that cannot be read and is not a torn last line
"""

from typing import Any


class SimulatorError(Exception):
    """The root of this package's exceptions."""


class NoAnswer(SimulatorError):
    """No CALLRESULT and no CALLERROR arrived for a CALL."""


class CallRefused(SimulatorError):
    """The server answered a CALL with a CALLERROR."""

    def __init__(self, action: str, code: str, description: str, details: Any) -> None:
        super().__init__(f"{action}: {code} {description}".rstrip())
        self.action = action
        self.code = code
        self.description = description
        self.details = details


class NotConnected(SimulatorError):
    """There is no open connection to send on."""


class NothingExpected(SimulatorError):
    """The call a test waited for did not come in time."""


class BadFrame(SimulatorError):
    """Text that is not an OCPP-J frame."""


class JournalDamaged(SimulatorError):
    """A journal line in the middle of the file cannot be read."""
