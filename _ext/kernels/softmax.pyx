"""Softmax, LogSoftmax and the cross entropies, dense and sparse, of float32 and float64; half and bfloat16 in float32.

One pass over the rows, in blocks, by several threads where there are many. What has the wrong shape, or a label out of
range, is declined: the Python definition says what is wrong with it.
"""

cimport numpy as cnp
from cpython.object cimport PyObject

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.narrow cimport BFLOAT16, HALF, over_float
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/softmax.h":
    ctypedef void (*trt_softmax_loop)(const void *work, cnp.npy_intp begin, cnp.npy_intp end) noexcept nogil
    ctypedef void (*trt_share_rows)(range_fn run, void *context, Py_ssize_t rows, Py_ssize_t grain) noexcept nogil

    ctypedef struct trt_softmax_params:
        trt_softmax_loop loop
        trt_share_rows share
        int kind
        int type
        int label_type

    enum:
        TRT_SOFTMAX_ALONE
        TRT_LOG_SOFTMAX
        TRT_CROSS_ENTROPY
        TRT_SPARSE_CROSS_ENTROPY

    trt_softmax_loop trt_softmax_of_f32(int level)
    trt_softmax_loop trt_softmax_of_f64(int level)
    int trt_softmax(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                    const trt_softmax_params *params) except -1

cdef enum:
    FLOAT = 1
    DOUBLE = 2
    INT32 = 3
    INT64 = 9

cdef dict _KINDS = {"Softmax": TRT_SOFTMAX_ALONE, "LogSoftmax": TRT_LOG_SOFTMAX,
                    "SoftmaxCrossEntropyWithLogits": TRT_CROSS_ENTROPY,
                    "SparseSoftmaxCrossEntropyWithLogits": TRT_SPARSE_CROSS_ENTROPY}
OPS = frozenset(_KINDS)


cdef int _softmax(KernelCall *call) except -1:
    return trt_softmax(call.inputs, call.outputs, call.reusable, <const trt_softmax_params *>call.params)


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    cdef trt_softmax_params params
    cdef int datatype = input_types[0]
    if datatype == HALF or datatype == BFLOAT16:
        labelled = op != "Softmax" and op != "LogSoftmax"
        inner = select(op, [FLOAT, FLOAT if op == "SoftmaxCrossEntropyWithLogits" else input_types[len(input_types) - 1]],
                       output_types, attr)
        if inner is None:
            return None
        return over_float(inner, datatype, 3 if op == "SoftmaxCrossEntropyWithLogits" else 1, 3 if labelled else 1)
    if datatype != FLOAT and datatype != DOUBLE:
        return None
    params.loop = trt_softmax_of_f32(simd.level) if datatype == FLOAT else trt_softmax_of_f64(simd.level)
    params.share = parallel_ranges
    params.kind = _KINDS[op]
    params.type = params.label_type = cnp.NPY_FLOAT32 if datatype == FLOAT else cnp.NPY_FLOAT64
    if params.kind == TRT_SPARSE_CROSS_ENTROPY:
        if input_types[1] != INT32 and input_types[1] != INT64:
            return None
        params.label_type = cnp.NPY_INT32 if input_types[1] == INT32 else cnp.NPY_INT64
    return make_kernel(_softmax, &params, sizeof(params))
