"""What is asked of many tasks and results at a time: pages, selections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.objects.value import Value
from runtime.store.sqlite.task_queue import TaskQueue
from runtime.store.sqlite.task_rows import (
    RESULT,
    TASK,
    TASK_STATUS,
    marks,
    pieces,
    result_row,
    status_condition,
    task_row,
)
from runtime.store.tasks import TaskSelection
from runtime.tasks.model import ResultRow, TaskRow, TaskStatus

__all__ = ["TaskQueries"]


class TaskQueries(TaskQueue):
    """See `runtime.store.tasks.TaskTables` for what each method is for."""

    # Pages of them

    def task_page(self, session: int | None, statuses: Sequence[int], after: int, limit: int) -> list[TaskRow]:
        self._write_taken()
        where, values = ["number > ?"], [after]
        if session is not None:
            where.append("session = ?")
            values.append(session)
        if statuses:
            where.append(f"status IN ({', '.join('?' * len(statuses))})")
            values += statuses
        query = f"SELECT {TASK} FROM tasks WHERE {' AND '.join(where)} ORDER BY number LIMIT ?"
        return [task_row(row) for row in self._execute(query, (*values, limit)).fetchall()]

    def result_page(
        self, session: int, statuses: Sequence[int], after: int, limit: int
    ) -> list[tuple[int, ResultRow]]:
        where = "number > ? AND session = ?"
        if statuses:
            where += f" AND status IN ({', '.join('?' * len(statuses))})"
        query = f"SELECT number, {RESULT} FROM results WHERE {where} ORDER BY number LIMIT ?"
        rows = self._execute(query, (after, session, *statuses, limit)).fetchall()
        return [(row[0], result_row(row[1:])) for row in rows]

    def owned_tasks(self) -> list[TaskRow]:
        self._write_taken()
        query = f"SELECT {TASK} FROM tasks WHERE owner <> '' ORDER BY number"
        return [task_row(row) for row in self._execute(query).fetchall()]

    # Many rows

    def task_ids(self, selection: TaskSelection) -> list[str]:
        return [row[1] for row in self._selected("tasks.number, tasks.id", selection)]

    def task_numbers(self, selection: TaskSelection) -> list[int]:
        return [row[0] for row in self._selected("tasks.number", selection)]

    def canceled_sessions_left(self) -> list[tuple[int, str]]:
        return self._execute(
            "SELECT DISTINCT sessions.number, sessions.id FROM task_counts JOIN sessions ON sessions.number = session"
            " WHERE sessions.status = 2 AND task_counts.status IN (1, 2, 3, 10) AND tasks > 0"
        ).fetchall()

    def task_counts(self, selection: TaskSelection) -> dict[TaskStatus, int]:
        self._write_taken()
        found: dict[TaskStatus, int] = {}
        condition = status_condition(selection.included, selection.excluded)
        if selection.sessions is not None:
            parts = pieces(list(dict.fromkeys(selection.sessions)))
            query = (
                "SELECT task_counts.status, sum(tasks) FROM sessions JOIN task_counts ON session = sessions.number"
                f" WHERE sessions.id IN (%s) AND task_counts.{condition} AND tasks > 0 GROUP BY task_counts.status"
            )
        else:
            parts = pieces(list(dict.fromkeys(selection.tasks or ())))
            query = f"SELECT status, count(*) FROM tasks WHERE id IN (%s) AND {condition} GROUP BY status"
        for some in parts:
            for status, number in self._execute(query % marks(some), some):
                found[TASK_STATUS[status]] = found.get(TASK_STATUS[status], 0) + number
        return dict(sorted(found.items()))

    def superseded(self, selection: TaskSelection) -> list[TaskRow]:
        return [task_row(row) for row in self._selected(TASK, selection, "AND next <> 0")]

    def _selected(self, columns: str, selection: TaskSelection, also: str = "") -> list[Sequence[Any]]:
        self._write_taken()
        condition = f"{status_condition(selection.included, selection.excluded)} {also}"
        rows: list[Sequence[Any]] = []
        if selection.sessions is not None:
            query = (
                f"SELECT {columns} FROM sessions JOIN tasks ON tasks.session = sessions.number"
                f" WHERE sessions.id IN (%s) AND tasks.{condition}"
            )
            parts = pieces(list(dict.fromkeys(selection.sessions)))
        else:
            query = f"SELECT {columns} FROM tasks WHERE id IN (%s) AND {condition}"
            parts = pieces(list(dict.fromkeys(selection.tasks or ())))
        for some in parts:
            rows += self._execute(query % marks(some), some).fetchall()
        rows.sort(key=lambda row: row[0])
        return rows

    def task_statuses(self, ids: Sequence[str]) -> dict[str, TaskStatus]:
        self._write_taken()
        found: dict[str, int] = {}
        asked = list(dict.fromkeys(ids))
        for some in pieces(asked):
            found.update(self._execute(f"SELECT id, status FROM tasks WHERE id IN ({marks(some)})", some))
        return {task_id: TASK_STATUS[found[task_id]] for task_id in asked if task_id in found}

    def results(self, session: int, keys: Sequence[str]) -> list[ResultRow]:
        found: dict[str, ResultRow] = {}
        asked = list(dict.fromkeys(keys))
        for some in pieces(asked):
            query = f"SELECT {RESULT} FROM results WHERE session = ? AND key IN ({marks(some)})"
            found.update((row[1], result_row(row)) for row in self._execute(query, (session, *some)))
        return [found[key] for key in asked if key in found]

    def settled(self, session: int, keys: Sequence[str]) -> tuple[dict[str, Value | None], list[str]]:
        settled: dict[str, Value | None] = {}
        unknown: list[str] = []
        for some in pieces(list(keys)):
            # A value is at hand when it is there and in no object; NULL says that a result is not settled.
            query = (
                "SELECT key, CASE status WHEN 1 THEN NULL ELSE status = 2 AND digest IS NULL END,"
                f" CASE status WHEN 2 THEN data END FROM results WHERE session = ? AND key IN ({marks(some)})"
            )
            rows = self._execute(query, (session, *some)).fetchall()
            for key, is_at_hand, data in rows:
                if is_at_hand is not None:
                    settled[key] = Value(data or b"") if is_at_hand else None
            if len(rows) < len(some):
                found = {row[0] for row in rows}
                unknown += [key for key in some if key not in found]
        return settled, unknown
