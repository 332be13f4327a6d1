"""Sessions, and the options that they and their tasks have; the rest of a task plane's rows builds on it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import ClassVar

from runtime.store.sqlite.object_tables import ObjectTables
from runtime.store.sqlite.task_rows import marks, pieces, status_condition
from runtime.tasks.model import SessionRow, SessionStatus, TaskOptions

__all__ = ["OPTION_USES_SCHEMA", "SessionTables"]

OPTION_USES_SCHEMA = (
    # Which sessions refer to options, by their own row or a task's: options go with the last of them.
    """CREATE TABLE option_uses (
        session INTEGER NOT NULL, options INTEGER NOT NULL, PRIMARY KEY (session, options)) WITHOUT ROWID""",
    "CREATE INDEX option_uses_by_options ON option_uses (options)",
    "INSERT INTO option_uses SELECT number, options FROM sessions UNION SELECT session, options FROM specs",
    "DELETE FROM options WHERE number NOT IN (SELECT options FROM option_uses)",
)
"""The third version of the task plane's tables."""

_SESSION = "number, id, status, options, created, canceled"
# Options that are kept at hand; sessions share few.
_OPTIONS_KEPT = 4096
# Sessions, and options of sessions, that are remembered.
_REMEMBERED = 1024


class SessionTables(ObjectTables):
    """See `runtime.store.tasks.TaskTables` for what each method is for."""

    PLANE: ClassVar[str] = "tasks"

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        super().__init__(connection, epoch)
        self._execute = connection.execute
        self._many = connection.executemany
        self._options: dict[int, TaskOptions] = {}
        # What every creation asks for and few writes change. Only the writer, which has an epoch, knows of all changes.
        self._remembers = epoch > 0
        self._sessions: dict[str, SessionRow] = {}
        self._stored_options: dict[tuple[object, ...], int] = {}

    def drop(self) -> None:
        super().drop()
        self._forget()

    def discard(self) -> None:
        super().discard()
        self._forget()

    def _forget(self) -> None:
        """Remember nothing of sessions and of which options they have."""
        self._sessions.clear()
        self._stored_options.clear()

    def session_by_id(self, session_id: str) -> SessionRow | None:
        found = self._sessions.get(session_id)
        if found is None:
            found = self._session("id", session_id)
            if found is not None and self._remembers:
                if len(self._sessions) >= _REMEMBERED:
                    self._sessions.clear()
                self._sessions[session_id] = found
        return found

    def session(self, number: int) -> SessionRow:
        row = self._session("number", number)
        assert row is not None, f"no session has number {number}"
        return row

    def _session(self, column: str, value: object) -> SessionRow | None:
        row = self._execute(f"SELECT {_SESSION} FROM sessions WHERE {column} = ?", (value,)).fetchone()
        if row is None:
            return None
        return SessionRow(row[0], row[1], SessionStatus(row[2]), row[3], row[4], row[5])

    def insert_session(self, row: SessionRow) -> None:
        self._forget()
        self._execute(
            f"INSERT INTO sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?)",
            (row.number, row.id, int(row.status), row.options_number, row.created_s, row.canceled_s),
        )

    def update_session(self, row: SessionRow) -> None:
        self._forget()
        self._execute(
            "UPDATE sessions SET status = ?, canceled = ? WHERE number = ?",
            (int(row.status), row.canceled_s, row.number),
        )

    def session_ids(
        self, ids: Sequence[str], included: frozenset[int] | None, excluded: frozenset[int] | None
    ) -> list[str]:
        condition = status_condition(included, excluded)
        if not ids:
            return [row[0] for row in self._execute(f"SELECT id FROM sessions WHERE {condition} ORDER BY number")]
        found: dict[int, str] = {}
        for some in pieces(list(dict.fromkeys(ids))):
            query = f"SELECT number, id FROM sessions WHERE id IN ({marks(some)}) AND {condition}"
            found.update(self._execute(query, some))
        return [found[number] for number in sorted(found)]

    def store_options(self, options: TaskOptions, session: int) -> int:
        entries = json.dumps(dict(sorted(options.entries.items())), ensure_ascii=False) if options.entries else "{}"
        content = (options.priority, options.max_duration_ns, options.max_retries, entries)
        known = self._stored_options.get((session, *content))
        if known is not None:
            return known
        row = self._execute(
            "SELECT number FROM options WHERE priority = ? AND max_duration = ? AND max_retries = ? AND entries = ?",
            content,
        ).fetchone()
        if row is not None:
            number = int(row[0])
        else:
            number = self.number()
            self._execute(
                "INSERT INTO options (number, priority, max_duration, max_retries, entries) VALUES (?, ?, ?, ?, ?)",
                (number, *content),
            )
        self._execute("INSERT OR IGNORE INTO option_uses VALUES (?, ?)", (session, number))
        if self._remembers:
            if len(self._stored_options) >= _REMEMBERED:
                self._stored_options.clear()
            self._stored_options[session, *content] = number
        return number

    def _leave_options(self, session: int, limit: int) -> int:
        """End the use of up to ``limit`` options by a session that has no rows any more; return how many there were."""
        self._forget()
        query = "SELECT options FROM option_uses WHERE session = ? LIMIT ?"
        used = self._execute(query, (session, limit)).fetchall()
        if used:
            self._many("DELETE FROM option_uses WHERE session = ? AND options = ?", [(session, *row) for row in used])
            self._many(
                "DELETE FROM options WHERE number = ?1 AND NOT EXISTS (SELECT 1 FROM option_uses WHERE options = ?1)",
                used,
            )
        return len(used)

    def options(self, number: int) -> TaskOptions:
        options = self._options.get(number)
        if options is None:
            duration, retries, priority, entries = self._execute(
                "SELECT max_duration, max_retries, priority, entries FROM options WHERE number = ?", (number,)
            ).fetchone()
            options = TaskOptions(duration, retries, priority, json.loads(entries))
            if len(self._options) >= _OPTIONS_KEPT:
                self._options.clear()
            self._options[number] = options
        return options
