"""Columns of the task plane's tables and the rows that they are elsewhere; parts of conditions on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from runtime.objects.value import Value
from runtime.store.sqlite.object_tables import value_of
from runtime.tasks.model import ResultRow, ResultStatus, SpecRow, TaskRow, TaskStatus

__all__ = [
    "MANY",
    "RESULT",
    "TASK",
    "TASK_STATUS",
    "keys_text",
    "marks",
    "pieces",
    "result_row",
    "spec_row",
    "status_condition",
    "task_row",
]

TASK = (
    "tasks.number, tasks.id, tasks.session, tasks.spec, tasks.attempt, tasks.priority, tasks.max_retries, tasks.status,"
    " tasks.missing, tasks.place, tasks.fence, tasks.owner, tasks.next, tasks.created, tasks.submitted, tasks.started,"
    " tasks.ended, tasks.error"
)
RESULT = "session, key, owner, status, created, data, digest, size, crc"
TASK_STATUS = {int(status): status for status in TaskStatus}
_RESULT_STATUS = {int(status): status for status in ResultStatus}
# The most parameters that a statement is given.
MANY = 500


def task_row(row: Sequence[Any]) -> TaskRow:
    """Return the attempt that the columns `TASK` say."""
    task = TaskRow(*row)
    task.status = TASK_STATUS[row[7]]
    return task


def spec_row(row: Sequence[Any]) -> SpecRow:
    """Return the specification that all columns of its table say."""
    number, session, options, parent, keys, dependencies, data, digest, size, crc = row
    value = Value(data or b"") if digest is None else value_of(data, digest, size, crc)
    return SpecRow(number, session, options, parent, _keys_of(keys), _keys_of(dependencies), value)


def result_row(row: Sequence[Any]) -> ResultRow:
    """Return the result that the columns `RESULT` say."""
    return ResultRow(row[0], row[1], row[2], _RESULT_STATUS[row[3]], row[4], value_of(*row[5:9]))


def keys_text(keys: Sequence[str]) -> str:
    """Return what a column of keys has for these."""
    if not keys:
        return ""
    if len(keys) == 1:
        # Most tasks have one key, and most keys are written as they are; the encoder takes as long as an insertion.
        key = keys[0]
        if key.isprintable() and '"' not in key and "\\" not in key:
            return f'["{key}"]'
    return json.dumps(keys, ensure_ascii=False)


def _keys_of(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    if text.count('"') == 2 and "\\" not in text:
        return (text[2:-2],)
    return tuple(json.loads(text))


def marks(values: Sequence[object]) -> str:
    """Return a question mark for each value."""
    return ",".join("?" * len(values))


def pieces(values: list[str]) -> list[list[str]]:
    """Return the values in parts that a statement takes as parameters."""
    return [values[start : start + MANY] for start in range(0, len(values), MANY)]


def status_condition(included: frozenset[int] | None, excluded: frozenset[int] | None) -> str:
    """Return the condition on a column ``status``; numbers come from enumerations or from the wire's integers."""
    if included is not None:
        return f"status IN ({','.join(str(int(status)) for status in sorted(included))})"
    if excluded is not None:
        return f"status NOT IN ({','.join(str(int(status)) for status in sorted(excluded))})"
    return "status IS NOT NULL"
