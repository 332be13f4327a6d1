"""Groups of writes: run one after the other in one transaction, committed together, told in order."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from runtime.errors import Error, Unavailable
from runtime.store import failpoints
from runtime.store.sqlite.database import store_error

__all__ = ["Effects", "GroupWriter", "Tables", "Write"]

logger = logging.getLogger(__name__)


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

    def flush(self) -> Sequence[Callable[[], None]]:
        """Write what is in memory, once before the group is committed; return what tells of it afterwards."""
        noted, self._noted, self._kept_notes = self._noted, [], 0
        if not noted or self.watcher is None:
            return ()
        return (functools.partial(self.watcher, noted),)

    def committed(self) -> None:
        """The group is on disk."""

    def discard(self) -> None:
        """The group was undone: forget everything that is in memory."""
        self._noted, self._kept_notes = [], 0


class Write:
    """One function that waits for its turn."""

    __slots__ = ("error", "function", "future", "tables", "value")

    def __init__(self, tables: Tables, function: Callable[[Any], Any], future: asyncio.Future[Any]) -> None:
        self.tables = tables
        self.function = function
        self.future = future
        self.value: Any = None
        self.error: BaseException | None = None

    def tell(self) -> None:
        """Give the caller what came of it; on the loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class GroupWriter:
    """Runs groups on one connection, in whatever thread calls it.

    Parameters
    ----------
    connection : sqlite3.Connection
        In autocommit mode, used by nobody else meanwhile.
    name : str
        Of the file, for messages.
    tell : callable
        Takes a list of functions and calls them on the loop, in order, after all that it was given before.
    """

    def __init__(
        self, connection: sqlite3.Connection, name: str, tell: Callable[[Sequence[Callable[[], None]]], None]
    ) -> None:
        self._connection = connection
        self._name = name
        self._tell = tell

    def run(self, group: Sequence[Write]) -> None:
        """Run the writes of a group and commit them; every one's caller is told. Never raises for a failing disk."""
        execute = self._connection.execute
        done: list[Write] = []
        rollback: list[Callable[[], None]] = []
        after: list[Callable[[], None]] = []
        before: list[Callable[[], None]] = []
        touched = {write.tables for write in group}
        try:
            failpoints.hit("store.begin")
            execute("BEGIN IMMEDIATE")
            alone = len(group) == 1
            for write in group:
                if write.future.cancelled():
                    continue
                effects = write.tables.effects = Effects()
                if not alone:
                    execute("SAVEPOINT one")
                try:
                    write.value = write.function(write.tables)
                except Exception as error:
                    write.tables.drop()
                    if isinstance(error, sqlite3.Error) or not self._connection.in_transaction:
                        raise
                    write.error = error
                    execute("ROLLBACK" if alone else "ROLLBACK TO one")
                    if alone:
                        write.tables.discard()
                        self._tell([write.tell])
                        return
                else:
                    write.tables.keep()
                    before += effects.before
                    after += effects.after
                    rollback += effects.rollback
                if not alone:
                    execute("RELEASE one")
                done.append(write)
                failpoints.hit("store.write")
            noted = [effect for tables in touched for effect in tables.flush()]
            if before:
                self._tell(before)
            failpoints.hit("store.commit.before")
            execute("COMMIT")
            failpoints.hit("store.commit.after")
            for tables in touched:
                tables.committed()
        except Exception as error:
            self._undo()
            for tables in touched:
                tables.discard()
            failure = error if isinstance(error, Error) else store_error(error, self._name)
            if not isinstance(error, (sqlite3.Error, OSError, Error)):
                logger.exception("a group of writes failed")
            else:
                logger.error("a group of writes failed: %s", failure)
            for write in group:
                # Those that failed by themselves keep their own error.
                if write.error is None:
                    write.error = type(failure)(failure.message)
            self._tell([*rollback, *(write.tell for write in group)])
            return
        # Who begins to watch what a write has made hears of what the rest of its group has made of it.
        self._tell([*after, *noted, *(write.tell for write in done)])

    def refuse(self, group: Sequence[Write]) -> None:
        """Tell the callers of writes that came too late."""
        for write in group:
            write.error = Unavailable(f"{self._name} is closed")
        self._tell([write.tell for write in group])

    def _undo(self) -> None:
        # SQLite has undone the transaction by itself after some errors.
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
