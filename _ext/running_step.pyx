"""Which step a thread works for, what the arrays of steps hold, and whose turn it is among steps that run long.

Every array that is made while a thread works for a step is counted with it, those inside of kernels too: numpy asks
for memory through a handler (`array_memory.h`). An array counts until it is freed, also when it has become the value of
a variable or an answer meanwhile. Not counted: blocks below 4096 bytes, the bytes of strings, memory of other devices.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF, Py_XDECREF

cimport numpy as cnp

from runtime._ext.errors import ResourceExhausted

cnp.import_array()

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMem_Handler:
        pass
    object PyDataMem_GetHandler()
    object PyDataMem_SetHandler(object handler)

cdef extern from "array_memory.h" nogil:
    """
    #define TRT_CURRENT trt_current_step
    #define TRT_ALL_HELD trt_memory.held
    #define TRT_ALL_LIMIT trt_memory.limit
    #define TRT_SOURCE trt_memory.inner
    """
    enum:
        TRT_COUNTED_BYTES
    trt_step *TRT_CURRENT
    int64_t TRT_ALL_HELD
    int64_t TRT_ALL_LIMIT
    PyDataMem_Handler *TRT_SOURCE
    trt_step *trt_new_step(int64_t limit)
    void trt_release_step(trt_step *step)
    bint trt_admit(trt_step *step, size_t bytes)
    object trt_make_handler()

cdef extern from "turns.h" nogil:
    int64_t trt_now_ns()
    void trt_wait_for_turn(trt_step *step, int64_t slice_ns)
    void trt_begin_slice(const trt_step *step, int64_t now_ns)
    void trt_end_turn(trt_step *step)
    int trt_turns_watch_forks()

cdef extern from "spare_arrays.h":
    void trt_begin_spares(trt_spares *spares)

cdef enum:
    # A thread that waits for the interpreter's lock asks for it after 5 ms without a release; only then is it sure to get
    # it. Releasing more often would wake it each time, too late to be first, and never let it ask.
    SLICE_NS = 7000000
    LOOK_NS = 1000000
    LEAST_WORK = 16
    MOST_WORK = 4096

COUNTED_BYTES = TRT_COUNTED_BYTES
"""Smaller blocks are not counted."""

cdef object _handler = trt_make_handler()
cdef object _source = None

if trt_turns_watch_forks():
    raise MemoryError("no memory to watch for forks")


cdef trt_spares _spares
trt_begin_spares(&_spares)


cdef trt_spares *spare_arrays() noexcept nogil:
    return &_spares


cdef trt_step *new_step(int64_t limit) except NULL:
    cdef trt_step *step = trt_new_step(limit)
    if step == NULL:
        raise MemoryError()
    return step


cdef void release_step(trt_step *step) noexcept:
    if step != NULL:
        trt_release_step(step)


cdef trt_step *current_step() noexcept nogil:
    return TRT_CURRENT


cdef const int *stop_flag() noexcept nogil:
    return NULL if TRT_CURRENT == NULL else &TRT_CURRENT.cancelled


cdef Former enter_step(trt_step *step) except *:
    cdef Former former
    cdef object found = PyDataMem_GetHandler()
    former.handler = NULL
    if found is not _handler:
        PyDataMem_SetHandler(_handler)
        Py_INCREF(found)
        former.handler = <void *>found
    former.step = TRT_CURRENT
    global TRT_CURRENT
    TRT_CURRENT = step
    return former


cdef int leave_step(Former former) except -1:
    global TRT_CURRENT
    if TRT_CURRENT != former.step and TRT_CURRENT.lease >= 0:
        trt_end_turn(TRT_CURRENT)
    TRT_CURRENT = former.step
    if former.handler != NULL:
        handler = <object>former.handler
        Py_XDECREF(<PyObject *>former.handler)
        PyDataMem_SetHandler(handler)
    return 0


cdef int take_turn(trt_step *step) except -1:
    cdef int64_t now_ns = trt_now_ns()
    cdef int64_t since_ns = now_ns - step.looked_ns
    if step.looked_ns == 0:
        step.slice_ns = now_ns
    elif since_ns < LOOK_NS // 2:
        step.work_at_once = min(2 * step.work_at_once, MOST_WORK)
    elif since_ns > 2 * LOOK_NS:
        step.work_at_once = max(<int>(step.work_at_once * LOOK_NS // since_ns), LEAST_WORK)
    step.work_left = step.work_at_once
    step.looked_ns = now_ns
    if now_ns - step.slice_ns < SLICE_NS or step.cancelled or not step.waits_for_turns:
        return 0
    PyErr_CheckSignals()
    with nogil:
        trt_wait_for_turn(step, SLICE_NS)
    step.slice_ns = step.looked_ns = trt_now_ns()
    trt_begin_slice(step, step.slice_ns)
    return 0


cdef object memory_error(trt_step *step, str op):
    if step.refused == 0:
        return None
    cdef int64_t wanted = step.refused
    step.refused = 0
    if step.refused_by_all:
        return ResourceExhausted(
            f"OOM when {op} asked for {wanted} bytes: the arrays of all steps hold {step.refused_at} bytes, the limit "
            f"for all of them together is {TRT_ALL_LIMIT} bytes")
    return ResourceExhausted(
        f"OOM when {op} asked for {wanted} bytes: the arrays of the step hold {step.refused_at} bytes, "
        f"step_memory_limit is {step.limit} bytes")


def stopped():
    """Tell whether the step that this thread works for is cancelled: what a kernel makes is then not used.

    For kernels that work long, between pieces of their work.
    """
    return TRT_CURRENT != NULL and TRT_CURRENT.cancelled != 0


def claim(nbytes):
    """Check that the step of this thread may have so many bytes more; for kernels that would else work long first.

    Raises
    ------
    MemoryError
        If it may not, or no memory has so many. The executor tells the client as RESOURCE_EXHAUSTED.
    """
    if nbytes >= 1 << 62:
        if TRT_CURRENT != NULL:
            trt_admit(TRT_CURRENT, <size_t>1 << 62)
        raise MemoryError(f"{nbytes} bytes are more than any memory holds")
    if TRT_CURRENT != NULL and not trt_admit(TRT_CURRENT, nbytes):
        raise MemoryError(f"{nbytes} bytes are more than the step may have")


def install_here():
    """Have numpy ask for memory through the handler in this context and in those that are copied from it.

    Steps do so by themselves; in a thread that runs many, each is then spared of it.
    """
    if PyDataMem_GetHandler() is not _handler:
        PyDataMem_SetHandler(_handler)


def set_source(handler):
    """Have the blocks of arrays come from another one of numpy's handlers than its default.

    Parameters
    ----------
    handler : capsule
        As numpy takes it. Blocks that came from the default are given back to it.
    """
    global _source, TRT_SOURCE
    TRT_SOURCE = <PyDataMem_Handler *>PyCapsule_GetPointer(handler, "mem_handler")
    _source = handler


def held_bytes():
    """Return what the arrays of all steps hold now, in bytes."""
    return TRT_ALL_HELD


def set_limit(int64_t limit):
    """Set how many bytes the arrays of all steps that have a limit may hold together; 0 for no limit.

    Raises
    ------
    ValueError
        If `limit` is negative.
    """
    global TRT_ALL_LIMIT
    if limit < 0:
        raise ValueError(f"limit is {limit}; it must be 0 (none) or more bytes")
    TRT_ALL_LIMIT = limit


@cython.final
cdef class MemoryBound:
    """Bounds what the arrays hold that are made inside of a ``with`` block, in the same thread, outside of steps.

    Parameters
    ----------
    limit : int
        Bytes; 0 for no limit. An allocation that would exceed it raises MemoryError.

    Attributes
    ----------
    held, peak : int
        Bytes that the arrays hold now, and the most that they held.
    refused : bool
        Whether an allocation was refused, and `refusal` was not asked about it yet.
    """
    cdef trt_step *_step
    cdef Former _former
    cdef bint _entered

    def __cinit__(self, int64_t limit):
        if limit < 0:
            raise ValueError(f"limit is {limit}; it must be 0 (none) or more bytes")
        self._step = new_step(limit)

    def __dealloc__(self):
        release_step(self._step)

    def __enter__(self):
        if self._entered:
            raise ValueError("a MemoryBound is entered a second time")
        self._entered = True
        self._former = enter_step(self._step)
        return self

    def __exit__(self, *exc_info):
        self._entered = False
        leave_step(self._former)

    @property
    def held(self):
        return self._step.held

    @property
    def peak(self):
        return self._step.peak

    @property
    def refused(self):
        return self._step.refused != 0

    def refusal(self, str what):
        """Return the error for the last allocation that was refused; None when none was.

        Parameters
        ----------
        what : str
            Who asked for the memory.
        """
        return memory_error(self._step, what)
