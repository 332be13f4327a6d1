"""The three state machines. Nothing else writes a status.

A transition checks that it is legal, sets the dates that belong to it, keeps the counters, writes the row, and notes
the change for whoever waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from runtime.errors import Internal
from runtime.objects.value import EMPTY, Value
from runtime.store.tasks import TaskTables
from runtime.tasks.model import (
    TERMINAL,
    ResultRow,
    ResultStatus,
    SessionRow,
    SessionStatus,
    TaskRow,
    TaskStatus,
)

__all__ = [
    "LEGAL",
    "Completion",
    "Completions",
    "QueueEmpty",
    "ResultChange",
    "SessionChange",
    "TaskChange",
    "TaskChanges",
    "add_results",
    "add_tasks",
    "began",
    "complete_all",
    "dispatch_all",
    "hand_over",
    "move_result",
    "move_session",
    "move_task",
]

_T = TaskStatus

LEGAL: dict[TaskStatus, frozenset[TaskStatus]] = {
    _T.CREATING: frozenset({_T.SUBMITTED, _T.CANCELING, _T.CANCELED}),
    _T.SUBMITTED: frozenset({_T.DISPATCHED, _T.ERROR, _T.CANCELING}),
    _T.DISPATCHED: frozenset({_T.PROCESSING, _T.SUBMITTED, _T.ERROR, _T.CANCELING}),
    _T.PROCESSING: frozenset({_T.COMPLETED, _T.ERROR, _T.TIMEOUT, _T.SUBMITTED, _T.CANCELING}),
    _T.CANCELING: frozenset({_T.CANCELED}),
}
"""From each status to those that may follow it; terminal ones have none."""

_FREE = frozenset({_T.SUBMITTED, *TERMINAL})


class TaskChange(NamedTuple):
    """A task has another status: noted for the plane's watcher."""

    session: int
    number: int
    id: str
    before: TaskStatus
    after: TaskStatus
    is_ready: bool
    has_next: bool


class ResultChange(NamedTuple):
    """A result has another status."""

    session: int
    key: str
    after: ResultStatus


class SessionChange(NamedTuple):
    """A session has another status."""

    number: int
    after: SessionStatus


class Completion(NamedTuple):
    """A running task that has made its only result: what the store has of it, and the result."""

    session: int
    number: int
    id: str
    before: TaskStatus
    started_s: float
    key: str
    value: Value


class TaskChanges(NamedTuple):
    """Tasks are SUBMITTED or DISPATCHED: noted in place of a change for each."""

    before: TaskStatus
    after: TaskStatus
    tasks: Sequence[TaskRow]
    has_ready: bool

    def each(self) -> Iterator[TaskChange]:
        """Yield the change of each task."""
        for task in self.tasks:
            is_ready = self.after is _T.SUBMITTED and task.missing == 0
            yield TaskChange(task.session, task.number, task.id, self.before, self.after, is_ready, False)


class QueueEmpty(NamedTuple):
    """Nothing was ready that nobody had taken, at this point of the history."""


class Completions(NamedTuple):
    """Tasks are COMPLETED, each with its result: noted in place of two changes for each."""

    done: Sequence[Completion]

    def each(self) -> Iterator[TaskChange | ResultChange]:
        """Yield the changes of each."""
        for one in self.done:
            yield TaskChange(one.session, one.number, one.id, one.before, _T.COMPLETED, False, False)
            yield ResultChange(one.session, one.key, ResultStatus.COMPLETED)


def add_tasks(tables: TaskTables, tasks: Sequence[TaskRow], *, are_leased: bool = False) -> None:
    """Insert new attempts: CREATING, or SUBMITTED for those whose creation ends in the same write.

    Parameters
    ----------
    are_leased : bool
        Whether agents have all of them already, as the same write tells next.

    Raises
    ------
    Exists
        An id is in use.
    """
    tables.insert_tasks(tasks)
    for task in tasks:
        if task.status not in (_T.CREATING, _T.SUBMITTED):
            raise Internal(f"task {task.id}: nothing begins as {task.status.name}")
    if tasks:
        _count_new(tables, tasks, are_leased)


def _count_new(tables: TaskTables, tasks: Sequence[TaskRow], are_leased: bool) -> None:
    numbers: dict[tuple[int, TaskStatus], int] = {}
    for task in tasks:
        key = (task.session, task.status)
        numbers[key] = numbers.get(key, 0) + 1
    submitted = [task for task in tasks if task.status is _T.SUBMITTED]
    if submitted:
        is_ready = not are_leased and any(task.missing == 0 for task in submitted)
        tables.note(TaskChanges(_T.CREATING, _T.SUBMITTED, submitted, is_ready))
    for (session, status), number in numbers.items():
        tables.count(session, status, number)


def move_task(tables: TaskTables, task: TaskRow, *path: TaskStatus, now_s: float) -> None:
    """Give a task another status, perhaps by way of others; fields that were changed on ``task`` are written with it.

    Parameters
    ----------
    path : TaskStatus
        The statuses that it takes, in order.
    now_s : float
        Seconds since 1970.

    Raises
    ------
    Internal
        If that is no path of the state machine.
    """
    before = task.stored or task.status
    status = task.status
    for after in path:
        _check(task, status, after)
        if after is _T.SUBMITTED:
            if status is _T.CREATING:
                task.submitted_s = now_s
            task.started_s = None
        elif after is _T.PROCESSING:
            task.started_s = now_s
        elif after in TERMINAL:
            task.ended_s = now_s
        if after in _FREE:
            task.owner = ""
        status = after
    task.status = status
    task.stored = None
    tables.update_task(task)
    tables.count(task.session, before, -1)
    tables.count(task.session, status, 1)
    tables.note(TaskChange(task.session, task.number, task.id, before, status, task.is_ready, task.next != 0))


def dispatch_all(
    tables: TaskTables, tasks: Sequence[TaskRow], owner: str, fences: Sequence[int] | None = None
) -> None:
    """Make SUBMITTED tasks DISPATCHED, under fences that nobody has had.

    Parameters
    ----------
    fences : sequence of int, optional
        Those of leases that are there already; new ones otherwise.

    Raises
    ------
    Internal
        If one is not SUBMITTED.
    """
    if not tasks:
        return
    number = tables.number if fences is None else iter(fences).__next__
    for task in tasks:
        if task.status is not _T.SUBMITTED:
            _check(task, task.status, _T.DISPATCHED)
        task.status, task.owner, task.fence = _T.DISPATCHED, owner, number()
    tables.note(TaskChanges(_T.SUBMITTED, _T.DISPATCHED, tasks, False))
    tables.dispatch_tasks(tasks)


def complete_all(tables: TaskTables, done: Sequence[Completion], now_s: float) -> None:
    """Make DISPATCHED and PROCESSING first attempts COMPLETED, with results that they own and that have no objects.

    Raises
    ------
    Internal
        If one is in another status, or a result is another's, or there already; then nothing may be committed.
    """
    numbers: dict[tuple[int, TaskStatus], int] = {}
    for one in done:
        if one.before is not _T.DISPATCHED and one.before is not _T.PROCESSING:
            raise Internal(f"task {one.id}: {one.before.name} does not become COMPLETED")
        at = (one.session, one.before)
        numbers[at] = numbers.get(at, 0) + 1
    tables.end_tasks(_T.COMPLETED, now_s, [(one.started_s, one.number) for one in done])
    filled = tables.fill_results(
        ResultStatus.COMPLETED, [(one.session, one.key, one.number, one.value.data) for one in done]
    )
    if filled != len(done):
        raise Internal(f"{len(done) - filled} of {len(done)} results are not those of their tasks any more")
    for (session, before), number in numbers.items():
        tables.count(session, before, -number)
        tables.count(session, _T.COMPLETED, number)
    tables.note(Completions(done))


def began(task: TaskRow, started_s: float) -> None:
    """Make a DISPATCHED task PROCESSING, since ``started_s``; written with its next transition, which must follow.

    Raises
    ------
    Internal
        If it is not DISPATCHED.
    """
    _check(task, task.status, _T.PROCESSING)
    task.stored, task.status, task.started_s = task.status, _T.PROCESSING, started_s


def _check(task: TaskRow, before: TaskStatus, after: TaskStatus) -> None:
    if after not in LEGAL.get(before, ()):
        raise Internal(f"task {task.id}: {before.name} does not become {after.name}")


def add_results(tables: TaskTables, results: Sequence[ResultRow]) -> None:
    """Insert new results, CREATED.

    Raises
    ------
    Exists
        A key of the session is in use.
    """
    tables.insert_results(results)


def move_result(tables: TaskTables, result: ResultRow, after: ResultStatus, value: Value = EMPTY) -> None:
    """Complete a result with its value, or abort it.

    Raises
    ------
    Internal
        If it is COMPLETED or ABORTED already.
    """
    if result.status is not ResultStatus.CREATED or after is ResultStatus.CREATED:
        raise Internal(f"result {result.key}: {result.status.name} does not become {after.name}")
    result.status = after
    result.value = value
    if value.ref is not None:
        tables.refer(value.ref)
    tables.update_result(result)
    tables.note(ResultChange(result.session, result.key, after))


def hand_over(tables: TaskTables, result: ResultRow, owner: int) -> None:
    """Make another task the owner of a result that is not there yet."""
    if result.status is not ResultStatus.CREATED:
        raise Internal(f"result {result.key}: what is {result.status.name} keeps its owner")
    result.owner = owner
    tables.update_result(result)


def move_session(tables: TaskTables, session: SessionRow, after: SessionStatus, now_s: float) -> None:
    """Cancel a session.

    Raises
    ------
    Internal
        If it is canceled already.
    """
    if session.status is not SessionStatus.RUNNING or after is not SessionStatus.CANCELED:
        raise Internal(f"session {session.id}: {session.status.name} does not become {after.name}")
    session.status = after
    session.canceled_s = now_s
    tables.update_session(session)
    tables.note(SessionChange(session.number, after))
