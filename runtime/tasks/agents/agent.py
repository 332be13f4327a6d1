"""An agent: one worker, asked how it is, and given a task whenever it is well and free."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtime.errors import Error
from runtime.tasks.agents.attempt import Attempt, End
from runtime.tasks.agents.endpoint import Endpoint
from runtime.tasks.agents.link import WorkerLink
from runtime.tasks.leases import Lease
from runtime.tasks.model import FailureKind

if TYPE_CHECKING:
    from runtime.edge.peer_access import PeerAccess
    from runtime.tasks.agents.resources import Resources
    from runtime.tasks.agents.supply import Supply
    from runtime.tasks.tasks import Tasks

__all__ = ["Agent"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
# What a worker may take to say how it is.
_CHECK_TIMEOUT_S = 5.0
_DISK_PAUSE_S = 1.0
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
        self._go = asyncio.Event()  # usable, or leaving
        self._kicked = asyncio.Event()
        self._leaving = False
        self._running: dict[Attempt, None] = {}
        self._outcomes: dict[asyncio.Future[Any], None] = {}
        self._acquiring: dict[asyncio.Task[Lease], None] = {}
        self._watch = asyncio.ensure_future(self._keep_watch())
        self._runners = [asyncio.ensure_future(self._run()) for _ in range(concurrency)]

    @property
    def state(self) -> str:
        """See the class."""
        if self._leaving:
            return "leaving"
        if self._running:
            return "busy"
        return "ready" if self._is_usable else self._trouble

    @property
    def running(self) -> list[str]:
        """Ids of the attempts that run here."""
        return [attempt.lease.task.id for attempt in self._running]

    def renew(self) -> None:
        """Give a sign of life for every attempt."""
        for attempt in self._running:
            lease = attempt.lease
            if not lease.is_ended and not lease.is_lost:
                lease.renew()

    def leave(self) -> None:
        """Take no further task."""
        if not self._leaving:
            self._leaving = True
            self._go.set()
            self._stop_acquiring()

    def release(self) -> None:
        """Give back what runs."""
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
            if not self._running or not self._link.is_up:
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

    async def _acquire(self) -> Lease | None:
        """Return the lease of the next task; None when the agent is to look around before it goes on."""
        acquire = asyncio.ensure_future(self._supply.next())
        self._acquiring[acquire] = None
        try:
            return await acquire
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if own is not None and own.cancelling():
                acquire.cancel()
                raise
            return None
        except Error:
            # The server stops, or the store does not answer.
            if not self._leaving:
                await asyncio.sleep(_FIRST_PAUSE_S)
            return None
        finally:
            del self._acquiring[acquire]

    def _stop_acquiring(self) -> None:
        for acquire in self._acquiring:
            acquire.cancel()

    async def _attempt(self, lease: Lease) -> End:
        attempt = Attempt(self._tasks, lease, self._link, self._resources, self._releases)
        self._running[attempt] = None
        self._supply.began()
        began = asyncio.get_running_loop().time()
        try:
            return await attempt.run()
        except Exception as error:
            logger.exception("an attempt failed inside of its agent", extra={"task": lease.task.id})
            if not lease.is_ended and not lease.is_lost:
                await lease.fail(FailureKind.CALL, f"the agent failed: {type(error).__name__}: {error}")
            return End.DIRTY
        finally:
            del self._running[attempt]
            self._supply.ended(asyncio.get_running_loop().time() - began)
            if attempt.outcome is not None and not attempt.outcome.done():
                self._outcomes[attempt.outcome] = None
                attempt.outcome.add_done_callback(lambda outcome: self._outcomes.pop(outcome, None))
            self.num_ended += 1
            self.num_failed += attempt.has_failed
