"""Errors of the wire layer. Only our own mistakes raise; a station's mistakes are values.

VoltledgerError
└── ConversationBusy     a call was begun while as many as allowed are unanswered
"""

from voltledger.errors import VoltledgerError


class ConversationBusy(VoltledgerError):
    """A call was begun while as many as allowed are unanswered."""
