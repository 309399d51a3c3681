"""Whole numbers of the command line: `1.5` is refused, never cut off or rounded."""

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token


def _whole(kind: Any, tokens: Sequence[Token]) -> int:
    text = tokens[0].value
    if not (text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 20):
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


Whole = Annotated[int, Parameter(converter=_whole, n_tokens=1, accepts_keys=False)]
"""An `int` option or argument."""
