"""Buffers for tensors: large, used again, and given back when the last view of them dies.

The first touch of a page costs ten times what copying it costs, so memory is taken from the kernel in advance, in huge
pages where it has them, and kept for the next tensor of about its size. Every byte has an owner: a `Memory` is mapped
as long as anything refers to it, a `Buffer` is the right to use one, and numpy arrays, memoryviews and whatever was
made of these by DLPack hold the `Buffer`. When the last of them dies, the memory goes back to its pool, whichever
thread that happens in.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE
from cpython.exc cimport PyErr_WriteUnraisable
from libc.errno cimport EINVAL, ENOMEM, errno
from libc.stdint cimport uintptr_t

import os
import time

from runtime._ext.errors import InvalidArgument, ResourceExhausted

cdef extern from "sys/mman.h" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int descriptor, long offset)
    int munmap(void* address, size_t length)
    int madvise(void* address, size_t length, int advice)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_SHARED, MAP_ANONYMOUS
    void* MAP_FAILED

cdef extern from "unistd.h" nogil:
    int close(int descriptor)

cdef enum:
    MADV_HUGEPAGE = 14
    MADV_POPULATE_READ = 22
    MADV_POPULATE_WRITE = 23
    PAGE = 4096
    HUGE_PAGE = 2 << 20

cdef char* _BYTES = b"B"

MIN_CAPACITY = 64 << 10
"""What the smallest memory of a pool has: below it the allocator of the process does as well."""


cdef inline Py_ssize_t _round_up(Py_ssize_t size, Py_ssize_t unit) noexcept nogil:
    return (size + unit - 1) // unit * unit


def capacity_for(Py_ssize_t nbytes):
    """Return the capacity that a pool gives to a buffer of so many bytes: a quarter more at most, so that it is used
    again."""
    cdef Py_ssize_t unit = MIN_CAPACITY // 4
    if nbytes < 0 or nbytes > <Py_ssize_t>1 << 60:
        raise InvalidArgument(f"a buffer of {nbytes} bytes cannot be had")
    while unit * 8 < nbytes:  # a quarter of the largest power of two below it
        unit *= 2
    return max(_round_up(nbytes, max(unit, PAGE)), <Py_ssize_t>MIN_CAPACITY)


cdef int _populate(void* at, size_t size, bint for_writing) noexcept nogil:
    """Have the pages there before they are used; returns 0, or the error number."""
    cdef volatile char* byte
    cdef size_t offset
    cdef char touched
    if madvise(at, size, MADV_POPULATE_WRITE if for_writing else MADV_POPULATE_READ) == 0:
        return 0
    if errno != EINVAL:
        return errno
    # A kernel before 5.14: touch every page, without changing what others may have written.
    offset = 0
    while offset < size:
        byte = <volatile char*>at + offset
        touched = byte[0]
        if for_writing:
            byte[0] = touched
        offset += PAGE
    return 0


@cython.final
@cython.no_gc_clear
cdef class Memory:
    """A mapping, there as long as anything refers to it.

    Parameters
    ----------
    capacity : int
        Bytes, at least 1.
    descriptor : int
        Of a file to map, shared with whoever else maps it; the mapping owns it and closes it. -1 for memory of this
        process alone.
    is_writable : bool
    populate : bool
        Have every page there at once. Those of a file are only made known to this process, when it was used already.
    name : object
        Whatever the owner calls it.

    Raises
    ------
    ResourceExhausted
        The system has not so much.

    Notes
    -----
    The GIL is released while pages are made.
    """

    def __cinit__(self, Py_ssize_t capacity, int descriptor=-1, bint is_writable=True, bint populate=True, name=None):
        cdef void* at
        cdef size_t size
        cdef int protection = PROT_READ | (PROT_WRITE if is_writable else 0)
        cdef int failed = 0
        cdef uintptr_t aligned
        self._mapping = NULL
        self.descriptor = descriptor
        self.name = name
        self.is_writable = is_writable
        if capacity < 1:
            raise InvalidArgument(f"a mapping of {capacity} bytes cannot be had")
        self.capacity = capacity
        size = _round_up(capacity, PAGE)
        with nogil:
            if descriptor >= 0:
                at = mmap(NULL, size, protection, MAP_SHARED, descriptor, 0)
            else:
                if size >= HUGE_PAGE:
                    size += HUGE_PAGE  # so that huge pages begin where the data begins
                at = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            if at == MAP_FAILED:
                failed = errno
            else:
                self._mapping = at
                self._mapped = size
                self.data = <char*>at
                if descriptor < 0 and size > HUGE_PAGE:
                    aligned = (<uintptr_t>at + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
                    self.data = <char*>aligned
                # Where the kernel has none, pages stay small.
                madvise(self.data, _round_up(capacity, PAGE), MADV_HUGEPAGE)
                if populate:
                    failed = _populate(self.data, _round_up(capacity, PAGE), is_writable)
        if failed:
            raise ResourceExhausted(f"no memory for {capacity} bytes: {os.strerror(failed)}")

    def __dealloc__(self):
        if self._mapping != NULL:
            munmap(self._mapping, self._mapped)
        if self.descriptor >= 0:
            close(self.descriptor)

    @property
    def address(self):
        """Return where it begins."""
        return <uintptr_t>self.data


@cython.final
@cython.no_gc_clear
cdef class Buffer:
    """The right to use a memory, until the last view of it dies.

    Parameters
    ----------
    memory : Memory
    nbytes : int
        How much of it, from its beginning.
    is_writable : bool
        Whether views may be.
    release : callable, optional
        ``release(memory)``, called once, when nothing refers to this any more; from any thread. It must not raise.

    Notes
    -----
    Supports the buffer protocol: ``numpy.frombuffer``, ``memoryview`` and what is made of them keep it.
    """

    def __cinit__(self, Memory memory not None, Py_ssize_t nbytes, bint is_writable=True, release=None):
        if not 0 <= nbytes <= memory.capacity:
            raise InvalidArgument(f"a buffer of {nbytes} bytes does not fit in a memory of {memory.capacity}")
        self.memory = memory
        self.nbytes = nbytes
        self.is_writable = is_writable and memory.is_writable
        self._release = release
        self._shape[0] = nbytes
        self._strides[0] = 1

    def __dealloc__(self):
        release, self._release = self._release, None
        if release is not None:
            try:
                release(self.memory)
            except BaseException:
                PyErr_WriteUnraisable(release)

    def __len__(self):
        return self.nbytes

    def __getbuffer__(self, Py_buffer* view, int flags):
        if flags & PyBUF_WRITABLE and not self.is_writable:
            raise BufferError("this buffer is read-only")
        view.buf = self.memory.data
        view.obj = self
        view.len = self.nbytes
        view.itemsize = 1
        view.readonly = not self.is_writable
        view.format = _BYTES if flags & PyBUF_FORMAT else NULL
        view.ndim = 1
        view.shape = self._shape if flags & PyBUF_ND else NULL
        view.strides = self._strides if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL


@cython.final
cdef class BufferPool:
    """Memory that is kept for the next buffer.

    Parameters
    ----------
    limit_bytes : int
        What the pool may hold, lent out and idle together.
    make : callable, optional
        ``make(capacity) -> Memory``; memory of this process alone when left out.

    Attributes
    ----------
    limit_bytes : int
    lent_bytes, idle_bytes : int
        Capacity that is in use, and that waits to be.
    num_lent, num_made, num_reused, num_trimmed : int
        Buffers in use; memories that were made, lent again, given back to the system.

    Notes
    -----
    Safe from several threads.
    """
    cdef readonly Py_ssize_t limit_bytes
    cdef readonly Py_ssize_t lent_bytes
    cdef readonly Py_ssize_t idle_bytes
    cdef readonly Py_ssize_t num_lent
    cdef readonly Py_ssize_t num_made
    cdef readonly Py_ssize_t num_reused
    cdef readonly Py_ssize_t num_trimmed
    cdef object _make
    cdef dict _idle             # capacity to list of Memory, the longest idle first
    cdef object __weakref__

    def __init__(self, Py_ssize_t limit_bytes, make=None):
        if limit_bytes < 0:
            raise InvalidArgument(f"limit_bytes is {limit_bytes}; it must not be negative")
        self.limit_bytes = limit_bytes
        self._make = Memory if make is None else make
        self._idle = {}

    def take(self, Py_ssize_t nbytes):
        """Return a buffer of so many bytes; what they hold is not said.

        Raises
        ------
        ResourceExhausted
            The pool has not so much left, or the system.
        """
        cdef Py_ssize_t capacity = capacity_for(nbytes)
        cdef list idle
        cdef Memory memory
        # Between these lines no other thread runs: nothing is called that lets go of the interpreter.
        idle = self._idle.get(capacity)
        if idle:
            memory = idle.pop()
            self.idle_bytes -= memory.capacity
            self.num_reused += 1
            self._lend(memory)
            return Buffer(memory, nbytes, True, self._give_back)
        if self.lent_bytes + capacity > self.limit_bytes:
            raise ResourceExhausted(f"a buffer of {nbytes} bytes does not fit: {self.lent_bytes} bytes are in use, "
                                    f"and the limit of the pool is {self.limit_bytes}")
        if self.lent_bytes + self.idle_bytes + capacity > self.limit_bytes:
            self._make_room(capacity)
        self.lent_bytes += capacity  # counted before it is made: others may come meanwhile
        try:
            memory = self._make(capacity)
        except BaseException:
            self.lent_bytes -= capacity
            raise
        self.lent_bytes -= capacity
        self.num_made += 1
        self._lend(memory)
        return Buffer(memory, nbytes, True, self._give_back)

    cdef int _lend(self, Memory memory) except -1:
        self.lent_bytes += memory.capacity
        self.num_lent += 1
        return 0

    def _give_back(self, Memory memory not None):
        self.lent_bytes -= memory.capacity
        self.num_lent -= 1
        if self.lent_bytes + self.idle_bytes + memory.capacity > self.limit_bytes:
            self.num_trimmed += 1
            return
        memory.idle_since = time.monotonic()
        self._idle.setdefault(memory.capacity, []).append(memory)
        self.idle_bytes += memory.capacity

    cdef int _make_room(self, Py_ssize_t capacity) except -1:
        """Give idle memory back, the longest idle first, until a new one of `capacity` fits."""
        cdef Memory memory
        while self.idle_bytes and self.lent_bytes + self.idle_bytes + capacity > self.limit_bytes:
            # A list, for arrays that die meanwhile come back to the dict.
            oldest = min([memories for memories in list(self._idle.values()) if memories], key=_idle_since)
            memory = oldest.pop(0)
            self.idle_bytes -= memory.capacity
            self.num_trimmed += 1
        return 0

    def trim(self, double idle_s=0.0):
        """Give memory back to the system that was idle for so many seconds.

        Returns
        -------
        list of object
            The names of what was given back.
        """
        cdef Memory memory
        cdef double before = time.monotonic() - idle_s
        names = []
        for capacity in list(self._idle):
            memories = self._idle.get(capacity, [])
            while memories and memories[0].idle_since <= before:
                memory = memories.pop(0)
                self.idle_bytes -= memory.capacity
                self.num_trimmed += 1
                names.append(memory.name)
        return names


def _idle_since(list memories):
    return memories[0].idle_since
