"""The queue of transaction messages by itself."""

import pytest

from voltledger.simulator.queue import Fact, TransactionQueue


def fact(number: int) -> Fact[str]:
    return Fact(number=number, subject="session", action="MeterValues", payload={}, order=number)


def test_only_the_head_leaves() -> None:
    queue: TransactionQueue[str] = TransactionQueue()
    first, second = fact(1), fact(2)
    queue.append(first)
    queue.append(second)
    with pytest.raises(ValueError, match="message 2 is not at the head"):
        queue.remove_head(second)
    queue.remove_head(first)
    assert queue.head is second


@pytest.mark.parametrize("attempts", [1, 2, 3, 5])
def test_a_message_is_given_up_after_exactly_its_attempts(attempts: int) -> None:
    queue: TransactionQueue[str] = TransactionQueue()
    message = fact(1)
    queue.append(message)
    outcomes = [queue.failed(message, now=0.0, max_attempts=attempts, retry_interval_s=10.0) for _ in range(attempts)]
    assert outcomes == [False] * (attempts - 1) + [True]
    assert not queue


def test_each_wait_is_longer_by_the_interval() -> None:
    queue: TransactionQueue[str] = TransactionQueue()
    message = fact(1)
    queue.append(message)
    due = []
    for _ in range(3):
        queue.failed(message, now=100.0, max_attempts=9, retry_interval_s=10.0)
        due.append(message.not_before)
    assert due == [110.0, 120.0, 130.0]


def test_clear_gives_back_what_is_lost() -> None:
    queue: TransactionQueue[str] = TransactionQueue()
    messages = [fact(1), fact(2)]
    for message in messages:
        queue.append(message)
    assert queue.clear() == messages
    assert not queue
