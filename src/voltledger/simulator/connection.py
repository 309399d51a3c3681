"""One WebSocket of a station: the handshake, and the ways in which a socket can go away."""

from base64 import b64encode
from dataclasses import dataclass
from ssl import SSLContext
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

CONNECT_ERRORS = (OSError, WebSocketException, TimeoutError)
"""What opening a socket may raise: refused, timed out, or a handshake answered with 401 and the like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a station connects, and as whom."""

    url: str  # without the station
    station: str
    password: str | None = None
    subprotocol: str = "ocpp1.6"
    tls: SSLContext | None = None
    open_timeout_s: float = 10.0

    @property
    def full_url(self) -> str:
        return f"{self.url.rstrip('/')}/{quote(self.station, safe='')}"


async def open_socket(address: Address) -> ClientConnection:
    """A connection on which the server chose the subprotocol.

    Effects: opens a TCP connection, without any proxy the environment may name.
    Raises:  one of CONNECT_ERRORS.
    """
    headers = {}
    if address.password is not None:
        credentials = f"{address.station}:{address.password}".encode()
        headers["Authorization"] = "Basic " + b64encode(credentials).decode()
    return await connect(
        address.full_url,
        subprotocols=[Subprotocol(address.subprotocol)],
        additional_headers=headers,
        user_agent_header="voltledger-simulator",
        compression=None,
        proxy=None,
        ssl=address.tls if address.url.startswith("wss") else None,
        open_timeout=address.open_timeout_s,
        ping_interval=None,
        close_timeout=1.0,
        max_size=1 << 20,
    )


def abort(socket: ClientConnection) -> None:
    """Cuts the TCP connection at once; no close frame is sent."""
    socket.transport.abort()


def describe(error: BaseException) -> str:
    """One line about why a connection failed or ended."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
