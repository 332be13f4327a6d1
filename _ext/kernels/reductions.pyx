"""Reductions over any axes, gradients of biases, and where the largest and smallest elements are.

Made for C-contiguous arrays of float32, float64, int32, int64 and, for All and Any, bool. Sums of floating-point
numbers are pairwise in either direction.
"""

cimport numpy as cnp
from cpython.object cimport PyObject

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport datatype_of, item_size

cnp.import_array()

cdef extern from "kernels/reductions.h":
    ctypedef void (*trt_reduce_loop)(char *out, const char *x, cnp.npy_intp rows, cnp.npy_intp count) noexcept nogil
    ctypedef void (*trt_arg_loop)(cnp.int64_t *out, const char *x, cnp.npy_intp count,
                                  cnp.npy_intp inner) noexcept nogil

    ctypedef struct trt_reduction_entry:
        const char *op
        int type
        trt_reduce_loop rows
        trt_reduce_loop columns

    ctypedef struct trt_arg_entry:
        const char *op
        int type
        trt_arg_loop loop

    ctypedef struct trt_reduce_params:
        trt_reduce_loop rows
        trt_reduce_loop columns
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

cdef enum:
    INT32 = 3


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
        params.type, params.size = entry.type, item_size(entry.type)
        params.is_mean = op == "Mean"
        for second in (False, True):
            params.keeps_axes, params.channel_axis = second, 0
            kernel = _reduce
            if op == "BiasAddGrad":
                params.keeps_axes, params.channel_axis = False, 1 if second else -1
                kernel = _bias_grad
            made[op, datatype_of(entry.type), second] = make_kernel(kernel, &params, sizeof(params))
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
            made[entry.op.decode(), datatype_of(entry.type), datatype_of(out_type)] = make_kernel(
                _arg_extremum, &params, sizeof(params))
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
