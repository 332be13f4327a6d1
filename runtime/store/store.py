"""The interface of a store: writes that are functions on one serialised history, and reads of what is committed.

A plane's tables are an object with methods in the plane's words (`runtime.store.tasks` for tasks). A write is a
function that takes the tables, reads and changes them, and returns a value. The store runs the writes of a group one
after the other, commits the group, and then tells everybody: so every decision is plain Python that nobody else runs
beside, and no reply leaves before its transaction is on disk.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["PlaneStore", "Transaction", "Wait"]

V = TypeVar("V")
T = TypeVar("T", covariant=True)


class Wait(enum.Enum):
    """How much a write may wait, of which others are told who then do not read it."""

    NO = 0
    """It is read like anything else."""
    FOR_TABLES = 1
    """What it changes is hardly read soon: it may be written so that this is quick and the next read takes longer."""
    FOR_NEXT = 2
    """Besides, another write that ends what this begins is expected at once: they may be made durable together."""


class Transaction(Protocol):
    """What the tables of every plane offer to a write beside their rows. Effects of a write that raises are dropped."""

    def after_commit(self, effect: Callable[[], None]) -> None:
        """Call ``effect`` on the store's loop once this write is on disk, in the order of the commits.

        The plane's watcher is told afterwards of what the group has noted.
        """
        ...

    def before_commit(self, effect: Callable[[], None]) -> None:
        """Call ``effect`` on the store's loop once this write has run, without waiting for the disk.

        Only for what needs no durability: an effect that a crash takes along with this process. When the commit
        fails, the effect has been called all the same; see `after_rollback`.
        """
        ...

    def note(self, change: Any) -> None:
        """Let the plane's watcher know of a change once it is on disk."""
        ...

    def after_rollback(self, effect: Callable[[], None]) -> None:
        """Call ``effect`` on the store's loop when this write had run and its group could not be committed."""
        ...


class PlaneStore(Protocol[T]):
    """The store as one plane sees it. Belongs to one event loop; every method is called there."""

    def watch(self, watcher: Callable[[list[Any]], None]) -> None:
        """Call ``watcher`` on the loop with what the writes of each group noted, in order, once it is on disk."""
        ...

    def write(self, function: Callable[[T], V], wait: Wait = Wait.NO) -> asyncio.Future[V]:
        """Run ``function(tables)`` in its turn; the result is there when its changes are on disk.

        A future that is cancelled before the function has begun keeps it from running.

        Parameters
        ----------
        wait : Wait
            Whether it may wait; in every case it is on disk when the result is there.

        Raises
        ------
        ResourceExhausted
            No space is left; nothing of the write is kept.
        Unavailable
            The disk fails, or the store is closed; nothing of the write is kept as a rule (after a failed sync a
            crash may bring it back).
        Exception
            What the function raises; its changes are undone, the others of its group are kept.
        """
        ...

    def read(self, function: Callable[[T], V]) -> V:
        """Run ``function(tables)`` here and now on what is committed; for reads of a few rows.

        Everything that was told to anybody before is seen.
        """
        ...

    def read_in_thread(self, function: Callable[[T], V]) -> asyncio.Future[V]:
        """The same for reads that take long, in a thread."""
        ...
