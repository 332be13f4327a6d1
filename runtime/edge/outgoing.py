"""Unary calls to other servers over this project's own HTTP/2: one connection per address, opened when it is needed.

A call that is started on the loop leaves at once, and its answer is handed over inside of the read callback. The gRPC
library takes two thread hops for each of both.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime import __version__
from runtime._ext.http2_call import Method
from runtime._ext.http2_client import ClientConnection
from runtime.edge.auth import split_address
from runtime.edge.native import READ_BUFFER_BYTES
from runtime.errors import Cancelled, Unavailable

if TYPE_CHECKING:
    from runtime._ext.message_parts import MessageParts
    from runtime.edge.limits import Account
    from runtime.edge.peer_access import PeerAccess

__all__ = ["Outgoing"]

Answered = Callable[["bytes | None", int, str, "tuple[tuple[str, str | bytes], ...]"], object]
"""``answered(answer, code, message, trailers)``"""

logger = logging.getLogger(__name__)

# What one attempt to connect gets: where packets vanish, the next one may find the way.
CONNECT_S = 3.0
_CLOSE_S = 2.0


class _Protocol(ClientConnection, asyncio.BufferedProtocol):
    """A connection as asyncio wants it; everything is in the compiled base."""


class _Waiting:
    """A call that has no connection yet."""

    __slots__ = ("answered", "cancel_started", "given_up", "message", "method")

    def __init__(self, method: Method, message: bytes | MessageParts, answered: Answered) -> None:
        self.method = method
        self.message = message
        self.answered = answered
        self.given_up = False
        self.cancel_started: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Give the call up."""
        if self.cancel_started is not None:
            self.cancel_started()
        elif not self.given_up:
            self.given_up = True
            self.answered(None, Cancelled.code, "the call was given up", ())


class _Channel:
    """The connection to one address, and the calls that wait for it; the service of its connection."""

    lookahead = 0

    def __init__(self, owner: Outgoing, address: str) -> None:
        self.account = owner.account
        self.read_buffer = owner.read_buffer
        self.fields = [
            (b":method", b"POST"),
            (b":scheme", b"http" if owner.access.tls is None else b"https"),
            (b":authority", address.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", f"tensor-runtime/{__version__}".encode()),
            (b"grpc-accept-encoding", b"identity,deflate,gzip"),
            *owner.access.metadata,
        ]
        self._owner = owner
        self._address = address
        self._connection: _Protocol | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[_Waiting] = []

    def start(self, method: Method, message: bytes | MessageParts, answered: Answered) -> Callable[[], None]:
        """Start a call, now or when there is a connection."""
        connection = self._connection
        if connection is not None and connection.takes_calls:
            return connection.start(method, message, answered).cancel
        call = _Waiting(method, message, answered)
        self._waiting.append(call)
        if self._connecting is None:
            self._connecting = self._owner.loop.create_task(self._connect())
        return call.cancel

    async def _connect(self) -> None:
        loop = self._owner.loop
        reason = ""
        try:
            host, port = split_address(self._address)
            options: dict[str, Any] = {}
            if self._owner.access.tls is not None:
                options = {"ssl": self._owner.access.context(), "server_hostname": host}
            _, self._connection = await asyncio.wait_for(
                loop.create_connection(lambda: _Protocol(self, loop), host, port, **options), CONNECT_S)
        except TimeoutError:
            reason = f"no connection within {CONNECT_S:g} s"
        except (OSError, ssl.SSLError, UnicodeError) as error:
            reason = str(error)
        except asyncio.CancelledError:
            reason = "the server is stopping"
        finally:
            self._connecting = None
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            if call.given_up:
                continue
            if not reason:
                assert self._connection is not None
                try:
                    call.cancel_started = self._connection.start(call.method, call.message, call.answered).cancel
                    continue
                except Unavailable as error:
                    reason = error.message
            call.given_up = True
            call.answered(None, Unavailable.code, f"failed to connect to all addresses; last error: {reason} "
                                                  f"({self._address})", ())

    def leave(self) -> None:
        """Cut the connection, or give up making it; every call ends."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    async def close(self) -> None:
        """End the connection and every call."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        if self._connection is not None:
            self._connection.close()

    # What a connection tells its service.

    def opened(self, connection: ClientConnection) -> None:
        """Note a new connection."""
        self._owner.open_connections.add(connection)

    def closed(self, connection: ClientConnection) -> None:
        """Forget a connection."""
        if self._connection is connection:
            self._connection = None
        self._owner.open_connections.discard(connection)

    def broken(self, connection: ClientConnection, code: int, message: str) -> None:
        """Report a server that broke the protocol."""
        logger.warning("connection closed for an error of the protocol",
                       extra={"address": self._address, "error_code": code, "reason": message})


class Outgoing:
    """Calls to other servers; everything belongs to the loop.

    Parameters
    ----------
    loop : asyncio event loop
    access : PeerAccess
        How to get in there.
    account : Account
        Counts the bytes of answers under way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, access: PeerAccess, account: Account) -> None:
        self.loop = loop
        self.access = access
        self.account = account
        self.read_buffer = bytearray(READ_BUFFER_BYTES)
        self.open_connections: set[ClientConnection] = set()
        self._channels: dict[str, _Channel] = {}
        self._methods: dict[str, Method] = {}

    def start(self, address: str, path: str, message: bytes | MessageParts, answered: Answered) -> Callable[[], None]:
        """Start a unary call.

        Parameters
        ----------
        address : str
            ``HOST:PORT``.
        path : str
            ``/SERVICE/METHOD``.
        message : bytes or MessageParts
        answered : callable
            ``answered(answer, code, message, trailers)``, once: with bytes and 0, or None and the status.

        Returns
        -------
        callable
            Gives the call up.
        """
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = Method(path, False, False, None)
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = _Channel(self, address)
        return channel.start(method, message, answered)

    def leave(self, address: str) -> None:
        """Drop the connection to an address, and whatever it still has to say: the next call makes a new one."""
        channel = self._channels.pop(address, None)
        if channel is not None:
            channel.leave()

    async def close(self) -> None:
        """End every call and connection."""
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            await channel.close()
        deadline = self.loop.time() + _CLOSE_S
        while self.open_connections and self.loop.time() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self.open_connections):
            connection.abort()
