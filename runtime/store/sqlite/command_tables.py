"""The tables of the command plane; see `runtime.store.commands` for what each method is for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from runtime.commands.model import (
    CommandRow,
    JobAction,
    JobRow,
    JobState,
    Status,
    WorkerRow,
    WorkerStatus,
)
from runtime.errors import NotFound
from runtime.store.commands import CommandEvent, CommandRows
from runtime.store.sqlite.writer import Tables

__all__ = ["CommandTables"]

_SCHEMA = (
    """CREATE TABLE commands (
        number INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, container TEXT NOT NULL, status TEXT NOT NULL,
        worker INTEGER NOT NULL, attempt INTEGER NOT NULL, created REAL NOT NULL, modified REAL NOT NULL,
        cause TEXT NOT NULL, request TEXT)""",
    "CREATE INDEX commands_pending ON commands (created, number) WHERE status = 'P'",
    "CREATE INDEX commands_held ON commands (worker, status) WHERE status IN ('A', 'C', 'D', 'O', 'R', 'U', 'V')",
    "CREATE INDEX commands_by_status ON commands (status, number)",
    "CREATE INDEX commands_cancelled ON commands (modified) WHERE status = 'X' AND worker <> 0",
    "CREATE UNIQUE INDEX commands_by_request ON commands (request) WHERE request IS NOT NULL",
    """CREATE TABLE command_events (
        id INTEGER PRIMARY KEY, command INTEGER NOT NULL, time REAL NOT NULL, before TEXT, after TEXT NOT NULL,
        worker INTEGER NOT NULL, attempt INTEGER NOT NULL, cause TEXT NOT NULL)""",
    "CREATE INDEX command_events_of ON command_events (command, id)",
    """CREATE TABLE command_workers (
        number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, status TEXT NOT NULL,
        concurrency INTEGER NOT NULL, prefetch INTEGER NOT NULL, instance TEXT NOT NULL, provider TEXT NOT NULL,
        flavor TEXT NOT NULL, region TEXT NOT NULL, handle TEXT NOT NULL, created REAL NOT NULL, seen REAL NOT NULL,
        restarts INTEGER NOT NULL, cause TEXT NOT NULL)""",
    "CREATE UNIQUE INDEX command_workers_by_name ON command_workers (name) WHERE status <> 'D'",
    """CREATE TABLE worker_jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT, worker INTEGER NOT NULL, action TEXT NOT NULL, state TEXT NOT NULL,
        tries INTEGER NOT NULL, due REAL NOT NULL, created REAL NOT NULL, modified REAL NOT NULL, cause TEXT NOT NULL)
    """,
    "CREATE INDEX worker_jobs_open ON worker_jobs (state, number) WHERE state IN ('P', 'R')",
)

_RETENTION = ("CREATE INDEX commands_ended ON commands (modified) WHERE status IN ('S', 'F', 'X')",)

_COMMAND = "number, status, worker, attempt, created, modified, cause"
_WORKER = (
    "number, name, status, concurrency, prefetch, instance, provider, flavor, region, handle, created, seen, "
    "restarts, cause"
)
_JOB = "number, worker, action, state, tries, due, created, modified, cause"
_HELD = "status IN ('A', 'C', 'D', 'O', 'R', 'U', 'V')"
_ENDED = "status IN ('S', 'F', 'X')"
_STATUS = {str(status): status for status in Status}
_WORKER_STATUS = {str(status): status for status in WorkerStatus}


class CommandTables(Tables):
    """Commands, workers and jobs in an SQLite file."""

    PLANE: ClassVar[str] = "commands"
    MIGRATIONS: ClassVar[Sequence[Sequence[str]]] = (_SCHEMA, _RETENTION)

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        super().__init__(connection, epoch)
        self._execute = connection.execute
        self._at_end: Callable[[CommandRows], None] | None = None
        # Read at every assignment and changed rarely. Only the writer, which has an epoch, knows of all changes.
        self._keeps_workers = epoch > 0
        self._ready_workers: list[tuple[int, int, int]] | None = None

    def at_end(self, work: Callable[[CommandRows], None]) -> None:
        """See `runtime.store.commands.CommandRows`."""
        self._at_end = work

    def flush(self) -> None:
        """See `Tables.flush`."""
        super().flush()
        work, self._at_end = self._at_end, None
        if work is not None:
            work(self)

    def discard(self) -> None:
        """See `Tables.discard`."""
        self._at_end = None
        self._ready_workers = None
        super().discard()

    def drop(self) -> None:
        """See `Tables.drop`."""
        self._ready_workers = None
        super().drop()

    # Commands

    def insert_command(self, text: str, container: str, now_s: float, request: str = "") -> CommandRow:
        """See `runtime.store.commands.CommandRows`."""
        cursor = self._execute(
            "INSERT INTO commands (text, container, status, worker, attempt, created, modified, cause, request) "
            "VALUES (?, ?, 'P', 0, 1, ?, ?, '', ?)",
            (text, container, now_s, now_s, request or None),
        )
        assert cursor.lastrowid is not None
        return CommandRow(cursor.lastrowid, Status.PENDING, created_s=now_s, modified_s=now_s)

    def requested(self, request: str) -> int | None:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute("SELECT number FROM commands WHERE request = ?", (request,)).fetchone()
        return None if row is None else row[0]

    def command(self, number: int) -> CommandRow:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute(f"SELECT {_COMMAND} FROM commands WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise self.unknown(number)
        return _command(row)

    def texts(self, number: int) -> tuple[str, str]:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute("SELECT text, container FROM commands WHERE number = ?", (number,)).fetchone()
        if row is None:
            raise self.unknown(number)
        return row[0], row[1]

    def unknown(self, number: int) -> NotFound:
        """See `runtime.store.commands.CommandRows`."""
        last = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'commands'").fetchone()
        if last is not None and number <= last[0]:
            return NotFound(f"task {number} is not known any more: it ended longer ago than commands are kept")
        return NotFound(f"task {number} is not known")

    def has_command(self, number: int) -> bool:
        """See `runtime.store.commands.CommandRows`."""
        return self._execute("SELECT 1 FROM commands WHERE number = ?", (number,)).fetchone() is not None

    def state_of(self, number: int) -> tuple[Status, int, int, float] | None:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute(
            "SELECT status, worker, attempt, modified FROM commands WHERE number = ?", (number,)
        ).fetchone()
        return None if row is None else (_STATUS[row[0]], row[1], row[2], row[3])

    def update_command(self, command: CommandRow) -> None:
        """See `runtime.store.commands.CommandRows`."""
        self._execute(
            "UPDATE commands SET status = ?, worker = ?, attempt = ?, modified = ?, cause = ? WHERE number = ?",
            (
                str(command.status), command.worker, command.attempt, command.modified_s, command.cause,
                command.number,
            ),
        )

    def commands(
        self, statuses: Sequence[str] | None = None, limit: int = -1, offset: int = 0, first: int = 0
    ) -> list[tuple[int, str, str, str]]:
        """See `runtime.store.commands.CommandRows`."""
        condition, values = "", []
        if statuses is not None:
            condition = f"AND status IN ({', '.join('?' * len(statuses))})"
            values = list(statuses)
        return self._execute(
            "SELECT number, text, container, status FROM commands "
            f"WHERE number >= ? {condition} ORDER BY number LIMIT ? OFFSET ?",
            (first, *values, limit, offset),
        ).fetchall()

    def ended_before(self, time_s: float, limit: int) -> list[int]:
        """See `runtime.store.commands.CommandRows`."""
        rows = self._execute(
            f"SELECT number FROM commands INDEXED BY commands_ended WHERE {_ENDED} AND modified < ? "
            "ORDER BY modified LIMIT ?",
            (time_s, limit),
        )
        return [number for (number,) in rows]

    def remove_ended(self, number: int, time_s: float) -> None:
        """See `runtime.store.commands.CommandRows`."""
        removed = self._execute(
            f"DELETE FROM commands WHERE number = ? AND {_ENDED} AND modified < ?", (number, time_s)
        )
        if removed.rowcount:
            self._execute("DELETE FROM command_events WHERE command = ?", (number,))

    def pending(self, limit: int) -> list[CommandRow]:
        """See `runtime.store.commands.CommandRows`."""
        return [
            _command(row)
            for row in self._execute(
                f"SELECT {_COMMAND} FROM commands WHERE status = 'P' ORDER BY created, number LIMIT ?", (limit,)
            ).fetchall()
        ]

    def has_pending(self) -> bool:
        """See `runtime.store.commands.CommandRows`."""
        return self._execute("SELECT 1 FROM commands WHERE status = 'P' LIMIT 1").fetchone() is not None

    def of_worker(self, worker: int, statuses: frozenset[Status]) -> list[CommandRow]:
        """See `runtime.store.commands.CommandRows`."""
        rows = self._execute(
            f"SELECT {_COMMAND} FROM commands INDEXED BY commands_held WHERE worker = ? AND {_HELD} "
            f"AND status IN ({', '.join('?' * len(statuses))})",
            (worker, *map(str, statuses)),
        ).fetchall()
        return sorted(map(_command, rows), key=lambda command: (command.created_s, command.number))

    def active_counts(self) -> dict[int, int]:
        """See `runtime.store.commands.CommandRows`."""
        return dict(
            self._execute(
                f"SELECT worker, count(*) FROM commands INDEXED BY commands_held WHERE {_HELD} "
                "AND status NOT IN ('U', 'V') GROUP BY worker"
            )
        )

    def assigned(self) -> list[tuple[int, int]]:
        """See `runtime.store.commands.CommandRows`."""
        return self._execute("SELECT number, worker FROM commands WHERE status = 'A' ORDER BY number").fetchall()

    def cancelled_since(self, time_s: float) -> list[tuple[int, int, float]]:
        """See `runtime.store.commands.CommandRows`."""
        return self._execute(
            "SELECT number, worker, modified FROM commands WHERE status = 'X' AND worker <> 0 AND modified > ? "
            "ORDER BY number",
            (time_s,),
        ).fetchall()

    # Events

    def add_event(self, command: CommandRow, before: Status | None, worker: int) -> None:
        """See `runtime.store.commands.CommandRows`."""
        self._execute(
            "INSERT INTO command_events (command, time, before, after, worker, attempt, cause) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                command.number, command.modified_s, None if before is None else str(before), str(command.status),
                worker, command.attempt, command.cause,
            ),
        )

    def events(self, number: int) -> list[CommandEvent]:
        """See `runtime.store.commands.CommandRows`."""
        rows = self._execute(
            "SELECT time, before, after, worker, attempt, cause FROM command_events WHERE command = ? ORDER BY id",
            (number,),
        )
        return [
            CommandEvent(time_s, None if before is None else _STATUS[before], _STATUS[after], *rest)
            for time_s, before, after, *rest in rows
        ]

    def has_held(self, number: int, worker: int) -> bool:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute(
            "SELECT 1 FROM command_events WHERE command = ? AND worker = ? LIMIT 1", (number, worker)
        ).fetchone()
        return row is not None

    # Workers

    def insert_worker(self, worker: WorkerRow) -> None:
        """See `runtime.store.commands.CommandRows`."""
        cursor = self._execute(
            f"INSERT INTO command_workers ({_WORKER}) VALUES (NULL, {', '.join('?' * 13)})", _worker_values(worker)
        )
        assert cursor.lastrowid is not None
        worker.number = cursor.lastrowid
        self._ready_workers = None

    def worker(self, number: int) -> WorkerRow | None:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute(f"SELECT {_WORKER} FROM command_workers WHERE number = ?", (number,)).fetchone()
        return None if row is None else _worker(row)

    def instance_of(self, number: int) -> str | None:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute("SELECT instance FROM command_workers WHERE number = ?", (number,)).fetchone()
        return None if row is None else row[0]

    def worker_named(self, name: str) -> WorkerRow | None:
        """See `runtime.store.commands.CommandRows`."""
        row = self._execute(
            f"SELECT {_WORKER} FROM command_workers WHERE name = ? AND status <> 'D'", (name,)
        ).fetchone()
        return None if row is None else _worker(row)

    def update_worker(self, worker: WorkerRow) -> None:
        """See `runtime.store.commands.CommandRows`."""
        columns = ", ".join(f"{column} = ?" for column in _WORKER.split(", ")[1:])
        values = (*_worker_values(worker), worker.number)
        self._execute(f"UPDATE command_workers SET {columns} WHERE number = ?", values)
        self._ready_workers = None

    def see_worker(self, number: int, time_s: float) -> None:
        """See `runtime.store.commands.CommandRows`."""
        self._execute("UPDATE command_workers SET seen = ? WHERE number = ?", (time_s, number))

    def workers(self, statuses: frozenset[WorkerStatus] | None = None) -> list[WorkerRow]:
        """See `runtime.store.commands.CommandRows`."""
        chosen = statuses if statuses is not None else frozenset(WorkerStatus) - {WorkerStatus.DELETED}
        rows = self._execute(
            f"SELECT {_WORKER} FROM command_workers WHERE status IN ({', '.join('?' * len(chosen))}) ORDER BY number",
            [str(status) for status in chosen],
        )
        return [_worker(row) for row in rows]

    def ready_workers(self) -> list[tuple[int, int, int]]:
        """See `runtime.store.commands.CommandRows`."""
        if self._ready_workers is None or not self._keeps_workers:
            self._ready_workers = self._execute(
                "SELECT number, concurrency, prefetch FROM command_workers WHERE status = 'R' ORDER BY number"
            ).fetchall()
        return self._ready_workers

    def num_managed(self) -> int:
        """See `runtime.store.commands.CommandRows`."""
        found = self._execute("SELECT count(*) FROM command_workers WHERE provider <> '' AND status <> 'D'")
        return int(found.fetchone()[0])

    # Jobs

    def insert_job(self, job: JobRow) -> None:
        """See `runtime.store.commands.CommandRows`."""
        cursor = self._execute(
            f"INSERT INTO worker_jobs ({_JOB}) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                job.worker, str(job.action), str(job.state), job.tries, job.due_s, job.created_s, job.modified_s,
                job.cause,
            ),
        )
        assert cursor.lastrowid is not None
        job.number = cursor.lastrowid

    def update_job(self, job: JobRow) -> None:
        """See `runtime.store.commands.CommandRows`."""
        self._execute(
            "UPDATE worker_jobs SET state = ?, tries = ?, due = ?, modified = ?, cause = ? WHERE number = ?",
            (str(job.state), job.tries, job.due_s, job.modified_s, job.cause, job.number),
        )

    def jobs(self, states: frozenset[JobState], worker: int = 0) -> list[JobRow]:
        """See `runtime.store.commands.CommandRows`."""
        condition, values = f"state IN ({', '.join('?' * len(states))})", [*map(str, states)]
        rows: Any
        if worker:
            rows = self._execute(
                f"SELECT {_JOB} FROM worker_jobs WHERE {condition} AND worker = ? ORDER BY number", (*values, worker)
            )
        else:
            rows = self._execute(f"SELECT {_JOB} FROM worker_jobs WHERE {condition} ORDER BY number", values)
        return [
            JobRow(number, of, JobAction(action), JobState(state), *rest)
            for number, of, action, state, *rest in rows
        ]


def _command(row: Sequence[Any]) -> CommandRow:
    command = CommandRow(*row)
    command.status = _STATUS[row[1]]
    return command


def _worker(row: Sequence[Any]) -> WorkerRow:
    worker = WorkerRow(*row)
    worker.status = _WORKER_STATUS[row[2]]
    return worker


def _worker_values(worker: WorkerRow) -> tuple[Any, ...]:
    return (
        worker.name, str(worker.status), worker.concurrency, worker.prefetch, worker.instance, worker.provider,
        worker.flavor, worker.region, worker.handle, worker.created_s, worker.seen_s, worker.restarts, worker.cause,
    )
