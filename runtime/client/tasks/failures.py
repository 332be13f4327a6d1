"""What a task's failure is to whoever waits for its result."""

from __future__ import annotations

from typing import Any

from runtime.errors import Aborted
from runtime.tasks.model import TaskStatus

__all__ = ["TaskCanceled", "TaskFailed", "failure_of", "failure_with"]


class TaskFailed(Aborted):
    """A task ended without its results.

    Attributes
    ----------
    task_id : str
        Of the attempt that ended last.
    status : str
        ``ERROR``, ``TIMEOUT``, ``CANCELED``, ...
    details : str
        What the worker said, its traceback for instance, or what was in the task's way.
    """

    def __init__(self, task_id: str, status: str, details: str) -> None:
        super().__init__(f"task {task_id!r} ended with {status}: {details}" if details else
                         f"task {task_id!r} ended with {status}")
        self.task_id = task_id
        self.status = status
        self.details = details

    def __reduce__(self) -> Any:
        return type(self), (self.task_id, self.status, self.details)


class TaskCanceled(TaskFailed):
    """A task was canceled before it had made its results."""


def failure_of(error: Any) -> TaskFailed:
    """Return the exception for a ``TaskError`` message."""
    statuses = [_name(entry.task_status) for entry in error.errors]
    status = statuses[-1] if statuses else "ERROR"
    details = "\n".join(entry.detail for entry in error.errors if entry.detail)
    return failure_with(error.task_id, status, details)


def failure_with(task_id: str, status: str, details: str) -> TaskFailed:
    """Return the exception for a task that ended with a status."""
    kind = TaskCanceled if status in ("CANCELED", "CANCELING") else TaskFailed
    return kind(task_id, status, details)


def _name(number: int) -> str:
    try:
        return TaskStatus(number).name
    except ValueError:
        return f"status {number}"
