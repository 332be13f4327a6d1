"""A server with the task plane, its Submitter by raw stubs, and agents that are driven by the domain interface.

Everything runs on the loop of the test, so that a test can look inside without waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime import config, wire
from runtime.edge.listener import Listener
from runtime.objects.value import Value
from runtime.tasks.leases import Lease
from runtime.tasks.tasks import Tasks

A = wire.armonik
CALL_TIMEOUT_S = 20.0
CHUNK_BYTES = 84000

Handler = Callable[[Lease], Awaitable[object]]


class Submitter:
    """The fifteen calls as methods that take and return messages, and short forms of the frequent ones."""

    def __init__(self, channel: grpc.aio.Channel, plane: Any, tasks: Tasks, address: str) -> None:
        self.channel = channel
        self.plane = plane
        self.tasks = tasks
        self.address = address
        self._methods = wire.SERVICES["ArmoniK.api.grpc.v1.Submitter"]

    def call(self, name: str, request: Any, timeout: float = CALL_TIMEOUT_S) -> Any:
        """Begin a call; await what it returns, or iterate over it."""
        method = self._methods[name]
        kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        multi = getattr(self.channel, kind)(
            method.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=method.response.FromString,
        )
        return multi(request, timeout=timeout)

    async def session(self, name: str = "s", **changes: Any) -> str:
        """Make a session and return its id."""
        request = A.CreateSessionRequest(id=name, default_task_option=options(**changes))
        reply = await self.call("CreateSession", request)
        assert reply.WhichOneof("result") == "ok"
        return name

    async def create(self, *requests: Any, session: str = "s", **changes: Any) -> list[str]:
        """CreateSmallTasks; return the ids that stand against it."""
        message = A.CreateSmallTaskRequest(session_id=session, task_options=options(**changes), task_requests=requests)
        return refused(await self.call("CreateSmallTasks", message))

    async def stream(self, messages: Iterable[Any]) -> list[str]:
        """CreateLargeTasks; return the ids that stand against it."""
        return refused(await self.call("CreateLargeTasks", _each(messages)))

    async def statuses(self, *ids: str) -> dict[str, str]:
        """Return the names of the tasks' statuses without their prefix."""
        reply = await self.call("GetTaskStatus", A.GetTaskStatusRequest(task_ids=ids))
        return {entry.task_id: A.TaskStatus.Name(entry.status)[len("TASK_STATUS_") :] for entry in reply.id_statuses}

    async def results(self, *keys: str, session: str = "s") -> dict[str, str]:
        """Return the names of the results' statuses without their prefix."""
        reply = await self.call("GetResultStatus", A.GetResultStatusRequest(result_ids=keys, session_id=session))
        return {
            entry.result_id: A.ResultStatus.Name(entry.status)[len("RESULT_STATUS_") :] for entry in reply.id_statuses
        }

    async def counts(self, selection: Any, name: str = "CountTasks") -> dict[str, int]:
        """Return CountTasks, or WaitForCompletion of a WaitRequest, as names and numbers."""
        reply = await self.call(name, selection)
        assert len({entry.status for entry in reply.values}) == len(reply.values)
        return {A.TaskStatus.Name(entry.status)[len("TASK_STATUS_") :]: entry.count for entry in reply.values}

    async def wait(self, selection: Any, **flags: bool) -> dict[str, int]:
        """Return WaitForCompletion."""
        return await self.counts(A.WaitRequest(filter=selection, **flags), "WaitForCompletion")

    async def available(self, key: str, session: str = "s") -> Any:
        """Return WaitForAvailability's answer: None for ok, the error otherwise."""
        reply = await self.call("WaitForAvailability", A.ResultRequest(session=session, key=key))
        return None if reply.WhichOneof("type") == "ok" else reply.error

    async def download(self, key: str, session: str = "s") -> list[Any]:
        """Return TryGetResultStream's messages."""
        return [reply async for reply in self.call("TryGetResultStream", A.ResultRequest(session=session, key=key))]

    async def data(self, key: str, session: str = "s") -> bytes:
        """Return the bytes of a result that is there."""
        replies = await self.download(key, session)
        assert replies[-1].result.data_complete
        assert all(reply.result.WhichOneof("type") == "data" for reply in replies[:-1])
        return b"".join(reply.result.data for reply in replies[:-1])

    async def output(self, task_id: str, session: str = "") -> Any:
        """Return TryGetTaskOutput."""
        return await self.call("TryGetTaskOutput", A.ResultRequest(session=session, key=task_id))

    @contextlib.asynccontextmanager
    async def agents(self, handler: Handler, number: int = 1) -> AsyncIterator[None]:
        """Let agents run tasks: ``handler`` is called with each started lease and ends it."""
        running = [asyncio.ensure_future(self._agent(f"agent-{index}", handler)) for index in range(number)]
        try:
            yield
        finally:
            for agent in running:
                agent.cancel()
            for agent in running:
                with contextlib.suppress(asyncio.CancelledError):
                    await agent

    async def _agent(self, name: str, handler: Handler) -> None:
        while True:
            (lease,) = await self.tasks.acquire(name)
            await lease.start()
            await handler(lease)


@contextlib.asynccontextmanager
async def serve(folder: Path, **changes: Any) -> AsyncIterator[Submitter]:
    """Serve the task plane on this loop, and return its Submitter."""
    named = {"listen": "127.0.0.1:0", "data_dir": folder, "services": ("task",), **changes}
    listener = Listener(config.load(named, {}, user_file=False).settings)
    await listener.start()
    try:
        async with grpc.aio.insecure_channel(listener.address) as channel:
            plane: Any = listener.plane("task")
            yield Submitter(channel, plane, await plane.tasks(), listener.address)
    finally:
        await listener.stop(0.0)


@contextlib.asynccontextmanager
async def plane(folder: Path, **changes: Any) -> AsyncIterator[Submitter]:
    """Serve the task plane with one session."""
    async with serve(folder, task_check_s=0.05, **changes) as submitter:
        await submitter.session()
        yield submitter


async def succeed(lease: Lease) -> None:
    """Produce every key: its own name, and the payload behind it."""
    payload = b"".join([piece async for piece in lease.read_payload(CHUNK_BYTES)])
    await lease.succeed({key: Value(key.encode() + b":" + payload) for key in lease.task.expected_keys})


async def report_error(lease: Lease) -> None:
    """Answer with ``output.error``."""
    await lease.report_error("it went wrong")


def options(**changes: Any) -> Any:
    """Return valid task options; seconds may be given as ``duration_s``, None leaves the duration out."""
    seconds = changes.pop("duration_s", 60)
    message = A.TaskOptions(**{"max_retries": 1, "priority": 1, **changes})
    if seconds is not None:
        message.max_duration.seconds = int(seconds)
        message.max_duration.nanos = round((seconds - int(seconds)) * 1e9)
    return message


def task(task_id: str, *keys: str, needs: Sequence[str] = (), payload: bytes = b"payload") -> Any:
    """Return the request for a task; its only key is its id unless others are given."""
    return A.TaskRequest(
        id=task_id, expected_output_keys=keys or (task_id,), data_dependencies=needs, payload=payload
    )


def header(task_id: str, *keys: str, needs: Sequence[str] = ()) -> Any:
    """Return the message that begins a task in a stream."""
    head = A.TaskRequestHeader(id=task_id, expected_output_keys=keys or (task_id,), data_dependencies=needs)
    return A.CreateLargeTaskRequest(init_task=A.InitTaskRequest(header=head))


def begin(session: str = "s", task_options: Any = None) -> Any:
    """Return the first message of a stream."""
    first = A.CreateLargeTaskRequest.InitRequest(session_id=session, task_options=task_options)
    return A.CreateLargeTaskRequest(init_request=first)


def chunk(data: bytes) -> Any:
    """Return a message with a piece of a payload."""
    return A.CreateLargeTaskRequest(task_payload=A.DataChunk(data=data))


DONE = A.CreateLargeTaskRequest(task_payload=A.DataChunk(data_complete=True))
LAST = A.CreateLargeTaskRequest(init_task=A.InitTaskRequest(last_task=True))


def of_session(*ids: str, included: Sequence[int] = (), excluded: Sequence[int] = ()) -> Any:
    """Return a filter of all tasks of sessions."""
    return _with_statuses(A.TaskFilter(session=A.TaskFilter.IdsRequest(ids=ids)), included, excluded)


def of_tasks(*ids: str, included: Sequence[int] = (), excluded: Sequence[int] = ()) -> Any:
    """Return a filter of single tasks."""
    return _with_statuses(A.TaskFilter(task=A.TaskFilter.IdsRequest(ids=ids)), included, excluded)


def _with_statuses(selection: Any, included: Sequence[int], excluded: Sequence[int]) -> Any:
    if included:
        selection.included.statuses.extend(included)
    if excluded:
        selection.excluded.statuses.extend(excluded)
    return selection


def refused(reply: Any) -> list[str]:
    """Return the ids that stand against a creation; none if it succeeded."""
    if reply.WhichOneof("Data") == "successfull":
        return []
    assert reply.non_successfull_ids.ids, "a refusal names ids"
    return list(reply.non_successfull_ids.ids)


@contextlib.asynccontextmanager
async def fails(code: grpc.StatusCode, text: str = "") -> AsyncIterator[None]:
    """Check that the block's call fails with this status code and a message that contains ``text``."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        yield
    assert (failure.value.code(), text in failure.value.details()) == (code, True), failure.value.details()


async def _each(messages: Iterable[Any]) -> AsyncIterator[Any]:
    for message in messages:
        yield message
