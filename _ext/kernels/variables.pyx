"""Reading, assigning to and adding to variables.

Reading hands out the array with one more reference; an assignment keeps the array that it gets, when that owns its
memory. Whatever needs a message, or a wait for somebody who holds the variable, is left to the Python definition.
"""

from cpython.long cimport PyLong_AsLong, PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cimport numpy as cnp

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.variable_access cimport (
    TRT_DATA,
    TRT_HAS_FLAGS,
    TRT_IS_ARRAY,
    TRT_NEW_LIKE,
    TRT_SAME_SHAPE,
    TRT_SIZE,
    Held,
    changeable,
    find_variable,
    hold,
    let_go,
    plain_value,
    trt_is_plain,
)
from runtime._ext.variable cimport Variable
from runtime._ext.worker_pool cimport parallel_ranges_to_end, range_fn

cnp.import_array()

cdef extern from "kernels/array_access.h":
    enum:
        TRT_LONG_WORK_BYTES

cdef extern from "kernels/variable_assignments.h" nogil:
    ctypedef struct trt_assignment:
        const void *former
        const void *delta
        void *target
    range_fn trt_assignment_of(int level, int subtract, int type)

cdef extern from *:
    """
    #define TRT_NEW_COPY(array) PyArray_NewCopy((PyArrayObject *)(array), NPY_CORDER)
    """
    PyObject *TRT_NEW_COPY(PyObject *array) except NULL

cdef enum:
    # elements that a thread adds at a time: about 400 KB from and to memory
    GRAIN = 1 << 15

cdef struct AssignParams:
    long datatype
    bint validate
    bint by_handle

cdef struct AddParams:
    range_fn add
    int type_number
    int item_bytes
    long datatype
    bint by_handle

# DataType to (loop's type, numpy type, bytes of an element)
cdef dict _ADDABLE = {
    1: (0, cnp.NPY_FLOAT, 4), 2: (1, cnp.NPY_DOUBLE, 8), 3: (2, cnp.NPY_INT32, 4), 9: (3, cnp.NPY_INT64, 8),
    22: (2, cnp.NPY_UINT32, 4), 23: (3, cnp.NPY_UINT64, 8),
}

OPS = ("ReadVariableOp", "AssignVariableOp", "Assign", "AssignAddVariableOp", "AssignSubVariableOp", "AssignAdd",
       "AssignSub")


def select(str op, input_types, output_types, attr):
    """Return the kernel of an op on variables, or None for the types that it does not add."""
    cdef AssignParams assign
    cdef AddParams add
    by_handle = op.endswith("Op")
    datatype = int(attr("dtype" if by_handle else "T"))
    if op in ("ReadVariableOp", "AssignVariableOp", "Assign"):
        assign.datatype = datatype
        assign.validate = False if op == "ReadVariableOp" else bool(attr("validate_shape"))
        assign.by_handle = by_handle
        return make_kernel(_read if op == "ReadVariableOp" else _assign, &assign, sizeof(AssignParams))
    if datatype not in _ADDABLE:
        return None
    type_index, add.type_number, add.item_bytes = _ADDABLE[datatype]
    add.datatype = datatype
    add.by_handle = by_handle
    add.add = trt_assignment_of(simd.level, op.startswith("AssignSub"), type_index)
    return make_kernel(_add, &add, sizeof(AddParams))


cdef bint _has_type(PyObject *variable, long datatype) noexcept:
    """Tell whether the variable's elements are of a type."""
    cdef PyObject *known = <PyObject *>(<Variable>variable).datatype
    return PyLong_CheckExact(<object>known) and PyLong_AsLong(<object>known) == datatype


cdef int _read(KernelCall *call) except -1:
    cdef PyObject *variable = find_variable(call.inputs[0], True)
    if variable == NULL or not _has_type(variable, (<AssignParams *>call.params).datatype):
        return 1
    value = (<Variable>variable).current() if (<Variable>variable).writing else (<Variable>variable).value
    if value is None:
        return 1
    Py_INCREF(value)
    call.outputs[0] = <PyObject *>value
    return 0


cdef int _assign(KernelCall *call) except -1:
    cdef AssignParams *params = <AssignParams *>call.params
    cdef PyObject *variable = find_variable(call.inputs[0], params.by_handle)
    cdef PyObject *value = call.inputs[1]
    cdef PyObject *current
    cdef bint fits
    if variable == NULL or not TRT_IS_ARRAY(value):
        return 1
    if TRT_HAS_FLAGS(value, cnp.NPY_ARRAY_OWNDATA | cnp.NPY_ARRAY_C_CONTIGUOUS):
        Py_INCREF(<object>value)
    else:  # a view keeps more memory alive than the variable needs
        value = TRT_NEW_COPY(value)
    try:
        # From here to the assignment the GIL is kept, so that nobody can take the lock meanwhile. (The copy above is
        # not a part of that.)
        current = <PyObject *>(<Variable>variable).value
        if params.by_handle:
            fits = _has_type(variable, params.datatype) and (
                not params.validate or current == <PyObject *>None or TRT_SAME_SHAPE(current, value))
        else:
            fits = not params.validate or (current != <PyObject *>None and TRT_SAME_SHAPE(current, value))
        if not fits or (<Variable>variable).is_locked():
            return 1
        (<Variable>variable).value = <object>value
    finally:
        Py_DECREF(<object>value)
    if not params.by_handle:
        Py_INCREF(<object>variable)
        call.outputs[0] = variable
    return 0


cdef int _add(KernelCall *call) except -1:
    cdef AddParams *params = <AddParams *>call.params
    cdef PyObject *delta = call.inputs[1]
    cdef bint long_work
    cdef int status
    cdef Held held
    held.count = 1
    held.variables[0] = find_variable(call.inputs[0], params.by_handle)
    if held.variables[0] == NULL or not trt_is_plain(delta, params.type_number):
        return 1
    if params.by_handle and not _has_type(held.variables[0], params.datatype):
        return 1
    long_work = 3 * TRT_SIZE(delta) * params.item_bytes > TRT_LONG_WORK_BYTES
    hold(&held, long_work)
    try:
        status = _add_to(params, held.variables[0], delta, long_work)
    finally:
        let_go(&held)
    if status == 0 and not params.by_handle:
        Py_INCREF(<object>held.variables[0])
        call.outputs[0] = held.variables[0]
    return status


cdef int _add_to(AddParams *params, PyObject *variable, PyObject *delta, bint long_work) except -1:
    cdef PyObject *former = plain_value(variable, params.type_number)
    cdef PyObject *target
    cdef trt_assignment work
    cdef Py_ssize_t size = TRT_SIZE(delta)
    if former == NULL or not TRT_SAME_SHAPE(former, delta):
        return 1
    target = former
    if changeable(former):
        Py_INCREF(<object>target)
    else:
        target = TRT_NEW_LIKE(former)
    work.former, work.delta, work.target = TRT_DATA(former), TRT_DATA(delta), TRT_DATA(target)
    if long_work:
        (<Variable>variable).writing = target == former
        with nogil:
            parallel_ranges_to_end(params.add, &work, size, GRAIN)
        (<Variable>variable).writing = False
    else:
        params.add(&work, 0, size)
    if target != former:
        (<Variable>variable).value = <object>target
    Py_DECREF(<object>target)
    return 0
