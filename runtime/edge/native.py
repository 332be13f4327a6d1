"""The server's own gRPC transport: `runtime._ext.http2` on the sockets of an asyncio loop.

A small call through the gRPC library costs more in the library than in this project, and a large message is copied
several times on its way. This transport answers a call within the read callback and assembles a message once; the
wire is the same. It serves what the library serves: all four call forms, TLS, metadata, deadlines, compression of
requests, cancellation, draining.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from runtime._ext.http2 import Connection
from runtime._ext.http2_call import Abort, Call, Method
from runtime._ext.message_parts import MessageParts
from runtime.edge import sockets as listening
from runtime.edge.failures import as_domain_error
from runtime.edge.limits import WATCHED_ANSWER_BYTES, Account
from runtime.edge.live_tls import LiveTls
from runtime.edge.sockets import BACKLOG
from runtime.errors import Error, header_message

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.auth import Authorize
    from runtime.edge.plane import Answer
    from runtime.edge.transport import MethodForm

logger = logging.getLogger(__name__)

# Read from all connections of the loop, one after the other; an incomplete frame is kept by its connection. Large
# enough for a long DATA frame to arrive in few reads, small enough to stay in the cache on the way to the message.
READ_BUFFER_BYTES = 256 << 10
# How often connections are looked at for signs of life.
WATCH_INTERVAL_S = 5.0
# How often certificate files are looked at for a change.
TLS_INTERVAL_S = 1.0
# A connection that does not answer a ping for this long is dead.
PING_TIMEOUT_S = 20.0


class _Protocol(Connection, asyncio.BufferedProtocol):
    """A connection as asyncio wants it; everything is in the compiled base."""


class NativeServer:
    """One listening address, and the connections on it.

    Parameters
    ----------
    account : Account
        Counts the bytes in flight.
    authorize : callable or None
        Takes a call's path and metadata; returns the error that refuses it, or None.
    as_error : callable
        ``as_error(path, exception)`` returns the domain error that a client is told.
    keepalive_s : float
        A connection silent for so long is asked for a sign of life.
    handshake_timeout_s : float
        A connection without a client's greeting after so long is closed.

    Concurrency: every method belongs to the loop on which `start` ran.
    """

    def __init__(self, account: Account, authorize: Authorize | None, as_error: Callable[[str, Exception], Error],
                 keepalive_s: float, handshake_timeout_s: float) -> None:
        self.methods: dict[bytes, Method] = {}
        self.account = account
        self.authorize = authorize
        self.unknown_method = "no such method here"
        self.lookahead = 0
        self.read_buffer = bytearray(READ_BUFFER_BYTES)
        self._as_error = as_error
        self._keepalive_s = keepalive_s
        self._handshake_timeout_s = handshake_timeout_s
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._watch: asyncio.TimerHandle | None = None
        self._tls: LiveTls | None = None
        self._tls_watch: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    def add(self, path: str, *, client_streaming: bool, server_streaming: bool, handler: Callable[..., Any],
            immediate: Callable[[bytes, Any], Answer | None] | None = None) -> None:
        """Register a method."""
        self.methods[path.encode()] = Method(path, client_streaming, server_streaming, handler, immediate)

    def refuse(self, path: str, error: Error) -> None:
        """Answer every call of a method with an error, without taking its request."""
        self.methods[path.encode()] = Method(path, False, False, None, None, error)

    async def start(self, sockets: list[socket.socket], tls: LiveTls | None = None) -> None:
        """Answer on listening sockets, which are closed when the server stops."""
        loop = self._loop = asyncio.get_running_loop()
        handshake: dict[str, Any] = {}
        context = None
        if tls is not None:
            self._tls = tls
            context = tls.context
            handshake["ssl_handshake_timeout"] = self._handshake_timeout_s
            self._tls_watch = loop.call_later(TLS_INTERVAL_S, self._refresh_tls)

        def protocol() -> asyncio.BufferedProtocol:
            return _Protocol(self, loop)

        for one in sockets:
            create = loop.create_unix_server if one.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await create(protocol, sock=one, ssl=context, backlog=BACKLOG, **handshake))
        self._watch = loop.call_later(WATCH_INTERVAL_S, self._look)

    def drain(self) -> None:
        """Close the port; tell clients to go elsewhere; connections end with their last call."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.drain()

    async def stop(self, grace_s: float) -> None:
        """Drain, give open calls `grace_s` seconds, then cut what is left."""
        self.drain()
        if grace_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), grace_s)
        for connection in list(self._connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), 1.0)
        for connection in list(self._connections):
            connection.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10.0)
        for watch in (self._watch, self._tls_watch):
            if watch is not None:
                watch.cancel()
        await self._empty.wait()

    # -- what a connection asks of its service -------------------------------------------------------------------

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        self._connections.add(connection)
        self._empty.clear()
        self._refuse_revoked(connection)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def broken(self, connection: Connection, code: int, message: str) -> None:
        """Report a connection that broke the protocol."""
        logger.info("connection closed for an error of the protocol", extra={"error_code": code, "reason": message})

    def run(self, call: Call, request: bytes | None) -> None:
        """Run a call's handler in a task."""
        assert self._loop is not None
        task = self._loop.create_task(self._run(call, request))
        call.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def status_of(self, path: str, error: Exception) -> tuple[int, str, tuple[tuple[str, str | bytes], ...]]:
        """Return status code, message and trailers for an exception."""
        told = error if isinstance(error, Error) else self._as_error(path, error)
        return told.code, header_message(told.message), getattr(told, "trailers", ())

    async def _run(self, call: Call, request: bytes | None) -> None:
        method = call.method
        try:
            source: Any = self._counted(call) if method.client_streaming else request
            if method.server_streaming:
                answers = method.handler(source, call)
                try:
                    async for message in answers:
                        await self._send(call, message)
                finally:
                    close = getattr(answers, "aclose", None)
                    if close is not None:
                        await close()
                call.finish(0)
            else:
                response = await method.handler(source, call)
                if response.__class__ is not bytes and response.__class__ is not MessageParts:
                    raise TypeError(f"the handler returned {type(response).__name__} in place of bytes")
                if len(response) >= WATCHED_ANSWER_BYTES:
                    self.account.hold_answer(len(response), call)
                call.reply(response)
        except asyncio.CancelledError:
            call.finish(1, "the call was cancelled")
        except Abort:
            pass
        except Exception as error:
            if not call.cancelled():
                call.fail(error)

    async def _send(self, call: Call, message: Answer) -> None:
        if message.__class__ is not bytes and message.__class__ is not MessageParts:
            raise TypeError(f"the handler yielded {type(message).__name__} in place of bytes")
        nbytes = len(message)
        if not self.account.fits(nbytes):
            raise self.account.refusal(nbytes, "a message of the answer stream")
        self.account.used += nbytes
        try:
            await call.send(message)
        finally:
            self.account.used -= nbytes

    async def _counted(self, call: Call) -> AsyncIterator[bytes]:
        """Yield the request stream; the connection counts its messages until the call ends."""
        async for message in call:
            yield message

    def _refresh_tls(self) -> None:
        """Take up changed certificate files, and cut the connections of clients that are revoked by now."""
        assert self._loop is not None and self._tls is not None
        self._tls.refresh()
        for connection in list(self._connections):
            self._refuse_revoked(connection)
        self._tls_watch = self._loop.call_later(TLS_INTERVAL_S, self._refresh_tls)

    def _refuse_revoked(self, connection: Connection) -> None:
        if self._tls is None or not self._tls.has_lists:
            return
        shown = connection.peer_certificate()
        if shown is not None and self._tls.refuses(shown):
            logger.warning("a client's certificate is revoked; its connection is cut")
            connection.abort()

    def _look(self) -> None:
        """Ask silent connections for a sign of life; close those that owe one, or never greeted."""
        assert self._loop is not None
        now = self._loop.time()
        for connection in list(self._connections):
            silent = now - connection.last_activity
            if not connection.is_ready:
                if silent > self._handshake_timeout_s:
                    connection.abort()
            elif connection.awaits_ping:
                if silent > self._keepalive_s + PING_TIMEOUT_S:
                    connection.abort()
            elif silent > self._keepalive_s:
                connection.ping()
        self._watch = self._loop.call_later(WATCH_INTERVAL_S, self._look)


class NativeTransport:
    """This project's transport on the address of the settings; see :class:`runtime.edge.transport.Transport`."""

    def __init__(self, settings: Settings, account: Account, authorize: Authorize | None) -> None:
        self._settings = settings
        self._tls = LiveTls(settings, ["h2"]) if settings.tls_cert is not None else None
        self._server = NativeServer(account, authorize, as_domain_error, settings.keepalive_s,
                                    settings.handshake_timeout_s)
        self._sockets: list[socket.socket] = []

    @property
    def unknown_method(self) -> str:
        """See :class:`runtime.edge.transport.Transport`."""
        return self._server.unknown_method

    @unknown_method.setter
    def unknown_method(self, text: str) -> None:
        self._server.unknown_method = text

    async def bind(self) -> str:
        """See :class:`runtime.edge.transport.Transport`."""
        self._sockets, address = listening.bind(self._settings.listen)
        return address

    def add(self, method: MethodForm, handler: Callable[..., Any]) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        self._server.add(method.path, client_streaming=method.client_streaming,
                         server_streaming=method.server_streaming, handler=handler,
                         immediate=getattr(handler, "immediate", None))

    def refuse(self, method: MethodForm, error: Error) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        self._server.refuse(method.path, error)

    async def start(self) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        await self._server.start(self._sockets, self._tls)

    async def stop(self, grace_s: float) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        await self._server.stop(grace_s)

    async def discard(self) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        for one in self._sockets:
            one.close()
