"""Values, frames and iterations of a run."""

from cpython.object cimport PyObject

from runtime._ext.dataflow_frames cimport FrameStore, Iteration, LiveFrame
from runtime._ext.dataflow_plan cimport DataflowPlan, NodePlan


cdef struct Ready:
    int node
    bint is_dead
    Iteration *iteration


cdef class Delivery:
    cdef DataflowPlan plan
    cdef FrameStore _store
    cdef Ready *_queue        # ring
    cdef unsigned int _head, _tail, _mask
    cdef Iteration *_root
    cdef PyObject **_outputs  # scratch

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
