"""Activations, their gradients, the gradients of functions, and biases; for float32, float64, half and bfloat16.

As in `runtime._ext.kernels.elementwise`: C-contiguous arrays, aligned or not, and a dying input takes the result.
"""

cimport numpy as cnp
from cpython.object cimport PyObject

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.elementwise cimport (
    binary_kernels,
    datatype_of,
    fill_binary,
    item_size,
    narrow_binary,
    trt_binary_entry,
    trt_binary_loop,
    trt_binary_params,
    trt_unary_entry,
    unary_kernels,
)
from runtime._ext.kernels.narrow cimport BFLOAT16, HALF, narrow_of, over_float, widen_of
from runtime._ext.running_step cimport spare_arrays, trt_spares
from runtime._ext.worker_pool cimport parallel_ranges, range_fn

cnp.import_array()

cdef extern from "kernels/activations.h":
    trt_spares *trt_spares_here
    void trt_share_by(void (*share)(range_fn run, void *context, Py_ssize_t size, Py_ssize_t grain) noexcept nogil)

    ctypedef void (*trt_sloped_loop)(char *out, const char *gradients, const char *features, double slope,
                                     cnp.npy_intp count) noexcept nogil

    ctypedef struct trt_leaky_params:
        trt_binary_params work
        double slope
        float slope_f32
        unsigned short slope_16

    ctypedef struct trt_leaky_grad_params:
        trt_sloped_loop loop
        double slope
        int type
        int size

    const trt_unary_entry *trt_activation_entries(int level)
    const trt_binary_entry *trt_gradient_entries(int level)
    const trt_binary_entry *trt_slope_entries(int level)
    const trt_binary_entry *trt_bias_entries(int level)
    trt_sloped_loop trt_leaky_grad_of_f32(int level)
    trt_sloped_loop trt_leaky_grad_of_f64(int level)
    int trt_bias_add(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                     const trt_bias_params *params) except -1
    int trt_leaky_relu(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                       const trt_leaky_params *params) except -1
    int trt_leaky_relu_grad(PyObject **inputs, PyObject **outputs, unsigned int reusable,
                            const trt_leaky_grad_params *params) except -1

trt_spares_here = spare_arrays()
trt_share_by(parallel_ranges)

cdef enum:
    FLOAT = 1
    DOUBLE = 2


cdef int _bias_add(KernelCall *call) except -1:
    return trt_bias_add(call.inputs, call.outputs, call.reusable, <const trt_bias_params *>call.params)


cdef int _leaky_relu(KernelCall *call) except -1:
    return trt_leaky_relu(call.inputs, call.outputs, call.reusable, <const trt_leaky_params *>call.params)


cdef int _leaky_relu_grad(KernelCall *call) except -1:
    return trt_leaky_relu_grad(call.inputs, call.outputs, call.reusable, <const trt_leaky_grad_params *>call.params)


cdef bint is_bias_add(CompiledKernel kernel):
    return kernel.fn == _bias_add


cdef CompiledKernel _make_bias_add(int datatype, bint channels_first):
    cdef trt_bias_params params
    cdef const trt_binary_entry *entry = trt_bias_entries(simd.level)
    cdef bint is_narrow = datatype == HALF or datatype == BFLOAT16
    while entry.op != NULL:
        if datatype_of(entry.type) == (FLOAT if is_narrow else datatype):
            fill_binary(&params.add, entry, True)
            if is_narrow:
                narrow_binary(&params.add, datatype)
            params.channels_first = channels_first
            return make_kernel(_bias_add, &params, sizeof(params))
        entry += 1
    return None


cdef CompiledKernel _make_leaky_relu(int datatype, double slope):
    cdef trt_leaky_params params
    cdef const trt_binary_entry *entry = trt_slope_entries(simd.level)
    cdef bytes name = b"LeakyRelu" if slope < 1 else b"steep LeakyRelu"
    cdef bint is_narrow = datatype == HALF or datatype == BFLOAT16
    while entry.op != NULL:
        if datatype_of(entry.type) == (FLOAT if is_narrow else datatype) and entry.op == name:
            fill_binary(&params.work, entry, True)
            params.slope = slope
            params.slope_f32 = <float>slope
            if is_narrow:
                narrow_binary(&params.work, datatype)
                narrow_of(datatype)(<char *>&params.slope_16, &params.slope_f32, 1)
            return make_kernel(_leaky_relu, &params, sizeof(params))
        entry += 1
    return None


cdef CompiledKernel _make_leaky_relu_grad(int datatype, double slope):
    cdef trt_leaky_grad_params params
    if datatype == HALF or datatype == BFLOAT16:
        return over_float(_make_leaky_relu_grad(FLOAT, _rounded(slope, datatype)), datatype, 3, 1)
    if datatype == FLOAT:
        params.loop, params.type = trt_leaky_grad_of_f32(simd.level), cnp.NPY_FLOAT32
    elif datatype == DOUBLE:
        params.loop, params.type = trt_leaky_grad_of_f64(simd.level), cnp.NPY_FLOAT64
    else:
        return None
    params.size = item_size(params.type)
    params.slope = slope
    return make_kernel(_leaky_relu_grad, &params, sizeof(params))


cdef float _rounded(float value, int datatype) noexcept:
    """Return the nearest number of half or bfloat16."""
    cdef unsigned short narrow
    cdef float wide
    narrow_of(datatype)(<char *>&narrow, &value, 1)
    widen_of(datatype)(&wide, <const char *>&narrow, 1)
    return wide


cdef dict _kernels = {**unary_kernels(trt_activation_entries(simd.level)),
                      **binary_kernels(trt_gradient_entries(simd.level), False)}
OPS = frozenset([op for op, _, _ in _kernels]) | {"BiasAdd", "BiasAddV1", "LeakyRelu", "LeakyReluGrad"}


def select(str op, input_types, output_types, attr):
    """Return the kernel of a node, or None; see `runtime._ext.kernels.select`."""
    if op == "BiasAdd" or op == "BiasAddV1":
        return _make_bias_add(input_types[0], op == "BiasAdd" and attr("data_format") == b"NCHW")
    if op == "LeakyRelu":
        return _make_leaky_relu(input_types[0], attr("alpha"))
    if op == "LeakyReluGrad":
        return _make_leaky_relu_grad(input_types[0], attr("alpha"))
    return _kernels.get((op, input_types[0], output_types[0]))
