"""Arithmetic, comparisons and logic, element by element, with broadcasting.

Made for C-contiguous arrays of float32, float64, int32, int64 and bool in native byte order, aligned or not; whatever else
comes is declined. A dying input of the result's shape and type takes the result.
"""

cimport numpy as cnp

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport (
    trt_add_n,
    trt_binary,
    trt_binary_entry,
    trt_binary_params,
    trt_unary,
    trt_unary_entry,
    trt_unary_params,
)

cnp.import_array()

cdef extern from "kernels/elementwise_tables.h":
    const trt_binary_entry *trt_binary_entries(int level)
    const trt_unary_entry *trt_unary_entries(int level)

# DataType numbers of the types that there are loops for.
cdef dict _NUMPY_TYPES = {1: cnp.NPY_FLOAT32, 2: cnp.NPY_FLOAT64, 3: cnp.NPY_INT32, 9: cnp.NPY_INT64, 10: cnp.NPY_BOOL}


cdef int _binary(KernelCall *call) except -1:
    return trt_binary(call.inputs, call.outputs, call.reusable, <const trt_binary_params *>call.params)


cdef int _unary(KernelCall *call) except -1:
    return trt_unary(call.inputs, call.outputs, call.reusable, <const trt_unary_params *>call.params)


cdef int _add_n(KernelCall *call) except -1:
    return trt_add_n(call.inputs, call.outputs, call.num_inputs, call.reusable, <const trt_binary_params *>call.params)


cdef int _item_size(int type_number) except -1:
    return cnp.PyArray_DescrFromType(type_number).itemsize


cdef dict _make_kernels():
    """Return one kernel for each op and type number; nodes share them."""
    cdef dict made = {}
    cdef trt_binary_params binary
    cdef trt_unary_params unary
    cdef const trt_binary_entry *entry = trt_binary_entries(simd.level)
    cdef const trt_unary_entry *single = trt_unary_entries(simd.level)
    while entry.op != NULL:
        op = entry.op.decode()
        binary.both, binary.right, binary.left = entry.both, entry.right, entry.left
        binary.type, binary.out_type = entry.type, entry.out_type
        binary.size, binary.out_size = _item_size(entry.type), _item_size(entry.out_type)
        binary.broadcasts = op != "AddN"
        made[op, entry.type] = make_kernel(_add_n if op == "AddN" else _binary, &binary, sizeof(binary))
        entry += 1
    while single.op != NULL:
        unary.loop = single.loop
        unary.type, unary.out_type = single.type, single.out_type
        unary.size, unary.out_size = _item_size(single.type), _item_size(single.out_type)
        made[single.op.decode(), single.type] = make_kernel(_unary, &unary, sizeof(unary))
        single += 1
    return made


cdef dict _kernels = _make_kernels()
OPS = frozenset([op for op, _ in _kernels])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return _kernels.get((op, _NUMPY_TYPES.get(input_types[0])))
