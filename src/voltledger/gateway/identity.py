"""Which station a handshake is for: the last segment of its path, percent-decoded once."""

import re
from urllib.parse import unquote_to_bytes

from voltledger.domain.identifiers import StationId

MAX_LENGTH = 48
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f/\\:?#]|\.\.|^\.$")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def station_id_of(path: str) -> StationId | None:
    """The identity in a request path such as `/CP-1`, `/ocpp/CP%7C1/` or `/x/CP-1?y`; None if there is none.

    Decoded exactly once. What holds a colon (the separator of Basic credentials), a slash, a
    control character or a path trick is no identity.
    Source: OCPP-J 1.6 §3.1.1; 2.0.1 Part 4 §3.1.1.
    """
    segment = path.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
    if not segment or _BROKEN_ESCAPE.search(segment):
        return None
    try:
        identity = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if not 1 <= len(identity) <= MAX_LENGTH or _FORBIDDEN.search(identity) or not identity.isprintable():
        return None
    return StationId(identity)
