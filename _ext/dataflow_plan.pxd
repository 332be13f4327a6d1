"""The fixed part of a dataflow step: nodes, edges and frames, laid out for `runtime._ext.dataflow`."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from runtime._ext.invoke cimport Code


# What a node does when it is ready. Numbers are shared with the compiler.
cdef enum:
    KIND_KERNEL = 0           # calls its kernel
    KIND_ASYNC = 1            # calls its kernel, which completes later
    KIND_PASS = 2             # output i is input i (Identity, constants, NoOp)
    KIND_SWITCH = 3
    KIND_MERGE = 4
    KIND_ENTER = 5
    KIND_EXIT = 6
    KIND_NEXT = 7
    KIND_TRIGGER = 8          # ControlTrigger: live whatever arrives
    KIND_FEED = 9             # completed from outside
    KIND_TRANSFER = 10        # as ASYNC, but told its frame and iteration, and called for dead inputs, too
    NUM_KINDS = 11


cdef struct Edge:
    int slot                  # output of the source; -1 for a control edge
    int target                # node; -1 - k for fetch k
    int input                 # input of the target (which one counts for Merge)


cdef struct NodePlan:
    Code code
    int kind
    int frame                 # static frame in which its inputs arrive
    int local                 # its number among the nodes of that frame
    int cell                  # its first input cell in an iteration of that frame
    int num_cells             # one for Merge, which keeps the first live input only
    int num_inputs
    unsigned char *constant   # 1 for each input that is a constant (its cell is filled from the start); NULL: none
    unsigned int reusable     # inputs whose memory may be reused
    Edge *edges
    int num_edges
    int child                 # Enter: static frame of its outputs
    bint is_loop_constant     # Enter: visible in every iteration
    int parallel_iterations   # Enter


# State of a node in one iteration.
cdef struct Count:
    int pending               # inputs still to arrive; for Merge control inputs only
    int dead                  # dead ones among those that arrived; for Merge data inputs only
    int live_input            # Merge: the live input that it took; -1: none yet
    bint settled              # Merge: has been made ready


cdef struct FramePlan:
    int parent
    uint64_t name_hash        # of the frame's name; see frame_ids.pxd
    int ordinal               # its number among the children of its parent
    int num_nodes
    int num_cells
    int num_children
    int num_enters
    Count *counts             # what a new iteration starts with
    PyObject **cells          # likewise: constants, else NULL


cdef class DataflowPlan:
    cdef readonly int num_nodes
    cdef readonly int num_feeds
    cdef readonly int num_fetches
    cdef readonly str path
    cdef NodePlan *nodes
    cdef FramePlan *frames
    cdef int num_frames
    cdef int max_inputs
    cdef int max_outputs
    cdef int *roots           # nodes of the outermost frame that wait for nothing
    cdef int num_roots
    cdef int *feed_types
    cdef PyObject **constant_fetches   # borrowed constant, or NULL where the fetch comes from a node
    cdef readonly tuple constants
    cdef readonly tuple fetch_names
    cdef readonly tuple merge_indices  # int32 scalars
    cdef readonly list kernels
    cdef readonly object adapt_feed
    cdef Edge *_edges
    cdef unsigned char *_constant_flags
    cdef Count *_counts
    cdef PyObject **_cells

    cdef int _lay_out(self, list inputs, list controls, list first_values, int num_values, list enters,
                      tuple fetches) except -1
    # A feed's value, brought into the right form where that is possible.
    cdef object check_feed(self, int index, object value)
