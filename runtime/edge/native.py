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
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime._ext.http2 import Connection
from runtime._ext.http2_call import Abort, Call, Method
from runtime._ext.http2_link import Tally
from runtime._ext.http2_stalls import look
from runtime._ext.message_parts import MessageParts
from runtime.edge import sockets as listening
from runtime.edge.connections import Census, Gate, Limits
from runtime.edge.failures import as_domain_error
from runtime.edge.limits import WATCHED_ANSWER_BYTES, Account
from runtime.edge.live_tls import LiveTls
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
# How often connections are looked at for signs of life, and for what does not go on.
WATCH_INTERVAL_S = 5.0
# When all places are taken, connections that have had no call for so long make room, so many at a time.
IDLE_GOES_S = 30.0
IDLE_GO_AT_ONCE = 32
# How often certificate files are looked at for a change.
TLS_INTERVAL_S = 1.0
# A connection that does not answer a ping for this long is dead.
PING_TIMEOUT_S = 20.0


class _Protocol(Connection, asyncio.BufferedProtocol):
    """A connection as asyncio wants it; everything is in the compiled base."""


@dataclass(frozen=True)
class Patience:
    """How long a client may take, in seconds.

    Attributes
    ----------
    keepalive_s : float
        A connection silent for so long is asked for a sign of life.
    greet_s : float
        From a connection to the client's greeting, TLS included; from the first to the last byte of a call's headers.
    stall_s : float
        A message under way that goes on by less than 64 KiB in this time, and does not end, ends its call.
    unread_s : float
        The same for messages of an answer stream.
    idle_s : float
        A connection without a call for so long is retired; 0 for never.
    """

    keepalive_s: float = 60.0
    greet_s: float = 10.0
    stall_s: float = 120.0
    unread_s: float = 3600.0
    idle_s: float = 3600.0


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
    patience : Patience
    limits : Limits
        How much may be open at once.

    Concurrency: every method belongs to the loop on which `start` ran.
    """

    def __init__(self, account: Account, authorize: Authorize | None, as_error: Callable[[str, Exception], Error],
                 patience: Patience = Patience(), limits: Limits = Limits()) -> None:  # noqa: B008 - both are frozen
        self.methods: dict[bytes, Method] = {}
        self.account = account
        self.authorize = authorize
        self.unknown_method = "no such method here"
        self.lookahead = 0
        self.read_buffer = bytearray(READ_BUFFER_BYTES)
        self._as_error = as_error
        self.patience = patience
        self.census = Census(limits)
        self._made_room_at = -math.inf
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._entering: dict[asyncio.Task[None], socket.socket] = {}
        self._is_draining = False
        self._gate: Gate | None = None
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
        if tls is not None:
            self._tls = tls
            self._tls_watch = loop.call_later(TLS_INTERVAL_S, self._refresh_tls)
        self._gate = Gate(loop, self.census, self._enter, self._make_room)
        self._gate.open(sockets)
        self._watch = loop.call_later(self._look_every_s, self._look)

    @property
    def _look_every_s(self) -> float:
        return min(WATCH_INTERVAL_S, max(0.05, self.patience.greet_s / 2))

    def _enter(self, connected: socket.socket, peer: Tally) -> None:
        """Take a connection; TLS comes first, in a task."""
        assert self._loop is not None
        connection = _Protocol(self, self._loop)
        connection.peer, connection.whole = peer, self.census.whole
        task = self._loop.create_task(self._adopt(connected, connection, peer.name))
        self._entering[task] = connected

        def entered(done: asyncio.Task[None]) -> None:
            del self._entering[done]
            if connection not in self._connections:
                self._release(connection)

        task.add_done_callback(entered)

    async def _adopt(self, connected: socket.socket, connection: _Protocol, name: str) -> None:
        assert self._loop is not None
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {"ssl": self._tls.context, "ssl_handshake_timeout": self.patience.greet_s}
        try:
            await self._loop.connect_accepted_socket(lambda: connection, connected, **options)
        except (OSError, ssl.SSLError) as error:  # no TLS, not in time, or gone
            logger.debug("a connection did not come about", extra={"peer": name, "reason": str(error)})

    def _release(self, connection: Connection) -> None:
        peer, connection.peer = connection.peer, None
        if peer is not None:
            self.census.leave(peer)

    def _make_room(self) -> None:
        """Cut connections that have had no call for long; called when there is no place for a new one."""
        assert self._loop is not None
        now = self._loop.time()
        if now - self._made_room_at < 1.0:
            return
        self._made_room_at = now
        idle = [one for one in self._connections if not one.num_calls and now - one.idle_since > IDLE_GOES_S]
        idle.sort(key=lambda one: one.idle_since)
        for connection in idle[:IDLE_GO_AT_ONCE]:
            connection.abort()
            self._release(connection)
        if idle:
            logger.warning("idle connections were cut to make room", extra={"number": len(idle[:IDLE_GO_AT_ONCE])})

    def drain(self) -> None:
        """Close the port; tell clients to go elsewhere; connections end with their last call."""
        if self._gate is not None:
            self._gate.close()
        self._is_draining = True
        for entering in self._entering.values():
            # Not by cancelling: uvloop then closes a transport without telling a protocol that is connected already.
            with contextlib.suppress(OSError):
                entering.shutdown(socket.SHUT_RDWR)
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
        if self._tasks or self._entering:
            await asyncio.wait({*self._tasks, *self._entering}, timeout=10.0)
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
        if self._is_draining:
            connection.drain()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._release(connection)
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
        """Ask silent connections for a sign of life; close those that owe one; end what does not go on."""
        assert self._loop is not None
        now = self._loop.time()
        patience, every_s = self.patience, self._look_every_s
        looks, stream_looks = (math.ceil(seconds / every_s) for seconds in (patience.stall_s, patience.unread_s))
        for connection in list(self._connections):
            try:
                reason = look(connection, now, patience.greet_s, looks, stream_looks)
            except Exception:
                logger.exception("a connection could not be looked at; it is cut")
                connection.abort()
                continue
            if reason is not None:
                logger.info("connection cut", extra={"reason": reason})
                connection.abort()
                continue
            silent = now - connection.last_activity
            if not connection.is_ready:
                continue
            if connection.awaits_ping:
                if silent > patience.keepalive_s + PING_TIMEOUT_S:
                    connection.abort()
            elif silent > patience.keepalive_s:
                connection.ping()
            if patience.idle_s and not connection.num_calls and now - connection.idle_since > patience.idle_s:
                connection.retire()
        self._watch = self._loop.call_later(every_s, self._look)

    def check_again(self) -> None:
        """End the calls of those who may not make them any more."""
        for connection in list(self._connections):
            connection.check_again()


class NativeTransport:
    """This project's transport on the address of the settings; see :class:`runtime.edge.transport.Transport`."""

    def __init__(self, settings: Settings, account: Account, authorize: Authorize | None) -> None:
        self._settings = settings
        self._tls = LiveTls(settings, ["h2"]) if settings.tls_cert is not None else None
        patience = Patience(settings.keepalive_s, settings.handshake_timeout_s, settings.stall_timeout_s,
                            settings.unread_timeout_s, settings.idle_timeout_s)
        self._server = NativeServer(account, authorize, as_domain_error, patience, Limits.of(settings))
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

    def num_open(self) -> tuple[int, int] | None:
        """See :class:`runtime.edge.transport.Transport`."""
        whole = self._server.census.whole
        return whole.connections, whole.calls

    def check_again(self) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        self._server.check_again()

    async def stop(self, grace_s: float) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        await self._server.stop(grace_s)

    async def discard(self) -> None:
        """See :class:`runtime.edge.transport.Transport`."""
        for one in self._sockets:
            one.close()
