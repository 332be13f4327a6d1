"""What follows when results come, or will never come: dependents get ready, or end without having run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from runtime.store.tasks import TaskTables
from runtime.tasks import transitions
from runtime.tasks.model import ResultStatus, TaskRow, TaskStatus

__all__ = ["ABORTED_INPUT", "abort_dependents", "abort_owned", "complete", "drop_payload", "miss_one_less"]

ABORTED_INPUT = "One of the input data is aborted."


def complete(tables: TaskTables, session: int, key: str) -> None:
    """Tell those who wait for a key that is now COMPLETED; who misses nothing more takes its place in the queue."""
    for number in tables.take_waiting(session, key):
        miss_one_less(tables, tables.task(number))


def miss_one_less(tables: TaskTables, task: TaskRow) -> None:
    """Count down what a queued task waits for, and let it take its place at the end of the queue when that was all."""
    task.missing -= 1
    is_ready = task.missing == 0 and task.status is TaskStatus.SUBMITTED
    if is_ready:
        task.place = tables.number()
    tables.update_task(task)
    if is_ready:
        tables.note(
            transitions.TaskChange(
                task.session, task.number, task.id, TaskStatus.SUBMITTED, TaskStatus.SUBMITTED, True, task.next != 0
            )
        )


def abort_owned(tables: TaskTables, task: TaskRow, now_s: float) -> None:
    """Abort the results that a task still owes, and end the tasks that depend on them, and so on."""
    _abort(tables, deque([task]), now_s)


def abort_dependents(tables: TaskTables, tasks: Iterable[TaskRow], now_s: float) -> None:
    """End queued tasks whose input is aborted, and those that depend on them."""
    _abort(tables, deque(), now_s, tasks)


def _abort(tables: TaskTables, ended: deque[TaskRow], now_s: float, failing: Iterable[TaskRow] = ()) -> None:
    for task in failing:
        if _end(tables, task, now_s):
            ended.append(task)
    while ended:
        task = ended.popleft()
        for key in tables.spec(task.spec).expected_keys:
            result = tables.result(task.session, key)
            if result is None or result.owner != task.number or result.status is not ResultStatus.CREATED:
                continue
            transitions.move_result(tables, result, ResultStatus.ABORTED)
            for number in tables.take_waiting(task.session, key):
                dependent = tables.task(number)
                if _end(tables, dependent, now_s):
                    ended.append(dependent)


def _end(tables: TaskTables, task: TaskRow, now_s: float) -> bool:
    """End a task whose input is aborted; False if it has ended before, or has not been submitted."""
    if task.status is not TaskStatus.SUBMITTED:
        return False
    spec = tables.spec(task.spec)
    tables.drop_waiting(task.session, spec.dependencies, task.number)
    task.error = ABORTED_INPUT
    transitions.move_task(tables, task, TaskStatus.ERROR, now_s=now_s)
    drop_payload(tables, task)
    return True


def drop_payload(tables: TaskTables, task: TaskRow) -> None:
    """Let the payload's object go: no further attempt will read it."""
    ref = tables.spec(task.spec).payload.ref
    if ref is not None:
        tables.release(ref)
        tables.forget_payload(task.spec)
