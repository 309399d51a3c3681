"""Times on the wire: read whatever stations write, write only what every station reads.

A station's clock is believed inside [2015-01-01, time of receipt + 1 day]; outside, or unreadable,
the time of receipt stands and the text is kept. A time without a zone is UTC.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from voltledger.domain.events import Instant

EARLIEST: Final = datetime(2015, 1, 1, tzinfo=UTC)
AHEAD: Final = timedelta(days=1)
TEXT_LIMIT: Final = 64

_OFFSET_AND_Z: Final = re.compile(r"(.*[+-]\d\d:?\d\d)Z")
_LEAP_SECOND: Final = re.compile(r"(T\d\d:?\d\d:?)60")


class UnreadTime(datetime):
    """Stands where a time should be that could not be read; outside every sane window."""

    text: str

    @classmethod
    def of(cls, text: str) -> "UnreadTime":
        """Keeps the start of what the station wrote."""
        unread = cls(1, 1, 1, tzinfo=UTC)
        unread.text = text[:TEXT_LIMIT]
        return unread


def instant(value: datetime | None, received_at: datetime) -> Instant:
    """A station's time made safe; None (no time given) is the time of receipt, suspect.

    Source: quirks 69-71.
    """
    if value is None:
        return Instant(at=received_at, suspect=True)
    at = utc(value)
    if EARLIEST <= at <= received_at + AHEAD:
        return Instant(at=at)
    text = value.text if isinstance(value, UnreadTime) else value.isoformat()
    return Instant(at=received_at, suspect=True, text=text)


def utc(value: datetime) -> datetime:
    """The same moment in UTC, so that equal moments compare and encode alike."""
    zone = value.tzinfo
    if zone is UTC:
        return value
    if zone is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        return UnreadTime.of(value.isoformat())


def parse_time(text: str) -> datetime | None:
    """Reads the spellings that strict readers refuse: no seconds, a blank, `+0100`, a leap second."""
    text = text.strip().upper()
    if len(text) < len("2024-01-01T08:00") or len(text) > TEXT_LIMIT:
        return None
    if both := _OFFSET_AND_Z.fullmatch(text):
        text = both[1]
    text = _LEAP_SECOND.sub(r"\g<1>59", text)
    try:
        return utc(datetime.fromisoformat(text))
    except ValueError:
        return None


def wire_time(at: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`, the one spelling that no firmware is known to refuse (quirk 72)."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
