"""New tasks on their way: what a caller asks for, checked, and the requests that create them."""

from __future__ import annotations

import enum
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from runtime import wire
from runtime._ext.message_parts import MessageParts
from runtime._ext.task_messages import TasksWriter
from runtime.checkpoint.fields import varint
from runtime.client.tasks.arguments import checked_number, checked_text, checked_unicode, checked_whole
from runtime.client.tasks.handle import AsyncTaskHandle
from runtime.client.tasks.payloads import Payload
from runtime.errors import InvalidArgument
from runtime.tasks.model import TaskOptions

__all__ = [
    "Form", "NewTask", "grouped", "is_medium", "keys_of", "large_requests", "make_options", "medium_request",
    "options_message", "random_ids", "request_head", "requested", "small_request", "upload_request",
]


class Form(enum.Enum):
    """How tasks get to the server."""

    SMALL = enum.auto()
    """Many in one request, payloads and all."""
    MEDIUM = enum.auto()
    """The same, and several requests on the way at a time."""
    LARGE = enum.auto()
    """With payloads in chunks."""


# Tasks and bytes of one request. Of large ones the server has all on disk, many at a time, before it answers.
SMALL_TASKS = 500
"""Small tasks of one request."""
_MOST = {Form.SMALL: (SMALL_TASKS, 1 << 20), Form.MEDIUM: (500, 8 << 20), Form.LARGE: (100, 32 << 20)}
# The same of medium ones that are told of: the first ones are on disk soon, and begin while others are written.
_FIRST_NEAR_BYTES, _MOST_NEAR_BYTES = 2 << 20, 16 << 20
# Payloads that are neither small nor large. From there on a server writes them beside each other in a file; what is
# larger would hold up what comes behind it.
_MEDIUM_BYTES, _LARGE_BYTES = 16 << 10, 4 << 20
# From where on a payload is sent from where it lies.
_PART_BYTES = 4 << 10
# Tags of CreateSmallTaskRequest.task_requests, and TaskRequest.payload.
_TASK_TAG, _PAYLOAD_TAG = b"\x1a", b"\x22"
# What a Duration holds.
_LONGEST_S = 315_576_000_000


def make_options(
    priority: int = 1, max_retries: int = 3, max_duration_s: float = 3600.0, options: Mapping[str, str] | None = None
) -> TaskOptions:
    """Return the options of tasks.

    Parameters
    ----------
    priority : int
        From 1; higher runs first.
    max_retries : int
        From 1: attempts after the first one, when the call of the worker fails.
    max_duration_s : float
        What one attempt may take.
    options : mapping of str to str, optional
        For the worker.

    Raises
    ------
    InvalidArgument
        For a value of another kind; the server checks the rest.
    """
    checked_number("max_duration_s", max_duration_s)
    if not 0 < max_duration_s <= _LONGEST_S:
        raise InvalidArgument(f"max_duration_s is {max_duration_s!r}; it must be above 0, and at most {_LONGEST_S}")
    checked_whole("priority", priority)
    checked_whole("max_retries", max_retries)
    entries = dict(options or {})
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"options: {key!r}: {value!r} is not a text with a text for its name")
        checked_unicode("options: a name", key)
        checked_unicode(f"options: {key!r}", value)
    return TaskOptions(int(max_duration_s * 1e9), int(max_retries), int(priority), entries)


class NewTask:
    """A task on its way."""

    __slots__ = ("dependencies", "id", "keys", "payload")

    def __init__(self, id: str, keys: tuple[str, ...], dependencies: tuple[str, ...], payload: Payload) -> None:
        self.id = id
        self.keys = keys
        self.dependencies = dependencies
        self.payload = payload


def random_ids(number: int) -> list[str]:
    """Return ids that nobody has; those of one request follow each other, so that indices grow at one end."""
    common = f"task-{uuid.uuid4()}"
    return [common] if number == 1 else [f"{common}-{index}" for index in range(number)]


def keys_of(dependencies: Iterable[str | AsyncTaskHandle]) -> Iterable[str]:
    """Yield the keys of results that a task needs; raises INVALID_ARGUMENT for what is none."""
    if isinstance(dependencies, (str, AsyncTaskHandle)):
        raise InvalidArgument(f"dependencies: a list of keys or tasks is needed, not {dependencies!r} alone")
    for item in dependencies:
        if isinstance(item, str):
            yield checked_text("dependencies: a key", item)
        elif isinstance(item, AsyncTaskHandle):
            yield from item.keys
        else:
            raise InvalidArgument(f"dependencies: {item!r} is neither the key of a result nor a task")


def options_message(options: TaskOptions) -> Any:
    """Return options as the protocol has them."""
    message = wire.armonik.TaskOptions(
        options=options.entries, max_retries=options.max_retries, priority=options.priority
    )
    message.max_duration.FromNanoseconds(options.max_duration_ns)
    return message


def grouped(
    tasks: Sequence[NewTask], chunk_bytes: int, *, has_medium: bool = False, is_near: bool = False
) -> Iterator[tuple[Form, list[NewTask]]]:
    """Yield tasks in groups of one request each, and how they go.

    Parameters
    ----------
    chunk_bytes : int
        The server takes no payload in a small request that has so many bytes.
    has_medium : bool
        Whether it takes medium ones.
    is_near : bool
        Whether those are only told of.
    """
    group: list[NewTask] = []
    nbytes, last = 0, Form.SMALL
    near_bytes = _FIRST_NEAR_BYTES
    for task in tasks:
        form = _form(task.payload, chunk_bytes, has_medium)
        if form is Form.SMALL and last is Form.MEDIUM:
            form = last  # it goes along
        most, most_bytes = _MOST[last]
        if is_near and last is Form.MEDIUM:
            most_bytes = near_bytes
        if group and (form is not last or len(group) == most or nbytes + task.payload.size > most_bytes):
            yield last, group
            if last is Form.MEDIUM:
                near_bytes = min(2 * near_bytes, _MOST_NEAR_BYTES)
            group, nbytes = [], 0
        group.append(task)
        nbytes += task.payload.size
        last = form
    if group:
        yield last, group


def is_medium(payload: Payload) -> bool:
    """Return whether a payload is one that servers write beside others, and that is at hand."""
    return payload.is_at_hand and _MEDIUM_BYTES < payload.size <= _LARGE_BYTES


def _form(payload: Payload, chunk_bytes: int, has_medium: bool) -> Form:
    if payload.is_at_hand:
        if has_medium and is_medium(payload):
            return Form.MEDIUM
        if 0 < payload.size < chunk_bytes:
            return Form.SMALL
    return Form.LARGE


def small_request(session: str, group: Sequence[NewTask], options: Any) -> bytes:
    """Return the one request that makes a group with the payloads in it."""
    head = wire.armonik.CreateSmallTaskRequest(session_id=session, task_options=options)
    request = TasksWriter(head.SerializeToString())
    for task in group:
        request.add(task.id, task.keys, task.dependencies, task.payload.tobytes())
    return request.tobytes()


def upload_request(session: str, group: Sequence[NewTask], options: Any) -> bytes | MessageParts:
    """Return whichever of `small_request` and `medium_request` makes a group with fewer copies."""
    is_small = all(task.payload.size < _PART_BYTES for task in group)
    return (small_request if is_small else medium_request)(session, group, options)


def medium_request(session: str, group: Sequence[NewTask], options: Any) -> MessageParts:
    """Return the same as `small_request` does, with long payloads as parts that are not copied."""
    told = wire.armonik.TaskRequest
    parts: list[bytes | memoryview] = []
    head = wire.armonik.CreateSmallTaskRequest(session_id=session, task_options=options).SerializeToString()
    for task in group:
        rest = told(
            id=task.id, expected_output_keys=task.keys, data_dependencies=task.dependencies
        ).SerializeToString()
        payload = task.payload.content
        before = rest + _PAYLOAD_TAG + varint(len(payload))
        head += _TASK_TAG + varint(len(before) + len(payload)) + before
        if len(payload) < _PART_BYTES:
            head += payload
        else:
            parts += (head, payload)
            head = b""
    if head:
        parts.append(head)
    return MessageParts(parts)


def request_head(session: str, options: Any) -> bytes:
    """Return what requests of tasks with the same options begin with; tasks follow it as `requested` has them."""
    return bytes(wire.armonik.CreateSmallTaskRequest(session_id=session, task_options=options).SerializeToString())


def requested(task: NewTask) -> bytes:
    """Return a task with the payload in it as a part of a request."""
    request = wire.armonik.CreateSmallTaskRequest()
    request.task_requests.add(
        id=task.id, expected_output_keys=task.keys, data_dependencies=task.dependencies, payload=task.payload.tobytes()
    )
    return bytes(request.SerializeToString())


async def large_requests(
    session: str, group: Sequence[NewTask], options: Any, chunk_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the requests that make a group, with its payloads in chunks."""
    request = wire.armonik.CreateLargeTaskRequest
    chunk = wire.armonik.DataChunk
    header = wire.armonik.TaskRequestHeader
    yield request(init_request=request.InitRequest(session_id=session, task_options=options)).SerializeToString()
    for task in group:
        told = header(id=task.id, expected_output_keys=task.keys, data_dependencies=task.dependencies)
        yield request(init_task=wire.armonik.InitTaskRequest(header=told)).SerializeToString()
        async for piece in task.payload.chunks(chunk_bytes):
            yield request(task_payload=chunk(data=piece)).SerializeToString()
        yield request(task_payload=chunk(data_complete=True)).SerializeToString()
    yield request(init_task=wire.armonik.InitTaskRequest(last_task=True)).SerializeToString()
