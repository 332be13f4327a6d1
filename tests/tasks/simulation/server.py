"""One life of the server of a story: the real domain code on a real store in memory, and how it dies."""

from __future__ import annotations

import asyncio
import functools
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from runtime.errors import Unavailable
from runtime.store import failpoints
from runtime.store.sqlite.database import Database
from runtime.store.sqlite.object_tables import ObjectTables
from runtime.store.sqlite.store import SqliteStore
from runtime.store.sqlite.tail_log import LOG_BYTES
from runtime.store.sqlite.task_tables import SqliteTaskTables
from runtime.tasks.delays import RetryDelay
from runtime.tasks.tasks import Limits, Tasks
from tests.tasks.simulation.objects import MemoryObjects

V = TypeVar("V")

PLANES = (ObjectTables, SqliteTaskTables)
LIMITS = Limits(lease_ttl_s=2.0, heartbeat_s=0.5, cancel_grace_s=0.7, retention_s=100.0)
DELAY = RetryDelay(0.2, 0.3)


class Crash(KeyboardInterrupt):
    """The server's process ends here; the loop hands on nothing else than interrupts."""


@functools.cache
def _disk() -> tuple[sqlite3.Connection, str]:
    """Return a file in memory with empty tables, and the script that empties them again.

    All stories have the same one, one after the other: so every statement is prepared once, and not once for each.
    """
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, cached_statements=256)
    Database(None, PLANES, connection)
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    emptied = [f"DELETE FROM {name};" for name in names if name not in ("versions", "openings", "tail")]
    reset = ["UPDATE openings SET epoch = 1;", "UPDATE tail SET number = 0;"]
    return connection, "".join(["BEGIN;", *emptied, *reset, "COMMIT;"])


class Log:
    """The log beside the tables: what was appended is there, whatever happens then."""

    def __init__(self) -> None:
        self.last = self._epoch = 0
        self._records: list[tuple[int, bytes]] = []

    def begin(self, epoch: int, last: int) -> None:
        self.last, self._epoch = last, epoch
        self._records.clear()

    def has_room(self, nbytes: int) -> bool:
        return sum(len(record) for _, record in self._records) + nbytes <= LOG_BYTES

    def append(self, record: bytes) -> None:
        self.last += 1
        failpoints.hit("store.tail.append")
        self._records.append((self.last, record))

    def restart(self) -> None:
        self._records.clear()

    def records(self) -> Iterator[tuple[int, int, bytes]]:
        yield from [(self._epoch, number, record) for number, record in self._records]

    def close(self) -> None:
        pass


class Disk:
    """What outlives a server: its tables and its objects. There is one at a time."""

    def __init__(self) -> None:
        self.connection, empty = _disk()
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.connection.executescript(empty)
        self.log = Log()
        self.objects: dict[bytes, bytes] = {}

    @property
    def names(self) -> set[bytes]:
        """Names of the objects that lie there."""
        return set(self.objects) - {b"number"}


class GroupingStore(SqliteStore):
    """A store whose disk is busy now and then: what is written meanwhile is one group.

    Parameters
    ----------
    told : callable
        Called when everybody has been told of a group.
    """

    def __init__(self, disk: Disk, chance: random.Random, told: Callable[[], None]) -> None:
        database = Database(None, PLANES, disk.connection, disk.log)
        super().__init__(None, PLANES, threads=False, database=database)
        self._chance = chance
        self._told = told

    def _pump(self) -> None:
        if self._chance.random() < 0.1:
            self._loop.call_later(self._chance.expovariate(20.0), self._write_group)
        else:
            self._write_group()

    def _write_group(self) -> None:
        super()._pump()
        self._told()


class Server:
    """One life of the server, from its start to a crash or the end."""

    def __init__(self, disk: Disk, limits: Limits, chance: random.Random, crashed: Callable[[], None]) -> None:
        self.store = GroupingStore(disk, chance, self._check_nobody_sleeps)
        self._crashed = crashed
        self.objects = MemoryObjects(disk.objects)
        now_s = asyncio.get_running_loop().time
        self.tasks = Tasks(self.store.plane(SqliteTaskTables), self.objects, limits, now_s=now_s)
        # As if tasks had been quick of late, or not: then their making waits for their end.
        self.tasks._duration_s = chance.choice((0.0, 1.0))
        self.gone = asyncio.Event()
        self._calls: dict[asyncio.Task[Any], None] = {}

    def _check_nobody_sleeps(self) -> None:
        """Check that no agent waits for a task that lies in the queue, unless the scheduler is about to look."""
        scheduler: Any = self.tasks.scheduler
        if self.gone.is_set() or scheduler._asking:
            return
        if any(not request.future.done() for request in scheduler._waiting):
            tables: Any = self.tasks.store._written  # type: ignore[attr-defined]
            query = "SELECT number FROM tasks WHERE status = 2 AND missing = 0"
            is_ready = any(number not in tables._taken for (number,) in tables.connection.execute(query))
            assert not is_ready, "an agent waits although a task is ready"

    def die(self) -> None:
        """Do nothing any more, and let everybody outside know: what a process does that has ended."""
        store: Any = self.store
        while not store._queue.empty():
            store._queue.get()
        store.write = lambda *arguments: asyncio.get_event_loop().create_future()
        # Nobody puts its tail into the tables any more, for a read or because time passes.
        store._closed = True
        store._writer._tailed.clear()
        store._near._writes.clear()
        for timer in (store._settling, store._near._lingering):
            if timer is not None:
                timer.cancel()
        tasks: Any = self.tasks
        tasks.leases.close()
        tasks.retention.close()
        tasks._delays.close()
        for timer in (tasks._start_timer, tasks._dispatch_timer, tasks._outcomes._retry, tasks.scheduler._retry):
            if timer is not None:
                timer.cancel()
        for group in tasks.waiting._groups.values():
            group.close()
        for early in tasks.early._groups:
            early.timer.cancel()
        self.gone.set()
        for call in self._calls:
            call.cancel()
        self._stop_background()

    def _stop_background(self) -> None:
        tasks: Any = self.tasks
        for task in tasks._background:
            task.cancel()

    async def ask(self, work: Callable[[Tasks], Awaitable[V]]) -> V:
        """Call the server as a client does; UNAVAILABLE when it dies meanwhile, whatever has become of the call."""
        if self.gone.is_set():
            raise Unavailable("connection refused")
        call = asyncio.current_task()
        assert call is not None and call not in self._calls
        self._calls[call] = None
        try:
            answer = await work(self.tasks)
        except asyncio.CancelledError:
            if not self.gone.is_set() or call.uncancel():
                raise
        except Crash:
            # In what the call itself had to do at once; the caller lives on.
            del self._calls[call]
            self._crashed()
        else:
            if not self.gone.is_set():
                return answer
        finally:
            self._calls.pop(call, None)
        # Calls that go away leave something to be done, which nobody does any more.
        self._stop_background()
        raise Unavailable("connection reset")
