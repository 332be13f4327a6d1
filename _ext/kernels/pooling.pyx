"""MaxPool, AvgPool and their gradients, for floats and doubles, and for 16-bit floats by way of float.

Images may be strided, misaligned, with the channels last or first: what is not one block with the channels last is
copied into one. What does not fit is declined, so that the Python definition answers it.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.string cimport memset

cimport numpy as cnp

import ml_dtypes
import numpy as np

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.windows cimport (
    LARGEST, WindowAttrs, asked_sizes, fit, image_dims, in_layout, is_output, place_windows, read_window_attrs,
    trt_is_image,
)
from runtime._ext.worker_pool cimport parallel_for

cnp.import_array()

cdef extern from "kernels/pooling.h" nogil:
    ctypedef struct trt_pooling:
        int is_double, is_average
        Py_ssize_t batch, channels
        Py_ssize_t size[2]
        Py_ssize_t count[2]
        Py_ssize_t stride[2]
        Py_ssize_t origin[2]
        Py_ssize_t window[2]
        const char *image
        const char *gradient
        char *out
        int level
        Py_ssize_t parts
        int failed
    void trt_pool_plan(trt_pooling *work)
    void trt_pool_task(void *work, Py_ssize_t index) noexcept

cdef enum:
    # Cells in all windows from which on the GIL is given up, and from which on the work is shared.
    LONG_WORK = 1 << 17
    SHARED_FROM = 1 << 18

cdef struct Params:
    int type_number             # of the tensors
    int computed                # NPY_FLOAT or NPY_DOUBLE
    bint is_average
    Py_ssize_t window[2]
    WindowAttrs windows

OPS = ("MaxPool", "MaxPoolGrad", "AvgPool", "AvgPoolGrad")

# numpy's type numbers by DataType
cdef dict _NUMBERS = {1: cnp.NPY_FLOAT, 2: cnp.NPY_DOUBLE, 19: cnp.NPY_FLOAT16, 14: np.dtype(ml_dtypes.bfloat16).num}


def select(str op, input_types, output_types, attr):
    """Return the kernel of a pooling of a floating-point type, or None; see `runtime._ext.kernels.select`."""
    cdef Params params
    cdef int place, axis
    number = _NUMBERS.get(output_types[0])
    window = attr("ksize")
    explicit = attr("explicit_paddings") if op.startswith("Max") else []
    if number is None or not read_window_attrs(&params.windows, attr("data_format"), attr("padding"), attr("strides"),
                                               [1, 1, 1, 1], explicit):
        return None
    if len(window) != 4 or window[0] != 1 or window[1 if params.windows.channels_first else 3] != 1:
        return None
    for place in range(2):
        axis = place + (2 if params.windows.channels_first else 1)
        if not 0 < window[axis] < LARGEST:
            return None
        params.window[place] = window[axis]
        if max(params.windows.before[place], params.windows.after[place]) >= window[axis]:
            return None
    params.type_number = number
    params.computed = cnp.NPY_DOUBLE if number == cnp.NPY_DOUBLE else cnp.NPY_FLOAT
    params.is_average = op.startswith("Avg")
    if op == "MaxPool" or op == "AvgPool":
        return make_kernel(_pool, &params, sizeof(Params))
    return make_kernel(_average_gradient if params.is_average else _maximum_gradient, &params, sizeof(Params))


cdef cnp.ndarray _operand(Params *params, PyObject *value):
    """Return an image as one block with the channels last, in the type of the computation; None when it is not one."""
    if not trt_is_image(value, params.type_number):
        return None
    image = <object>value
    if params.windows.channels_first:
        image = image.transpose(0, 2, 3, 1)
    if params.type_number != params.computed:
        return image.astype(np.float32, order="C")
    return image if (<cnp.ndarray>image).flags.c_contiguous else image.copy("C")


cdef int _answer(Params *params, KernelCall *call, cnp.ndarray result, like) except -1:
    """Store a channels-last result in the layout and the type of the tensors."""
    result = in_layout(&params.windows, result)
    if params.type_number != params.computed:
        result = result.astype(like.dtype)
    Py_INCREF(result)
    call.outputs[0] = <PyObject *>result
    return 0


cdef bint _fill(Params *params, trt_pooling *work, const cnp.npy_intp *dims) noexcept:
    """Describe the pooling of a channels-last image; False when its windows do not fit."""
    cdef int place
    if not fit(dims):
        return False
    work.is_double, work.is_average = params.computed == cnp.NPY_DOUBLE, params.is_average
    work.level = simd.level
    work.batch, work.channels = dims[0], dims[3]
    work.image = work.gradient = NULL
    for place in range(2):
        work.size[place], work.window[place] = dims[place + 1], params.window[place]
        work.stride[place] = params.windows.strides[place]
        if not place_windows(&params.windows, place, dims[place + 1], params.window[place], &work.count[place],
                             &work.origin[place]):
            return False
    return True


cdef int _run(trt_pooling *work) except -1:
    cdef double cells = (<double>work.batch * work.count[0] * work.count[1] * work.channels *
                         min(work.window[0], work.size[0]) * min(work.window[1], work.size[1]))
    cdef Py_ssize_t i, tasks
    trt_pool_plan(work)
    tasks = work.batch * work.parts
    if cells >= LONG_WORK:
        with nogil:
            if cells >= SHARED_FROM:
                parallel_for(trt_pool_task, work, tasks)
            else:
                for i in range(tasks):
                    trt_pool_task(work, i)
    else:
        for i in range(tasks):
            trt_pool_task(work, i)
    if work.failed:
        raise MemoryError("no memory for the cells of a window")
    return 0


cdef int _pool(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_pooling work
    cdef cnp.npy_intp dims[4]
    cdef cnp.ndarray image = _operand(params, call.inputs[0])
    cdef cnp.ndarray result
    if image is None or not _fill(params, &work, cnp.PyArray_DIMS(image)):
        return 1
    dims[0], dims[1], dims[2], dims[3] = work.batch, work.count[0], work.count[1], work.channels
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)
    if cnp.PyArray_SIZE(result):
        work.image, work.out = cnp.PyArray_BYTES(image), cnp.PyArray_BYTES(result)
        _run(&work)
    return _answer(params, call, result, <object>call.inputs[0])


cdef int _maximum_gradient(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_pooling work
    cdef cnp.ndarray image
    cdef cnp.ndarray gradient
    cdef cnp.ndarray result
    if not trt_is_image(call.inputs[1], params.type_number):
        return 1
    image, gradient = _operand(params, call.inputs[0]), _operand(params, call.inputs[2])
    if image is None or gradient is None or not _fill(params, &work, cnp.PyArray_DIMS(image)):
        return 1
    if not (is_output(&params.windows, <cnp.ndarray>call.inputs[1], work.batch, work.count, work.channels) and
            is_output(&params.windows, <cnp.ndarray>call.inputs[2], work.batch, work.count, work.channels)):
        return 1
    result = cnp.PyArray_EMPTY(4, cnp.PyArray_DIMS(image), params.computed, 0)
    work.image = cnp.PyArray_BYTES(image)
    _spread(&work, gradient, result)
    return _answer(params, call, result, <object>call.inputs[2])


cdef int _spread(trt_pooling *work, cnp.ndarray gradient, cnp.ndarray result) except -1:
    """Fill a gradient of an image."""
    if not cnp.PyArray_SIZE(gradient):
        memset(cnp.PyArray_DATA(result), 0, cnp.PyArray_NBYTES(result))
    elif cnp.PyArray_SIZE(result):
        work.gradient, work.out = cnp.PyArray_BYTES(gradient), cnp.PyArray_BYTES(result)
        _run(work)
    return 0


cdef int _average_gradient(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_pooling work
    cdef cnp.npy_intp dims[4]
    cdef cnp.npy_intp sizes[4]
    cdef Py_ssize_t count
    cdef cnp.ndarray gradient = _operand(params, call.inputs[1])
    cdef cnp.ndarray result
    if gradient is None or not asked_sizes(<object>call.inputs[0], sizes, &count) or count != 4:
        return 1
    dims[0] = sizes[0]
    dims[3] = image_dims(&params.windows, sizes, &dims[1])
    if not _fill(params, &work, dims):
        return 1
    if not is_output(&params.windows, <cnp.ndarray>call.inputs[1], work.batch, work.count, work.channels):
        return 1
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)
    _spread(&work, gradient, result)
    return _answer(params, call, result, <object>call.inputs[1])
