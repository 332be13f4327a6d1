"""A small service on the native transport, on a loop thread of its own, for the tests."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvloop

from runtime._ext.message_parts import MessageParts
from runtime.edge import sockets
from runtime.edge.connections import Limits
from runtime.edge.failures import as_domain_error
from runtime.edge.limits import Account
from runtime.edge.native import NativeServer, Patience
from runtime.errors import FailedPrecondition, InvalidArgument

SERVICE = "/test.Echo/"

uvloop.new_event_loop().close()  # libuv opens a pipe for the whole process with its first loop; not a leak of a test


class EchoService:
    """The handlers, and what they saw."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.waiting = threading.Event()
        self.release: asyncio.Event | None = None
        self.received: list[int] = []

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    def echo_now(self, request: bytes, context: Any) -> bytes | None:
        if request == b"fail":
            raise InvalidArgument("field 'x' is 7; it must be below 5 \N{SNOWMAN} 100%")
        return None if request == b"later" else request

    async def parts(self, request: bytes, context: Any) -> MessageParts:
        view = memoryview(request)
        size = max(1, len(view) // 3)
        return MessageParts([request[:7], b"", *(view[7:][start:start + size] for start in range(0, len(view), size))])

    async def fail(self, request: bytes, context: Any) -> bytes:
        raise FailedPrecondition(request.decode())

    async def crash(self, request: bytes, context: Any) -> bytes:
        raise ZeroDivisionError("nobody meant this")

    async def wait(self, request: bytes, context: Any) -> bytes:
        assert self.release is not None
        self.waiting.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b"released"

    async def describe(self, request: bytes, context: Any) -> bytes:
        remaining = context.time_remaining()
        context.set_trailing_metadata((("x-trailer", "t"), ("y-bin", b"\x00\xff")))
        lines = [f"{key}={value!r}" for key, value in context.invocation_metadata()]
        return "\n".join([*lines, f"deadline={remaining is not None}", context.peer()]).encode()

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        number, size = map(int, request.split())
        for index in range(number):
            yield bytes([index % 256]) * size
        if size == 13:
            raise InvalidArgument("thirteen")

    async def total(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        size = 0
        async for message in requests:
            size += len(message)
            self.received.append(len(message))
            if message == b"refuse":
                raise InvalidArgument("refused")
            if message == b"hold":
                assert self.release is not None
                self.waiting.set()
                await self.release.wait()
        return str(size).encode()

    async def chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in requests:
            yield message[::-1]


class RunningService:
    """The service as a client finds it."""

    def __init__(self, address: str, server: NativeServer, echo: EchoService, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.server = server
        self.echo = echo
        self.loop = loop

    def call(self, function: Any) -> Any:
        """Run a plain function on the loop and return its result."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def stop(self, grace_s: float) -> Any:
        """Begin to stop; return the future of its end."""
        return asyncio.run_coroutine_threadsafe(self.server.stop(grace_s), self.loop)


@contextlib.contextmanager
def running(*, limit: int = 1 << 30, authorize: Any = None, tls: ssl.SSLContext | None = None,
            unix_path: Path | None = None, keepalive_s: float = 60.0,
            handshake_timeout_s: float = 20.0, loop_kind: str = "asyncio", limits: Limits | None = None,
            **more: float) -> Iterator[RunningService]:
    """Serve until the end of the block."""
    started: dict[str, Any] = {}
    ready = threading.Event()

    async def serve() -> None:
        echo = EchoService()
        echo.release = asyncio.Event()
        account = Account(limit)
        patience = Patience(keepalive_s, handshake_timeout_s, **more)
        server = NativeServer(account, authorize, as_domain_error, patience, limits or Limits())
        for name, client_streaming, server_streaming in (
                ("echo", False, False), ("fail", False, False), ("crash", False, False), ("wait", False, False),
                ("parts", False, False),
                ("describe", False, False), ("count", False, True), ("total", True, False), ("chat", True, True)):
            server.add(SERVICE + name, client_streaming=client_streaming, server_streaming=server_streaming,
                       handler=getattr(echo, name))
        server.add(SERVICE + "now", client_streaming=False, server_streaming=False, handler=echo.echo,
                   immediate=echo.echo_now)
        opened, address = sockets.bind("127.0.0.1:0" if unix_path is None else f"unix:{unix_path}")
        await server.start(opened, tls)
        stop = asyncio.Event()
        started.update(address=address, server=server, echo=echo, loop=asyncio.get_running_loop(), stop=stop)
        ready.set()
        await stop.wait()
        await server.stop(0.0)
        assert account.used == 0, f"{account.used} bytes are still counted after the last call"

    failure: list[BaseException] = []

    def run() -> None:
        try:
            if loop_kind == "uvloop":
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(serve())
            else:
                asyncio.run(serve())
        except BaseException as error:
            failure.append(error)
            ready.set()

    thread = threading.Thread(target=run, name="native-service")
    thread.start()
    assert ready.wait(10)
    if failure:
        raise failure[0]
    service = RunningService(started["address"], started["server"], started["echo"], started["loop"])
    try:
        yield service
    finally:
        service.loop.call_soon_threadsafe(service.echo.release.set)  # type: ignore[union-attr]
        service.loop.call_soon_threadsafe(started["stop"].set)
        thread.join(20)
        assert not thread.is_alive(), "the service did not stop"
        if failure:
            raise failure[0]
