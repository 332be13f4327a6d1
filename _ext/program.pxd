"""The straight-line executor."""

from cpython.object cimport PyObject

from runtime._ext.branches cimport GuardTable
from runtime._ext.invoke cimport Code
from runtime._ext.step_context cimport StepContext


cdef struct Instruction:
    Code code
    int *inputs               # cells of the inputs
    int *outputs              # cells of the outputs
    int *clears               # cells whose value dies here
    int num_clears
    unsigned int last_uses    # bit i: input i may be reused if nobody else holds it
    int first_guard           # those that are checked before it
    int last_guard


cdef struct Frame:
    Frame *next
    PyObject *cells[1]        # headroom, input scratch, output scratch, slots, constants


cdef class Program:
    cdef list _kernels        # BoundKernel of every instruction; owns what Code points to
    cdef tuple _constants
    cdef tuple _fetch_names   # name for errors where a fetched reference is to be read, else None
    cdef object _adapt_feed
    cdef GuardTable _guards   # None without conditionals
    cdef readonly str path
    # Takes the place of this program in a traced step: a Program, a Dataflow, or a function that makes it on first use.
    cdef public object traced
    cdef Instruction *_code
    cdef int *_indices        # one block for all cell numbers
    cdef int *_feed_types
    cdef int *_fetches
    cdef int *_leftovers      # cells that hold a value when a run has succeeded
    cdef readonly int num_instructions
    cdef readonly int num_feeds
    cdef readonly int num_fetches
    cdef int _num_slots
    cdef int _num_leftovers
    cdef int _scratch         # cells before the slots
    cdef int _max_inputs
    cdef Frame *_free
    cdef int _num_free

    cdef int _assign_cells(self, inputs, outputs, fetches, guards, int num_values, int num_constants, int *last_use,
                           int *cells, int *free_cells) except -1
    cdef int _place_guards(self, guards, int num_constants, int *cells) except -1
    # Run with `args` (num_feeds of them); `moved` ones are taken over, also when the run fails.
    cdef list execute(self, StepContext step, PyObject **args, bint moved)
    cdef list _trace(self, StepContext step, PyObject **args, bint moved)
    cdef int _run(self, StepContext step, PyObject **inputs, PyObject **outputs, PyObject **slots) except -1
    cdef int _record(self, StepContext step, Instruction *op, int index, PyObject **outputs, object started) except -1
    cdef list _collect(self, PyObject **slots)
    cdef Frame *_take_frame(self) except NULL
    cdef void _give_frame(self, Frame *frame, bint succeeded) noexcept
