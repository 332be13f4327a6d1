"""Arithmetic, comparisons and logic, element by element, with broadcasting.

Made for C-contiguous arrays of float32, float64, int32, int64 and bool in native byte order, aligned or not; whatever
else comes is declined. A dying input of the result's shape and type takes the result.
"""

cimport numpy as cnp

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, kernel_fn, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.running_step cimport spare_arrays, stop_flag, trt_spares

cnp.import_array()

cdef extern from "kernels/array_access.h":
    const int *(*trt_stop_flag)() noexcept nogil
    trt_spares *trt_spares_here

trt_stop_flag = stop_flag
trt_spares_here = spare_arrays()

cdef extern from "kernels/elementwise_tables.h":
    const trt_binary_entry *trt_binary_entries(int level)
    const trt_unary_entry *trt_unary_entries(int level)

cdef dict _DATATYPES = {cnp.NPY_FLOAT32: 1, cnp.NPY_FLOAT64: 2, cnp.NPY_INT32: 3, cnp.NPY_UINT8: 4, cnp.NPY_INT64: 9,
                        cnp.NPY_BOOL: 10}


cdef int datatype_of(int type_number) except -1:
    return _DATATYPES[type_number]


cdef int item_size(int type_number) except -1:
    return cnp.PyArray_DescrFromType(type_number).itemsize


cdef int _binary(KernelCall *call) except -1:
    return trt_binary(call.inputs, call.outputs, call.reusable, <const trt_binary_params *>call.params)


cdef int _unary(KernelCall *call) except -1:
    return trt_unary(call.inputs, call.outputs, call.reusable, <const trt_unary_params *>call.params)


cdef int _add_n(KernelCall *call) except -1:
    return trt_add_n(call.inputs, call.outputs, call.num_inputs, call.reusable, <const trt_binary_params *>call.params)


cdef int kind_of(CompiledKernel kernel):
    if kernel.fn == _unary:
        return UNARY
    if kernel.fn == _binary:
        return BINARY
    return ADD_N if kernel.fn == _add_n else OTHER


cdef int fill_binary(trt_binary_params *params, const trt_binary_entry *entry, bint broadcasts) except -1:
    params.both, params.right, params.left = entry.both, entry.right, entry.left
    params.type, params.out_type = entry.type, entry.out_type
    params.size, params.out_size = item_size(entry.type), item_size(entry.out_type)
    params.broadcasts = broadcasts
    return 0


cdef dict binary_kernels(const trt_binary_entry *entry, bint broadcasts):
    cdef dict made = {}
    cdef trt_binary_params params
    while entry.op != NULL:
        op = entry.op.decode()
        fill_binary(&params, entry, broadcasts)
        made[op, datatype_of(entry.type), datatype_of(entry.out_type)] = make_kernel(
            _add_n if op == "AddN" else _binary, &params, sizeof(params))
        entry += 1
    return made


cdef dict unary_kernels(const trt_unary_entry *entry):
    cdef dict made = {}
    cdef trt_unary_params params
    while entry.op != NULL:
        params.loop = entry.loop
        params.type, params.out_type = entry.type, entry.out_type
        params.size, params.out_size = item_size(entry.type), item_size(entry.out_type)
        made[entry.op.decode(), datatype_of(entry.type), datatype_of(entry.out_type)] = make_kernel(
            _unary, &params, sizeof(params))
        entry += 1
    return made


cdef dict _kernels = {**binary_kernels(trt_binary_entries(simd.level), True),
                      **unary_kernels(trt_unary_entries(simd.level))}
OPS = frozenset([op for op, _, _ in _kernels])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return _kernels.get((op, input_types[0], output_types[0]))
