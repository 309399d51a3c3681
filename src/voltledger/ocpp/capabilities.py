"""What a version can and cannot do, so that nothing outside `ocpp` asks for a version."""

from dataclasses import dataclass
from typing import Final

from voltledger.ocpp.rpc import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What the core and the services must know about a station's language."""

    names_transactions: bool
    """The central system gives a transaction its name when it starts."""

    reports_transaction_status: bool
    """A station can be asked whether a transaction goes on and whether it has queued messages."""

    has_configuration_keys: bool
    """Settings are named by one key; otherwise by component and variable."""

    answers_are_confirmed: bool
    """A station says when it could not use an answer of ours, and sends messages without answer."""


CAPABILITIES: Final = {
    Version.V16: Capabilities(
        names_transactions=True,
        reports_transaction_status=False,
        has_configuration_keys=True,
        answers_are_confirmed=False,
    ),
    Version.V201: Capabilities(
        names_transactions=False,
        reports_transaction_status=True,
        has_configuration_keys=False,
        answers_are_confirmed=False,
    ),
    Version.V21: Capabilities(
        names_transactions=False,
        reports_transaction_status=True,
        has_configuration_keys=False,
        answers_are_confirmed=True,
    ),
}
