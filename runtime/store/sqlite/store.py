"""The store in a file: a thread that writes, connections that read, and each plane's view of both."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from runtime.errors import Unavailable
from runtime.store.sqlite.database import Database, store_error
from runtime.store.sqlite.writer import GroupWriter, Tables, Write

__all__ = ["SqlitePlaneStore", "SqliteStore"]

logger = logging.getLogger(__name__)

V = TypeVar("V")
T = TypeVar("T", bound=Tables)

# What is on the disk's way at once. Larger groups gain nothing and make the first of them wait.
_GROUP_LIMIT = 512
_READ_THREADS = 2


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
        self._writer = GroupWriter(self.database.writer, self.database.name, self._tell)
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._closed = False
        self._pumping = False
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
        if self._thread is not None:
            self._queue.put(None)
            while self._thread.is_alive():
                await asyncio.sleep(0.002)
        else:
            self._pump()
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

    def write(self, tables: Tables, function: Callable[[Any], V]) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`."""
        future: asyncio.Future[V] = self._loop.create_future()
        if self._closed:
            future.set_exception(Unavailable(f"{self.database.name} is closed"))
            return future
        self._queue.put(Write(tables, function, future))
        if self._thread is None and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)
        return future

    def read(self, tables: Tables, function: Callable[[Any], V]) -> V:
        """See `runtime.store.store.PlaneStore`."""
        if self._closed:
            raise Unavailable(f"{self.database.name} is closed")
        try:
            # Without threads nobody writes meanwhile.
            return _snapshot(tables, function) if self._thread is not None else function(tables)
        except sqlite3.Error as error:
            raise store_error(error, self.database.name) from error

    def read_in_thread(self, kind: type[Tables], function: Callable[[Any], V]) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`."""
        if self._thread is None or self.database.path is None:
            future: asyncio.Future[V] = self._loop.create_future()
            try:
                future.set_result(self.read(kind(self._reader, 0), function))
            except Exception as error:
                future.set_exception(error)
            return future
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(_READ_THREADS, "store-reader")
        return self._loop.run_in_executor(self._pool, self._read_here, kind, function)

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection of the loop's own reads."""
        return self._reader

    def _read_here(self, kind: type[Tables], function: Callable[[Any], V]) -> V:
        connection = getattr(self._pool_readers, "connection", None)
        if connection is None:
            connection = self._pool_readers.connection = self.database.reader()
            self._open_readers.append(connection)
        return self.read(kind(connection, 0), function)

    def _tell(self, functions: Sequence[Callable[[], None]]) -> None:
        if self._thread is None:
            _call_all(functions)
        else:
            self._loop.call_soon_threadsafe(_call_all, functions)

    def _write_groups(self) -> None:
        take = self._queue.get
        while True:
            first = take()
            if first is None:
                break
            group = [first]
            try:
                while len(group) < _GROUP_LIMIT:
                    following = self._queue.get_nowait()
                    if following is None:
                        self._queue.put(None)
                        break
                    group.append(following)
            except queue.Empty:
                pass
            self._writer.run(group)

    def _pump(self) -> None:
        self._pumping = False
        group: list[Write] = []
        while not self._queue.empty() and len(group) < _GROUP_LIMIT:
            write = self._queue.get_nowait()
            if write is not None:
                group.append(write)
        if group:
            self._writer.run(group)
        if not self._queue.empty() and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)


class SqlitePlaneStore(Generic[T]):
    """One plane's view of a `SqliteStore`; see `runtime.store.store.PlaneStore`."""

    def __init__(self, store: SqliteStore, tables: type[T]) -> None:
        self._store = store
        self._kind = tables
        self._written = tables(store.database.writer, store.database.epoch)
        self._read = tables(store.reader, 0)

    def watch(self, watcher: Callable[[list[Any]], None]) -> None:
        """See `runtime.store.store.PlaneStore`."""
        self._written.watcher = watcher

    def write(self, function: Callable[[T], V]) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`."""
        return self._store.write(self._written, function)

    def read(self, function: Callable[[T], V]) -> V:
        """See `runtime.store.store.PlaneStore`."""
        return self._store.read(self._read, function)

    def read_in_thread(self, function: Callable[[T], V]) -> asyncio.Future[V]:
        """See `runtime.store.store.PlaneStore`."""
        return self._store.read_in_thread(self._kind, function)


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


def _call_all(functions: Sequence[Callable[[], None]]) -> None:
    for function in functions:
        try:
            function()
        except Exception:
            logger.exception("an effect of a write failed")
