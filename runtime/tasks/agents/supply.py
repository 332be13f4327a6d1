"""The next tasks for the agents of a server: acquired ahead while tasks are short, one at a time while they are long.

A task is acquired in a write of the store, which waits for the sync of the write before. Workers whose tasks take less
than that would wait for the disk most of the time. So as many leases are kept ready as are needed within a few syncs,
and none when tasks are long. They go back to the queue when something more important gets ready, or when nobody has
taken them for a moment: who is next is decided when a worker is free, as far as anybody can see.
"""

from __future__ import annotations

import asyncio
import enum
import functools
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from runtime.errors import Error
from runtime.tasks.agents.durations import MeanDuration
from runtime.tasks.leases import AGENTS, Lease

if TYPE_CHECKING:
    from runtime.tasks.tasks import Tasks

__all__ = ["Supply", "Taken"]

# Leases are kept for so many seconds of work at the present rate.
_AHEAD_S = 0.03
_MAX_AHEAD = 1024
# A lease that nobody has taken for so long goes back.
_STALE_S = 0.1
# What tasks are taken to last before any has ended, and the weight of the latest one in the mean.
_FIRST_MEAN_S = 1.0
_WEIGHT = 0.1


class Taken(enum.Enum):
    """What became of a lease that an agent was offered as soon as it was there."""

    NOT = enum.auto()
    """It is not taken so: the agent has to look around first."""
    LAST = enum.auto()
    """It is taken, and the agent wants no other one now."""
    ONE = enum.auto()
    """It is taken, and the agent has room for another one."""


class _Wanted(asyncio.Future["Lease | None"]):
    """The leases of the next tasks, for one agent."""

    def __init__(self, taker: Callable[[Lease], Taken] | None, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._taker = taker

    def give(self, lease: Lease, *, is_alone: bool) -> bool:
        """Hand a lease to whoever waits; tell whether he goes on waiting, which only those do who got one alone."""
        taken = Taken.NOT if self._taker is None else self._taker(lease)
        if taken is Taken.ONE and is_alone and not self.done():
            return True
        if not self.done():
            self.set_result(lease if taken is Taken.NOT else None)
        return False


class Supply:
    """Hands out leases. Belongs to the loop of its tasks.

    Parameters
    ----------
    tasks : Tasks
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Wanted] = deque()
        self._ready: deque[Lease] = deque()
        self._acquiring: asyncio.Future[list[Lease]] | None = None
        self._mean = MeanDuration(_FIRST_MEAN_S, _WEIGHT)
        self._num_running = 0
        self._stale: asyncio.TimerHandle | None = None
        self._taken = 0
        self._closed = False
        tasks.on_ready = self._look
        tasks.early.taker = self

    def take(self) -> Lease | None:
        """Return the lease of the next task if it is kept ready."""
        if not self._ready:
            return None
        self._taken += 1
        lease = self._pop()
        self._refill()
        return lease

    def take_some(self, limit: int) -> list[Lease]:
        """Return leases of the next tasks that are kept ready, up to ``limit``."""
        number = min(limit, len(self._ready))
        if number <= 0:
            return []
        self._taken += number
        leases = [self._pop() for _ in range(number)]
        self._refill()
        return leases

    def put_back(self, leases: list[Lease]) -> None:
        """Take leases back that were taken: those who wait have them, or the queue."""
        left = deque(lease for lease in leases if not lease.is_lost and not lease.is_ended)
        while left and self._waiting and not self._closed:
            future = self._waiting.popleft()
            if not future.done():
                future.give(left.popleft(), is_alone=False)
        if not self._ahead():
            self._stop_acquiring()
        self._tasks.give_back(left)

    def next(self, taker: Callable[[Lease], Taken] | None = None) -> asyncio.Future[Lease | None]:
        """Return the future lease of the next task, UNAVAILABLE when the server stops; cancelling it loses nothing.

        Parameters
        ----------
        taker : callable, optional
            Called with a lease as soon as it is there. If it takes it, the future's result is None, once no further one
            is wanted.
        """
        future = _Wanted(taker, self._loop)
        self._taken += 1
        self._waiting.append(future)
        future.add_done_callback(self._unwanted)
        self._refill()
        return future

    def _unwanted(self, future: asyncio.Future[Lease | None]) -> None:
        if future.cancelled() and not self._ahead():
            self._stop_acquiring()

    def _stop_acquiring(self) -> None:
        """End an acquisition when nobody waits for what would come."""
        if self._acquiring is not None and all(waiting.done() for waiting in self._waiting):
            self._acquiring.cancel()
            self._acquiring = None  # whoever asks before it has ended is not to rely on it

    def work(self, change: int) -> None:
        """Note that so many more tasks run at a time."""
        self._num_running += change

    def took(self, seconds: float, number: int = 1) -> None:
        """Note how long attempts took: each so many seconds, in the mean."""
        mean = self._mean
        mean.add(seconds, number)
        if seconds > mean.seconds:
            mean.seconds = max(mean.seconds, seconds / 4)  # long tasks are noticed at once

    def renew(self) -> None:
        """Give a sign of life for what is kept ready."""
        for lease in self._ready:
            if not lease.is_lost and not lease.is_ended:
                lease.renew()

    def close(self) -> None:
        """Hand out nothing more; give back what is kept."""
        self._closed = True
        self._tasks.on_ready = None
        self._tasks.early.taker = None
        if self._acquiring is not None:
            self._acquiring.cancel()
        if self._stale is not None:
            self._stale.cancel()
            self._stale = None
        self._give_back()

    def wants_early(self, number: int) -> bool:
        """See `runtime.tasks.early.EarlyTaker`."""
        return not self._closed and len(self._ready) + number <= self._ahead()

    def take_early(self, leases: Sequence[Lease]) -> None:
        """See `runtime.tasks.early.EarlyTaker`."""
        self._deal_out(leases)

    def _ahead(self) -> int:
        """Return how many leases are to be kept ready now."""
        workers = self._num_running + sum(not future.done() for future in self._waiting)
        wanted = workers * _AHEAD_S / max(self._mean.seconds, 1e-5)
        return min(_MAX_AHEAD, int(wanted)) if wanted >= 2 else 0

    def _refill(self) -> None:
        if self._acquiring is not None or self._closed:
            return
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        ahead = self._ahead()
        if self._waiting or len(self._ready) <= ahead // 2 < ahead:
            limit = len(self._waiting) + max(0, ahead - len(self._ready))
            self._acquiring = self._tasks.scheduler.request(AGENTS, limit, self._acquired)
            self._acquiring.add_done_callback(self._ended)

    def _ended(self, acquiring: asyncio.Future[list[Lease]]) -> None:
        if self._acquiring is acquiring:
            self._acquiring = None
        error = None if acquiring.cancelled() else acquiring.exception()
        if error is not None:
            for future in self._waiting:
                if not future.done():
                    future.set_exception(error)
            self._waiting.clear()

    def _acquired(self, leases: list[Lease]) -> None:
        self._acquiring = None
        self._deal_out(leases)
        self._refill()

    def _deal_out(self, leases: Sequence[Lease]) -> None:
        """Deal leases out, within the turn that has made them."""
        if self._closed:
            self._tasks.give_back(leases)
            return
        if self._ready and leases[0].task.options.priority > self._ready[0].task.options.priority:
            self._give_back()
        for lease in leases:
            self._deal(lease, is_alone=len(leases) == 1)

    def _deal(self, lease: Lease, *, is_alone: bool) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                if future.give(lease, is_alone=is_alone):
                    self._taken += 1
                    self._waiting.append(future)
                return
        lease.on_interrupt = functools.partial(self._interrupted, lease)
        self._ready.append(lease)
        if self._stale is None:
            self._taken = 0
            self._stale = self._loop.call_later(_STALE_S, self._give_back_stale)

    def _pop(self) -> Lease:
        lease = self._ready.popleft()
        lease.on_interrupt = None
        return lease

    def _interrupted(self, lease: Lease) -> None:
        """A task that is kept ready was canceled, or the lease is lost."""
        if lease in self._ready:
            self._ready.remove(lease)
            lease.on_interrupt = None
            if lease.is_cancelled and not lease.is_lost:
                self._tasks.confirm_soon(lease)

    def _look(self) -> None:
        """Something got ready: give back what is less important."""
        if not self._ready:
            return
        try:
            top = self._tasks.store.read(lambda tables: tables.top_priority())
        except Error:
            return
        if self._is_less_important(top):
            # What others have acquired may still be read as ready; a write knows.
            asked = self._tasks.store.write(lambda tables: tables.top_priority())
            asked.add_done_callback(self._looked)

    def _looked(self, asked: asyncio.Future[int | None]) -> None:
        if not asked.cancelled() and asked.exception() is None and self._is_less_important(asked.result()):
            self._give_back()
            self._refill()

    def _is_less_important(self, top: int | None) -> bool:
        """Return whether what is kept ready is less important than a task of this priority."""
        return top is not None and bool(self._ready) and top > self._ready[-1].task.options.priority

    def _give_back_stale(self) -> None:
        self._stale = None
        if self._taken == 0:
            # It would take what goes back now, to hold it as long again, for as long as no worker is free.
            self._stop_acquiring()
            self._give_back()
        elif self._ready:
            self._taken = 0
            self._stale = self._loop.call_later(_STALE_S, self._give_back_stale)

    def _give_back(self) -> None:
        leases = []
        while self._ready:
            leases.append(self._pop())
        if leases:
            self._tasks.give_back(leases)
