"""A lease: the right of one agent to run one attempt and to record its outcome, as long as it shows that it lives.

Every lease has a fence, a number that no other lease has. The store keeps the fence of a task's last lease, and
whatever an agent does with a task says under which fence: so what comes late, or twice, or from an agent that was given
up, changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import Aborted, DataLoss
from runtime.objects.value import Value
from runtime.tasks.model import FailureKind, TaskOptions, TaskRequest, TaskStatus

if TYPE_CHECKING:
    from runtime.objects.objects import ValueWriter
    from runtime.tasks.attempts import Attempts
    from runtime.tasks.early import EarlyGroup

__all__ = ["AGENTS", "HEARTBEAT_S", "TTL_S", "Lease", "LeaseLost", "LeaseTable", "LeasedTask"]

AGENTS = "agents"
"""Who holds leases that are dealt out among the agents of a server."""
TTL_S = 20.0
"""Seconds without a sign of life after which a lease is taken away, unless configured otherwise."""
HEARTBEAT_S = 5.0
"""Seconds between two signs of life."""


class LeaseLost(Aborted):
    """The attempt is not this agent's any more; nothing of what was asked for has happened."""


class LeasedTask(NamedTuple):
    """What an agent has to know of a task.

    Attributes
    ----------
    id, session : str
        Of the attempt, and of its session.
    attempt : int
        0 for the first.
    options : TaskOptions
        As resolved at creation.
    expected_keys, dependencies : tuple of str
        In the order of the request.
    payload : Value
        The input; read it by `Lease.read_payload`.
    inputs : mapping of str to Value
        The values of the dependencies that are there.
    """

    id: str
    session: str
    attempt: int
    options: TaskOptions
    expected_keys: tuple[str, ...]
    dependencies: tuple[str, ...]
    payload: Value
    inputs: Mapping[str, Value] = {}


class Lease:
    """One attempt in the hands of one agent. Belongs to the loop of its `Tasks`.

    An attempt ends by exactly one of `succeed`, `report_error`, `fail`, `release` and `confirm_cancelled`. All raise
    :class:`LeaseLost` when it has been taken away before; then nothing is left to do for the agent but to stop the
    call. They resolve when the outcome is on disk, and keep at it while the disk fails: an agent need not wait for
    that before it turns to its next task, and may go away meanwhile.

    Attributes
    ----------
    task : LeasedTask
        What is to be run.
    interrupted : asyncio.Event
        Set when the call is to be stopped: the task is to be canceled, or the lease is lost.
    is_interrupted : bool
        Whether it is set.
    is_cancelled, is_lost : bool
        Which of them.
    on_interrupt : callable or None
        Called without arguments when `interrupted` is set.
    is_recent : bool
        Whether the task was made a moment ago, so that its end may wait as its making did (`runtime.store.store.Wait`).
    early : EarlyGroup or None
        What the task belongs to as long as it is not made (`runtime.tasks.early`).
    deadline : float
        Time of the loop at which the lease ends without a sign of life.
    """

    def __init__(
        self, tasks: Attempts, number: int, session_number: int, fence: int, owner: str, task: LeasedTask
    ) -> None:
        self.task = task
        self.number = number
        self.session_number = session_number
        self.fence = fence
        self.owner = owner
        self.is_interrupted = False
        self._interrupted: asyncio.Event | None = None
        self.on_interrupt: Callable[[], object] | None = None
        self.is_cancelled = False
        self.is_lost = False
        self.is_ended = False
        self.has_subtasks = False
        self.is_recent = False
        self.early: EarlyGroup | None = None
        self.started_s: float | None = None
        self.deadline = 0.0
        self._tasks = tasks

    @property
    def interrupted(self) -> asyncio.Event:
        """See the class."""
        # Made when it is asked for: few leases are interrupted, and fewer are waited for.
        if self._interrupted is None:
            self._interrupted = asyncio.Event()
            if self.is_interrupted:
                self._interrupted.set()
        return self._interrupted

    # Input

    def read_payload(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of the payload; see `runtime.objects.objects.ObjectStore.read`."""
        return self._tasks.objects.read(self.task.payload, chunk_bytes)

    def dependency(self, key: str) -> Value:
        """Return the value of a dependency.

        Raises
        ------
        DataLoss
            There is none, although the task was ready.
        """
        value = self.task.inputs.get(key)
        if value is None:
            raise DataLoss(f"the data of dependency {key!r} of task {self.task.id!r} is not there")
        return value

    def read(self, value: Value, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of a value."""
        return self._tasks.objects.read(value, chunk_bytes)

    # Life

    async def start(self) -> None:
        """Say that the worker's call begins now: the task becomes PROCESSING, some milliseconds later at most.

        Returns at once as a rule. An attempt that ends sooner is recorded with its start and its end together.
        """
        self._tasks.start_lease(self)

    def renew(self) -> None:
        """Give a sign of life, at least every `HEARTBEAT_S` seconds."""
        self.check()
        self._tasks.leases.renew(self)

    def interrupt(self) -> None:
        """Tell the agent that the call is to be stopped."""
        if not self.is_interrupted:
            self.is_interrupted = True
            if self._interrupted is not None:
                self._interrupted.set()
            if self.on_interrupt is not None:
                self.on_interrupt()

    def check(self) -> None:
        """Raise LeaseLost if the attempt is not the agent's any more."""
        if self.is_lost or self.is_ended:
            raise LeaseLost(f"task {self.task.id!r}: the lease of agent {self.owner!r} has ended")

    # Output

    def result_writer(self) -> ValueWriter:
        """Return a writer for the value of a result, or the payload of a subtask."""
        return self._tasks.objects.writer()

    async def stage_subtasks(
        self, requests: Sequence[TaskRequest], options: TaskOptions | None = None
    ) -> tuple[str, ...]:
        """Make subtasks, CREATING until the attempt ends well; return the ids that stand against it, () if none.

        Parameters
        ----------
        options : TaskOptions, optional
            None: the session's default.

        Raises
        ------
        InvalidArgument
            For options or requests that no client could use either; nothing is made.
        """
        return await self._tasks.stage_subtasks(self, requests, options)

    async def succeed(self, values: Mapping[str, Value]) -> TaskStatus:
        """Record the worker's ``output.ok`` with the values of its results, by key.

        Returns
        -------
        TaskStatus
            COMPLETED; ERROR when a key is not the task's own; CANCELED when it was to be canceled.
        """
        return await self._tasks.succeed(self, values)

    async def report_error(self, text: str) -> TaskStatus:
        """Record the worker's ``output.error``: an answer, so no retry. Returns ERROR, or CANCELED."""
        return await self._tasks.report_error(self, text)

    async def fail(self, kind: FailureKind, text: str) -> TaskStatus:
        """Record that there is no answer; a further attempt follows if the kind is retried and one is left.

        Returns
        -------
        TaskStatus
            ERROR or TIMEOUT, of this attempt; CANCELED when it was to be canceled.
        """
        return await self._tasks.fail(self, kind, text)

    async def release(self) -> TaskStatus:
        """Give the task back to the queue as if it had not been acquired. Returns SUBMITTED, or CANCELED."""
        return await self._tasks.release(self)

    async def confirm_cancelled(self) -> None:
        """Say that the call of a task that is to be canceled is gone."""
        await self._tasks.confirm_cancelled(self)

    def __repr__(self) -> str:
        return f"<Lease {self.fence & 0xFFFFFFFFFF} of {self.task.id!r} by {self.owner!r}>"


class LeaseTable:
    """The leases that agents of this process hold, and the watch over them.

    Parameters
    ----------
    ttl_s : float
        Seconds that a lease lives without a sign of life.
    expired : callable
        Called with a lease whose time is over.
    """

    def __init__(self, ttl_s: float, expired: Callable[[Lease], None]) -> None:
        self.ttl_s = ttl_s
        self._expired = expired
        self._by_fence: dict[int, Lease] = {}
        self._by_task: dict[int, Lease] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def __len__(self) -> int:
        return len(self._by_fence)

    @property
    def first(self) -> int:
        """The fence of the lease that was handed out before all others."""
        return next(iter(self._by_fence))

    @property
    def last(self) -> int:
        """The fence of the lease that was handed out last; 0 when there is none."""
        return next(reversed(self._by_fence), 0)

    def add(self, leases: Iterable[Lease]) -> None:
        """Watch over leases."""
        deadline = asyncio.get_running_loop().time() + self.ttl_s
        by_fence, by_task = self._by_fence, self._by_task
        for lease in leases:
            by_fence[lease.fence] = lease
            by_task[lease.number] = lease
            lease.deadline = deadline
        if self._timer is None:
            self._arm()

    def renew(self, lease: Lease) -> None:
        """Count the lease's time from now."""
        lease.deadline = asyncio.get_running_loop().time() + self.ttl_s

    def remove(self, lease: Lease) -> None:
        """Forget a lease."""
        self._by_fence.pop(lease.fence, None)
        if self._by_task.get(lease.number) is lease:
            del self._by_task[lease.number]

    def of_task(self, number: int) -> Lease | None:
        """Return the lease of a task."""
        return self._by_task.get(number)

    def all(self) -> list[Lease]:
        """Return every lease."""
        return list(self._by_fence.values())

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._by_fence.clear()
        self._by_task.clear()

    def _arm(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self.ttl_s / 8
        self._timer = loop.call_at(self._due, self._look)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        late = now - self._due
        self._timer = None
        if late > self.ttl_s / 8:
            # The loop itself, or the machine, stood still: so did the agents' signs of life.
            # One that was handed out or renewed since then has its time from there.
            for lease in self._by_fence.values():
                lease.deadline = min(lease.deadline + late, now + self.ttl_s)
        for lease in [lease for lease in self._by_fence.values() if lease.deadline <= now]:
            self._expired(lease)
        if self._by_fence:
            self._arm()
