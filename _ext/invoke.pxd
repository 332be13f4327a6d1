"""Calling one bound kernel, compiled or Python: shared by both executors."""

from cpython cimport array
from cpython.object cimport PyObject

from runtime._ext.kernel_abi cimport CompiledKernel, kernel_fn
from runtime._ext.long_calls cimport trt_pace
from runtime._ext.step_context cimport StepContext


cdef enum:
    NEEDS_STEP = 1            # the Python definition takes the StepContext first
    # Free entries that must lie before an array of inputs: the step and the slot that vectorcall may overwrite.
    INPUT_HEADROOM = 2


cdef struct Code:
    kernel_fn fn              # NULL: only the Python definition exists
    void *params
    PyObject *call            # Python definition; owned by the program's list of nodes
    PyObject *name            # str for error messages; owned likewise
    int num_inputs
    int num_outputs
    int flags
    unsigned char *derefs     # 1 for each input that arrives as a Variable and is wanted as its value; NULL: none
    int *output_types         # numpy type number expected of each output; -1: not checked
    trt_pace *pace            # what calls of the definition cost, where a step may leave them behind; NULL: it may not


cdef class BoundKernel:
    cdef Code code            # copied by executors; what it points to lives as long as this object
    cdef readonly object node
    cdef readonly str name
    cdef object call
    cdef CompiledKernel compiled
    cdef bytes derefs
    cdef array.array types
    cdef trt_pace pace


# Borrow inputs (which may be overwritten, and have INPUT_HEADROOM entries before them), fill outputs with new
# references. After an error some outputs may be there; the caller releases them.
cdef int invoke(Code *code, StepContext step, PyObject **inputs, PyObject **outputs,
                unsigned int reusable) except -1

# Python definition only.
cdef int invoke_python(Code *code, StepContext step, PyObject **inputs, PyObject **outputs) except -1

# Result of a Python definition to output references; steals nothing.
cdef int store_result(Code *code, object result, PyObject **outputs) except -1

# Release the outputs that are there and forget them.
cdef void release_outputs(Code *code, PyObject **outputs) noexcept

# Bits of `candidates` whose input is an array that only the executor holds and that owns writable memory.
cdef unsigned int reusable_inputs(PyObject **inputs, unsigned int candidates) noexcept

# New reference to the current value of a Variable.
cdef PyObject *dereference(PyObject *variable) except NULL

# The error to raise for one that came out of a node.
cdef object named_error(object error, str name)

# The op of a node, for messages.
cdef str op_of(BoundKernel kernel)
