"""Which task is next: strictly by priority, in turn among sessions of the same priority, first come first in each.

The queue is the store's own index, so it costs no memory here, and a restart has nothing to rebuild. What this keeps is
whose turn it is among the sessions of a priority, and which agents wait; they are woken when something gets ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runtime.errors import Error, Unavailable
from runtime.objects.value import Value
from runtime.store.tasks import TaskTables
from runtime.tasks import cancellation, transitions
from runtime.tasks.leases import Lease, LeasedTask
from runtime.tasks.model import ResultStatus, SpecRow, TaskRow

if TYPE_CHECKING:
    from runtime.tasks.attempts import Attempts

__all__ = ["Scheduler", "next_tasks"]

logger = logging.getLogger(__name__)

# How long agents wait before they ask again when the store has failed.
_RETRY_S = 0.25


def next_tasks(tables: TaskTables, turns: dict[int, int], limit: int) -> list[TaskRow]:
    """Return the ready tasks that are to run next, in order.

    Parameters
    ----------
    turns : dict of int to int
        By priority, the session that was served last; updated.
    limit : int
        How many at most.
    """
    only = tables.only_ready()
    if only is not None and limit:
        turns[only.priority] = only.session
        return [only]
    found: list[TaskRow] = []
    priority = tables.top_priority()
    while priority is not None and len(found) < limit:
        found += _of_priority(tables, turns, priority, limit - len(found))
        if len(found) >= limit:
            break
        priority = tables.next_priority(priority)
    return found


def _of_priority(tables: TaskTables, turns: dict[int, int], priority: int, limit: int) -> list[TaskRow]:
    """Return ready tasks of one priority: one of each session in turn, until there are enough or no more."""
    after = turns.get(priority, 0)
    sessions: list[int] = []
    session = tables.next_ready_session(priority, after)
    wrapped = session is None
    if wrapped:
        session = tables.next_ready_session(priority, 0)
    while session is not None and len(sessions) < limit:
        if wrapped and sessions and session == sessions[0]:
            break
        sessions.append(session)
        session = tables.next_ready_session(priority, session)
        if session is None and not wrapped:
            wrapped = True
            session = tables.next_ready_session(priority, 0)
    if not sessions:
        return []
    # No session gives more than its share, except what others do not use; a round takes one of each.
    lanes = {number: deque(tables.ready_tasks(priority, number, limit)) for number in sessions}
    found: list[TaskRow] = []
    while lanes and len(found) < limit:
        for number in list(lanes):
            found.append(lanes[number].popleft())
            turns[priority] = number
            if not lanes[number]:
                del lanes[number]
            if len(found) == limit:
                break
    return found


class _Request:
    """An agent that waits for tasks."""

    __slots__ = ("future", "limit", "owner", "taker")

    def __init__(
        self, owner: str, limit: int, future: asyncio.Future[list[Lease]], taker: Callable[[list[Lease]], None] | None
    ) -> None:
        self.owner = owner
        self.limit = limit
        self.future = future
        self.taker = taker

    def give(self, leases: list[Lease]) -> None:
        """Hand leases to whoever waits for them."""
        if self.taker is None:
            self.future.set_result(leases)
        else:
            self.future.set_result([])
            self.taker(leases)


class Scheduler:
    """Hands ready tasks to the agents that wait, in the order in which they came.

    A lease is handed out when the store has chosen it, before that is on disk: if the server dies now, the agent dies
    with it, and the task is still in the queue, or was never acknowledged. If the disk fails, the lease is lost: a task
    whose submission is refused for that may have run.
    """

    def __init__(self, tasks: Attempts) -> None:
        self._tasks = tasks
        self._waiting: deque[_Request] = deque()
        self._turns: dict[int, int] = {}
        self._asking = False
        self.is_closed = False
        # Whether something may be ready; False only when the store has said that nothing was, behind all that is known.
        self.has_ready = True
        self._retry: asyncio.TimerHandle | None = None

    async def acquire(self, owner: str, limit: int = 1) -> list[Lease]:
        """Wait until a task is ready, and return the leases of up to ``limit`` of them, at least one."""
        future = self.request(owner, limit)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._tasks.give_back(future.result())
            raise

    def request(
        self, owner: str, limit: int, taker: Callable[[list[Lease]], None] | None = None
    ) -> asyncio.Future[list[Lease]]:
        """Return the future of what `acquire` returns; cancelling it before it is done loses nothing.

        Parameters
        ----------
        taker : callable, optional
            Called with the leases as soon as they are there, and the future's result is empty.
        """
        future: asyncio.Future[list[Lease]] = asyncio.get_running_loop().create_future()
        if self.is_closed:
            future.set_exception(Unavailable("the server stops"))
        else:
            self._waiting.append(_Request(owner, limit, future, taker))
            self.wake()
        return future

    def wake(self) -> None:
        """Look for ready tasks, if there may be some and somebody waits for one."""
        if self._asking or self.is_closed or not self.has_ready:
            return
        while self._waiting and self._waiting[0].future.done():
            self._waiting.popleft()
        if self._waiting:
            self._asking = True
            # Others who ask in the same turn of the loop come along.
            asyncio.get_running_loop().call_soon(self._ask)

    def close(self) -> None:
        """Let everybody who waits go with UNAVAILABLE."""
        self.is_closed = True
        if self._retry is not None:
            self._retry.cancel()
        for request in self._waiting:
            if not request.future.done():
                request.future.set_exception(Unavailable("the server stops"))
        self._waiting.clear()

    def _ask(self) -> None:
        requests = [request for request in self._waiting if not request.future.done()]
        self._waiting = deque(requests)
        if not requests:
            self._asking = False
            return
        write = self._tasks.store.write(self._taking(requests))
        write.add_done_callback(self._asked)

    def take_along(self) -> Callable[[TaskTables], None] | None:
        """Return what is to run at the end of a write that makes tasks ready; None when nobody waits for one.

        A worker with nothing to do has its task without a write of its own, and begins while the task gets on disk.
        Whoever takes it sees to it that `along_ended` is called when the write has ended.
        """
        if self._asking or self.is_closed:
            return None
        requests = [request for request in self._waiting if not request.future.done()]
        if not requests:
            return None
        self._asking = True
        return self._taking(requests)

    def along_ended(self, write: asyncio.Future[Any]) -> None:
        """A write has ended that took what `take_along` had returned."""
        if write.cancelled() or write.exception() is not None:
            self._asking = False
            self.wake()

    def _taking(self, requests: Sequence[_Request]) -> Callable[[TaskTables], None]:
        """Return the function of a write that acquires tasks."""
        now_s = self._tasks.now_s()

        def take(tables: TaskTables) -> None:
            number = sum(request.limit for request in requests)
            chosen = next_tasks(tables, self._turns, number)
            if len(chosen) < number:
                tables.note(transitions.QueueEmpty())
            cancelling = self._tasks.cancelling
            ended: list[int] = []
            if cancelling:
                # Out of the way at once, or they would stand before all others until their turn comes.
                ended = [row.number for row in chosen if row.session in cancelling]
                cancellation.cancel_tasks(tables, ended, now_s)
                chosen = [row for row in chosen if row.session not in cancelling]
            shares = _deal(chosen, requests)
            found: list[tuple[_Request, list[Lease]]] = []
            specs = tables.specs([row.spec for row in chosen])
            for request, rows in shares:
                transitions.dispatch_all(tables, rows, request.owner)
                found.append((request, [self._lease(tables, row, specs[row.spec]) for row in rows]))
            tables.before_commit(lambda: self._hand_out(found, bool(ended)))
            tables.after_rollback(lambda: self._lose(found))

        return take

    def _lease(self, tables: TaskTables, row: TaskRow, spec: SpecRow) -> Lease:
        task = LeasedTask(
            row.id,
            self._tasks.session_id(tables, row.session),
            row.attempt,
            tables.options(spec.options_number),
            spec.expected_keys,
            spec.dependencies,
            spec.payload,
            _inputs(tables, row.session, spec.dependencies) if spec.dependencies else {},
        )
        lease = Lease(self._tasks, row.number, row.session, row.fence, row.owner, task)
        lease.is_recent = tables.is_recent(row.number)
        return lease

    def _hand_out(self, found: Sequence[tuple[_Request, list[Lease]]], looks_again: bool) -> None:
        self._asking = False
        back: list[Lease] = []
        for request, leases in found:
            self._tasks.leases.add(leases)
            if request.future.done():
                back += leases
            elif leases:
                request.give(leases)
        if back:
            self._tasks.give_back(back)
        self._waiting = deque(request for request in self._waiting if not request.future.done())
        if looks_again or any(leases for _, leases in found):
            self.wake()

    def _lose(self, found: Sequence[tuple[_Request, list[Lease]]]) -> None:
        for _, leases in found:
            for lease in leases:
                self._tasks.lose(lease)

    def _asked(self, write: asyncio.Future[None]) -> None:
        error = None if write.cancelled() else write.exception()
        if error is None:
            return
        if not isinstance(error, Error):
            logger.error("no task could be acquired", exc_info=error)
        self._asking = False
        if not self.is_closed:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self.wake)


def _inputs(tables: TaskTables, session: int, keys: Sequence[str]) -> dict[str, Value]:
    """Return the values of dependencies: here, for what completed them may be as little on disk as the lease itself."""
    found: dict[str, Value] = {}
    for key in keys:
        result = tables.result(session, key)
        if result is not None and result.status is ResultStatus.COMPLETED:
            found[key] = result.value
    return found


def _deal(rows: Sequence[TaskRow], requests: Sequence[_Request]) -> list[tuple[_Request, list[TaskRow]]]:
    """Give everybody one, then everybody a second one, and so on."""
    shares: list[tuple[_Request, list[TaskRow]]] = [(request, []) for request in requests]
    left = list(rows)
    left.reverse()
    while left:
        for request, share in shares:
            if left and len(share) < request.limit:
                share.append(left.pop())
    return shares

