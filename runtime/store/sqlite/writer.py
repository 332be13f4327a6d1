"""Groups of writes: run one after the other in one transaction, committed together, told in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

from runtime.errors import Error
from runtime.store import failpoints
from runtime.store.sqlite.database import SET_TAIL, store_error
from runtime.store.sqlite.tail_log import TailLog
from runtime.store.store import Wait

__all__ = ["Effects", "GroupWriter", "Tables", "Write", "call_all"]

logger = logging.getLogger(__name__)

# Of the latest record, in the mean time that the log takes.
_WEIGHT = 0.25


class Effects:
    """What a write wants to happen around its commit; see `runtime.store.store.Transaction`."""

    __slots__ = ("after", "before", "rollback")

    def __init__(self) -> None:
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        self.rollback: list[Callable[[], None]] = []


class Tables:
    """What the tables of every plane have in common.

    Parameters
    ----------
    connection : sqlite3.Connection
        Where they are. Statements run one at a time, in the thread that has the connection.
    epoch : int
        How often the file has been opened; see `number`.
    """

    PLANE: ClassVar[str]
    MIGRATIONS: ClassVar[Sequence[Sequence[str]]]

    may_wait = False
    """Whether what the write does that runs now may be in the log for a moment and not in the tables."""
    before_sql: Callable[[], None] | None = None
    """Called by those that use the log before the write that runs now uses the tables."""
    has_tail = False
    """Whether something is durable in the log that the tables do not have."""
    uses_log = False
    """Whether there are changes that can be recorded in the log."""
    has_room = False
    """Whether the log may have more before the tables have what is in it."""

    @classmethod
    def written(cls, connection: sqlite3.Connection, epoch: int, has_log: bool) -> Tables:
        """Return the tables as writes have them."""
        return cls(connection, epoch)

    @classmethod
    def replay(cls, connection: sqlite3.Connection, records: Sequence[bytes]) -> None:
        """Put into the tables what the log says that a crash has left; see `record`."""

    def __init__(self, connection: sqlite3.Connection, epoch: int) -> None:
        self.connection = connection
        self.effects = Effects()
        self.watcher: Callable[[list[Any]], None] | None = None
        self._last_number = epoch << 40
        self._noted: list[Any] = []
        self._kept_notes = 0

    def number(self) -> int:
        """Return a number larger than all before it, in this and every earlier opening of the file."""
        self._last_number += 1
        return self._last_number

    def after_commit(self, effect: Callable[[], None]) -> None:
        """See `runtime.store.store.Transaction`."""
        self.effects.after.append(effect)

    def before_commit(self, effect: Callable[[], None]) -> None:
        """See `runtime.store.store.Transaction`."""
        self.effects.before.append(effect)

    def after_rollback(self, effect: Callable[[], None]) -> None:
        """See `runtime.store.store.Transaction`."""
        self.effects.rollback.append(effect)

    def note(self, change: Any) -> None:
        """Let the plane's watcher know of a change once it is on disk, together with the others of its group."""
        self._noted.append(change)

    # What a plane keeps in memory during a group. Who overrides one of these calls it, too.

    def keep(self) -> None:
        """A write has ended well: what it left in memory counts from now on."""
        self._kept_notes = len(self._noted)

    def drop(self) -> None:
        """A write has failed: forget what it left in memory."""
        del self._noted[self._kept_notes :]

    def flush(self) -> None:
        """Write what is in memory, once before the group is committed to the tables."""

    def told(self) -> Sequence[Callable[[], None]]:
        """Return what tells of the group once it is on disk."""
        noted, self._noted, self._kept_notes = self._noted, [], 0
        if not noted or self.watcher is None:
            return ()
        return (functools.partial(self.watcher, noted),)

    def committed(self) -> None:
        """The group is on disk."""

    # For those that use the log

    def record(self) -> bytes | None:
        """Return what the log needs to know of the group, when the tables were not changed; None if it cannot."""
        return None

    def logged(self) -> None:
        """The record of the group is durable; `committed` is called next."""

    def settle(self) -> None:
        """Put everything into the tables that is in the log alone, unless that was done in this transaction."""

    def discard(self) -> None:
        """The group was undone: forget everything that is in memory."""
        self._noted, self._kept_notes = [], 0


class Write:
    """One function that waits for its turn.

    Attributes
    ----------
    on_told : callable or None
        Called when the caller has been given what came of it.
    """

    __slots__ = ("error", "function", "future", "on_told", "tables", "value", "wait")

    def __init__(
        self, tables: Tables, function: Callable[[Any], Any], future: asyncio.Future[Any], wait: Wait = Wait.NO
    ) -> None:
        self.tables = tables
        self.function = function
        self.future = future
        self.wait = wait
        self.on_told: Callable[[], None] | None = None
        self.value: Any = None
        self.error: BaseException | None = None

    def tell(self) -> None:
        """Give the caller what came of it; on the loop."""
        if self.on_told is not None:
            self.on_told()
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class _Group:
    """Writes that are committed together, and what is to be called around that."""

    __slots__ = ("after", "before", "done", "num_changes", "rollback", "touched", "writes")

    def __init__(self, writes: Iterable[Write] = ()) -> None:
        self.writes = list(writes)
        self.touched = {write.tables for write in self.writes}
        # Those that have not failed.
        self.done: list[Write] = []
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        self.rollback: list[Callable[[], None]] = []
        self.num_changes = 0


class GroupWriter:
    """Runs groups on one connection, in whatever thread calls it.

    A group that changes nothing in the tables, because these keep the little that it does in their tail, is durable by
    a record of the log. Every other one is committed to the tables, and the tail with it.

    Parameters
    ----------
    connection : sqlite3.Connection
        In autocommit mode, used by nobody else meanwhile.
    name : str
        Of the file, for messages.
    tell : callable
        Takes a list of functions and calls them on the loop, in order, after all that it was given before.
    log : TailLog, optional

    Attributes
    ----------
    append_s : float
        How many seconds the log has taken for a record lately.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        name: str,
        tell: Callable[[Sequence[Callable[[], None]]], None],
        log: TailLog | None = None,
    ) -> None:
        self._connection = connection
        self._name = name
        self._tell = tell
        self._log = log
        self.append_s = 0.0
        self._tailed: list[Tables] = []
        self._open: _Group | None = None
        self._has_savepoint = False
        # Whether the log may have a record that nobody was told of: it is void when the tables say that they know it.
        self._is_doubtful = False

    @property
    def has_tail(self) -> bool:
        """Whether something is durable in the log that the tables do not have. From any thread."""
        for tables in self._tailed:  # noqa: SIM110 - asked several times for each single task
            if tables.has_tail:
                return True
        return False

    def add(self, tables: Tables) -> None:
        """Take the tables of a plane that uses the log."""
        self._tailed.append(tables)

    def run(self, writes: Sequence[Write]) -> None:
        """Run the writes of a group and commit them; every one's caller is told. Never raises for a failing disk."""
        group = _Group(writes)
        try:
            self._begin(group)
            alone = len(writes) == 1
            for write in writes:
                if write.future.cancelled():
                    group.done.append(write)
                    continue
                if not alone:
                    self._savepoint()
                if not self._take(group, write):
                    return
            self._finish(group, self._record(group))
        except Exception as error:
            self._abort(group, error)

    def _take(self, group: _Group, write: Write) -> bool:
        """Run a write; False when it has failed with all that there was, and that was told."""
        tables = write.tables
        effects = tables.effects = Effects()
        tables.may_wait = write.wait is not Wait.NO
        try:
            write.value = write.function(tables)
        except Exception as error:
            tables.drop()
            if isinstance(error, sqlite3.Error) or not self._connection.in_transaction:
                raise
            write.error = error
            if not self._has_savepoint and len(group.writes) == 1:
                self._connection.execute("ROLLBACK")
                tables.discard()
                self._tell([write.tell])
                return False
            if self._has_savepoint:
                self._connection.execute("ROLLBACK TO one")
        else:
            tables.keep()
            group.before += effects.before
            group.after += effects.after
            group.rollback += effects.rollback
        if self._has_savepoint:
            self._has_savepoint = False
            self._connection.execute("RELEASE one")
        group.done.append(write)
        failpoints.hit("store.write")
        return True

    def _savepoint(self) -> None:
        """Have the write that runs next, or now, undone alone when it fails."""
        if not self._has_savepoint:
            self._connection.execute("SAVEPOINT one")
            self._has_savepoint = True

    # A group that is open for further writes

    @property
    def is_open(self) -> bool:
        """Whether there is one."""
        return self._open is not None

    def join(self, write: Write) -> None:
        """Run a write in the open group, or in a new one, and tell what is to be told before its commit."""
        group = self._open
        if write.future.cancelled():
            return write.tell()
        is_new = group is None
        if group is None:
            group = self._open = _Group()
        group.writes.append(write)
        group.touched.add(write.tables)
        try:
            if is_new:
                self._begin(group)
            write.tables.before_sql = self._savepoint
            try:
                if not self._take(group, write):
                    self._open = None
                    return
            finally:
                write.tables.before_sql = None
            before, group.before = group.before, []
        except Exception as error:
            self._open = None
            self._abort(group, error)
            return
        if before:
            self._tell(before)

    def end(self, *, only_log: bool) -> bool:
        """Commit the open group, if there is one.

        Parameters
        ----------
        only_log : bool
            False is returned, and the group stays open, when more is to be done than to append to the log.
        """
        group = self._open
        if group is None:
            return True
        try:
            record = self._record(group)
            if record is None and only_log:
                return False
            self._open = None
            self._finish(group, record)
        except Exception as error:
            self._open = None
            self._abort(group, error)
        return True

    # The tail

    def settle(self) -> bool:
        """Put the tail into the tables and commit that; tell whether it is there. Between two groups."""
        if not self.has_tail:
            return True
        try:
            self._begin()
            self._settle(())
            failpoints.hit("store.tail.settle")
            self._commit(())
        except Exception as error:
            self._failed(error, (), "the newest tasks could not be put into their tables")
            return False
        return True

    def look(self, tables: Tables, function: Callable[[Any], Any]) -> Any:
        """Return ``function(tables)`` with the tail in the tables, whether the disk takes it or not."""
        try:
            self._begin()
            self._settle(())
            return function(tables)
        finally:
            self._undo()
            for one in self._tailed:
                one.discard()

    def _begin(self, group: _Group | None = None) -> None:
        failpoints.hit("store.begin")
        self._has_savepoint = False
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")
        if group is not None:
            group.num_changes = self._connection.total_changes

    def _finish(self, group: _Group, record: bytes | None) -> None:
        """Commit a group and tell of it."""
        touched = group.touched
        if record is None:
            self._settle(touched)
        noted = [effect for tables in touched for effect in tables.told()]
        if group.before:
            self._tell(group.before)
        failpoints.hit("store.commit.before")
        if record is None:
            self._commit(touched)
        else:
            self._append(record, touched)
        failpoints.hit("store.commit.after")
        # Who begins to watch what a write has made hears of what the rest of its group has made of it; callers go on in
        # a later turn of the loop, but before those who hear of it in later turns.
        self._tell([*group.after, *(write.tell for write in group.done), *noted])

    def _abort(self, group: _Group, error: Exception) -> None:
        """Undo a group and tell of it."""
        failure = self._failed(error, group.touched, "a group of writes failed")
        for write in group.writes:
            # Those that failed by themselves keep their own error.
            if write.error is None:
                write.error = type(failure)(failure.message)
        self._tell([*group.rollback, *(write.tell for write in group.writes)])

    def _record(self, group: _Group) -> bytes | None:
        """Return the record by which a group is durable; empty if there is nothing in it, None if none will do."""
        if self._log is None or self._is_doubtful or self._connection.total_changes != group.num_changes:
            return None
        parts = []
        for tables in group.touched:
            part = tables.record() if tables.uses_log else None
            if part is None:
                return None
            parts.append(part)
        record = b"".join(parts)
        return record if not record or self._log.has_room(len(record)) else None

    def _append(self, record: bytes, touched: Iterable[Tables]) -> None:
        assert self._log is not None
        if record:
            # Until it is there for sure: it is void if the disk fails, and what comes next must not count on it.
            self._is_doubtful = True
            began = time.perf_counter()
            self._log.append(record)
            self.append_s += _WEIGHT * (time.perf_counter() - began - self.append_s)
            self._is_doubtful = False
        for tables in touched:
            tables.logged()
            tables.committed()
        if not self.has_tail:
            self._connection.execute("COMMIT")  # of nothing

    def _settle(self, touched: Iterable[Tables]) -> None:
        """Have everything in the tables that is to be committed."""
        if self._log is not None and (self._is_doubtful or self.has_tail):
            for tables in self._tailed:
                tables.settle()
            self._connection.execute(SET_TAIL, (self._log.last,))
        for tables in touched:
            tables.flush()

    def _commit(self, touched: Collection[Tables]) -> None:
        self._connection.execute("COMMIT")
        for tables in {*touched, *self._tailed}:
            tables.committed()
        if self._log is not None:
            self._log.restart()
            self._is_doubtful = False

    def _failed(self, error: Exception, touched: Collection[Tables], what: str) -> Error:
        """Undo a transaction and return the error for it."""
        self._undo()
        for tables in {*touched, *self._tailed}:
            tables.discard()
        failure = error if isinstance(error, Error) else store_error(error, self._name)
        if not isinstance(error, (sqlite3.Error, OSError, Error)):
            logger.error("%s", what, exc_info=error)
        else:
            logger.error("%s: %s", what, failure)
        return failure

    def _undo(self) -> None:
        # SQLite has undone the transaction by itself after some errors.
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")


def call_all(functions: Iterable[Callable[[], None]]) -> None:
    """Call functions in order, whatever becomes of them."""
    for function in functions:
        try:
            function()
        except Exception:
            logger.exception("an effect of a write failed")
