"""The outcomes of attempts on their way to the disk: many in one write, and kept for as long as the disk fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from runtime.errors import ResourceExhausted, Unavailable
from runtime.objects.value import Value
from runtime.store.store import Wait
from runtime.store.tasks import TaskStore, TaskTables
from runtime.tasks.leases import LeaseLost
from runtime.tasks.model import TaskStatus

__all__ = ["Outcome", "Outcomes"]

logger = logging.getLogger(__name__)

Outcome = Callable[[TaskTables], TaskStatus]
"""Writes one outcome and returns the status that was recorded; raises LeaseLost before it has changed anything."""

# Between two attempts to write while the disk fails.
_FIRST_DELAY_S = 0.05
_LAST_DELAY_S = 2.0


class _Pending:
    """One outcome, who waits for it, and the values that its rows will refer to."""

    __slots__ = ("future", "held", "outcome", "wait")

    def __init__(
        self, outcome: Outcome, future: asyncio.Future[TaskStatus], held: Sequence[Value], wait: Wait
    ) -> None:
        self.wait = wait
        self.outcome = outcome
        self.future = future
        self.held = held


class Outcomes:
    """Writes outcomes. Belongs to one loop.

    Those that come in the same turn of the loop make one write of the store: alone, each would cost a savepoint and a
    future of its own, a third of the time of a task that does nothing.

    Parameters
    ----------
    store : TaskStore
        Where to.
    let_go : callable
        Called with the values of an outcome once it is written, or will never be.
    """

    def __init__(self, store: TaskStore, let_go: Callable[[Sequence[Value]], None]) -> None:
        self._store = store
        self._let_go = let_go
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Pending] = []
        self._writing: dict[asyncio.Future[list[TaskStatus | LeaseLost]], None] = {}
        self._delay_s = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._closed = False

    def write(
        self, outcome: Outcome, held: Sequence[Value] = (), wait: Wait = Wait.NO
    ) -> asyncio.Future[TaskStatus]:
        """Write an outcome; whoever waits for the future may go away.

        Parameters
        ----------
        wait : Wait
            Whether it may wait; it does if all do that are written with it.

        Raises
        ------
        LeaseLost
            As the outcome itself says.
        Unavailable, ResourceExhausted
            The server stops while the disk fails.
        """
        future: asyncio.Future[TaskStatus] = self._loop.create_future()
        if not self._pending and self._retry is None:
            self._loop.call_soon(self._flush)
        self._pending.append(_Pending(outcome, future, held, wait))
        return future

    def write_now(self, outcome: Outcome, wait: Wait = Wait.NO) -> asyncio.Future[TaskStatus]:
        """Write an outcome of many tasks without waiting for others to come along; see `write`."""
        if self._pending or self._retry is not None:
            future = self.write(outcome, wait=wait)
            if self._retry is None:
                self._flush()
            return future
        future = self._loop.create_future()
        self._write([_Pending(outcome, future, (), wait)])
        return future

    def close(self) -> None:
        """Stop trying again."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
            self._flush()

    async def written(self) -> None:
        """Wait until everything is written, or has failed."""
        while self._pending or self._writing:
            if self._writing:
                await asyncio.wait(self._writing)
            await asyncio.sleep(0)

    def _flush(self) -> None:
        self._retry = None
        pending, self._pending = self._pending, []
        if pending:
            self._write(pending)

    def _write(self, pending: list[_Pending]) -> None:
        def write(tables: TaskTables) -> list[TaskStatus | LeaseLost]:
            found: list[TaskStatus | LeaseLost] = []
            for one in pending:
                try:
                    found.append(one.outcome(tables))
                except LeaseLost as error:
                    found.append(error)
            return found

        wait = pending[0].wait
        for one in pending:
            if one.wait is not wait:
                wait = Wait.NO
        writing = self._store.write(write, wait)
        self._writing[writing] = None
        writing.add_done_callback(lambda done: self._written(pending, done))

    def _written(self, pending: list[_Pending], writing: asyncio.Future[list[TaskStatus | LeaseLost]]) -> None:
        del self._writing[writing]
        error = writing.exception()
        if error is None:
            self._delay_s = 0.0
            for one, found in zip(pending, writing.result()):
                self._settle(one, found)
        elif isinstance(error, (ResourceExhausted, Unavailable)) and not self._closed:
            logger.warning("outcomes of %d tasks cannot be written yet: %s", len(pending), error)
            self._pending[:0] = pending
            self._delay_s = min(max(2 * self._delay_s, _FIRST_DELAY_S), _LAST_DELAY_S)
            if self._retry is None:
                self._retry = self._loop.call_later(self._delay_s, self._flush)
        elif len(pending) > 1 and not self._closed:
            # One of them is at fault; the others are written without it.
            for one in pending:
                self._write([one])
        else:
            for one in pending:
                self._settle(one, error)

    def _settle(self, one: _Pending, found: TaskStatus | BaseException) -> None:
        if one.held:
            self._let_go(one.held)
        if one.future.done():
            return
        if isinstance(found, BaseException):
            one.future.set_exception(found)
            if not isinstance(found, LeaseLost):
                logger.error("the outcome of a task could not be written: %s", found)
        else:
            one.future.set_result(found)
