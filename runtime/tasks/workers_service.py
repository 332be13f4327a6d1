"""runtime.v1.Workers: workers come and go, and tell how far their tasks are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.errors import InvalidArgument, PermissionDenied
from runtime.tasks import messages
from runtime.tasks.agents.agents import Agents, Progress
from runtime.tasks.agents.endpoint import Endpoint

if TYPE_CHECKING:
    from runtime.edge.plane import Handler

__all__ = ["SERVICE", "WorkersService"]

SERVICE = "runtime.v1.Workers"

_WELCOME = wire.runtime_v1.WorkerOrder(welcome=wire.runtime_v1.WorkerOrder.Welcome()).SerializeToString()
_FAREWELL = wire.runtime_v1.WorkerOrder(farewell=wire.runtime_v1.WorkerOrder.Farewell()).SerializeToString()
_LOOPBACK = ("127.", "::1", "[::1]", "::ffff:127.")


class WorkersService:
    """The calls of Workers.

    Parameters
    ----------
    agents : callable
        Returns the agents of the server.
    """

    def __init__(self, agents: Callable[[], Awaitable[Agents]]) -> None:
        self._agents = agents
        self._removals: dict[asyncio.Future[None], None] = {}
        self._draining = asyncio.Event()

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {
            SERVICE: {
                "Serve": self.serve,
                "Add": self.add,
                "Remove": self.remove,
                "List": self.list,
                "GetProgress": self.get_progress,
            }
        }

    def drain(self) -> None:
        """Send away the workers that came by themselves, once nothing runs there any more."""
        self._draining.set()

    async def serve(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Serve: a worker comes, and stays as long as the call lasts."""
        incoming = aiter(requests)
        first = await anext(incoming, None)
        message = None if first is None else messages.parse(wire.runtime_v1.WorkerNews, first)
        if message is None or message.WhichOneof("news") != "hello":
            raise InvalidArgument("the first WorkerNews must have a hello")
        hello = message.hello
        endpoint = Endpoint.parse(hello.endpoint)
        if endpoint.is_unix and not _is_local(context):
            raise PermissionDenied(f"hello.endpoint: {endpoint} is a socket here, and the worker is elsewhere")
        agents = await self._agents()
        owner = object()
        agent = await agents.add(endpoint, hello.name, hello.concurrency, owner, hello.takes_batches)
        try:
            yield _WELCOME
            drained = asyncio.ensure_future(self._draining.wait())
            try:
                while not drained.done():
                    news = asyncio.ensure_future(_next(incoming))
                    try:
                        await asyncio.wait([news, drained], return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        news.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await asyncio.wait([news])
                        gone = news.cancelled() or news.exception() is not None
                    if gone or (data := news.result()) is None:
                        break
                    message = messages.parse(wire.runtime_v1.WorkerNews, data)
                    kind = message.WhichOneof("news")
                    if kind == "leaving":
                        break
                    if kind != "progress":
                        raise InvalidArgument("a WorkerNews behind the first has neither progress nor leaving")
                    told = message.progress
                    agents.note_progress(agent, Progress(told.task_id, told.fraction, told.text))
            finally:
                drained.cancel()
        finally:
            # Whether or not the worker hears of it: what runs there ends, or is noticed to have ended.
            removal = asyncio.ensure_future(agents.remove(endpoint, owner=owner))
            self._removals[removal] = None
            removal.add_done_callback(lambda done: self._removals.pop(done, None))
        await asyncio.shield(removal)
        yield _FAREWELL

    async def add(self, request: bytes, context: Any) -> bytes:
        """Add."""
        message = messages.parse(wire.runtime_v1.AddWorkerRequest, request)
        agents = await self._agents()
        await agents.add(Endpoint.parse(message.endpoint), message.name, message.concurrency)
        return wire.runtime_v1.AddWorkerReply().SerializeToString()

    async def remove(self, request: bytes, context: Any) -> bytes:
        """Remove."""
        message = messages.parse(wire.runtime_v1.RemoveWorkerRequest, request)
        grace_s = message.grace_s if message.HasField("grace_s") else None
        if grace_s is not None and not grace_s >= 0:
            raise InvalidArgument(f"grace_s: {grace_s}; it must be 0 or more")
        await (await self._agents()).remove(Endpoint.parse(message.endpoint), grace_s)
        return wire.runtime_v1.RemoveWorkerReply().SerializeToString()

    async def list(self, request: bytes, context: Any) -> bytes:
        """List."""
        messages.parse(wire.runtime_v1.ListWorkersRequest, request)
        agents = await self._agents()
        now_s = agents.now_s()
        reply = wire.runtime_v1.ListWorkersReply()
        for agent, is_registered in agents.all():
            reply.worker.add(
                endpoint=str(agent.endpoint),
                name=agent.name,
                state=agent.state,
                concurrency=agent.concurrency,
                task_id=agent.running,
                num_ended=agent.num_ended,
                num_failed=agent.num_failed,
                seconds=max(0.0, now_s - agent.added_s),
                is_registered=is_registered,
            )
        return reply.SerializeToString()

    async def get_progress(self, request: bytes, context: Any) -> bytes:
        """GetProgress."""
        message = messages.parse(wire.runtime_v1.GetProgressRequest, request)
        reply = wire.runtime_v1.GetProgressReply()
        for told in (await self._agents()).progress(message.task_id):
            reply.progress.add(task_id=told.task_id, fraction=told.fraction, text=told.text)
        return reply.SerializeToString()


async def _next(incoming: AsyncIterator[bytes]) -> bytes | None:
    return await anext(incoming, None)


def _is_local(context: Any) -> bool:
    """Return whether a caller is on this machine."""
    peer = str(context.peer())
    # The gRPC library writes ipv4:127.0.0.1:1234.
    where = peer.removeprefix("ipv4:").removeprefix("ipv6:").replace("%5B", "[").replace("%5D", "]")
    return peer.startswith("unix:") or where.startswith(_LOOPBACK)
