"""The task plane's domain object: what services and agents call.

Here are the lives of sessions, and what makes and cancels tasks; `runtime.tasks.views` has what is to be seen of them,
`runtime.tasks.attempts` what agents do with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from runtime.errors import InvalidArgument
from runtime.objects.objects import ObjectStore
from runtime.objects.value import UnusedObject
from runtime.store.store import Wait
from runtime.store.tasks import TaskStore, TaskTables
from runtime.tasks import cancellation, creation, endings, retries
from runtime.tasks.attempts import AGENT_LOST, Attempts
from runtime.tasks.delays import Delayed, Delays
from runtime.tasks.filters import TaskFilter
from runtime.tasks.following import Follower
from runtime.tasks.limits import Limits
from runtime.tasks.model import FailureKind, SessionRow, SessionStatus, TaskOptions, TaskRequest, TaskStatus
from runtime.tasks.retention import Retention
from runtime.tasks.transitions import QueueEmpty, TaskChange, TaskChanges
from runtime.tasks.views import ResultView, TaskView, Views

__all__ = ["AGENT_LOST", "Limits", "ResultView", "TaskView", "Tasks"]

# Tasks that one write cancels: others have their turn between two of them.
_CANCELED_AT_ONCE = 500


class Tasks(Views, Attempts):
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
        super().__init__(store, objects, limits, now_s=now_s)
        self.retention = Retention(self, self.limits.retention_s)
        self._delays = Delays(self)
        self.on_ready: Callable[[], object] | None = None
        self._sweep: asyncio.Future[int] | None = None
        store.watch(self._notify)

    async def start(self) -> None:
        """Take up what the last server left: attempts that were running have failed, those that were not go back.

        To be called once, before anything else.
        """
        now_s = self.now_s()
        self.objects.take_up(self.store.read(lambda tables: tables.all_objects()))

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
        self.early.close()
        self.waiting.close()
        self.retention.close()
        self._delays.close()
        self._outcomes.close()
        for timer in (self._start_timer, self._dispatch_timer):
            if timer is not None:
                timer.cancel()
        self._start_timer = self._dispatch_timer = None
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

    # Tasks

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
        return await self._create(values, self.submit(session_id, requests, options))

    async def create_groups(
        self, session_id: str, groups: Sequence[Sequence[TaskRequest]], options: TaskOptions | None = None
    ) -> tuple[int, tuple[str, ...]]:
        """Make tasks as by `create_tasks` for one group after the other, up to the first that is refused.

        Returns
        -------
        tuple of (int, tuple of str)
            How many groups were made, and the ids that stand against the next one.

        Raises
        ------
        Error
            As `create_tasks`; then a beginning of the groups may have been made.
        """
        return await self.shielded(self._create_groups(session_id, groups, options))

    async def _create_groups(
        self, session_id: str, groups: Sequence[Sequence[TaskRequest]], options: TaskOptions | None
    ) -> tuple[int, tuple[str, ...]]:
        number = 0
        try:
            if len(groups) > 1:
                # With one write; it is an exception that one of them is refused.
                with contextlib.suppress(creation.Refused):
                    await self.submit(session_id, [request for group in groups for request in group], options)
                    number = len(groups)
            while number < len(groups):
                await self.submit(session_id, groups[number], options)
                number += 1
        except creation.Refused as refused:
            return number, refused.ids
        finally:
            for index, group in enumerate(groups):
                held = [request.payload for request in group if request.payload.ref is not None]
                self.let_go(held, are_stored=index < number)
        return number, ()

    def submit(
        self,
        session_id: str,
        requests: Sequence[TaskRequest],
        options: TaskOptions | None = None,
        follower: Follower | None = None,
        tag: Any = None,
    ) -> asyncio.Future[tuple[str, ...]]:
        """Do as `create_tasks`, for payloads that lie in no objects; what fails, and what is refused, is in the future.

        Parameters
        ----------
        follower : Follower, optional
            Follows their results, with ``tag`` to tell them by; see `Follower.expect`.

        Raises
        ------
        runtime.tasks.creation.Refused
            Ids stand against it.
        """
        now_s = self.now_s()
        take_along = self.scheduler.take_along()

        def create(tables: TaskTables) -> tuple[str, ...]:
            if options is not None:
                self.check_options(options)
            session = creation.create_tasks(tables, session_id, options, requests, now_s)
            if follower is not None:
                keys = [key for request in requests for key in request.expected_keys]
                tables.after_commit(lambda: follower.follow(session_id, session.number, tag, keys))
            if take_along is not None:
                take_along(tables)
            return ()

        # Who follows results is told of them, and does not ask. An idle worker may be done before the task is on disk.
        wait = Wait.NO if follower is None else Wait.FOR_TABLES if take_along is None else self.wait_for_end
        write = self.store.write(create, wait)
        if take_along is not None:
            write.add_done_callback(self.scheduler.along_ended)
        return write

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

    # What the store tells

    def _notify(self, changes: list[Any]) -> None:
        is_ready = False
        for change in changes:
            kind = type(change)
            if kind is TaskChange:
                is_ready = is_ready or change.is_ready
                if change.after is TaskStatus.CANCELING:
                    self._cancelling(change.number)
            elif kind is TaskChanges:
                is_ready = is_ready or change.has_ready
                if change.after is TaskStatus.DISPATCHED:
                    self.write_dispatches_soon()
            elif kind is QueueEmpty:
                # What got ready before this was taken by the same write, or one before it.
                is_ready = self.scheduler.has_ready = False
            elif kind is UnusedObject:
                self.objects.remove(change.digest)
            elif kind is Delayed:
                self._delays.arm(change.due_s)
        self.waiting.notify(changes)
        if is_ready:
            self.scheduler.has_ready = True
            self.scheduler.wake()
            if self.on_ready is not None:
                self.on_ready()
