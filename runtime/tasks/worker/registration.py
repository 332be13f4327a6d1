"""A worker's standing call to a server: it says where the worker is, and carries what its tasks tell of themselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from runtime import wire
from runtime._ext.http2_call import Method
from runtime._ext.http2_client_stream import StreamCall, start_stream
from runtime.client.access import Access, address_of, tls_context
from runtime.edge.connect import PeerConnection, connect
from runtime.errors import Error, Unavailable

if TYPE_CHECKING:
    import ssl

__all__ = ["Registration"]

logger = logging.getLogger(__name__)

_SERVE = Method("/runtime.v1.Workers/Serve", True, True, None)
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
# Between two messages about the progress of tasks.
_PROGRESS_PAUSE_S = 0.05
_SILENCE_S = 15.0
_LEAVING = wire.runtime_v1.WorkerNews(leaving=wire.runtime_v1.WorkerNews.Leaving()).SerializeToString()


class Registration:
    """Registers a worker with a server for as long as it runs. Belongs to its loop.

    Parameters
    ----------
    target : str
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` or ``unix:PATH``.
    access : Access
    endpoint, name : str
        Where the server reaches the worker, and what it is called.
    concurrency : int
        Tasks at a time.
    takes_batches : bool
        Whether the worker serves TaskBatches.

    Attributes
    ----------
    registered : asyncio.Event
        Set while the server knows the worker.
    """

    def __init__(
        self, target: str, access: Access, endpoint: str, name: str, concurrency: int, takes_batches: bool
    ) -> None:
        self.registered = asyncio.Event()
        self._target = target
        self._address = address_of(target)
        self._access = access
        self._tls: ssl.SSLContext | None = tls_context(access) if access.tls else None
        hello = wire.runtime_v1.WorkerNews.Hello(
            endpoint=endpoint, name=name, concurrency=concurrency, takes_batches=takes_batches
        )
        self._hello = wire.runtime_v1.WorkerNews(hello=hello).SerializeToString()
        self._progress: dict[str, wire.runtime_v1.TaskProgress] = {}
        self._told = asyncio.Event()
        self._leaving = asyncio.Event()
        self._work = asyncio.ensure_future(self._keep())

    def tell(self, task_id: str, fraction: float, text: str) -> None:
        """Pass on how far a task is; only the latest is sent."""
        self._progress[task_id] = wire.runtime_v1.TaskProgress(task_id=task_id, fraction=fraction, text=text)
        self._told.set()

    async def leave(self, timeout_s: float) -> None:
        """Ask the server for no further task, and wait until it has none here any more."""
        self._leaving.set()
        self._told.set()
        done, _ = await asyncio.wait([self._work], timeout=timeout_s)
        if not done:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        was_told = False
        while not self._leaving.is_set():
            try:
                await self._stand()
                was_told = False
                pause_s = _FIRST_PAUSE_S
            except Error as error:
                if self.registered.is_set():
                    pause_s = _FIRST_PAUSE_S
                if not was_told or self.registered.is_set():
                    was_told = True
                    logger.warning("not registered: %s", error, extra={"server": self._target})
            finally:
                self.registered.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._leaving.wait()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _stand(self) -> None:
        """Be registered until the server says farewell."""
        metadata = [(key.encode(), value.encode()) for key, value in self._access.metadata()]
        connection = await connect(self._address, self._tls, server_name=self._access.server_name, metadata=metadata)
        watch = asyncio.ensure_future(_watch(connection))
        teller: asyncio.Task[None] | None = None
        try:
            call = start_stream(connection, _SERVE)
            await call.send(self._hello)
            while (data := await call.receive()) is not None:
                order = wire.runtime_v1.WorkerOrder.FromString(data)
                if order.WhichOneof("order") == "welcome":
                    logger.info("registered", extra={"server": self._target})
                    self.registered.set()
                    teller = asyncio.ensure_future(self._tell(call))
                elif order.WhichOneof("order") == "farewell":
                    return
            raise Unavailable("the server ended the registration")
        finally:
            watch.cancel()
            if teller is not None:
                teller.cancel()
            connection.abort()

    async def _tell(self, call: StreamCall) -> None:
        with contextlib.suppress(Error):  # the reader of the call is told too
            while True:
                await self._told.wait()
                self._told.clear()
                progress, self._progress = self._progress, {}
                for told in progress.values():
                    await call.send(wire.runtime_v1.WorkerNews(progress=told).SerializeToString())
                if self._leaving.is_set():
                    await call.send(_LEAVING)
                    return
                await asyncio.sleep(_PROGRESS_PAUSE_S)


async def _watch(connection: PeerConnection) -> None:
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
