"""Runs of a dataflow step: frames, iterations, dead values, kernels that complete later."""

cimport cython
from cpython.object cimport PyObject

from runtime._ext.dataflow_frames cimport FrameStore, Iteration, LiveFrame
from runtime._ext.dataflow_plan cimport DataflowPlan, NodePlan
from runtime._ext.step_context cimport StepContext


cdef struct Ready:
    int node
    bint is_dead
    Iteration *iteration


@cython.final
cdef class DataflowRun:
    cdef DataflowPlan plan
    cdef StepContext step
    cdef object _feeds        # keeps what the caller fed
    cdef object _done         # done(outputs, error)
    cdef object _error
    cdef list _inbox          # (Completion or feed number, result, error)
    cdef list _waiters        # partial runs: (fetch numbers, done)
    cdef FrameStore _store
    cdef char *_feed_states   # 0 missing, 1 given
    cdef Ready *_queue        # ring
    cdef unsigned int _head, _tail, _mask
    cdef Iteration *_root
    cdef PyObject **_inputs   # scratch, behind its headroom
    cdef PyObject **_outputs
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
    cdef PyObject *_take(self, NodePlan *node, Iteration *iteration, int position) except NULL
    cdef void _release_inputs(self, NodePlan *node, Iteration *iteration) noexcept
    cdef int _complete(self, int index, Iteration *iteration, bint is_dead) except -1
    cdef int _propagate(self, NodePlan *node, int index, Iteration *iteration, PyObject **outputs,
                        bint is_dead) except -1
    cdef int _deliver_all(self, NodePlan *node, Iteration *target, PyObject **outputs, bint is_dead) except -1
    cdef int _push(self, int index, bint is_dead, Iteration *iteration) except -1
    cdef LiveFrame *_child(self, NodePlan *node, Iteration *iteration) except NULL
    cdef Iteration *_next_iteration(self, LiveFrame *frame) except NULL
    cdef int _clean_up(self, Iteration *iteration) except -1
    cdef int _close_frame(self, LiveFrame *frame) except -1
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
