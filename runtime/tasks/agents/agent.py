"""An agent: one worker, asked how it is, and given a task whenever it is well and free."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from runtime.edge.auth import is_local
from runtime.errors import DataLoss, Error, Unavailable
from runtime.objects.value import Value
from runtime.tasks.agents.attempt import Attempt, End
from runtime.tasks.agents.batched_call import BatchedCall
from runtime.tasks.agents.batches import BatchStream, is_batchable
from runtime.tasks.agents.endpoint import Endpoint
from runtime.tasks.agents.link import WorkerLink
from runtime.tasks.agents.supply import Taken
from runtime.tasks.leases import Lease, LeaseLost
from runtime.tasks.model import FailureKind

if TYPE_CHECKING:
    from runtime.edge.peer_access import PeerAccess
    from runtime.objects.recent import Content
    from runtime.tasks.agents.resources import Resources
    from runtime.tasks.agents.supply import Supply
    from runtime.tasks.tasks import Tasks

__all__ = ["Agent"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
# What a worker may take to say how it is.
_CHECK_TIMEOUT_S = 5.0
_DISK_PAUSE_S = 1.0
# Tasks with objects go together until a message has so many bytes of them.
_MESSAGE_BYTES = 1 << 20
# What outcomes get to be on disk when the worker leaves.
_RECORD_S = 5.0


class Agent:
    """Feeds one worker. Belongs to its loop.

    Parameters
    ----------
    tasks : Tasks
    endpoint : Endpoint
    name : str
        What it is called where workers are listed.
    concurrency : int
        Tasks that the worker runs at a time.
    access : callable
        Returns how the server gets into others.
    supply : Supply
        Where its tasks come from.
    resources : Resources
    releases : dict of int to int
        See `runtime.tasks.agents.attempt.Attempt`.
    suspects : dict of int to None, or None
        See `runtime.tasks.agents.batches.BatchStream`; None for a worker that takes no batches.
    check_s : float
        Seconds between two health checks of an idle worker, and at most between those of one that is not well.

    Attributes
    ----------
    state : str
        ``ready``, ``busy``, ``leaving``, or why the worker cannot be used.
    num_ended, num_failed : int
        Attempts that ended here, and those of them without an answer of the worker's.
    added_s : float
        When it was made, in seconds since 1970.
    """

    def __init__(
        self,
        tasks: Tasks,
        endpoint: Endpoint,
        name: str,
        concurrency: int,
        access: Callable[[], PeerAccess],
        supply: Supply,
        resources: Resources,
        releases: dict[int, int],
        suspects: dict[int, None] | None,
        check_s: float,
    ) -> None:
        self.endpoint = endpoint
        self.name = name
        self.concurrency = concurrency
        self.num_ended = 0
        self.num_failed = 0
        self.added_s = tasks.now_s()
        self._tasks = tasks
        self._supply = supply
        self._resources = resources
        self._releases = releases
        self._check_s = check_s
        self._link = WorkerLink(endpoint, access, self._suspect)
        self._trouble = "not asked yet"
        self._is_usable = False
        self._is_near = is_local(endpoint.address)
        self._go = asyncio.Event()  # usable, or leaving
        self._kicked = asyncio.Event()
        self._leaving = False
        self._running: dict[Attempt, None] = {}
        self._outcomes: dict[asyncio.Future[Any], None] = {}
        self._acquiring: dict[asyncio.Future[Lease | None], None] = {}
        self._stream: BatchStream | None = None
        self._is_batching = False
        self._refuses_batches = False
        self._changed = asyncio.Event()
        self._alone: dict[asyncio.Task[None], None] = {}
        self._watch = asyncio.ensure_future(self._keep_watch())
        if suspects is None:
            self._runners = [asyncio.ensure_future(self._run()) for _ in range(concurrency)]
        else:
            self._suspects = suspects
            self._runners = [asyncio.ensure_future(self._feed())]

    @property
    def state(self) -> str:
        """See the class."""
        if self._leaving:
            return "leaving"
        if self._is_busy:
            return "busy"
        return "ready" if self._is_usable else self._trouble

    @property
    def running(self) -> list[str]:
        """Ids of the attempts that run here."""
        found = [attempt.lease.task.id for attempt in self._running]
        return found if self._stream is None else found + self._stream.running

    @property
    def _is_busy(self) -> bool:
        return bool(self._running) or bool(self._stream)

    def renew(self) -> None:
        """Give a sign of life for every attempt."""
        if self._stream is not None:
            self._stream.renew()
        for attempt in self._running:
            lease = attempt.lease
            if not lease.is_ended and not lease.is_lost:
                lease.renew()

    def leave(self) -> None:
        """Take no further task."""
        if not self._leaving:
            self._leaving = True
            self._go.set()
            self._changed.set()
            self._stop_acquiring()

    def release(self) -> None:
        """Give back what runs."""
        if self._stream is not None:
            self._stream.release()
        for attempt in list(self._running):
            attempt.release()

    async def left(self, grace_s: float | None = None) -> None:
        """Take no further task, wait until none runs here, and end the connection.

        Parameters
        ----------
        grace_s : float, optional
            What tasks get to end before they go back to the queue; None: as long as it takes.
        """
        self.leave()
        pending = {runner for runner in self._runners if not runner.done()}
        if pending:
            _, pending = await asyncio.wait(pending, timeout=grace_s)
        if pending:
            self.release()
            await asyncio.wait(pending)
        self._watch.cancel()
        await asyncio.wait([self._watch])
        if self._outcomes:
            # Whoever removed the worker sees what became of its tasks, unless the disk fails.
            await asyncio.wait(self._outcomes, timeout=_RECORD_S)
        self._link.close()

    # The worker's health

    def _suspect(self) -> None:
        """Give the worker no task before it has said that it is well."""
        self._set_usable(False)
        self._kicked.set()

    def _set_usable(self, is_usable: bool) -> None:
        self._is_usable = is_usable
        if is_usable or self._leaving:
            self._go.set()
        else:
            self._go.clear()
            self._stop_acquiring()

    async def _keep_watch(self) -> None:
        pause_s = _FIRST_PAUSE_S
        was_well: bool | None = None
        while True:
            self._kicked.clear()
            # A worker that does one thing at a time could not answer while it runs a task.
            if not self._is_busy or not self._link.is_up:
                trouble = await self._link.check(_CHECK_TIMEOUT_S)
                if self._kicked.is_set() and not trouble:
                    continue  # something has happened since it answered
                is_well = not trouble
                self._trouble = trouble
                self._set_usable(is_well)
                if is_well is not was_well:
                    was_well = is_well
                    logger.log(
                        logging.INFO if is_well else logging.WARNING,
                        "a worker is ready" if is_well else "a worker gets no tasks",
                        extra={"endpoint": str(self.endpoint), "reason": trouble or "it is well"},
                    )
                pause_s = _FIRST_PAUSE_S if is_well else min(2 * pause_s, self._check_s)
            if not was_well:
                await asyncio.sleep(pause_s)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._check_s):
                        await self._kicked.wait()

    # Tasks

    async def _run(self) -> None:
        while not self._leaving:
            await self._go.wait()
            if not self._is_usable or self._leaving:
                continue
            lease = self._supply.take() or await self._acquire()
            if lease is None:
                continue
            end = await self._attempt(lease)
            if end is not End.CLEAN:
                self._suspect()
            if end is End.NO_SPACE:
                await asyncio.sleep(_DISK_PAUSE_S)

    async def _feed(self) -> None:
        """Give a worker that takes batches as many tasks as it will run soon."""
        while not self._leaving:
            await self._go.wait()
            if not self._is_usable or self._leaving:
                continue
            self._changed.clear()
            room = self._room()
            if room <= 0:
                await self._changed.wait()
                continue
            leases = self._supply.take_some(room)
            if not leases:
                lease = await self._acquire(self._send_at_once)
                if lease is None:
                    continue
                leases = [lease, *self._supply.take_some(room - 1)]
            await self._give(leases)
        while self._is_busy or self._alone:
            self._changed.clear()
            await self._changed.wait()
        if self._stream is not None:
            self._stream.close()

    def _room(self) -> int:
        """Return how many tasks the worker can be given now."""
        room = self.concurrency - len(self._alone)
        if room <= 0 or self._refuses_batches:
            return room
        stream = self._stream
        if stream is None or stream.is_over:
            try:
                stream = self._stream = BatchStream(
                    self._tasks, self._link.run_batches(), self.concurrency, self._suspects, self,
                    is_near=self._is_near,
                )
            except Unavailable:
                self._suspect()
                return 0
        return stream.room()

    async def _give(self, leases: list[Lease]) -> None:
        """Send small tasks together, and run the others by calls of Process."""
        stream = None if self._refuses_batches else self._stream
        small: list[Lease] = []
        objects: dict[Value, Content] = {}
        # Those whose objects the worker reads itself.
        placed: list[Lease] = []
        nbytes = 0
        back: list[Lease] = []
        for lease in leases:
            if self._leaving:  # since an object was read
                back.append(lease)
            elif stream is None or not is_batchable(lease):
                if len(self._alone) < self.concurrency:
                    self._begin_alone(self._run_alone(lease))
                else:
                    back.append(lease)
            elif stream.is_over:
                back.append(lease)
            elif values := _objects_of(lease):
                if stream.reads_places and not any(value.ref.is_shared for value in values if value.ref is not None):
                    placed.append(lease)
                    continue
                found = self._at_hand(values)
                if found is None:
                    found = await self._read_objects(lease, values)
                if found is not None:
                    small.append(lease)
                    objects.update(found)
                    nbytes += sum(value.size for value in values)
                    if nbytes >= _MESSAGE_BYTES:
                        # The worker may begin these while others are on the way.
                        sent, small, given, objects, nbytes = small, [], objects, {}, 0
                        await self._send(sent, given)
            else:
                small.append(lease)
        if back:
            self._supply.put_back(back)
        if small:
            await self._send(small, objects)
        if placed:
            await self._send(placed, None)

    def _send_at_once(self, lease: Lease) -> Taken:
        """Send a task to a worker that waits for one, without a turn of the agent's own."""
        stream = self._stream
        if stream is None or self._leaving or not self._is_usable or self._refuses_batches:
            return Taken.NOT
        if self._alone or stream.room() <= 0 or not is_batchable(lease) or _objects_of(lease):
            return Taken.NOT
        if not stream.give_at_once(lease):
            return Taken.NOT
        self._batch_works()
        return Taken.LAST if stream.is_over or stream.room() <= 0 else Taken.ONE

    async def _send(self, leases: list[Lease], objects: dict[Value, Content] | None) -> None:
        """Send tasks with their objects, or with the places of these."""
        stream = self._stream
        # Either may have happened while objects were read.
        if stream is None or stream.is_over or self._leaving or (objects is None and not stream.reads_places):
            self._supply.put_back(leases)
            return
        with contextlib.suppress(Error):  # what ends the stream is told to its listener, which sees to its tasks
            await (stream.give_places(leases) if objects is None else stream.give(leases, objects))
            self._batch_works()
            for lease in leases:
                self._tasks.objects.handed_over(_objects_of(lease))

    def _at_hand(self, values: list[Value]) -> dict[Value, Content] | None:
        """Return the contents of objects, if all of them are still in memory."""
        found: dict[Value, Content] = {}
        for value in values:
            content = self._tasks.objects.at_hand(value)
            if content is None:
                return None
            found[value] = content
        return found

    async def _read_objects(self, lease: Lease, values: list[Value]) -> dict[Value, Content] | None:
        """Return the contents of objects; None when the task has ended because they cannot be had."""
        found: dict[Value, Content] = {}
        try:
            for value in values:
                found[value] = [piece async for piece in lease.read(value, value.size)]
        except DataLoss as error:
            self.num_ended += 1
            self.num_failed += 1
            if not lease.is_ended and not lease.is_lost:
                self.batch_records(asyncio.ensure_future(lease.fail(FailureKind.PROTOCOL, error.message)))
            return None
        except Error as error:
            logger.warning("task %r goes back to the queue: %s", lease.task.id, error.message)
            self._tasks.give_back([lease])
            await asyncio.sleep(_DISK_PAUSE_S)
            return None
        return found

    async def _run_alone(self, lease: Lease, call: BatchedCall | None = None, began: float = 0.0) -> None:
        end = await self._attempt(lease, call, began)
        if end is not End.CLEAN:
            self._suspect()
        if end is End.NO_SPACE:
            await asyncio.sleep(_DISK_PAUSE_S)

    def _begin_alone(self, work: Coroutine[Any, Any, None]) -> None:
        alone = asyncio.ensure_future(work)
        self._alone[alone] = None
        alone.add_done_callback(self._alone_done)

    def _alone_done(self, alone: asyncio.Task[None]) -> None:
        self._alone.pop(alone, None)
        if not alone.cancelled() and (error := alone.exception()) is not None:
            logger.error("an attempt failed inside of its agent", exc_info=error)
        self.batch_changed()

    # For the stream; see `BatchOwner`

    def batch_changed(self) -> None:
        """Look whether there is room, or nothing left."""
        self._changed.set()
        self._batch_works()
        if not self._is_busy and not self._is_usable:
            self._kicked.set()  # now it can be asked how it is

    def _batch_works(self) -> None:
        is_batching = bool(self._stream)
        if is_batching is not self._is_batching:
            self._is_batching = is_batching
            self._supply.work(self.concurrency if is_batching else -self.concurrency)

    def batch_ended(self, number: int, num_failed: int, seconds: float) -> None:
        """Count tasks."""
        self.num_ended += number
        self.num_failed += num_failed
        if number and seconds:
            self._supply.took(seconds / number, number)

    def batch_returned(self, leases: list[Lease]) -> None:
        """Let others have tasks."""
        self._supply.put_back(leases)

    def batch_talks(self, lease: Lease, call: BatchedCall, began: float) -> None:
        """Answer what a task asks for."""
        self._begin_alone(self._run_alone(lease, call, began))

    def batches_refused(self) -> None:
        """Drive the worker by Process alone."""
        logger.warning("a worker has no TaskBatches, although it said so", extra={"endpoint": str(self.endpoint)})
        self._refuses_batches = True

    def batch_is_suspect(self) -> None:
        """Ask the worker before it gets the next task."""
        self._suspect()

    def batch_records(self, outcome: asyncio.Future[Any]) -> None:
        """See to it that an outcome is on disk when the worker has left."""
        self._outcomes[outcome] = None
        outcome.add_done_callback(self._recorded)

    def _recorded(self, outcome: asyncio.Future[Any]) -> None:
        self._outcomes.pop(outcome, None)
        if not outcome.cancelled() and (error := outcome.exception()) is not None and not isinstance(error, LeaseLost):
            logger.error("the outcome of a task is not recorded: %s", error)

    async def _acquire(self, taker: Callable[[Lease], Taken] | None = None) -> Lease | None:
        """Return the lease of the next task; None when the agent is to look around before it goes on.

        Parameters
        ----------
        taker : callable, optional
            See `runtime.tasks.agents.supply.Supply.next`.
        """
        acquire = self._supply.next(taker)
        self._acquiring[acquire] = None
        try:
            await acquire
            if self._is_usable and not self._leaving:
                return acquire.result()
            self._forget(acquire)
            return None
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                self._forget(acquire)
                raise
            return None
        except Error:
            # The server stops, or the store does not answer.
            if not self._leaving:
                await asyncio.sleep(_FIRST_PAUSE_S)
            return None
        finally:
            del self._acquiring[acquire]

    def _forget(self, acquire: asyncio.Future[Lease | None]) -> None:
        """Give back what has come for somebody who does not want it any more."""
        if acquire.done() and not acquire.cancelled() and acquire.exception() is None:
            lease = acquire.result()
            if lease is not None:
                self._tasks.give_back([lease])

    def _stop_acquiring(self) -> None:
        for acquire in self._acquiring:
            acquire.cancel()

    async def _attempt(self, lease: Lease, call: BatchedCall | None = None, began_there: float = 0.0) -> End:
        attempt = Attempt(self._tasks, lease, self._link, self._resources, self._releases)
        self._running[attempt] = None
        self._supply.work(1)
        began = asyncio.get_running_loop().time()
        try:
            return await attempt.run(call, began_there)
        except Exception as error:
            logger.exception("an attempt failed inside of its agent", extra={"task": lease.task.id})
            if not lease.is_ended and not lease.is_lost:
                await lease.fail(FailureKind.CALL, f"the agent failed: {type(error).__name__}: {error}")
            return End.DIRTY
        finally:
            del self._running[attempt]
            self._supply.work(-1)
            self._supply.took(asyncio.get_running_loop().time() - began)
            if attempt.outcome is not None and not attempt.outcome.done():
                self._outcomes[attempt.outcome] = None
                attempt.outcome.add_done_callback(lambda outcome: self._outcomes.pop(outcome, None))
            self.num_ended += 1
            self.num_failed += attempt.has_failed


def _objects_of(lease: Lease) -> list[Value]:
    """Return the parts of a task's input that are objects."""
    task = lease.task
    found = [value for value in task.inputs.values() if value.ref is not None] if task.inputs else []
    if task.payload.ref is not None:
        found.append(task.payload)
    return found
