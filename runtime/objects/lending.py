"""Places of an arena that are lent to other processes of this machine, which write values there themselves.

A borrower holds a lock on the file for as long as any write of its may still be going on. What was lent to it, and has
not become a value, is taken back only when nobody holds that lock: one that is frozen, or that the server has lost
sight of, never writes over anybody else's value.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from runtime.errors import InvalidArgument
from runtime.objects.extents import paged
from runtime.objects.locks import is_locked

if TYPE_CHECKING:
    from runtime.objects.arena import Arena
    from runtime.objects.value import ObjectRef, PlacesFile

__all__ = ["Lender", "Lending"]

# What one borrower may have at a time, and all of them together, as a part of what the file may have.
_MOST_BYTES = 128 << 20
_SHARE = 4


class Lending:
    """What one borrower has.

    Attributes
    ----------
    file : PlacesFile
        Where it writes.
    lock_at : int
        The byte that it locks.
    """

    def __init__(self, file: PlacesFile, lock_at: int, num_failed: int) -> None:
        self.file = file
        self.lock_at = lock_at
        self.num_failed = num_failed
        # Bytes that were wanted, by place.
        self.places: dict[int, int] = {}
        # Of which it has told, but which have not become values.
        self.spoiled: list[tuple[int, int]] = []
        self.nbytes = 0
        self.is_over = False


class Lender:
    """Lends places of an arena. Belongs to its loop.

    Attributes
    ----------
    nbytes : int
        What is lent and has not become a value, also to those who are gone and still hold their lock.
    """

    def __init__(self, arena: Arena) -> None:
        self.nbytes = 0
        self._arena = arena

    async def begin(self) -> Lending | None:
        """Return a new lending, of nothing so far; None where nothing can be lent."""
        arena = self._arena
        if not arena.can_lend:
            return None
        lock_at = arena.locks.next()
        try:
            if is_locked(await arena.made(), lock_at):
                return None
        except OSError:
            return None  # without a file, or without locks
        file = arena.file()
        return None if file is None else Lending(file, lock_at, arena.num_failed)

    async def is_locked(self, lending: Lending) -> bool:
        """Return whether the borrower holds its lock."""
        try:
            return is_locked(await self._arena.made(), lending.lock_at)
        except OSError:
            return False

    async def lend(self, lending: Lending, sizes: Sequence[int]) -> list[int]:
        """Lend a place for each of these values, after the lock was seen; 0 where there is no room."""
        places = []
        for nbytes in sizes:
            taken = paged(nbytes)
            limit = self._arena.limit_bytes // _SHARE
            place = None
            if lending.nbytes + taken <= _MOST_BYTES and self.nbytes + taken <= limit:
                lending.nbytes += taken
                self.nbytes += taken
                try:
                    place = await self._arena.take(taken)
                finally:
                    if place is None:
                        lending.nbytes -= taken
                        self.nbytes -= taken
            if place is not None:
                lending.places[place] = nbytes
                if lending.is_over:
                    self._withhold(lending)
            places.append(place or 0)
        return places

    async def adopt(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[ObjectRef]:
        """Make values of what was written to places, and wait until they are durable.

        Parameters
        ----------
        places : sequence of (int, int, int)
            Place, bytes and CRC-32C of each.

        Raises
        ------
        InvalidArgument
            One is none of those that were lent, or is told of once more.
        OSError
            The disk fails. The places are of no use any more.
        """
        self._take_back(lending, places)
        work = asyncio.ensure_future(self._adopt(lending, places))
        self._arena.keep(work)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(self._abandoned)  # nobody wants it
            raise

    def adopt_early(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[ObjectRef]:
        """Do as `adopt`, at once, without making them durable; see `sync`."""
        self._take_back(lending, places)
        self._are_values(lending, places)
        return self._arena.name(places)

    async def sync(self, lending: Lending) -> None:
        """Make all values durable that were this borrower's.

        Raises
        ------
        OSError
            The disk fails, or has failed since the lending began: values that were not durable by then are lost.
        """
        work = asyncio.ensure_future(self._arena.sync(lending.num_failed))
        self._arena.keep(work)
        await asyncio.shield(work)

    def end(self, lending: Lending) -> None:
        """Lend no more, and take back what has not become a value as soon as nobody holds the lock."""
        if not lending.is_over:
            lending.is_over = True
            self._withhold(lending)

    async def _adopt(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[ObjectRef]:
        try:
            refs = await self._arena.named(places, lending.num_failed)
        except BaseException:
            lending.spoiled += [(place, paged(nbytes)) for place, nbytes, _ in places]
            if lending.is_over:
                self._withhold(lending)
            raise
        self._are_values(lending, places)
        return refs

    def _take_back(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> None:
        told: dict[int, int] = {}
        for index, (place, nbytes, _) in enumerate(places):
            if place in told or lending.places.get(place) != nbytes:
                raise InvalidArgument(
                    f"payload {index} of those with a place: {nbytes} bytes at {place} are not lent to this stream, or "
                    "were told of before"
                )
            told[place] = nbytes
        for place in told:
            del lending.places[place]

    def _are_values(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> None:
        nbytes = sum(paged(nbytes) for _, nbytes, _ in places)
        lending.nbytes -= nbytes
        self.nbytes -= nbytes

    def _abandoned(self, work: asyncio.Future[list[ObjectRef]]) -> None:
        if not work.cancelled() and work.exception() is None:
            for ref in work.result():
                self._arena.free(ref.digest)

    def _withhold(self, lending: Lending) -> None:
        extents = [(place, paged(nbytes)) for place, nbytes in lending.places.items()] + lending.spoiled
        lending.places, lending.spoiled = {}, []
        nbytes = sum(nbytes for _, nbytes in extents)
        lending.nbytes -= nbytes

        def done() -> None:
            self.nbytes -= nbytes

        if extents:
            self._arena.withhold(extents, lambda file: is_locked(file, lending.lock_at), done)
