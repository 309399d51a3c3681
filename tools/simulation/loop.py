"""An event loop whose time is a number: it jumps to the next timer instead of waiting for it."""

import asyncio
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any


class DoesNotEnd(Exception):
    """The world went on and on; something turns in circles."""


class Timer:
    """A callback in the future."""

    __slots__ = ("args", "callback", "cancelled", "context")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = context
        self.cancelled = False

    def cancel(self) -> None:
        """It will not happen."""
        self.cancelled = True
        self.callback = None


class VirtualLoop:
    """As much of an event loop as the program needs, in virtual seconds.

    Callbacks run in the order in which they were asked for; timers of one moment likewise. `put_off` may move a timer
    to a later time. `problems` are failures that nobody looked at.
    """

    def __init__(self, *, limit: int = 60_000) -> None:
        self._itself: Any = self  # as much of a loop as asyncio asks for, and no more
        self._now = 0.0
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...], Context | None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._number = 0
        self._limit = limit
        self._running = False
        self.on_task: Callable[[asyncio.Task[Any], Context | None], None] | None = None
        self.put_off: Callable[[float], float] | None = None
        self.problems: list[dict[str, Any]] = []
        self.steps = 0

    def run(self) -> None:
        """Until nothing is left to do. Raises DoesNotEnd when that never comes."""
        ready, timers = self._ready, self._timers
        events._set_running_loop(self._itself)
        self._running = True
        try:
            while True:
                while ready:
                    callback, args, context = ready.popleft()
                    if context is None:
                        callback(*args)
                    else:
                        context.run(callback, *args)
                    self.steps += 1
                    if self.steps > self._limit:
                        break
                if self.steps > self._limit:
                    raise DoesNotEnd(f"{self.steps} steps until {self._now:.0f} s of virtual time")
                if not timers:
                    return
                when, _, timer = heapq.heappop(timers)
                if timer.callback is not None:
                    if when > self._now:
                        self._now = when
                    ready.append((timer.callback, timer.args, timer.context))
        finally:
            self._running = False
            events._set_running_loop(None)

    def forget_timers(self) -> None:
        """Nothing that was to happen later happens; `run` begins to count anew."""
        self._timers.clear()
        self.steps = 0

    # --- what asyncio asks of a loop -------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the beginning."""
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> None:
        """Runs a callback after those that are due already; it cannot be called off."""
        self._ready.append((callback, args, context))

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Timer:
        """Runs a callback at a time."""
        timer = Timer(callback, args, context)
        if self.put_off is not None:
            when = self.put_off(when)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, timer))
        return timer

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Timer:
        """Runs a callback after a time."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self._itself)

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """A task of this loop; `on_task` is told, so that a crash can end it."""
        task = asyncio.Task(coro, loop=self._itself, name=name or "", context=context)
        if self.on_task is not None:
            self.on_task(task, context)
        return task

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Whether virtual time passes."""
        return self._running

    def is_closed(self) -> bool:
        """Never."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Remembers a failure that nobody looked at."""
        self.problems.append(context)
