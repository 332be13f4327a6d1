"""A worker as somebody else would write it: the gRPC library, the documented messages, and a script for each task."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from runtime import wire

TIMEOUT_S = 20.0
"""For whatever a worker is waited for."""

A = wire.armonik
HEALTH = A.HealthCheckReply
_PATH = "ArmoniK.api.grpc.v1.Worker"


class Given:
    """The compute part of a call, as it came."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.init: Any = None
        self.payload = b""
        self.payload_is_complete = False
        self.data: dict[str, bytes] = {}
        self.chunk_sizes: list[int] = []

    @property
    def task(self) -> str:
        return str(self.init.task_id)

    @property
    def keys(self) -> list[str]:
        return list(self.init.expected_output_keys)


class Conversation:
    """One call of Process, for a script."""

    def __init__(self, worker: OutsideWorker, context: Any) -> None:
        self.worker = worker
        self.context = context
        self.given = Given()
        self.replies: dict[str, list[Any]] = {}
        self.late: list[Any] = []
        self.half_closed = False
        self._numbers = iter(range(1_000_000))

    async def take_input(self) -> Given:
        """Read the compute part."""
        given = self.given
        key = ""
        while True:
            message = await self.read()
            assert message is not None, "half-closed before last_data"
            assert message.WhichOneof("type") == "compute", message
            part = message.compute
            kind = part.WhichOneof("type")
            if kind == "init_request":
                assert not given.order
                given.order.append("init_request")
                given.init = part.init_request
                given.payload += part.init_request.payload.data
            elif kind == "payload":
                if part.payload.WhichOneof("type") == "data":
                    given.payload += part.payload.data
                    given.chunk_sizes.append(len(part.payload.data))
                else:
                    assert part.payload.data_complete
                    given.order.append("payload_complete")
                    given.payload_is_complete = True
            elif kind == "init_data":
                if part.init_data.WhichOneof("type") == "last_data":
                    assert part.init_data.last_data
                    given.order.append("last_data")
                    return given
                key = part.init_data.key
                given.order.append(f"key {key}")
                given.data[key] = b""
                chunks = 0
            else:
                if part.data.WhichOneof("type") == "data":
                    chunks += 1
                    given.data[key] += part.data.data
                    given.chunk_sizes.append(len(part.data.data))
                else:
                    assert part.data.data_complete and chunks > 0
                    given.order.append(f"complete {key}")

    async def read(self) -> Any:
        """Return the next message of the agent; None after its half-close."""
        message = await self.context.read()
        if message is grpc.aio.EOF:
            self.half_closed = True
            return None
        return message

    async def write(self, **fields: Any) -> None:
        """Send a ProcessReply."""
        await self.context.write(A.ProcessReply(**fields))

    def request_id(self) -> str:
        return f"R#{next(self._numbers)}"

    async def result(self, key: str, *chunks: bytes, request_id: str = "") -> None:
        """Send a whole result."""
        request_id = request_id or self.request_id()
        for part in result_parts(key, *chunks):
            await self.write(request_id=request_id, result=part)

    async def ok(self) -> None:
        """Send ``output.ok``."""
        await self.write(output=A.Output(ok=A.Empty()))

    async def error(self, text: str) -> None:
        """Send ``output.error``."""
        await self.write(output=A.Output(error=A.Output.Error(details=text)))

    async def until_half_close(self) -> None:
        """Wait for the agent's half-close."""
        while (message := await self.read()) is not None:
            self.late.append(message)

    async def ask(self, kind: str, key: str) -> tuple[bytes | None, str, list[Any]]:
        """Ask for data; return them or None, the error, and the answer's messages."""
        request_id = self.request_id()
        await self.write(request_id=request_id, **{kind: A.ProcessReply.DataRequest(key=key)})
        return await self.answer(kind, request_id)

    async def answer(self, kind: str, request_id: str) -> tuple[bytes | None, str, list[Any]]:
        """Read the answer to a request for data."""
        data = b""
        seen = []
        while True:
            message = await self.read()
            assert message.WhichOneof("type") == kind, message
            reply = getattr(message, kind)
            assert reply.reply_id == request_id
            seen.append(reply)
            if reply.WhichOneof("type") == "init":
                if reply.init.WhichOneof("has_result") == "error":
                    return None, reply.init.error, seen
                data += reply.init.data.data
            elif reply.data.WhichOneof("type") == "data":
                data += reply.data.data
            else:
                return data, "", seen

    async def create_small(self, *requests: Any, options: Any = None, request_id: str = "") -> Any:
        """Ask for tasks by one message; return the answer."""
        request_id = request_id or self.request_id()
        message = A.ProcessReply.CreateSmallTaskRequest(task_options=options, task_requests=requests)
        await self.write(request_id=request_id, create_small_task=message)
        return await self.created(request_id)

    async def create_large(self, *requests: Any, options: Any = None, chunk_bytes: int = 1000) -> Any:
        """Ask for tasks with payloads in chunks; return the answer."""
        request_id = self.request_id()
        kind = A.ProcessReply.CreateLargeTaskRequest
        first = kind(init_request=kind.InitRequest(task_options=options))
        await self.write(request_id=request_id, create_large_task=first)
        for request in requests:
            head = A.TaskRequestHeader(
                id=request.id,
                expected_output_keys=request.expected_output_keys,
                data_dependencies=request.data_dependencies,
            )
            parts = [kind(init_task=A.InitTaskRequest(header=head))]
            for start in range(0, len(request.payload), chunk_bytes):
                parts.append(kind(task_payload=A.DataChunk(data=request.payload[start : start + chunk_bytes])))
            parts.append(kind(task_payload=A.DataChunk(data_complete=True)))
            for part in parts:
                await self.write(request_id=request_id, create_large_task=part)
        await self.write(request_id=request_id, create_large_task=kind(init_task=A.InitTaskRequest(last_task=True)))
        return await self.created(request_id)

    async def created(self, request_id: str) -> Any:
        """Read the answer to a request for tasks."""
        message = await self.read()
        assert message.WhichOneof("type") == "create_task", message
        assert message.create_task.reply_id == request_id
        return message.create_task.reply


Script = Callable[[Conversation], Awaitable[object]]


def result_parts(key: str, *chunks: bytes) -> list[Any]:
    """Return the messages of one result."""
    kind = A.ProcessReply.Result
    return [
        kind(init=A.InitKeyedDataStream(key=key)),
        *(kind(data=A.DataChunk(data=chunk)) for chunk in chunks),
        kind(data=A.DataChunk(data_complete=True)),
        kind(init=A.InitKeyedDataStream(last_result=True)),
    ]


class OutsideWorker:
    """A worker on a unix socket or a port.

    Attributes
    ----------
    health : int or None
        What HealthCheck answers; None for UNIMPLEMENTED.
    conversations : list of Conversation
        All calls of Process so far.
    """

    def __init__(self, script: Script, listen: str) -> None:
        self.script = script
        self.health: int | None = HEALTH.SERVING
        self.num_checks = 0
        self.conversations: list[Conversation] = []
        self.endpoint = listen
        self._listen = listen
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        server = self._server = grpc.aio.server()
        handlers: dict[str, grpc.RpcMethodHandler] = {
            "Process": grpc.stream_stream_rpc_method_handler(
                self._process, A.ProcessRequest.FromString, A.ProcessReply.SerializeToString
            ),
            "HealthCheck": grpc.unary_unary_rpc_method_handler(
                self._check, A.Empty.FromString, HEALTH.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_PATH, handlers),))
        port = server.add_insecure_port(self._listen)
        if not self._listen.startswith("unix:"):
            self.endpoint = f"{self._listen.rpartition(':')[0]}:{port}"
        await server.start()

    async def stop(self) -> None:
        """End at once, as if killed: open calls break."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def _process(self, _: Any, context: Any) -> None:
        conversation = Conversation(self, context)
        self.conversations.append(conversation)
        await self.script(conversation)

    async def _check(self, _: Any, context: Any) -> Any:
        self.num_checks += 1
        if self.health is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        return HEALTH(status=self.health)


async def succeed(conversation: Conversation) -> None:
    """Produce every key: its own name, and the payload behind it."""
    given = await conversation.take_input()
    for key in given.keys:
        await conversation.result(key, key.encode() + b":", given.payload)
    await conversation.ok()
    await conversation.until_half_close()


async def end(conversation: Conversation) -> None:
    """Succeed and leave as the protocol has it."""
    await conversation.ok()
    await conversation.until_half_close()


async def fail_call(conversation: Conversation, text: str) -> None:
    """End the call with a status."""
    await conversation.context.abort(grpc.StatusCode.INTERNAL, text)


@contextlib.asynccontextmanager
async def working(submitter: Any, script: Script, folder: Path | None = None, number: int = 1) -> AsyncIterator[Any]:
    """Serve a worker, or several, and have the server of ``submitter`` use them; return the first, or all."""
    workers = []
    agents = await submitter.plane.agents()
    try:
        for index in range(number):
            listen = "127.0.0.1:0" if folder is None else f"unix:{folder}/w{index}.sock"
            worker = OutsideWorker(script, listen)
            await worker.start()
            workers.append(worker)
            await add(submitter, worker.endpoint)
        yield workers[0] if number == 1 else workers
    finally:
        del agents
        await asyncio.gather(*(remove(submitter, worker.endpoint) for worker in workers))
        for worker in workers:
            await worker.stop()


async def add(submitter: Any, endpoint: str, **fields: Any) -> None:
    """Have the server use an endpoint."""
    await workers_call(submitter, "Add", wire.runtime_v1.AddWorkerRequest(endpoint=endpoint, **fields))


async def remove(submitter: Any, endpoint: str, grace_s: float = 0.0) -> None:
    """Have the server use an endpoint no more."""
    await workers_call(submitter, "Remove", wire.runtime_v1.RemoveWorkerRequest(endpoint=endpoint, grace_s=grace_s))


async def workers_call(submitter: Any, name: str, request: Any, timeout: float = TIMEOUT_S) -> Any:
    """Call runtime.v1.Workers."""
    method = wire.SERVICES["runtime.v1.Workers"][name]
    call = submitter.channel.unary_unary(
        method.path,
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=method.response.FromString,
    )
    return await call(request, timeout=timeout)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until a condition holds."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise TimeoutError(f"within {TIMEOUT_S:g} s it was not so that {what}") from None
