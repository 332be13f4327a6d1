"""Objects as files of a folder, each named by the SHA-256 of its content.

A file is written under a temporary name, synced, renamed, and its folder synced, before anybody may refer to it. So a
file with a name is complete, whatever happened.
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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from runtime._ext.buffer_pool import BufferPool
from runtime._ext.chunks import cut_with_checksum
from runtime._ext.crc32c import crc32c
from runtime.errors import DataLoss, Error, ResourceExhausted, Unavailable
from runtime.objects.value import ObjectRef, Value
from runtime.store import failpoints

__all__ = ["INLINE_BYTES", "FileObjects"]

logger = logging.getLogger(__name__)

R = TypeVar("R")

INLINE_BYTES = 16 << 10
"""Values of at most so many bytes lie in their row: a file of its own would cost two syncs of the disk."""

# What is given to the disk, or read from it, at once: large enough that the hop to a thread does not count.
_PIECE_BYTES = 1 << 20
# A reader is that far ahead only of those who take what it reads: it begins with one chunk, and grows by this factor.
_GROWTH = 4
_MAX_VIEWS = 1000  # that a system call writes; the limit of Linux is 1024
# Most of them wait for the disk, which syncs several files in little more time than one.
_THREADS = 8
_buffers = BufferPool(_THREADS * 8 * _PIECE_BYTES)
_DIGEST_BYTES = 32
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
    """

    def __init__(self, folder: Path, inline_bytes: int = INLINE_BYTES) -> None:
        self.folder = folder
        self.inline_bytes = inline_bytes
        self._held: Counter[bytes] = Counter()
        self._removing: dict[bytes, asyncio.Future[None]] = {}
        self._names = itertools.count()
        self._made = False
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

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
        file = await self.in_thread(lambda: _open(self.path(ref.digest)))
        try:
            crc, left = 0, ref.size
            # Whole chunks at a time, so that none is put together from two reads.
            most = max(1, _PIECE_BYTES // chunk_bytes)
            ahead = 1
            while left:
                wanted = min(ahead * chunk_bytes, left)
                chunks, crc = await self.in_thread(functools.partial(_read, file, wanted, chunk_bytes, crc))
                left -= wanted
                if not chunks or (not left and crc != ref.crc):
                    raise DataLoss(f"object {ref.digest.hex()} is damaged: its bytes are not those that were written")
                chunks.reverse()
                while chunks:
                    yield chunks.pop()
                ahead = min(ahead * _GROWTH, most)
        finally:
            os.close(file)

    def let_go(self, values: Iterable[Value]) -> None:
        """Hold these values no longer."""
        for value in values:
            if value.ref is not None:
                digest = value.ref.digest
                self._held[digest] -= 1
                if self._held[digest] <= 0:
                    del self._held[digest]

    def remove(self, digest: bytes) -> None:
        """Remove an object that no row refers to, in a thread."""
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
                        if len(digest) == _DIGEST_BYTES:
                            found.append(digest)
        return found


class FileValueWriter:
    """Writes one value; see `runtime.objects.objects.ValueWriter`."""

    def __init__(self, objects: FileObjects, inline_bytes: int) -> None:
        self.size = 0
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
        if self._buffered >= _PIECE_BYTES:
            await self._in_thread(self._flush)

    async def finish(self) -> Value:
        """Return the value, durable and held."""
        if self.size <= self._inline_bytes:
            self._ended = True
            return Value(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
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
        if not self._busy:
            self._drop_file()

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


def _read(file: int, nbytes: int, chunk_bytes: int, crc: int) -> tuple[list[bytes], int]:
    """Return so many bytes in chunks, and the checksum with them; nothing when the file has not so many."""
    try:
        memory: Any = _buffers.take(nbytes)
    except ResourceExhausted:
        memory = bytearray(nbytes)
    view = memoryview(memory)
    found = 0
    while found < nbytes and (more := os.readv(file, [view[found:]])):
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
