"""taskqueue.TaskQueue: bytes into calls of `Commands`, answers back into bytes. No decision is made here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from runtime import wire
from runtime.commands import checks
from runtime.commands.commands import Commands
from runtime.commands.workforce import WorkerRequest, Workforce
from runtime.errors import InvalidArgument, ResourceExhausted

if TYPE_CHECKING:
    from runtime.edge.plane import Handler

__all__ = ["SERVICE", "TaskQueueService"]

_M = TypeVar("_M", bound=Message)

SERVICE = "taskqueue.TaskQueue"

# The longest that a ping waits, and how much earlier than its deadline it answers.
_LONGEST_HOLD_S = 3.0
_BEFORE_DEADLINE_S = 1.0


class TaskQueueService:
    """The ten calls.

    Parameters
    ----------
    commands : callable
        Returns the commands of the server and its workforce, opening the store when that is the first call.
    """

    def __init__(self, commands: Callable[[], Awaitable[tuple[Commands, Workforce]]]) -> None:
        self._opened = commands

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {
            SERVICE: {
                "SubmitTask": self.submit_task,
                "RegisterWorker": self.register_worker,
                "PingAndTakeNewTasks": self.ping_and_take_new_tasks,
                "UpdateTaskStatus": self.update_task_status,
                "SendTaskLogs": self.send_task_logs,
                "StreamTaskLogs": self.stream_task_logs,
                "ListTasks": self.list_tasks,
                "ListWorkers": self.list_workers,
                "CreateWorker": self.create_worker,
                "DeleteWorker": self.delete_worker,
            }
        }

    # Commands

    async def submit_task(self, request: bytes, context: Any) -> bytes:
        """SubmitTask."""
        message = _parse(wire.taskqueue.TaskRequest, request)
        request_id = _text(context, "x-tq-request-id")
        number = await (await self._commands()).submit(message.command, message.container, request_id)
        return wire.taskqueue.TaskResponse(task_id=number).SerializeToString()

    async def update_task_status(self, request: bytes, context: Any) -> bytes:
        """UpdateTaskStatus."""
        message = _parse(wire.taskqueue.TaskStatusUpdate, request)
        after = checks.settable_status(message.new_status)
        await (await self._commands()).update(message.task_id, after, checks.caller_of(context))
        return _ACK

    async def list_tasks(self, request: bytes, context: Any) -> bytes:
        """ListTasks."""
        message = _parse(wire.taskqueue.ListTasksRequest, request)
        metadata = _metadata(context)
        limit = checks.metadata_number(metadata, "x-tq-limit", 1 << 62)
        offset = checks.metadata_number(metadata, "x-tq-offset", 1 << 62)
        first = checks.metadata_number(metadata, "x-tq-first-id", 1 << 62)
        letters = message.status_filter
        if len(letters) > 64:
            raise InvalidArgument(f"status_filter: has {len(letters)} letters; there are 14 statuses")
        commands = await self._commands()
        return await commands.list_commands(
            letters, first or 0, -1 if limit is None else limit, offset or 0, _task_list
        )

    # Workers

    async def register_worker(self, request: bytes, context: Any) -> bytes:
        """RegisterWorker."""
        message = _parse(wire.taskqueue.WorkerInfo, request)
        concurrency = message.concurrency if message.HasField("concurrency") else None
        owned = checks.owned_commands(_metadata(context))
        commands = await self._commands()
        number = await commands.register(message.name, concurrency, checks.caller_of(context), owned)
        return wire.taskqueue.WorkerId(worker_id=number).SerializeToString()

    async def ping_and_take_new_tasks(self, request: bytes, context: Any) -> bytes:
        """PingAndTakeNewTasks."""
        message = _parse(wire.taskqueue.WorkerId, request)
        metadata = _metadata(context)
        caller = checks.caller_of(context)
        hold_s = (checks.metadata_number(metadata, "x-tq-ping-hold-ms", 1 << 31) or 0) / 1000
        remaining = context.time_remaining() if hold_s else None
        if remaining is not None:
            hold_s = min(hold_s, remaining - _BEFORE_DEADLINE_S)
        owned = checks.owned_commands(metadata)
        commands = await self._commands()
        answer = await commands.ping(message.worker_id, caller, owned, max(0.0, min(hold_s, _LONGEST_HOLD_S)))
        if caller.instance:
            trailers = []
            if answer.offers:
                attempts = ",".join(f"{offer.number}.{offer.attempt}" for offer in answer.offers)
                trailers.append(("x-tq-attempts", attempts))
            if answer.lost:
                trailers.append(("x-tq-lost", ",".join(map(str, answer.lost))))
            if trailers:
                context.set_trailing_metadata(tuple(trailers))
        reply = wire.taskqueue.TaskListAndOther(concurrency=answer.concurrency)
        for offer in answer.offers:
            reply.tasks.add(
                task_id=offer.number, command=offer.text, container=offer.container, status=str(offer.status)
            )
        return reply.SerializeToString()

    async def list_workers(self, request: bytes, context: Any) -> bytes:
        """ListWorkers."""
        _parse(wire.taskqueue.ListWorkersRequest, request)
        reply = wire.taskqueue.WorkersList()
        for worker in (await self._commands()).workers():
            reply.workers.add(worker_id=worker.number, name=worker.name, concurrency=worker.concurrency)
        return reply.SerializeToString()

    async def create_worker(self, request: bytes, context: Any) -> bytes:
        """CreateWorker."""
        message = _parse(wire.taskqueue.WorkerRequest, request)
        _, workforce = await self._opened()
        numbers = await workforce.create(
            WorkerRequest(
                message.provider, message.flavor, message.number, message.concurrency, message.prefetch,
                message.step_id, message.flavor_id, message.region_id,
            )
        )
        return wire.taskqueue.WorkerIds(worker_ids=numbers).SerializeToString()

    async def delete_worker(self, request: bytes, context: Any) -> bytes:
        """DeleteWorker."""
        message = _parse(wire.taskqueue.WorkerId, request)
        _, workforce = await self._opened()
        await workforce.delete(message.worker_id)
        return _ACK

    # Output

    async def send_task_logs(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """SendTaskLogs."""
        sequence = checks.metadata_number(_metadata(context), "x-tq-log-sequence", 1 << 62)
        commands = await self._commands()
        session = commands.log_session(checks.caller_of(context))
        if sequence is not None:
            session.number_from(sequence)
        try:
            async for request in requests:
                message = _parse(wire.taskqueue.TaskLog, request)
                await session.add(message.task_id, message.log_type, message.log_text)
            await session.finish()
        finally:
            session.close()
        return _ACK

    async def stream_task_logs(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """StreamTaskLogs."""
        message = _parse(wire.taskqueue.TaskId, request)
        metadata = _metadata(context)
        follows = checks.metadata_number(metadata, "x-tq-follow", 1) != 0
        start = checks.metadata_number(metadata, "x-tq-log-start", 1 << 62) or 0
        number = message.task_id
        entry = wire.taskqueue.TaskLog
        async for records in (await self._commands()).follow(number, start, follows):
            for record in records:
                yield entry(task_id=number, log_type=record.type, log_text=record.text).SerializeToString()

    async def _commands(self) -> Commands:
        return (await self._opened())[0]


_ACK = wire.taskqueue.Ack(success=True).SerializeToString()


def _parse(kind: type[_M], request: bytes) -> _M:
    if len(request) > checks.MAX_MESSAGE_BYTES:
        raise ResourceExhausted(
            f"the message has {len(request)} bytes; the task queue takes {checks.MAX_MESSAGE_BYTES} at most"
        )
    return kind.FromString(request)


def _metadata(context: Any) -> Any:
    return context.invocation_metadata() or ()


def _text(context: Any, key: str) -> str:
    for name, value in _metadata(context):
        if name == key:
            return checks.check_name(str(value), f"metadata {key}")
    return ""


def _task_list(rows: list[tuple[int, str, str, str]]) -> bytes:
    reply = wire.taskqueue.TaskList()
    add = reply.tasks.add
    for number, text, container, status in rows:
        add(task_id=number, command=text, container=container, status=status)
    return reply.SerializeToString()
