"""Live frames and iterations of a dataflow run: the memory that values wait in."""

cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from runtime._ext.dataflow_plan cimport Count, DataflowPlan


cdef struct Iteration:
    Iteration *next           # the one after it in its frame; in the pool, the next free one
    LiveFrame *frame
    LiveFrame **children      # by ordinal of the static frame; NULL where none is open
    Count *counts
    PyObject **cells          # values waiting for their consumer: owned, except constants
    unsigned long long number # 0 for the first of its frame
    int outstanding           # nodes ready or running
    int open_children


cdef struct Parked:           # a value that goes on later
    int node
    PyObject *value           # owned; NULL: dead


cdef struct ParkedList:
    Parked *items
    int count
    int capacity


cdef struct LiveFrame:
    int static_frame
    int parallel_iterations
    uint64_t id               # the same in every task that has a part of the loop; 0 for the outermost
    unsigned long long num_begun
    Iteration *parent         # iteration that it was opened in; NULL for the outermost
    Iteration *first
    Iteration *last
    int num_live
    int pending_enters
    ParkedList deferred       # values of the iteration that must wait for the oldest to end
    ParkedList loop_constants
    ParkedList dead_exits     # nodes only


@cython.final
@cython.no_gc                 # refers to the plan alone, which refers to no run
cdef class FrameStore:
    cdef DataflowPlan plan
    cdef Iteration **_pool    # free iterations by static frame
    cdef LiveFrame *_outermost
    cdef PyObject **fetched   # owned
    cdef char *fetch_states   # a FetchState each

    cdef Iteration *open_outermost(self) except NULL
    cdef void close_outermost(self) noexcept
    cdef LiveFrame *open_frame(self, int static_frame, Iteration *parent, int parallel_iterations) except NULL
    cdef Iteration *new_iteration(self, LiveFrame *frame) except NULL
    cdef void free_iteration(self, Iteration *iteration) noexcept
    cdef void free_frame(self, LiveFrame *frame) noexcept
    cdef void keep_fetch(self, int fetch, PyObject *value) noexcept
    cdef void drop_fetches(self) noexcept


cdef enum FetchState:
    NOT_THERE = 0
    LIVE = 1
    DEAD = 2


cdef FrameStore make_store(DataflowPlan plan)

# Append; the value gets a reference of its own.
cdef int park(ParkedList *parked, int node, PyObject *value) except -1
