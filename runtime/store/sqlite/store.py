"""The store in a file: a thread that writes, connections that read, and each plane's view of both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from runtime.errors import Unavailable
from runtime.store.sqlite.database import Database, store_error
from runtime.store.sqlite.near_writes import NearWrites
from runtime.store.sqlite.writer import GroupWriter, Tables, Write, call_all
from runtime.store.store import Wait

__all__ = ["SqlitePlaneStore", "SqliteStore"]

logger = logging.getLogger(__name__)

V = TypeVar("V")
T = TypeVar("T", bound=Tables)

# What is on the disk's way at once. Larger groups gain nothing and make the first of them wait.
_GROUP_LIMIT = 512
_READ_THREADS = 2
# How long nothing is written before the tail is put into the tables; and how long the writer waits until it tries again
# when that has failed, at first and at most.
_SETTLE_S = 0.005
_FIRST_AGAIN_S, _LAST_AGAIN_S = 0.05, 2.0
# The longest that a read waits for what is being written before it.
_LOOK_S = 5.0

# What the thread is told beside writes and reads: to look again whether there is a tail; to end the open group.
_NUDGE, _END = "nudge", "end"


class _Look:
    """A read that comes while something is in the log that the tables do not have."""

    def __init__(self, tables: Tables, function: Callable[[Any], Any]) -> None:
        self.tables = tables
        self.function = function
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_settled = False
        self.done = threading.Event()

    def run(self, writer: GroupWriter) -> None:
        """Have the tables know all, or read what the writer knows; between two groups."""
        try:
            self.is_settled = writer.settle()
            if not self.is_settled:
                self.value = writer.look(self.tables, self.function)
        except BaseException as error:
            self.error = error
        finally:
            self.done.set()


class SqliteStore:
    """The durable state of a server in one SQLite file.

    Parameters
    ----------
    path : Path or None
        The file; None for a store in memory that ends with this object.
    planes : sequence of type
        The `Tables` of each plane that keeps something in it.
    threads : bool
        False: writes run on the loop itself, some turns after they were asked for (`tests.tasks.simulation`).
    connection : sqlite3.Connection, optional
        See `Database`.
    database : Database, optional
        An open one, in place of all that.

    Notes
    -----
    Made and used on one running event loop.
    """

    def __init__(
        self,
        path: Path | None,
        planes: Sequence[type[Tables]],
        *,
        threads: bool = True,
        connection: sqlite3.Connection | None = None,
        database: Database | None = None,
    ) -> None:
        self.database = Database(path, planes, connection) if database is None else database
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._writer = GroupWriter(self.database.writer, self.database.name, self._tell, self.database.log)
        self._queue: queue.SimpleQueue[Write | _Look | str | None] = queue.SimpleQueue()
        self._settling: asyncio.TimerHandle | None = None
        # Writes that the thread has and that were not told yet.
        self._num_away = 0
        self._pumping = self._closed = False
        self._near = NearWrites(
            self._writer, threads, put=self._put, put_end=self._put_end,
            tailed=self._nudge if threads else self._settle_soon,
        )  # fmt: skip
        self._reader = self.database.reader()
        self._thread: threading.Thread | None = None
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._pool_readers = threading.local()
        self._open_readers: list[sqlite3.Connection] = []
        if threads:
            self._thread = threading.Thread(target=self._write_groups, name="store-writer", daemon=True)
            self._thread.start()

    @classmethod
    async def open(cls, path: Path, planes: Sequence[type[Tables]]) -> SqliteStore:
        """Return the store in a file; the file is opened, and made if need be, in a thread."""
        database = await asyncio.to_thread(Database, path, planes)
        return cls(path, planes, database=database)

    def plane(self, tables: type[T]) -> SqlitePlaneStore[T]:
        """Return the store as the plane with these tables sees it."""
        return SqlitePlaneStore(self, tables)

    async def close(self) -> None:
        """Let the writes that were asked for end, and close the file. Later writes fail with UNAVAILABLE."""
        if self._closed:
            return
        self._closed = True
        self._near.leave()
        if self._thread is not None:
            self._queue.put(None)
            while self._thread.is_alive():
                await asyncio.sleep(0.002)
        else:
            self._pump()
            self._settle()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        if self.database.path is not None:
            self._reader.close()
            for reader in self._open_readers:
                reader.close()
        self.database.close()
        # What the writer's thread told the loop last.
        await asyncio.sleep(0)

    # For the planes

    def written(self, tables: type[T]) -> T:
        """Return the tables of a plane as writes have them."""
        found = tables.written(self.database.writer, self.database.epoch, self.database.log is not None)
        if found.uses_log:
            self._writer.add(found)
        return cast(T, found)

    def write(self, tables: Tables, function: Callable[[Any], V], wait: Wait = Wait.NO) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`."""
        future: asyncio.Future[V] = self._loop.create_future()
        if self._closed:
            future.set_exception(Unavailable(f"{self.database.name} is closed"))
            return future
        write = Write(tables, function, future, wait)
        if wait is not Wait.NO and self._near.takes(tables, not self._num_away):
            self._near.add(write)
            return future
        self._near.leave()
        self._put(write)
        return future

    def _put(self, write: Write) -> None:
        """Have the thread run a write."""
        self._num_away += 1
        write.on_told = self._came_back
        self._queue.put(write)
        if self._thread is None and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _put_end(self) -> None:
        """Have the thread end the group that was begun on the loop."""
        self._num_away += 1
        self._queue.put(_END)

    def _nudge(self) -> None:
        self._queue.put(_NUDGE)

    def _came_back(self) -> None:
        self._num_away -= 1

    def read(self, tables: Tables, function: Callable[[Any], V], written: Tables) -> V:
        """See `runtime.store.store.PlaneStore`.

        Parameters
        ----------
        written : Tables
            The tables of the same plane as writes have them.
        """
        if self._closed:
            raise Unavailable(f"{self.database.name} is closed")
        try:
            if written.has_tail:
                look = self._look(written, function)
                if look.error is not None:
                    raise look.error
                if not look.is_settled:
                    return cast(V, look.value)
            # Without threads nobody writes meanwhile.
            return _snapshot(tables, function) if self._thread is not None else function(tables)
        except sqlite3.Error as error:
            raise store_error(error, self.database.name) from error

    def _look(self, written: Tables, function: Callable[[Any], Any]) -> _Look:
        """Have the tables know what is in the log alone.

        Raises
        ------
        Unavailable
            The disk has not taken for long what was written before.
        """
        look = _Look(written, function)
        if threading.get_ident() == self._loop_thread:
            self._near.leave()
        if self._thread is None:
            look.run(self._writer)
            return look
        self._queue.put(look)
        if not look.done.wait(_LOOK_S):
            raise Unavailable(
                f"{self.database.name}: the disk has not taken for {_LOOK_S:g} s what was written last, so it cannot "
                "be read yet"
            )
        return look

    def read_in_thread(self, kind: type[Tables], function: Callable[[Any], V], written: Tables) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`; ``written`` as for `read`."""
        if self._thread is None or self.database.path is None:
            future: asyncio.Future[V] = self._loop.create_future()
            try:
                future.set_result(self.read(kind(self._reader, 0), function, written))
            except Exception as error:
                future.set_exception(error)
            return future
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(_READ_THREADS, "store-reader")
        return self._loop.run_in_executor(self._pool, self._read_here, kind, function, written)

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection of the loop's own reads."""
        return self._reader

    def _read_here(self, kind: type[Tables], function: Callable[[Any], V], written: Tables) -> V:
        connection = getattr(self._pool_readers, "connection", None)
        if connection is None:
            connection = self._pool_readers.connection = self.database.reader()
            self._open_readers.append(connection)
        return self.read(kind(connection, 0), function, written)

    def _tell(self, functions: Sequence[Callable[[], None]]) -> None:
        if self._near.tell(functions):
            return
        if self._thread is None:
            call_all(functions)
        else:
            self._loop.call_soon_threadsafe(call_all, functions)

    def _write_groups(self) -> None:
        writer, again_s = self._writer, 0.0
        take, take_now = self._queue.get, self._queue.get_nowait
        # What was taken from the queue and comes behind the group.
        behind: list[Write | _Look | str | None] = []
        while True:
            try:
                first = behind.pop() if behind else take(True, (again_s or _SETTLE_S) if writer.has_tail else None)
            except queue.Empty:
                if time.monotonic() - self._near.ended_s > _SETTLE_S:
                    with self._near.turn():
                        is_settled = writer.settle()
                    again_s = 0.0 if is_settled else min(max(2 * again_s, _FIRST_AGAIN_S), _LAST_AGAIN_S)
                continue
            if first is None:
                break
            if first is _NUDGE:
                continue
            if first is _END:
                self._near.end_away()
                self._loop.call_soon_threadsafe(self._came_back)
                continue
            if isinstance(first, _Look):
                with self._near.turn():
                    first.run(writer)
                continue
            assert isinstance(first, Write)
            group = [first]
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP_LIMIT:
                    following = take_now()
                    if not isinstance(following, Write):
                        behind.append(following)
                        break
                    group.append(following)
            with self._near.turn():
                writer.run(group)
        writer.settle()
        with contextlib.suppress(queue.Empty):
            # Those who read while the store closes.
            while True:
                left = take_now()
                if isinstance(left, _Look):
                    left.run(writer)

    def _pump(self) -> None:
        self._pumping = False
        group: list[Write] = []
        while not self._queue.empty() and len(group) < _GROUP_LIMIT:
            write = self._queue.get_nowait()
            if isinstance(write, Write):
                group.append(write)
        if group:
            self._writer.run(group)
        if not self._queue.empty() and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)
        self._settle_soon()

    def _settle_soon(self) -> None:
        if self._settling is None and self._writer.has_tail:
            self._settling = self._loop.call_later(_SETTLE_S, self._settle)

    def _settle(self) -> None:
        """Put the tail into the tables, without threads."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        self._near.leave()
        self._writer.settle()


class SqlitePlaneStore(Generic[T]):
    """One plane's view of a `SqliteStore`; see `runtime.store.store.PlaneStore`."""

    def __init__(self, store: SqliteStore, tables: type[T]) -> None:
        self._store = store
        self._kind = tables
        self._written = store.written(tables)
        self._read = tables(store.reader, 0)

    def watch(self, watcher: Callable[[list[Any]], None]) -> None:
        """See `runtime.store.store.PlaneStore`."""
        self._written.watcher = watcher

    def write(self, function: Callable[[T], V], wait: Wait = Wait.NO) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`."""
        return self._store.write(self._written, function, wait)

    def read(self, function: Callable[[T], V]) -> V:
        """See `runtime.store.store.PlaneStore`."""
        return self._store.read(self._read, function, self._written)

    def read_in_thread(self, function: Callable[[T], V]) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`."""
        return self._store.read_in_thread(self._kind, function, self._written)


def _snapshot(tables: Tables, function: Callable[[Any], V]) -> V:
    """Run several statements on one state of the file."""
    connection = tables.connection
    if connection.in_transaction:
        return function(tables)
    connection.execute("BEGIN")
    try:
        return function(tables)
    finally:
        connection.execute("COMMIT")
