"""Attempts in the hands of agents: from the lease on, by way of subtasks, to an outcome or to a lease that is lost."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from runtime.errors import InvalidArgument, ResourceExhausted, Unavailable
from runtime.objects.objects import ObjectStore
from runtime.objects.value import Value
from runtime.store.store import Wait
from runtime.store.tasks import TaskStore, TaskTables
from runtime.tasks import completion, creation, endings, retries, transitions
from runtime.tasks.core import Core
from runtime.tasks.early import EarlyTasks
from runtime.tasks.leases import Lease, LeaseLost, LeaseTable
from runtime.tasks.limits import Limits
from runtime.tasks.model import FailureKind, TaskOptions, TaskRequest, TaskRow, TaskStatus
from runtime.tasks.outcomes import Outcomes
from runtime.tasks.scheduler import Scheduler

__all__ = ["AGENT_LOST", "Attempts"]

logger = logging.getLogger(__name__)

AGENT_LOST = "Other pod seems to have crashed, resubmitting task"

# Until a start is written on its own; an attempt that ends before is written once, with both.
_START_DELAY_S = 0.005
# The same for the fact that an agent has a task at all, of which nobody but a client who looks hears.
_DISPATCH_DELAY_S = 0.02
# What tasks are taken to last before one has ended, the weight of the latest in the mean, and up to where it is worth
# waiting for a task's end before its making is on disk.
_FIRST_DURATION_S = 1.0
_DURATION_WEIGHT = 0.2
_QUICK_S = 0.0007


class Attempts(Core):
    """The part of `runtime.tasks.tasks.Tasks` that is for agents.

    Attributes
    ----------
    leases : LeaseTable
        Of all attempts that agents have.
    scheduler : Scheduler
        Which task is next.
    early : EarlyTasks
        Those that begin before they are made.
    cancelling : dict of int to None
        Numbers of canceled sessions whose tasks are being canceled: none of these may begin.
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
        self.cancelling: dict[int, None] = {}
        self.leases = LeaseTable(self.limits.lease_ttl_s, self._expired)
        self.scheduler = Scheduler(self)
        self.early = EarlyTasks(self)
        self._outcomes = Outcomes(store, self.let_go)
        self._starting: list[Lease] = []
        # The mean of late, from a lease to its end.
        self._duration_s = _FIRST_DURATION_S
        self._start_timer: asyncio.TimerHandle | None = None
        self._dispatch_timer: asyncio.TimerHandle | None = None

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

    def start_lease(self, lease: Lease) -> None:
        """See `Lease.start`."""
        lease.check()
        lease.started_s = self.now_s()
        self._starting.append(lease)
        if self._start_timer is None:
            self._start_timer = self._loop.call_later(_START_DELAY_S, self._write_starts)

    def were_started(self, leases: Iterable[Lease]) -> None:
        """Have those written as PROCESSING, soon, whose tasks were made after the worker's call had begun."""
        started = [lease for lease in leases if lease.started_s is not None and not lease.is_ended]
        self._starting += started
        if started and self._start_timer is None:
            self._start_timer = self._loop.call_later(_START_DELAY_S, self._write_starts)

    def _write_starts(self) -> None:
        self._start_timer = None
        leases = [
            lease for lease in self._starting if not lease.is_ended and not lease.is_lost and lease.early is None
        ]
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

    def write_dispatches_soon(self) -> None:
        """Have those tasks written as DISPATCHED, some milliseconds from now, that agents still have by then."""
        if self._dispatch_timer is None:
            self._dispatch_timer = self._loop.call_later(_DISPATCH_DELAY_S, self._write_dispatches, self.leases.last)

    def _write_dispatches(self, until_fence: int) -> None:
        self._dispatch_timer = None
        if not self.leases:
            return
        if self.leases.first <= until_fence:
            self.in_background(self.store.write(lambda tables: tables.write_dispatches(until_fence)))
        if self.leases.last > until_fence:
            self.write_dispatches_soon()

    async def stage_subtasks(
        self, lease: Lease, requests: Sequence[TaskRequest], options: TaskOptions | None
    ) -> tuple[str, ...]:
        """See `Lease.stage_subtasks`."""
        values = [request.payload for request in requests if request.payload.ref is not None]
        await self._check(lease, values)
        lease.has_subtasks = True
        now_s = self.now_s()

        def stage(tables: TaskTables) -> tuple[str, ...]:
            task = endings.leased(tables, lease)
            if task.status is TaskStatus.CANCELING:
                raise creation.Refused(tuple(dict.fromkeys(request.id for request in requests)))
            if options is not None:
                self.check_options(options)
            # The next server looks for what is left of a task only where it finds that somebody had it.
            tables.write_dispatches(lease.fence)
            creation.stage_subtasks(tables, task, options, requests, now_s)
            return ()

        return await self._create(values, self.store.write(stage))

    # How they end

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
        is_recent = True
        for lease, _ in mine:
            is_recent = is_recent and lease.is_recent
        if mine:
            self._note_duration(mine[0][0])
        early = self.early.claim(lease for lease, _ in mine)

        def write(tables: TaskTables) -> TaskStatus:
            refused = early.make(tables) if early is not None else ()
            ended = [one for one in mine if one[0] not in refused] if refused else mine
            if lost := endings.succeed_all(tables, ended, now_s):
                tables.after_commit(lambda: self._lose_all(lost))
            return TaskStatus.COMPLETED

        writing = self._outcomes.write_now(write, Wait.FOR_TABLES if is_recent else Wait.NO)
        if early is not None:
            writing.add_done_callback(lambda written: early.written(written.exception()))
        recorded: asyncio.Future[None] = self._loop.create_future()
        writing.add_done_callback(functools.partial(self._all_written, recorded, mine, now_s))
        return recorded

    def _note_duration(self, lease: Lease) -> None:
        """Take note of how long it took from a task's lease to its end."""
        since_s = self._loop.time() - (lease.deadline - self.leases.ttl_s)
        self._duration_s += _DURATION_WEIGHT * (since_s - self._duration_s)

    @property
    def wait_for_end(self) -> Wait:
        """How the making of a task may wait that an idle worker begins with at once."""
        return Wait.FOR_NEXT if self._duration_s < _QUICK_S else Wait.FOR_TABLES

    def _all_written(
        self,
        recorded: asyncio.Future[None],
        ended: Sequence[tuple[Lease, Mapping[str, Value]]],
        now_s: float,
        writing: asyncio.Future[TaskStatus],
    ) -> None:
        error = writing.exception()
        if error is not None and (isinstance(error, (Unavailable, ResourceExhausted)) or len(ended) == 1):
            if not recorded.done():
                recorded.set_exception(error)  # the server stops, or it is the only one's own fault
            return
        if not recorded.done():
            recorded.set_result(None)
        if error is not None:
            # One of them is at fault; the others are written without it.
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

    async def _end(
        self,
        lease: Lease,
        end: Callable[[TaskTables, TaskRow, float], None],
        held: Sequence[Value] = (),
    ) -> TaskStatus:
        """End an attempt; one that is to be canceled is canceled, whatever else was to become of it.

        The outcome is kept as long as the disk fails: whoever waits for it may go away.
        """
        await self._check(lease, held)
        lease.is_ended = True
        self.leases.remove(lease)
        now_s = self.now_s()

        try:
            return await self._outcomes.write(lambda tables: endings.end_leased(tables, lease, end, now_s), held)
        except LeaseLost:
            self.lose(lease)
            raise

    async def _check(self, lease: Lease, held: Sequence[Value]) -> None:
        """Have the task of a lease made, if it is not; lets values go where the lease is lost."""
        try:
            if lease.early is not None:
                await self.early.made(lease)
            lease.check()
        except BaseException:
            self.let_go(held)
            raise

    # What ends otherwise

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


def _ignore(_: object) -> None:
    return None
