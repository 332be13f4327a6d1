"""New tasks on their way: what a caller asks for, checked, and the requests that create them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from runtime import wire
from runtime.client.tasks.arguments import checked_number, checked_whole
from runtime.client.tasks.handle import AsyncTaskHandle
from runtime.client.tasks.payloads import Payload
from runtime.errors import InvalidArgument
from runtime.tasks.model import TaskOptions

__all__ = [
    "NewTask", "grouped", "keys_of", "large_requests", "make_options", "options_message", "random_ids", "small_request",
]

# Tasks and bytes of one request that has the payloads in it.
_BATCH_TASKS = 500
_BATCH_BYTES = 1 << 20
# The same for requests that have them in chunks: the server has them on disk, many at a time, before it answers.
_STREAM_TASKS = 100
_STREAM_BYTES = 32 << 20
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
    return TaskOptions(int(max_duration_s * 1e9), int(max_retries), int(priority), entries)


class NewTask:
    """A task on its way."""

    __slots__ = ("dependencies", "id", "keys", "payload")

    def __init__(self, id: str, keys: tuple[str, ...], dependencies: tuple[str, ...], payload: Payload) -> None:
        if not id or not keys or not all(keys):
            raise InvalidArgument(f"task {id!r} with keys {keys!r}: neither ids nor keys may be empty")
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
            yield item
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


def grouped(tasks: Sequence[NewTask], chunk_bytes: int) -> Iterator[tuple[list[NewTask], bool]]:
    """Yield tasks in groups of one request each, and whether their payloads go into the request itself."""
    group: list[NewTask] = []
    nbytes, was_small = 0, True
    for task in tasks:
        is_small = task.payload.is_at_hand and 0 < task.payload.size < chunk_bytes
        most, most_bytes = (_BATCH_TASKS, _BATCH_BYTES) if was_small else (_STREAM_TASKS, _STREAM_BYTES)
        if group and (is_small != was_small or len(group) == most or nbytes + task.payload.size > most_bytes):
            yield group, was_small
            group, nbytes = [], 0
        group.append(task)
        nbytes += task.payload.size
        was_small = is_small
    if group:
        yield group, was_small


def small_request(session: str, group: Sequence[NewTask], options: Any) -> bytes:
    """Return the one request that makes a group with the payloads in it."""
    request = wire.armonik.CreateSmallTaskRequest(session_id=session, task_options=options)
    add = request.task_requests.add
    for task in group:
        add(
            id=task.id, expected_output_keys=task.keys, data_dependencies=task.dependencies,
            payload=task.payload.tobytes(),
        )
    return request.SerializeToString()


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
