"""The tables of the task plane; see `runtime.store.tasks.TaskTables` for what each method is for.

Single rows are here; `task_queries` has what is asked of many, `task_counters` their number by status,
`retention_tables` what goes and what is not due yet, `session_tables` sessions and options.
"""

from __future__ import annotations

import copy
import itertools
import operator
import sqlite3
from collections.abc import Iterable, Sequence
from typing import ClassVar

from runtime.store.sqlite.inserts import insert
from runtime.store.sqlite.object_tables import value_columns
from runtime.store.sqlite.retention_tables import RETENTION_SCHEMA
from runtime.store.sqlite.session_tables import OPTION_USES_SCHEMA
from runtime.store.sqlite.task_queries import TaskQueries
from runtime.store.sqlite.task_rows import (
    MANY,
    RESULT,
    TASK,
    TASK_STATUS,
    keys_text,
    marks,
    pieces,
    result_row,
    spec_row,
    task_row,
)
from runtime.store.tasks import Exists
from runtime.tasks.model import ResultRow, ResultStatus, SpecRow, TaskRow, TaskStatus

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

# Specifications that are kept at hand from the start of a task to its end. Their numbers never come back, and only this
# connection lets a payload go, so none of them is ever out of date where it matters.
_SPECS_KEPT = 1024
# Those of tasks in `TaskQueue._ready` are kept, too, if their payloads have no more bytes than this.
_SMALL_BYTES = 1 << 10

# Columns of new rows, see `insert`, and where their values come from: what is mostly the same for the rows of a write,
# and what is not.
_SPEC = ("?", "?1", "?2", "?3", "?", "?", "?", "?", "?", "?")
_PLAIN_SPEC = ("?", "?1", "?2", "?3", "?", "?", "?", "NULL", "?", "0")
_SPEC_COMMON = operator.itemgetter(1, 2, 3)
# What nobody has acquired yet has no fence, no owner, no successor, no start, no end, no error.
_NEW_TASK = (
    "?", "?", "?2", "?", "?3", "?4", "?5", "?1", "?", "?", "0", "''", "0", "?6", "?7", "NULL", "NULL", "''"
)  # fmt: skip
_TASK_COMMON = operator.attrgetter(
    "status", "session", "attempt", "priority", "max_retries", "created_s", "submitted_s"
)
_TASK_OWN = operator.attrgetter("number", "id", "spec", "missing", "place")
# CREATED, without a value.
_NEW_RESULT = ("?", "?1", "?", "?", "1", "?2", "x''", "NULL", "0", "0")
_RESULT_COMMON = operator.attrgetter("session", "created_s")
_RESULT_OWN = operator.attrgetter("number", "key", "owner")


class SqliteTaskTables(TaskQueries):
    """The rows of the task plane in SQLite."""

    PLANE: ClassVar[str] = "tasks"
    # The last one is empty: from there on the newest tasks may be in the log beside the file alone, and who does not
    # know of that must not open it.
    MIGRATIONS: ClassVar[Sequence[Sequence[str]]] = (_SCHEMA, RETENTION_SCHEMA, OPTION_USES_SCHEMA, ())

    @classmethod
    def written(cls, connection: sqlite3.Connection, epoch: int, has_log: bool) -> SqliteTaskTables:
        if not has_log:
            return cls(connection, epoch)
        from runtime.store.sqlite.tailed_tables import TailedTaskTables

        return TailedTaskTables(connection, epoch)

    @classmethod
    def replay(cls, connection: sqlite3.Connection, records: Sequence[bytes]) -> None:
        from runtime.store.sqlite.tailed_tables import replay

        replay(connection, records)

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        super().__init__(connection, epoch)
        self._specs: dict[int, SpecRow] = {}
        self._new_specs: dict[int, SpecRow] = {}

    # Creation

    def insert_specs(self, rows: Iterable[SpecRow]) -> None:
        rows = list(rows)
        self._keep_specs(rows)
        for common, some in itertools.groupby(rows, _SPEC_COMMON):
            plain, others = [], []
            for row in some:
                number, _, _, _, keys, dependencies, payload = row
                if payload.ref is None:
                    data = payload.data
                    plain.append((number, keys_text(keys), keys_text(dependencies), data, len(data)))
                else:
                    columns = value_columns(payload)
                    others.append((number, keys_text(keys), keys_text(dependencies), *columns))
            insert(self.connection, "specs", _PLAIN_SPEC, common, plain)
            insert(self.connection, "specs", _SPEC, common, others)

    def _keep_specs(self, rows: Iterable[SpecRow]) -> None:
        """Keep what those need that are about to be acquired."""
        kept, ready = self._new_specs, self._ready or ()
        for row in rows:
            if row.number in ready and row.payload.ref is None and len(row.payload.data) <= _SMALL_BYTES:
                kept[row.number] = row

    def insert_tasks(self, rows: Sequence[TaskRow]) -> None:
        try:
            for common, some in itertools.groupby(rows, _TASK_COMMON):
                insert(self.connection, "tasks", _NEW_TASK, (int(common[0]), *common[1:]), list(map(_TASK_OWN, some)))
        except sqlite3.IntegrityError as error:
            raise Exists("a task id is in use") from error
        if not self._note_inserted(rows):
            self._new_specs.clear()

    def insert_results(self, rows: Sequence[ResultRow]) -> None:
        try:
            for common, some in itertools.groupby(rows, _RESULT_COMMON):
                insert(self.connection, "results", _NEW_RESULT, common, list(map(_RESULT_OWN, some)))
        except sqlite3.IntegrityError as error:
            raise Exists("a key is in use") from error

    def known_task_ids(self, ids: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in pieces(list(ids)):
            found.update(row[0] for row in self._execute(f"SELECT id FROM tasks WHERE id IN ({marks(some)})", some))
        return found

    def known_keys(self, session: int, keys: Iterable[str]) -> set[str]:
        found: set[str] = set()
        for some in pieces(list(keys)):
            query = f"SELECT key FROM results WHERE session = ? AND key IN ({marks(some)})"
            found.update(row[0] for row in self._execute(query, (session, *some)))
        return found

    def are_new(self, session: int, ids: Sequence[str], keys: Sequence[str]) -> bool:
        if len(set(ids)) < len(ids) or len(set(keys)) < len(keys):
            return False
        return not self.known_task_ids(ids) and not self.known_keys(session, keys)

    # Single rows

    def task(self, number: int) -> TaskRow:
        task = self.find_task(number)
        assert task is not None, f"no task has number {number}"
        return task

    def find_task(self, number: int) -> TaskRow | None:
        if taken := self._taken.get(number):
            return copy.copy(taken)
        row = self._execute(f"SELECT {TASK} FROM tasks WHERE number = ?", (number,)).fetchone()
        return None if row is None else task_row(row)

    def task_by_id(self, task_id: str) -> TaskRow | None:
        row = self._execute(f"SELECT {TASK} FROM tasks WHERE id = ?", (task_id,)).fetchone()
        return None if row is None else self._as_taken(task_row(row))

    def attempts(self, spec: int) -> list[TaskRow]:
        # There is no index by the first attempt: attempts hang together by the next one.
        found = [self.task(spec)]
        while found[-1].next:
            found.append(self.task(found[-1].next))
        return found

    def spec(self, number: int) -> SpecRow:
        spec = self._new_specs.get(number) or self._specs.get(number)
        if spec is None:
            spec = spec_row(self._execute("SELECT * FROM specs WHERE number = ?", (number,)).fetchone())
            self._keep_spec(spec)
        return spec

    def _keep_spec(self, spec: SpecRow) -> None:
        if len(self._specs) >= _SPECS_KEPT:
            self._specs.clear()
        self._specs[spec.number] = spec

    def specs(self, numbers: Sequence[int]) -> dict[int, SpecRow]:
        if len(numbers) == 1:
            return {numbers[0]: self.spec(numbers[0])}
        kept = self._new_specs
        found = {number: kept[number] for number in numbers if number in kept}
        left = [number for number in numbers if number not in found] if len(found) < len(numbers) else []
        for start in range(0, len(left), MANY):
            some = left[start : start + MANY]
            for row in self._execute(f"SELECT * FROM specs WHERE number IN ({marks(some)})", some).fetchall():
                found[row[0]] = spec_row(row)
        return found

    def forget_payload(self, spec: int) -> None:
        self._specs.pop(spec, None)
        self._new_specs.pop(spec, None)
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
        self._note_updated(row)
        if spec := self._new_specs.pop(row.spec, None):
            self._keep_spec(spec)

    def is_recent(self, number: int) -> bool:
        return False

    def result(self, session: int, key: str) -> ResultRow | None:
        query = f"SELECT {RESULT} FROM results WHERE session = ? AND key = ?"
        row = self._execute(query, (session, key)).fetchone()
        return None if row is None else result_row(row)

    def update_result(self, row: ResultRow) -> None:
        self._execute(
            "UPDATE results SET owner = ?, status = ?, data = ?, digest = ?, size = ?, crc = ?"
            " WHERE session = ? AND key = ?",
            (row.owner, int(row.status), *value_columns(row.value), row.session, row.key),
        )

    def standing(self, numbers: Sequence[int]) -> dict[int, tuple[int, TaskStatus]]:
        taken = self._taken
        found = {number: (taken[number].fence, TaskStatus.DISPATCHED) for number in numbers if number in taken}
        left = [number for number in numbers if number not in found] if len(found) < len(numbers) else []
        for start in range(0, len(left), MANY):
            some = left[start : start + MANY]
            query = f"SELECT number, fence, status FROM tasks WHERE number IN ({marks(some)})"
            for number, fence, status in self._execute(query, some).fetchall():
                found[number] = fence, TASK_STATUS[status]
        return found

    def end_tasks(self, status: TaskStatus, ended_s: float, rows: Sequence[tuple[float | None, int]]) -> None:
        by_start: dict[float | None, list[int]] = {}
        for started_s, number in rows:
            by_start.setdefault(started_s, []).append(number)
        end = f"UPDATE tasks SET status = {int(status)}, owner = '', ended = ?, started = ? WHERE number"
        for started_s, numbers in by_start.items():
            for start in range(0, len(numbers), MANY):
                some = numbers[start : start + MANY]
                self._execute(f"{end} IN ({marks(some)})", (ended_s, started_s, *some))
            self._are_ended(numbers)

    def _are_ended(self, numbers: Sequence[int]) -> None:
        self._forget_taken(numbers)
        for number in numbers:
            self._new_specs.pop(number, None)

    def fill_results(self, status: ResultStatus, rows: Sequence[tuple[int, str, int, bytes]]) -> int:
        filled = f"UPDATE results SET status = {int(status)}, data = ?1, size = ?2 WHERE"
        # The first result of a first attempt has the number of its task.
        found = self._many(
            f"{filled} number = ?3 AND key = ?4 AND owner = ?3 AND session = ?5 AND status = 1",
            [(data, len(data), owner, key, session) for session, key, owner, data in rows],
        ).rowcount
        if found < len(rows):
            # In files of earlier versions it has not.
            found += self._many(
                f"{filled} session = ?5 AND key = ?4 AND owner = ?3 AND status = 1",
                [(data, len(data), owner, key, session) for session, key, owner, data in rows],
            ).rowcount
        return found

    def staged_children(self, parent: int) -> list[TaskRow]:
        query = (
            f"SELECT {TASK} FROM specs JOIN tasks ON tasks.number = specs.number"
            " WHERE specs.parent = ? AND specs.parent <> 0 AND tasks.status = 1 ORDER BY tasks.number"
        )
        return [task_row(row) for row in self._execute(query, (parent,)).fetchall()]

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

    # What is in memory during a group

    def drop(self) -> None:
        super().drop()
        self._specs.clear()
        self._new_specs.clear()

    def discard(self) -> None:
        super().discard()
        self._specs.clear()
        self._new_specs.clear()
