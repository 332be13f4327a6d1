"""Giving other Python threads their turn from compiled loops that hold the interpreter's lock for long."""

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from "Python.h":
    int PyErr_CheckSignals() except -1

cdef enum:
    # A thread that waits for the interpreter's lock asks for it after 5 ms without a release; only then is it sure to get
    # it. Releasing more often would wake it each time, too late to be first, and never let it ask.
    TURN_NS = 7000000


cdef inline int give_turn(long long *last_ns) except -1:
    """Release the lock for those who wait, once every few milliseconds; `last_ns` begins as 0."""
    cdef timespec now
    cdef long long now_ns
    clock_gettime(CLOCK_MONOTONIC, &now)
    now_ns = <long long>now.tv_sec * 1000000000 + now.tv_nsec
    if last_ns[0] == 0:
        last_ns[0] = now_ns
        return 0
    if now_ns - last_ns[0] < TURN_NS:
        return 0
    last_ns[0] = now_ns
    PyErr_CheckSignals()
    with nogil:
        pass
    return 0
