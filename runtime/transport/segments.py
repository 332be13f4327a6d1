"""Segments: memory of files without a name, which another process can map.

A segment is lent as a whole. Those that are not lent are kept for the next tensor of about their size, with their pages
there, for a fresh one is ten times slower to fill than one that was used before.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import tempfile
import threading
from typing import Any

import numpy as np

from runtime._ext import shared_arrays
from runtime._ext.buffer_pool import Buffer, BufferPool, Memory
from runtime._ext.errors import DataLoss, ResourceExhausted

__all__ = ["SHARED_BYTES", "block_of", "buffer_of", "empty", "held_bytes", "limit_bytes", "map_segment", "pool",
           "set_limit"]

Array = np.ndarray[Any, Any]

SHARED_BYTES = 256 << 10
"""From here on a segment is cheaper than a stream: claiming one takes as long as copying this much."""

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_numbers = itertools.count(1)
_lock = threading.Lock()
_pool: BufferPool | None = None
_limit_bytes: int | None = None


def pool() -> BufferPool:
    """Return the segments of this process."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = BufferPool(limit_bytes(), _make_segment)
        return _pool


def limit_bytes() -> int:
    """Return what the segments of this process may hold together, in bytes."""
    limit = _limit_bytes
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if limit is None else limit


def held_bytes() -> tuple[int, int]:
    """Return what the segments of this process hold, in bytes: those in use, and idle ones."""
    with _lock:
        return (0, 0) if _pool is None else (_pool.lent_bytes, _pool.idle_bytes)


def set_limit(limit_bytes: int) -> None:
    """Bound what the segments of this process hold together, lent ones and idle ones; half of the memory otherwise.

    What was made before stays until nobody uses it any more.
    """
    global _limit_bytes, _pool
    with _lock:
        _limit_bytes = limit_bytes
        _pool = None


def _forget() -> None:
    """A child shares its parent's segments, and must not lend them to others."""
    global _pool
    _pool = None


os.register_at_fork(after_in_child=_forget)


def anonymous_file(nbytes: int) -> int:
    """Return the descriptor of a file in memory that has no name, or none any more.

    Raises
    ------
    ResourceExhausted
        The system gives none.
    """
    descriptor = -1
    try:
        try:
            descriptor = os.memfd_create("tensor-runtime", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except (AttributeError, OSError):  # an old kernel, or a sandbox that forbids it
            folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
            descriptor, path = tempfile.mkstemp(prefix="tensor-runtime-", dir=folder)
            os.unlink(path)
        os.ftruncate(descriptor, nbytes)
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise ResourceExhausted(f"no file in memory for {nbytes} bytes: {error}") from error


def _make_segment(capacity: int) -> Memory:
    return Memory(capacity, anonymous_file(capacity), True, True, next(_numbers))


def map_segment(descriptor: int, capacity: int, number: int) -> Memory:
    """Map a segment that another process lends, and calls by a number; takes the descriptor.

    Raises
    ------
    DataLoss
        The file is smaller than it should be, or could become so while it is read.
    """
    try:
        found = os.fstat(descriptor).st_size
        if found < capacity:
            raise DataLoss(f"segment {number} has {found} bytes; {capacity} were announced")
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError:
            seals = fcntl.F_SEAL_SEAL
        # A file that had a name takes no seals; its maker, of the same user, is trusted not to cut it.
        if not seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL):
            raise DataLoss(f"segment {number} could shrink while it is read: it has not the seal against that")
    except BaseException:
        os.close(descriptor)
        raise
    # Lent on from here it needs a number of this process: that of its maker may be one of ours as well.
    return Memory(capacity, descriptor, True, True, next(_numbers))


def empty(shape: int | tuple[int, ...], dtype: Any = np.float32, order: str = "C") -> Array:
    """Return a new array in a segment: it can be handed to other processes of this host without a copy.

    Parameters
    ----------
    shape : int or tuple of int
    dtype : dtype
        Without objects.
    order : {'C', 'F'}

    Raises
    ------
    ResourceExhausted
        There is no memory for it.
    """
    kind = np.dtype(dtype)
    if kind.hasobject:
        raise TypeError(f"an array of {kind} holds references, which mean nothing to another process")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    count = 1
    for size in sizes:
        if size < 0:
            raise ValueError(f"shape {sizes} has a negative dimension")
        count *= size
    buffer = pool().take(count * kind.itemsize)
    return np.ndarray(sizes, kind, memoryview(buffer), order="F" if order == "F" else "C")


def block_of(array: Array) -> Buffer | None:
    """Return the segment that is the very block of an array which a step has made; None when it lies elsewhere.

    Whoever holds the array, or a view of it, keeps its owner from changing it in place.
    """
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    address = array.ctypes.data
    if owner.base is not None or owner.ctypes.data != address:
        return None
    return shared_arrays.buffer_at(address)


def buffer_of(array: Array) -> Buffer | None:
    """Return the segment that an array fills from its first byte on; None when it lies elsewhere or deeper within."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, Buffer) or owner.memory.descriptor < 0 or array.ctypes.data != owner.memory.address:
        return None
    return owner
