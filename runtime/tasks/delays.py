"""Attempts that wait before they begin: those after a failure, when the server is told to give them time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from runtime.errors import Error
from runtime.store.tasks import TaskTables
from runtime.tasks import propagation
from runtime.tasks.model import TaskStatus

if TYPE_CHECKING:
    from runtime.tasks.tasks import Tasks

__all__ = ["NO_DELAY", "Delayed", "Delays", "RetryDelay", "release_due"]

# When the store has failed.
_RETRY_S = 0.25


class RetryDelay(NamedTuple):
    """How long attempts wait after a failure: twice as long after each.

    Attributes
    ----------
    first_s : float
        Seconds before the second attempt; 0 for none at all.
    most_s : float
        Never longer than that.
    """

    first_s: float = 0.0
    most_s: float = 300.0

    def before(self, attempt: int) -> float:
        """Return how many seconds an attempt waits; ``attempt`` counts from 0, and the first does not wait."""
        if attempt < 1:
            return 0.0
        return float(min(self.first_s * 2.0 ** min(attempt - 1, 64), max(self.most_s, self.first_s)))


NO_DELAY = RetryDelay()
"""Attempts follow at once."""


class Delayed(NamedTuple):
    """An attempt is due at a time, in seconds since 1970: noted for `Delays`."""

    due_s: float


def release_due(tables: TaskTables, until_s: float) -> None:
    """Put the attempts that are due into the queue, those that were due first before the others."""
    for number in tables.take_due(until_s):
        task = tables.task(number)
        if task.status is TaskStatus.SUBMITTED:
            propagation.miss_one_less(tables, task)


class Delays:
    """Wakes when an attempt is due. Belongs to the loop of its `Tasks`."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._closed = False

    def arm(self, due_s: float) -> None:
        """Wake no later than at this time."""
        if self._closed or (self._timer is not None and self._due_s <= due_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_s
        # The clock of dates may be put back: nobody waits longer than the longest delay for that.
        wait_s = min(max(0.0, due_s - self._tasks.now_s()), self._tasks.limits.retry_delay.most_s)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def close(self) -> None:
        """Wake no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        self._timer = None
        self._tasks.in_background(self._release(max(self._due_s, self._tasks.now_s())))

    async def _release(self, until_s: float) -> None:
        def release(tables: TaskTables) -> float | None:
            release_due(tables, until_s)
            return tables.next_due()

        try:
            due_s = await self._tasks.store.write(release)
        except Error:
            due_s = self._tasks.now_s() + _RETRY_S
        if due_s is not None:
            self.arm(due_s)
