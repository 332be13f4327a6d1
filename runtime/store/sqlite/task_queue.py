"""The queue: what is ready, who has acquired what; as far as possible in memory.

That a task is DISPATCHED concerns this process alone: its agents end with it, and the next one finds the task in the
queue. So it is written with whatever comes next of the task, or after a moment by `write_dispatches`: most tasks have
ended by then. The tables of the writer know better meanwhile: whatever they are asked for tells of it.

What is ready is known in memory while that is little, and asked of the index `tasks_ready` otherwise.
"""

from __future__ import annotations

import copy
import sqlite3
from collections.abc import Iterable, Sequence

from runtime.store.sqlite.ready_tasks import ReadyTasks
from runtime.store.sqlite.task_counters import TaskCounters
from runtime.store.sqlite.task_rows import TASK, task_row
from runtime.tasks.model import TaskRow, TaskStatus

__all__ = ["TaskQueue"]

# Ready tasks that are kept in memory, and so many of which they are taken up again once there have been more.
_READY_KEPT = 4096
_READY_AGAIN = 512

_READY = "status = 2 AND missing = 0"


class TaskQueue(TaskCounters):
    """See `runtime.store.tasks.TaskTables` for what each method is for."""

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        super().__init__(connection, epoch)
        # Readers have no epoch; what is ready changes without them.
        self._may_hold = epoch > 0
        # None: ask the index.
        self._ready: ReadyTasks | None = None
        # DISPATCHED tasks that the file has as SUBMITTED, by number.
        self._taken: dict[int, TaskRow] = {}
        # What `_taken` had of the numbers that were changed since the last commit, oldest first.
        self._before: list[tuple[int, TaskRow | None]] = []
        self._kept_before = 0

    # Ready tasks

    def only_ready(self) -> TaskRow | None:
        return None if self._ready is None else self._ready.only()

    def top_priority(self) -> int | None:
        if self._ready is None:
            self._write_taken()
            if self._may_hold:
                self._hold_ready()
        if self._ready is not None:
            return self._ready.top_priority()
        row = self._execute(f"SELECT priority FROM tasks WHERE {_READY} ORDER BY priority DESC LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def next_priority(self, below: int) -> int | None:
        if self._ready is not None:
            return self._ready.next_priority(below)
        self._write_taken()
        query = f"SELECT priority FROM tasks WHERE {_READY} AND priority < ? ORDER BY priority DESC LIMIT 1"
        row = self._execute(query, (below,)).fetchone()
        return None if row is None else int(row[0])

    def next_ready_session(self, priority: int, after: int) -> int | None:
        if self._ready is not None:
            return self._ready.next_session(priority, after)
        self._write_taken()
        query = f"SELECT session FROM tasks WHERE {_READY} AND priority = ? AND session > ? ORDER BY session LIMIT 1"
        row = self._execute(query, (priority, after)).fetchone()
        return None if row is None else int(row[0])

    def ready_tasks(self, priority: int, session: int, limit: int) -> Sequence[TaskRow]:
        if self._ready is not None:
            return self._ready.first(priority, session, limit)
        self._write_taken()
        query = f"SELECT {TASK} FROM tasks WHERE {_READY} AND priority = ? AND session = ? ORDER BY place LIMIT ?"
        return [task_row(row) for row in self._execute(query, (priority, session, limit)).fetchall()]

    def ready_before(self, task: TaskRow) -> tuple[int, int]:
        # What stands before a task that is ready: of higher priority, and of the same in its own session.
        self._write_taken()
        ready = f"SELECT count(*) FROM tasks WHERE {_READY} AND priority "
        (above,) = self._execute(f"{ready} > ?", (task.priority,)).fetchone()
        before = (task.priority, task.session, task.place)
        (same,) = self._execute(f"{ready} = ? AND session = ? AND place < ?", before).fetchone()
        return int(above), int(same)

    def _hold_ready(self) -> None:
        """Take up what is ready if it is little."""
        if self._execute(f"SELECT 1 FROM tasks WHERE {_READY} LIMIT 1 OFFSET {_READY_AGAIN}").fetchone() is None:
            query = f"SELECT {TASK} FROM tasks WHERE {_READY} ORDER BY priority DESC, session, place"
            self._ready = ReadyTasks(map(task_row, self._execute(query).fetchall()))

    def dispatch_tasks(self, tasks: Sequence[TaskRow]) -> None:
        ready = self._ready
        for task in tasks:
            if ready is not None:
                ready.remove(task)
            self._before.append((task.number, None))
            self._taken[task.number] = task
        if ready is None:
            self._write_taken()

    def write_dispatches(self, until_fence: int) -> None:
        self._write_some([task for task in self._taken.values() if task.fence <= until_fence])

    # For the other tables

    def _note_inserted(self, tasks: Iterable[TaskRow]) -> bool:
        """Take note of rows that are there now; False when what is ready has just become too much to be kept."""
        ready = self._ready
        if ready is None:
            return True
        ready.add([task for task in tasks if task.missing == 0 and task.status is TaskStatus.SUBMITTED])
        if len(ready) > _READY_KEPT:
            self._ready = None
        return self._ready is not None

    def _note_updated(self, task: TaskRow) -> None:
        """Take note that a row was written with all that can change of it."""
        if task.number in self._taken:
            self._forget_taken((task.number,))
        ready = self._ready
        if ready is None:
            return
        is_there = task.number in ready
        if not task.is_ready:
            if is_there:
                ready.remove(task)
        elif not is_there and ready.is_last(task) and len(ready) < _READY_KEPT:
            ready.add((copy.copy(task),))
        else:
            self._ready = None  # it has come back to where it was

    def _as_taken(self, task: TaskRow) -> TaskRow:
        """Return a row of the file as it is known here."""
        taken = self._taken.get(task.number)
        return task if taken is None else copy.copy(taken)

    def _forget_taken(self, numbers: Iterable[int]) -> None:
        """Take note that the file knows what has become of tasks that were DISPATCHED."""
        taken, note = self._taken.pop, self._before.append
        gone: dict[int, int] = {}
        for number in numbers:
            task = taken(number, None)
            if task is not None:
                note((number, task))
                gone[task.session] = gone.get(task.session, 0) + 1
        for session, count in gone.items():
            self.count(session, TaskStatus.SUBMITTED, -count)
            self.count(session, TaskStatus.DISPATCHED, count)

    def _write_taken(self) -> None:
        """Let the file know of all that is DISPATCHED."""
        if self._taken:
            self._write_some(list(self._taken.values()))

    def _write_some(self, tasks: Sequence[TaskRow]) -> None:
        if not tasks:
            return
        self._many(
            "UPDATE tasks SET status = 3, owner = ?, started = NULL, fence = ? WHERE number = ?",
            [(task.owner, task.fence, task.number) for task in tasks],
        )
        self._forget_taken([task.number for task in tasks])

    # What is in memory during a group

    def keep(self) -> None:
        super().keep()
        self._kept_before = len(self._before)

    def drop(self) -> None:
        super().drop()
        self._undo(self._kept_before)

    def committed(self) -> None:
        super().committed()
        self._before, self._kept_before = [], 0

    def discard(self) -> None:
        super().discard()
        self._undo(0)

    def _undo(self, kept: int) -> None:
        self._ready = None
        for number, task in reversed(self._before[kept:]):
            if task is None:
                del self._taken[number]
            else:
                self._taken[number] = task
        del self._before[kept:]
        self._kept_before = min(self._kept_before, kept)
