"""One call of Worker.Process, the worker's side: messages in their order, and answers joined with what was asked."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from runtime import wire
from runtime.errors import Cancelled, FailedPrecondition, InvalidArgument, NotFound
from runtime.tasks.messages import options_message
from runtime.tasks.model import TaskOptions

__all__ = ["Conversation", "Input", "NewTask"]

_A = wire.armonik
_OK = _A.ProcessReply(output=_A.Output(ok=_A.Empty())).SerializeToString()
# Few messages are enough for chunks of any agent; one that names no size gets the usual.
_CHUNK_BYTES = 84000


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task that is asked for: id, keys of its results, keys that it depends on, payload."""

    id: str
    keys: tuple[str, ...]
    dependencies: tuple[str, ...]
    payload: bytes


@dataclass(slots=True)
class Input:
    """What the agent has sent: the compute part."""

    session: str = ""
    task: str = ""
    options: dict[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    payload: bytes = b""
    dependencies: dict[str, bytes] = field(default_factory=dict)
    chunk_bytes: int = _CHUNK_BYTES


class _Awaited:
    """An answer that is awaited."""

    __slots__ = ("future", "parts")

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.future = future
        self.parts: list[bytes] = []


class Conversation:
    """One call. Belongs to its loop.

    Parameters
    ----------
    incoming : async iterator of bytes
        ProcessRequests.
    send : callable
        Sends a ProcessReply; returns when it has left.
    chunk_bytes : int
        Most bytes of a chunk, unless the input says otherwise.
    """

    def __init__(
        self,
        incoming: AsyncIterator[bytes],
        send: Callable[[bytes], Awaitable[object]],
        chunk_bytes: int = _CHUNK_BYTES,
    ) -> None:
        self._incoming = incoming
        self._send = send
        self._sending = asyncio.Lock()
        self._numbers = itertools.count()
        self._awaited: dict[str, _Awaited] = {}
        self._listener: asyncio.Task[None] | None = None
        self._chunk_bytes = chunk_bytes

    async def read_input(self) -> Input:
        """Return the compute part.

        Raises
        ------
        InvalidArgument
            It is not as the protocol has it.
        """
        given = Input()
        first = await self._compute()
        if first.WhichOneof("type") != "init_request":
            raise InvalidArgument("the first message of Process must be compute.init_request")
        init = first.init_request
        given.session, given.task = init.session_id, init.task_id
        given.options = dict(init.task_options)
        given.keys = tuple(init.expected_output_keys)
        if init.configuration.data_chunk_max_size > 0:
            given.chunk_bytes = self._chunk_bytes = init.configuration.data_chunk_max_size
        if init.payload.WhichOneof("type") == "data_complete":
            part = await self._compute()
        else:
            given.payload, part = await self._data("payload", [init.payload.data])
        while True:
            if part.WhichOneof("type") != "init_data":
                raise InvalidArgument(f"{part.WhichOneof('type')} in place of compute.init_data")
            kind = part.init_data.WhichOneof("type")
            if kind == "last_data":
                return given
            if kind != "key":
                raise InvalidArgument("compute.init_data has neither key nor last_data")
            given.dependencies[part.init_data.key], part = await self._data("data", [])

    # Replies

    async def result(self, key: str, data: bytes) -> None:
        """Send the value of a result."""
        request_id = self._request_id()
        kind = _A.ProcessReply.Result
        await self._reply(request_id, result=kind(init=_A.InitKeyedDataStream(key=key)))
        view = memoryview(data)
        for start in range(0, len(data) or 1, self._chunk_bytes):
            piece = data if len(data) <= self._chunk_bytes else bytes(view[start : start + self._chunk_bytes])
            await self._reply(request_id, result=kind(data=_A.DataChunk(data=piece)))
        await self._reply(request_id, result=kind(data=_A.DataChunk(data_complete=True)))
        await self._reply(request_id, result=kind(init=_A.InitKeyedDataStream(last_result=True)))

    async def create(self, tasks: Sequence[NewTask], options: TaskOptions | None) -> None:
        """Ask for new tasks, with payloads of any size.

        Raises
        ------
        FailedPrecondition
            The agent refuses them; names the ids that stand against it.
        """
        kind = _A.ProcessReply.CreateLargeTaskRequest
        request_id, answer = self._ask()
        first = kind.InitRequest()
        if options is not None:
            first.task_options.CopyFrom(options_message(options))
        await self._reply(request_id, create_large_task=kind(init_request=first))
        for task in tasks:
            header = _A.TaskRequestHeader(
                id=task.id, expected_output_keys=task.keys, data_dependencies=task.dependencies
            )
            await self._reply(request_id, create_large_task=kind(init_task=_A.InitTaskRequest(header=header)))
            for start in range(0, len(task.payload) or 1, self._chunk_bytes):
                chunk = _A.DataChunk(data=task.payload[start : start + self._chunk_bytes])
                await self._reply(request_id, create_large_task=kind(task_payload=chunk))
            done = kind(task_payload=_A.DataChunk(data_complete=True))
            await self._reply(request_id, create_large_task=done)
        await self._reply(request_id, create_large_task=kind(init_task=_A.InitTaskRequest(last_task=True)))
        reply = await answer
        if reply.WhichOneof("Data") != "successfull":
            ids = ", ".join(map(repr, reply.non_successfull_ids.ids)) or "none is named"
            raise FailedPrecondition(f"subtasks were refused; ids that stand against it: {ids}")

    async def data(self, kind: str, key: str) -> bytes:
        """Ask for data.

        Parameters
        ----------
        kind : str
            ``resource``, ``common_data`` or ``direct_data``.

        Raises
        ------
        NotFound
            With the agent's text.
        """
        request_id, answer = self._ask()
        request: Mapping[str, Any] = {kind: _A.ProcessReply.DataRequest(key=key)}
        await self._reply(request_id, **request)
        found: bytes = await answer
        return found

    async def ok(self) -> None:
        """Say that the task has succeeded, and wait until the agent has closed its side."""
        await self._end(_OK)

    async def error(self, text: str) -> None:
        """Say that the task has failed for good, and wait until the agent has closed its side."""
        await self._end(_A.ProcessReply(output=_A.Output(error=_A.Output.Error(details=text))).SerializeToString())

    def close(self) -> None:
        """Listen no longer."""
        if self._listener is not None:
            self._listener.cancel()

    # Inside

    def _request_id(self) -> str:
        return f"R#{next(self._numbers)}"

    def _ask(self) -> tuple[str, asyncio.Future[Any]]:
        """Return a new request id, and the future of its answer."""
        if self._listener is None:
            self._listener = asyncio.ensure_future(self._listen())
        elif self._listener.done():
            raise Cancelled("the agent has closed its side")
        request_id = self._request_id()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._awaited[request_id] = _Awaited(future)
        return request_id, future

    async def _reply(self, request_id: str, **fields: Any) -> None:
        message = _A.ProcessReply(request_id=request_id, **fields).SerializeToString()
        async with self._sending:
            await self._send(message)

    async def _end(self, output: bytes) -> None:
        async with self._sending:
            await self._send(output)
        if self._listener is not None:
            await asyncio.wait([self._listener])
            return
        async for _ in self._incoming:
            raise InvalidArgument("the agent sent a message behind the output")

    async def _request(self) -> wire.armonik.ProcessRequest:
        data = await anext(self._incoming, None)
        if data is None:
            raise Cancelled("the agent closed its side before the compute part was complete")
        return _parsed(data)

    async def _compute(self) -> wire.armonik.ProcessRequest.ComputeRequest:
        message = await self._request()
        if message.WhichOneof("type") != "compute":
            kind = message.WhichOneof("type") or "nothing"
            raise InvalidArgument(f"{kind} in place of a part of the compute request")
        return message.compute

    async def _data(
        self, kind: str, parts: list[bytes]
    ) -> tuple[bytes, wire.armonik.ProcessRequest.ComputeRequest]:
        """Read chunks up to ``data_complete``; return them joined, and the message behind them."""
        while True:
            part = await self._compute()
            if part.WhichOneof("type") != kind:
                raise InvalidArgument(f"compute.{part.WhichOneof('type')} in place of compute.{kind}")
            chunk = getattr(part, kind)
            if chunk.WhichOneof("type") == "data":
                parts.append(chunk.data)
            elif chunk.data_complete:
                return parts[0] if len(parts) == 1 else b"".join(parts), await self._compute()
            else:
                raise InvalidArgument(f"compute.{kind} has neither data nor data_complete")

    async def _listen(self) -> None:
        """Take the agent's answers until it closes its side."""
        error: Exception = Cancelled("the agent closed its side before it had answered")
        try:
            async for data in self._incoming:
                self._take(_parsed(data))
        except Exception as raised:
            error = raised
        finally:
            for awaited in self._awaited.values():
                if not awaited.future.done():
                    awaited.future.set_exception(error)
                    awaited.future.exception()  # perhaps nobody waits any more
            self._awaited.clear()

    def _take(self, message: wire.armonik.ProcessRequest) -> None:
        kind = message.WhichOneof("type")
        if kind == "create_task":
            awaited = self._awaited.pop(message.create_task.reply_id, None)
            if awaited is not None and not awaited.future.done():
                awaited.future.set_result(message.create_task.reply)
            return
        if kind not in ("resource", "common_data", "direct_data"):
            raise InvalidArgument(f"the agent sent {kind} behind the compute part")
        reply = getattr(message, kind)
        awaited = self._awaited.get(reply.reply_id)
        if awaited is None:
            return
        if reply.WhichOneof("type") == "init":
            if reply.init.WhichOneof("has_result") == "error":
                del self._awaited[reply.reply_id]
                if not awaited.future.done():
                    awaited.future.set_exception(NotFound(f"{kind} {reply.init.key!r}: {reply.init.error}"))
                return
            awaited.parts.append(reply.init.data.data)
        elif reply.data.WhichOneof("type") == "data":
            awaited.parts.append(reply.data.data)
        else:
            del self._awaited[reply.reply_id]
            if not awaited.future.done():
                awaited.future.set_result(b"".join(awaited.parts))


def _parsed(data: bytes) -> wire.armonik.ProcessRequest:
    try:
        return wire.armonik.ProcessRequest.FromString(data)
    except DecodeError:
        raise InvalidArgument("the agent sent what is no ProcessRequest") from None
