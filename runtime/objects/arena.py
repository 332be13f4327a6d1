"""Values of medium size, one beside the other in a file: named by their place, written and synced many at a time.

A file of its own costs a value three syncs and, for its name, a digest of its content, which takes longer than writing
it. Here a value takes free pages of a file that is there already, and one sync makes all values durable that were
written before it; who comes while a sync runs has the next one. A value is known by its place, a number that no other
value at that place has had, and a checksum, by which damage is found when it is read.

Which places are taken is not written down anywhere but in the rows that refer to them: `Arena.open` is told at a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from runtime._ext.value_writer import write_values
from runtime.objects.extents import PAGE_BYTES, Extents, paged
from runtime.objects.head import HEAD_BYTES, proof_of, write_head
from runtime.objects.locks import Locks
from runtime.objects.recent import Content
from runtime.objects.value import ObjectRef, PlacesFile
from runtime.objects.withheld import Withheld
from runtime.store import failpoints

__all__ = ["ARENA_BYTES", "KEY_BYTES", "Arena", "place_of"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

ARENA_BYTES = 1 << 30
"""How large the file gets at most."""
KEY_BYTES = 16
"""Of the name of a value: its place, and its number. Names of files are longer."""

_NUMBERS = (1 << 64) - 1
# How much the file grows at a time: at first little, then as much as it has already, up to the second.
_FIRST_STEP_BYTES, _STEP_BYTES = 16 << 20, 128 << 20


class InThread(Protocol):
    """Runs a function that uses the disk."""

    def __call__(self, function: Callable[[], R], /) -> asyncio.Future[R]:
        """Return what the function will have returned."""
        ...


def place_of(key: bytes) -> int:
    """Return where a value lies, by its name."""
    return int.from_bytes(key[:8], "big")


class Arena:
    """The file and its free pages. Belongs to one event loop.

    Parameters
    ----------
    path : Path
        Made when the first value is written.
    limit_bytes : int
        The file never gets larger.
    in_thread : callable
        Runs a function that uses the disk.

    Notes
    -----
    When a sync fails, the system may have lost any page that was written before it and takes it for clean: every value
    whose writing had begun by then has failed, also those that had not asked for a sync yet.
    """

    def __init__(self, path: Path, limit_bytes: int, in_thread: InThread) -> None:
        self.path = path
        self._limit_bytes = limit_bytes // PAGE_BYTES * PAGE_BYTES
        self._in_thread = in_thread
        self._file: int | None = None
        self._proof: bytes | None = None
        self._opening = threading.Lock()
        self._extents = Extents()
        # Bytes of the values that are there, by their names, and how many read each.
        self._sizes: dict[bytes, int] = {}
        self._readers: Counter[bytes] = Counter()
        self._freed: set[bytes] = set()
        self._growing: asyncio.Future[None] | None = None
        # Since it was tried last.
        self._cannot_grow = False
        self._next_sync: asyncio.Future[None] | None = None
        self._is_syncing = False
        self._num_failed = 0
        self._failed_errno = errno.EIO
        self._is_open = self._is_closed = False
        # Of the value that was named last. The next start begins anywhere else.
        self._number = secrets.randbits(64)
        self._writing: set[asyncio.Future[Any]] = set()
        self._withheld = Withheld(lambda place, nbytes: self._extents.give_back(place, nbytes))
        self.locks = Locks()

    def open(self, places: Iterable[tuple[bytes, int]]) -> None:
        """Take up the file: what lies at these places stays, everything else is free.

        To be called before anything else; without it no value gets a place.

        Parameters
        ----------
        places : iterable of (bytes, int)
            Name and size of every value that a row refers to.
        """
        self._sizes = dict(places)
        size = self.path.stat().st_size if self.path.exists() else 0
        # A client of the server before, frozen or cut off, may still be writing where that had it write.
        try:
            are_others_writing = size > 0 and self._are_others_writing()
        except OSError as error:
            logger.error("values get files of their own: %s cannot be opened: %s", self.path, error)
            self._limit_bytes, are_others_writing = 0, False
        used = [(0, HEAD_BYTES), *((place_of(key), paged(nbytes)) for key, nbytes in self._sizes.items())]
        last = max(place + nbytes for place, nbytes in used)
        kept = max(last, min(size, _STEP_BYTES, self._limit_bytes))
        if kept < size and not are_others_writing and self._limit_bytes:
            # Where nothing lies behind the last value any more, the disk has its space back.
            os.truncate(self.path, kept)
            size = kept
        try:
            # Where the file is cut before its last value: reading says so, and nothing is written over what is left.
            self._extents = Extents.without(used, max(last, paged(size)))
        except ValueError as error:
            logger.error("values get files of their own: %s: %s", self.path, error)
            self._limit_bytes = 0
        if are_others_writing and self._limit_bytes:
            logger.warning("%s: clients of the last server hold locks; new values lie behind the others", self.path)
            free, end = self._extents.all(), self._extents.end
            self._extents = Extents.without([(0, end)], end)
            self.withhold(free, self.locks.are_old_held)
        self._is_open = True

    @property
    def names(self) -> set[bytes]:
        """Names of the values that are there."""
        return set(self._sizes)

    @property
    def free_bytes(self) -> int:
        """Bytes of the file that can be taken."""
        return self._extents.free_bytes

    def file(self) -> PlacesFile | None:
        """Return the file, if it is there already."""
        if self._file is None or self._proof is None:
            return None
        status = os.fstat(self._file)
        return PlacesFile(str(self.path.absolute()), status.st_dev, status.st_ino, self._proof)

    async def put(self, contents: Sequence[Content]) -> list[ObjectRef | None]:
        """Write values and wait until they are durable; None for those for which there is no room.

        Raises
        ------
        OSError
            The disk fails. None of the values has a place.
        """
        work: asyncio.Future[list[ObjectRef | None]] = asyncio.ensure_future(self._put(contents))
        self._writing.add(work)
        work.add_done_callback(self._writing.discard)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread may still write there; then nobody wants it.
            work.add_done_callback(self._abandoned)
            raise

    def free(self, key: bytes) -> None:
        """Have the place of a value again, when nobody reads it any more."""
        if key in self._readers:
            self._freed.add(key)
        elif key in self._sizes:
            self._extents.give_back(place_of(key), paged(self._sizes.pop(key)))

    @contextlib.contextmanager
    def reading(self, key: bytes) -> Iterator[int]:
        """Return the file for as long as a value is read; its place is not taken by others meanwhile.

        Raises
        ------
        KeyError
            The value is not there.
        """
        self._sizes[key]
        self._readers[key] += 1
        try:
            yield self._opened()
        finally:
            self._readers[key] -= 1
            if not self._readers[key]:
                del self._readers[key]
                if key in self._freed:
                    self._freed.discard(key)
                    self.free(key)

    async def close(self) -> None:
        """Wait for what is being written."""
        self._is_closed = True
        self._withheld.close()
        if self._growing is not None:
            await asyncio.wait([self._growing])
        while self._writing:
            await asyncio.wait(self._writing)
        if self._file is not None:
            os.close(self._file)
            self._file = None

    # For those who lend places to others

    @property
    def can_lend(self) -> bool:
        """Whether there is a file, or may be one, in which others could be lent places."""
        return self._is_open and not self._is_closed and self._limit_bytes > 0

    @property
    def limit_bytes(self) -> int:
        """How large the file gets at most."""
        return self._limit_bytes

    @property
    def num_failed(self) -> int:
        """Syncs that have failed: what was written before one of them, and not synced before, is lost."""
        return self._num_failed

    @property
    def withheld_bytes(self) -> int:
        """What is not given to anybody, because somebody who is gone may still be writing there."""
        return self._withheld.nbytes

    async def made(self) -> int:
        """Return the file, made if need be."""
        return await self._in_thread(self._opened) if self._file is None else self._file

    async def take(self, nbytes: int) -> int | None:
        """Return a place of so many bytes, whole pages; None when there is no room."""
        return await self._take(nbytes) if self.can_lend else None

    async def named(self, places: Sequence[tuple[int, int, int]], num_failed: int) -> list[ObjectRef]:
        """Make what others have written to places durable, and return names for it.

        Parameters
        ----------
        places : sequence of (int, int, int)
            Place, bytes and checksum of each.
        num_failed : int
            What `num_failed` was when they got the places.

        Raises
        ------
        OSError
            The disk fails, or has failed since then.
        """
        await self.sync(num_failed)
        return self.name(places)

    def name(self, places: Sequence[tuple[int, int, int]]) -> list[ObjectRef]:
        """Return names for what others have written to places, durable or not."""
        return [ObjectRef(self._name(place, nbytes), nbytes, checksum) for place, nbytes, checksum in places]

    async def sync(self, num_failed: int) -> None:
        """Make everything durable that was written since `num_failed` was this; raises as `named` does."""
        if self._num_failed == num_failed:
            await self._synced()
        if self._num_failed != num_failed:
            raise OSError(self._failed_errno, "a sync of the disk failed while this was written")

    def keep(self, work: asyncio.Future[Any]) -> None:
        """Have `close` wait for work."""
        self._writing.add(work)
        work.add_done_callback(self._writing.discard)

    def withhold(
        self, extents: Iterable[tuple[int, int]], is_locked: Callable[[int], bool], done: Callable[[], object] = bool
    ) -> None:
        """Have extents again, and call ``done``, when ``is_locked`` says of the file that nobody holds a lock there."""
        self._withheld.add(extents, lambda: not is_locked(self._opened()), done)

    # Writing

    def _are_others_writing(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            return self.locks.begin(file)
        except OSError:
            return False  # there are no such locks in this file system, so nobody was ever lent a place
        finally:
            os.close(file)

    def _name(self, place: int, nbytes: int) -> bytes:
        """Return the name of a value that is there from now on."""
        self._number = self._number + 1 & _NUMBERS
        key = place.to_bytes(8, "big") + self._number.to_bytes(8, "big")
        self._sizes[key] = nbytes
        return key

    async def _put(self, contents: Sequence[Content]) -> list[ObjectRef | None]:
        places: list[tuple[int, int] | None] = []
        taken: list[tuple[int, Content]] = []
        num_failed = self._num_failed
        try:
            for content in contents:
                nbytes = sum(len(memoryview(piece)) for piece in content)
                place = await self._take(paged(nbytes))
                places.append(None if place is None else (place, nbytes))
                if place is not None:
                    taken.append((place, content))
            if not taken:
                return [None] * len(contents)
            write = functools.partial(_write, self._opened(), taken)
            if self._is_syncing:
                checksums = iter(await self._in_thread(write))
                await self._synced()
            else:
                # Nobody else is at it: the thread that writes syncs as well.
                checksums = iter(await self._begin_sync(None, write))
            if self._num_failed != num_failed:
                raise OSError(self._failed_errno, "a sync of the disk failed while this was written")
        except BaseException:
            for at in places:
                if at is not None:
                    self._extents.give_back(at[0], paged(at[1]))
            raise
        found: list[ObjectRef | None] = []
        for at in places:
            if at is None:
                found.append(None)
                continue
            found.append(ObjectRef(self._name(*at), at[1], next(checksums)))
        return found

    def _abandoned(self, work: asyncio.Future[list[ObjectRef | None]]) -> None:
        if not work.cancelled() and work.exception() is None:
            for ref in work.result():
                if ref is not None:
                    self.free(ref.digest)

    async def _take(self, nbytes: int) -> int | None:
        while (place := self._extents.take(nbytes)) is None:
            if self._withheld.look():
                continue
            growing = self._growing or self._begin_to_grow(nbytes)
            if growing is None:
                return None
            await asyncio.wait([growing])
            if growing.exception() is not None:
                return self._extents.take(nbytes)
        is_short = self._extents.free_bytes < min(self._extents.end // 2, _STEP_BYTES // 2)
        if is_short and self._growing is None and not self._cannot_grow:
            self._begin_to_grow(PAGE_BYTES)  # before anybody has to wait for it
        return place

    def _begin_to_grow(self, least_bytes: int) -> asyncio.Future[None] | None:
        """Make the file larger by so many bytes at least; None when it may not be."""
        end = self._extents.end
        step = min(max(_FIRST_STEP_BYTES, min(end, _STEP_BYTES)), self._limit_bytes - end)
        if step < least_bytes or not self._is_open:
            return None
        self._growing = growing = self._in_thread(functools.partial(self._grow, end, step))
        growing.add_done_callback(functools.partial(self._grown, step))
        return growing

    def _grow(self, end: int, step: int) -> None:
        failpoints.hit("objects.arena.grow")
        file = self._opened()
        # As large as it is to be at once: a write to such a page is never refused for want of space.
        os.posix_fallocate(file, end, step)

    def _grown(self, step: int, growing: asyncio.Future[None]) -> None:
        self._growing = None
        if growing.cancelled():
            return
        error = growing.exception()
        if error is None:
            self._extents.grow(step)
        elif not self._cannot_grow:
            logger.warning("values get files of their own: %s cannot grow: %s", self.path, error)
        self._cannot_grow = error is not None

    def _opened(self) -> int:
        with self._opening:
            if self._file is None:
                try:
                    file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    file = _made(self.path)
                try:
                    self._proof = proof_of(file)
                    if self._proof is None and not self._sizes:  # new, or a server was killed when it had just made it
                        self._proof = write_head(file)
                except BaseException:
                    os.close(file)
                    raise
                self._file = file
            return self._file

    # Syncs

    def _synced(self) -> asyncio.Future[None]:
        """Return when a sync has ended that begins from now on."""
        if self._next_sync is None:
            self._next_sync = asyncio.get_running_loop().create_future()
        found = self._next_sync
        if not self._is_syncing:
            self._begin_next_sync()
        return found

    def _begin_next_sync(self) -> None:
        waiting, self._next_sync = self._next_sync, None
        self._begin_sync(waiting, list)

    def _begin_sync(
        self, waiting: asyncio.Future[None] | None, write: Callable[[], list[int]]
    ) -> asyncio.Future[list[int]]:
        """Sync, after a write in the same thread; return what that returns."""
        self._is_syncing = True

        def work() -> list[int]:
            found = write()
            self._sync_file()
            return found

        syncing = self._in_thread(work)
        syncing.add_done_callback(functools.partial(self._sync_ended, waiting))
        return syncing

    def _sync_file(self) -> None:
        failpoints.hit("objects.arena.sync")
        os.fdatasync(self._opened())

    def _sync_ended(self, waiting: asyncio.Future[None] | None, syncing: asyncio.Future[list[int]]) -> None:
        self._is_syncing = False
        error = None if syncing.cancelled() else syncing.exception()
        if syncing.cancelled() or error is not None:
            self._num_failed += 1
            self._failed_errno = (isinstance(error, OSError) and error.errno) or errno.EIO
        if waiting is not None and not waiting.done():
            if error is not None:
                waiting.set_exception(error)
            elif syncing.cancelled():
                waiting.cancel()
            else:
                waiting.set_result(None)
        if self._next_sync is not None:
            self._begin_next_sync()


def _made(path: Path) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    except BaseException:
        os.close(file)
        raise
    finally:
        os.close(folder)
    return file


def _write(file: int, values: list[tuple[int, Content]]) -> list[int]:
    """Write values to their places and return their checksums."""
    failpoints.hit("objects.arena.write")
    return write_values(file, values)
