"""What the outside world saw of us: the journals of a payment provider's stub, of webhook sinks and the like.

One JSON object a line:

    {"sink": "webhook", "effect": "<outbox.effect_key>", "id": "<the id we sent with it>", "at": "2026-01-01T00:00:00Z"}
    {"sink": "psp", "effect": "...", "id": "...", "money": true, "performed": true, "amount_minor": 500,
     "currency": "INR"}                                                            (in one line)

`sink` is the outbox target it serves. A sink writes a line for every call that reached it. `performed` says that the
call moved money; a provider that recognises a repeated idempotency key writes false.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from voltledger.checker.errors import CheckerError


class SinkLine(msgspec.Struct, frozen=True, kw_only=True):
    """One call that reached an outside party. Units: minor units of `currency`."""

    sink: str
    effect: str
    id: str
    at: datetime | None = None
    money: bool = False
    performed: bool = True
    amount_minor: int | None = None
    currency: str | None = None


_decoder = msgspec.json.Decoder(SinkLine)


def read_sinks(paths: Sequence[Path | str]) -> list[SinkLine]:
    """All lines of some sinks; a last line that is torn is left out. Raises: CheckerError."""
    found = []
    for path in paths:
        try:
            texts = Path(path).read_bytes().splitlines()
        except OSError as error:
            raise CheckerError(f"{path} cannot be read ({error.strerror}): name the journal of a sink") from error
        for number, text in enumerate(texts, 1):
            try:
                found.append(_decoder.decode(text))
            except msgspec.MsgspecError as error:
                if number < len(texts):
                    raise CheckerError(
                        f"{path}, line {number} is damaged ({error}): take it as the sink wrote it"
                    ) from error
    return found
