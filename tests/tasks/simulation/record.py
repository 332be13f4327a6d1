"""What clients and agents of a story were told, and the checks that the store holds to it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from runtime.objects.value import Value
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.tasks.delays import RetryDelay
from runtime.tasks.filters import TaskFilter
from runtime.tasks.leases import Lease
from runtime.tasks.model import (
    ENDED_BADLY,
    TERMINAL,
    ResultRow,
    ResultStatus,
    SessionStatus,
    TaskRequest,
    TaskRow,
    TaskStatus,
)
from runtime.tasks.tasks import ResultView
from runtime.tasks.transitions import LEGAL
from tests.tasks.simulation.server import Disk


class Record:
    """Everything that was acknowledged or seen in a story; what contradicts it raises AssertionError."""

    def __init__(self, disk: Disk, delay: RetryDelay) -> None:
        self._disk = disk
        self._delay = delay
        self.sessions: list[str] = []
        self.created: dict[str, TaskRequest] = {}
        # Those that may run before they are acknowledged.
        self.asked: dict[str, TaskRequest] = {}
        self.session_of: dict[str, str] = {}
        self.canceled_sessions: set[str] = set()
        # Being deleted: their tasks may be there, or not.
        self.going: set[str] = set()
        self._seen: dict[str, TaskStatus] = {}
        self._committed: dict[str, dict[str, bytes]] = {}
        self._failed: set[str] = set()
        self._answered: set[str] = set()
        self._canceled: set[str] = set()
        self._finals: dict[tuple[str, str], tuple[ResultStatus, bytes, str]] = {}
        self._leases: dict[str, Lease] = {}

    # While it goes on

    def note_created(self, session: str, requests: Iterable[TaskRequest]) -> None:
        """A creation was acknowledged."""
        for request in requests:
            self.created[request.id] = request
            self.session_of[request.id] = session

    def note_statuses(self, asked: Iterable[str], statuses: Mapping[str, TaskStatus]) -> None:
        """A client reads statuses: all are there, and none goes back."""
        assert set(statuses) >= set(filter(self._stays, asked)), "a task that was acknowledged is lost"
        for task_id, status in statuses.items():
            before = self._seen.get(task_id, TaskStatus.CREATING)
            assert _reaches(before, status), f"{task_id}: {before.name} became {status.name}"
            self._seen[task_id] = status

    def note_canceled(self, task_id: str) -> None:
        """A cancel was acknowledged: from now on nothing of the task comes to a good end."""
        if not self._stays(task_id):
            return
        last = self._attempts(task_id)[-1]
        if last.status not in TERMINAL:
            assert last.status is TaskStatus.CANCELING, f"{last.id} is {last.status.name} although it was canceled"
            self._canceled.add(last.id)

    def note_deleted(self, session: str) -> None:
        """The end of a session was acknowledged: whatever was said of it counts no more."""
        self.sessions.remove(session)
        for known in (self.created, self.session_of, self._seen, self._committed, self._leases):
            for task_id in [task_id for task_id in known if task_id.startswith(session + "/")]:
                del known[task_id]  # type: ignore[attr-defined]
        for key in [key for key in self._finals if key[0] == session]:
            del self._finals[key]

    def note_result(self, session: str, key: str, result: ResultView) -> None:
        """A client is told that a result has ended."""
        assert result.status is not ResultStatus.CREATED, "a wait has ended before its result"
        found = result.status, self._content(result.value), result.owner
        assert self._finals.setdefault((session, key), found) == found, "a result that had ended has changed"

    def note_lease(self, lease: Lease) -> None:
        """An agent gets a lease: nobody else has one of the same attempt."""
        before = self._leases.get(lease.task.id)
        if before is not None and before._tasks is lease._tasks:
            assert before.is_lost or before.is_ended, f"two agents have {lease.task.id}"
        self._leases[lease.task.id] = lease

    def check_input(self, lease: Lease, payload: bytes) -> None:
        """An agent has read what its task gets."""
        initial = lease.task.id.rpartition("###")[0] if lease.task.attempt else lease.task.id
        request = self.created.get(initial) or self.asked.get(initial)
        if request is not None:
            assert payload == request.payload.data, f"{lease.task.id} was given another payload"
            assert lease.task.dependencies == request.dependencies
        for key in lease.task.dependencies:
            content = self._content(lease.dependency(key))
            assert content.endswith(b":" + key.encode()), f"{lease.task.id} was given another {key}: {content!r}"

    def note_failed(self, lease: Lease, status: TaskStatus) -> None:
        """The end of an attempt that is to be tried again was acknowledged."""
        if status is not TaskStatus.CANCELED:
            self._failed.add(lease.task.id)

    def note_answer(self, lease: Lease, status: TaskStatus) -> None:
        """The end of an attempt that is not tried again was acknowledged."""
        assert status in (TaskStatus.ERROR, TaskStatus.CANCELED)
        self._answered.add(lease.task.id)

    def note_committed(self, lease: Lease, contents: dict[str, bytes]) -> None:
        """A good end was acknowledged."""
        assert lease.task.id not in self._committed, "two outcomes of one attempt were recorded"
        self._committed[lease.task.id] = contents

    # While no server runs

    def check_counters(self) -> None:
        """Check what must hold at any time."""
        tables = SqliteTaskTables(self._disk.connection, 0)
        # What is in the log alone is counted when a server takes it up.
        assert tables.all_counts() == tables.recount(), "the counters differ from a recount"
        query = (
            "SELECT digest, count(*) FROM (SELECT digest FROM specs UNION ALL SELECT digest FROM results)"
            " WHERE digest IS NOT NULL GROUP BY digest"
        )
        counted = dict(self._disk.connection.execute(query))
        referred = dict(self._disk.connection.execute("SELECT digest, refs FROM objects"))
        assert counted == referred, "the references to objects differ from a recount"
        assert set(referred) <= set(self._disk.objects), "an object is gone that a row refers to"
        used = "SELECT options FROM specs UNION SELECT options FROM sessions"
        (number,) = self._disk.connection.execute(
            f"SELECT count(*) FROM ({used}) WHERE options NOT IN (SELECT number FROM options)"
        ).fetchone()
        assert number == 0, "options are gone that a row refers to"

    def check_end(self) -> None:
        """Check that the story has ended well."""
        self.check_counters()
        execute, tables = self._disk.connection.execute, SqliteTaskTables(self._disk.connection, 0)
        assert execute("SELECT count(*) FROM results WHERE status = 1").fetchone() == (0,)
        assert execute("SELECT count(*) FROM waiting").fetchone() == (0,)
        assert execute("SELECT count(*) FROM tasks WHERE owner <> ''").fetchone() == (0,)
        assert execute("SELECT count(*) FROM specs WHERE digest IS NOT NULL").fetchone() == (0,), "payloads are left"
        assert self._disk.names == {row[0] for row in execute("SELECT digest FROM objects")}, "objects are left"
        selected = TaskFilter(sessions=tuple(self.sessions))
        tasks = {number: tables.task(number) for number in tables.task_numbers(selected)}
        for row in tasks.values():
            self._check_task(tables, row, tasks)
        for task_id, contents in self._committed.items():
            row = tables.task_by_id(task_id)
            assert row is not None and row.status is TaskStatus.COMPLETED, "an outcome that was acknowledged is lost"
            for key, content in contents.items():
                self._check_result(tables.result(row.session, key), ResultStatus.COMPLETED, content, row.number)
        for (session_id, key), (status, content, _) in self._finals.items():
            session = tables.session_by_id(session_id)
            assert session is not None
            self._check_result(tables.result(session.number, key), status, content)
        for task_id, request in self.created.items():
            session = tables.session_by_id(self.session_of[task_id])
            assert session is not None
            keys = request.expected_keys
            assert len(tables.results(session.number, keys)) == len(keys), f"results of {task_id} are lost"

    def check_nothing_is_left(self) -> None:
        """Check that every session is gone with all that belonged to it, when nothing has happened for long."""
        tables = ("sessions", "tasks", "specs", "results", "waiting", "task_counts", "objects", "deletions", "delayed")
        for table in (*tables, "options", "option_uses"):
            (number,) = self._disk.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
            assert number == 0, f"{number} {table} are left of sessions that are gone"
        assert not self._disk.names, "objects are left of sessions that are gone"

    def _check_task(self, tables: SqliteTaskTables, row: TaskRow, tasks: Mapping[int, TaskRow]) -> None:
        spec = tables.spec(row.spec)
        max_retries = tables.options(spec.options_number).max_retries
        assert row.status in TERMINAL and row.ended_s is not None and row.attempt <= max_retries
        assert row.next == 0 or tasks[row.next].attempt == row.attempt + 1
        if row.next != 0 and row.ended_s is not None:
            following = tasks[row.next]
            if following.started_s is not None:
                waited_s = following.started_s - row.ended_s
                assert waited_s >= self._delay.before(following.attempt) - 1e-6, f"{following.id} has begun too soon"
        is_running = tables.session(row.session).status is SessionStatus.RUNNING
        if row.id in self._failed:
            is_last = row.attempt == max_retries or not is_running
            assert row.status in ENDED_BADLY and (row.next != 0 or is_last), f"{row.id} was not tried again"
        if row.id in self._answered:
            assert row.next == 0, f"{row.id} was tried again although it had answered"
        if row.id in self._canceled:
            assert row.status is TaskStatus.CANCELED, f"{row.id} was canceled and is {row.status.name}"
        for key in spec.expected_keys:
            result = tables.result(row.session, key)
            if result is not None and result.owner == row.number and row.status is not TaskStatus.COMPLETED:
                assert result.status is ResultStatus.ABORTED, f"{key} of {row.id} is {result.status.name}"
        needed = [tables.result(row.session, key) for key in spec.dependencies]
        if any(result is not None and result.status is ResultStatus.ABORTED for result in needed):
            assert row.status in (TaskStatus.ERROR, TaskStatus.CANCELED), f"{row.id} ran without its input"
        elif row.status is TaskStatus.ERROR and row.started_s is None and not row.fence:
            raise AssertionError(f"{row.id} ended in ERROR and has never run")
        if spec.parent and row.attempt == 0:
            parent = tasks[spec.parent]
            if parent.status is not TaskStatus.COMPLETED:
                assert row.status is TaskStatus.CANCELED, f"{row.id} ran although {parent.id} has not succeeded"

    def _stays(self, task_id: str) -> bool:
        return task_id in self.created and self.session_of[task_id] not in self.going

    def _check_result(
        self, row: ResultRow | None, status: ResultStatus, content: bytes, owner: int | None = None
    ) -> None:
        assert row is not None and (owner is None or row.owner == owner)
        assert (row.status, self._content(row.value)) == (status, content), f"{row.key} has changed"

    def _content(self, value: Value) -> bytes:
        return value.data if value.ref is None else self._disk.objects[value.ref.digest]

    def _attempts(self, task_id: str) -> list[TaskRow]:
        tables = SqliteTaskTables(self._disk.connection, 0)
        first = tables.task_by_id(task_id)
        assert first is not None
        return tables.attempts(first.spec)


@functools.cache
def _reaches(before: TaskStatus, after: TaskStatus) -> bool:
    reached = {before}
    while True:
        further = reached | {status for known in reached for status in LEGAL.get(known, ())}
        if further == reached:
            return after in reached
        reached = further
