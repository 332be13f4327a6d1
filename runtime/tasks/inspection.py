"""Sessions, tasks and results for people: what there is, and why a task does not run. Reads only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from runtime.errors import InvalidArgument, NotFound
from runtime.tasks.model import (
    RUNNING,
    ResultStatus,
    SessionRow,
    SessionStatus,
    SpecRow,
    TaskOptions,
    TaskRow,
    TaskStatus,
)

if TYPE_CHECKING:
    from runtime.store.tasks import TaskTables
    from runtime.tasks.tasks import Tasks

__all__ = ["Inspector", "ResultLook", "SessionLook", "TaskLook", "Workforce"]

_S = TypeVar("_S", TaskStatus, ResultStatus)

MAX_PAGE = 10_000
# Dependencies that are named in a reason.
_NAMED = 5


class Workforce(NamedTuple):
    """Who could run a task.

    Attributes
    ----------
    slots : int
        Tasks that run at a time on workers that can be used.
    busy : int
        How many of them are taken.
    trouble : sequence of str
        Workers that cannot be used, each with the reason.
    progress : mapping of str to (float, str)
        What running attempts have said of themselves.
    places : mapping of str to str
        The worker that each running attempt is at.
    """

    slots: int
    busy: int
    trouble: Sequence[str]
    progress: Mapping[str, tuple[float, str]]
    places: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SessionLook:
    """A session, the options of its tasks, and its attempts by status."""

    row: SessionRow
    options: TaskOptions
    counts: Mapping[TaskStatus, int]


@dataclass(frozen=True, slots=True)
class ResultLook:
    """A result; ``status`` and ``owner`` are None where nothing makes it so far."""

    key: str
    status: ResultStatus | None
    owner: TaskRow | None
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class TaskLook:
    """A task with all that belongs to it; see ``runtime.v1.TaskDetail``."""

    row: TaskRow
    session: SessionRow
    options: TaskOptions
    results: Sequence[ResultLook]
    dependencies: Sequence[ResultLook]
    parent: str
    attempts: Sequence[TaskRow]
    payload_bytes: int
    why: Sequence[str]


class Inspector:
    """Looks at the tasks of a server.

    Parameters
    ----------
    tasks : Tasks
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def sessions(self, session_id: str = "") -> list[SessionLook]:
        """Return all sessions by age, or the one of that id.

        Raises
        ------
        NotFound
            There is none of that id.
        """

        def find(tables: TaskTables) -> list[SessionLook]:
            ids = [session_id] if session_id else tables.session_ids((), None, None)
            return [_session_look(tables, _session(tables, one)) for one in ids]

        return await self._tasks.store.read_in_thread(find)

    async def tasks(
        self, session_id: str, statuses: Sequence[str], after: int, limit: int
    ) -> tuple[list[tuple[TaskRow, str]], int]:
        """Return attempts in the order of their making, each with its session's id, and where the next page begins.

        Raises
        ------
        NotFound
            There is no such session.
        InvalidArgument
            For a status that does not exist.
        """
        numbers = [int(status) for status in _statuses(TaskStatus, statuses)]
        limit = _page(limit)

        def find(tables: TaskTables) -> tuple[list[tuple[TaskRow, str]], int]:
            session = _session(tables, session_id).number if session_id else None
            rows = tables.task_page(session, numbers, after, limit + 1)
            names: dict[int, str] = {}
            for row in rows:
                if row.session not in names and tables.has_session(row.session):
                    names[row.session] = tables.session(row.session).id
            page = rows[:limit]
            # Those of a session that is being deleted are on their way out.
            looks = [(row, names[row.session]) for row in page if row.session in names]
            return looks, page[-1].number if len(rows) > limit else 0

        return await self._tasks.store.read_in_thread(find)

    async def results(
        self, session_id: str, statuses: Sequence[str], after: int, limit: int
    ) -> tuple[list[ResultLook], int]:
        """Return results of a session in the order of their making, and where the next page begins.

        Raises
        ------
        NotFound, InvalidArgument
            As `tasks`.
        """
        numbers = [int(status) for status in _statuses(ResultStatus, statuses)]
        limit = _page(limit)
        if not session_id:
            raise InvalidArgument("session_id: must not be empty")

        def find(tables: TaskTables) -> tuple[list[ResultLook], int]:
            rows = tables.result_page(_session(tables, session_id).number, numbers, after, limit + 1)
            page = rows[:limit]
            looks = [ResultLook(row.key, row.status, tables.task(row.owner), row.value.size) for _, row in page]
            return looks, page[-1][0] if len(rows) > limit else 0

        return await self._tasks.store.read_in_thread(find)

    async def task(self, task_id: str, workforce: Workforce) -> TaskLook:
        """Return a task, and why it does not run.

        Raises
        ------
        NotFound
            There is none of that id.
        """
        now_s = self._tasks.now_s()

        def find(tables: TaskTables) -> TaskLook:
            row = tables.task_by_id(task_id)
            if row is None or not tables.has_session(row.session):
                raise NotFound(f"task {task_id!r} is not known: `tensor-runtime task list` shows those that are")
            spec = tables.spec(row.spec)
            session = tables.session(row.session)
            attempts = tables.attempts(row.spec)
            dependencies = [_result(tables, session.number, key) for key in spec.dependencies]
            return TaskLook(
                row, session, tables.options(spec.options_number),
                [_result(tables, session.number, key) for key in spec.expected_keys], dependencies,
                tables.task(spec.parent).id if spec.parent else "", attempts, spec.payload.size,
                _why(tables, attempts[-1], spec, session, dependencies, workforce, now_s),
            )

        return await self._tasks.store.read_in_thread(find)


def _session(tables: TaskTables, session_id: str) -> SessionRow:
    row = tables.session_by_id(session_id)
    if row is None:
        raise NotFound(f"session {session_id!r} is not known: `tensor-runtime session list` shows those that are")
    return row


def _session_look(tables: TaskTables, row: SessionRow) -> SessionLook:
    return SessionLook(row, tables.options(row.options_number), tables.counts(row.number))


def _result(tables: TaskTables, session: int, key: str) -> ResultLook:
    found = tables.result(session, key)
    if found is None:
        return ResultLook(key, None, None)
    return ResultLook(key, found.status, tables.task(found.owner), found.value.size)


def _statuses(kind: type[_S], names: Sequence[str]) -> list[_S]:
    found = []
    for name in names:
        try:
            found.append(kind[name.upper()])
        except KeyError:
            known = ", ".join(one.name for one in kind)
            raise InvalidArgument(f"status {name!r} does not exist; there are {known}") from None
    return found


def _page(limit: int) -> int:
    if limit > MAX_PAGE:
        raise InvalidArgument(f"limit is {limit}; at most {MAX_PAGE} come at once")
    return limit or 1000


def _why(
    tables: TaskTables, task: TaskRow, spec: SpecRow, session: SessionRow, dependencies: Sequence[ResultLook],
    workforce: Workforce, now_s: float,
) -> list[str]:
    """Say of the newest attempt why it does not run, or what it does instead."""
    status = task.status
    if status is TaskStatus.CREATING:
        if spec.parent:
            parent = tables.task(spec.parent)
            return [f"task {parent.id!r}, which asked for it, is {parent.status.name}; it is queued when that succeeds"]
        return ["it is being made"]
    if status in RUNNING:
        return _running(task, workforce, now_s)
    if status is TaskStatus.CANCELING:
        return [f"it is canceled, and {task.owner or 'its worker'} still has it"]
    if status is not TaskStatus.SUBMITTED:
        return [f"it has ended: {status.name}" + (f": {task.error}" if task.error else "")]
    reasons = []
    if task.attempt:
        reasons.append(f"attempt {task.attempt} failed before; {task.max_retries - task.attempt + 1} are left")
    if session.status is SessionStatus.CANCELED:
        return [f"its session {session.id!r} is canceled", *reasons]
    due_s = tables.delayed_until(task.number)
    if due_s is not None:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(due_s))
        left_s = max(0.0, due_s - now_s)
        return [f"it waits until {when}, {left_s:.1f} s more, before attempt {task.attempt + 1}", *reasons]
    if task.missing:
        return [*_missing(dependencies), *reasons]
    above, before = tables.ready_before(task)
    if not workforce.slots:
        reasons[:0] = [
            "no worker can be used: `tensor-runtime worker MODULE:FUNCTION --server TARGET` starts one",
            *workforce.trouble,
        ]
    elif workforce.busy >= workforce.slots:
        reasons.insert(0, f"all workers are busy, {workforce.busy} of {workforce.slots} places taken")
    else:
        reasons.insert(0, "it is about to be taken")
    if above:
        come = "task of higher priority than {} comes" if above == 1 else "tasks of higher priority than {} come"
        reasons.append(f"{above} {come.format(task.priority)} first")
    if before:
        reasons.append(f"{before} " + ("task of its session stands" if before == 1 else "tasks of its session stand")
                       + " before it")
    return reasons


def _running(task: TaskRow, workforce: Workforce, now_s: float) -> list[str]:
    where = workforce.places.get(task.id) or task.owner or "a worker"
    if task.started_s is None or task.status is TaskStatus.DISPATCHED:
        reasons = [f"{where} has it and gets its data"]
    else:
        reasons = [f"it has been running for {max(0.0, now_s - task.started_s):.1f} s at {where}"]
    told = workforce.progress.get(task.id)
    if told is not None:
        fraction, text = told
        reasons.append(f"it says that {fraction:.0%} is done" + (f": {text}" if text else ""))
    return reasons


def _missing(dependencies: Sequence[ResultLook]) -> list[str]:
    reasons = []
    left = [one for one in dependencies if one.status is not ResultStatus.COMPLETED]
    for one in left[:_NAMED]:
        if one.owner is None:
            reasons.append(f"it waits for the result {one.key!r}, which no task makes so far")
        else:
            reasons.append(
                f"it waits for the result {one.key!r} of task {one.owner.id!r}, which is {one.owner.status.name}"
            )
    if len(left) > _NAMED:
        reasons.append(f"it waits for {len(left) - _NAMED} more results")
    return reasons
