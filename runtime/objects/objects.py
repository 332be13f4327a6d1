"""The interface of an object store, and what writing a value is like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from runtime.objects.lending import Lending
from runtime.objects.recent import Content
from runtime.objects.value import PlacesFile, Value

__all__ = ["ObjectStore", "ValueWriter"]


class ValueWriter(Protocol):
    """Takes the bytes of one value, piece by piece; either `finish` or `discard` ends it. One coroutine uses it."""

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    @property
    def is_inline(self) -> bool:
        """Whether what was written so far would stay bytes."""
        ...

    async def write(self, data: bytes) -> None:
        """Take a piece; waits for the disk when much has not been written yet.

        Raises
        ------
        ResourceExhausted, Unavailable
            The disk is full, or fails. The value is discarded.
        """
        ...

    async def finish(self) -> Value:
        """Return the value, durable and held: `ObjectStore.let_go` when a row refers to it, or nobody will.

        Raises
        ------
        ResourceExhausted, Unavailable
            As for `write`.
        """
        ...

    def discard(self) -> None:
        """Forget what was written. Does nothing after the end."""
        ...


class ObjectStore(Protocol):
    """Bytes of any size, by names that stand for content, or for a place. Belongs to one event loop.

    Objects are durable before a row refers to them. What no row refers to is removed when the last reference goes;
    objects that are *held* (just written, their row not committed yet) stay. `sweep` removes what a crash left.
    """

    def writer(self, inline_bytes: int | None = None) -> ValueWriter:
        """Return a writer for one value; values of at most ``inline_bytes`` stay bytes and cost nothing here.

        None is what the store finds best.
        """
        ...

    def take_up(self, objects: Iterable[tuple[bytes, int]]) -> None:
        """Learn names and sizes of all objects that rows refer to, at a start, before anything is written."""
        ...

    async def put(self, contents: Sequence[Content], memory_bytes: int = 0) -> list[Value]:
        """Write values whose bytes are all there; return them, durable and held, as a writer's `finish` does.

        Waits while much else is being written. Nobody changes the bytes from now on.

        Parameters
        ----------
        contents : sequence of sequence of buffers
        memory_bytes : int
            Of the memory in which all of them lie, if that is more than they are.

        Raises
        ------
        ResourceExhausted, Unavailable
            The disk is full, or fails: there are none of the values.
        """
        ...

    def at_hand(self, value: Value) -> Content | None:
        """Return the pieces of a value that are in memory already; None for one that is to be read."""
        ...

    def places_file(self) -> PlacesFile | None:
        """Return the file of those that are named by a place, if there is one already.

        Whoever reads there checks the checksum: when the last row goes, another value may have the place.
        """
        ...

    async def begin_lending(self) -> Lending | None:
        """Return what a process of this machine is lent that writes values itself: nothing so far.

        None where nothing can be lent. `end_lending` ends it.
        """
        ...

    async def is_locked(self, lending: Lending) -> bool:
        """Return whether the borrower holds the lock by which it shows that it may be writing."""
        ...

    async def lend(self, lending: Lending, sizes: Sequence[int]) -> list[int]:
        """Lend a place for each of these values, after the lock was seen; 0 for those that have to come as bytes."""
        ...

    async def adopt(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[Value]:
        """Make values of what was written to lent places, durable and held, as `put` does.

        Parameters
        ----------
        places : sequence of (int, int, int)
            Place, bytes and CRC-32C of each.

        Raises
        ------
        InvalidArgument
            One was not lent so, or was told of before.
        ResourceExhausted, Unavailable
            The disk is full, or fails: there are none of the values, and the places are of no use any more.
        """
        ...

    def adopt_early(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[Value]:
        """Do as `adopt`, at once: the values are held, and not durable before `sync_adopted`.

        No row may refer to them until then.
        """
        ...

    async def sync_adopted(self, lending: Lending) -> None:
        """Make everything durable that was adopted early of a lending.

        Raises
        ------
        ResourceExhausted, Unavailable
            The disk is full, or fails: what was not durable by then is lost.
        """
        ...

    def end_lending(self, lending: Lending) -> None:
        """Lend no more. What has not become a value is taken back when nobody holds the lock any more."""
        ...

    def handed_over(self, values: Iterable[Value]) -> None:
        """Keep values in memory no longer: who wanted them has them."""
        ...

    def read(self, value: Value, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of a value, each of at most ``chunk_bytes``; none for an empty value.

        Raises
        ------
        DataLoss
            The object is not there, or its bytes are not those that were written.
        """
        ...

    def let_go(self, values: Iterable[Value]) -> None:
        """Hold these values no longer; whoever calls it for values without a row calls `remove` as well."""
        ...

    def remove(self, digest: bytes) -> None:
        """Remove an object that no row refers to, soon.

        Does nothing while it is held, if it is named by its content; otherwise that is put off until it is let go.
        """
        ...

    async def sweep(self, referred: Callable[[list[bytes]], Awaitable[set[bytes]]]) -> int:
        """Remove what no row refers to and nobody holds; return how many there were."""
        ...

    async def close(self) -> None:
        """Wait for what is being written or removed."""
        ...
