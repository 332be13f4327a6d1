"""Where the values of a dataflow run go: to their consumers' cells, in this iteration, the next one or another frame.

`Delivery` holds what is ready to run and knows when iterations and frames end; `_ext/dataflow` runs the nodes.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF, Py_XINCREF

cimport numpy as cnp

from runtime._ext.dataflow_frames cimport Iteration, LiveFrame, Parked, park
from runtime._ext.dataflow_plan cimport (
    KIND_ENTER,
    KIND_EXIT,
    KIND_MERGE,
    KIND_NEXT,
    KIND_TRIGGER,
    Count,
    Edge,
    NodePlan,
)
from runtime._ext.invoke cimport dereference
from runtime._ext.running_step cimport spare_arrays, trt_let_go, trt_spares

from runtime._ext.errors import Internal

cnp.import_array()

cdef trt_spares *_SPARES = spare_arrays()


cdef class Delivery:
    """The part of a run that deals with values, frames and iterations."""

    def __dealloc__(self):
        PyMem_Free(self._queue)

    cdef PyObject *_take(self, NodePlan *node, Iteration *iteration, int position) except NULL:
        """Return an input as a new reference, moved out of its cell unless it is a constant."""
        cdef PyObject **cell = iteration.cells + node.cell + position
        cdef PyObject *value = cell[0]
        cdef PyObject *held
        if node.code.derefs != NULL and node.code.derefs[position]:
            held = value
            value = dereference(held)
            if node.constant == NULL or not node.constant[position]:
                cell[0] = NULL
                Py_XDECREF(held)
            return value
        if node.constant != NULL and node.constant[position]:
            Py_XINCREF(value)
        else:
            cell[0] = NULL
        return value

    cdef void _release_inputs(self, NodePlan *node, Iteration *iteration) noexcept:
        cdef PyObject **cells = iteration.cells + node.cell
        cdef PyObject *value
        cdef int i
        for i in range(node.num_cells):
            if node.constant == NULL or not node.constant[i]:
                value = cells[i]
                cells[i] = NULL
                trt_let_go(_SPARES, value)

    # Where values go.

    cdef int _complete(self, int index, Iteration *iteration, bint is_dead) except -1:
        """Pass on what lies in the outputs, which are empty afterwards, and close what ends with the node."""
        cdef NodePlan *node = &self.plan.nodes[index]
        cdef int i
        cdef PyObject *value
        self._propagate(node, index, iteration, self._outputs, is_dead)
        for i in range(node.code.num_outputs):
            value = self._outputs[i]
            self._outputs[i] = NULL
            trt_let_go(_SPARES, value)
        iteration.outstanding -= 1
        if iteration.outstanding == 0 and iteration != self._root:
            self._clean_up(iteration)
        return 0

    cdef int _propagate(self, NodePlan *node, int index, Iteration *iteration, PyObject **outputs,
                        bint is_dead) except -1:
        cdef int kind = node.kind
        cdef LiveFrame *frame
        cdef Iteration *target
        if kind == KIND_ENTER:
            frame = self._child(node, iteration)
            frame.pending_enters -= 1
            if node.is_loop_constant:
                park(&frame.loop_constants, index, outputs[0])
                target = frame.first
                while target != NULL:
                    self._deliver_all(node, target, outputs, is_dead)
                    target = target.next
            else:
                self._deliver_all(node, frame.first, outputs, is_dead)
            if frame.pending_enters == 0 and frame.first.outstanding == 0:  # it made nothing ready there
                self._clean_up(frame.first)
            return 0
        if kind == KIND_NEXT:
            if is_dead:
                return 0
            frame = iteration.frame
            if iteration.next == NULL:
                if frame.num_live >= frame.parallel_iterations:
                    park(&frame.deferred, index, outputs[0])
                    return 0
                self._next_iteration(frame)
            return self._deliver_all(node, iteration.next, outputs, False)
        if kind == KIND_EXIT:
            frame = iteration.frame
            if frame.parent == NULL:
                raise Internal("an Exit lies outside of every loop")
            if is_dead:
                # only those of the last iteration say that the loop itself was not entered
                if iteration.next == NULL:
                    park(&frame.dead_exits, index, NULL)
                return 0
            return self._deliver_all(node, frame.parent, outputs, False)
        return self._deliver_all(node, iteration, outputs, is_dead)

    cdef int _deliver_all(self, NodePlan *node, Iteration *target, PyObject **outputs, bint is_dead) except -1:
        """Deliver every output, and the end of the node, to its consumers in one iteration."""
        cdef Edge *edge = node.edges
        cdef Edge *end = node.edges + node.num_edges
        cdef NodePlan *consumer
        cdef Count *count
        cdef PyObject *value
        while edge < end:
            value = NULL if edge.slot < 0 else outputs[edge.slot]
            if edge.target < 0:
                self._store.keep_fetch(-1 - edge.target, value)
                edge += 1
                continue
            consumer = &self.plan.nodes[edge.target]
            count = &target.counts[consumer.local]
            if consumer.kind == KIND_MERGE:
                if edge.slot < 0:
                    count.pending -= 1
                elif value != NULL:
                    if count.live_input < 0 and not count.settled:
                        count.live_input = edge.input
                        Py_XINCREF(value)
                        target.cells[consumer.cell] = value
                else:
                    count.dead += 1
                    if node.kind == KIND_ENTER:  # a loop that is not entered has no other input to wait for
                        count.dead = consumer.num_inputs
                if count.pending == 0 and not count.settled and (count.live_input >= 0
                                                                 or count.dead >= consumer.num_inputs):
                    count.settled = True
                    self._push(edge.target, count.live_input < 0, target)
            else:
                if edge.slot < 0:
                    count.dead += is_dead
                elif value == NULL:
                    count.dead += 1
                else:
                    Py_XINCREF(value)
                    target.cells[consumer.cell + edge.input] = value
                count.pending -= 1
                if count.pending == 0:
                    self._push(edge.target, count.dead > 0 and consumer.kind != KIND_TRIGGER, target)
            edge += 1
        return 0

    cdef int _push(self, int index, bint is_dead, Iteration *iteration) except -1:
        cdef Ready *larger
        cdef Ready *slot
        cdef unsigned int i, count = self._tail - self._head
        if count > self._mask:
            larger = <Ready *>PyMem_Malloc(2 * (<size_t>self._mask + 1) * sizeof(Ready))
            if larger == NULL:
                raise MemoryError()
            for i in range(count):
                larger[i] = self._queue[(self._head + i) & self._mask]
            PyMem_Free(self._queue)
            self._queue = larger
            self._mask = 2 * self._mask + 1
            self._head, self._tail = 0, count
        slot = &self._queue[self._tail & self._mask]
        slot.node, slot.is_dead, slot.iteration = index, is_dead, iteration
        self._tail += 1
        iteration.outstanding += 1
        return 0

    # Frames and iterations.

    cdef LiveFrame *_child(self, NodePlan *node, Iteration *iteration) except NULL:
        """Return the frame that an Enter leads into, opened when it is the first to do so."""
        cdef LiveFrame *frame = iteration.children[self.plan.frames[node.child].ordinal]
        if frame != NULL:
            return frame
        return self._store.open_frame(node.child, iteration, node.parallel_iterations)

    cdef Iteration *_next_iteration(self, LiveFrame *frame) except NULL:
        """Begin another iteration: with the loop's constants, and with what waited for it."""
        cdef Iteration *iteration = self._store.new_iteration(frame)
        cdef Parked *parked
        cdef int i
        frame.dead_exits.count = 0
        for i in range(frame.deferred.count):
            parked = &frame.deferred.items[i]
            self._deliver_all(&self.plan.nodes[parked.node], iteration, &parked.value, False)
        for i in range(frame.deferred.count):
            Py_XDECREF(frame.deferred.items[i].value)
            frame.deferred.items[i].value = NULL
        frame.deferred.count = 0
        for i in range(frame.loop_constants.count):
            parked = &frame.loop_constants.items[i]
            self._deliver_all(&self.plan.nodes[parked.node], iteration, &parked.value, parked.value == NULL)
        return iteration

    cdef int _clean_up(self, Iteration *iteration) except -1:
        """End every iteration from the oldest on in which nothing is outstanding, and the frame after the last."""
        cdef LiveFrame *frame = iteration.frame
        cdef Iteration *oldest
        while frame.first != NULL:
            oldest = frame.first
            # while an Enter is to come, no iteration has all that it needs: constants of the loop go to all of them
            if oldest.outstanding or oldest.open_children or frame.pending_enters:
                return 0
            if frame.deferred.count and oldest.next == NULL:
                self._next_iteration(frame)
            frame.first = oldest.next
            if frame.first == NULL:
                frame.last = NULL
            frame.num_live -= 1
            self._store.free_iteration(oldest)
            if frame.deferred.count:
                self._next_iteration(frame)
        return self._close_frame(frame)

    cdef int _close_frame(self, LiveFrame *frame) except -1:
        """Tell the iteration around that the loop has ended, after the Exits that stayed dead."""
        cdef Iteration *parent = frame.parent
        cdef PyObject *dead[2]
        cdef int i
        dead[0] = dead[1] = NULL
        for i in range(frame.dead_exits.count):
            self._deliver_all(&self.plan.nodes[frame.dead_exits.items[i].node], parent, dead, True)
        parent.children[self.plan.frames[frame.static_frame].ordinal] = NULL
        parent.open_children -= 1
        self._store.free_frame(frame)
        if parent.outstanding == 0 and parent != self._root:
            self._clean_up(parent)
        return 0
