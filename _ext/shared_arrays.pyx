"""Large arrays in memory that other processes can map: numpy takes their blocks from shared segments.

A task of a cluster hands tensors to the tasks beside it. One whose bytes lie in a segment from the start is handed over
as a reference, without a copy. To numpy and to every kernel such an array is like any other: it owns its data, and its
block goes back to the pool when it dies. Where the pool has no memory left, numpy's own serves.

Blocks come and go under the interpreter's lock, as all memory of numpy does.
"""

from cpython.exc cimport PyErr_Fetch, PyErr_Restore
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memcpy, memset, strcpy

cimport numpy as cnp

from runtime._ext.buffer_pool cimport Buffer

from runtime._ext import running_step
from runtime._ext.errors import InvalidArgument

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept
        void *(*calloc)(void *ctx, size_t nelem, size_t elsize) noexcept
        void *(*realloc)(void *ctx, void *ptr, size_t new_size) noexcept
        void (*free)(void *ctx, void *ptr, size_t size) noexcept
    ctypedef struct PyDataMem_Handler:
        char name[127]
        uint8_t version
        PyDataMemAllocator allocator
    PyObject *PyDataMem_DefaultHandler

cdef enum:
    PAGE = 4096  # every segment begins with one, and hardly any block of another origin does

# A fresh segment costs a system call or three, and is lent as a whole: smaller blocks are not worth it.
LEAST_BYTES = 64 << 10

cdef PyDataMem_Handler _handler
cdef PyDataMemAllocator *_plain = &(<PyDataMem_Handler *>PyCapsule_GetPointer(
    <object>PyDataMem_DefaultHandler, "mem_handler")).allocator
cdef dict _blocks = {}  # address to Buffer
cdef object _take = None
cdef size_t _least_bytes = 0


cdef void *_block(size_t size) noexcept:
    """Return a block of a segment; NULL when numpy's own memory must do.

    numpy takes no exception from here: one of another kind is reported as unraisable, and that memory must do, too.
    """
    cdef Buffer buffer
    try:
        buffer = _take(size)
        _blocks[<uintptr_t>buffer.memory.data] = buffer
    except (MemoryError, InvalidArgument):  # the pool has no more, as ResourceExhausted says, or never has so much
        return NULL
    return buffer.memory.data


cdef inline bint _may_be_shared(void *block) noexcept:
    return block != NULL and <uintptr_t>block % PAGE == 0 and len(_blocks) != 0


cdef void *_malloc(void *unused, size_t size) noexcept:
    cdef void *block = NULL
    if size >= _least_bytes:
        block = _block(size)
    return _plain.malloc(_plain.ctx, size) if block == NULL else block


cdef void *_calloc(void *unused, size_t count, size_t each) noexcept:
    cdef void *block = NULL
    if each and count <= (<size_t>-1) // each and count * each >= _least_bytes:
        block = _block(count * each)
    if block == NULL:
        return _plain.calloc(_plain.ctx, count, each)
    memset(block, 0, count * each)
    return block


cdef void *_realloc(void *unused, void *former, size_t size) noexcept:
    cdef Buffer buffer = None
    cdef void *block
    if _may_be_shared(former):
        buffer = <Buffer>_blocks.get(<uintptr_t>former)
    if buffer is None:
        return _plain.realloc(_plain.ctx, former, size)
    block = _malloc(NULL, size)
    if block != NULL:
        memcpy(block, former, min(size, <size_t>buffer.nbytes))
        del _blocks[<uintptr_t>former]
    return block


cdef void _free(void *unused, void *block, size_t size) noexcept:
    cdef PyObject *kind
    cdef PyObject *error
    cdef PyObject *trace
    cdef bint is_shared
    if _may_be_shared(block):
        PyErr_Fetch(&kind, &error, &trace)  # arrays die on the way of an exception, too
        is_shared = _blocks.pop(<uintptr_t>block, None) is not None
        PyErr_Restore(kind, error, trace)
        if is_shared:
            return
    _plain.free(_plain.ctx, block, size)


def install(take, Py_ssize_t least_bytes):
    """Have the arrays that steps make from now on lie in shared memory, if they are large.

    Parameters
    ----------
    take : callable
        ``take(nbytes) -> Buffer``, of a memory that begins where the buffer does. May raise MemoryError, of which
        ResourceExhausted is one. It may let other threads run.
    least_bytes : int
        What a large array has, at least `LEAST_BYTES`.

    Notes
    -----
    For the whole process, and for good: arrays may outlive whoever asked for them. A child that is forked shares the
    arrays with its parent, so this is for processes that do not go on with steps in a child.

    Raises
    ------
    InvalidArgument
        `least_bytes` is less.
    """
    global _take, _least_bytes
    if least_bytes < LEAST_BYTES:
        raise InvalidArgument(f"least_bytes is {least_bytes}; it must be at least {LEAST_BYTES}")
    _take = take
    _least_bytes = <size_t>least_bytes
    if _handler.version == 0:
        strcpy(_handler.name, "tensor_runtime_shared")
        _handler.version = 1
        _handler.allocator.malloc = _malloc
        _handler.allocator.calloc = _calloc
        _handler.allocator.realloc = _realloc
        _handler.allocator.free = _free
        running_step.set_source(PyCapsule_New(&_handler, "mem_handler", NULL))


def uninstall():
    """Have further arrays lie in numpy's own memory again; those that are there stay where they are. For tests."""
    global _least_bytes
    _least_bytes = <size_t>-1


def buffer_at(uintptr_t address):
    """Return the buffer in which the block of an array lies that begins at an address; None where it is in no segment."""
    return _blocks.get(address)


def num_blocks():
    """Return how many arrays lie in shared memory."""
    return len(_blocks)
