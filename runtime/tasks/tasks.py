"""The task plane's domain object: what services and agents call."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from runtime.errors import Error, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from runtime.objects.objects import ObjectStore, ValueWriter
from runtime.objects.value import UnusedObject, Value
from runtime.store.tasks import TaskStore, TaskTables
from runtime.tasks import cancellation, completion, creation, endings, retries, transitions
from runtime.tasks.delays import NO_DELAY, Delayed, Delays, RetryDelay
from runtime.tasks.filters import SessionFilter, TaskFilter
from runtime.tasks.leases import HEARTBEAT_S, TTL_S, Lease, LeaseLost, LeaseTable
from runtime.tasks.model import (
    FailureKind,
    ResultRow,
    ResultStatus,
    SessionRow,
    SessionStatus,
    TaskOptions,
    TaskRequest,
    TaskRow,
    TaskStatus,
)
from runtime.tasks.outcomes import Outcomes
from runtime.tasks.retention import Retention
from runtime.tasks.scheduler import Scheduler
from runtime.tasks.transitions import QueueEmpty, TaskChange, TaskChanges
from runtime.tasks.waiting import Waiting

__all__ = ["AGENT_LOST", "Limits", "ResultView", "TaskView", "Tasks"]

logger = logging.getLogger(__name__)

_V = TypeVar("_V")

AGENT_LOST = "Other pod seems to have crashed, resubmitting task"
# Results that are read on the loop at once.
_COLLECTED = 100
_MAX_DURATION_NS = 315_576_000_000 * 1_000_000_000

# Until a start is written on its own; an attempt that ends before is written once, with both.
_START_DELAY_S = 0.005
# Tasks that one write cancels: others have their turn between two of them.
_CANCELED_AT_ONCE = 500
# Session ids that are kept at hand for leases.
_SESSIONS_KEPT = 65536


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server is told about its task plane.

    Attributes
    ----------
    chunk_bytes : int
        Most bytes of one chunk, in and out.
    max_priority : int
        Priorities are below it.
    lease_ttl_s, heartbeat_s : float
        See `runtime.tasks.leases`.
    cancel_grace_s : float
        Seconds that the call of a canceled task may take to end before it is given up.
    retry_delay : RetryDelay
        How long attempts wait after a failure.
    retention_s : float
        See `runtime.tasks.retention.Retention`.
    """

    chunk_bytes: int = 84000
    max_priority: int = 10
    lease_ttl_s: float = TTL_S
    heartbeat_s: float = HEARTBEAT_S
    cancel_grace_s: float = 5.0
    retry_delay: RetryDelay = NO_DELAY
    retention_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as others see it: its row, and the id of its session."""

    row: TaskRow
    session: str


class ResultView(NamedTuple):
    """A result with the task that owns it now."""

    key: str
    status: ResultStatus
    value: Value
    owner: str
    owner_status: TaskStatus
    owner_error: str


class Tasks:
    """Sessions, tasks and results of one server. Belongs to the loop on which it was made.

    Parameters
    ----------
    store : TaskStore
        Where they are kept.
    objects : ObjectStore
        Where large payloads and results are kept.
    limits : Limits
        Sizes and times.
    now_s : callable
        Returns seconds since 1970; only for dates that are shown. What is measured is measured by the loop's clock.

    Attributes
    ----------
    on_ready : callable or None
        Called without arguments when tasks have got ready.
    cancelling : dict of int to None
        Numbers of canceled sessions whose tasks are being canceled: none of these may begin.

    Notes
    -----
    Awaitables resolve when what they did is on disk. Errors are those of :mod:`runtime.errors`.
    """

    def __init__(
        self,
        store: TaskStore,
        objects: ObjectStore,
        limits: Limits | None = None,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.objects = objects
        self.limits = limits or Limits()
        self.now_s = now_s
        self.leases = LeaseTable(self.limits.lease_ttl_s, self._expired)
        self.scheduler = Scheduler(self)
        self.waiting = Waiting(store)
        self.retention = Retention(self, self.limits.retention_s)
        self._delays = Delays(self)
        self.on_ready: Callable[[], object] | None = None
        self.cancelling: dict[int, None] = {}
        self._loop = asyncio.get_running_loop()
        self._outcomes = Outcomes(store, self.let_go)
        self._session_ids: dict[int, str] = {}
        self._starting: list[Lease] = []
        self._start_timer: asyncio.TimerHandle | None = None
        self._sweep: asyncio.Future[int] | None = None
        self._background: dict[asyncio.Future[Any], None] = {}
        store.watch(self._notify)

    async def start(self) -> None:
        """Take up what the last server left: attempts that were running have failed, those that were not go back.

        To be called once, before anything else.
        """
        now_s = self.now_s()

        def recover(tables: TaskTables) -> list[tuple[int, str]]:
            for task in tables.owned_tasks():
                if task.status is TaskStatus.DISPATCHED:
                    endings.release(tables, task, now_s)
                elif task.status is TaskStatus.PROCESSING:
                    retries.fail(tables, task, FailureKind.CALL, AGENT_LOST, now_s, self.limits.retry_delay)
                elif task.status is TaskStatus.CANCELING:
                    cancellation.end_canceling(tables, task, now_s)
            return tables.canceled_sessions_left()

        for number, session_id in await self.store.write(recover):
            self.cancelling[number] = None
            self.in_background(self._cancel_rest(number, session_id))
        self._sweep = asyncio.ensure_future(self.objects.sweep(self._referred))
        self.in_background(self._sweep)
        self.retention.start(self.store.read(lambda tables: tables.deletions_left()))
        due_s = self.store.read(lambda tables: tables.next_due())
        if due_s is not None:
            self._delays.arm(due_s)

    async def swept(self) -> int:
        """Wait until the objects that the last server left without a row are gone; return how many there were."""
        return 0 if self._sweep is None else await asyncio.shield(self._sweep)

    async def stop(self) -> None:
        """Let everybody who waits go, and give back what agents have not given back. The store is closed by others."""
        self.scheduler.close()
        self.waiting.close()
        self.retention.close()
        self._delays.close()
        self._outcomes.close()
        if self._start_timer is not None:
            self._start_timer.cancel()
            self._start_timer = None
        leases = self.leases.all()
        if leases:
            self.give_back(leases)
        while self._background:
            await asyncio.wait(self._background)
        await self._outcomes.written()
        self.leases.close()

    # Sessions

    async def create_session(self, session_id: str, options: TaskOptions) -> bool:
        """Make a session; False, and nothing else, if there is one of that id.

        Raises
        ------
        InvalidArgument
            For an empty id or options that cannot be used.
        """
        if not session_id:
            raise InvalidArgument("session id: must not be empty")
        self.check_options(options)
        now_s = self.now_s()

        def create(tables: TaskTables) -> bool:
            if tables.session_by_id(session_id) is not None:
                return False
            number = tables.number()
            options_number = tables.store_options(options, number)
            tables.insert_session(SessionRow(number, session_id, SessionStatus.RUNNING, options_number, now_s))
            return True

        return await self.store.write(create)

    async def cancel_session(self, session_id: str) -> None:
        """Cancel a session with all that has not ended in it.

        Raises
        ------
        NotFound
            It does not exist or is canceled already.
        """
        now_s = self.now_s()
        selection = TaskFilter(sessions=(session_id,))

        def cancel(tables: TaskTables) -> int | None:
            number = cancellation.begin_session(tables, session_id, now_s)
            if sum(tables.task_counts(selection).values()) > _CANCELED_AT_ONCE:
                # Here, for the next write may be an acquisition.
                self.cancelling[number] = None
                tables.after_rollback(lambda: self.cancelling.pop(number, None))
                return number
            cancellation.cancel_tasks(tables, tables.task_numbers(selection), now_s)
            return None

        number = await self.store.write(cancel)
        if number is not None:
            await self.shielded(self._cancel_rest(number, session_id))

    async def _cancel_rest(self, number: int, session_id: str) -> None:
        """Cancel the tasks of a canceled session, a part at a time; none of them begins meanwhile."""
        try:
            await self._cancel_in_parts(TaskFilter(sessions=(session_id,)))
        finally:
            self.cancelling.pop(number, None)

    async def _cancel_in_parts(self, selection: TaskFilter) -> None:
        numbers = await self.store.read_in_thread(lambda tables: tables.task_numbers(selection))
        for start in range(0, len(numbers), _CANCELED_AT_ONCE):
            part = numbers[start : start + _CANCELED_AT_ONCE]
            now_s = self.now_s()
            await self.store.write(
                lambda tables, part=part, now_s=now_s: cancellation.cancel_tasks(tables, part, now_s)  # type: ignore[misc]
            )

    def list_sessions(self, selection: SessionFilter) -> list[str]:
        """Return the ids of sessions, oldest first."""
        return self.store.read(
            lambda tables: tables.session_ids(selection.sessions, selection.included, selection.excluded)
        )

    # Tasks

    def check_options(self, options: TaskOptions) -> None:
        """Raise InvalidArgument for options that no task may have."""
        if options.max_retries < 1:
            raise InvalidArgument(f"task options: max_retries is {options.max_retries}, it must be at least 1")
        if not 1 <= options.priority <= 99:
            raise InvalidArgument(f"task options: priority is {options.priority}, it must be from 1 to 99")
        if not 0 < options.max_duration_ns <= _MAX_DURATION_NS:
            raise InvalidArgument(
                f"task options: max_duration is {options.max_duration_ns / 1e9:g} s, it must be positive"
            )
        if options.priority >= self.limits.max_priority:
            raise InvalidArgument(f"Max priority is {self.limits.max_priority}")

    async def create_tasks(
        self, session_id: str, requests: Sequence[TaskRequest], options: TaskOptions | None = None
    ) -> tuple[str, ...]:
        """Make tasks and queue them; return the ids that stand against it, () if all were made.

        Parameters
        ----------
        requests : sequence of TaskRequest
            At least one. Values of payloads that lie in objects are let go here, whatever happens.
        options : TaskOptions, optional
            None: the session's.

        Raises
        ------
        NotFound, FailedPrecondition
            The session does not exist, or is canceled.
        InvalidArgument
            For options that cannot be used.
        """
        values = [request.payload for request in requests if request.payload.ref is not None]
        now_s = self.now_s()
        take_along = self.scheduler.take_along()

        def create(tables: TaskTables) -> tuple[str, ...]:
            if options is not None:
                self.check_options(options)
            creation.create_tasks(tables, session_id, options, requests, now_s)
            if take_along is not None:
                take_along(tables)
            return ()

        write = self.store.write(create)
        if take_along is not None:
            write.add_done_callback(self.scheduler.along_ended)
        return await self._create(values, write)

    def check_session(self, session_id: str) -> None:
        """Raise what `create_tasks` would for a session that takes no tasks."""
        self.store.read(lambda tables: creation.open_session(tables, session_id))

    async def cancel_tasks(self, selection: TaskFilter) -> None:
        """Cancel the selected tasks that have not ended; many of them a part at a time."""
        selection.check()
        now_s = self.now_s()

        def cancel(tables: TaskTables) -> bool:
            numbers = tables.task_numbers(selection)
            is_small = len(numbers) <= _CANCELED_AT_ONCE
            if is_small:
                cancellation.cancel_tasks(tables, numbers, now_s)
            return is_small

        if not await self.store.write(cancel):
            await self._cancel_in_parts(selection)

    async def list_tasks(self, selection: TaskFilter) -> list[str]:
        """Return the ids of the selected tasks, oldest first."""
        selection.check()
        return await self.store.read_in_thread(lambda tables: tables.task_ids(selection))

    async def count_tasks(self, selection: TaskFilter) -> dict[TaskStatus, int]:
        """Return how many of the selected tasks have which status, by ascending status."""
        selection.check()
        if selection.sessions is not None:
            return self.store.read(lambda tables: tables.task_counts(selection))
        return await self.store.read_in_thread(lambda tables: tables.task_counts(selection))

    async def task_statuses(self, ids: Sequence[str]) -> dict[str, TaskStatus]:
        """Return the status of each known task of ``ids``, in that order."""
        if len(ids) <= 100:
            return self.store.read(lambda tables: tables.task_statuses(ids))
        return await self.store.read_in_thread(lambda tables: tables.task_statuses(ids))

    def task(self, task_id: str) -> TaskView:
        """Return a task.

        Raises
        ------
        NotFound
            There is none of that id.
        """

        def find(tables: TaskTables) -> TaskView:
            row = tables.task_by_id(task_id)
            if row is None or not tables.has_session(row.session):
                raise NotFound(f"task {task_id!r} is not known")
            return TaskView(row, self.session_id(tables, row.session))

        return self.store.read(find)

    # Results

    async def result_statuses(self, session_id: str, keys: Sequence[str]) -> dict[str, ResultStatus]:
        """Return the status of each known result of ``keys``, in that order."""

        def find(tables: TaskTables) -> dict[str, ResultStatus]:
            session = tables.session_by_id(session_id)
            if session is None:
                return {}
            return {result.key: result.status for result in tables.results(session.number, keys)}

        return self.store.read(find) if len(keys) <= 100 else await self.store.read_in_thread(find)

    def result(self, session_id: str, key: str) -> ResultView:
        """Return a result and its owner.

        Raises
        ------
        NotFound
            There is none of that key in that session.
        """

        def find(tables: TaskTables) -> ResultView:
            session = tables.session_by_id(session_id)
            found = None if session is None else tables.result(session.number, key)
            if found is None:
                raise NotFound(f"result {key!r} is not known in session {session_id!r}")
            owner = tables.task(found.owner)
            return ResultView(key, found.status, found.value, owner.id, owner.status, owner.error)

        return self.store.read(find)

    async def collect(self, session_id: str, keys: Sequence[str]) -> AsyncGenerator[list[ResultView], None]:
        """Yield results of a session, some at a time, as soon as they are there or never will be.

        Raises
        ------
        NotFound
            There is no such session, or not all of the results.
        """
        collector = await self.waiting.collect(session_id, keys)
        try:
            while settled := await collector.next():
                known = [_completed(key, value) for key, value in settled.items() if value is not None]
                if known:
                    yield known
                rest = [key for key, value in settled.items() if value is None]
                for start in range(0, len(rest), _COLLECTED):
                    some = rest[start : start + _COLLECTED]
                    yield self.store.read(lambda tables, some=some: _views(tables, session_id, some))  # type: ignore[misc]
        finally:
            collector.leave()

    def read(self, value: Value, chunk_bytes: int | None = None) -> AsyncIterator[bytes]:
        """Return the pieces of a value; of at most `Limits.chunk_bytes` unless said otherwise."""
        return self.objects.read(value, chunk_bytes or self.limits.chunk_bytes)

    def writer(self, inline_bytes: int | None = None) -> ValueWriter:
        """Return a writer for the payload of a task that is to be made.

        Parameters
        ----------
        inline_bytes : int, optional
            Values of at most so many bytes stay bytes; None: as many as the object store says.
        """
        return self.objects.writer(inline_bytes)

    def discard(self, values: Iterable[Value]) -> None:
        """Let values go that were written and that nobody will refer to."""
        self.let_go([value for value in values if value.ref is not None])

    async def wait_for_result(self, session_id: str, key: str) -> ResultView:
        """Wait until a result is COMPLETED or ABORTED, and return it.

        Raises
        ------
        NotFound
            There is none of that key in that session now.
        Unavailable
            The server stops.
        """
        await self.waiting.result(session_id, key)
        return self.result(session_id, key)

    async def wait_for_tasks(
        self, selection: TaskFilter, *, on_error: bool = False, on_cancel: bool = False
    ) -> dict[TaskStatus, int]:
        """Wait until all selected tasks have ended, newest attempts included; return how many have which status.

        Parameters
        ----------
        on_error, on_cancel : bool
            Whether the first task that ended badly for good, or that is canceled, ends the wait too.
        """
        selection.check()
        return await self.waiting.completion(selection, on_error=on_error, on_cancel=on_cancel)

    # For agents

    async def acquire(self, agent: str, limit: int = 1) -> list[Lease]:
        """Wait until a task is ready, and return leases of up to ``limit`` ready tasks, at least one.

        Parameters
        ----------
        agent : str
            Who asks; not empty.
        limit : int
            More than 1 for an agent that hands several to its worker at a time.

        Raises
        ------
        Unavailable
            The server stops.

        Notes
        -----
        Cancelling loses nothing: what was about to be handed out goes back to its place.
        """
        if not agent:
            raise InvalidArgument("agent: must not be empty")
        return await self.scheduler.acquire(agent, limit)

    def give_back(self, leases: Iterable[Lease]) -> None:
        """Put tasks that were acquired and not started back to their places, soon."""
        for lease in leases:
            if not lease.is_ended and not lease.is_lost:
                self.in_background(self._end(lease, endings.release))

    def confirm_soon(self, lease: Lease) -> None:
        """Say, without waiting for the disk, that nothing runs of a task that is to be canceled."""
        self.in_background(self.confirm_cancelled(lease))

    def lose(self, lease: Lease) -> None:
        """Tell an agent that a lease is not its own any more."""
        self.leases.remove(lease)
        lease.is_lost = True
        lease.interrupt()

    def session_id(self, tables: TaskTables, number: int) -> str:
        """Return the id of a session by its number."""
        found = self._session_ids.get(number)
        if found is None:
            if len(self._session_ids) >= _SESSIONS_KEPT:
                self._session_ids.clear()
            found = self._session_ids[number] = tables.session(number).id
        return found

    async def common_data(self, session_id: str, key: str) -> Value | None:
        """Return the value of a COMPLETED result of a session, or None."""

        def find(tables: TaskTables) -> ResultRow | None:
            session = tables.session_by_id(session_id)
            return None if session is None else tables.result(session.number, key)

        found = self.store.read(find)
        if found is None or found.status is not ResultStatus.COMPLETED:
            # A task may run because of a result that is on its way to the disk, as its own lease is.
            found = await self.store.write(find)
        return found.value if found is not None and found.status is ResultStatus.COMPLETED else None

    def start_lease(self, lease: Lease) -> None:
        """See `Lease.start`."""
        lease.check()
        lease.started_s = self.now_s()
        self._starting.append(lease)
        if self._start_timer is None:
            self._start_timer = self._loop.call_later(_START_DELAY_S, self._write_starts)

    async def stage_subtasks(
        self, lease: Lease, requests: Sequence[TaskRequest], options: TaskOptions | None
    ) -> tuple[str, ...]:
        """See `Lease.stage_subtasks`."""
        values = [request.payload for request in requests if request.payload.ref is not None]
        try:
            lease.check()
        except LeaseLost:
            self.let_go(values)
            raise
        lease.has_subtasks = True
        now_s = self.now_s()

        def stage(tables: TaskTables) -> tuple[str, ...]:
            task = endings.leased(tables, lease)
            if task.status is TaskStatus.CANCELING:
                raise creation.Refused(tuple(dict.fromkeys(request.id for request in requests)))
            if options is not None:
                self.check_options(options)
            creation.stage_subtasks(tables, task, options, requests, now_s)
            return ()

        return await self._create(values, self.store.write(stage))

    async def succeed(self, lease: Lease, values: Mapping[str, Value]) -> TaskStatus:
        """See `Lease.succeed`."""
        held = [value for value in values.values() if value.ref is not None]

        def succeed(tables: TaskTables, task: TaskRow, now_s: float) -> None:
            completion.succeed(tables, task, values, now_s, has_subtasks=lease.has_subtasks)

        return await self._end(lease, succeed, held)

    def succeed_all(self, ended: Iterable[tuple[Lease, Mapping[str, Value]]]) -> asyncio.Future[None]:
        """Record the success of many attempts with one write; see `Lease.succeed`.

        Parameters
        ----------
        ended : iterable of (Lease, mapping of str to Value)
            Values have no objects. What is recorded of leases that are lost is nothing.
        """
        mine = []
        for lease, values in ended:
            if not lease.is_ended and not lease.is_lost:
                lease.is_ended = True
                self.leases.remove(lease)
                mine.append((lease, values))
        now_s = self.now_s()

        def write(tables: TaskTables) -> TaskStatus:
            if lost := endings.succeed_all(tables, mine, now_s):
                tables.after_commit(lambda: self._lose_all(lost))
            return TaskStatus.COMPLETED

        return asyncio.ensure_future(self._record_all(self._outcomes.write_now(write), mine, now_s))

    async def _record_all(
        self,
        writing: asyncio.Future[TaskStatus],
        ended: Sequence[tuple[Lease, Mapping[str, Value]]],
        now_s: float,
    ) -> None:
        try:
            await writing
        except (Unavailable, ResourceExhausted):
            raise  # the server stops
        except Exception:
            # One of them is at fault; the others are written without it.
            if len(ended) == 1:
                raise
            for lease, values in ended:
                self.in_background(
                    self._outcomes.write(
                        functools.partial(endings.succeed, lease=lease, values=values, now_s=now_s)
                    )
                )

    def _lose_all(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            self.lose(lease)

    async def report_error(self, lease: Lease, text: str) -> TaskStatus:
        """See `Lease.report_error`."""
        return await self._end(lease, lambda tables, task, now_s: completion.end_with_error(tables, task, text, now_s))

    async def fail(self, lease: Lease, kind: FailureKind, text: str) -> TaskStatus:
        """See `Lease.fail`."""
        return await self._end(
            lease,
            lambda tables, task, now_s: _ignore(
                retries.fail(tables, task, kind, text, now_s, self.limits.retry_delay)
            ),
        )

    async def release(self, lease: Lease) -> TaskStatus:
        """See `Lease.release`."""
        return await self._end(lease, endings.release)

    async def confirm_cancelled(self, lease: Lease) -> None:
        """See `Lease.confirm_cancelled`."""
        await self._end(lease, endings.release)

    # Inside

    async def _create(
        self, held: Sequence[Value], write: asyncio.Future[tuple[str, ...]]
    ) -> tuple[str, ...]:
        """Wait for a creation whose payloads are held; the ids that stand against it are an answer, no error."""
        try:
            # What is being written must not be let go because its caller has gone.
            return await (self.shielded(self._write_held(write, held)) if held else write)
        except creation.Refused as refused:
            return refused.ids

    async def _write_held(self, write: asyncio.Future[_V], held: Sequence[Value]) -> _V:
        try:
            return await write
        finally:
            self.let_go(held)

    async def _end(
        self,
        lease: Lease,
        end: Callable[[TaskTables, TaskRow, float], None],
        held: Sequence[Value] = (),
    ) -> TaskStatus:
        """End an attempt; one that is to be canceled is canceled, whatever else was to become of it.

        The outcome is kept as long as the disk fails: whoever waits for it may go away.
        """
        try:
            lease.check()
        except LeaseLost:
            self.let_go(held)
            raise
        lease.is_ended = True
        self.leases.remove(lease)
        now_s = self.now_s()

        try:
            return await self._outcomes.write(lambda tables: endings.end_leased(tables, lease, end, now_s), held)
        except LeaseLost:
            self.lose(lease)
            raise

    async def shielded(self, work: Coroutine[Any, Any, _V]) -> _V:
        """Do work that goes on when its caller goes away."""
        task = self._loop.create_task(work)
        self._background[task] = None
        task.add_done_callback(lambda done: self._background.pop(done, None))
        return await asyncio.shield(task)

    def _write_starts(self) -> None:
        self._start_timer = None
        leases = [lease for lease in self._starting if not lease.is_ended and not lease.is_lost]
        self._starting.clear()
        if not leases:
            return

        def write(tables: TaskTables) -> None:
            for lease in leases:
                task = tables.find_task(lease.number)
                if task is not None and task.fence == lease.fence and task.status is TaskStatus.DISPATCHED:
                    assert lease.started_s is not None
                    transitions.move_task(tables, task, TaskStatus.PROCESSING, now_s=lease.started_s)

        self.in_background(self.store.write(write))

    def _expired(self, lease: Lease) -> None:
        """Take a lease away from an agent that gives no sign of life."""
        self.lose(lease)
        logger.warning(
            "an agent gave no sign of life and loses its task", extra={"agent": lease.owner, "task": lease.task.id}
        )
        self.in_background(self._fail_lost(lease))

    def _fail_lost(self, lease: Lease) -> asyncio.Future[TaskStatus]:
        delay = self.limits.retry_delay
        return self._outcomes.write(lambda tables: endings.fail_lost(tables, lease, AGENT_LOST, self.now_s(), delay))

    def _notify(self, changes: list[Any]) -> None:
        is_ready = False
        for change in changes:
            if isinstance(change, TaskChange):
                is_ready = is_ready or change.is_ready
                if change.after is TaskStatus.CANCELING:
                    self._cancelling(change.number)
            elif isinstance(change, TaskChanges):
                is_ready = is_ready or change.has_ready
            elif isinstance(change, QueueEmpty):
                # What got ready before this was taken by the same write, or one before it.
                is_ready = self.scheduler.has_ready = False
            elif isinstance(change, UnusedObject):
                self.objects.remove(change.digest)
            elif isinstance(change, Delayed):
                self._delays.arm(change.due_s)
        self.waiting.notify(changes)
        if is_ready:
            self.scheduler.has_ready = True
            self.scheduler.wake()
            if self.on_ready is not None:
                self.on_ready()

    def _cancelling(self, number: int) -> None:
        lease = self.leases.of_task(number)
        if lease is None or lease.is_ended:
            return
        lease.is_cancelled = True
        lease.interrupt()
        self._loop.call_later(self.limits.cancel_grace_s, self._cancel_is_due, lease)

    def _cancel_is_due(self, lease: Lease) -> None:
        """End a canceled attempt whose agent has not said that its call is gone."""
        if not lease.is_ended and not lease.is_lost:
            self.lose(lease)
            self.in_background(self._fail_lost(lease))

    def let_go(self, values: Sequence[Value]) -> None:
        """Hold these values no longer, and remove those that no row refers to."""
        if not values:
            return
        self.objects.let_go(values)
        digests = [value.ref.digest for value in values if value.ref is not None]
        try:
            referred = self.store.read(lambda tables: tables.referred(digests))
        except Error:
            return  # the next start finds them
        for digest in digests:
            if digest not in referred:
                self.objects.remove(digest)

    async def _referred(self, digests: list[bytes]) -> set[bytes]:
        return await self.store.read_in_thread(lambda tables: tables.referred(digests))

    def in_background(self, work: Any) -> None:
        """Do work for which nobody waits; `stop` does."""
        future = asyncio.ensure_future(work)
        self._background[future] = None
        future.add_done_callback(self._background_done)

    def _background_done(self, future: asyncio.Future[Any]) -> None:
        self._background.pop(future, None)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, LeaseLost):
            logger.warning("work of the task plane failed: %s", error)


def _completed(key: str, value: Value) -> ResultView:
    """Return the view of a result that is there: nobody asks whose it was."""
    return ResultView(key, ResultStatus.COMPLETED, value, "", TaskStatus.COMPLETED, "")


def _views(tables: TaskTables, session_id: str, keys: Sequence[str]) -> list[ResultView]:
    session = tables.session_by_id(session_id)
    assert session is not None, f"no session {session_id!r}"
    views = []
    for row in tables.results(session.number, keys):
        if row.status is ResultStatus.COMPLETED:
            views.append(_completed(row.key, row.value))
        else:
            owner = tables.task(row.owner)
            views.append(ResultView(row.key, row.status, row.value, owner.id, owner.status, owner.error))
    return views


def _ignore(_: object) -> None:
    return None

