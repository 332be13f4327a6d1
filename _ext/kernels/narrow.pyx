"""Half and bfloat16 in kernels: computed in float32, rounded to the nearest.

Element-wise kernels widen a block at a time (see ``elementwise.h``); others run over widened copies of whole arrays.
Where a formula has several steps TensorFlow rounds after each: for those there are loops of their own.
"""

import ml_dtypes
import numpy

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, kernel_fn, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.running_step cimport spare_arrays, trt_spares
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/narrow.h":
    trt_spares *trt_spares_here
    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)
    widen_fn trt_widen_of_f16(int level)
    widen_fn trt_widen_of_bf16(int level)
    narrow_fn trt_narrow_of_f16(int level)
    narrow_fn trt_narrow_of_bf16(int level)
    const trt_unary_entry *trt_narrow_unary_entries(int level)
    const trt_binary_entry *trt_narrow_binary_entries(int level)
    bint trt_is_plain(PyObject *value, int type)
    PyObject *trt_widened(PyObject *x, widen_fn widen) except NULL
    PyObject *trt_narrowed(PyObject *x, narrow_fn narrow, int type) except NULL

trt_spares_here = spare_arrays()
trt_share_by(parallel_ranges)

cdef enum:
    MOST = 8  # inputs and outputs of a kernel for float32

cdef int _bfloat16 = numpy.dtype(ml_dtypes.bfloat16).num


cdef int narrow_type(int datatype) except -1:
    if datatype == HALF:
        return cnp.NPY_FLOAT16
    if datatype == BFLOAT16:
        return _bfloat16
    raise ValueError(f"type {datatype} is neither half nor bfloat16")


cdef widen_fn widen_of(int datatype) noexcept:
    if datatype == HALF:
        return trt_widen_of_f16(simd.level)
    return trt_widen_of_bf16(simd.level) if datatype == BFLOAT16 else NULL


cdef narrow_fn narrow_of(int datatype) noexcept:
    if datatype == HALF:
        return trt_narrow_of_f16(simd.level)
    return trt_narrow_of_bf16(simd.level) if datatype == BFLOAT16 else NULL


cdef const trt_unary_entry *stepwise_unary_entries():
    return trt_narrow_unary_entries(simd.level)


cdef const trt_binary_entry *stepwise_binary_entries():
    return trt_narrow_binary_entries(simd.level)


cdef struct OverFloat:
    kernel_fn fn
    void *params
    widen_fn widen
    narrow_fn narrow
    int type
    unsigned int inputs
    unsigned int outputs


cdef int _over_float(KernelCall *call) except -1:
    cdef const OverFloat *params = <const OverFloat *>call.params
    cdef PyObject *values[MOST]
    cdef PyObject *wide
    cdef KernelCall inner
    cdef int i, answer = 1
    if call.num_inputs > MOST or call.num_outputs > MOST:
        return 1
    for i in range(call.num_inputs):
        if params.inputs >> i & 1 and not trt_is_plain(call.inputs[i], params.type):
            return 1
    inner.inputs = values
    inner.outputs = call.outputs
    inner.num_inputs, inner.num_outputs = call.num_inputs, call.num_outputs
    inner.reusable = (call.reusable & ~params.inputs) | params.inputs
    inner.params = params.params
    for i in range(call.num_inputs):
        values[i] = NULL
    try:
        for i in range(call.num_inputs):
            values[i] = trt_widened(call.inputs[i], params.widen) if params.inputs >> i & 1 else call.inputs[i]
        answer = params.fn(&inner)
    finally:
        for i in range(call.num_inputs):
            if params.inputs >> i & 1:
                Py_XDECREF(values[i])
    if answer == 0:
        for i in range(call.num_outputs):
            if params.outputs >> i & 1:
                wide = call.outputs[i]
                call.outputs[i] = NULL
                try:
                    call.outputs[i] = trt_narrowed(wide, params.narrow, params.type)
                finally:
                    Py_XDECREF(wide)
    return answer


cdef CompiledKernel over_float(CompiledKernel inner, int datatype, unsigned int inputs, unsigned int outputs):
    cdef OverFloat params
    cdef CompiledKernel made
    params.fn, params.params = inner.fn, inner.params
    params.widen, params.narrow = widen_of(datatype), narrow_of(datatype)
    params.type = narrow_type(datatype)
    params.inputs, params.outputs = inputs, outputs
    made = make_kernel(_over_float, &params, sizeof(params))
    made.memory = (made.memory, inner.memory)
    return made
