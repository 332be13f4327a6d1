"""Which step a thread works for, and what the arrays of steps hold.

Every array that is made while a thread works for a step is counted with it, those inside of kernels too: numpy asks
for memory through a handler (`array_memory.h`). An array counts until it is freed, also when it has become the value of
a variable or an answer meanwhile. Not counted: blocks below 4096 bytes, the bytes of strings, memory of other devices.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

cimport numpy as cnp

from runtime._ext.errors import ResourceExhausted

cnp.import_array()

cdef extern from "Python.h":
    void *PyCapsule_GetPointer(object capsule, const char *name)

cdef extern from "numpy/arrayobject.h":
    object PyDataMem_GetHandler()
    object PyDataMem_SetHandler(object handler)

cdef extern from "array_memory.h" nogil:
    """
    #define TRT_CURRENT trt_current_step
    #define TRT_ALL_HELD trt_memory.held
    #define TRT_ALL_LIMIT trt_memory.limit
    """
    enum:
        TRT_COUNTED_BYTES
    trt_step *TRT_CURRENT
    int64_t TRT_ALL_HELD
    int64_t TRT_ALL_LIMIT
    trt_step *trt_new_step(int64_t limit)
    void trt_release_step(trt_step *step)
    object trt_make_handler()

COUNTED_BYTES = TRT_COUNTED_BYTES
"""Smaller blocks are not counted."""

cdef object _handler = trt_make_handler()


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
    TRT_CURRENT = former.step
    if former.handler != NULL:
        handler = <object>former.handler
        Py_XDECREF(<PyObject *>former.handler)
        PyDataMem_SetHandler(handler)
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


def install_here():
    """Have numpy ask for memory through the handler in this context and in those that are copied from it.

    Steps do so by themselves; in a thread that runs many, each is then spared of it.
    """
    if PyDataMem_GetHandler() is not _handler:
        PyDataMem_SetHandler(_handler)


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

    def refusal(self, str what):
        """Return the error for the last allocation that was refused; None when none was.

        Parameters
        ----------
        what : str
            Who asked for the memory.
        """
        return memory_error(self._step, what)
