"""Cancelling: at once what is not running, and by way of its agent what is."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.errors import NotFound
from runtime.store.tasks import TaskTables
from runtime.tasks import propagation, transitions
from runtime.tasks.model import RUNNING, TERMINAL, SessionStatus, TaskRow, TaskStatus

__all__ = ["CANCELED_TEXT", "begin_session", "cancel_children", "cancel_tasks", "end_canceling"]

CANCELED_TEXT = "task canceled"


def begin_session(tables: TaskTables, session_id: str, now_s: float) -> int:
    """Cancel a session, not yet its tasks; return its number.

    Raises
    ------
    NotFound
        It does not exist or is canceled already.
    """
    session = tables.session_by_id(session_id)
    if session is None or session.status is not SessionStatus.RUNNING:
        state = "not known" if session is None else "canceled already"
        raise NotFound(f"session {session_id!r} is {state}")
    transitions.move_session(tables, session, SessionStatus.CANCELED, now_s)
    return session.number


def cancel_tasks(tables: TaskTables, numbers: Iterable[int], now_s: float) -> None:
    """Cancel those of the tasks that have not ended, and the newest attempt of those that have a further one."""
    for number in numbers:
        task = tables.find_task(number)
        while task is not None and task.status in TERMINAL and task.next:
            task = tables.find_task(task.next)
        # One that is gone went with its session since the numbers were looked up.
        if task is not None and task.status not in TERMINAL:
            _cancel(tables, task, now_s)


def _cancel(tables: TaskTables, task: TaskRow, now_s: float) -> None:
    if task.status is TaskStatus.CREATING:
        task.error = CANCELED_TEXT
        transitions.move_task(tables, task, TaskStatus.CANCELED, now_s=now_s)
        propagation.drop_payload(tables, task)
    elif task.status is TaskStatus.SUBMITTED:
        tables.drop_waiting(task.session, tables.spec(task.spec).dependencies, task.number)
        _end(tables, task, TaskStatus.CANCELING, TaskStatus.CANCELED, now_s=now_s)
    elif task.status in RUNNING:
        transitions.move_task(tables, task, TaskStatus.CANCELING, now_s=now_s)


def end_canceling(tables: TaskTables, task: TaskRow, now_s: float) -> None:
    """End a CANCELING task: nothing of it runs any more."""
    _end(tables, task, TaskStatus.CANCELED, now_s=now_s)


def _end(tables: TaskTables, task: TaskRow, *path: TaskStatus, now_s: float) -> None:
    task.error = CANCELED_TEXT
    transitions.move_task(tables, task, *path, now_s=now_s)
    cancel_children(tables, task, now_s)
    propagation.abort_owned(tables, task, now_s)
    propagation.drop_payload(tables, task)


def cancel_children(tables: TaskTables, task: TaskRow, now_s: float) -> None:
    """Cancel the subtasks that a task has asked for and that were never queued."""
    for child in tables.staged_children(task.number):
        _cancel(tables, child, now_s)
