"""Locks by which a process shows that it may still be writing to a file that it shares with others.

They are write locks of open file descriptions on single bytes far behind the end of the file. The kernel drops such a
lock with the last descriptor of its description: who is gone holds none, who stands still keeps it.
"""

from __future__ import annotations

import contextlib
import fcntl
import struct

__all__ = ["Locks", "is_locked", "lock", "unlock"]

# Locks lie in blocks; each life of a server hands out those of one block in which nobody held any when it began.
_FIRST, _BLOCK_BYTES, _BLOCKS = 1 << 62, 1 << 40, 1 << 20

# struct flock: type, whence, start, length, process.
_FLOCK = struct.Struct("@hhqqi4x")


def lock(file: int, at: int) -> None:
    """Lock a byte.

    Raises
    ------
    OSError
        Somebody else holds it, or the file system has no such locks.
    """
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, at, 1, 0))


def unlock(file: int, at: int) -> None:
    """Hold the lock no longer, whoever else has a descriptor of the same description."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, 0, at, 1, 0))


def is_locked(file: int, at: int, nbytes: int = 1) -> bool:
    """Return whether another open file description than this one holds a lock on any of these bytes.

    Raises
    ------
    OSError
        The file system has no such locks.
    """
    asked = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, 0, at, nbytes, 0))
    kind: int = _FLOCK.unpack(asked)[0]
    return kind != fcntl.F_UNLCK


class Locks:
    """The locks that one life of a server hands out."""

    def __init__(self) -> None:
        self._block = 0
        self._last = 0

    def begin(self, file: int) -> bool:
        """Choose the block; return whether clients of those who were here before hold locks of theirs.

        Raises
        ------
        OSError
            The file system has no such locks: nobody holds any.
        """
        self._block = next(
            number for number in range(_BLOCKS) if not is_locked(file, _FIRST + number * _BLOCK_BYTES, _BLOCK_BYTES)
        )
        return self.are_old_held(file)

    def are_old_held(self, file: int) -> bool:
        """Return whether any lock is held that was not handed out here."""
        start = _FIRST + self._block * _BLOCK_BYTES
        end = start + _BLOCK_BYTES
        return (start > _FIRST and is_locked(file, _FIRST, start - _FIRST)) or is_locked(
            file, end, _FIRST + _BLOCKS * _BLOCK_BYTES - end
        )

    def next(self) -> int:
        """Return the place of a lock that nobody has had."""
        self._last += 1
        return _FIRST + self._block * _BLOCK_BYTES + self._last
