"""A file beside the database in which small changes are durable sooner than in its tables: the tail of its history.

A commit of SQLite writes every page that a change touches, a dozen for one task, and takes locks and a sync; here a
change is one short record and a sync. The tables have it a moment later, with many others, in one transaction that
says up to which record they know the history; then the file is written from its beginning again. What a crash leaves in
it is put into the tables when the database is opened.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from runtime._ext.crc32c import crc32c
from runtime.store import failpoints

__all__ = ["LOG_BYTES", "TailFile", "TailLog"]

logger = logging.getLogger(__name__)

LOG_BYTES = 1 << 20
"""How large the file is."""

_WHAT = 0x54415231  # "TAR1"
# What it is, CRC-32C of all that follows, bytes of the record, the opening of the database and the record's number.
_HEAD = struct.Struct("<IIIIQ")
_CRC_AT = struct.Struct("<II").size
# Until the file is tried again when it could not be made.
_AGAIN_S = 5.0


class TailLog(Protocol):
    """Records with growing numbers, as a `runtime.store.sqlite.writer.GroupWriter` needs them."""

    last: int
    """The number of the record that was appended last, or whose appending failed last."""

    def begin(self, epoch: int, last: int) -> None:
        """Begin anew behind all records there were, in an opening of the database."""
        ...

    def has_room(self, nbytes: int) -> bool:
        """Return whether a record of so many bytes can be appended now."""
        ...

    def append(self, record: bytes) -> None:
        """Append a record and return when it is durable.

        Raises
        ------
        OSError
            The disk fails. The record may be there or not: `last` counts it.
        """
        ...

    def restart(self) -> None:
        """Have the room of all records again: the tables know of them."""
        ...

    def records(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield opening, number and content of every record that is whole, in order; before anything is appended."""
        ...

    def close(self) -> None:
        """Append nothing any more."""
        ...


class TailFile:
    """The log in a file. One thread uses it at a time.

    Parameters
    ----------
    path : Path
        Made by `begin`, or later if that fails.
    """

    def __init__(self, path: Path) -> None:
        self.last = 0
        self._path = path
        self._epoch = 0
        self._end = 0
        self._file: int | None = None
        self._tried = 0.0

    def begin(self, epoch: int, last: int) -> None:
        """See `TailLog`."""
        self._epoch, self.last, self._end = epoch, last, 0
        if self._file is None:
            self._open()  # making it takes a while, which is no matter now

    def has_room(self, nbytes: int) -> bool:
        """See `TailLog`."""
        return self._end + _HEAD.size + nbytes <= LOG_BYTES and (self._file is not None or self._open())

    def append(self, record: bytes) -> None:
        """See `TailLog`."""
        if self._file is None or not self.has_room(len(record)):
            raise ValueError("there is no room for this record")
        self.last += 1
        counted = _HEAD.pack(_WHAT, 0, len(record), self._epoch, self.last)[_CRC_AT:] + record
        data = struct.pack("<II", _WHAT, crc32c(counted)) + counted
        failpoints.hit("store.tail.append")
        # The file is opened so that a write returns when it is on the disk.
        if os.pwrite(self._file, data, self._end) != len(data):
            raise OSError(f"{self._path}: a record was not written as a whole")
        self._end += len(data)

    def restart(self) -> None:
        """See `TailLog`."""
        self._end = 0

    def records(self) -> Iterator[tuple[int, int, bytes]]:
        """See `TailLog`."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        at = epoch = number = 0
        while at + _HEAD.size <= len(data):
            what, crc, nbytes, opening, found = _HEAD.unpack_from(data, at)
            end = at + _HEAD.size + nbytes
            if what != _WHAT or end > len(data) or (at and (opening, found) != (epoch, number + 1)):
                return
            if crc32c(memoryview(data)[at + _CRC_AT : end]) != crc:
                return
            epoch, number = opening, found
            yield epoch, number, data[at + _HEAD.size : end]
            at = end

    def close(self) -> None:
        """See `TailLog`."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> bool:
        """Open the file, made as large as it is to be; without it, changes go to the tables at once."""
        now = time.monotonic()
        if self._tried and now - self._tried < _AGAIN_S:
            return False
        self._tried = now
        try:
            self._file = _opened(self._path)
        except OSError as error:
            logger.warning("small changes are slower than usual: %s: %s", self._path, error)
            return False
        return True


def _opened(path: Path) -> int:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_DSYNC, 0o600)
    try:
        size = os.fstat(file).st_size
        if size < LOG_BYTES:
            # Pages that were written before are written again without a change of the file system's own.
            zeros = bytes(LOG_BYTES - size)
            if os.pwrite(file, zeros, size) != len(zeros):
                raise OSError(f"{path}: the disk has no room for {LOG_BYTES} bytes")
            os.fsync(file)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        os.close(file)
        raise
    return file
