"""Python definitions whose calls may take long: what they cost, and how they are called apart from the step's thread."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from runtime._ext.step_context cimport StepContext


cdef enum:
    COST_LINEAR = 0           # about as long as the inputs are
    COST_BROADCAST = 1        # as what they broadcast to
    COST_PRODUCT = 2          # products and decompositions of matrices: bytes to the power of 1.5


cdef struct trt_pace:
    double ns_per_unit        # of work, as calls have shown
    uint64_t counts           # bit i: input i has counts that say how much is made
    int cost                  # one of COST_...
    double least              # less work than this is not looked at any further


# What a call works on, in units of its cost, from the bytes of its inputs (borrowed).
cdef double work_of(const trt_pace *pace, PyObject **inputs, int num_inputs) noexcept

# Call it: here when its work is known to be short, else in a thread of its own, which the step leaves when it is
# cancelled.
cdef object call_watched(trt_pace *pace, double work, object call, str name, StepContext step, PyObject **inputs,
                         int num_inputs)
