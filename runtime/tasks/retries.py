"""The end of an attempt that its worker has not answered: a further attempt, as long as there is one left."""

from __future__ import annotations

from runtime.store.tasks import TaskTables
from runtime.tasks import cancellation, propagation, transitions
from runtime.tasks.delays import NO_DELAY, Delayed, RetryDelay
from runtime.tasks.model import FailureKind, ResultStatus, SessionStatus, TaskRow, TaskStatus

__all__ = ["attempt_id", "fail"]


def attempt_id(initial_id: str, attempt: int) -> str:
    """Return the id of an attempt; the first, number 0, has the one that the client gave."""
    return f"{initial_id}###{attempt}" if attempt else initial_id


def fail(
    tables: TaskTables, task: TaskRow, kind: FailureKind, text: str, now_s: float, delay: RetryDelay = NO_DELAY
) -> TaskRow | None:
    """End a DISPATCHED or PROCESSING attempt that failed, and queue its successor, some time later as ``delay`` says.

    Returns
    -------
    TaskRow or None
        The successor, if there is one.
    """
    after = TaskStatus.TIMEOUT if kind is FailureKind.TIMEOUT else TaskStatus.ERROR
    successor = None if kind is FailureKind.PROTOCOL else _successor(tables, task, now_s, delay)
    task.error = text
    if successor is None:
        transitions.move_task(tables, task, after, now_s=now_s)
        cancellation.cancel_children(tables, task, now_s)
        propagation.abort_owned(tables, task, now_s)
        propagation.drop_payload(tables, task)
        return None
    task.next = successor.number
    transitions.move_task(tables, task, after, now_s=now_s)
    cancellation.cancel_children(tables, task, now_s)
    transitions.add_tasks(tables, [successor])
    for key in tables.spec(task.spec).expected_keys:
        result = tables.result(task.session, key)
        if result is not None and result.owner == task.number and result.status is ResultStatus.CREATED:
            transitions.hand_over(tables, result, successor.number)
    return successor


def _successor(tables: TaskTables, task: TaskRow, now_s: float, delay: RetryDelay) -> TaskRow | None:
    """Return the next attempt as it is to be inserted; None when this was the last."""
    if task.attempt >= task.max_retries or tables.session(task.session).status is not SessionStatus.RUNNING:
        return None
    initial = task if task.attempt == 0 else tables.task(task.spec)
    successor_id = attempt_id(initial.id, task.attempt + 1)
    if tables.task_by_id(successor_id) is not None:
        # A client has given this very id to a task of its own.
        return None
    number = tables.number()
    wait_s = delay.before(task.attempt + 1)
    if wait_s > 0:
        tables.delay(number, now_s + wait_s)
        tables.note(Delayed(now_s + wait_s))
    # All its dependencies are completed, or the attempt before it would not have been acquired.
    return TaskRow(
        number,
        successor_id,
        task.session,
        task.spec,
        task.attempt + 1,
        task.priority,
        task.max_retries,
        TaskStatus.SUBMITTED,
        # Time is the one thing that it may wait for.
        missing=int(wait_s > 0),
        place=0 if wait_s > 0 else tables.number(),
        created_s=now_s,
        submitted_s=now_s,
    )
