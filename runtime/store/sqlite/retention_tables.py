"""Sessions that go, part by part, and attempts that are not due yet."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.objects.value import ObjectRef
from runtime.store.sqlite.session_tables import SessionTables
from runtime.tasks.model import UNFINISHED, TaskStatus

__all__ = ["RETENTION_SCHEMA", "RetentionTables"]

RETENTION_SCHEMA = (
    # Sessions whose own row is gone and whose other rows follow.
    "CREATE TABLE deletions (session INTEGER PRIMARY KEY)",
    "CREATE TABLE delayed (task INTEGER PRIMARY KEY, due REAL NOT NULL)",
    "CREATE INDEX delayed_by_due ON delayed (due)",
)
"""The second version of the task plane's tables."""

_UNFINISHED = ", ".join(str(int(status)) for status in sorted(UNFINISHED))


class RetentionTables(SessionTables):
    """See `runtime.store.tasks.TaskTables` for what each method is for."""

    # Sessions that are deleted

    def has_session(self, number: int) -> bool:
        found = self.connection.execute("SELECT 1 FROM sessions WHERE number = ?", (number,)).fetchone()
        return found is not None

    def last_task(self, session: int) -> int:
        (number,) = self.connection.execute("SELECT max(number) FROM tasks WHERE session = ?", (session,)).fetchone()
        return number or 0

    def quiet_sessions(self, since_s: float) -> list[tuple[int, str, int]]:
        query = (
            "SELECT number, id, (SELECT max(number) FROM tasks WHERE session = sessions.number) FROM sessions"
            " WHERE created < ? AND coalesce(canceled, created) < ?"
            " AND NOT EXISTS"
            f" (SELECT 1 FROM task_counts WHERE session = sessions.number AND tasks > 0 AND status IN ({_UNFINISHED}))"
            " AND NOT EXISTS (SELECT 1 FROM tasks WHERE session = sessions.number AND (created >= ? OR ended >= ?))"
            " ORDER BY number"
        )
        rows = self.connection.execute(query, (since_s,) * 4).fetchall()
        return [(number, session_id, last or 0) for number, session_id, last in rows]

    def begin_deletion(self, session: int) -> None:
        self._forget()
        self.connection.execute("DELETE FROM sessions WHERE number = ?", (session,))
        self.connection.execute("INSERT INTO deletions VALUES (?)", (session,))

    def deletions_left(self) -> list[int]:
        return [row[0] for row in self.connection.execute("SELECT session FROM deletions ORDER BY session")]

    def delete_part(self, session: int, limit: int) -> dict[TaskStatus, int] | None:
        execute, many = self.connection.execute, self.connection.executemany
        results = execute(
            "SELECT number, digest, size, crc FROM results WHERE session = ? LIMIT ?", (session, limit)
        ).fetchall()
        if results:
            self._release_all(results)
            many("DELETE FROM results WHERE number = ?", [row[:1] for row in results])
            return {}
        tasks = execute("SELECT number, status FROM tasks WHERE session = ? LIMIT ?", (session, limit)).fetchall()
        if not tasks:
            if self._leave_options(session, limit):
                return {}
            execute("DELETE FROM task_counts WHERE session = ?", (session,))
            execute("DELETE FROM waiting WHERE session = ?", (session,))
            execute("DELETE FROM deletions WHERE session = ?", (session,))
            return None
        removed: dict[TaskStatus, int] = {}
        for number, status in tasks:
            removed[TaskStatus(status)] = removed.get(TaskStatus(status), 0) + 1
            # Attempts after the first have none of their own.
            self._release_all(
                execute("SELECT number, digest, size, crc FROM specs WHERE number = ?", (number,)).fetchall()
            )
        numbers = [row[:1] for row in tasks]
        for table, column in (("specs", "number"), ("delayed", "task"), ("tasks", "number")):
            many(f"DELETE FROM {table} WHERE {column} = ?", numbers)
        return removed

    def _release_all(self, rows: Sequence[tuple[int, bytes | None, int, int]]) -> None:
        for _, digest, size, crc in rows:
            if digest is not None:
                self.release(ObjectRef(digest, size, crc))

    # Attempts that are not due yet

    def delay(self, task: int, due_s: float) -> None:
        self.connection.execute("INSERT INTO delayed VALUES (?, ?)", (task, due_s))

    def delayed_until(self, task: int) -> float | None:
        row = self.connection.execute("SELECT due FROM delayed WHERE task = ?", (task,)).fetchone()
        return None if row is None else float(row[0])

    def next_due(self) -> float | None:
        (due,) = self.connection.execute("SELECT min(due) FROM delayed").fetchone()
        return None if due is None else float(due)

    def take_due(self, until_s: float) -> list[int]:
        query = "DELETE FROM delayed WHERE due <= ? RETURNING task, due"
        rows = self.connection.execute(query, (until_s,)).fetchall()
        return [task for task, _ in sorted(rows, key=lambda row: (row[1], row[0]))]
