"""Arithmetic, comparisons and logic, element by element, with broadcasting.

Made for C-contiguous arrays of float32, float64, int32, int64 and bool, and of half and bfloat16 computed in float32,
in native byte order, aligned or not; whatever else comes is declined. A dying input of the result's shape and type takes
the result. Large arrays are done in ranges, by several threads.
"""

cimport numpy as cnp

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, kernel_fn, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.narrow cimport (
    BFLOAT16,
    HALF,
    TRT_BFLOAT16,
    narrow_of,
    narrow_type,
    stepwise_binary_entries,
    stepwise_unary_entries,
    widen_of,
)
from runtime._ext.running_step cimport spare_arrays, trt_spares
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/elementwise.h":
    trt_spares *trt_spares_here
    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)

trt_spares_here = spare_arrays()
trt_share_by(parallel_ranges)

cdef extern from "kernels/elementwise_tables.h":
    const trt_binary_entry *trt_binary_entries(int level)
    const trt_unary_entry *trt_unary_entries(int level)

cdef dict _DATATYPES = {cnp.NPY_FLOAT32: 1, cnp.NPY_FLOAT64: 2, cnp.NPY_INT32: 3, cnp.NPY_UINT8: 4, cnp.NPY_INT64: 9,
                        cnp.NPY_BOOL: 10, cnp.NPY_FLOAT16: HALF, TRT_BFLOAT16: BFLOAT16}


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
        return UNARY if (<trt_unary_params *>kernel.params).widen == NULL else OTHER
    if kernel.fn != _binary and kernel.fn != _add_n or (<trt_binary_params *>kernel.params).widen != NULL:
        return OTHER
    return BINARY if kernel.fn == _binary else ADD_N


cdef int fill_binary(trt_binary_params *params, const trt_binary_entry *entry, bint broadcasts) except -1:
    params.both, params.right, params.left = entry.both, entry.right, entry.left
    params.widen, params.narrow = NULL, NULL
    params.type, params.out_type = entry.type, entry.out_type
    params.size, params.out_size = item_size(entry.type), item_size(entry.out_type)
    params.broadcasts = broadcasts
    return 0


cdef int narrow_binary(trt_binary_params *params, int datatype) except -1:
    params.widen, params.type, params.size = widen_of(datatype), narrow_type(datatype), 2
    if params.out_type == cnp.NPY_FLOAT32:
        params.narrow, params.out_type, params.out_size = narrow_of(datatype), params.type, 2
    return 0


cdef int _narrow_unary(trt_unary_params *params, int datatype) except -1:
    params.widen, params.type, params.size = widen_of(datatype), narrow_type(datatype), 2
    if params.out_type == cnp.NPY_FLOAT32:
        params.narrow, params.out_type, params.out_size = narrow_of(datatype), params.type, 2
    return 0


cdef dict _stepwise_binary():
    """Return the rows of formulas whose every step is rounded, as kernels, by op and DataType."""
    cdef dict made = {}
    cdef const trt_binary_entry *entry = stepwise_binary_entries()
    cdef trt_binary_params params
    while entry.op != NULL:
        datatype = datatype_of(entry.type)
        op = entry.op.decode()
        params.both, params.right, params.left = entry.both, entry.right, entry.left
        params.out_type, params.broadcasts = cnp.NPY_FLOAT32, op == "SquaredDifference"
        narrow_binary(&params, datatype)
        made[op, datatype] = make_kernel(_binary, &params, sizeof(params))
        entry += 1
    return made


cdef dict _stepwise_unary():
    cdef dict made = {}
    cdef const trt_unary_entry *entry = stepwise_unary_entries()
    cdef trt_unary_params params
    while entry.op != NULL:
        datatype = datatype_of(entry.type)
        params.loop, params.out_type = entry.loop, cnp.NPY_FLOAT32
        _narrow_unary(&params, datatype)
        made[entry.op.decode(), datatype] = make_kernel(_unary, &params, sizeof(params))
        entry += 1
    return made


cdef dict binary_kernels(const trt_binary_entry *entry, bint broadcasts):
    cdef dict made = {}, stepwise = _stepwise_binary()
    cdef trt_binary_params params
    cdef kernel_fn fn
    while entry.op != NULL:
        op = entry.op.decode()
        fn = _add_n if op == "AddN" else _binary
        fill_binary(&params, entry, broadcasts)
        made[op, datatype_of(entry.type), datatype_of(entry.out_type)] = make_kernel(fn, &params, sizeof(params))
        for datatype in (HALF, BFLOAT16) if entry.type == cnp.NPY_FLOAT32 else ():
            fill_binary(&params, entry, broadcasts)
            narrow_binary(&params, datatype)
            out = datatype if entry.out_type == cnp.NPY_FLOAT32 else datatype_of(entry.out_type)
            made[op, datatype, out] = stepwise.get((op, datatype)) or make_kernel(fn, &params, sizeof(params))
        entry += 1
    return made


cdef int fill_unary(trt_unary_params *params, const trt_unary_entry *entry) except -1:
    params.loop, params.widen, params.narrow = entry.loop, NULL, NULL
    params.type, params.out_type = entry.type, entry.out_type
    params.size, params.out_size = item_size(entry.type), item_size(entry.out_type)
    return 0


cdef CompiledKernel unary_kernel(const trt_unary_params *params):
    return make_kernel(_unary, params, sizeof(trt_unary_params))


cdef dict unary_kernels(const trt_unary_entry *entry):
    cdef dict made = {}, stepwise = _stepwise_unary()
    cdef trt_unary_params params
    while entry.op != NULL:
        op = entry.op.decode()
        fill_unary(&params, entry)
        made[op, datatype_of(entry.type), datatype_of(entry.out_type)] = unary_kernel(&params)
        for datatype in (HALF, BFLOAT16) if entry.type == cnp.NPY_FLOAT32 else ():
            fill_unary(&params, entry)
            _narrow_unary(&params, datatype)
            out = datatype if entry.out_type == cnp.NPY_FLOAT32 else datatype_of(entry.out_type)
            made[op, datatype, out] = stepwise.get((op, datatype)) or unary_kernel(&params)
        entry += 1
    return made


cdef dict _kernels = {**binary_kernels(trt_binary_entries(simd.level), True),
                      **unary_kernels(trt_unary_entries(simd.level))}
OPS = frozenset([op for op, _, _ in _kernels])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return _kernels.get((op, input_types[0], output_types[0]))
