"""What is not owed yet, with the reason. A message stands here or in a declaration, never in both."""

from collections.abc import Mapping
from typing import Final

from voltledger.ocpp.rpc import Version

NOT_SUPPORTED: Final[Mapping[Version, Mapping[str, str]]] = {
    Version.V16: {
        "SignCertificate": "signing station certificates needs a certificate authority, which comes later",
    },
}
"""Messages by version, in either direction."""

WHOLE_VERSIONS: Final[Mapping[Version, str]] = {
    Version.V201: "2.x is a change of its own; until then it is not negotiated",
    Version.V21: "2.x is a change of its own; until then it is not negotiated",
}
"""Versions of which nothing is served."""
