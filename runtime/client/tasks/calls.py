"""Calls of the task plane over one connection, which is made again when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from runtime import wire
from runtime._ext.http2_call import Method
from runtime._ext.http2_client_stream import StreamCall, start_stream
from runtime.client.access import Access, address_of, tls_context
from runtime.edge.connect import PeerConnection, connect, cut_when_silent
from runtime.errors import DeadlineExceeded, Error, Unavailable

__all__ = ["SUBMITTER", "Calls"]

_V = TypeVar("_V")

SUBMITTER = "/ArmoniK.api.grpc.v1.Submitter/"
"""The path of a call of the Submitter begins with it; its name follows."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
# For which a server that is slow to answer the end of TLS is waited for.
_CLOSE_S = 1.0


class Calls:
    """The way to one server. Belongs to the loop on which it is first used.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``.
    access : Access
    timeout_s : float
        For calls that the server answers at once.
    retry_s : float
        For how long calls that may be repeated are, when the server cannot be reached.
    """

    def __init__(self, target: str, access: Access, timeout_s: float, retry_s: float) -> None:
        self.target = target
        self._address = address_of(target)
        self._access = access
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._connection: PeerConnection | None = None
        self._lost = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._methods: dict[str, Method] = {}

    async def unary(self, path: str, message: Any, reply: type[_V], *, waits: bool = False) -> _V:
        """Make a call that changes nothing when it is made twice, again and again while the server is away.

        Parameters
        ----------
        path : str
            ``/SERVICE/METHOD``.
        message : Message
        reply : type
            Class of the answer.
        waits : bool
            Whether the server may take as long as it likes.

        Raises
        ------
        Error
            What the server answers; Unavailable with the target when it cannot be reached for ``retry_s``.
        """
        request = message.SerializeToString()
        return await self.repeated(lambda: self.once(path, (request,), reply, waits=waits))

    async def repeated(self, call: Callable[[], Awaitable[_V]]) -> _V:
        """Await ``call()``, again after a pause when the server could not be reached or went away meanwhile."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._retry_s
        pause_s = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                return await call()
            except Unavailable:
                if loop.time() - began > self._retry_s:  # it was there for a while
                    give_up, pause_s = loop.time() + self._retry_s, _FIRST_PAUSE_S
                if loop.time() + pause_s > give_up:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def once(self, path: str, messages: Iterable[bytes], reply: type[_V], *, waits: bool = False) -> _V:
        """Send messages and return the one answer."""

        async def sent() -> AsyncIterator[bytes]:
            for message in messages:
                yield message

        return await self.upload(path, sent(), reply, timeout_s=None if waits else self._timeout_s)

    async def upload(
        self, path: str, messages: AsyncIterator[bytes], reply: type[_V], *, timeout_s: float | None = None
    ) -> _V:
        """Send messages as fast as the server takes them, and return the one answer.

        Raises
        ------
        DeadlineExceeded
            If it takes longer than ``timeout_s``.
        Error
            What the server answers; Unavailable when it cannot be reached or goes away.
        """
        async with self._call(path, timeout_s) as call:
            with contextlib.suppress(_Refused):
                async for message in messages:
                    await _send(call, message)
                call.done_sending()
            answer = await call.receive()
            if answer is None:
                raise Unavailable(f"{self.target}: {path} ended without an answer")
            while await call.receive() is not None:
                pass
            return reply.FromString(answer)  # type: ignore[attr-defined, no-any-return]

    async def download(self, path: str, message: Any, reply: type[_V]) -> AsyncGenerator[_V, None]:
        """Yield the answers of a call; whoever stops early ends it."""
        async with self._call(path, None) as call:
            await call.send(message.SerializeToString())
            call.done_sending()
            while (answer := await call.receive()) is not None:
                yield reply.FromString(answer)  # type: ignore[attr-defined]

    def stream(self, path: str) -> contextlib.AbstractAsyncContextManager[StreamCall]:
        """Return a call that streams both ways; it ends with the block, and so do errors of it with the target."""
        return self._call(path, None)

    async def close(self) -> None:
        """Let go of the connection; open calls end."""
        if self._watch is not None:
            self._watch.cancel()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.close()
        # TLS ends with a word of each side; a loop that ended before would leave the socket open.
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._lost.wait()
        except TimeoutError:
            connection.abort()
            await asyncio.sleep(0)

    @contextlib.asynccontextmanager
    async def _call(self, path: str, timeout_s: float | None) -> AsyncIterator[StreamCall]:
        try:
            async with asyncio.timeout(timeout_s):
                call = start_stream(await self._connected(), self._method(path), timeout_s)
                try:
                    yield call
                finally:
                    call.cancel()
        except Error as error:  # before TimeoutError, which some of ours are
            if error.message.startswith(self.target):
                raise
            if error.message.startswith(f"{self._address} "):
                raise type(error)(f"{self.target}{error.message.removeprefix(self._address)}") from None
            raise type(error)(f"{self.target}: {error.message}") from None
        except TimeoutError:
            raise DeadlineExceeded(f"{self.target}: {path} was not answered within {timeout_s:g} s") from None

    def _method(self, path: str) -> Method:
        method = self._methods.get(path)
        if method is None:
            service, _, name = path[1:].partition("/")
            form = wire.SERVICES[service][name]
            method = self._methods[path] = Method(path, form.client_streaming, form.server_streaming, None)
        return method

    async def _connected(self) -> PeerConnection:
        async with self._connecting:
            if self._connection is None or not self._connection.takes_calls:
                if self._watch is not None:
                    self._watch.cancel()
                access = self._access
                self._lost = lost = asyncio.Event()
                self._connection = await connect(
                    self._address, tls_context(access) if access.tls else None, server_name=access.server_name,
                    metadata=[(key.encode(), value.encode()) for key, value in access.metadata()], lost=lost.set,
                )
                self._watch = asyncio.ensure_future(cut_when_silent(self._connection))
            return self._connection


class _Refused(Exception):
    """The server has answered before everything was sent; what it says is read next."""


async def _send(call: StreamCall, message: bytes) -> None:
    try:
        await call.send(message)
    except Error:
        raise _Refused from None
