"""armonik.api.grpc.v1.submitter.Submitter: the submitter as clients of the 3.14 line call it.

Most messages are the same bytes as those of the older package; what differs is translated here, and the calls are those
of `runtime.tasks.service`: statuses have other numbers from 6 on, and ids of sessions and tasks are made by the server.
There is one partition, ``default``.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.errors import InvalidArgument
from runtime.tasks import messages
from runtime.tasks.service import SubmitterService

if TYPE_CHECKING:
    from runtime.edge.plane import Handler

__all__ = ["SERVICE", "SubmitterV3Service"]

SERVICE = "armonik.api.grpc.v1.submitter.Submitter"

# Statuses of tasks, theirs to ours: TIMEOUT, CANCELLING, CANCELLED, PROCESSING, PROCESSED.
_OURS = {6: 7, 7: 8, 8: 9, 9: 10, 10: 11}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
# RETRIED: an attempt that was tried again is ERROR or TIMEOUT here. A number that no task has matches none.
_RETRIED, _NONE = 11, 1 << 20
_PARTITIONS = ("", "default")
# Options that have fields of their own there; workers find them among the entries.
_FIELDS = ("application_name", "application_version", "application_namespace", "application_service", "engine_type")


class SubmitterV3Service:
    """The fifteen calls.

    Parameters
    ----------
    submitter : SubmitterService
        The older form of them.
    """

    def __init__(self, submitter: SubmitterService) -> None:
        self._submitter = submitter

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        old = self._submitter
        return {
            SERVICE: {
                "GetServiceConfiguration": old.get_service_configuration,
                "CreateSession": self.create_session,
                "CancelSession": old.cancel_session,
                "CreateSmallTasks": self.create_small_tasks,
                "CreateLargeTasks": self.create_large_tasks,
                "ListTasks": _filtered(old.list_tasks),
                "ListSessions": old.list_sessions,
                "CountTasks": _filtered(old.count_tasks, _counts),
                "TryGetResultStream": self.try_get_result_stream,
                "TryGetTaskOutput": old.try_get_task_output,
                "WaitForAvailability": self.wait_for_availability,
                "WaitForCompletion": self.wait_for_completion,
                "CancelTasks": _filtered(old.cancel_tasks),
                "GetTaskStatus": self.get_task_status,
                "GetResultStatus": old.get_result_status,
            }
        }

    # What the server names

    async def create_session(self, request: bytes, context: Any) -> bytes:
        """CreateSession."""
        message = messages.parse(wire.armonik_v3.CreateSessionRequest, request)
        _check_partitions(message.partition_ids, "partition_ids")
        if not message.HasField("default_task_option"):
            raise InvalidArgument("default_task_option: must be set")
        session = str(uuid.uuid4())
        older = wire.armonik.CreateSessionRequest(
            id=session, default_task_option=_options(message.default_task_option, "default_task_option")
        )
        reply = await self._submitter.create_session(older.SerializeToString(), context)
        refusal = wire.armonik.CreateSessionReply.FromString(reply)
        if refusal.WhichOneof("result") == "error":
            raise InvalidArgument(refusal.error)
        return wire.armonik_v3.CreateSessionReply(session_id=session).SerializeToString()

    async def create_small_tasks(self, request: bytes, context: Any) -> bytes:
        """CreateSmallTasks."""
        message = messages.parse(wire.armonik_v3.CreateSmallTaskRequest, request)
        older = wire.armonik.CreateSmallTaskRequest(session_id=message.session_id)
        if message.HasField("task_options"):
            older.task_options.CopyFrom(_options(message.task_options, "task_options"))
        made: list[_Made] = []
        for task in message.task_requests:
            one = _Made(task)
            made.append(one)
            older.task_requests.add(
                id=one.id, expected_output_keys=one.keys, data_dependencies=one.dependencies, payload=task.payload
            )
        return _created(made, await self._submitter.create_small_tasks(older.SerializeToString(), context))

    async def create_large_tasks(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """CreateLargeTasks."""
        made: list[_Made] = []
        return _created(made, await self._submitter.create_large_tasks(_older_stream(requests, made), context))

    # What is translated

    async def get_task_status(self, request: bytes, context: Any) -> bytes:
        """GetTaskStatus."""
        reply = wire.armonik.GetTaskStatusReply.FromString(await self._submitter.get_task_status(request, context))
        for entry in reply.id_statuses:
            entry.status = _theirs(entry.status)
        return reply.SerializeToString()

    async def wait_for_completion(self, request: bytes, context: Any) -> bytes:
        """WaitForCompletion."""
        message = messages.parse(wire.armonik.WaitRequest, request)
        _translate_filter(message.filter)
        return _counts(await self._submitter.wait_for_completion(message.SerializeToString(), context))

    async def wait_for_availability(self, request: bytes, context: Any) -> bytes:
        """WaitForAvailability."""
        reply = wire.armonik.AvailabilityReply.FromString(
            await self._submitter.wait_for_availability(request, context)
        )
        _translate_error(reply)
        return reply.SerializeToString()

    async def try_get_result_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """TryGetResultStream."""
        async for data in self._submitter.try_get_result_stream(request, context):
            # Pieces of a result go as they are: only an error has a status in it, and its tag is field 2.
            if data[:1] == b"\x12":
                reply = wire.armonik.ResultReply.FromString(data)
                _translate_error(reply)
                data = reply.SerializeToString()
            yield data


class _Made:
    """A task that the server gives an id; without keys of its own, that is the key of its result."""

    def __init__(self, message: Any) -> None:
        self.id = str(uuid.uuid4())
        self.keys: Sequence[str] = list(message.expected_output_keys) or [self.id]
        self.dependencies: Sequence[str] = list(message.data_dependencies)


async def _older_stream(requests: AsyncIterator[bytes], made: list[_Made]) -> AsyncIterator[bytes]:
    async for request in requests:
        message = messages.parse(wire.armonik_v3.CreateLargeTaskRequest, request)
        kind = message.WhichOneof("type")
        older = wire.armonik.CreateLargeTaskRequest()
        if kind == "init_request":
            older.init_request.session_id = message.init_request.session_id
            if message.init_request.HasField("task_options"):
                options = _options(message.init_request.task_options, "init_request.task_options")
                older.init_request.task_options.CopyFrom(options)
        elif kind == "init_task" and message.init_task.WhichOneof("type") == "header":
            one = _Made(message.init_task.header)
            made.append(one)
            header = wire.armonik.TaskRequestHeader(
                id=one.id, expected_output_keys=one.keys, data_dependencies=one.dependencies
            )
            older.init_task.header.CopyFrom(header)
        else:
            yield request  # the same in both
            continue
        yield older.SerializeToString()


def _created(made: Sequence[_Made], older: bytes) -> bytes:
    reply = wire.armonik_v3.CreateTaskReply()
    refused = set(wire.armonik.CreateTaskReply.FromString(older).non_successfull_ids.ids)
    if refused:
        keys = ", ".join(repr(key) for one in made if one.id in refused for key in one.keys)
        reply.error = f"none was created: the session is canceled, or a result has one of these keys already: {keys}"
        return reply.SerializeToString()
    for one in made:
        info = reply.creation_status_list.creation_statuses.add().task_info
        info.task_id = one.id
        info.expected_output_keys.extend(one.keys)
        info.data_dependencies.extend(one.dependencies)
    return reply.SerializeToString()


def _options(theirs: Any, field: str) -> Any:
    _check_partitions([theirs.partition_id], f"{field}.partition_id")
    options = wire.armonik.TaskOptions(
        options=theirs.options, max_retries=theirs.max_retries, priority=theirs.priority
    )
    if theirs.HasField("max_duration"):
        options.max_duration.CopyFrom(theirs.max_duration)
    for name in _FIELDS:
        value = getattr(theirs, name)
        if value and name not in options.options:
            options.options[name] = value
    return options


def _check_partitions(names: Iterable[str], field: str) -> None:
    for name in names:
        if name not in _PARTITIONS:
            raise InvalidArgument(f"{field}: {name!r} does not exist; the only partition here is 'default'")


def _filtered(
    call: Callable[[bytes, Any], Awaitable[bytes]], reply: Callable[[bytes], bytes] = lambda data: data
) -> Callable[[bytes, Any], Awaitable[bytes]]:
    """Return a call that takes a TaskFilter with their statuses."""

    async def filtered(request: bytes, context: Any) -> bytes:
        message = messages.parse(wire.armonik.TaskFilter, request)
        _translate_filter(message)
        return reply(await call(message.SerializeToString(), context))

    return filtered


def _translate_filter(message: Any) -> None:
    kind = message.WhichOneof("statuses")
    if kind is not None:
        chosen = getattr(message, kind).statuses
        chosen[:] = [_NONE if status == _RETRIED else _OURS.get(status, status) for status in chosen]


def _translate_error(reply: Any) -> None:
    if reply.WhichOneof("type") == "error":
        for entry in reply.error.errors:
            entry.task_status = _theirs(entry.task_status)


def _counts(data: bytes) -> bytes:
    reply = wire.armonik.Count.FromString(data)
    for entry in reply.values:
        entry.status = _theirs(entry.status)
    return reply.SerializeToString()


def _theirs(status: int) -> Any:
    return _THEIRS.get(status, status)
