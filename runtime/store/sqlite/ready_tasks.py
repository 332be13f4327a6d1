"""The head of the queue in memory: which tasks are ready, as long as they are few."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Sequence

from runtime.tasks.model import TaskRow

__all__ = ["ReadyTasks"]


class _Sessions:
    """The ready tasks of one priority: those of each session by number, in the order of their places."""

    __slots__ = ("numbers", "tasks")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.tasks: dict[int, dict[int, TaskRow]] = {}


class ReadyTasks:
    """All tasks that are SUBMITTED with nothing missing, and that nobody has acquired.

    Parameters
    ----------
    tasks : iterable of TaskRow
        In the order of their places.
    """

    def __init__(self, tasks: Iterable[TaskRow] = ()) -> None:
        self._priorities: dict[int, _Sessions] = {}
        # Of each task, those of its session and priority.
        self._lanes: dict[int, dict[int, TaskRow]] = {}
        self.add(tasks)

    def __len__(self) -> int:
        return len(self._lanes)

    def __contains__(self, number: int) -> bool:
        return number in self._lanes

    def add(self, tasks: Iterable[TaskRow]) -> None:
        """Put tasks behind all others of their sessions and priorities."""
        lanes = self._lanes
        session = priority = -1
        lane: dict[int, TaskRow] = {}
        for task in tasks:
            if task.session != session or task.priority != priority:
                session, priority = task.session, task.priority
                lane = self._lane(priority, session)
            lane[task.number] = task
            lanes[task.number] = lane

    def is_last(self, task: TaskRow) -> bool:
        """Return whether a task that is added now would stand at its place."""
        sessions = self._priorities.get(task.priority)
        lane = None if sessions is None else sessions.tasks.get(task.session)
        return lane is None or task.place > next(reversed(lane.values())).place

    def remove(self, task: TaskRow) -> None:
        """Take a task out that is there."""
        lane = self._lanes.pop(task.number)
        del lane[task.number]
        if not lane:
            sessions = self._priorities[task.priority]
            del sessions.tasks[task.session]
            del sessions.numbers[bisect.bisect_left(sessions.numbers, task.session)]
            if not sessions.numbers:
                del self._priorities[task.priority]

    def only(self) -> TaskRow | None:
        """Return the ready task if there is just one."""
        if len(self._lanes) != 1:
            return None
        (lane,) = self._lanes.values()
        (task,) = lane.values()
        return task

    def top_priority(self) -> int | None:
        """Return the highest priority of a ready task."""
        return max(self._priorities, default=None)

    def next_priority(self, below: int) -> int | None:
        """Return the highest priority of a ready task below another one."""
        return max((priority for priority in self._priorities if priority < below), default=None)

    def next_session(self, priority: int, after: int) -> int | None:
        """Return the first session behind another one that has a ready task of a priority."""
        sessions = self._priorities.get(priority)
        if sessions is None:
            return None
        index = bisect.bisect_right(sessions.numbers, after)
        return sessions.numbers[index] if index < len(sessions.numbers) else None

    def first(self, priority: int, session: int, limit: int) -> Sequence[TaskRow]:
        """Return the first ready tasks of a session and priority."""
        sessions = self._priorities.get(priority)
        lane = None if sessions is None else sessions.tasks.get(session)
        return [] if lane is None else list(itertools.islice(lane.values(), limit))

    def _lane(self, priority: int, session: int) -> dict[int, TaskRow]:
        sessions = self._priorities.get(priority)
        if sessions is None:
            sessions = self._priorities[priority] = _Sessions()
        lane = sessions.tasks.get(session)
        if lane is None:
            lane = sessions.tasks[session] = {}
            bisect.insort(sessions.numbers, session)
        return lane
