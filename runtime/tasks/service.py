"""ArmoniK.api.grpc.v1.Submitter: bytes into calls of `Tasks`, answers back into bytes. No decision is made here."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext import task_messages
from runtime.errors import InvalidArgument, NotFound
from runtime.objects.value import Value
from runtime.tasks import messages
from runtime.tasks.model import ENDED_BADLY, ResultStatus, TaskOptions, TaskRequest, TaskStatus
from runtime.tasks.tasks import ResultView, Tasks

if TYPE_CHECKING:
    from runtime.edge.plane import Handler

__all__ = ["SERVICE", "SubmitterService", "small_request_of", "told_options"]

SERVICE = "ArmoniK.api.grpc.v1.Submitter"

_UNFINISHED = frozenset(
    {TaskStatus.CREATING, TaskStatus.SUBMITTED, TaskStatus.DISPATCHED, TaskStatus.PROCESSING}
)
_FAILED = ENDED_BADLY | {TaskStatus.CANCELED, TaskStatus.CANCELING}
_EMPTY = b""
# Options whose message is longer are read anew for each request.
_SHORT_OPTIONS_BYTES = 1024


class SubmitterService:
    """The fifteen calls of the Submitter.

    Parameters
    ----------
    tasks : callable
        Returns the `Tasks` of the server, opening its store when that is the first call.
    chunk_bytes : int
        What GetServiceConfiguration says.
    lenient_small_tasks : bool
        Whether CreateSmallTasks without options uses the session's.
    """

    def __init__(
        self, tasks: Callable[[], Awaitable[Tasks]], chunk_bytes: int, lenient_small_tasks: bool = False
    ) -> None:
        self._tasks = tasks
        self._chunk_bytes = chunk_bytes
        self._lenient = lenient_small_tasks
        self._configuration = wire.armonik.Configuration(data_chunk_max_size=chunk_bytes).SerializeToString()

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {
            SERVICE: {
                "GetServiceConfiguration": self.get_service_configuration,
                "CreateSession": self.create_session,
                "CancelSession": self.cancel_session,
                "CreateSmallTasks": self.create_small_tasks,
                "CreateLargeTasks": self.create_large_tasks,
                "ListTasks": self.list_tasks,
                "ListSessions": self.list_sessions,
                "CountTasks": self.count_tasks,
                "TryGetResultStream": self.try_get_result_stream,
                "TryGetTaskOutput": self.try_get_task_output,
                "WaitForAvailability": self.wait_for_availability,
                "WaitForCompletion": self.wait_for_completion,
                "CancelTasks": self.cancel_tasks,
                "GetTaskStatus": self.get_task_status,
                "GetResultStatus": self.get_result_status,
            }
        }

    # Configuration and sessions

    async def get_service_configuration(self, request: bytes, context: Any) -> bytes:
        """GetServiceConfiguration."""
        messages.parse(wire.armonik.Empty, request)
        return self._configuration

    async def create_session(self, request: bytes, context: Any) -> bytes:
        """CreateSession."""
        message = messages.parse(wire.armonik.CreateSessionRequest, request)
        if not message.id:
            raise InvalidArgument("id: must not be empty")
        if not message.HasField("default_task_option"):
            raise InvalidArgument("default_task_option: must be set")
        options = messages.options_of(message.default_task_option, "default_task_option")
        tasks = await self._tasks()
        reply = wire.armonik.CreateSessionReply()
        if await tasks.create_session(message.id, options):
            reply.ok.SetInParent()
        else:
            reply.error = f"session {message.id!r} exists already"
        return reply.SerializeToString()

    async def cancel_session(self, request: bytes, context: Any) -> bytes:
        """CancelSession."""
        message = messages.parse(wire.armonik.Session, request)
        await (await self._tasks()).cancel_session(message.id)
        return _EMPTY

    async def list_sessions(self, request: bytes, context: Any) -> bytes:
        """ListSessions."""
        selection = messages.session_filter_of(messages.parse(wire.armonik.SessionFilter, request))
        ids = (await self._tasks()).list_sessions(selection)
        return wire.armonik.SessionIdList(session_ids=ids).SerializeToString()

    # Creation

    async def create_small_tasks(self, request: bytes, context: Any) -> bytes:
        """CreateSmallTasks."""
        session_id, requests, options = small_request_of(request, self._chunk_bytes, self._lenient)
        offending = await (await self._tasks()).create_tasks(session_id, requests, options)
        return messages.created_message(offending).SerializeToString()

    async def create_large_tasks(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """CreateLargeTasks."""
        tasks = await self._tasks()
        first = None
        stream = messages.TaskStream(tasks.writer, self._chunk_bytes)
        try:
            async for request in requests:
                message = messages.parse(wire.armonik.CreateLargeTaskRequest, request)
                kind = message.WhichOneof("type")
                if first is None:
                    if kind != "init_request":
                        raise InvalidArgument("First message in stream must be of type InitRequest")
                    first = message.init_request
                    options = self._check_first(first, tasks)
                elif kind == "init_task":
                    await stream.init_task(message.init_task)
                elif kind == "task_payload":
                    await stream.task_payload(message.task_payload)
                elif kind == "init_request":
                    raise InvalidArgument("init_request: only the first message may have one")
                else:
                    raise InvalidArgument("a message has none of init_request, init_task and task_payload")
                if stream.is_over:
                    break
            if first is None:
                raise InvalidArgument("stream contained no message")
            offending = await tasks.create_tasks(first.session_id, await stream.finish(), options)
        finally:
            stream.discard(tasks.discard)
        return messages.created_message(offending).SerializeToString()

    def _check_first(self, first: wire.armonik.CreateLargeTaskRequest.InitRequest, tasks: Tasks) -> Any:
        """Refuse what cannot succeed before its payloads have come; return the options, None for the session's."""
        if not first.session_id:
            raise InvalidArgument("init_request.session_id: must not be empty")
        options = None
        if first.HasField("task_options"):
            options = messages.options_of(first.task_options, "init_request.task_options")
            tasks.check_options(options)
        tasks.check_session(first.session_id)
        return options

    # Tasks

    async def list_tasks(self, request: bytes, context: Any) -> bytes:
        """ListTasks."""
        selection = messages.task_filter_of(messages.parse(wire.armonik.TaskFilter, request))
        ids = await (await self._tasks()).list_tasks(selection)
        return wire.armonik.TaskIdList(task_ids=ids).SerializeToString()

    async def count_tasks(self, request: bytes, context: Any) -> bytes:
        """CountTasks."""
        selection = messages.task_filter_of(messages.parse(wire.armonik.TaskFilter, request))
        counts = await (await self._tasks()).count_tasks(selection)
        return messages.counts_message(counts).SerializeToString()

    async def cancel_tasks(self, request: bytes, context: Any) -> bytes:
        """CancelTasks."""
        selection = messages.task_filter_of(messages.parse(wire.armonik.TaskFilter, request))
        await (await self._tasks()).cancel_tasks(selection)
        return _EMPTY

    async def wait_for_completion(self, request: bytes, context: Any) -> bytes:
        """WaitForCompletion."""
        message = messages.parse(wire.armonik.WaitRequest, request)
        if not message.HasField("filter"):
            raise InvalidArgument("filter: must be set")
        counts = await (await self._tasks()).wait_for_tasks(
            messages.task_filter_of(message.filter),
            on_error=message.stop_on_first_task_error,
            on_cancel=message.stop_on_first_task_cancellation,
        )
        return messages.counts_message(counts).SerializeToString()

    async def get_task_status(self, request: bytes, context: Any) -> bytes:
        """GetTaskStatus."""
        ids = messages.parse(wire.armonik.GetTaskStatusRequest, request).task_ids
        statuses = await (await self._tasks()).task_statuses(ids)
        entry = wire.armonik.GetTaskStatusReply.IdStatus
        return wire.armonik.GetTaskStatusReply(
            id_statuses=[entry(task_id=task_id, status=int(status)) for task_id, status in statuses.items()]  # type: ignore[arg-type]
        ).SerializeToString()

    async def try_get_task_output(self, request: bytes, context: Any) -> bytes:
        """TryGetTaskOutput; ``key`` is the id of a task."""
        message = _result_request(request, session_needed=False)
        task = (await self._tasks()).task(message.key)
        if message.session and message.session != task.session:
            raise NotFound(f"task {message.key!r} is not known in session {message.session!r}")
        status = task.row.status
        reply = wire.armonik.Output(status=int(status))  # type: ignore[arg-type]
        if status is TaskStatus.COMPLETED:
            reply.ok.SetInParent()
        else:
            reply.error.details = task.row.error
        return reply.SerializeToString()

    # Results

    async def get_result_status(self, request: bytes, context: Any) -> bytes:
        """GetResultStatus."""
        message = messages.parse(wire.armonik.GetResultStatusRequest, request)
        if message.result_ids and not message.session_id:
            raise InvalidArgument("session_id: must not be empty")
        statuses = await (await self._tasks()).result_statuses(message.session_id, message.result_ids)
        entry = wire.armonik.GetResultStatusReply.IdStatus
        return wire.armonik.GetResultStatusReply(
            id_statuses=[entry(result_id=key, status=int(status)) for key, status in statuses.items()]  # type: ignore[arg-type]
        ).SerializeToString()

    async def wait_for_availability(self, request: bytes, context: Any) -> bytes:
        """WaitForAvailability."""
        message = _result_request(request)
        result = await (await self._tasks()).wait_for_result(message.session, message.key)
        reply = wire.armonik.AvailabilityReply()
        if result.status is ResultStatus.COMPLETED:
            reply.ok.SetInParent()
        else:
            reply.error.CopyFrom(_task_error(result))
        return reply.SerializeToString()

    async def try_get_result_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """TryGetResultStream."""
        message = _result_request(request)
        tasks = await self._tasks()
        result = tasks.result(message.session, message.key)
        reply = wire.armonik.ResultReply
        if result.status is ResultStatus.COMPLETED:
            if result.value.size == 0:
                yield reply(result=wire.armonik.DataChunk(data=b"")).SerializeToString()
            async for piece in tasks.read(result.value):
                yield reply(result=wire.armonik.DataChunk(data=piece)).SerializeToString()
            yield reply(result=wire.armonik.DataChunk(data_complete=True)).SerializeToString()
        elif result.owner_status in _UNFINISHED:
            yield reply(not_completed_task=result.owner).SerializeToString()
        elif result.owner_status in _FAILED:
            yield reply(error=_task_error(result)).SerializeToString()
        else:
            raise NotFound("Result data not found")


def small_request_of(
    request: bytes, chunk_bytes: int, lenient: bool
) -> tuple[str, list[TaskRequest], TaskOptions | None]:
    """Return session, tasks and options (None: the session's) of a CreateSmallTaskRequest.

    Parameters
    ----------
    chunk_bytes, lenient
        See `SubmitterService`.

    Raises
    ------
    InvalidArgument
        For what it must not say; names the field.
    """
    plain = task_messages.small_tasks(request, chunk_bytes, TaskRequest, Value)
    if plain is not None and (told := plain[1]) is not None:
        return plain[0], plain[2], told_options(told)
    message = messages.parse(wire.armonik.CreateSmallTaskRequest, request)
    if not message.session_id:
        raise InvalidArgument("session_id: must not be empty")
    options = None
    if message.HasField("task_options"):
        options = messages.options_of(message.task_options)
    elif not lenient:
        raise InvalidArgument("task_options: must be set")
    return message.session_id, messages.small_tasks_of(message.task_requests, chunk_bytes), options


def told_options(told: bytes) -> TaskOptions:
    """Return the options that a message has; most tasks of a client have the same, and nobody changes them."""
    return (_short_options if len(told) <= _SHORT_OPTIONS_BYTES else _short_options.__wrapped__)(told)


@functools.lru_cache(256)
def _short_options(told: bytes) -> TaskOptions:
    return messages.options_of(messages.parse(wire.armonik.TaskOptions, told))


def _result_request(request: bytes, *, session_needed: bool = True) -> wire.armonik.ResultRequest:
    message = messages.parse(wire.armonik.ResultRequest, request)
    if not message.key:
        raise InvalidArgument("key: must not be empty")
    if session_needed and not message.session:
        raise InvalidArgument("session: must not be empty")
    return message


def _task_error(result: ResultView) -> wire.armonik.TaskError:
    error = wire.armonik.Error(task_status=int(result.owner_status), detail=result.owner_error)  # type: ignore[arg-type]
    return wire.armonik.TaskError(task_id=result.owner, errors=[error])
