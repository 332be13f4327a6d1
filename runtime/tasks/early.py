"""Tasks that begin before they are made: while their payloads are still on the way to the disk.

A payload of medium size takes the disk longer than a quick task runs. Where workers have nothing else to do they may as
well begin: tasks that have ended well within a moment are made with one short write, together with their ends, and
their payloads need not be durable any more. Nobody hears of such a task before: neither is its submission answered, nor
its result told. One that takes longer, or ends in any other way, is made first, its payload durable, and goes on as any
other.

A crash leaves nothing of tasks that were not made: they were not acknowledged; whoever submitted them does so again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from runtime.errors import Error, NotFound, Unavailable
from runtime.objects.value import EMPTY
from runtime.store.store import Wait
from runtime.store.tasks import TaskTables
from runtime.tasks import creation, transitions
from runtime.tasks.leases import AGENTS, Lease, LeasedTask
from runtime.tasks.model import TaskOptions, TaskRequest

if TYPE_CHECKING:
    from runtime.tasks.attempts import Attempts

__all__ = ["EarlyGroup", "EarlyTaker", "EarlyTasks", "Ended"]

logger = logging.getLogger(__name__)

# How long a group waits for the ends of its tasks; then those that have not ended are made.
_LATEST_S = 0.05
# How long no task begins early once one could not be made for the disk: whoever submits it then is told what is wrong.
_PAUSE_S = 10.0

_Begun = tuple[Lease, TaskRequest]


class EarlyTaker(Protocol):
    """Who hands leases to workers."""

    def wants_early(self, number: int) -> bool:
        """Return whether so many tasks would begin, and as a rule end, within a moment."""
        ...

    def take_early(self, leases: Sequence[Lease]) -> None:
        """Hand out leases."""
        ...


class EarlyGroup:
    """Tasks of one request, which are answered together.

    Attributes
    ----------
    done : asyncio.Future
        Resolves when each task is made, or stands for good against it: with the ids that stand against some.
    """

    def __init__(
        self,
        session_id: str,
        options: TaskOptions | None,
        requests: Sequence[TaskRequest],
        sync: Callable[[], Awaitable[None]],
        now_s: float,
    ) -> None:
        self.session_id = session_id
        self.options = options
        self.requests = requests
        self.sync = sync
        self.now_s = now_s
        self.has_begun = False
        # Those whose making is not being written, by number.
        self.begun: dict[int, _Begun] = {}
        self.num_left = len(requests)
        self.refused: dict[str, None] = {}
        self.done: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self.making: asyncio.Future[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Ended:
    """Tasks that have ended well before they were made: they are made by the write that tells of their ends."""

    def __init__(self, early: EarlyTasks, groups: dict[EarlyGroup, list[_Begun]]) -> None:
        self._early = early
        self._groups = groups
        # Why there will never be those of a group.
        self._reasons: dict[EarlyGroup, BaseException] = {}

    def make(self, tables: TaskTables) -> set[Lease]:
        """Make them, within a write; return the leases of those that cannot be made.

        The write may be repeated when it could not be committed; then none of them is made any more.
        """
        refused: set[Lease] = set()
        for group, begun in self._groups.items():
            leases = [lease for lease, _ in begun]
            if group not in self._reasons:
                try:
                    _make(tables, group, leases, [request._replace(payload=EMPTY) for _, request in begun])
                except (Error, creation.Refused) as error:
                    self._reasons[group] = error
            if group in self._reasons:
                refused.update(leases)
        tables.after_rollback(self._rolled_back)
        return refused

    def _rolled_back(self) -> None:
        # The outcomes of tasks that are there are written as soon as the disk takes them; these are not there.
        error = Unavailable("the disk failed when the tasks were to be made")
        for group in self._groups:
            self._reasons.setdefault(group, error)
        self._early.failed(self._groups, error)

    def written(self, error: BaseException | None) -> None:
        """Tell what has become of the write."""
        for group, begun in self._groups.items():
            reason = self._reasons.get(group) or error
            if reason is not None:
                for lease, _ in begun:
                    self._early.lose(lease)
            self._early.ended(group, [request for _, request in begun], reason)


class EarlyTasks:
    """The tasks that have begun and are not made. Belongs to the loop of its tasks.

    Parameters
    ----------
    tasks : Attempts

    Attributes
    ----------
    taker : EarlyTaker or None
        None while nobody hands out leases: then no task begins early.
    num_ended : int
        Tasks that were made together with their ends.
    """

    def __init__(self, tasks: Attempts) -> None:
        self.taker: EarlyTaker | None = None
        self.num_ended = 0
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._groups: dict[EarlyGroup, None] = {}
        self._pause_until = 0.0
        self._closed = False

    @property
    def are_likely(self) -> bool:
        """Whether a task that is submitted soon would begin early."""
        return self._are_wanted(1)

    def are_wanted(self, requests: Sequence[TaskRequest]) -> bool:
        """Return whether tasks are to begin early: they are simple, and nothing is ready that comes before them."""
        for request in requests:
            if len(request.expected_keys) > 1 or request.dependencies:
                return False
        return self._are_wanted(len(requests))

    def _are_wanted(self, number: int) -> bool:
        taker = self.taker
        return (
            taker is not None
            and not self._closed
            and not self._tasks.scheduler.has_ready
            and taker.wants_early(number)
            and self._loop.time() >= self._pause_until
        )

    async def begin(
        self,
        session_id: str,
        requests: Sequence[TaskRequest],
        options: TaskOptions | None,
        sync: Callable[[], Awaitable[None]],
    ) -> EarlyGroup | None:
        """Have tasks begin; None, and nothing else, if ids or keys of theirs are in use.

        Parameters
        ----------
        requests : sequence of TaskRequest
            With one key each, no dependencies, and payloads that are held and that no row refers to. Those are let go
            by the group, or when something is raised; if None is returned they are the caller's.
        sync : callable
            Makes the payloads durable; raises an `Error` if they cannot be.

        Raises
        ------
        Error
            As `Tasks.create_tasks`.
        """
        group = EarlyGroup(session_id, options, requests, sync, self._tasks.now_s())

        def prepare(tables: TaskTables) -> bool:
            session = creation.open_session(tables, session_id)
            keys = [request.expected_keys[0] for request in requests]
            if not tables.are_new(session.number, [request.id for request in requests], keys):
                return False
            number = session.options_number if options is None else tables.store_options(options, session.number)
            resolved = tables.options(number)
            leases = [self._lease(tables, group, session.number, resolved, request) for request in requests]
            tables.before_commit(lambda: self._begin(group, leases))
            return True

        write = self._tasks.store.write(prepare, Wait.FOR_TABLES)
        try:
            has_begun = await asyncio.shield(write)
        except asyncio.CancelledError:
            write.add_done_callback(functools.partial(self._abandoned, group))
            raise
        except Exception as error:
            self._not_prepared(group, error)
            raise
        return group if has_begun else None

    def claim(self, leases: Iterable[Lease]) -> Ended | None:
        """Take those of leases whose tasks are not made; who asks has ended them well, and has them made."""
        groups: dict[EarlyGroup, list[_Begun]] = {}
        for lease in leases:
            group = lease.early
            if group is not None:
                lease.early = None
                lease.task = lease.task._replace(payload=EMPTY)
                groups.setdefault(group, []).append(group.begun.pop(lease.number))
        return Ended(self, groups) if groups else None

    async def made(self, lease: Lease) -> None:
        """Have the task of a lease made by a write that comes before every one that is asked for afterwards.

        If that is not possible the lease is lost.
        """
        group = lease.early
        if group is not None:
            await asyncio.shield(self._making(group))

    def close(self) -> None:
        """Begin nothing any more, and let go of what is not made: it was not acknowledged."""
        self._closed = True
        for group in list(self._groups):
            self._fail(group, Unavailable("the server stops"))

    # How they begin

    def _lease(
        self, tables: TaskTables, group: EarlyGroup, session_number: int, options: TaskOptions, request: TaskRequest
    ) -> Lease:
        task = LeasedTask(request.id, group.session_id, 0, options, request.expected_keys, (), request.payload)
        lease = Lease(self._tasks, tables.number(), session_number, tables.number(), AGENTS, task)
        lease.early = group
        lease.is_recent = True
        return lease

    def _begin(self, group: EarlyGroup, leases: Sequence[Lease]) -> None:
        group.has_begun = True
        group.begun = {lease.number: (lease, request) for lease, request in zip(leases, group.requests, strict=True)}
        self._groups[group] = None
        if self._closed or self.taker is None:
            self._fail(group, Unavailable("the server stops"))
            return
        group.timer = self._loop.call_later(_LATEST_S, self._making, group)
        self._tasks.leases.add(leases)
        self.taker.take_early(leases)

    def _not_prepared(self, group: EarlyGroup, error: BaseException) -> None:
        if group.has_begun:
            self._fail(group, error)  # the disk takes nothing
        else:
            self._let_go(group.requests)

    def _abandoned(self, group: EarlyGroup, write: asyncio.Future[bool]) -> None:
        """Nobody waits any more: what has begun goes on, what has not is let go."""
        error = None if write.cancelled() else write.exception()
        if error is not None:
            self._not_prepared(group, error)
        elif not group.has_begun:
            self._let_go(group.requests)

    # How they are made before they end

    def _making(self, group: EarlyGroup) -> asyncio.Future[None]:
        if group.making is None:
            group.making = asyncio.ensure_future(self._make_rest(group))
            self._tasks.in_background(group.making)
        return group.making

    async def _make_rest(self, group: EarlyGroup) -> None:
        """Have those tasks made that have not ended; return when that is about to be written."""
        if not group.begun:
            return
        try:
            await group.sync()
        except Exception as error:
            if not isinstance(error, Error):
                logger.error("the payloads of tasks could not be made durable", exc_info=error)
            self._fail(group, error)
            return
        begun, group.begun = list(group.begun.values()), {}
        if not begun:
            return
        leases, requests = [lease for lease, _ in begun], [request for _, request in begun]
        for lease in leases:
            lease.early = None
        write = self._tasks.store.write(lambda tables: _make(tables, group, leases, requests))
        write.add_done_callback(functools.partial(self._rest_made, group, begun))

    def _rest_made(self, group: EarlyGroup, begun: Sequence[_Begun], write: asyncio.Future[None]) -> None:
        leases, requests = [lease for lease, _ in begun], [request for _, request in begun]
        error = write.exception()
        if error is not None:
            for lease in leases:
                self.lose(lease)
            self.ended(group, requests, error)
            return
        self._tasks.let_go([request.payload for request in requests], are_stored=True)
        self._count_down(group, len(begun))
        self._tasks.were_started(leases)

    # What has become of them

    def ended(self, group: EarlyGroup, requests: Sequence[TaskRequest], error: BaseException | None) -> None:
        """Tasks were made together with their ends, or will not be made because of an error."""
        self._let_go(requests)
        if error is None:
            self.num_ended += len(requests)
        elif isinstance(error, creation.Refused):
            group.refused.update(dict.fromkeys(error.ids))
        else:
            _set_error(group, error)
        self._count_down(group, len(requests))

    def failed(self, groups: Iterable[EarlyGroup], error: Error) -> None:
        """The disk fails: whoever waits is told, and no task begins early for a while."""
        self._pause_until = self._loop.time() + _PAUSE_S
        for group in groups:
            _set_error(group, error)

    def lose(self, lease: Lease) -> None:
        """Have an agent stop."""
        self._tasks.lose(lease)

    def _fail(self, group: EarlyGroup, error: BaseException) -> None:
        """Nothing becomes of what is not made, and not being made."""
        _set_error(group, error)
        begun, group.begun = list(group.begun.values()), {}
        for lease, _ in begun:
            lease.early = None
            self.lose(lease)
        self.ended(group, [request for _, request in begun], error)

    def _let_go(self, requests: Iterable[TaskRequest]) -> None:
        """Let payloads go to which no row has ever referred."""
        objects = self._tasks.objects
        for request in requests:
            if request.payload.ref is not None:
                objects.let_go((request.payload,))
                objects.remove(request.payload.ref.digest)

    def _count_down(self, group: EarlyGroup, number: int) -> None:
        group.num_left -= number
        if group.num_left > 0:
            return
        self._groups.pop(group, None)
        if group.timer is not None:
            group.timer.cancel()
        if not group.done.done():
            group.done.set_result(tuple(group.refused))


def _make(tables: TaskTables, group: EarlyGroup, leases: Sequence[Lease], requests: Sequence[TaskRequest]) -> None:
    """Make tasks as their leases have them; those whose lease is lost are ready."""
    session = creation.open_session(tables, group.session_id)
    if session.number != leases[0].session_number:
        raise NotFound(f"session {group.session_id!r} was deleted; there is another one of that id now")
    # It may be lost at any time while this runs; whoever takes it away has that written behind this.
    are_held = [not lease.is_lost for lease in leases]
    numbers = [lease.number for lease in leases]
    tasks = creation.create_early(
        tables, session, group.options, requests, numbers, group.now_s, are_leased=all(are_held)
    )
    held = [(task, lease.fence) for task, lease, is_held in zip(tasks, leases, are_held, strict=True) if is_held]
    transitions.dispatch_all(tables, [task for task, _ in held], AGENTS, [fence for _, fence in held])


def _set_error(group: EarlyGroup, error: BaseException) -> None:
    if not group.done.done():
        group.done.set_exception(error)
        group.done.exception()  # whoever submitted them may have gone
