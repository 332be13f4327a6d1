"""Gather, GatherV2, ResourceGather, OneHot, Select and SelectV2 of any type that is plain bytes.

An index out of range is declined: the Python definition names it. So are batch dimensions.
"""

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.variable_access cimport TRT_IS_ARRAY, TRT_NDIM, TRT_TYPE, find_variable
from runtime._ext.variable cimport Variable
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

from runtime._ext import datatypes

cnp.import_array()

cdef extern from "kernels/picking.h":
    ctypedef void *trt_choose_by_size

    ctypedef struct trt_select_params:
        trt_choose_by_size loops
        int by_rows

    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)
    trt_choose_by_size trt_choose_of(int level)
    int trt_gather(PyObject **inputs, PyObject **outputs, int num_inputs) except -1
    int trt_one_hot(PyObject **inputs, PyObject **outputs, int axis) except -1
    int trt_select(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                   const trt_select_params *params) except -1

trt_share_by(parallel_ranges)

OPS = frozenset(["Gather", "GatherV2", "ResourceGather", "OneHot", "Select", "SelectV2"])


cdef int _gather(KernelCall *call) except -1:
    return trt_gather(call.inputs, call.outputs, call.num_inputs)


cdef int _resource_gather(KernelCall *call) except -1:
    cdef PyObject *variable = find_variable(call.inputs[0], True)
    cdef PyObject *pair[2]
    cdef int status
    if variable == NULL or (<Variable>variable).is_locked():
        return 1
    pair[0] = <PyObject *>(<Variable>variable).value
    pair[1] = call.inputs[1]
    if not TRT_IS_ARRAY(pair[0]) or TRT_TYPE(pair[0]) != (<int *>call.params)[0] or TRT_NDIM(pair[0]) == 0:
        return 1
    # one more reference: whoever writes meanwhile then makes a copy first
    Py_INCREF(<object>pair[0])
    try:
        status = trt_gather(pair, call.outputs, 2)
    finally:
        Py_DECREF(<object>pair[0])
    return status


cdef int _one_hot(KernelCall *call) except -1:
    return trt_one_hot(call.inputs, call.outputs, (<int *>call.params)[0])


cdef int _select(KernelCall *call) except -1:
    return trt_select(call.inputs, call.outputs, call.reusable, <const trt_select_params *>call.params)


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    cdef trt_select_params params
    cdef int value
    if op == "Gather" or op == "GatherV2":
        return None if op == "GatherV2" and attr("batch_dims") else make_kernel(_gather, NULL, 0)
    if op == "ResourceGather":
        if attr("batch_dims"):
            return None
        value = datatypes.dtype_of(output_types[0]).num
        return make_kernel(_resource_gather, &value, sizeof(value))
    if op == "OneHot":
        value = attr("axis")
        return make_kernel(_one_hot, &value, sizeof(value))
    params.loops = trt_choose_of(simd.level)
    params.by_rows = op == "Select"
    return make_kernel(_select, &params, sizeof(params))
