"""runtime.v1.TaskUploads: new tasks with their payloads, taken while those before them are being stored."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from runtime._ext import task_messages
from runtime.errors import InvalidArgument
from runtime.objects.value import Value
from runtime.tasks import messages
from runtime.tasks.model import TaskOptions, TaskRequest
from runtime.tasks.service import told_options

if TYPE_CHECKING:
    from runtime.edge.plane import Handler
    from runtime.tasks.tasks import Tasks

__all__ = ["SERVICE", "UploadsService"]

SERVICE = "runtime.v1.TaskUploads"

# Of one stream: what is taken ahead of the message whose tasks are being stored.
_AHEAD_BYTES = 32 << 20
_AHEAD_MESSAGES = 8

# Payloads that are shorter lie in rows, in any store.
_SMALL_BYTES = 4 << 10

_Taken = tuple[str, "TaskOptions | None", list[TaskRequest]]


class UploadsService:
    """The call of TaskUploads.

    Parameters
    ----------
    tasks : callable
        Returns the tasks of the server.
    """

    def __init__(self, tasks: Callable[[], Awaitable[Tasks]]) -> None:
        self._tasks = tasks

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {SERVICE: {"Create": self.create}}

    async def create(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Create."""
        tasks = await self._tasks()
        intake = _Intake(tasks, requests)
        try:
            while (taken := await intake.next()) is not None:
                session, options, group = taken
                offending = await tasks.create_tasks(session, group, options)
                yield messages.created_message(offending).SerializeToString()
                if offending:
                    return
        finally:
            intake.close()


class _Intake:
    """The messages of a stream, each as the tasks in it, whose payloads are durable.

    Payloads of several messages are written at the same time; they are handed on in the order in which they came.
    """

    def __init__(self, tasks: Tasks, requests: AsyncIterator[bytes]) -> None:
        self._tasks = tasks
        self._requests = requests
        self._taken: deque[tuple[asyncio.Future[_Taken], int]] = deque()
        self._nbytes = 0
        self._session = ""
        self._changed = asyncio.Event()
        self._reader = asyncio.ensure_future(self._read())
        self._reader.add_done_callback(self._ended)

    async def next(self) -> _Taken | None:
        """Return what was asked for next, whose payloads are held by the caller from now on; None at the end."""
        while not self._taken:
            if self._reader.done():
                self._reader.result()  # raises what has ended the stream
                return None
            self._changed.clear()
            await self._changed.wait()
        await asyncio.wait([self._taken[0][0]])
        taking, nbytes = self._taken.popleft()
        self._nbytes -= nbytes
        self._changed.set()
        return taking.result()

    def close(self) -> None:
        """Take nothing any more, and let go of what nobody has asked for."""
        self._reader.cancel()
        while self._taken:
            taking, _ = self._taken.popleft()
            taking.cancel()
            taking.add_done_callback(functools.partial(_let_go, self._tasks.discard))

    def _ended(self, reader: asyncio.Future[None]) -> None:
        if not reader.cancelled():
            reader.exception()  # told by `next`, unless nobody asks any more
        self._changed.set()

    async def _read(self) -> None:
        async for request in self._requests:
            while self._taken and (
                self._nbytes + len(request) > _AHEAD_BYTES or len(self._taken) >= _AHEAD_MESSAGES
            ):
                self._changed.clear()
                await self._changed.wait()
            self._nbytes += len(request)
            self._taken.append((asyncio.ensure_future(self._take(request)), len(request)))
            self._changed.set()

    async def _take(self, request: bytes) -> _Taken:
        plain = task_messages.small_tasks(request, _SMALL_BYTES, TaskRequest, Value)
        if plain is not None and (told := plain[1]) is not None:
            self._check(plain[0], options := told_options(told))
            return plain[0], options, plain[2]
        message, payloads = messages.parse_with_payloads(request)
        if not message.session_id:
            raise InvalidArgument("session_id: must not be empty")
        given = messages.options_of(message.task_options) if message.HasField("task_options") else None
        self._check(message.session_id, given)
        group = messages.small_tasks_of(message.task_requests, None)
        values = await self._tasks.objects.put([(payload,) for payload in payloads], len(request))
        return message.session_id, given, [
            task._replace(payload=value) for task, value in zip(group, values, strict=True)
        ]


    def _check(self, session: str, options: TaskOptions | None) -> None:
        """Refuse what cannot succeed before its payloads are written; what happens to it later is found out later."""
        if options is not None:
            self._tasks.check_options(options)
        if session != self._session:
            self._tasks.check_session(session)
            self._session = session


def _let_go(let_go: Callable[[Iterable[Value]], None], taking: asyncio.Future[_Taken]) -> None:
    # One that is cancelled, or has failed, has left nothing.
    if not taking.cancelled() and taking.exception() is None:
        let_go([request.payload for request in taking.result()[2]])
