"""Addresses that lead to one server now and to another later: tasks of a cluster that change their process at will.

A server of a cluster knows the others by addresses that never change while it runs. When those are doors, any of the
processes that could be a task can be it, one after the other, and none has to start anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from types import TracebackType

__all__ = ["Door", "Doors"]

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = 20.0


class Door:
    """One address.

    Attributes
    ----------
    address : str
        ``HOST:PORT``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._behind: tuple[str, int] | None = None
        self._passages: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.address = "{}:{}".format(*self._server.sockets[0].getsockname())

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()

    def lead_to(self, address: str) -> None:
        """Have new connections lead to a server, and cut those that there are; returns when they are gone."""
        asyncio.run_coroutine_threadsafe(self._turn(address), self._loop).result(_TIMEOUT_S)

    async def _turn(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        if self._behind != (host, int(port)):
            self._behind = host, int(port)
            await self._cut()

    async def _cut(self) -> None:
        passages = list(self._passages)
        for passage in passages:
            passage.cancel()
        await asyncio.gather(*passages, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passage = asyncio.current_task()
        assert passage is not None
        self._passages.add(passage)
        ends = [writer]
        try:
            if self._behind is not None:
                there, back = await asyncio.open_connection(*self._behind)
                ends.append(back)
                ways = [asyncio.ensure_future(_carry(*way)) for way in ((reader, back), (there, writer))]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, or the door leads elsewhere now
        finally:
            for end in ends:
                end.transport.abort()
            self._passages.discard(passage)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()


class Doors:
    """Some doors, served by a thread; a context manager, entered as the list of them."""

    def __init__(self, count: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="doors")
        self._doors = [Door(self._loop) for _ in range(count)]

    def _do(self, *works: object) -> None:
        async def work() -> None:
            await asyncio.gather(*works)  # type: ignore[call-overload]

        asyncio.run_coroutine_threadsafe(work(), self._loop).result(_TIMEOUT_S)

    def __enter__(self) -> list[Door]:
        self._thread.start()
        self._do(*(door.open() for door in self._doors))
        return self._doors

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        try:
            self._do(*(door.close() for door in self._doors))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_TIMEOUT_S)
            self._loop.close()
