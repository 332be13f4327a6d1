"""The output of commands on disk: one file each, appended to by those who send it, read by those who follow.

Files are opened for each write and each read, in a few threads, so that the number of open files does not grow with
that of commands. What is appended is written at once, as much as has come meanwhile; it is synced before it is
acknowledged.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from runtime.commands.log_records import NO_SEQUENCE, Kind, Record, Summary, encode, parse, split, summarize
from runtime.errors import Error, ResourceExhausted, Unavailable
from runtime.store import failpoints

__all__ = ["LogFile", "Logs"]

logger = logging.getLogger(__name__)

_V = TypeVar("_V")

_THREADS = 4
# What a reader takes at a time, and what may wait to be written before whoever sends is held back.
_READ_BYTES = 256 << 10
_PENDING_BYTES = 1 << 20
# The largest record does not fit into a usual read.
_LARGEST_READ = 2 << 20
_SUMMARIES_KEPT = 4096
_REMARK_TYPE = "stderr"


class LogFile:
    """One command's file as far as it is being written."""

    __slots__ = ("broken", "buffer", "buffered", "folder_synced", "summary", "synced", "users", "writing")

    def __init__(self, summary: Summary) -> None:
        self.summary = summary
        self.buffer: list[bytes] = []
        self.buffered = 0
        self.synced = 0
        self.folder_synced = False
        self.writing: asyncio.Task[None] | None = None
        self.broken: Error | None = None
        self.users = 0


class Logs:
    """The files of one folder. Belongs to one event loop.

    Parameters
    ----------
    folder : Path
        Made when it is needed.
    limit : int
        Bytes kept of one command; 0: all.
    now_s : callable
        Seconds since 1970.
    """

    def __init__(self, folder: Path, limit: int, now_s: Callable[[], float]) -> None:
        self._folder = folder
        self._limit = limit
        self._now_s = now_s
        self._files: OrderedDict[int, LogFile] = OrderedDict()
        self._loading: dict[int, asyncio.Future[Summary]] = {}
        self._senders: dict[int, int] = {}
        self._followers: dict[int, set[asyncio.Event]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "command-logs")

    def path(self, number: int) -> Path:
        """Return the file of a command."""
        return self._folder / str(number // 1000) / f"{number}.log"

    async def close(self) -> None:
        """Write what is still to be written, and end the threads."""
        for file in list(self._files.values()):
            if file.writing is not None:
                await asyncio.wait([file.writing])
        self._pool.shutdown(wait=True)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def append(
        self, number: int, type_name: str, text: str, attempt: int, sequence: int = NO_SEQUENCE
    ) -> LogFile:
        """Append an entry; it is on its way to the disk when this returns. Returns what `sync` is to be given.

        Parameters
        ----------
        sequence : int
            Of the first line within the attempt, where the sender numbers them: those that are there are left out.

        Raises
        ------
        ResourceExhausted, Unavailable
            If the disk takes no more.
        """
        file = await self._file(number)
        file.users += 1
        try:
            self._add(file, type_name, text, attempt, sequence)
            self._write_soon(number, file)
            if file.buffered > _PENDING_BYTES and file.writing is not None:
                await asyncio.wait([file.writing])
            if file.broken is not None:
                raise type(file.broken)(file.broken.message)
            return file
        finally:
            file.users -= 1

    async def remark(self, number: int, text: str, attempt: int) -> None:
        """Append a line of the server's own, whatever the limit."""
        file = await self._file(number)
        self._put(file, encode(_REMARK_TYPE, split(text), self._now_s(), attempt, NO_SEQUENCE, Kind.REMARK))
        file.summary.attempt = max(attempt, file.summary.attempt)
        self._write_soon(number, file)

    async def begin_attempt(self, number: int, attempt: int) -> None:
        """Mark where the output of a further attempt begins, unless that is done."""
        file = await self._file(number)
        self._mark_attempt(file, attempt)
        self._write_soon(number, file)

    async def sync(self, files: Mapping[LogFile, int]) -> None:
        """Wait until what was appended is on disk.

        Parameters
        ----------
        files : mapping of LogFile to int
            What `append` has returned, and for which command.

        Raises
        ------
        ResourceExhausted, Unavailable
            If the disk takes no more.
        """
        for file, number in files.items():
            while file.writing is not None:
                await asyncio.wait([file.writing])
            if file.broken is not None:
                raise type(file.broken)(file.broken.message)
            size = file.summary.size
            if file.synced < size:
                await self._run(_sync, self.path(number), not file.folder_synced)
                file.folder_synced = True
                file.synced = max(file.synced, size)

    async def remove(self, number: int) -> bool:
        """Remove a command's output, unless somebody sends it; return whether it is gone."""
        file = self._files.get(number)
        if number in self._senders or number in self._loading or (
            file is not None and (file.users or file.writing is not None)
        ):
            return False
        self._files.pop(number, None)
        await self._run(_remove, self.path(number))
        return True

    @contextmanager
    def sending(self, number: int) -> Iterator[None]:
        """Count a stream that sends a command's output as open."""
        self._senders[number] = self._senders.get(number, 0) + 1
        try:
            yield
        finally:
            self._senders[number] -= 1
            if not self._senders[number]:
                del self._senders[number]
            self.wake(number)

    # -- reading ---------------------------------------------------------------------------------------------------

    def is_complete(self, number: int) -> bool:
        """Return whether nobody sends a command's output, and all of it can be read."""
        file = self._files.get(number)
        return number not in self._senders and (file is None or file.writing is None)

    def is_written(self, number: int) -> bool:
        """Return whether all that has come of a command's output can be read."""
        file = self._files.get(number)
        return file is None or file.writing is None

    async def read(self, number: int, position: int) -> tuple[list[Record], int]:
        """Return the records from a position in the file, not all of them as a rule, and the position after them."""
        return await self._run(_read, self.path(number), position)

    @contextmanager
    def following(self, number: int) -> Iterator[asyncio.Event]:
        """Give an event that is set when there may be more to read, or the command's state has changed."""
        event = asyncio.Event()
        followers = self._followers.setdefault(number, set())
        followers.add(event)
        try:
            yield event
        finally:
            followers.discard(event)
            if not followers:
                self._followers.pop(number, None)

    def wake(self, number: int) -> None:
        """Have the followers of a command look again."""
        for event in self._followers.get(number, ()):
            event.set()

    def wake_all(self) -> None:
        """Have all followers look again."""
        for number in list(self._followers):
            self.wake(number)

    # -- files -----------------------------------------------------------------------------------------------------

    async def _file(self, number: int) -> LogFile:
        file = self._files.get(number)
        while file is None or file.broken is not None:
            loading = self._loading.get(number)
            if loading is None:
                loading = self._loading[number] = asyncio.ensure_future(self._run(_load, self.path(number)))
                loading.add_done_callback(lambda _: self._loading.pop(number, None))
            summary = await asyncio.shield(loading)
            file = self._files.get(number)
            if file is None or file.broken is not None:
                file = self._files[number] = LogFile(summary)
                file.synced = summary.size
        self._files.move_to_end(number)
        while len(self._files) > _SUMMARIES_KEPT:
            idle = next((key for key, one in self._files.items() if one.writing is None and not one.users), None)
            if idle is None or idle == number:
                break
            del self._files[idle]
        return file

    def _add(self, file: LogFile, type_name: str, text: str, attempt: int, sequence: int) -> None:
        summary = file.summary
        lines = split(text)
        if sequence != NO_SEQUENCE:
            known = max(0, summary.following.get(attempt, 0) - sequence)
            lines = lines[known:]
            if not lines:
                return
            sequence += known
            summary.following[attempt] = sequence + len(lines)
        self._mark_attempt(file, attempt)
        if summary.is_full:
            return
        if self._limit and summary.size + len(text) > self._limit:
            summary.is_full = True
            note = f"output beyond {self._limit} bytes is left out"
            self._put(file, encode(_REMARK_TYPE, [note], self._now_s(), attempt, sequence, Kind.GAP))
            return
        self._put(file, encode(type_name, lines, self._now_s(), attempt, sequence))
        summary.attempt = max(attempt, summary.attempt)

    def _mark_attempt(self, file: LogFile, attempt: int) -> None:
        if attempt > max(file.summary.attempt, 1):
            file.summary.attempt = attempt
            text = f"attempt {attempt}"
            self._put(file, encode(_REMARK_TYPE, [text], self._now_s(), attempt, NO_SEQUENCE, Kind.REMARK))

    def _put(self, file: LogFile, data: bytes) -> None:
        file.buffer.append(data)
        file.buffered += len(data)
        file.summary.size += len(data)

    def _write_soon(self, number: int, file: LogFile) -> None:
        if file.writing is None and file.buffer and file.broken is None:
            file.writing = asyncio.ensure_future(self._write(number, file))

    async def _write(self, number: int, file: LogFile) -> None:
        """Write what has come, and what comes meanwhile."""
        end = file.summary.size - file.buffered
        try:
            while file.buffer:
                data, file.buffer, file.buffered = b"".join(file.buffer), [], 0
                await self._run(_write, self.path(number), data, end)
                end += len(data)
                self.wake(number)
        except Error as error:
            logger.error("output of a command was not written", extra={"command": number, "reason": error.message})
            # Whoever sends is told; whoever sends next reads the file anew.
            file.broken = error
            file.buffer, file.buffered = [], 0
            if self._files.get(number) is file:
                del self._files[number]
        finally:
            file.writing = None
            self.wake(number)

    async def _run(self, function: Callable[..., _V], *arguments: object) -> _V:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        except OSError as error:
            raise _domain_error(error) from error
        except RuntimeError as error:
            raise Unavailable("the server stops") from error  # the pool is shut down


def _domain_error(error: OSError) -> Error:
    where = error.filename or "the folder of the commands' output"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceExhausted(f"{where}: no space left for a command's output")
    return Unavailable(f"{where}: {error.strerror}")


def _load(path: Path) -> Summary:
    """Return what is in a file, and cut off what is no whole entry."""
    summary = Summary()
    if not path.exists():
        return summary
    with open(path, "rb+", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        at_once = _READ_BYTES
        while summary.size < size:
            before = summary.size
            summary = summarize(os.pread(file.fileno(), at_once, before), summary)
            if summary.size == before:
                if at_once >= _LARGEST_READ:
                    break
                at_once = _LARGEST_READ
            else:
                at_once = _READ_BYTES
        if summary.size < size:
            file.truncate(summary.size)
    return summary


def _write(path: Path, data: bytes, end: int) -> None:
    if end == 0:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        view = memoryview(data)
        try:
            while view:
                failpoints.hit("logs.write")
                view = view[os.write(file.fileno(), view) :]
        except OSError as error:
            error.filename = str(path)
            # Half of it would hide what others write behind it.
            file.truncate(end)
            raise


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _sync(path: Path, with_folder: bool) -> None:
    failpoints.hit("logs.sync")
    with open(path, "rb", buffering=0) as file:
        os.fdatasync(file.fileno())
    if with_folder:
        for folder in (path.parent, path.parent.parent):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _read(path: Path, position: int) -> tuple[list[Record], int]:
    if not path.exists():
        return [], position
    with open(path, "rb", buffering=0) as file:
        for at_once in (_READ_BYTES, _LARGEST_READ):
            data = os.pread(file.fileno(), at_once, position)
            records, nbytes = parse(data)
            if records or len(data) < at_once:
                return records, position + nbytes
    return [], position
