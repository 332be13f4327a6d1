"""Objects in a folder: medium ones together in one file, large ones in files, named by the SHA-256 of their content.

A file is written under a temporary name, synced, renamed, and its folder synced, before anybody may refer to it. So a
file with a name is complete, whatever happened. `runtime.objects.arena` has the file of the medium ones.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import functools
import hashlib
import itertools
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from runtime._ext.buffer_pool import BufferPool
from runtime._ext.chunks import cut_with_checksum
from runtime._ext.crc32c import crc32c
from runtime.errors import DataLoss, Error, ResourceExhausted, Unavailable
from runtime.objects.arena import ARENA_BYTES, KEY_BYTES, Arena
from runtime.objects.lending import Lender, Lending
from runtime.objects.recent import Content, Recent
from runtime.objects.value import DIGEST_BYTES, ObjectRef, PlacesFile, Value
from runtime.store import failpoints

__all__ = ["ARENA_NAME", "INLINE_BYTES", "MEDIUM_BYTES", "FileObjects"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

INLINE_BYTES = 16 << 10
"""Values of at most so many bytes lie in their row: a file of its own would cost two syncs of the disk."""

MEDIUM_BYTES = 4 << 20
"""Values of at most so many bytes lie beside each other in one file: of more, the syncs of a file are a small part."""
ARENA_NAME = "arena"
"""The name of that file."""

# What all writers together keep in memory, beyond a piece each, of values that may turn out to be medium ones.
_GATHERED_BYTES = 64 << 20
# What is being written to the arena at a time, of whose content others wait with it in memory.
_PUT_BYTES = 64 << 20
# Values that were written last, and that are in memory still when they are read.
_RECENT_BYTES = 64 << 20
# What is given to the disk, or read from it, at once: large enough that the hop to a thread does not count.
_PIECE_BYTES = 1 << 20
# A reader is that far ahead only of those who take what it reads: it begins with one chunk, and grows by this factor.
_GROWTH = 4
_MAX_VIEWS = 1000  # that a system call writes; the limit of Linux is 1024
# Most of them wait for the disk, which syncs several files in little more time than one.
_THREADS = 8
_buffers = BufferPool(_THREADS * 8 * _PIECE_BYTES)
_TEMPORARY = "writing"
# How many names are compared with the store at once.
_SWEEP_NAMES = 1000


class FileObjects:
    """An object store in a folder; see `runtime.objects.objects.ObjectStore`.

    Parameters
    ----------
    folder : Path
        Made when the first object is written, readable by this user alone.
    inline_bytes : int
        Values of at most so many bytes never become files.
    arena_bytes : int
        How large the file of medium values gets at most; 0: they become files, too.
    """

    def __init__(self, folder: Path, inline_bytes: int = INLINE_BYTES, arena_bytes: int = ARENA_BYTES) -> None:
        self.folder = folder
        self.inline_bytes = inline_bytes
        self.recent = Recent(_RECENT_BYTES)
        self.arena = Arena(folder / ARENA_NAME, arena_bytes, self.in_thread)
        self.lender = Lender(self.arena)
        self._gathered_bytes = 0
        self.put_bytes = 0
        self._put_ended: list[asyncio.Future[None]] = []
        self._held: Counter[bytes] = Counter()
        # Held, although no row refers to them any more, or ever will.
        self._unused: set[bytes] = set()
        self._removing: dict[bytes, asyncio.Future[None]] = {}
        self._names = itertools.count()
        self._made = False
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def take_up(self, objects: Iterable[tuple[bytes, int]]) -> None:
        """Learn names and sizes of all objects that rows refer to; until then there are no medium ones."""
        self.arena.open((name, size) for name, size in objects if len(name) == KEY_BYTES)

    def writer(self, inline_bytes: int | None = None) -> FileValueWriter:
        """Return a writer for one value."""
        return FileValueWriter(self, self.inline_bytes if inline_bytes is None else inline_bytes)

    async def read(self, value: Value, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of a value."""
        if value.ref is None:
            data = value.data
            for start in range(0, len(data), chunk_bytes):
                yield data[start : start + chunk_bytes] if len(data) > chunk_bytes else data
            return
        ref = value.ref
        if (content := self.recent.get(ref.digest)) is not None:
            for piece in content:
                view = memoryview(piece)
                for start in range(0, len(view), chunk_bytes):
                    yield bytes(view[start : start + chunk_bytes])
            return
        if len(ref.digest) == KEY_BYTES:
            try:
                with self.arena.reading(ref.digest) as file:
                    async for piece in self._pieces(file, ref.place, ref, chunk_bytes):
                        yield piece
            except KeyError:
                raise DataLoss(f"object {ref.digest.hex()} is not there") from None
            except OSError as error:
                raise _disk_error(error, self.arena.path) from error
            return
        file = await self.in_thread(lambda: _open(self.path(ref.digest)))
        try:
            async for piece in self._pieces(file, 0, ref, chunk_bytes):
                yield piece
        finally:
            os.close(file)

    async def _pieces(self, file: int, at: int, ref: ObjectRef, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Return the pieces of an object that begins somewhere in a file."""
        crc, left = 0, ref.size
        # Whole chunks at a time, so that none is put together from two reads.
        most = max(1, _PIECE_BYTES // chunk_bytes)
        ahead = 1
        while left:
            wanted = min(ahead * chunk_bytes, left)
            chunks, crc = await self.in_thread(functools.partial(_read, file, at, wanted, chunk_bytes, crc))
            at += wanted
            left -= wanted
            if not chunks or (not left and crc != ref.crc):
                raise DataLoss(f"object {ref.digest.hex()} is damaged: its bytes are not those that were written")
            chunks.reverse()
            while chunks:
                yield chunks.pop()
            ahead = min(ahead * _GROWTH, most)

    def at_hand(self, value: Value) -> Content | None:
        """Return the pieces of a value that are in memory already."""
        return (value.data,) if value.ref is None else self.recent.get(value.ref.digest)

    def places_file(self) -> PlacesFile | None:
        """Return the file of medium values, if there is one already."""
        return self.arena.file()

    async def begin_lending(self) -> Lending | None:
        """Return what a process of this machine is lent that writes values itself: nothing so far."""
        return await self.lender.begin()

    async def lend(self, lending: Lending, sizes: Sequence[int]) -> list[int]:
        """Lend a place for each of these values; 0 for those that are no medium ones, or for which there is no room."""
        wanted = [nbytes for nbytes in sizes if self.inline_bytes < nbytes <= MEDIUM_BYTES]
        places = iter(await self.lender.lend(lending, wanted))
        return [next(places) if self.inline_bytes < nbytes <= MEDIUM_BYTES else 0 for nbytes in sizes]

    async def adopt(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[Value]:
        """Make values of what was written to lent places."""
        try:
            refs = await self.lender.adopt(lending, places)
        except OSError as error:
            raise _disk_error(error, self.arena.path) from error
        for ref in refs:
            self._held[ref.digest] += 1
        return [Value(b"", ref) for ref in refs]

    def adopt_early(self, lending: Lending, places: Sequence[tuple[int, int, int]]) -> list[Value]:
        """Make values of what was written to lent places, which are not durable yet."""
        refs = self.lender.adopt_early(lending, places)
        for ref in refs:
            self._held[ref.digest] += 1
        return [Value(b"", ref) for ref in refs]

    async def sync_adopted(self, lending: Lending) -> None:
        """Make values durable that were adopted early."""
        try:
            await self.lender.sync(lending)
        except OSError as error:
            raise _disk_error(error, self.arena.path) from error

    async def is_locked(self, lending: Lending) -> bool:
        """Return whether a borrower shows that it may be writing."""
        return await self.lender.is_locked(lending)

    def end_lending(self, lending: Lending) -> None:
        """Take back what was lent, as soon as nobody can write there any more."""
        self.lender.end(lending)

    def handed_over(self, values: Iterable[Value]) -> None:
        """Keep values in memory no longer: who wanted them has them."""
        for value in values:
            if value.ref is not None:
                self.recent.drop(value.ref.digest)

    async def put(self, contents: Sequence[Content], memory_bytes: int = 0) -> list[Value]:
        """Write values whose bytes are all there."""
        sizes = [sum(len(memoryview(piece)) for piece in content) for content in contents]
        total = max(sum(sizes), memory_bytes)
        await self._room_to_put(total)
        made: list[Value | None] = [None] * len(contents)
        try:
            for index, nbytes in enumerate(sizes):
                if nbytes <= self.inline_bytes:
                    made[index] = Value(b"".join(contents[index]))
            medium = [index for index, nbytes in enumerate(sizes) if self.inline_bytes < nbytes <= MEDIUM_BYTES]
            try:
                refs = await self.arena.put([contents[index] for index in medium]) if medium else []
            except OSError as error:
                raise _disk_error(error, self.arena.path) from error
            kept = []
            for index, ref in zip(medium, refs, strict=True):
                if ref is not None:
                    self._held[ref.digest] += 1
                    made[index] = Value(b"", ref)
                    kept.append((ref.digest, contents[index]))
            self.recent.add(kept, total)
            for index, value in enumerate(made):
                if value is None:
                    writer = FileValueWriter(self, self.inline_bytes, has_own_file=True)
                    try:
                        for piece in contents[index]:
                            await writer.write(bytes(piece))
                        made[index] = await writer.finish()
                    finally:
                        writer.discard()
        except BaseException:
            unused = [value for value in made if value is not None and value.ref is not None]
            self.let_go(unused)
            for value in unused:
                # Content that has a file may be another value's as well; a sweep sees to it.
                if value.ref is not None and not value.ref.is_shared:
                    self.remove(value.ref.digest)
            raise
        finally:
            self.put_bytes -= total
            waiting, self._put_ended = self._put_ended, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)
        return [value for value in made if value is not None]

    async def _room_to_put(self, nbytes: int) -> None:
        """Wait until not too much else is being written."""
        while self.put_bytes and self.put_bytes + nbytes > _PUT_BYTES:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._put_ended.append(ended)
            await ended
        self.put_bytes += nbytes

    def let_go(self, values: Iterable[Value]) -> None:
        """Hold these values no longer."""
        for value in values:
            if value.ref is not None:
                digest = value.ref.digest
                self._held[digest] -= 1
                if self._held[digest] <= 0:
                    del self._held[digest]
                    if digest in self._unused:
                        self._unused.discard(digest)
                        self.remove(digest)

    def remove(self, digest: bytes) -> None:
        """Remove an object that no row refers to; a file in a thread."""
        if len(digest) == KEY_BYTES:
            if digest in self._held:
                self._unused.add(digest)  # for good: nobody writes the same once more
            else:
                self.recent.drop(digest)
                self.arena.free(digest)
            return
        if digest in self._held or digest in self._removing:
            return
        removal = asyncio.ensure_future(self.in_thread(lambda: _remove(self.path(digest))))
        self._removing[digest] = removal

        def done(future: asyncio.Future[None]) -> None:
            del self._removing[digest]
            if not future.cancelled() and (error := future.exception()) is not None:
                # A later sweep finds it again.
                logger.warning("an object could not be removed: %s", error)

        removal.add_done_callback(done)

    async def sweep(self, referred: Callable[[list[bytes]], Awaitable[set[bytes]]]) -> int:
        """Remove what no row refers to and nobody holds, and what was being written when the server ended."""
        if not self.folder.is_dir():
            return 0
        digests = await self.in_thread(self._listing)
        removed = 0
        for start in range(0, len(digests), _SWEEP_NAMES):
            names = digests[start : start + _SWEEP_NAMES]
            for digest in set(names) - await referred(names):
                if digest not in self._held:
                    self.remove(digest)
                    removed += 1
        await asyncio.gather(*self._removing.values(), return_exceptions=True)
        return removed

    async def close(self) -> None:
        """Wait for what is being removed, and end the threads."""
        await asyncio.gather(*self._removing.values(), return_exceptions=True)
        await self.arena.close()
        self.recent.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=True)
            self._threads = None

    # For writers

    def path(self, digest: bytes) -> Path:
        """Return where an object lies."""
        name = digest.hex()
        return self.folder / name[:2] / name

    def in_thread(self, function: Callable[[], R]) -> asyncio.Future[R]:
        """Run a function that uses the disk."""
        if self._threads is None:
            self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "objects")
        return asyncio.get_running_loop().run_in_executor(self._threads, function)

    def gather(self, nbytes: int) -> bool:
        """Return whether a writer may keep so many bytes more in memory; `gathered` when it does not any longer."""
        if self._gathered_bytes + nbytes > _GATHERED_BYTES:
            return False
        self._gathered_bytes += nbytes
        return True

    def gathered(self, nbytes: int) -> None:
        """Count bytes no longer that a writer kept."""
        self._gathered_bytes -= nbytes

    def new_file(self) -> tuple[int, Path]:
        """Open a new temporary file; in a thread."""
        temporary = self.folder / _TEMPORARY
        if not self._made:
            temporary.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._made = True
        path = temporary / f"{os.getpid()}-{next(self._names)}"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path

    async def hold(self, digest: bytes) -> None:
        """Keep an object from being removed."""
        self._held[digest] += 1
        removal = self._removing.get(digest)
        if removal is not None:
            await asyncio.wait([removal])

    def _listing(self) -> list[bytes]:
        """Return the digests of all files; remove temporary ones of processes that are gone."""
        mine = f"{os.getpid()}-"
        found: list[bytes] = []
        for entry in os.scandir(self.folder):
            if entry.name == _TEMPORARY:
                for left in os.scandir(entry.path):
                    if not left.name.startswith(mine):
                        os.unlink(left.path)
            elif len(entry.name) == 2 and entry.is_dir():
                for file in os.scandir(entry.path):
                    with contextlib.suppress(ValueError):
                        digest = bytes.fromhex(file.name)
                        if len(digest) == DIGEST_BYTES:
                            found.append(digest)
        return found


class FileValueWriter:
    """Writes one value; see `runtime.objects.objects.ValueWriter`."""

    def __init__(self, objects: FileObjects, inline_bytes: int, *, has_own_file: bool = False) -> None:
        self.size = 0
        self._has_own_file = has_own_file
        self._gathered_bytes = 0
        self._inline_bytes = inline_bytes
        self._objects = objects
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._file: int | None = None
        self._path: Path | None = None
        self._hash = hashlib.sha256()
        self._crc = 0
        self._ended = False
        self._busy = False

    @property
    def is_inline(self) -> bool:
        """Whether what was written so far would stay bytes."""
        return self.size <= self._inline_bytes

    async def write(self, data: bytes) -> None:
        """Take a piece."""
        self._pieces.append(data)
        self._buffered += len(data)
        self.size += len(data)
        if self._buffered >= _PIECE_BYTES and not self._gathers(len(data)):
            self._let_gathered_go()
            await self._in_thread(self._flush)

    async def finish(self) -> Value:
        """Return the value, durable and held."""
        if self.size <= self._inline_bytes:
            self._ended = True
            return Value(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
        if self._path is None and not self._has_own_file and self.size <= MEDIUM_BYTES:
            self._ended = True
            pieces, self._pieces = self._pieces, []
            try:
                (value,) = await self._objects.put([pieces])
            finally:
                self._let_gathered_go()
            return value
        await self._in_thread(self._flush_and_sync)
        ref = ObjectRef(self._hash.digest(), self.size, self._crc)
        await self._objects.hold(ref.digest)
        try:
            await self._in_thread(lambda: self._name(ref.digest))
        except BaseException:
            self._objects.let_go([Value(b"", ref)])
            raise
        self._ended = True
        return Value(b"", ref)

    def discard(self) -> None:
        """Forget what was written."""
        if self._ended:
            return
        self._ended = True
        self._pieces.clear()
        self._let_gathered_go()
        if not self._busy:
            self._drop_file()

    def _gathers(self, nbytes: int) -> bool:
        """Return whether the bytes so far stay in memory, since the value may be a medium one."""
        if self._path is not None or self._has_own_file or self.size > MEDIUM_BYTES or not self._objects.gather(nbytes):
            return False
        self._gathered_bytes += nbytes
        return True

    def _let_gathered_go(self) -> None:
        nbytes, self._gathered_bytes = self._gathered_bytes, 0
        self._objects.gathered(nbytes)

    async def _in_thread(self, function: Callable[[], None]) -> None:
        """Run a function that works on the file; nothing is left of the file when it fails or the caller goes away."""
        self._busy = True
        work = self._objects.in_thread(function)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # The thread still works on the file; who is last removes it.
            self._ended = True
            if work.done():
                self._busy = False
                self._drop_file()
            else:
                work.add_done_callback(self._abandoned)
            raise
        except BaseException as error:
            self._busy = False
            self.discard()
            if isinstance(error, OSError) and not isinstance(error, Error):
                raise _disk_error(error, self._objects.folder) from error
            raise
        self._busy = False
        if self._ended:
            self._drop_file()

    def _abandoned(self, work: asyncio.Future[None]) -> None:
        if not work.cancelled():
            work.exception()  # seen
        self._busy = False
        self._drop_file()

    def _flush(self) -> None:
        if self._file is None:
            self._file, self._path = self._objects.new_file()
        pieces, self._pieces, self._buffered = self._pieces, [], 0
        for data in pieces:
            self._hash.update(data)
            self._crc = crc32c(data, self._crc)
        views = [memoryview(data) for data in pieces if data]
        while views:
            failpoints.hit("objects.write")
            written = os.writev(self._file, views[:_MAX_VIEWS])
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def _flush_and_sync(self) -> None:
        self._flush()
        assert self._file is not None
        failpoints.hit("objects.sync")
        os.fsync(self._file)
        os.close(self._file)
        self._file = None

    def _name(self, digest: bytes) -> None:
        assert self._path is not None
        path = self._objects.path(digest)
        failpoints.hit("objects.rename")
        try:
            os.rename(self._path, path)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(self._objects.folder)
            os.rename(self._path, path)
        self._path = None
        _sync_folder(path.parent)

    def _drop_file(self) -> None:
        file, self._file = self._file, None
        path, self._path = self._path, None
        if file is not None:
            os.close(file)
        if path is not None:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _sync_folder(folder: Path) -> None:
    failpoints.hit("objects.sync_folder")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DataLoss(f"object {path.name} is not there") from None
    except OSError as error:
        raise _disk_error(error, path) from error


def _read(file: int, at: int, nbytes: int, chunk_bytes: int, crc: int) -> tuple[list[bytes], int]:
    """Return so many bytes in chunks, and the checksum with them; nothing when the file has not so many."""
    try:
        memory: Any = _buffers.take(nbytes)
    except ResourceExhausted:
        memory = bytearray(nbytes)
    view = memoryview(memory)
    found = 0
    while found < nbytes and (more := os.preadv(file, [view[found:]], at + found)):
        found += more
    return cut_with_checksum(view, chunk_bytes, crc) if found == nbytes else ([], crc)


def _remove(path: Path) -> None:
    failpoints.hit("objects.remove")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _disk_error(error: OSError, path: Path) -> Error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"{path}: no space left: {error}")
    return Unavailable(f"{path}: {error}")
