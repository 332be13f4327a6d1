"""One HTTP/2 connection to a server, for whoever starts calls on it by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from runtime import __version__
from runtime._ext.http2_client import ClientConnection
from runtime.edge.auth import split_address
from runtime.edge.limits import Account
from runtime.edge.native import READ_BUFFER_BYTES
from runtime.errors import Unavailable

__all__ = ["PeerConnection", "connect", "cut_when_silent"]

logger = logging.getLogger(__name__)

# A host that has gone without a word is noticed after 15 s, and three more questions of 5 s.
_TCP_OPTIONS = ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))
# A server that has said nothing for so long is asked for a sign of life, and must give it within as much time again.
_SILENCE_S = 15.0


class PeerConnection(ClientConnection, asyncio.BufferedProtocol):
    """A connection as asyncio wants it; everything is in the compiled base."""


class _Service:
    """What a connection asks of its owner."""

    lookahead = 0

    def __init__(self, authority: str, secure: bool, metadata: Iterable[tuple[bytes, bytes]],
                 lost: Callable[[], object] | None) -> None:
        self.account = Account(1 << 62)  # what may be on its way is bounded by the windows, and by who reads
        self.read_buffer = bytearray(READ_BUFFER_BYTES)
        self.fields = [
            (b":method", b"POST"),
            (b":scheme", b"https" if secure else b"http"),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", f"tensor-runtime/{__version__}".encode()),
            *metadata,
        ]
        self._lost = lost

    def opened(self, connection: ClientConnection) -> None:
        pass

    def closed(self, connection: ClientConnection) -> None:
        if self._lost is not None:
            self._lost()

    def broken(self, connection: ClientConnection, code: int, message: str) -> None:
        logger.warning("connection closed for an error of the protocol", extra={"error_code": code, "reason": message})


async def connect(
    address: str,
    tls: ssl.SSLContext | None = None,
    *,
    server_name: str | None = None,
    metadata: Iterable[tuple[bytes, bytes]] = (),
    timeout_s: float = 10.0,
    lost: Callable[[], object] | None = None,
) -> PeerConnection:
    """Return a new connection.

    Parameters
    ----------
    address : str
        ``HOST:PORT`` or ``unix:PATH``.
    tls : ssl.SSLContext, optional
        None for clear text.
    server_name : str, optional
        Name in the server's certificate, when it is not the host of the address.
    metadata : iterable of (bytes, bytes)
        What every call carries.
    timeout_s : float
        For connecting.
    lost : callable, optional
        Called without arguments when the connection has ended.

    Raises
    ------
    Unavailable
        If there is none in time; names the address and the reason.
    """
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    try:
        async with asyncio.timeout(timeout_s):
            if address.startswith("unix:"):
                service = _Service("localhost", tls is not None, metadata, lost)
                if tls is not None:
                    options = {"ssl": tls, "server_hostname": server_name or "localhost"}
                _, made = await loop.create_unix_connection(
                    lambda: PeerConnection(service, loop), address.removeprefix("unix:"), **options)
            else:
                service = _Service(address, tls is not None, metadata, lost)
                host, port = split_address(address)
                if tls is not None:
                    options = {"ssl": tls, "server_hostname": server_name or host}
                transport, made = await loop.create_connection(
                    lambda: PeerConnection(service, loop), host, port, **options)
                opened = transport.get_extra_info("socket")
                if opened is not None:
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    for option, value in _TCP_OPTIONS:
                        opened.setsockopt(socket.IPPROTO_TCP, option, value)
            return made
    except TimeoutError:
        raise Unavailable(f"{address} cannot be reached: no connection within {timeout_s:g} s") from None
    except (OSError, ssl.SSLError, UnicodeError) as error:
        raise Unavailable(f"{address} cannot be reached: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Say in a person's words why there is no connection."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "what answers there does not speak TLS" if error.reason == "WRONG_VERSION_NUMBER" else str(error)
    # The loops word the same failure differently, and name the address again.
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error)


async def cut_when_silent(connection: PeerConnection) -> None:
    """Cut a connection whose server is silent and does not answer when it is asked."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_SILENCE_S / 3)
        silent_s = loop.time() - connection.last_activity
        if silent_s > 2 * _SILENCE_S and connection.awaits_ping:
            connection.abort()
            return
        if silent_s > _SILENCE_S and not connection.awaits_ping:
            connection.ping()
