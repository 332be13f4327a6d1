"""DepthwiseConv2dNative and its two gradients, for floats and doubles, and for 16-bit floats by way of float.

As with Conv2D, images and filters may lie in memory in any way, the gradient of the input is a convolution of the
output's gradient with the turned filter, and what does not fit is declined.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdlib cimport free
from libc.string cimport memset

cimport numpy as cnp

import ml_dtypes
import numpy as np

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.windows cimport (
    WindowAttrs, asked_sizes, fit, fits_gradient, image_dims, image_steps, in_layout, place_axis, read_window_attrs,
    trt_conv_axis, trt_is_image, turn_axis,
)
from runtime._ext.running_step cimport stop_flag
from runtime._ext.worker_pool cimport parallel_for

cnp.import_array()

cdef extern from "kernels/conv_depthwise.h" nogil:
    ctypedef struct trt_depthwise:
        int is_double, level
        Py_ssize_t batch, channels, multiplier, filter_multiplier
        trt_conv_axis axes[2]
        const char *image
        Py_ssize_t image_steps[4]
        const char *filter
        Py_ssize_t filter_steps[4]
        void *out
        Py_ssize_t out_steps[3]
        Py_ssize_t row_boxes, column_boxes, channel_boxes, slices, padded_channels
        char *packed
        char *partial
        const int *stop
        int failed
    int trt_conv_scratch_init()
    char *trt_conv_memory(Py_ssize_t bytes)
    double trt_depth_multiplications(const trt_depthwise *work)
    int trt_depth_plan(trt_depthwise *work, int of_filter)
    void trt_depth_pack(trt_depthwise *work)
    void trt_depth_task(void *work, Py_ssize_t index) noexcept
    void trt_depth_filter_task(void *work, Py_ssize_t index) noexcept
    void trt_depth_add_slices(const trt_depthwise *work)

cdef enum:
    # Multiplications from which on the GIL is given up, and from which on the work is shared.
    LONG_WORK = 1 << 17
    SHARED_FROM = 1 << 18

cdef struct Params:
    int type_number             # of the tensors
    int computed                # NPY_FLOAT or NPY_DOUBLE
    WindowAttrs windows

OPS = ("DepthwiseConv2dNative", "DepthwiseConv2dNativeBackpropInput", "DepthwiseConv2dNativeBackpropFilter")

# numpy's type numbers by DataType
cdef dict _NUMBERS = {1: cnp.NPY_FLOAT, 2: cnp.NPY_DOUBLE, 19: cnp.NPY_FLOAT16, 14: np.dtype(ml_dtypes.bfloat16).num}


def select(str op, input_types, output_types, attr):
    """Return the kernel of a depthwise convolution, or None; see `runtime._ext.kernels.select`."""
    cdef Params params
    number = _NUMBERS.get(output_types[0])
    if number is None or not read_window_attrs(&params.windows, attr("data_format"), attr("padding"), attr("strides"),
                                               attr("dilations"), attr("explicit_paddings")):
        return None
    params.type_number = number
    params.computed = cnp.NPY_DOUBLE if number == cnp.NPY_DOUBLE else cnp.NPY_FLOAT
    if op == "DepthwiseConv2dNative":
        return make_kernel(_forward, &params, sizeof(Params))
    if op == "DepthwiseConv2dNativeBackpropInput":
        return make_kernel(_backprop_input, &params, sizeof(Params))
    return make_kernel(_backprop_filter, &params, sizeof(Params))


cdef cnp.ndarray _operand(Params *params, PyObject *value):
    """Return an image or a filter in the type of the computation; None when it is not one."""
    if not trt_is_image(value, params.type_number) or not fit(cnp.PyArray_DIMS(<cnp.ndarray>value)):
        return None
    if params.type_number == params.computed:
        return <cnp.ndarray>value
    return (<object>value).astype(np.float32)


cdef int _answer(Params *params, KernelCall *call, cnp.ndarray result, like) except -1:
    """Store a result in the type of the tensors."""
    if params.type_number != params.computed:
        result = result.astype(like.dtype)
    Py_INCREF(result)
    call.outputs[0] = <PyObject *>result
    return 0


cdef void _describe(Params *params, trt_depthwise *work, cnp.ndarray image, cnp.ndarray weights) noexcept:
    """Fill in what the windows move over, and the filter or an output's gradient."""
    cdef int place
    work.is_double, work.level = params.computed == cnp.NPY_DOUBLE, simd.level
    work.batch = cnp.PyArray_DIM(image, 0)
    work.image, work.filter = cnp.PyArray_BYTES(image), cnp.PyArray_BYTES(weights)
    image_steps(&params.windows, image, work.image_steps)
    for place in range(4):
        work.filter_steps[place] = cnp.PyArray_STRIDE(weights, place)
    work.partial, work.stop = NULL, stop_flag()


cdef void _into(trt_depthwise *work, cnp.ndarray result) noexcept:
    """Fill in where a channels-last result goes."""
    work.out = cnp.PyArray_DATA(result)
    work.out_steps[2] = cnp.PyArray_DIM(result, 3)
    work.out_steps[1] = work.out_steps[2] * cnp.PyArray_DIM(result, 2)
    work.out_steps[0] = work.out_steps[1] * cnp.PyArray_DIM(result, 1)


cdef int _windows(trt_depthwise *work) noexcept nogil:
    """Compute a convolution: 0 done, 1 declined, -1 no memory."""
    cdef Py_ssize_t i, tasks
    if not trt_depth_plan(work, 0):
        return 1
    work.packed = trt_conv_memory(work.axes[0].taps * work.axes[1].taps * work.padded_channels *
                                  (8 if work.is_double else 4))
    if work.packed == NULL:
        return -1
    trt_depth_pack(work)
    tasks = work.batch * work.row_boxes * work.column_boxes * work.channel_boxes
    if trt_depth_multiplications(work) >= SHARED_FROM:
        parallel_for(trt_depth_task, work, tasks)
    else:
        for i in range(tasks):
            trt_depth_task(work, i)
    free(work.packed)
    return -1 if work.failed else 0


cdef int _filter(trt_depthwise *work) noexcept nogil:
    """Compute the gradient of a filter: 0 done, 1 declined, -1 no memory."""
    cdef Py_ssize_t i, tasks
    cdef bint shared = trt_depth_multiplications(work) >= SHARED_FROM
    if not trt_depth_plan(work, 1):
        return 1
    work.partial = trt_conv_memory(work.slices * work.axes[0].taps * work.axes[1].taps * work.padded_channels *
                                   (8 if work.is_double else 4))
    if work.partial == NULL:
        return -1
    tasks = work.slices * work.channel_boxes
    if shared:
        parallel_for(trt_depth_filter_task, work, tasks)
    else:
        for i in range(tasks):
            trt_depth_filter_task(work, i)
    if not work.failed:
        trt_depth_add_slices(work)
    free(work.partial)
    return -1 if work.failed else 0


cdef int _gave_up(int status) except -1:
    if status > 0:
        return 1
    raise MemoryError("no scratch memory for a convolution")


cdef int _forward(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_depthwise work
    cdef cnp.npy_intp spatial[2]
    cdef cnp.npy_intp dims[4]
    cdef int place, status = 0
    cdef cnp.ndarray image = _operand(params, call.inputs[0])
    cdef cnp.ndarray weights = _operand(params, call.inputs[1])
    cdef cnp.ndarray result
    if image is None or weights is None:
        return 1
    if image_dims(&params.windows, cnp.PyArray_DIMS(image), spatial) != cnp.PyArray_DIM(weights, 2):
        return 1
    for place in range(2):
        if not cnp.PyArray_DIM(weights, place) or not place_axis(
                &params.windows, place, spatial[place], cnp.PyArray_DIM(weights, place), &work.axes[place]):
            return 1
    dims[0], dims[1], dims[2] = cnp.PyArray_DIM(image, 0), work.axes[0].count, work.axes[1].count
    dims[3] = cnp.PyArray_DIM(weights, 2) * cnp.PyArray_DIM(weights, 3)
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)
    if cnp.PyArray_SIZE(result):
        _describe(params, &work, image, weights)
        work.channels = dims[3]
        work.multiplier = work.filter_multiplier = cnp.PyArray_DIM(weights, 3)
        _into(&work, result)
        if trt_depth_multiplications(&work) >= LONG_WORK:
            with nogil:
                status = _windows(&work)
        else:
            status = _windows(&work)
    if status:
        return _gave_up(status)
    return _answer(params, call, in_layout(&params.windows, result), <object>call.inputs[0])


cdef bint _fill_axes(Params *params, const cnp.npy_intp *image, const cnp.npy_intp *weights, cnp.ndarray gradient,
                     trt_conv_axis *axes) noexcept:
    """Fill in where the windows lie, for shapes in the layout of the attrs; False when they do not fit."""
    cdef cnp.npy_intp spatial[2]
    cdef int place
    if not fit(image) or not fit(weights) or image_dims(&params.windows, image, spatial) != weights[2]:
        return False
    for place in range(2):
        if not weights[place] or not place_axis(&params.windows, place, spatial[place], weights[place], &axes[place]):
            return False
    return fits_gradient(&params.windows, gradient, image[0], axes, weights[2] * weights[3])


cdef int _backprop_filter(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_depthwise work
    cdef cnp.npy_intp dims[4]
    cdef Py_ssize_t count
    cdef int status = 0
    cdef cnp.ndarray image = _operand(params, call.inputs[0])
    cdef cnp.ndarray gradient = _operand(params, call.inputs[2])
    cdef cnp.ndarray result
    if image is None or gradient is None or not asked_sizes(<object>call.inputs[1], dims, &count) or count != 4:
        return 1
    if not _fill_axes(params, cnp.PyArray_DIMS(image), dims, gradient, work.axes):
        return 1
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)
    if not cnp.PyArray_SIZE(gradient):
        memset(cnp.PyArray_DATA(result), 0, cnp.PyArray_NBYTES(result))
    elif cnp.PyArray_SIZE(result):
        _describe(params, &work, image, gradient)
        image_steps(&params.windows, gradient, work.filter_steps)
        work.channels = dims[2] * dims[3]
        work.multiplier = work.filter_multiplier = dims[3]
        work.out = cnp.PyArray_DATA(result)
        if trt_depth_multiplications(&work) >= LONG_WORK:
            with nogil:
                status = _filter(&work)
        else:
            status = _filter(&work)
    if status:
        return _gave_up(status)
    return _answer(params, call, result, <object>call.inputs[2])


cdef int _backprop_input(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_depthwise work
    cdef trt_conv_axis axes[2]
    cdef cnp.npy_intp sizes[4]
    cdef cnp.npy_intp dims[4]
    cdef Py_ssize_t count, multiplier
    cdef int status = 0
    cdef cnp.ndarray weights = _operand(params, call.inputs[1])
    cdef cnp.ndarray gradient = _operand(params, call.inputs[2])
    cdef cnp.ndarray result
    if weights is None or gradient is None or not asked_sizes(<object>call.inputs[0], sizes, &count) or count != 4:
        return 1
    if not _fill_axes(params, sizes, cnp.PyArray_DIMS(weights), gradient, axes):
        return 1
    multiplier = cnp.PyArray_DIM(weights, 3)
    dims[0] = sizes[0]
    dims[3] = image_dims(&params.windows, sizes, &dims[1]) * multiplier
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)  # of each output channel; summed over those of an input
    if not cnp.PyArray_SIZE(gradient):
        memset(cnp.PyArray_DATA(result), 0, cnp.PyArray_NBYTES(result))
    elif cnp.PyArray_SIZE(result):
        _describe(params, &work, gradient, weights)
        work.channels, work.multiplier, work.filter_multiplier = dims[3], 1, multiplier
        if <double>cnp.PyArray_SIZE(gradient) * weights.shape[0] * weights.shape[1] >= LONG_WORK:
            with nogil:
                status = _offsets(&work, axes, dims, cnp.PyArray_BYTES(result))
        else:
            status = _offsets(&work, axes, dims, cnp.PyArray_BYTES(result))
    if status:
        return _gave_up(status)
    if multiplier != 1:
        result = (<object>result).reshape(dims[0], dims[1], dims[2], cnp.PyArray_DIM(weights, 2), multiplier).sum(-1)
    return _answer(params, call, in_layout(&params.windows, result), <object>call.inputs[2])


cdef int _offsets(trt_depthwise *work, const trt_conv_axis *axes, const cnp.npy_intp *dims, char *result) noexcept nogil:
    """Compute the gradient of the input, the cells of each offset within the strides in turn."""
    cdef Py_ssize_t element = 8 if work.is_double else 4
    cdef Py_ssize_t row_step = dims[2] * dims[3], i, j
    cdef int status
    if axes[0].stride > 1 or axes[1].stride > 1:  # some cells may be covered by no window
        memset(result, 0, dims[0] * dims[1] * row_step * element)
    for i in range(min(axes[0].stride, dims[1])):
        turn_axis(&axes[0], i, &work.axes[0])
        for j in range(min(axes[1].stride, dims[2])):
            turn_axis(&axes[1], j, &work.axes[1])
            if not work.axes[0].taps or not work.axes[1].taps:
                continue
            work.out = result + (i * row_step + j * dims[3]) * element
            work.out_steps[0] = dims[1] * row_step
            work.out_steps[1] = axes[0].stride * row_step
            work.out_steps[2] = axes[1].stride * dims[3]
            status = _windows(work)
            if status:
                return status
    return 0


if trt_conv_scratch_init():
    raise MemoryError("no key left for the scratch memory of threads")
