"""Waiting for results and for the end of tasks: woken by what is committed, never by looking again and again.

Who waits for the same thing in the same way waits together, so that a thousand equal waits cost one look at the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from runtime.errors import Error, NotFound, Unavailable
from runtime.objects.value import Value
from runtime.store.tasks import TaskStore, TaskTables
from runtime.tasks.filters import TaskFilter
from runtime.tasks.model import ENDED_BADLY, TERMINAL, ResultStatus, TaskStatus
from runtime.tasks.transitions import Completions, ResultChange, TaskChange

__all__ = ["Collector", "Settled", "SettledKey", "Waiting"]

logger = logging.getLogger(__name__)

# A look at more tasks than this is taken in a thread.
_SHORT = 200

# Values that are kept at hand for one who reads slower than they come.
_KEPT_BYTES = 4 << 20

_CANCELLATIONS = frozenset({TaskStatus.CANCELING, TaskStatus.CANCELED})
# How long a group waits before it looks again when the store has failed.
_RETRY_S = 0.25


class _Look:
    """What one look at the store says about a group.

    Attributes
    ----------
    counts : dict
        Tasks by status.
    is_over : bool
        Whether the wait ends.
    pending : set of str
        Ids of the tasks that have not ended, newest attempts included; only for filters by task.
    sessions : set of int
        Numbers of the sessions; only for filters by session.
    """

    __slots__ = ("counts", "is_over", "pending", "sessions")

    def __init__(self, counts: dict[TaskStatus, int], is_over: bool, pending: set[str], sessions: set[int]) -> None:
        self.counts = counts
        self.is_over = is_over
        self.pending = pending
        self.sessions = sessions


class _Group:
    """Everybody who waits for the same tasks with the same conditions."""

    def __init__(
        self, waiting: Waiting, key: tuple[Any, ...], selection: TaskFilter, on_error: bool, on_cancel: bool
    ) -> None:
        self.key = key
        self.selection = selection
        self.on_error = on_error
        self.on_cancel = on_cancel
        self.futures: dict[asyncio.Future[dict[TaskStatus, int]], None] = {}
        self.pending: set[str] = set()
        # `pending` shrinks while tasks end; the links in `Waiting` are those of the last look.
        self.linked: tuple[str, ...] = ()
        self.sessions: set[int] = set()
        self.missed: list[TaskChange] = []
        self._waiting = waiting
        self._dirty = False
        self._looking: asyncio.Task[None] | None = None

    def consider(self, change: TaskChange) -> None:
        """Look again if this change may end the wait."""
        if self.selection.sessions is not None:
            is_due = change.after in TERMINAL or (self.on_cancel and change.after is TaskStatus.CANCELING)
        else:
            if change.after in TERMINAL:
                self.pending.discard(change.id)
            is_due = (
                not self.pending
                or (change.has_next and change.after in TERMINAL)
                or (self.on_error and change.after in ENDED_BADLY)
                or (self.on_cancel and change.after in _CANCELLATIONS)
            )
        if is_due:
            self.look()

    def look(self) -> None:
        """Look at the store now, or once more when the look in progress has ended."""
        self._dirty = True
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look(self) -> None:
        try:
            while self._dirty and self.futures:
                self._dirty = False
                try:
                    found = await self._take_look()
                except Error as error:
                    if not isinstance(error, Unavailable):
                        logger.error("a wait could not look at the store: %s", error)
                    await asyncio.sleep(_RETRY_S)
                    self._dirty = True
                    continue
                if found.is_over:
                    self._waiting.forget(self)
                    for future in self.futures:
                        if not future.done():
                            future.set_result(found.counts)
                    self.futures.clear()
                    return
                self._waiting.follow(self, found.pending, found.sessions)
                missed, self.missed = self.missed, []
                for change in missed:
                    if change.session in self.sessions or change.id in self.pending:
                        self.consider(change)
        finally:
            self._looking = None

    async def _take_look(self) -> _Look:
        ids = self.selection.sessions if self.selection.sessions is not None else self.selection.tasks
        if len(ids or ()) <= _SHORT:
            return self._waiting.store.read(self._evaluate)
        # What is committed while the thread looks may not be seen there, and nobody listens for it yet.
        self.missed = []
        self._waiting.in_thread[self] = None
        try:
            return await self._waiting.store.read_in_thread(self._evaluate)
        finally:
            self._waiting.in_thread.pop(self, None)

    def _evaluate(self, tables: TaskTables) -> _Look:
        selection = self.selection
        counts = tables.task_counts(selection)
        superseded = tables.superseded(selection) if counts else []
        newest = []
        for task in superseded:
            while task.next:
                task = tables.task(task.next)
            newest.append(task)
        alive = [task for task in newest if task.status not in TERMINAL]
        is_over = not alive and all(status in TERMINAL for status in counts)
        if self.on_error and not is_over:
            bad = sum(number for status, number in counts.items() if status in ENDED_BADLY) - len(superseded)
            is_over = bad > 0 or any(task.status in ENDED_BADLY for task in newest)
        if self.on_cancel and not is_over:
            is_over = any(status in _CANCELLATIONS for status in counts)
        pending: set[str] = set()
        sessions: set[int] = set()
        if not is_over:
            if selection.sessions is not None:
                rows = (tables.session_by_id(session_id) for session_id in selection.sessions)
                sessions = {row.number for row in rows if row is not None}
            else:
                statuses = tables.task_statuses(selection.tasks or ())
                pending = {task_id for task_id, status in statuses.items() if status not in TERMINAL}
                if selection.included is not None:
                    pending = {task_id for task_id in pending if statuses[task_id] in selection.included}
                elif selection.excluded is not None:
                    pending = {task_id for task_id in pending if statuses[task_id] not in selection.excluded}
                pending.update(task.id for task in alive)
        return _Look(counts, is_over, pending, sessions)


# Dictionaries in place of sets: what happens must not depend on where objects lie in memory.
_Groups = dict[_Group, None]


class SettledKey(Protocol):
    """Who is told of one result."""

    def settle(self, key: str, value: Value | None = None) -> None:
        """Take note that the result is there, perhaps with its value, or never will be."""
        ...


class Settled(Protocol):
    """Who is told of the results of a session."""

    def settle(self, key: str, value: Value | None = None) -> None:
        """Take note that a result is there, perhaps with its value, or never will be."""
        ...

    def close(self) -> None:
        """Wait no longer: the server stops."""
        ...


class Collector:
    """Waits for many results of one session; made by `Waiting.collect`.

    Attributes
    ----------
    pending : set of str
        Keys of those that nobody has been told of.
    """

    def __init__(self, waiting: Waiting, session: int, keys: Iterable[str]) -> None:
        self.pending = set(keys)
        self._waiting = waiting
        self._session = session
        self._settled: dict[str, Value | None] = {}
        self._kept_bytes = 0
        self._news = asyncio.Event()
        self._is_closed = False

    def settle(self, key: str, value: Value | None = None) -> None:
        """Take note that a result is there, perhaps with its value, or never will be."""
        if key in self.pending:
            self.pending.discard(key)
            if value is not None:
                self._kept_bytes += len(value.data)
                if self._kept_bytes > _KEPT_BYTES:
                    value = None  # it is read again when its turn has come
            self._settled[key] = value
            self._news.set()

    async def next(self) -> dict[str, Value | None]:
        """Return keys that are settled, at least one, with values that are at hand; none when all were returned.

        Raises
        ------
        Unavailable
            The server stops.
        """
        if self.pending and not self._settled:
            await self._news.wait()
        if self._is_closed:
            raise Unavailable("the server stops")
        self._news.clear()
        settled, self._settled, self._kept_bytes = self._settled, {}, 0
        return settled

    def close(self) -> None:
        """Let whoever waits go."""
        self._is_closed = True
        self._news.set()

    def leave(self) -> None:
        """Be told of nothing any more."""
        self._waiting.leave(self._session, self)


class Waiting:
    """Everybody who waits. Belongs to one loop.

    Parameters
    ----------
    store : TaskStore
        Where to look.
    """

    def __init__(self, store: TaskStore) -> None:
        self.store = store
        self._closed = False
        self._by_key: dict[tuple[int, str], dict[asyncio.Future[None], None]] = {}
        self._collectors: dict[int, dict[Settled, None]] = {}
        self._followed: dict[tuple[int, str], SettledKey] = {}
        self._at_close: dict[Callable[[], None], None] = {}
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._by_session: dict[int, _Groups] = {}
        self._by_task: dict[str, _Groups] = {}
        self.in_thread: _Groups = {}

    @property
    def is_closed(self) -> bool:
        """Whether the server stops, so that nobody waits any more."""
        return self._closed

    @property
    def num_waiting(self) -> int:
        """How many calls wait now, and how many results are followed."""
        collectors, single = (sum(map(len, table.values())) for table in (self._collectors, self._by_key))
        return collectors + single + len(self._followed) + sum(len(group.futures) for group in self._groups.values())

    async def result(self, session_id: str, key: str) -> None:
        """Wait until a result is not CREATED any more.

        Raises
        ------
        NotFound
            There is no such result now.
        Unavailable
            The server stops.
        """

        def look(tables: TaskTables) -> tuple[int, ResultStatus]:
            session = tables.session_by_id(session_id)
            if session is None:
                raise NotFound(f"session {session_id!r} is not known")
            found = tables.result(session.number, key)
            if found is None:
                raise NotFound(f"result {key!r} is not known in session {session_id!r}")
            return session.number, found.status

        while True:
            self._check_open()
            number, status = self.store.read(look)
            if status is not ResultStatus.CREATED:
                return
            # Nothing runs between the look and this, so no change is missed.
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiters = self._by_key.setdefault((number, key), {})
            waiters[future] = None
            try:
                await future
            finally:
                waiters.pop(future, None)
                if not waiters and self._by_key.get((number, key)) is waiters:
                    del self._by_key[(number, key)]

    async def collect(self, session_id: str, keys: Iterable[str]) -> Collector:
        """Return what waits for many results; whoever has it calls its ``leave`` at the end.

        Raises
        ------
        NotFound
            There is no such session, or not all of the results; names one of them.
        Unavailable
            The server stops.
        """
        self._check_open()
        wanted = list(dict.fromkeys(keys))
        is_short = len(wanted) <= _SHORT

        def begin(tables: TaskTables) -> tuple[int, tuple[dict[str, Value | None], list[str]]]:
            session = tables.session_by_id(session_id)
            if session is None:
                raise NotFound(f"session {session_id!r} is not known")
            return session.number, tables.settled(session.number, wanted) if is_short else ({}, [])

        number, (settled, unknown) = self.store.read(begin)
        # Nothing runs between a short look and this, so no change is missed; it is told of those during a long one.
        collector = Collector(self, number, wanted)
        self.enter(number, collector)
        try:
            if not is_short:
                settled, unknown = await self.store.read_in_thread(lambda tables: tables.settled(number, wanted))
            if unknown:
                raise NotFound(f"result {unknown[0]!r} is not known in session {session_id!r}")
        except BaseException:
            collector.leave()
            raise
        for key, value in settled.items():
            collector.settle(key, value)
        if self._closed:
            collector.close()
        return collector

    def enter(self, session: int, collector: Settled) -> None:
        """Tell a collector of the results of a session that are settled from now on."""
        self._collectors.setdefault(session, {})[collector] = None

    def enter_key(self, session: int, key: str, follower: SettledKey) -> None:
        """Tell a follower once, when a result is settled; of each result there is one, who has made it."""
        self._followed[session, key] = follower

    def leave_key(self, session: int, key: str, follower: SettledKey) -> None:
        """Tell a follower nothing."""
        if self._followed.get((session, key)) is follower:
            del self._followed[session, key]

    def at_close(self, closed: Callable[[], None]) -> None:
        """Have a function called when the server stops; by who waits for nothing now, but will."""
        self._at_close[closed] = None

    def not_at_close(self, closed: Callable[[], None]) -> None:
        """Have it not called."""
        self._at_close.pop(closed, None)

    def leave(self, session: int, collector: Settled) -> None:
        """Tell a collector of nothing any more."""
        _discard(self._collectors, (session,), collector)

    async def completion(
        self, selection: TaskFilter, *, on_error: bool = False, on_cancel: bool = False
    ) -> dict[TaskStatus, int]:
        """Wait until the selected tasks have ended, or one has ended badly or is canceled, as asked for.

        Returns
        -------
        dict of TaskStatus to int
            How many of the selected tasks have which status, at the moment that ended the wait.

        Raises
        ------
        Unavailable
            The server stops.
        """
        self._check_open()
        sessions, ids = (None if part is None else tuple(part) for part in (selection.sessions, selection.tasks))
        key = (sessions, ids, selection.included, selection.excluded, on_error, on_cancel)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(self, key, selection, on_error, on_cancel)
            # Until the first look says what is pending, every change counts.
            self._by_session.setdefault(0, {})[group] = None
        future: asyncio.Future[dict[TaskStatus, int]] = asyncio.get_running_loop().create_future()
        group.futures[future] = None
        group.look()
        try:
            return dict(await future)
        finally:
            group.futures.pop(future, None)
            if not group.futures and self._groups.get(key) is group:
                self.forget(group)

    def notify(self, changes: Iterable[Any]) -> None:
        """Wake those whom committed changes concern: no wait ends because tasks are queued or handed out."""
        by_session, by_task, fresh = self._by_session, self._by_task, self._by_session.get(0)
        for change in changes:
            if isinstance(change, TaskChange):
                if fresh:
                    for group in fresh:
                        group.look()
                    fresh = None
                for group in self.in_thread:
                    group.missed.append(change)
                groups = by_session.get(change.session)
                if groups:
                    for group in tuple(groups):
                        group.consider(change)
                groups = by_task.get(change.id)
                if groups:
                    for group in tuple(groups):
                        group.consider(change)
            elif isinstance(change, Completions):
                self._notify_completions(change)
            elif isinstance(change, ResultChange):
                for future in self._by_key.get((change.session, change.key), ()):
                    if not future.done():
                        future.set_result(None)
                follower = self._followed.pop((change.session, change.key), None)
                if follower is not None:
                    follower.settle(change.key)
                for collector in self._collectors.get(change.session, ()):
                    collector.settle(change.key)

    def _notify_completions(self, completions: Completions) -> None:
        collectors, followed = self._collectors, self._followed
        for one in completions.done if followed else ():
            follower = followed.pop((one.session, one.key), None)
            if follower is not None:
                follower.settle(one.key, one.value)
        for one in completions.done if collectors else ():
            for collector in collectors.get(one.session, ()):
                collector.settle(one.key, one.value)
        if self._by_task or self._by_key or self._by_session or self.in_thread:
            self.notify(completions.each())

    def close(self) -> None:
        """Let everybody go with UNAVAILABLE."""
        self._closed = True
        for closed in list(self._at_close):
            closed()
        for collectors in self._collectors.values():
            for collector in collectors:
                collector.close()
        futures: list[asyncio.Future[Any]] = [future for waiters in self._by_key.values() for future in waiters]
        for group in list(self._groups.values()):
            futures += group.futures
            group.close()
            self.forget(group)
        for future in futures:
            if not future.done():
                future.set_exception(Unavailable("the server stops"))

    # For groups

    def follow(self, group: _Group, pending: set[str], sessions: set[int]) -> None:
        """From now on tell a group of changes of these tasks and sessions only."""
        self._unlink(group)
        group.pending, group.sessions = pending, sessions
        group.linked = tuple(pending)
        for task_id in pending:
            self._by_task.setdefault(task_id, {})[group] = None
        for number in sessions:
            self._by_session.setdefault(number, {})[group] = None

    def forget(self, group: _Group) -> None:
        """Tell a group of nothing any more."""
        self._unlink(group)
        if self._groups.get(group.key) is group:
            del self._groups[group.key]

    def _unlink(self, group: _Group) -> None:
        _discard(self._by_session, (0, *group.sessions), group)
        _discard(self._by_task, group.linked, group)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the server stops")


def _discard(table: dict[Any, dict[Any, None]], keys: Iterable[Any], group: object) -> None:
    for key in keys:
        groups = table.get(key)
        if groups is not None:
            groups.pop(group, None)
            if not groups:
                del table[key]
