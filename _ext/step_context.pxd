"""One running step as executors and kernels see it, and the record of a traced one."""

cimport cython
from cpython.object cimport PyObject

from runtime._ext.running_step cimport trt_step


@cython.final
cdef class StepTrace:
    cdef readonly list events
    cdef readonly long long dropped

    cdef int add(self, str path, object node, object scheduled_ns, object started_ns, object ended_ns,
                 list outputs) except -1


@cython.final
cdef class StepContext:
    cdef readonly object step_id
    cdef readonly object state
    cdef readonly StepTrace trace
    cdef readonly double started       # on the clock of time.monotonic
    cdef readonly object error         # why the step was cancelled; None while it was not
    cdef readonly bint cancelled       # polled by executors before every node
    cdef trt_step *shared              # what kernels see of the step without the GIL, and its memory
    cdef public object exchange        # where tensors from and to other tasks pass; None in a step without such
    cdef public object selection       # what runs, for those who look at the step
    cdef public bint wants_graphs      # whether the graphs that ran are to be told
    cdef public object hand_over       # hand_over(callable) runs it in another thread; None: run it where one stands
    cdef object _resources
    cdef dict _callbacks               # token -> callable or (callable, waits_for, since, node); None once over
    cdef object _lock                  # guards the two fields above and the change of `cancelled`
    cdef unsigned long long _last_token


# The node whose asynchronous kernel this thread calls just now: a borrowed str, or NULL. Returns the one before.
cdef PyObject *call_for_node(PyObject *name) noexcept
