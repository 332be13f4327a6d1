"""How attempts end under a lease: functions on the rows, run inside of one write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runtime.objects.value import ObjectRef, Value
from runtime.store.tasks import TaskTables
from runtime.tasks import cancellation, completion, retries, transitions
from runtime.tasks.delays import RetryDelay
from runtime.tasks.leases import Lease, LeaseLost
from runtime.tasks.model import RUNNING, FailureKind, TaskRow, TaskStatus

__all__ = ["end_leased", "fail_lost", "leased", "release", "succeed", "succeed_all"]


def leased(tables: TaskTables, lease: Lease) -> TaskRow:
    """Return the row of a leased task.

    Raises
    ------
    LeaseLost
        If the lease is not the task's last, the attempt has ended, or its session is gone.
    """
    task = tables.find_task(lease.number)
    if (
        task is None
        or task.fence != lease.fence
        or (task.status not in RUNNING and task.status is not TaskStatus.CANCELING)
    ):
        raise LeaseLost(f"task {lease.task.id!r}: the lease of agent {lease.owner!r} has ended")
    return task


def end_leased(
    tables: TaskTables, lease: Lease, end: Callable[[TaskTables, TaskRow, float], None], now_s: float
) -> TaskStatus:
    """End an attempt by ``end``, or cancel it if it is to be canceled; return its status. Raises LeaseLost."""
    task = leased(tables, lease)
    if task.status is TaskStatus.CANCELING:
        cancellation.end_canceling(tables, task, now_s)
    else:
        if task.status is TaskStatus.DISPATCHED and lease.started_s is not None:
            transitions.began(task, lease.started_s)
        end(tables, task, now_s)
    return task.status


def succeed(tables: TaskTables, lease: Lease, values: Mapping[str, Value], now_s: float) -> TaskStatus:
    """Record an attempt's success; return its status. Raises LeaseLost."""

    def end(tables: TaskTables, task: TaskRow, now_s: float) -> None:
        completion.succeed(tables, task, values, now_s, has_subtasks=lease.has_subtasks)

    return end_leased(tables, lease, end, now_s)


def succeed_all(
    tables: TaskTables, ended: Sequence[tuple[Lease, Mapping[str, Value]]], now_s: float
) -> list[Lease]:
    """Record the success of many attempts, of simple ones together; return the leases that are lost."""
    simple: list[transitions.Completion] = []
    payloads: list[tuple[int, ObjectRef]] = []
    lost: list[Lease] = []
    standing = tables.standing([lease.number for lease, _ in ended])
    for lease, values in ended:
        fence, status = standing.get(lease.number, (0, TaskStatus.CANCELED))
        if fence == lease.fence and status in RUNNING and _is_simple(lease, values):
            ((key, value),) = values.items()
            started_s = now_s if lease.started_s is None else lease.started_s
            simple.append(
                transitions.Completion(
                    lease.session_number, lease.number, lease.task.id, status, started_s, key, value
                )
            )
            if lease.task.payload.ref is not None:
                payloads.append((lease.number, lease.task.payload.ref))
            continue
        try:
            succeed(tables, lease, values, now_s)
        except LeaseLost:
            lost.append(lease)
    if simple:
        completion.succeed_simply(tables, simple, payloads, now_s)
    return lost


def _is_simple(lease: Lease, values: Mapping[str, Value]) -> bool:
    """Return whether an attempt has made its only result, and nothing else is to be seen to."""
    task = lease.task
    keys = task.expected_keys
    return (
        task.attempt == 0
        and not lease.has_subtasks
        and len(values) == len(keys) == 1
        and keys[0] in values
    )


def release(tables: TaskTables, task: TaskRow, now_s: float) -> None:
    """Put a task back into the queue, as if nobody had acquired it."""
    cancellation.cancel_children(tables, task, now_s)
    transitions.move_task(tables, task, TaskStatus.SUBMITTED, now_s=now_s)


def fail_lost(tables: TaskTables, lease: Lease, text: str, now_s: float, delay: RetryDelay) -> TaskStatus:
    """End the attempt of an agent that is given up, unless it has ended; return its status."""
    task = tables.find_task(lease.number)
    if task is None:
        return TaskStatus.CANCELED
    if task.fence != lease.fence:
        return task.status
    if task.status is TaskStatus.CANCELING:
        cancellation.end_canceling(tables, task, now_s)
    elif task.status in RUNNING:
        retries.fail(tables, task, FailureKind.CALL, text, now_s, delay)
    return task.status
