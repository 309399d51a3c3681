"""Text from stations, made fit to be stored; what it means is judged elsewhere."""

from typing import Final

TEXT_LIMIT: Final = 10_240
"""Characters kept of any one text."""


def stored(text: str | None, limit: int = TEXT_LIMIT) -> str:
    """Bounded text without NUL, which no database column takes; None is empty."""
    if not text:
        return ""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text[:limit]
