"""The queue of transaction messages inside a station: strict order, counted attempts, patience offline.

Pure. Source: OCPP 1.6 ed. 2 §3.7 (queue while offline, keep the order), §3.7.1 (attempts, the growing wait).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from voltledger.simulator.wire import Payload

Subject = TypeVar("Subject")


@dataclass(slots=True, kw_only=True, eq=False)
class Fact(Generic[Subject]):
    """One transaction message, from the moment it became true until it is answered or given up."""

    number: int
    subject: Subject  # the session it is about
    action: str
    payload: Payload  # without the transactionId, which may only be known when it is sent
    order: int  # its place among everything the station wants to say
    attempts: int = 0
    not_before: float = 0.0
    message_id: str | None = None
    ignore_answers: int = 0
    hang_up: bool = False
    duplicate: bool = False


@dataclass(slots=True)
class TransactionQueue(Generic[Subject]):
    """First in, first out; only the head may be sent."""

    _facts: deque[Fact[Subject]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._facts)

    def __iter__(self) -> Iterator[Fact[Subject]]:
        return iter(self._facts)

    @property
    def head(self) -> Fact[Subject] | None:
        return self._facts[0] if self._facts else None

    def append(self, fact: Fact[Subject]) -> None:
        """Adds the newest message."""
        self._facts.append(fact)

    def remove_head(self, fact: Fact[Subject]) -> None:
        """The head is answered, forgotten or discarded.

        Raises: ValueError if it is not the head: somebody jumped the queue.
        """
        if self.head is not fact:
            raise ValueError(f"message {fact.number} is not at the head of the queue")
        self._facts.popleft()

    def failed(self, fact: Fact[Subject], *, now: float, max_attempts: int, retry_interval_s: float) -> bool:
        """Counts a failed attempt; True when it was the last one and the message is out of the queue.

        The n-th wait is n times the interval. Being offline is not a failed attempt: do not report it here.

        Units:  seconds of real time.
        Source: OCPP 1.6 §3.7.1 TransactionMessageAttempts, TransactionMessageRetryInterval.
        """
        fact.attempts += 1
        if fact.attempts >= max_attempts:
            self.remove_head(fact)
            return True
        fact.not_before = now + retry_interval_s * fact.attempts
        return False

    def clear(self) -> list[Fact[Subject]]:
        """Everything is lost; what it was."""
        lost = list(self._facts)
        self._facts.clear()
        return lost
