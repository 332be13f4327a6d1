"""runtime.v1.TaskUploads: new tasks with their payloads, taken while those before them are being stored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime._ext import task_messages
from runtime.errors import InvalidArgument
from runtime.objects.value import Value
from runtime.tasks import messages
from runtime.tasks.intake import Intake, Taken
from runtime.tasks.model import TaskOptions, TaskRequest
from runtime.tasks.near_uploads import near_replies
from runtime.tasks.service import told_options

if TYPE_CHECKING:
    from runtime.edge.plane import Handler
    from runtime.tasks.tasks import Tasks

__all__ = ["SERVICE", "UploadsService"]

SERVICE = "runtime.v1.TaskUploads"

# Payloads that are shorter lie in rows, in any store.
_SMALL_BYTES = 4 << 10


class UploadsService:
    """The calls of TaskUploads.

    Parameters
    ----------
    tasks : callable
        Returns the tasks of the server.
    """

    def __init__(self, tasks: Callable[[], Awaitable[Tasks]]) -> None:
        self._tasks = tasks

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {SERVICE: {"Create": self.create, "CreateNear": self.create_near}}

    async def create(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Create."""
        tasks = await self._tasks()
        intake = Intake(requests, _Reader(tasks).take, len, tasks.discard)
        try:
            while (taken := await intake.next()) is not None:
                offending = await tasks.create_tasks(taken.session, taken.tasks, taken.options)
                yield messages.created_message(offending).SerializeToString()
                if offending:
                    return
        finally:
            intake.close()

    async def create_near(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """CreateNear."""
        async for reply in near_replies(await self._tasks(), requests):
            yield reply.SerializeToString()


class _Reader:
    """Reads the requests of one stream."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._session = ""

    async def take(self, request: bytes) -> Taken:
        """Return the tasks of a request, whose payloads are durable."""
        plain = task_messages.small_tasks(request, _SMALL_BYTES, TaskRequest, Value)
        if plain is not None and (told := plain[1]) is not None:
            self._check(plain[0], options := told_options(told))
            return Taken(plain[0], options, plain[2])
        message, payloads = messages.parse_with_payloads(request)
        if not message.session_id:
            raise InvalidArgument("session_id: must not be empty")
        given = messages.options_of(message.task_options) if message.HasField("task_options") else None
        self._check(message.session_id, given)
        group = messages.small_tasks_of(message.task_requests, None)
        values = await self._tasks.objects.put([(payload,) for payload in payloads], len(request))
        return Taken(
            message.session_id,
            given,
            [task._replace(payload=value) for task, value in zip(group, values, strict=True)],
        )

    def _check(self, session: str, options: TaskOptions | None) -> None:
        """Refuse what cannot succeed before its payloads are written; what happens to it later is found out later."""
        if options is not None:
            self._tasks.check_options(options)
        if session != self._session:
            self._tasks.check_session(session)
            self._session = session
