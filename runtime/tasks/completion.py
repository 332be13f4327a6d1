"""The end of an attempt that its worker has answered: everything it made becomes visible in one step, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.objects.value import ObjectRef, Value
from runtime.store.tasks import TaskTables
from runtime.tasks import cancellation, propagation, transitions
from runtime.tasks.creation import Refused, submit_subtasks
from runtime.tasks.model import ResultStatus, TaskRow, TaskStatus

__all__ = ["end_with_error", "succeed", "succeed_simply"]


def succeed(
    tables: TaskTables, task: TaskRow, values: Mapping[str, Value], now_s: float, *, has_subtasks: bool = True
) -> None:
    """Commit a PROCESSING task with its results and subtasks; it ends in ERROR when it gave what is not its own.

    Parameters
    ----------
    values : mapping of str to Value
        By key; their objects, if any, are durable already.
    has_subtasks : bool
        False: it has staged none.
    """
    session = task.session
    keys = tables.spec(task.spec).expected_keys
    children = tables.staged_children(task.number) if has_subtasks else []
    handed_over = {key for child in children for key in tables.spec(child.spec).expected_keys}
    owned = {}
    for key in values:
        result = tables.result(session, key) if key not in handed_over else None
        if result is None or result.owner != task.number or result.status is not ResultStatus.CREATED:
            return end_with_error(tables, task, f"result {key!r} does not belong to task {task.id!r}", now_s)
        owned[key] = result
    try:
        submit_subtasks(tables, task, children, now_s)
    except Refused as refused:
        text = f"subtask {refused.ids[0]!r} claims a result that belongs to another task meanwhile"
        return end_with_error(tables, task, text, now_s)
    for key, result in owned.items():
        transitions.move_result(tables, result, ResultStatus.COMPLETED, values[key])
        propagation.complete(tables, session, key)
    left = [key for key in keys if key not in owned and key not in handed_over]
    if left:
        # A retry does not own what its predecessor has handed over.
        results = [tables.result(session, key) for key in left]
        left = [result.key for result in results if result is not None and result.owner == task.number]
    if left:
        task.error = f"the task ended without its result{'s' if len(left) > 1 else ''} {', '.join(map(repr, left))}"
    transitions.move_task(tables, task, TaskStatus.COMPLETED, now_s=now_s)
    if left:
        propagation.abort_owned(tables, task, now_s)
    propagation.drop_payload(tables, task)


def succeed_simply(
    tables: TaskTables,
    done: Sequence[transitions.Completion],
    payloads: Sequence[tuple[int, ObjectRef]],
    now_s: float,
) -> None:
    """Commit first attempts with their only results, of values without objects; none of them has subtasks.

    As `succeed` for each, with few statements for all of them.

    Parameters
    ----------
    payloads : sequence of (int, ObjectRef)
        Those that are objects, by the numbers of their tasks.
    """
    transitions.complete_all(tables, done, now_s)
    for number, ref in payloads:
        # The specification of a first attempt has the attempt's own number.
        tables.release(ref)
        tables.forget_payload(number)
    is_awaited: dict[int, bool] = {}
    for one in done:
        session = one.session
        if session not in is_awaited:
            is_awaited[session] = tables.has_waiting(session)
        if is_awaited[session]:
            propagation.complete(tables, session, one.key)


def end_with_error(tables: TaskTables, task: TaskRow, text: str, now_s: float) -> None:
    """End an attempt in ERROR for good: its results are aborted, its subtasks never run."""
    task.error = text
    transitions.move_task(tables, task, TaskStatus.ERROR, now_s=now_s)
    cancellation.cancel_children(tables, task, now_s)
    propagation.abort_owned(tables, task, now_s)
    propagation.drop_payload(tables, task)
