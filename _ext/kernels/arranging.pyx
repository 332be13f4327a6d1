"""Split, SplitV, Tile, BroadcastTo and Pad of any type that is plain bytes, and shapes for gradients.

Layouts do not matter: whatever the strides, results are C-contiguous, and parts that are so already are views.
"""

cimport numpy as cnp
from cpython.object cimport PyObject

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/arranging.h":
    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)
    int trt_split(PyObject **inputs, PyObject **outputs, int count) except -1
    int trt_split_v(PyObject **inputs, PyObject **outputs, int count) except -1
    int trt_tile(PyObject **inputs, PyObject **outputs) except -1
    int trt_broadcast_to(PyObject **inputs, PyObject **outputs) except -1
    int trt_pad(PyObject **inputs, PyObject **outputs, int num_inputs) except -1
    int trt_broadcast_gradient_args(PyObject **inputs, PyObject **outputs) except -1
    int trt_concat_offset(PyObject **inputs, PyObject **outputs, int count) except -1

trt_share_by(parallel_ranges)


cdef int _split(KernelCall *call) except -1:
    if call.num_outputs < 1:
        return 1
    return trt_split(call.inputs, call.outputs, call.num_outputs)


cdef int _split_v(KernelCall *call) except -1:
    return trt_split_v(call.inputs, call.outputs, call.num_outputs)


cdef int _tile(KernelCall *call) except -1:
    return trt_tile(call.inputs, call.outputs)


cdef int _broadcast_to(KernelCall *call) except -1:
    return trt_broadcast_to(call.inputs, call.outputs)


cdef int _pad(KernelCall *call) except -1:
    return trt_pad(call.inputs, call.outputs, call.num_inputs)


cdef int _broadcast_gradient_args(KernelCall *call) except -1:
    return trt_broadcast_gradient_args(call.inputs, call.outputs)


cdef int _concat_offset(KernelCall *call) except -1:
    return trt_concat_offset(call.inputs, call.outputs, call.num_outputs)


cdef dict _kernels = {
    "Split": make_kernel(_split, NULL, 0),
    "SplitV": make_kernel(_split_v, NULL, 0),
    "Tile": make_kernel(_tile, NULL, 0),
    "BroadcastTo": make_kernel(_broadcast_to, NULL, 0),
    "Pad": make_kernel(_pad, NULL, 0),
    "PadV2": make_kernel(_pad, NULL, 0),
    "BroadcastGradientArgs": make_kernel(_broadcast_gradient_args, NULL, 0),
    "ConcatOffset": make_kernel(_concat_offset, NULL, 0),
}
OPS = frozenset(_kernels)


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    return _kernels[op]
