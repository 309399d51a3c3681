"""What happens to a fact when our own code fails on it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from voltledger.domain.events import Answer, FactUnreadable
from voltledger.domain.identifiers import TransactionRef
from voltledger.ocpp.registry import Dialect, Inbound, dialect
from voltledger.ocpp.rpc import Version

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
START = b'{"connectorId":1,"idTag":"A1","meterStart":0,"timestamp":"2026-11-23T12:00:00Z"}'


def _broken(action: str, monkeypatch: pytest.MonkeyPatch) -> Dialect:
    """The 1.6 dialect with a reader that fails on one action."""
    broken = dialect(Version.V16)

    def fail(*_: Any) -> Any:
        raise KeyError("our mistake")

    decoder, declaration, prefix = broken._strict[action]
    table = dict(broken._strict) | {action: (decoder, replace(declaration, to_event=fail), prefix)}
    monkeypatch.setattr(broken, "_strict", table)
    return broken


def test_a_fact_that_our_reader_fails_on_is_kept_raw_and_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _broken("StartTransaction", monkeypatch)
    inbound = broken.read("StartTransaction", START, NOW)
    assert isinstance(inbound, Inbound)
    assert inbound.event == FactUnreadable(action="StartTransaction", problem="our reader failed: KeyError")
    assert inbound.dedupe_key is not None
    answer = broken.answer(inbound, Answer(at=NOW, transaction_ref=TransactionRef("7")))
    assert b'"transactionId":7' in answer


def test_the_same_unreadable_fact_has_the_same_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _broken("StopTransaction", monkeypatch)
    stop = b'{"transactionId":1,"meterStop":1,"timestamp":"2026-11-23T12:00:00Z"}'
    first, again = (broken.read("StopTransaction", stop, NOW) for _ in range(2))
    assert isinstance(first, Inbound)
    assert isinstance(again, Inbound)
    assert first.dedupe_key == again.dedupe_key


def test_a_message_without_a_fact_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = _broken("Heartbeat", monkeypatch)
    with pytest.raises(KeyError):
        broken.read("Heartbeat", b"{}", NOW)
