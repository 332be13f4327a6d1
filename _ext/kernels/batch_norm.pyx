"""FusedBatchNorm and its gradient in all versions, channels first or last, images and volumes.

For float32, and images of half or bfloat16 with statistics of float32. Training and inference. Other types, empty images and statistics of the wrong shape are left to the Python definitions.
"""

cimport numpy as cnp
from cpython.object cimport PyObject

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.narrow cimport BFLOAT16, HALF, over_float
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/batch_norm.h":
    ctypedef struct trt_norm_loops:
        pass

    ctypedef struct trt_norm_params:
        const trt_norm_loops *loops
        int rank
        int channels_first
        int training
        float epsilon
        float average_factor

    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)
    const trt_norm_loops *trt_norm_loops_of(int level)
    int trt_batch_norm(PyObject **inputs, PyObject **outputs, int num_outputs, unsigned int reusable,
                       const trt_norm_params *params) except -1
    int trt_batch_norm_grad(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                            const trt_norm_params *params) except -1

trt_share_by(parallel_ranges)

cdef enum:
    FLOAT = 1

OPS = frozenset(["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "FusedBatchNormGrad",
                 "FusedBatchNormGradV2", "FusedBatchNormGradV3"])


cdef int _forward(KernelCall *call) except -1:
    return trt_batch_norm(call.inputs, call.outputs, call.num_outputs, call.reusable,
                          <const trt_norm_params *>call.params)


cdef int _gradient(KernelCall *call) except -1:
    return trt_batch_norm_grad(call.inputs, call.outputs, call.reusable, <const trt_norm_params *>call.params)


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    cdef trt_norm_params params
    cdef bint is_gradient = "Grad" in op
    if input_types[0] == HALF or input_types[0] == BFLOAT16:
        inner = select(op, [FLOAT], [FLOAT, *output_types[1:]], attr)
        return None if inner is None else over_float(inner, input_types[0], 3 if is_gradient else 1, 1)
    if any([kind != FLOAT for kind in output_types]):
        return None
    layout = attr("data_format")
    params.loops = trt_norm_loops_of(simd.level)
    params.rank = <int>len(layout)
    params.channels_first = layout.startswith(b"NC")
    params.training = bool(attr("is_training"))
    params.epsilon = attr("epsilon")
    if is_gradient:
        params.average_factor = 1
        return make_kernel(_gradient, &params, sizeof(params))
    params.average_factor = attr("exponential_avg_factor", 1.0)
    return make_kernel(_forward, &params, sizeof(params))
