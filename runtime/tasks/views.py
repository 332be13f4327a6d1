"""What is to be seen of sessions, tasks and results, at once or when they have ended."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from runtime.errors import NotFound
from runtime.objects.objects import ObjectStore
from runtime.objects.value import Value
from runtime.store.tasks import TaskStore, TaskTables
from runtime.tasks.core import Core
from runtime.tasks.filters import SessionFilter, TaskFilter
from runtime.tasks.following import Followed, Follower
from runtime.tasks.limits import Limits
from runtime.tasks.model import ResultRow, ResultStatus, TaskRow, TaskStatus
from runtime.tasks.waiting import Waiting

__all__ = ["ResultView", "TaskView", "Views"]

# Results that are read on the loop at once.
_COLLECTED = 100


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as others see it: its row, and the id of its session."""

    row: TaskRow
    session: str


class ResultView(NamedTuple):
    """A result with the task that owns it now."""

    key: str
    status: ResultStatus
    value: Value
    owner: str
    owner_status: TaskStatus
    owner_error: str


class Views(Core):
    """The part of `runtime.tasks.tasks.Tasks` that changes nothing."""

    def __init__(
        self,
        store: TaskStore,
        objects: ObjectStore,
        limits: Limits | None = None,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(store, objects, limits, now_s=now_s)
        self.waiting = Waiting(store)

    # Sessions and tasks

    def list_sessions(self, selection: SessionFilter) -> list[str]:
        """Return the ids of sessions, oldest first."""
        return self.store.read(
            lambda tables: tables.session_ids(selection.sessions, selection.included, selection.excluded)
        )

    async def list_tasks(self, selection: TaskFilter) -> list[str]:
        """Return the ids of the selected tasks, oldest first."""
        selection.check()
        return await self.store.read_in_thread(lambda tables: tables.task_ids(selection))

    async def count_tasks(self, selection: TaskFilter) -> dict[TaskStatus, int]:
        """Return how many of the selected tasks have which status, by ascending status."""
        selection.check()
        if selection.sessions is not None:
            return self.store.read(lambda tables: tables.task_counts(selection))
        return await self.store.read_in_thread(lambda tables: tables.task_counts(selection))

    async def task_statuses(self, ids: Sequence[str]) -> dict[str, TaskStatus]:
        """Return the status of each known task of ``ids``, in that order."""
        if len(ids) <= 100:
            return self.store.read(lambda tables: tables.task_statuses(ids))
        return await self.store.read_in_thread(lambda tables: tables.task_statuses(ids))

    def task(self, task_id: str) -> TaskView:
        """Return a task.

        Raises
        ------
        NotFound
            There is none of that id.
        """

        def find(tables: TaskTables) -> TaskView:
            row = tables.task_by_id(task_id)
            if row is None or not tables.has_session(row.session):
                raise NotFound(f"task {task_id!r} is not known")
            return TaskView(row, self.session_id(tables, row.session))

        return self.store.read(find)

    # Results

    async def result_statuses(self, session_id: str, keys: Sequence[str]) -> dict[str, ResultStatus]:
        """Return the status of each known result of ``keys``, in that order."""

        def find(tables: TaskTables) -> dict[str, ResultStatus]:
            session = tables.session_by_id(session_id)
            if session is None:
                return {}
            return {result.key: result.status for result in tables.results(session.number, keys)}

        return self.store.read(find) if len(keys) <= 100 else await self.store.read_in_thread(find)

    def result(self, session_id: str, key: str) -> ResultView:
        """Return a result and its owner.

        Raises
        ------
        NotFound
            There is none of that key in that session.
        """

        def find(tables: TaskTables) -> ResultView:
            session = tables.session_by_id(session_id)
            found = None if session is None else tables.result(session.number, key)
            if found is None:
                raise NotFound(f"result {key!r} is not known in session {session_id!r}")
            owner = tables.task(found.owner)
            return ResultView(key, found.status, found.value, owner.id, owner.status, owner.error)

        return self.store.read(find)

    async def collect(self, session_id: str, keys: Sequence[str]) -> AsyncGenerator[list[ResultView], None]:
        """Yield results of a session, some at a time, as soon as they are there or never will be.

        Raises
        ------
        NotFound
            There is no such session, or not all of the results; or it is deleted meanwhile.
        """
        collector = await self.waiting.collect(session_id, keys)
        try:
            while settled := await collector.next():
                known = [_completed(key, value) for key, value in settled.items() if value is not None]
                if known:
                    yield known
                rest = [key for key, value in settled.items() if value is None]
                for start in range(0, len(rest), _COLLECTED):
                    some = rest[start : start + _COLLECTED]
                    yield self.store.read(lambda tables, some=some: _views(tables, session_id, some))  # type: ignore[misc]
        finally:
            collector.leave()

    def follower(self, news: Callable[[], object]) -> Follower:
        """Return what follows results of tasks that are going to be made by `runtime.tasks.tasks.Tasks.submit`."""
        return Follower(self.waiting, news)

    def followed(self, settled: Sequence[Followed]) -> list[tuple[Followed, ResultView | None]]:
        """Return followed results as they are; None where the session was deleted meanwhile."""
        found: dict[tuple[str, str], ResultView] = {}
        unread: dict[str, list[str]] = {}
        for one in settled:
            if one.value is not None:
                found[one.session, one.key] = _completed(one.key, one.value)
            else:
                unread.setdefault(one.session, []).append(one.key)
        for session_id, keys in unread.items():
            with contextlib.suppress(NotFound):
                views = self.store.read(functools.partial(_views, session_id=session_id, keys=keys))
                found.update(((session_id, view.key), view) for view in views)
        return [(one, found.get((one.session, one.key))) for one in settled]

    async def wait_for_result(self, session_id: str, key: str) -> ResultView:
        """Wait until a result is COMPLETED or ABORTED, and return it.

        Raises
        ------
        NotFound
            There is none of that key in that session now.
        Unavailable
            The server stops.
        """
        await self.waiting.result(session_id, key)
        return self.result(session_id, key)

    async def wait_for_tasks(
        self, selection: TaskFilter, *, on_error: bool = False, on_cancel: bool = False
    ) -> dict[TaskStatus, int]:
        """Wait until all selected tasks have ended, newest attempts included; return how many have which status.

        Parameters
        ----------
        on_error, on_cancel : bool
            Whether the first task that ended badly for good, or that is canceled, ends the wait too.
        """
        selection.check()
        return await self.waiting.completion(selection, on_error=on_error, on_cancel=on_cancel)

    async def common_data(self, session_id: str, key: str) -> Value | None:
        """Return the value of a COMPLETED result of a session, or None."""

        def find(tables: TaskTables) -> ResultRow | None:
            session = tables.session_by_id(session_id)
            return None if session is None else tables.result(session.number, key)

        found = self.store.read(find)
        if found is None or found.status is not ResultStatus.COMPLETED:
            # A task may run because of a result that is on its way to the disk, as its own lease is.
            found = await self.store.write(find)
        return found.value if found is not None and found.status is ResultStatus.COMPLETED else None


def _completed(key: str, value: Value) -> ResultView:
    """Return the view of a result that is there: nobody asks whose it was."""
    return ResultView(key, ResultStatus.COMPLETED, value, "", TaskStatus.COMPLETED, "")


def _views(tables: TaskTables, session_id: str, keys: Sequence[str]) -> list[ResultView]:
    session = tables.session_by_id(session_id)
    rows = [] if session is None else tables.results(session.number, keys)
    if len(rows) < len(keys):
        raise NotFound(f"session {session_id!r} was deleted before all of its results had been read")
    views = []
    for row in rows:
        if row.status is ResultStatus.COMPLETED:
            views.append(_completed(row.key, row.value))
        else:
            owner = tables.task(row.owner)
            views.append(ResultView(row.key, row.status, row.value, owner.id, owner.status, owner.error))
    return views
