"""The memory of a dataflow run: frames, their iterations with the cells that values wait in, and the fetched values.

Iterations are pooled per static frame, so that a loop allocates as many as are live at once and no more.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF, Py_XINCREF
from libc.string cimport memcpy, memset

from runtime._ext.dataflow_plan cimport Count, DataflowPlan, FramePlan
from runtime._ext.frame_ids cimport child_frame_id


cdef FrameStore make_store(DataflowPlan plan):
    """Return the empty memory of one run of a plan."""
    cdef FrameStore store = FrameStore.__new__(FrameStore)
    store.plan = plan
    store._pool = <Iteration **>PyMem_Calloc(plan.num_frames, sizeof(Iteration *))
    store.fetched = <PyObject **>PyMem_Calloc(max(plan.num_fetches, 1), sizeof(PyObject *))
    store.fetch_states = <char *>PyMem_Calloc(max(plan.num_fetches, 1), 1)
    if not (store._pool and store.fetched and store.fetch_states):
        raise MemoryError()
    return store


@cython.final
@cython.no_gc
cdef class FrameStore:
    """Frames, iterations and fetched values of one run."""

    def __dealloc__(self):
        cdef int i
        cdef Iteration *iteration
        self.close_outermost()
        if self.fetched != NULL:
            self.drop_fetches()
        if self._pool != NULL:
            for i in range(self.plan.num_frames):
                while self._pool[i] != NULL:
                    iteration = self._pool[i]
                    self._pool[i] = iteration.next
                    PyMem_Free(iteration)
        PyMem_Free(self._pool)
        PyMem_Free(self.fetched)
        PyMem_Free(self.fetch_states)

    cdef Iteration *open_outermost(self) except NULL:
        """Open the frame that everything outside of loops runs in and return its only iteration."""
        self._outermost = self.open_frame(0, NULL, 1)
        return self._outermost.first

    cdef void close_outermost(self) noexcept:
        """Release every value that still waits somewhere."""
        cdef LiveFrame *frame = self._outermost
        self._outermost = NULL
        if frame != NULL:
            self.free_frame(frame)

    cdef LiveFrame *open_frame(self, int static_frame, Iteration *parent, int parallel_iterations) except NULL:
        """Open a frame with its first iteration, in an iteration of the frame around."""
        cdef LiveFrame *frame = <LiveFrame *>PyMem_Calloc(1, sizeof(LiveFrame))
        if frame == NULL:
            raise MemoryError()
        frame.static_frame = static_frame
        frame.parallel_iterations = parallel_iterations
        frame.parent = parent
        frame.pending_enters = self.plan.frames[static_frame].num_enters
        if parent != NULL:
            frame.id = child_frame_id(parent.frame.id, parent.number, self.plan.frames[static_frame].name_hash)
        try:
            self.new_iteration(frame)
        except BaseException:
            PyMem_Free(frame)
            raise
        if parent != NULL:
            parent.children[self.plan.frames[static_frame].ordinal] = frame
            parent.open_children += 1
        return frame

    cdef Iteration *new_iteration(self, LiveFrame *frame) except NULL:
        """Append an iteration in which nothing has arrived."""
        cdef FramePlan *plan = &self.plan.frames[frame.static_frame]
        cdef Iteration *iteration = self._pool[frame.static_frame]
        cdef size_t cells = plan.num_cells * sizeof(PyObject *)
        cdef size_t children = plan.num_children * sizeof(LiveFrame *)
        cdef size_t counts = plan.num_nodes * sizeof(Count)
        if iteration != NULL:
            self._pool[frame.static_frame] = iteration.next
        else:
            iteration = <Iteration *>PyMem_Malloc(sizeof(Iteration) + cells + children + counts)
            if iteration == NULL:
                raise MemoryError()
            iteration.cells = <PyObject **>(iteration + 1)
            iteration.children = <LiveFrame **>(<char *>iteration.cells + cells)
            iteration.counts = <Count *>(<char *>iteration.children + children)
        memcpy(iteration.cells, plan.cells, cells)
        memset(iteration.children, 0, children)
        memcpy(iteration.counts, plan.counts, counts)
        iteration.next = NULL
        iteration.frame = frame
        iteration.outstanding = 0
        iteration.open_children = 0
        iteration.number = frame.num_begun
        frame.num_begun += 1
        if frame.last == NULL:
            frame.first = iteration
        else:
            frame.last.next = iteration
        frame.last = iteration
        frame.num_live += 1
        return iteration

    cdef void free_iteration(self, Iteration *iteration) noexcept:
        """Release what nobody took from an iteration and keep its memory for the next one."""
        cdef int static_frame = iteration.frame.static_frame
        cdef FramePlan *plan = &self.plan.frames[static_frame]
        cdef PyObject *value
        cdef int i
        for i in range(plan.num_children):
            if iteration.children[i] != NULL:
                self.free_frame(iteration.children[i])
        for i in range(plan.num_cells):
            value = iteration.cells[i]
            if value != plan.cells[i]:
                iteration.cells[i] = NULL
                Py_XDECREF(value)
        iteration.next = self._pool[static_frame]
        self._pool[static_frame] = iteration

    cdef void free_frame(self, LiveFrame *frame) noexcept:
        """Release a frame with all its iterations and the frames open in them."""
        cdef Iteration *iteration
        while frame.first != NULL:
            iteration = frame.first
            frame.first = iteration.next
            self.free_iteration(iteration)
        _release(&frame.deferred)
        _release(&frame.loop_constants)
        _release(&frame.dead_exits)
        PyMem_Free(frame)

    cdef void keep_fetch(self, int fetch, PyObject *value) noexcept:
        """Keep a fetched value, NULL for a dead one; in a loop the last one stays."""
        cdef PyObject *former = self.fetched[fetch]
        Py_XINCREF(value)
        self.fetched[fetch] = value
        self.fetch_states[fetch] = DEAD if value == NULL else LIVE
        Py_XDECREF(former)

    cdef void drop_fetches(self) noexcept:
        """Release the fetched values; their states stay."""
        cdef PyObject *value
        cdef int i
        for i in range(self.plan.num_fetches):
            value = self.fetched[i]
            self.fetched[i] = NULL
            Py_XDECREF(value)


cdef void _release(ParkedList *parked) noexcept:
    cdef int i
    for i in range(parked.count):
        Py_XDECREF(parked.items[i].value)
    PyMem_Free(parked.items)


cdef int park(ParkedList *parked, int node, PyObject *value) except -1:
    cdef Parked *larger
    cdef int capacity
    if parked.count == parked.capacity:
        capacity = 2 * parked.capacity + 4
        larger = <Parked *>PyMem_Realloc(parked.items, capacity * sizeof(Parked))
        if larger == NULL:
            raise MemoryError()
        parked.items = larger
        parked.capacity = capacity
    Py_XINCREF(value)
    parked.items[parked.count].node = node
    parked.items[parked.count].value = value
    parked.count += 1
    return 0
