"""Messages of the task protocol into the domain's values, and back; every rule about single messages is here.

Used by the services and by agents. What a message breaks is INVALID_ARGUMENT, naming the field.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError, Message

from runtime import wire
from runtime._ext.message_cuts import cut_fields
from runtime.errors import InvalidArgument
from runtime.objects.value import Value
from runtime.tasks.filters import SessionFilter, TaskFilter
from runtime.tasks.model import TaskOptions, TaskRequest, TaskStatus

if TYPE_CHECKING:
    from runtime.objects.objects import ValueWriter

__all__ = [
    "TaskStream",
    "counts_message",
    "created_message",
    "options_message",
    "options_of",
    "parse",
    "parse_with_payloads",
    "session_filter_of",
    "small_tasks_of",
    "task_filter_of",
]

_M = TypeVar("_M", bound=Message)

# Numbers of CreateSmallTaskRequest.task_requests, and TaskRequest.payload.
_TASKS, _PAYLOAD = 3, 4

# Payloads of a stream that lie in memory until its end, all together; beyond it even small ones become objects.
_STREAM_BYTES = 32 << 20
_SMALL_BYTES = 1 << 10
# Payloads of so many bytes are not copied out of the message in which they come.
_CUT_BYTES = 4 << 10
# Payloads of a stream that are being synced at a time.
_MAX_FINISHING = 8


def parse(kind: type[_M], request: bytes) -> _M:
    """Return the message in ``request``.

    Raises
    ------
    InvalidArgument
        If it is none of that kind.
    """
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise InvalidArgument(f"the request is no {kind.DESCRIPTOR.name}: {error}") from None


def options_of(message: wire.armonik.TaskOptions, field: str = "task_options") -> TaskOptions:
    """Return the options in a message; their values are checked by `runtime.tasks.tasks.Tasks.check_options`."""
    if not message.HasField("max_duration"):
        raise InvalidArgument(f"{field}.max_duration: must be set")
    duration = message.max_duration
    return TaskOptions(
        duration.seconds * 1_000_000_000 + duration.nanos, message.max_retries, message.priority, dict(message.options)
    )


def options_message(options: TaskOptions) -> wire.armonik.TaskOptions:
    """Return the message for options."""
    message = wire.armonik.TaskOptions(
        max_retries=options.max_retries, priority=options.priority, options=options.entries
    )
    message.max_duration.seconds, message.max_duration.nanos = divmod(options.max_duration_ns, 1_000_000_000)
    return message


def small_tasks_of(requests: Iterable[wire.armonik.TaskRequest], chunk_bytes: int | None) -> list[TaskRequest]:
    """Return the tasks of a request that has their payloads in it.

    Parameters
    ----------
    chunk_bytes : int or None
        Payloads are shorter than this, and not empty; None: they are as they like.
    """
    found: list[TaskRequest] = []
    for index, message in enumerate(requests):
        task_id, keys, payload = message.id, message.expected_output_keys, message.payload
        if not task_id:
            raise InvalidArgument(f"task_requests[{index}].id: must not be empty")
        if not keys:
            raise InvalidArgument(f"task_requests[{index}].expected_output_keys: task {task_id!r} has none")
        if not (all(keys) and all(message.data_dependencies)):
            raise _nameless(f"task_requests[{index}]", message)
        if chunk_bytes is not None and not 0 < len(payload) < chunk_bytes:
            raise InvalidArgument(
                f"task_requests[{index}].payload: {len(payload)} bytes of task {task_id!r}; it must have at least 1 "
                f"and fewer than {chunk_bytes} (larger ones go by CreateLargeTasks)"
            )
        found.append(TaskRequest(task_id, _once(keys), _once(message.data_dependencies), Value(payload)))
    if not found:
        raise InvalidArgument("task_requests: there must be at least one")
    return found


def parse_with_payloads(request: bytes) -> tuple[wire.armonik.CreateSmallTaskRequest, list[bytes | memoryview]]:
    """Return a request for tasks, and their payloads, of which the long ones stay where they lie.

    Raises
    ------
    InvalidArgument
        If it is no such request.
    """
    rest, places = cut_fields(request, _TASKS, _PAYLOAD, _CUT_BYTES)
    message = parse(wire.armonik.CreateSmallTaskRequest, rest)
    if len(places) != len(message.task_requests):
        return message, [task.payload for task in message.task_requests]
    view = memoryview(request)
    return message, [
        task.payload if place is None else view[place[0] : place[1]]
        for task, place in zip(message.task_requests, places, strict=True)
    ]


def _nameless(where: str, message: wire.armonik.TaskRequest | wire.armonik.TaskRequestHeader) -> InvalidArgument:
    """Return what to say of a task one of whose keys is empty: no call can ask for such a result."""
    keys, needs = list(message.expected_output_keys), list(message.data_dependencies)
    name, index = ("data_dependencies", needs.index("")) if all(keys) else ("expected_output_keys", keys.index(""))
    return InvalidArgument(f"{where}.{name}[{index}]: must not be empty (task {message.id!r})")


def _once(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(keys)) if len(keys) > 1 else tuple(keys)


class TaskStream:
    """The tasks of a stream of messages, with their payloads in chunks.

    ``init_task.header``, ``task_payload.data`` any number of times, ``task_payload.data_complete``, and so on for
    further tasks, then ``init_task.last_task``.

    Parameters
    ----------
    make_writer : callable
        Takes the size up to which a value stays bytes (None: as usual) and returns a writer.
    chunk_bytes : int
        Most bytes of ``data``.

    Attributes
    ----------
    is_over : bool
        Whether ``last_task`` has come; what follows is ignored.

    Notes
    -----
    Payloads that become objects are synced while the next ones come: a disk that syncs several files at a time takes
    little longer than for one.
    """

    def __init__(self, make_writer: Callable[[int | None], ValueWriter], chunk_bytes: int) -> None:
        self.is_over = False
        # Complete tasks, each with its payload or the writer that is about to have it.
        self._complete: list[tuple[wire.armonik.TaskRequestHeader, Value | asyncio.Future[Value]]] = []
        self._finishing: deque[asyncio.Future[Value]] = deque()
        self._make_writer = make_writer
        self._chunk_bytes = chunk_bytes
        self._header: wire.armonik.TaskRequestHeader | None = None
        self._writer: ValueWriter | None = None
        self._kept_bytes = 0

    async def init_task(self, message: wire.armonik.InitTaskRequest) -> None:
        """Take an ``init_task`` message."""
        kind = message.WhichOneof("type")
        if self._header is not None:
            raise InvalidArgument(f"init_task: the payload of task {self._header.id!r} is not complete yet")
        if kind == "last_task":
            if not message.last_task:
                raise InvalidArgument("init_task.last_task: must be true")
            self.is_over = True
            return
        if kind != "header":
            raise InvalidArgument("init_task: one of header and last_task must be set")
        header = message.header
        if not header.id:
            raise InvalidArgument("init_task.header.id: must not be empty")
        if not header.expected_output_keys:
            raise InvalidArgument(f"init_task.header.expected_output_keys: task {header.id!r} has none")
        if not (all(header.expected_output_keys) and all(header.data_dependencies)):
            raise _nameless("init_task.header", header)
        self._header = header
        self._writer = self._make_writer(_SMALL_BYTES if self._kept_bytes > _STREAM_BYTES else None)

    async def task_payload(self, chunk: wire.armonik.DataChunk) -> None:
        """Take a ``task_payload`` message."""
        header, writer = self._header, self._writer
        if header is None or writer is None:
            raise InvalidArgument("task_payload: there is no task for it; init_task.header comes first")
        kind = chunk.WhichOneof("type")
        if kind == "data":
            if len(chunk.data) > self._chunk_bytes:
                raise InvalidArgument(
                    f"task_payload.data: {len(chunk.data)} bytes for task {header.id!r}; data_chunk_max_size is "
                    f"{self._chunk_bytes}"
                )
            await writer.write(chunk.data)
        elif kind == "data_complete":
            if not chunk.data_complete:
                raise InvalidArgument("task_payload.data_complete: must be true")
            self._header = self._writer = None
            if writer.is_inline:
                value = await writer.finish()
                self._kept_bytes += len(value.data)
                self._complete.append((header, value))
                return
            finishing = asyncio.ensure_future(writer.finish())
            self._complete.append((header, finishing))
            self._finishing.append(finishing)
            while len(self._finishing) > _MAX_FINISHING or (self._finishing and self._finishing[0].done()):
                await self._finishing[0]  # raises what has gone wrong
                self._finishing.popleft()
        else:
            raise InvalidArgument("task_payload: one of data and data_complete must be set")

    async def finish(self) -> list[TaskRequest]:
        """Return the tasks of a stream that has ended; who takes them holds their payloads, which are durable.

        Raises
        ------
        InvalidArgument
            If the last one is not complete, or there is none.
        ResourceExhausted, Unavailable
            The disk is full, or fails.
        """
        if self._header is not None:
            raise InvalidArgument(f"the stream ended inside of task {self._header.id!r}: its payload is not complete")
        if not self._complete:
            raise InvalidArgument("the stream contained no task")
        while self._finishing:
            await self._finishing[0]
            self._finishing.popleft()
        complete, self._complete = self._complete, []
        return [
            TaskRequest(
                header.id,
                _once(header.expected_output_keys),
                _once(header.data_dependencies),
                value.result() if isinstance(value, asyncio.Future) else value,
            )
            for header, value in complete
        ]

    def discard(self, let_go: Callable[[Iterable[Value]], None]) -> None:
        """Forget everything."""
        if self._writer is not None:
            self._writer.discard()
            self._header = self._writer = None
        complete, self._complete = self._complete, []
        self._finishing.clear()
        for _, value in complete:
            if isinstance(value, asyncio.Future):
                value.cancel()
                value.add_done_callback(functools.partial(_let_finished_go, let_go))
            else:
                let_go([value])


def _let_finished_go(let_go: Callable[[Iterable[Value]], None], finished: asyncio.Future[Value]) -> None:
    # One that is cancelled, or has failed, has left nothing.
    if not finished.cancelled() and finished.exception() is None:
        let_go([finished.result()])


def task_filter_of(message: wire.armonik.TaskFilter) -> TaskFilter:
    """Return the filter in a message, checked."""
    included, excluded = _statuses_of(message)
    kind = message.WhichOneof("ids")
    found = TaskFilter(
        tuple(message.session.ids) if kind == "session" else None,
        tuple(message.task.ids) if kind == "task" else None,
        included,
        excluded,
    )
    found.check()
    return found


def session_filter_of(message: wire.armonik.SessionFilter) -> SessionFilter:
    """Return the filter in a message; empty lists are no restriction."""
    included, excluded = _statuses_of(message)
    return SessionFilter(tuple(message.sessions), included or None, excluded or None)


def _statuses_of(message: Any) -> tuple[frozenset[int] | None, frozenset[int] | None]:
    kind = message.WhichOneof("statuses")
    return (
        frozenset(message.included.statuses) if kind == "included" else None,
        frozenset(message.excluded.statuses) if kind == "excluded" else None,
    )


def counts_message(counts: Mapping[TaskStatus, int]) -> wire.armonik.Count:
    """Return the message for numbers of tasks by status, in ascending order of it."""
    entry = wire.armonik.StatusCount
    return wire.armonik.Count(
        values=[entry(status=int(status), count=number) for status, number in sorted(counts.items())]  # type: ignore[arg-type]
    )


def created_message(offending: Sequence[str]) -> wire.armonik.CreateTaskReply:
    """Return the answer to a creation, with the ids that stand against it, if any."""
    reply = wire.armonik.CreateTaskReply()
    if offending:
        reply.non_successfull_ids.ids.extend(offending)
    else:
        reply.successfull.SetInParent()
    return reply
