"""The tables of the task plane as the writer has them: with single tasks that are in the log and not in the tables yet.

A task that is made alone and completed soon costs two records of the log (`runtime.store.sqlite.tail_log`); the tables
get it once, as it is by then, with some hundred others. Everything else finds it there: whatever is asked of the tables
beside the few things that a single task needs has the tail put into them first, and then the group is committed there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from runtime.errors import DataLoss
from runtime.store.sqlite.inserts import insert
from runtime.store.sqlite.tail_records import End, Made, ended_bytes, made_bytes, read_changes
from runtime.store.sqlite.task_counters import COUNT
from runtime.store.sqlite.task_rows import keys_text
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.store.tasks import Exists
from runtime.tasks.model import ResultRow, ResultStatus, SpecRow, TaskRow, TaskStatus

__all__ = ["TailedTaskTables", "replay"]

# The tail is put into the tables when it has so many tasks or bytes of payloads and results, if not before.
_MOST_TASKS = 512
_MOST_BYTES = 512 << 10

_TASK = (
    "?", "?", "?", "?", "0", "?", "?", "?", "0", "?", "0", "''", "0", "?", "?", "?", "?", "''"
)  # fmt: skip
_SPEC = ("?", "?", "?", "0", "?", "''", "?", "NULL", "?", "0")
_RESULT = ("?", "?", "?", "?", "?", "?", "?", "NULL", "?", "0")
_SUBMITTED, _COMPLETED = int(TaskStatus.SUBMITTED), int(TaskStatus.COMPLETED)
_CREATED, _FILLED = int(ResultStatus.CREATED), int(ResultStatus.COMPLETED)


class _Connection:
    """The writer's connection, for everybody who does not know of the tail: it is in the tables when they look."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.raw = connection
        self.prepare: Callable[[], None] = lambda: None

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self.prepare()
        return self.raw.execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        self.prepare()
        return self.raw.executemany(*arguments)


class TailedTaskTables(SqliteTaskTables):
    """See `runtime.store.tasks.TaskTables` and `runtime.store.sqlite.writer.Tables` for what each method is for."""

    uses_log = True

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        settled = _Connection(connection)
        super().__init__(settled, epoch)  # type: ignore[arg-type]
        settled.prepare = self._prepare
        self._raw = connection.execute
        self._raw_connection = connection
        # By number; and which ids and keys they have.
        self._tail: dict[int, Made] = {}
        self._tail_ids: set[str] = set()
        self._tail_keys: set[tuple[int, str]] = set()
        self._tail_bytes = 0
        # What the tail changes of the counters.
        self._tail_counts: dict[tuple[int, int], int] = {}
        # Whether the tables have the tail since some point of this group.
        self._is_settled = self._was_settled = False
        # What this group has made and ended, in order; and up to where the writes that have ended well did.
        self._changes: list[Made | End] = []
        self._kept_changes = 0

    @property
    def has_tail(self) -> bool:  # type: ignore[override]
        return bool(self._tail)

    @property
    def has_room(self) -> bool:  # type: ignore[override]
        return len(self._tail) < _MOST_TASKS and self._tail_bytes < _MOST_BYTES

    def _prepare(self) -> None:
        """The write that runs uses the tables."""
        if self.before_sql is not None:
            self.before_sql()
        self.settle()

    # What a single task needs

    def insert_tasks(self, rows: Sequence[TaskRow]) -> None:
        if not self._can_wait(rows):
            return super().insert_tasks(rows)
        new = {row.id for row in rows}
        if len(new) < len(rows) or self._has_id(new):
            raise Exists("a task id is in use")
        for row in rows:
            assert row.submitted_s is not None
            made = Made(
                row.number, row.session, row.priority, row.max_retries, row.place, row.created_s, row.submitted_s,
                row.id,
            )  # fmt: skip
            self._tail[row.number] = made
            self._changes.append(made)
        self._tail_ids |= new
        if not self._note_inserted(rows):
            self._new_specs.clear()

    def _can_wait(self, rows: Sequence[TaskRow]) -> bool:
        """Return whether new tasks may be in the tail."""
        if not self.may_wait or self._is_settled or not self.has_room:
            return False
        for row in rows:
            if row.status is not TaskStatus.SUBMITTED or row.missing or row.attempt or row.spec != row.number:
                return False
            if row.submitted_s is None:
                return False
        return len(self._tail) + len(rows) <= _MOST_TASKS

    def are_new(self, session: int, ids: Sequence[str], keys: Sequence[str]) -> bool:
        new_ids, new_keys = set(ids), {(session, key) for key in keys}
        if len(new_ids) < len(ids) or len(new_keys) < len(keys):
            return False
        return not self._has_id(new_ids) and not self._has_key(new_keys)

    def _has_id(self, ids: set[str]) -> bool:
        """Return whether one of these ids is in use, in the tail or in the tables."""
        if not self._tail_ids.isdisjoint(ids):
            return True
        found = "SELECT 1 FROM tasks WHERE id = ?"
        return any(self._raw(found, (id,)).fetchone() is not None for id in ids)

    def _has_key(self, keys: set[tuple[int, str]]) -> bool:
        """Return the same of keys, each with its session."""
        if not self._tail_keys.isdisjoint(keys):
            return True
        found = "SELECT 1 FROM results WHERE session = ? AND key = ?"
        return any(self._raw(found, key).fetchone() is not None for key in keys)

    def insert_results(self, rows: Sequence[ResultRow]) -> None:
        tail = self._tail
        for row in rows:
            made = tail.get(row.number)
            if made is None or made.key is not None or row.owner != row.number or row.created_s != made.created_s:
                break
        else:
            if not self._is_settled:
                return self._insert_results(rows)
        super().insert_results(rows)

    def _insert_results(self, rows: Sequence[ResultRow]) -> None:
        new = {(row.session, row.key) for row in rows}
        if len(new) < len(rows) or self._has_key(new):
            raise Exists("a key is in use")
        self._tail_keys |= new
        for row in rows:
            self._tail[row.number].key = row.key

    def insert_specs(self, rows: Iterable[SpecRow]) -> None:
        rows = list(rows)
        tail = self._tail
        is_simple = not self._is_settled
        for row in rows if is_simple else ():
            made = tail.get(row.number)
            is_known = made is not None and row.expected_keys == (made.key,)
            if not is_known or row.payload.ref is not None or row.parent or row.dependencies:
                is_simple = False
        if not is_simple:
            return super().insert_specs(rows)
        for row in rows:
            made = tail[row.number]
            made.options, made.payload = row.options_number, row.payload.data
            self._tail_bytes += len(made.payload)
        self._keep_specs(rows)

    def add_waiting(self, rows: Iterable[tuple[int, str, int]]) -> None:
        rows = list(rows)
        if rows:
            super().add_waiting(rows)

    def has_waiting(self, session: int) -> bool:
        # Nothing in the tail waits for anything.
        return self._raw("SELECT 1 FROM waiting WHERE session = ? LIMIT 1", (session,)).fetchone() is not None

    def end_tasks(self, status: TaskStatus, ended_s: float, rows: Sequence[tuple[float | None, int]]) -> None:
        tail = self._tail
        is_simple = not self._is_settled and status is TaskStatus.COMPLETED
        for started_s, number in rows if is_simple else ():
            made = tail.get(number)
            if made is None or made.end is not None or started_s is None:
                is_simple = False
        if not is_simple:
            return super().end_tasks(status, ended_s, rows)
        for started_s, number in rows:
            end = tail[number].end = End(number, started_s or 0.0, ended_s)
            self._changes.append(end)
        self._are_ended([number for _, number in rows])

    def fill_results(self, status: ResultStatus, rows: Sequence[tuple[int, str, int, bytes]]) -> int:
        tail = self._tail
        is_simple = not self._is_settled and status is ResultStatus.COMPLETED
        for session, key, owner, _ in rows if is_simple else ():
            made = tail.get(owner)
            end = None if made is None else made.end
            if made is None or (made.session, made.key) != (session, key) or end is None or end.data is not None:
                is_simple = False
        if not is_simple:
            return super().fill_results(status, rows)
        for _, _, owner, data in rows:
            end = tail[owner].end
            assert end is not None
            end.data = data
            self._tail_bytes += len(data)
        return len(rows)

    def is_recent(self, number: int) -> bool:
        return not self._is_settled and number in self._tail

    # The tail and the tables

    def record(self) -> bytes | None:
        parts = []
        for change in self._changes:
            if isinstance(change, Made):
                if change.key is None or change.payload is None:
                    return None
                parts.append(made_bytes(change))
            elif change.data is None:
                return None
            else:
                parts.append(ended_bytes(change))
        return b"".join(parts)

    def logged(self) -> None:
        counts = self._tail_counts
        for key, change in self._kept_counts.items():
            counts[key] = counts.get(key, 0) + change
        self._kept_counts = {}

    def settle(self) -> None:
        if self._tail and not self._is_settled:
            self._is_settled = True  # so that the writes below go to the tables
            _put(self._raw_connection, self._tail.values(), self._tail_counts)

    # What is in memory during a group

    def keep(self) -> None:
        super().keep()
        self._kept_changes = len(self._changes)
        self._was_settled = self._is_settled

    def drop(self) -> None:
        super().drop()
        self._undo_changes(self._kept_changes)
        self._is_settled = self._was_settled

    def committed(self) -> None:
        super().committed()
        self._changes, self._kept_changes = [], 0
        if self._is_settled:
            self._is_settled = self._was_settled = False
            self._tail, self._tail_ids, self._tail_keys, self._tail_bytes = {}, set(), set(), 0
            self._tail_counts = {}

    def discard(self) -> None:
        super().discard()
        self._undo_changes(0)
        self._is_settled = self._was_settled = False

    def _undo_changes(self, kept: int) -> None:
        tail = self._tail
        for change in reversed(self._changes[kept:]):
            if isinstance(change, Made):
                del tail[change.number]
                self._tail_ids.discard(change.id)
                if change.key is not None:
                    self._tail_keys.discard((change.session, change.key))
                self._tail_bytes -= len(change.payload or b"")
            else:
                tail[change.number].end = None
                self._tail_bytes -= len(change.data or b"")
        del self._changes[kept:]
        self._kept_changes = min(self._kept_changes, kept)


def replay(connection: sqlite3.Connection, records: Iterable[bytes]) -> None:
    """Put into the tables what records say that a crash has left.

    Raises
    ------
    DataLoss
        They cannot be read, or do not fit together.
    """
    tail: dict[int, Made] = {}
    for change in read_changes(records):
        if isinstance(change, Made):
            tail[change.number] = change
        elif change.number in tail:
            tail[change.number].end = change
        else:
            raise DataLoss(f"the store's tail has the end of a task that it does not know (number {change.number})")
    counts: dict[tuple[int, int], int] = {}
    for made in tail.values():
        key = made.session, _SUBMITTED if made.end is None else _COMPLETED
        counts[key] = counts.get(key, 0) + 1
    _put(connection, tail.values(), counts)


def _put(connection: sqlite3.Connection, tail: Iterable[Made], counts: Mapping[tuple[int, int], int]) -> None:
    """Insert tasks as they are by now, and change the counters."""
    tasks, specs, results = [], [], []
    for made in tail:
        number, session, created_s, end = made.number, made.session, made.created_s, made.end
        status, started_s, ended_s = _SUBMITTED, None, None
        if end is not None:
            status, started_s, ended_s = _COMPLETED, end.started_s, end.ended_s
        tasks.append(
            (number, made.id, session, number, made.priority, made.max_retries, status, made.place, created_s,
             made.submitted_s, started_s, ended_s)
        )  # fmt: skip
        # A write that asks for more than single tasks need may be between their insertions.
        if made.key is not None:
            is_filled = end is not None and end.data is not None
            data = end.data if end is not None and end.data is not None else b""
            result_status = _FILLED if is_filled else _CREATED
            results.append((number, session, made.key, number, result_status, created_s, data, len(data)))
        if made.payload is not None:
            keys = keys_text(() if made.key is None else (made.key,))
            specs.append((number, session, made.options, keys, made.payload, len(made.payload)))
    insert(connection, "tasks", _TASK, (), tasks)
    insert(connection, "results", _RESULT, (), results)
    insert(connection, "specs", _SPEC, (), specs)
    connection.executemany(COUNT, [(session, status, change) for (session, status), change in counts.items() if change])
