"""runtime.v1.TaskInspector: bytes in, one look of the inspector, bytes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from runtime import wire
from runtime.errors import InvalidArgument
from runtime.tasks import messages
from runtime.tasks.agents.agents import Agents
from runtime.tasks.inspection import Inspector, ResultLook, SessionLook, Workforce
from runtime.tasks.model import TaskOptions, TaskRow

if TYPE_CHECKING:
    from runtime.edge.plane import Handler
    from runtime.tasks.tasks import Tasks

__all__ = ["SERVICE", "InspectorService"]

SERVICE = "runtime.v1.TaskInspector"


class InspectorService:
    """The calls of TaskInspector.

    Parameters
    ----------
    tasks, agents : callable
        Return the tasks and the agents of the server.
    """

    def __init__(self, tasks: Callable[[], Awaitable[Tasks]], agents: Callable[[], Awaitable[Agents]]) -> None:
        self._tasks = tasks
        self._agents = agents

    def services(self) -> Mapping[str, Mapping[str, Handler]]:
        """Return the handlers by service and method name."""
        return {
            SERVICE: {
                "ListSessions": self.list_sessions,
                "ListTasks": self.list_tasks,
                "GetTask": self.get_task,
                "ListResults": self.list_results,
                "DeleteSession": self.delete_session,
            }
        }

    async def list_sessions(self, request: bytes, context: Any) -> bytes:
        """ListSessions."""
        message = messages.parse(wire.runtime_v1.ListSessionsRequest, request)
        looks = await Inspector(await self._tasks()).sessions(message.session_id)
        return wire.runtime_v1.ListSessionsReply(session=map(_session, looks)).SerializeToString()

    async def list_tasks(self, request: bytes, context: Any) -> bytes:
        """ListTasks."""
        message = messages.parse(wire.runtime_v1.ListTasksRequest, request)
        inspector = Inspector(await self._tasks())
        rows, following = await inspector.tasks(message.session_id, message.status, message.after, message.limit)
        summaries = (_summary(row, session) for row, session in rows)
        return wire.runtime_v1.ListTasksReply(task=summaries, next=following).SerializeToString()

    async def get_task(self, request: bytes, context: Any) -> bytes:
        """GetTask."""
        message = messages.parse(wire.runtime_v1.GetTaskRequest, request)
        if not message.task_id:
            raise InvalidArgument("task_id: must not be empty")
        look = await Inspector(await self._tasks()).task(message.task_id, _workforce(await self._agents()))
        session = look.session.id
        return wire.runtime_v1.TaskDetail(
            task=_summary(look.row, session),
            options=_options(look.options),
            result=map(_result, look.results),
            dependency=map(_result, look.dependencies),
            parent_id=look.parent,
            attempt=(_summary(row, session) for row in look.attempts),
            payload_bytes=look.payload_bytes,
            why=look.why,
        ).SerializeToString()

    async def delete_session(self, request: bytes, context: Any) -> bytes:
        """DeleteSession."""
        message = messages.parse(wire.runtime_v1.DeleteSessionRequest, request)
        if not message.session_id:
            raise InvalidArgument("session_id: must not be empty")
        await (await self._tasks()).retention.delete(message.session_id)
        return wire.runtime_v1.DeleteSessionReply().SerializeToString()

    async def list_results(self, request: bytes, context: Any) -> bytes:
        """ListResults."""
        message = messages.parse(wire.runtime_v1.ListResultsRequest, request)
        inspector = Inspector(await self._tasks())
        looks, following = await inspector.results(message.session_id, message.status, message.after, message.limit)
        return wire.runtime_v1.ListResultsReply(result=map(_result, looks), next=following).SerializeToString()


def _workforce(agents: Agents) -> Workforce:
    slots = busy = 0
    trouble = []
    places: dict[str, str] = {}
    for agent, _ in agents.all():
        where = f"worker {agent.name or agent.endpoint}"
        places.update((task_id, f"{where} ({agent.endpoint})" if agent.name else where) for task_id in agent.running)
        if agent.state in ("ready", "busy"):
            slots += agent.concurrency
            busy += len(agent.running)
        else:
            trouble.append(f"{where}: {agent.state}")
    progress = {one.task_id: (one.fraction, one.text) for one in agents.progress()}
    return Workforce(slots, busy, trouble, progress, places)


def _session(look: SessionLook) -> wire.runtime_v1.SessionDetail:
    row = look.row
    return wire.runtime_v1.SessionDetail(
        session_id=row.id,
        status=row.status.name,
        created_s=row.created_s,
        canceled_s=row.canceled_s or 0.0,
        options=_options(look.options),
        num_tasks={status.name: count for status, count in look.counts.items() if count},
    )


def _options(options: TaskOptions) -> wire.runtime_v1.OptionsDetail:
    return wire.runtime_v1.OptionsDetail(
        priority=options.priority,
        max_retries=options.max_retries,
        max_duration_s=options.max_duration_s,
        options=options.entries,
    )


def _summary(row: TaskRow, session: str) -> wire.runtime_v1.TaskSummary:
    return wire.runtime_v1.TaskSummary(
        task_id=row.id,
        session_id=session,
        status=row.status.name,
        priority=row.priority,
        attempt=row.attempt,
        owner=row.owner,
        created_s=row.created_s,
        submitted_s=row.submitted_s or 0.0,
        started_s=row.started_s or 0.0,
        ended_s=row.ended_s or 0.0,
        error=row.error,
    )


def _result(look: ResultLook) -> wire.runtime_v1.ResultDetail:
    return wire.runtime_v1.ResultDetail(
        key=look.key,
        status=look.status.name if look.status is not None else "UNKNOWN",
        owner_id=look.owner.id if look.owner is not None else "",
        owner_status=look.owner.status.name if look.owner is not None else "",
        bytes=look.nbytes,
    )
