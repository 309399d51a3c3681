"""Places where a laboratory may make this process fail: killed, stopped, cancelled, hit by an exception, or paused
while somebody outside breaks the database or the line.

They are for `tools.laboratory` only. Without FAILPOINTS in the environment `ARMED` is false, and a point costs one
look at a global name:

    if ARMED:
        await fp("t1.after_inbox")

FAILPOINTS is `name:nth:action[,name:nth:action]`: the `nth` time that the point is reached, once, `action` happens.

    kill, term, stop     this process gets SIGKILL, SIGTERM or SIGSTOP
    cancel               the task that is at this point is cancelled there
    raise:NAME           an exception is raised: one of RAISED, or OUR_MISTAKE
    wait                 the point says that it is reached and waits until it is told to go on

FAILPOINTS_FOLDER names a folder: what is reached is written to `reached` there, a line each, and a point that waits
goes on when `go` exists. A value that cannot be understood ends the program before it begins.
"""

import asyncio
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SIGNALS: Final = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "stop": signal.SIGSTOP}
RAISED: Final = ("OSError", "MemoryError", "SerializationError", "DeadlockDetectedError", "UniqueViolationError")
OUR_MISTAKE: Final = "ValueError"
"""Stands for any exception that a mistake in our own code would raise."""
PAUSE_S: Final = 0.002
MAX_WAIT_S: Final = 60.0
"""A point that nobody tells to go on goes on by itself, so that a laboratory that died leaves no sleeper."""


class BadFailpoints(ValueError):
    """FAILPOINTS cannot be understood."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What happens at a point, and at which of its hits (from 1)."""

    name: str
    nth: int
    action: str


def read_arms(text: str) -> tuple[Arm, ...]:
    """The arms of a FAILPOINTS value, in its order.

    Raises: BadFailpoints with a sentence about the first part that is wrong.
    """
    return tuple(_read_arm(part.strip()) for part in text.split(","))


def _read_arm(part: str) -> Arm:
    name, _, rest = part.partition(":")
    nth, _, action = rest.partition(":")
    if not name or not nth.isascii() or not nth.isdecimal() or int(nth) < 1:
        raise BadFailpoints(f"{part[:80]!r} is not name:nth:action, such as t1.after_inbox:1:kill")
    if action not in (*SIGNALS, "cancel", "wait", *(f"raise:{error}" for error in (*RAISED, OUR_MISTAKE))):
        known = ", ".join((*SIGNALS, "cancel", "wait", "raise:" + "|".join((*RAISED, OUR_MISTAKE))))
        raise BadFailpoints(f"{part[:80]!r} names no action that is known ({known})")
    return Arm(name=name, nth=int(nth), action=action)


def _arms_of_this_process() -> tuple[Arm, ...]:
    text = os.environ.get("FAILPOINTS", "")
    if not text.strip():
        return ()
    try:
        if not os.environ.get("FAILPOINTS_FOLDER"):
            raise BadFailpoints("FAILPOINTS_FOLDER is missing; both are for tools.laboratory only")
        return read_arms(text)
    except BadFailpoints as problem:
        # Nothing has begun yet, and nobody is there who could show this better.
        raise SystemExit(f"FAILPOINTS: {problem}: unset it to run without faults") from None


_ARMS: Final = _arms_of_this_process()
_FOLDER: Final = Path(os.environ.get("FAILPOINTS_FOLDER", ""))
_hits: dict[str, int] = {}

ARMED: Final[bool] = bool(_ARMS)


async def fp(name: str) -> None:
    """A point in a coroutine. Effects: what FAILPOINTS says about this hit; usually nothing."""
    for arm in _due(name):
        if arm.action == "wait":
            await _wait()
        elif arm.action == "cancel":
            await _cancel()
        else:
            _strike(arm)


def fp_now(name: str) -> None:
    """A point where nothing can be awaited; while it waits, the whole process stands still."""
    for arm in _due(name):
        if arm.action == "wait":
            deadline = time.monotonic() + MAX_WAIT_S
            while not (_FOLDER / "go").exists() and time.monotonic() < deadline:
                time.sleep(PAUSE_S)
        elif arm.action == "cancel":
            raise asyncio.CancelledError
        else:
            _strike(arm)


def armed_points() -> str:
    """What is armed, for the warning at the start."""
    return ", ".join(f"{arm.name}:{arm.nth}:{arm.action}" for arm in _ARMS)


def _due(name: str) -> list[Arm]:
    """The arms whose hit this is, each told to the laboratory before it acts."""
    hit = _hits[name] = _hits.get(name, 0) + 1
    due = [arm for arm in _ARMS if arm.name == name and arm.nth == hit]
    for arm in due:
        with (_FOLDER / "reached").open("a", encoding="utf-8") as file:
            file.write(f"{name} {arm.action}\n")
    return due


async def _wait() -> None:
    deadline = time.monotonic() + MAX_WAIT_S
    while not (_FOLDER / "go").exists() and time.monotonic() < deadline:
        await asyncio.sleep(PAUSE_S)


async def _cancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.cancel()
    await asyncio.sleep(0)


def _strike(arm: Arm) -> None:
    number = SIGNALS.get(arm.action)
    if number is not None:
        os.kill(os.getpid(), number)
        return
    raise _error(arm.action.removeprefix("raise:"))


def _error(name: str) -> BaseException:
    if name == "OSError":
        return OSError("a failpoint")
    if name == "MemoryError":
        return MemoryError("a failpoint")
    if name == OUR_MISTAKE:
        return ValueError("a failpoint")
    import asyncpg

    error: BaseException = getattr(asyncpg, name)("a failpoint")
    return error
