"""Runs of a dataflow step: frames, iterations, dead values, kernels that complete later."""

cimport cython
from cpython.object cimport PyObject

from runtime._ext.dataflow_delivery cimport Delivery
from runtime._ext.dataflow_frames cimport Iteration
from runtime._ext.dataflow_plan cimport DataflowPlan, NodePlan
from runtime._ext.step_context cimport StepContext


@cython.final
cdef class DataflowRun(Delivery):
    cdef StepContext step
    cdef object _feeds        # keeps what the caller fed
    cdef object _done         # done(outputs, error)
    cdef object _error
    cdef list _inbox          # (Completion or feed number, result, error)
    cdef list _waiters        # partial runs: (fetch numbers, done)
    cdef char *_feed_states   # 0 missing, 1 given
    cdef PyObject **_inputs   # scratch, behind its headroom
    cdef PyObject **_scratch
    cdef int _waiting_kernels
    cdef int _missing_feeds
    cdef bint _driving
    cdef bint _asked          # partial: a call or a cancellation came while it was driven
    cdef bint _finished
    cdef bint _keep_going     # partial: does not finish before finish() was called
    cdef object _cancel_token

    cdef int _start(self) except -1
    cdef int _drive(self) except -1
    cdef int _drive_on(self) except -1
    cdef int _step_through(self) except -1
    cdef int _accept_inbox(self) except -1
    cdef int _process(self, int index, bint is_dead, Iteration *iteration) except -1
    cdef int _run_node(self, NodePlan *node, int index, Iteration *iteration) except -1
    cdef int _start_async(self, NodePlan *node, int index, Iteration *iteration) except -1
    cdef int _start_transfer(self, NodePlan *node, int index, bint is_dead, Iteration *iteration) except -1
    cdef int _fail(self, object error) except -1
    cdef list _outputs_or_raise(self, fetches)
    cdef int _answer_waiters(self) except -1
    cdef bint _has(self, tuple fetches) noexcept
    cdef int _finish(self) except -1
    cdef int _record(self, NodePlan *node, int index, object scheduled, object started) except -1


@cython.final
cdef class Completion:
    cdef DataflowRun run
    cdef int node
    cdef Iteration *iteration
    cdef bint called
    cdef object started       # time, when traced


cdef class Dataflow(DataflowPlan):
    # Takes the place of this one in a traced step: a Dataflow, or a function that makes it on first use.
    cdef public object traced

    cdef Dataflow _for_trace(self)
    cdef DataflowRun _new_run(self, StepContext step, feeds, bint check)
