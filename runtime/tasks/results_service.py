"""runtime.v1.Results: many results with one call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime._ext import task_messages
from runtime.errors import InvalidArgument
from runtime.tasks import messages
from runtime.tasks.model import ResultStatus

if TYPE_CHECKING:
    from runtime.edge.plane import Handler
    from runtime.tasks.tasks import ResultView, Tasks

__all__ = ["SERVICE", "ResultsService", "checked_inline_bytes", "tell_result", "tell_small_result"]

SERVICE = "runtime.v1.Results"

MAX_KEYS = 100_000
_INLINE_BYTES, _MAX_INLINE_BYTES = 64 << 10, 1 << 20
# A message is sent when it has so many bytes of values.
_MESSAGE_BYTES = 256 << 10


class ResultsService:
    """The call of Results.

    Parameters
    ----------
    tasks : callable
        Returns the tasks of the server.
    """

    def __init__(self, tasks: Callable[[], Awaitable[Tasks]]) -> None:
        self._tasks = tasks

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {SERVICE: {"Collect": self.collect}}

    async def collect(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Collect."""
        message = messages.parse(wire.runtime_v1.CollectRequest, request)
        if not message.session_id:
            raise InvalidArgument("session_id: must not be empty")
        if not 1 <= len(message.key) <= MAX_KEYS:
            raise InvalidArgument(f"key: there are {len(message.key)}; it must be 1 to {MAX_KEYS}")
        inline_bytes = checked_inline_bytes(message.inline_bytes)
        limit = -1 if message.without_values else inline_bytes
        tasks = await self._tasks()
        async for views in tasks.collect(message.session_id, message.key):
            reply, nbytes = task_messages.CollectedWriter(), 0
            for view in views:
                value = view.value
                if value.ref is None and view.status is ResultStatus.COMPLETED and len(value.data) <= limit:
                    # As `tell_result` would, for thousands of them.
                    reply.add(view.key, value.data)
                    nbytes += len(value.data)
                else:
                    single = wire.runtime_v1.CollectReply()
                    nbytes += await tell_result(single.result.add(), view, tasks, limit)
                    reply.append(single.SerializeToString())
                if nbytes >= _MESSAGE_BYTES:
                    yield reply.tobytes()
                    reply, nbytes = task_messages.CollectedWriter(), 0
            if len(reply):
                yield reply.tobytes()


def checked_inline_bytes(inline_bytes: int) -> int:
    """Return up to how many bytes values are sent along.

    Raises
    ------
    InvalidArgument
        For more than is allowed.
    """
    if inline_bytes > _MAX_INLINE_BYTES:
        raise InvalidArgument(f"inline_bytes: {inline_bytes}; at most {_MAX_INLINE_BYTES} are sent along")
    return inline_bytes or _INLINE_BYTES


async def tell_result(entry: wire.runtime_v1.CollectedResult, view: ResultView, tasks: Tasks, limit: int) -> int:
    """Fill in a message about a result; return the bytes of its value that are in it."""
    value = view.value
    if value.ref is None or view.status is not ResultStatus.COMPLETED or value.size > limit:
        return tell_small_result(entry, view, limit)
    entry.key, entry.status, entry.num_bytes = view.key, view.status.name, value.size
    entry.value = b"".join([piece async for piece in tasks.read(value)])
    return value.size


def tell_small_result(entry: wire.runtime_v1.CollectedResult, view: ResultView, limit: int) -> int:
    """Do the same for a result whose value is in no object, or is not to be told."""
    value = view.value
    entry.key, entry.status, entry.num_bytes = view.key, view.status.name, value.size
    if view.status is not ResultStatus.COMPLETED:
        entry.owner_id, entry.owner_status, entry.error = view.owner, view.owner_status.name, view.owner_error
        return 0
    if value.size > limit:
        return 0
    entry.value = value.data
    return value.size
