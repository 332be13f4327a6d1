"""Reductions over any axes, gradients of biases, and where the largest and smallest elements are.

Made for C-contiguous arrays of float32, float64, half and bfloat16 (in float32, rounded once), int32, int64 and, for All
and Any, bool. Sums of floating-point numbers are pairwise in either direction. Large arrays are reduced in parts, by
several threads; the parts depend on the sizes alone.
"""

cimport numpy as cnp
from cpython.object cimport PyObject

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport datatype_of, item_size
from runtime._ext.kernels.narrow cimport (
    BFLOAT16,
    HALF,
    narrow_fn,
    narrow_of,
    narrow_type,
    over_float,
    widen_fn,
    widen_of,
)
from runtime._ext.running_step cimport spare_arrays, trt_spares
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/reductions.h":
    trt_spares *trt_spares_here
    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)

    ctypedef void (*trt_rows_loop)(char *out, const char *x, cnp.npy_intp rows, cnp.npy_intp count) noexcept nogil
    ctypedef void (*trt_columns_loop)(char *out, const char *x, cnp.npy_intp rows, cnp.npy_intp step,
                                      cnp.npy_intp width) noexcept nogil
    ctypedef void (*trt_arg_loop)(cnp.int64_t *out, const char *x, cnp.npy_intp count, cnp.npy_intp inner,
                                  cnp.npy_intp width) noexcept nogil

    ctypedef struct trt_reduction_entry:
        const char *op
        int type
        trt_rows_loop rows
        trt_columns_loop columns

    ctypedef struct trt_arg_entry:
        const char *op
        int type
        trt_arg_loop loop

    ctypedef struct trt_reduce_params:
        trt_rows_loop rows
        trt_columns_loop columns
        widen_fn widen
        narrow_fn narrow
        int type
        int size
        int keeps_axes
        int is_mean
        int channel_axis

    ctypedef struct trt_arg_params:
        trt_arg_loop loop
        int type
        int out_type
        int size

    const trt_reduction_entry *trt_reduction_entries(int level)
    const trt_arg_entry *trt_arg_entries(int level)
    int trt_reduce(PyObject **inputs, PyObject **outputs, const trt_reduce_params *params) except -1
    int trt_bias_grad(PyObject **inputs, PyObject **outputs, const trt_reduce_params *params) except -1
    int trt_arg_extremum(PyObject **inputs, PyObject **outputs, const trt_arg_params *params) except -1

trt_spares_here = spare_arrays()
trt_share_by(parallel_ranges)


cdef int _reduce(KernelCall *call) except -1:
    return trt_reduce(call.inputs, call.outputs, <const trt_reduce_params *>call.params)


cdef int _bias_grad(KernelCall *call) except -1:
    return trt_bias_grad(call.inputs, call.outputs, <const trt_reduce_params *>call.params)


cdef int _arg_extremum(KernelCall *call) except -1:
    return trt_arg_extremum(call.inputs, call.outputs, <const trt_arg_params *>call.params)


cdef dict _make_reductions():
    """Return kernels by op, type and whether the axes are kept; BiasAddGrad by whether the channels come first."""
    cdef dict made = {}
    cdef trt_reduce_params params
    cdef const trt_reduction_entry *entry = trt_reduction_entries(simd.level)
    cdef bint second
    while entry.op != NULL:
        op = entry.op.decode()
        params.rows, params.columns = entry.rows, entry.columns
        params.is_mean = op == "Mean"
        own = datatype_of(entry.type)
        for datatype in [own, HALF, BFLOAT16] if entry.type == cnp.NPY_FLOAT32 else [own]:
            params.widen, params.narrow = widen_of(datatype), narrow_of(datatype)
            params.type = entry.type if datatype == own else narrow_type(datatype)
            params.size = item_size(entry.type) if datatype == own else 2
            for second in (False, True):
                params.keeps_axes, params.channel_axis = second, 0
                kernel = _reduce
                if op == "BiasAddGrad":
                    params.keeps_axes, params.channel_axis = False, 1 if second else -1
                    kernel = _bias_grad
                made[op, datatype, second] = make_kernel(kernel, &params, sizeof(params))
        entry += 1
    return made


cdef dict _make_args():
    cdef dict made = {}
    cdef trt_arg_params params
    cdef const trt_arg_entry *entry = trt_arg_entries(simd.level)
    cdef int out_type
    while entry.op != NULL:
        params.loop, params.type, params.size = entry.loop, entry.type, item_size(entry.type)
        for out_type in (cnp.NPY_INT32, cnp.NPY_INT64):
            params.out_type = out_type
            op, out = entry.op.decode(), datatype_of(out_type)
            kernel = make_kernel(_arg_extremum, &params, sizeof(params))
            made[op, datatype_of(entry.type), out] = kernel
            for datatype in [HALF, BFLOAT16] if entry.type == cnp.NPY_FLOAT32 else []:
                made[op, datatype, out] = over_float(kernel, datatype, 1, 0)
        entry += 1
    return made


cdef dict _reductions = _make_reductions()
cdef dict _args = _make_args()
OPS = frozenset([op for op, _, _ in _reductions] + [op for op, _, _ in _args])


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    if op == "ArgMax" or op == "ArgMin":
        return _args.get((op, input_types[0], output_types[0]))
    if op == "BiasAddGrad":
        return _reductions.get((op, input_types[0], attr("data_format") == b"NCHW"))
    return _reductions.get((op, input_types[0], bool(attr("keep_dims"))))
