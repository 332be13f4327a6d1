"""How many tasks of a session have which status, counted as they change."""

from __future__ import annotations

import sqlite3

from runtime.store.sqlite.retention_tables import RetentionTables
from runtime.store.sqlite.task_rows import TASK_STATUS
from runtime.tasks.model import UNFINISHED, TaskStatus

__all__ = ["COUNT", "TaskCounters"]

COUNT = (
    "INSERT INTO task_counts VALUES (?, ?, ?)"
    " ON CONFLICT (session, status) DO UPDATE SET tasks = tasks + excluded.tasks"
)
"""Adds a change to the number of a session's tasks with a status: session, status and change."""


class TaskCounters(RetentionTables):
    """See `runtime.store.tasks.TaskTables` for what each method is for."""

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        super().__init__(connection, epoch)
        self._counted: dict[tuple[int, int], int] = {}
        self._kept_counts: dict[tuple[int, int], int] = {}

    def count(self, session: int, status: TaskStatus, change: int) -> None:
        counted = self._counted
        key = (session, status)
        counted[key] = counted.get(key, 0) + change

    def counts(self, session: int) -> dict[TaskStatus, int]:
        query = "SELECT status, tasks FROM task_counts WHERE session = ? AND tasks > 0 ORDER BY status"
        return {TASK_STATUS[status]: number for status, number in self._execute(query, (session,))}

    def num_unfinished(self, session: int) -> int:
        # Earlier writes of this group may not be in the table yet.
        found = {int(status): number for status, number in self.counts(session).items()}
        for counted in (self._kept_counts, self._counted):
            for (one, status), change in counted.items():
                if one == session:
                    found[status] = found.get(status, 0) + change
        return sum(number for status, number in found.items() if status in UNFINISHED)

    def all_counts(self) -> dict[tuple[int, TaskStatus], int]:
        rows = self._execute("SELECT session, status, tasks FROM task_counts WHERE tasks > 0")
        return {(session, TASK_STATUS[status]): number for session, status, number in rows}

    def total_counts(self) -> dict[TaskStatus, int]:
        rows = self._execute("SELECT status, sum(tasks) FROM task_counts WHERE tasks > 0 GROUP BY status")
        return {TASK_STATUS[status]: number for status, number in rows}

    def recount(self) -> dict[tuple[int, TaskStatus], int]:
        rows = self._execute("SELECT session, status, count(*) FROM tasks GROUP BY session, status")
        return {(session, TASK_STATUS[status]): number for session, status, number in rows}

    # What is in memory during a group

    def keep(self) -> None:
        super().keep()
        if self._counted:
            kept = self._kept_counts
            for key, change in self._counted.items():
                kept[key] = kept.get(key, 0) + change
            self._counted = {}

    def drop(self) -> None:
        super().drop()
        self._counted = {}

    def flush(self) -> None:
        super().flush()
        if self._kept_counts:
            changes = [(session, status, change) for (session, status), change in self._kept_counts.items() if change]
            self._kept_counts = {}
            self._many(COUNT, changes)

    def discard(self) -> None:
        super().discard()
        self._counted, self._kept_counts = {}, {}
