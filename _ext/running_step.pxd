"""The step that the calling thread works for: whether it is cancelled, and how much memory its arrays hold."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

cdef extern from "running_step.h" nogil:
    ctypedef struct trt_step:
        int cancelled
        int64_t held
        int64_t peak
        int64_t limit
        int64_t refused
        int64_t refused_at
        int refused_by_all
        int64_t worked
        int work_left
        int work_at_once
        int64_t looked_ns
        int64_t slice_ns
        int lease
        bint waits_for_turns

cdef extern from "spare_arrays.h":
    ctypedef struct trt_spares:
        pass
    # Give up a reference, NULL for none; a small array stays for the next kernel that makes one like it.
    void trt_let_go(trt_spares *spares, PyObject *value) noexcept

cdef trt_spares *spare_arrays() noexcept nogil

# What a thread had before `enter_step`, for `leave_step`.
cdef struct Former:
    trt_step *step
    void *handler             # a reference, when numpy had another one

cdef trt_step *new_step(int64_t limit) except NULL
cdef void release_step(trt_step *step) noexcept

# The step that this thread works for, NULL for none.
cdef trt_step *current_step() noexcept nogil

# What is not 0 any more once that step is cancelled; NULL for no step.
cdef const int *stop_flag() noexcept nogil

# Have this thread work for a step, until `leave_step` is called with what this gave. The step is kept by the caller.
cdef Former enter_step(trt_step *step) except *
cdef int leave_step(Former former) except -1

# The error for a block that the step was refused; None when none was. Forgets it.
cdef object memory_error(trt_step *step, str op)

# Look whether others shall have the interpreter's lock, and wait until this step may go on. Ends no step: after a
# cancellation it returns at once.
cdef int take_turn(trt_step *step) except -1


# Count some work of a step, in nodes: compiled loops do not pass through the interpreter, which is where a thread lets
# others have the lock.
cdef inline int count_work(trt_step *step, int work) except -1:
    step.worked += work
    step.work_left -= work
    return take_turn(step) if step.work_left <= 0 else 0
