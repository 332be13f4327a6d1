"""The tables of the task plane; see `runtime.store.tasks.TaskTables` for what each method is for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

from runtime.objects.value import Value
from runtime.store.sqlite.object_tables import value_columns, value_of
from runtime.store.sqlite.retention_tables import RETENTION_SCHEMA, RetentionTables
from runtime.store.tasks import Exists, TaskSelection
from runtime.tasks.model import (
    UNFINISHED,
    ResultRow,
    ResultStatus,
    SessionRow,
    SessionStatus,
    SpecRow,
    TaskOptions,
    TaskRow,
    TaskStatus,
)

__all__ = ["SqliteTaskTables"]

_SCHEMA = (
    """CREATE TABLE sessions (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status INTEGER NOT NULL, options INTEGER NOT NULL,
        created REAL NOT NULL, canceled REAL)""",
    """CREATE TABLE options (
        number INTEGER PRIMARY KEY, max_duration INTEGER NOT NULL, max_retries INTEGER NOT NULL,
        priority INTEGER NOT NULL, entries TEXT NOT NULL,
        UNIQUE (priority, max_duration, max_retries, entries))""",
    # What never changes lies apart from what does: an update rewrites its whole row.
    """CREATE TABLE specs (
        number INTEGER PRIMARY KEY, session INTEGER NOT NULL, options INTEGER NOT NULL, parent INTEGER NOT NULL,
        expected_keys TEXT NOT NULL, dependencies TEXT NOT NULL,
        data BLOB, digest BLOB, size INTEGER NOT NULL, crc INTEGER NOT NULL)""",
    "CREATE INDEX specs_by_parent ON specs (parent) WHERE parent <> 0",
    """CREATE TABLE tasks (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL, session INTEGER NOT NULL, spec INTEGER NOT NULL,
        attempt INTEGER NOT NULL, priority INTEGER NOT NULL, max_retries INTEGER NOT NULL, status INTEGER NOT NULL,
        missing INTEGER NOT NULL, place INTEGER NOT NULL, fence INTEGER NOT NULL, owner TEXT NOT NULL,
        next INTEGER NOT NULL, created REAL NOT NULL, submitted REAL, started REAL, ended REAL, error TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX tasks_by_id ON tasks (id)",
    "CREATE INDEX tasks_by_session ON tasks (session)",
    "CREATE INDEX tasks_superseded ON tasks (session) WHERE next <> 0",
    "CREATE INDEX tasks_ready ON tasks (priority DESC, session, place) WHERE status = 2 AND missing = 0",
    "CREATE INDEX tasks_owned ON tasks (number) WHERE owner <> ''",
    """CREATE TABLE results (
        number INTEGER PRIMARY KEY, session INTEGER NOT NULL, key TEXT NOT NULL, owner INTEGER NOT NULL,
        status INTEGER NOT NULL, created REAL NOT NULL,
        data BLOB, digest BLOB, size INTEGER NOT NULL, crc INTEGER NOT NULL)""",
    "CREATE UNIQUE INDEX results_by_key ON results (session, key)",
    """CREATE TABLE waiting (
        session INTEGER NOT NULL, key TEXT NOT NULL, task INTEGER NOT NULL,
        PRIMARY KEY (session, key, task)) WITHOUT ROWID""",
    """CREATE TABLE task_counts (
        session INTEGER NOT NULL, status INTEGER NOT NULL, tasks INTEGER NOT NULL,
        PRIMARY KEY (session, status)) WITHOUT ROWID""",
)

_TASK = (
    "tasks.number, tasks.id, tasks.session, tasks.spec, tasks.attempt, tasks.priority, tasks.max_retries, tasks.status,"
    " tasks.missing, tasks.place, tasks.fence, tasks.owner, tasks.next, tasks.created, tasks.submitted, tasks.started,"
    " tasks.ended, tasks.error"
)
_RESULT = "session, key, owner, status, created, data, digest, size, crc"
_SESSION = "number, id, status, options, created, canceled"
_TASK_STATUS = {int(status): status for status in TaskStatus}
_RESULT_STATUS = {int(status): status for status in ResultStatus}
# The most parameters that a statement is given.
_MANY = 500
# Options that are kept at hand; sessions share few.
_OPTIONS_KEPT = 4096
# Specifications that are kept at hand from the start of a task to its end. Their numbers never come back, and only this
# connection lets a payload go, so none of them is ever out of date where it matters.
_SPECS_KEPT = 1024


def _task_row(row: Sequence[Any]) -> TaskRow:
    task = TaskRow(*row)
    task.status = _TASK_STATUS[row[7]]
    return task


def _spec_row(row: Sequence[Any]) -> SpecRow:
    number, session, options, parent, keys, dependencies, data, digest, size, crc = row
    value = Value(data or b"") if digest is None else value_of(data, digest, size, crc)
    return SpecRow(number, session, options, parent, _keys(keys), _keys(dependencies), value)


def _result_row(row: Sequence[Any]) -> ResultRow:
    return ResultRow(row[0], row[1], row[2], _RESULT_STATUS[row[3]], row[4], value_of(*row[5:9]))


class SqliteTaskTables(RetentionTables):
    """The rows of the task plane in SQLite."""

    PLANE: ClassVar[str] = "tasks"
    MIGRATIONS: ClassVar[Sequence[Sequence[str]]] = (_SCHEMA, RETENTION_SCHEMA)

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        super().__init__(connection, epoch)
        self._execute = connection.execute
        self._many = connection.executemany
        self._options: dict[int, TaskOptions] = {}
        self._specs: dict[int, SpecRow] = {}
        self._counted: dict[tuple[int, int], int] = {}
        self._kept_counts: dict[tuple[int, int], int] = {}

    # Sessions and options

    def session_by_id(self, session_id: str) -> SessionRow | None:
        return self._session("id", session_id)

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
        self._execute(
            f"INSERT INTO sessions ({_SESSION}) VALUES (?, ?, ?, ?, ?, ?)",
            (row.number, row.id, int(row.status), row.options_number, row.created_s, row.canceled_s),
        )

    def update_session(self, row: SessionRow) -> None:
        self._execute(
            "UPDATE sessions SET status = ?, canceled = ? WHERE number = ?",
            (int(row.status), row.canceled_s, row.number),
        )

    def session_ids(
        self, ids: Sequence[str], included: frozenset[int] | None, excluded: frozenset[int] | None
    ) -> list[str]:
        condition = _statuses(included, excluded)
        if not ids:
            return [row[0] for row in self._execute(f"SELECT id FROM sessions WHERE {condition} ORDER BY number")]
        found: dict[int, str] = {}
        for some in _pieces(list(dict.fromkeys(ids))):
            query = f"SELECT number, id FROM sessions WHERE id IN ({_marks(some)}) AND {condition}"
            found.update(self._execute(query, some))
        return [found[number] for number in sorted(found)]

    def store_options(self, options: TaskOptions) -> int:
        entries = json.dumps(dict(sorted(options.entries.items())), ensure_ascii=False)
        content = (options.priority, options.max_duration_ns, options.max_retries, entries)
        row = self._execute(
            "SELECT number FROM options WHERE priority = ? AND max_duration = ? AND max_retries = ? AND entries = ?",
            content,
        ).fetchone()
        if row is not None:
            return int(row[0])
        number = self.number()
        self._execute(
            "INSERT INTO options (number, priority, max_duration, max_retries, entries) VALUES (?, ?, ?, ?, ?)",
            (number, *content),
        )
        return number

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

    # Creation

    def insert_specs(self, rows: Iterable[SpecRow]) -> None:
        self._many(
            "INSERT INTO specs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    row.number,
                    row.session,
                    row.options_number,
                    row.parent,
                    _keys_text(row.expected_keys),
                    _keys_text(row.dependencies),
                    *value_columns(row.payload),
                )
                for row in rows
            ),
        )

    def insert_tasks(self, rows: Sequence[TaskRow]) -> None:
        try:
            self._many(
                "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        row.number,
                        row.id,
                        row.session,
                        row.spec,
                        row.attempt,
                        row.priority,
                        row.max_retries,
                        int(row.status),
                        row.missing,
                        row.place,
                        row.fence,
                        row.owner,
                        row.next,
                        row.created_s,
                        row.submitted_s,
                        row.started_s,
                        row.ended_s,
                        row.error,
                    )
                    for row in rows
                ),
            )
        except sqlite3.IntegrityError as error:
            raise Exists("a task id is in use") from error

    def insert_results(self, rows: Sequence[ResultRow]) -> None:
        try:
            self._many(
                f"INSERT INTO results ({_RESULT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (row.session, row.key, row.owner, int(row.status), row.created_s, *value_columns(row.value))
                    for row in rows
                ),
            )
        except sqlite3.IntegrityError as error:
            raise Exists("a key is in use") from error

    def known_task_ids(self, ids: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in _pieces(list(ids)):
            found.update(row[0] for row in self._execute(f"SELECT id FROM tasks WHERE id IN ({_marks(some)})", some))
        return found

    def known_keys(self, session: int, keys: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in _pieces(list(keys)):
            query = f"SELECT key FROM results WHERE session = ? AND key IN ({_marks(some)})"
            found.update(row[0] for row in self._execute(query, (session, *some)))
        return found

    # Single rows

    def task(self, number: int) -> TaskRow:
        task = self.find_task(number)
        assert task is not None, f"no task has number {number}"
        return task

    def find_task(self, number: int) -> TaskRow | None:
        row = self._execute(f"SELECT {_TASK} FROM tasks WHERE number = ?", (number,)).fetchone()
        return None if row is None else _task_row(row)

    def task_by_id(self, task_id: str) -> TaskRow | None:
        row = self._execute(f"SELECT {_TASK} FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return None if row is None else _task_row(row)

    def spec(self, number: int) -> SpecRow:
        spec = self._specs.get(number)
        if spec is None:
            spec = _spec_row(self._execute("SELECT * FROM specs WHERE number = ?", (number,)).fetchone())
            if len(self._specs) >= _SPECS_KEPT:
                self._specs.clear()
            self._specs[number] = spec
        return spec

    def specs(self, numbers: Sequence[int]) -> dict[int, SpecRow]:
        if len(numbers) == 1:
            return {numbers[0]: self.spec(numbers[0])}
        found: dict[int, SpecRow] = {}
        for start in range(0, len(numbers), _MANY):
            some = numbers[start : start + _MANY]
            for row in self._execute(f"SELECT * FROM specs WHERE number IN ({_marks(some)})", some).fetchall():
                found[row[0]] = _spec_row(row)
        return found

    def forget_payload(self, spec: int) -> None:
        self._specs.pop(spec, None)
        self._execute("UPDATE specs SET digest = NULL, size = 0 WHERE number = ?", (spec,))

    def update_task(self, row: TaskRow) -> None:
        self._execute(
            "UPDATE tasks SET status = ?, missing = ?, place = ?, fence = ?, owner = ?, next = ?, submitted = ?,"
            " started = ?, ended = ?, error = ? WHERE number = ?",
            (
                int(row.status),
                row.missing,
                row.place,
                row.fence,
                row.owner,
                row.next,
                row.submitted_s,
                row.started_s,
                row.ended_s,
                row.error,
                row.number,
            ),
        )

    def result(self, session: int, key: str) -> ResultRow | None:
        query = f"SELECT {_RESULT} FROM results WHERE session = ? AND key = ?"
        row = self._execute(query, (session, key)).fetchone()
        return None if row is None else _result_row(row)

    def update_result(self, row: ResultRow) -> None:
        self._execute(
            "UPDATE results SET owner = ?, status = ?, data = ?, digest = ?, size = ?, crc = ?"
            " WHERE session = ? AND key = ?",
            (row.owner, int(row.status), *value_columns(row.value), row.session, row.key),
        )

    def standing(self, numbers: Sequence[int]) -> dict[int, tuple[int, TaskStatus]]:
        found: dict[int, tuple[int, TaskStatus]] = {}
        for start in range(0, len(numbers), _MANY):
            some = numbers[start : start + _MANY]
            query = f"SELECT number, fence, status FROM tasks WHERE number IN ({_marks(some)})"
            for number, fence, status in self._execute(query, some).fetchall():
                found[number] = fence, _TASK_STATUS[status]
        return found

    def end_tasks(self, status: TaskStatus, rows: Sequence[tuple[float | None, float, int]]) -> None:
        self._many(
            f"UPDATE tasks SET status = {int(status)}, owner = '', started = ?, ended = ? WHERE number = ?", rows
        )

    def own_tasks(self, status: TaskStatus, owner: str, rows: Sequence[tuple[int, int]]) -> None:
        self._many(
            f"UPDATE tasks SET status = {int(status)}, owner = ?, started = NULL, fence = ? WHERE number = ?",
            [(owner, fence, number) for fence, number in rows],
        )

    def fill_results(self, status: ResultStatus, rows: Sequence[tuple[int, str, int, Value]]) -> int:
        return self._many(
            f"UPDATE results SET status = {int(status)}, data = ?, digest = ?, size = ?, crc = ?"
            " WHERE session = ? AND key = ? AND owner = ? AND status = 1",
            [(*value_columns(value), session, key, owner) for session, key, owner, value in rows],
        ).rowcount

    def staged_children(self, parent: int) -> list[TaskRow]:
        query = (
            f"SELECT {_TASK} FROM specs JOIN tasks ON tasks.number = specs.number"
            " WHERE specs.parent = ? AND specs.parent <> 0 AND tasks.status = 1 ORDER BY tasks.number"
        )
        return [_task_row(row) for row in self._execute(query, (parent,)).fetchall()]

    # Who waits for which key

    def add_waiting(self, rows: Iterable[tuple[int, str, int]]) -> None:
        self._many("INSERT INTO waiting VALUES (?, ?, ?)", rows)

    def has_waiting(self, session: int) -> bool:
        return self._execute("SELECT 1 FROM waiting WHERE session = ? LIMIT 1", (session,)).fetchone() is not None

    def take_waiting(self, session: int, key: str) -> list[int]:
        query = "SELECT task FROM waiting WHERE session = ? AND key = ?"
        found = [row[0] for row in self._execute(query, (session, key)).fetchall()]
        if found:
            self._execute("DELETE FROM waiting WHERE session = ? AND key = ?", (session, key))
        return found

    def drop_waiting(self, session: int, keys: Iterable[str], task: int) -> None:
        self._many(
            "DELETE FROM waiting WHERE session = ? AND key = ? AND task = ?", ((session, key, task) for key in keys)
        )

    # The queue

    def top_priority(self) -> int | None:
        row = self._execute(
            "SELECT priority FROM tasks WHERE status = 2 AND missing = 0 ORDER BY priority DESC LIMIT 1"
        ).fetchone()
        return None if row is None else int(row[0])

    def next_priority(self, below: int) -> int | None:
        row = self._execute(
            "SELECT priority FROM tasks WHERE status = 2 AND missing = 0 AND priority < ?"
            " ORDER BY priority DESC LIMIT 1",
            (below,),
        ).fetchone()
        return None if row is None else int(row[0])

    def next_ready_session(self, priority: int, after: int) -> int | None:
        row = self._execute(
            "SELECT session FROM tasks WHERE status = 2 AND missing = 0 AND priority = ? AND session > ?"
            " ORDER BY session LIMIT 1",
            (priority, after),
        ).fetchone()
        return None if row is None else int(row[0])

    def ready_tasks(self, priority: int, session: int, limit: int) -> list[TaskRow]:
        query = (
            f"SELECT {_TASK} FROM tasks WHERE status = 2 AND missing = 0 AND priority = ? AND session = ?"
            " ORDER BY place LIMIT ?"
        )
        return [_task_row(row) for row in self._execute(query, (priority, session, limit)).fetchall()]

    def ready_before(self, task: TaskRow) -> tuple[int, int]:
        # What stands before a task that is ready: of higher priority, and of the same in its own session.
        ready = "SELECT count(*) FROM tasks WHERE status = 2 AND missing = 0 AND priority "
        (above,) = self._execute(f"{ready} > ?", (task.priority,)).fetchone()
        before = (task.priority, task.session, task.place)
        (same,) = self._execute(f"{ready} = ? AND session = ? AND place < ?", before).fetchone()
        return int(above), int(same)

    def attempts(self, spec: int) -> list[TaskRow]:
        # There is no index by the first attempt: attempts hang together by the next one.
        found = [self.task(spec)]
        while found[-1].next:
            found.append(self.task(found[-1].next))
        return found

    def task_page(self, session: int | None, statuses: Sequence[int], after: int, limit: int) -> list[TaskRow]:
        where, values = ["number > ?"], [after]
        if session is not None:
            where.append("session = ?")
            values.append(session)
        if statuses:
            where.append(f"status IN ({', '.join('?' * len(statuses))})")
            values += statuses
        query = f"SELECT {_TASK} FROM tasks WHERE {' AND '.join(where)} ORDER BY number LIMIT ?"
        return [_task_row(row) for row in self._execute(query, (*values, limit)).fetchall()]

    def result_page(
        self, session: int, statuses: Sequence[int], after: int, limit: int
    ) -> list[tuple[int, ResultRow]]:
        where = "number > ? AND session = ?"
        if statuses:
            where += f" AND status IN ({', '.join('?' * len(statuses))})"
        query = f"SELECT number, {_RESULT} FROM results WHERE {where} ORDER BY number LIMIT ?"
        rows = self._execute(query, (after, session, *statuses, limit)).fetchall()
        return [(row[0], _result_row(row[1:])) for row in rows]

    def owned_tasks(self) -> list[TaskRow]:
        query = f"SELECT {_TASK} FROM tasks WHERE owner <> '' ORDER BY number"
        return [_task_row(row) for row in self._execute(query).fetchall()]

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
        found: dict[TaskStatus, int] = {}
        condition = _statuses(selection.included, selection.excluded)
        if selection.sessions is not None:
            parts = _pieces(list(dict.fromkeys(selection.sessions)))
            query = (
                "SELECT task_counts.status, sum(tasks) FROM sessions JOIN task_counts ON session = sessions.number"
                f" WHERE sessions.id IN (%s) AND task_counts.{condition} AND tasks > 0 GROUP BY task_counts.status"
            )
        else:
            parts = _pieces(list(dict.fromkeys(selection.tasks or ())))
            query = f"SELECT status, count(*) FROM tasks WHERE id IN (%s) AND {condition} GROUP BY status"
        for some in parts:
            for status, number in self._execute(query % _marks(some), some):
                found[_TASK_STATUS[status]] = found.get(_TASK_STATUS[status], 0) + number
        return dict(sorted(found.items()))

    def superseded(self, selection: TaskSelection) -> list[TaskRow]:
        return [_task_row(row) for row in self._selected(_TASK, selection, "AND next <> 0")]

    def _selected(self, columns: str, selection: TaskSelection, also: str = "") -> list[Sequence[Any]]:
        condition = f"{_statuses(selection.included, selection.excluded)} {also}"
        rows: list[Sequence[Any]] = []
        if selection.sessions is not None:
            query = (
                f"SELECT {columns} FROM sessions JOIN tasks ON tasks.session = sessions.number"
                f" WHERE sessions.id IN (%s) AND tasks.{condition}"
            )
            parts = _pieces(list(dict.fromkeys(selection.sessions)))
        else:
            query = f"SELECT {columns} FROM tasks WHERE id IN (%s) AND {condition}"
            parts = _pieces(list(dict.fromkeys(selection.tasks or ())))
        for some in parts:
            rows += self._execute(query % _marks(some), some).fetchall()
        rows.sort(key=lambda row: row[0])
        return rows

    def task_statuses(self, ids: Sequence[str]) -> dict[str, TaskStatus]:
        found: dict[str, int] = {}
        asked = list(dict.fromkeys(ids))
        for some in _pieces(asked):
            found.update(self._execute(f"SELECT id, status FROM tasks WHERE id IN ({_marks(some)})", some))
        return {task_id: _TASK_STATUS[found[task_id]] for task_id in asked if task_id in found}

    def results(self, session: int, keys: Sequence[str]) -> list[ResultRow]:
        found: dict[str, ResultRow] = {}
        asked = list(dict.fromkeys(keys))
        for some in _pieces(asked):
            query = f"SELECT {_RESULT} FROM results WHERE session = ? AND key IN ({_marks(some)})"
            found.update((row[1], _result_row(row)) for row in self._execute(query, (session, *some)))
        return [found[key] for key in asked if key in found]

    # Counters

    def count(self, session: int, status: TaskStatus, change: int) -> None:
        counted = self._counted
        key = (session, status)
        counted[key] = counted.get(key, 0) + change

    def counts(self, session: int) -> dict[TaskStatus, int]:
        query = "SELECT status, tasks FROM task_counts WHERE session = ? AND tasks > 0 ORDER BY status"
        return {_TASK_STATUS[status]: number for status, number in self._execute(query, (session,))}

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
        return {(session, _TASK_STATUS[status]): number for session, status, number in rows}

    def total_counts(self) -> dict[TaskStatus, int]:
        rows = self._execute("SELECT status, sum(tasks) FROM task_counts WHERE tasks > 0 GROUP BY status")
        return {_TASK_STATUS[status]: number for status, number in rows}

    def recount(self) -> dict[tuple[int, TaskStatus], int]:
        rows = self._execute("SELECT session, status, count(*) FROM tasks GROUP BY session, status")
        return {(session, _TASK_STATUS[status]): number for session, status, number in rows}

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
        self._specs.clear()
        self._counted = {}

    def flush(self) -> Sequence[Callable[[], None]]:
        if self._kept_counts:
            changes = [(session, status, change) for (session, status), change in self._kept_counts.items() if change]
            self._kept_counts = {}
            self._many(
                "INSERT INTO task_counts VALUES (?, ?, ?)"
                " ON CONFLICT (session, status) DO UPDATE SET tasks = tasks + excluded.tasks",
                changes,
            )
        return super().flush()

    def discard(self) -> None:
        super().discard()
        self._specs.clear()
        self._counted, self._kept_counts = {}, {}


def _keys_text(keys: Sequence[str]) -> str:
    if not keys:
        return ""
    if len(keys) == 1:
        # Most tasks have one key, and most keys are written as they are; the encoder takes as long as an insertion.
        key = keys[0]
        if key.isprintable() and '"' not in key and "\\" not in key:
            return f'["{key}"]'
    return json.dumps(keys, ensure_ascii=False)


def _keys(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    if text.count('"') == 2 and "\\" not in text:
        return (text[2:-2],)
    return tuple(json.loads(text))


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _pieces(values: list[str]) -> list[list[str]]:
    return [values[start : start + _MANY] for start in range(0, len(values), _MANY)]


def _statuses(included: frozenset[int] | None, excluded: frozenset[int] | None) -> str:
    """Return the condition on a column ``status``; numbers come from enumerations or from the wire's integers."""
    if included is not None:
        return f"status IN ({','.join(str(int(status)) for status in sorted(included))})"
    if excluded is not None:
        return f"status NOT IN ({','.join(str(int(status)) for status in sorted(excluded))})"
    return "status IS NOT NULL"
