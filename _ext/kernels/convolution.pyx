"""Conv2D and its two gradients, for floats and doubles, and for 16-bit floats by way of float.

Images may be strided, misaligned, with the channels last or first; filters have any strides. The gradient of the input
is a convolution of the output's gradient with the turned filter, one for each offset within a stride. What does not fit
is declined, so that the Python definition answers it.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free
from libc.string cimport memset

cimport numpy as cnp

import ml_dtypes
import numpy as np

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.finish cimport finishing_fn, trt_finish
from runtime._ext.kernels.gemm cimport available, multiply, trt_product
from runtime._ext.kernels.windows cimport (
    WindowAttrs, asked_sizes, fit, fits_gradient, image_dims, image_steps, in_layout, place_axis, read_window_attrs,
    trt_conv_axis, trt_is_image, turn_axis,
)
from runtime._ext.running_step cimport stop_flag
from runtime._ext.worker_pool cimport parallel_for, parallel_ranges

cnp.import_array()

cdef extern from "kernels/conv.h" nogil:
    ctypedef struct trt_conv:
        int is_double
        Py_ssize_t batch, groups, channels, depth
        trt_conv_axis axes[2]
        const char *image
        Py_ssize_t image_steps[4]
        const char *filter
        Py_ssize_t filter_steps[4]
        Py_ssize_t filter_group_step
        void *out
        Py_ssize_t out_steps[3]
        const trt_finish *finish
        const int *stop
    ctypedef struct trt_conv_plan:
        const trt_conv *work
        int level
        Py_ssize_t inner, panels, row_boxes, column_boxes, tap_parts, slices, out_size
        void *runs
        char *packed
        char *partial
        Py_ssize_t tile_boxes
        int failed, not_finite
    int trt_conv_scratch_init()
    double trt_conv_multiplications(const trt_conv *work)
    int trt_conv_plan_boxes(trt_conv_plan *plan, int of_filter)
    int trt_conv_plan_runs(trt_conv_plan *plan)
    void trt_conv_plan_slices(trt_conv_plan *plan)
    char *trt_conv_memory(Py_ssize_t bytes)
    Py_ssize_t trt_conv_packed_size(trt_conv_plan *plan)
    void trt_conv_pack_task(void *plan, Py_ssize_t index) noexcept
    void trt_conv_window_task(void *plan, Py_ssize_t index) noexcept
    void trt_conv_filter_task(void *plan, Py_ssize_t index) noexcept
    void trt_conv_add_slices(void *plan, Py_ssize_t begin, Py_ssize_t end) noexcept
    int trt_conv_plan_winograd(trt_conv_plan *plan, int of_filter)
    void trt_conv_pack_points(void *plan, Py_ssize_t index) noexcept
    void trt_conv_winograd_task(void *plan, Py_ssize_t index) noexcept
    void trt_conv_winograd_filter_task(void *plan, Py_ssize_t index) noexcept
    void trt_conv_winograd_add_slices(void *plan, Py_ssize_t begin, Py_ssize_t end) noexcept

cdef enum:
    # Multiplications from which on the GIL is given up, and from which on the work is shared.
    LONG_WORK = 1 << 20
    SHARED_FROM = 1 << 21

cdef struct Params:
    int type_number             # of the tensors
    int computed                # NPY_FLOAT or NPY_DOUBLE
    WindowAttrs windows

OPS = ("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter")

# numpy's type numbers by DataType
cdef dict _NUMBERS = {1: cnp.NPY_FLOAT, 2: cnp.NPY_DOUBLE, 19: cnp.NPY_FLOAT16, 14: np.dtype(ml_dtypes.bfloat16).num}


def select(str op, input_types, output_types, attr):
    """Return the kernel of a convolution of a floating-point type, or None; see `runtime._ext.kernels.select`."""
    cdef Params params
    number = _NUMBERS.get(output_types[0])
    if number is None or not read_window_attrs(&params.windows, attr("data_format"), attr("padding"), attr("strides"),
                                               attr("dilations"), attr("explicit_paddings")):
        return None
    params.type_number = number
    params.computed = cnp.NPY_DOUBLE if number == cnp.NPY_DOUBLE else cnp.NPY_FLOAT
    if op == "Conv2D":
        return make_kernel(_conv2d, &params, sizeof(Params))
    if op == "Conv2DBackpropInput":
        return make_kernel(_backprop_input, &params, sizeof(Params))
    return make_kernel(_backprop_filter, &params, sizeof(Params))


cdef cnp.ndarray _operand(Params *params, PyObject *value):
    """Return an image or a filter in the type of the computation; None when it is not one."""
    if not trt_is_image(value, params.type_number):
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


cdef bint _groups(Py_ssize_t channels, cnp.npy_intp *filter_dims, trt_conv *work) noexcept:
    """Fill in the groups of a forward convolution; False when the depths do not fit or nothing is there."""
    if not (filter_dims[0] and filter_dims[1] and filter_dims[2]) or channels % filter_dims[2]:
        return False
    work.groups = channels // filter_dims[2]
    if work.groups == 0 or filter_dims[3] % work.groups:
        return False
    work.channels, work.depth = filter_dims[2], filter_dims[3] // work.groups
    return True


# Running a plan


cdef bint _is_product(const trt_conv *work, const Py_ssize_t *steps) noexcept nogil:
    """Whether windows are single cells, and what is multiplied with them, of such steps, lies at even distances, too."""
    cdef const trt_conv_axis *down = &work.axes[0]
    cdef const trt_conv_axis *across = &work.axes[1]
    return (available() and work.groups == 1 and down.taps == 1 and across.taps == 1 and down.stride == 1 and
            across.stride == 1 and down.origin == 0 and across.origin == 0 and down.count == down.size and
            across.count == across.size and steps[1] == across.size * steps[2] and steps[0] == down.size * steps[1])


cdef int _window_product(trt_conv *work) noexcept nogil:
    """Compute a convolution of single cells as a product of matrices: 0 done, -1 no memory."""
    cdef trt_product product
    product.is_double = work.is_double
    product.rows = work.batch * work.axes[0].count * work.axes[1].count
    product.inner, product.columns = work.channels, work.depth
    product.a.data, product.a.row_step, product.a.column_step = work.image, work.image_steps[2], work.image_steps[3]
    product.b.data, product.b.row_step, product.b.column_step = work.filter, work.filter_steps[2], work.filter_steps[3]
    product.b.data += work.axes[0].first_tap * work.filter_steps[0] + work.axes[1].first_tap * work.filter_steps[1]
    product.c, product.c_step = work.out, work.out_steps[2]
    product.alone = product.adds = False
    product.finish, product.finish_row = work.finish, 0
    return multiply(&product)


cdef int _filter_product(trt_conv *work) noexcept nogil:
    """Compute the gradient of a filter of one entry as a product of matrices: 0 done, -1 no memory."""
    cdef trt_product product
    product.is_double = work.is_double
    product.inner = work.batch * work.axes[0].count * work.axes[1].count
    product.rows, product.columns = work.channels, work.depth
    product.a.data, product.a.row_step, product.a.column_step = work.image, work.image_steps[3], work.image_steps[2]
    product.b.data, product.b.row_step, product.b.column_step = work.filter, work.filter_steps[2], work.filter_steps[3]
    product.c, product.c_step = work.out, work.out_steps[2]
    product.alone = product.adds = False
    product.finish, product.finish_row = NULL, 0
    return multiply(&product)


cdef int _windows(trt_conv *work) noexcept nogil:
    """Compute a convolution: 0 done, 1 declined, -1 no memory."""
    cdef trt_conv_plan plan
    cdef int status
    cdef Py_ssize_t i, tasks, element = 8 if work.is_double else 4
    cdef bint shared = trt_conv_multiplications(work) >= SHARED_FROM
    if (_is_product(work, work.image_steps) and work.out_steps[1] == work.axes[1].count * work.out_steps[2] and
            work.out_steps[0] == work.axes[0].count * work.out_steps[1]):
        return _window_product(work)
    plan.work, plan.level, plan.failed = work, simd.level, 0
    plan.inner = work.axes[0].taps * work.axes[1].taps * work.channels
    if trt_conv_plan_winograd(&plan, 0):
        status = _winograd_windows(&plan)
        if status <= 0:
            return status
    if not trt_conv_plan_boxes(&plan, 0):
        return 1
    if not trt_conv_plan_runs(&plan):
        return -1
    plan.packed = trt_conv_memory(trt_conv_packed_size(&plan) * element)
    if plan.packed == NULL:
        free(plan.runs)
        return -1
    tasks = work.groups * plan.panels
    if shared and plan.inner * work.depth >= LONG_WORK:
        parallel_for(trt_conv_pack_task, &plan, tasks)
    else:
        for i in range(tasks):
            trt_conv_pack_task(&plan, i)
    tasks = work.batch * plan.row_boxes * plan.column_boxes * work.groups
    if shared:
        parallel_for(trt_conv_window_task, &plan, tasks)
    else:
        for i in range(tasks):
            trt_conv_window_task(&plan, i)
    free(plan.runs)
    free(plan.packed)
    return -1 if plan.failed else 0


cdef int _winograd_windows(trt_conv_plan *plan) noexcept nogil:
    """Compute a planned convolution by Winograd's algorithm: 0 done, 1 not all of it is finite, -1 no memory."""
    cdef const trt_conv *work = plan.work
    plan.packed = trt_conv_memory(36 * work.channels * work.depth * (8 if work.is_double else 4))
    if plan.packed == NULL:
        return -1
    parallel_for(trt_conv_pack_points, plan, plan.panels)
    parallel_for(trt_conv_winograd_task, plan, plan.tile_boxes)
    free(plan.packed)
    return -1 if plan.failed else plan.not_finite


cdef int _winograd_filter(trt_conv_plan *plan) noexcept nogil:
    """Compute a planned gradient of a filter by Winograd's algorithm: 0 done, 1 not all of it is finite, -1 no memory."""
    cdef const trt_conv *work = plan.work
    plan.partial = trt_conv_memory(36 * plan.slices * work.channels * work.depth * (8 if work.is_double else 4))
    if plan.partial == NULL:
        return -1
    parallel_for(trt_conv_winograd_filter_task, plan, plan.slices)
    if not plan.failed:
        parallel_ranges(trt_conv_winograd_add_slices, plan, work.channels, 4)
    free(plan.partial)
    return -1 if plan.failed else plan.not_finite


cdef int _filter(trt_conv *work) noexcept nogil:
    """Compute the gradient of a filter: 0 done, 1 declined, -1 no memory."""
    cdef trt_conv_plan plan
    cdef int status
    cdef Py_ssize_t i, tasks, element = 8 if work.is_double else 4
    cdef bint shared = trt_conv_multiplications(work) >= SHARED_FROM
    if _is_product(work, work.image_steps) and _is_product(work, work.filter_steps):
        return _filter_product(work)
    plan.work, plan.level, plan.failed, plan.partial = work, simd.level, 0, NULL
    plan.inner = work.axes[0].taps * work.axes[1].taps * work.channels
    if trt_conv_plan_winograd(&plan, 1):
        status = _winograd_filter(&plan)
        if status <= 0:
            return status
        plan.partial = NULL
    if not trt_conv_plan_boxes(&plan, 1):
        return 1
    trt_conv_plan_slices(&plan)
    if not trt_conv_plan_runs(&plan):
        return -1
    if plan.slices > 1:
        plan.partial = trt_conv_memory((plan.slices - 1) * plan.out_size * element)
        if plan.partial == NULL:
            free(plan.runs)
            return -1
    tasks = plan.slices * plan.tap_parts * work.groups
    if shared:
        parallel_for(trt_conv_filter_task, &plan, tasks)
        if plan.slices > 1:
            parallel_ranges(trt_conv_add_slices, &plan, plan.out_size, 1 << 14)
    else:
        for i in range(tasks):
            trt_conv_filter_task(&plan, i)
        if plan.slices > 1:
            trt_conv_add_slices(&plan, 0, plan.out_size)
    free(plan.runs)
    free(plan.partial)
    return -1 if plan.failed else 0


# The kernels


cdef finishing_fn finishing(CompiledKernel kernel) noexcept:
    cdef Params *params = <Params *>kernel.params
    if kernel.fn != _conv2d and kernel.fn != _backprop_input:
        return NULL
    if params.type_number != params.computed or params.windows.channels_first:
        return NULL
    if kernel.fn == _conv2d:
        return _finished_conv2d
    if params.windows.strides[0] == 1 and params.windows.strides[1] == 1:  # otherwise parts of rows come one by one
        return _finished_backprop_input
    return NULL


cdef int _conv2d(KernelCall *call) except -1:
    return _finished_conv2d(call, NULL)


cdef int _finished_conv2d(KernelCall *call, trt_finish *finish) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_conv work
    cdef cnp.npy_intp spatial[2]
    cdef cnp.npy_intp dims[4]
    cdef Py_ssize_t channels
    cdef int place, status = 0
    cdef cnp.ndarray image = _operand(params, call.inputs[0])
    cdef cnp.ndarray weights = _operand(params, call.inputs[1])
    cdef cnp.ndarray result
    if image is None or weights is None or not fit(cnp.PyArray_DIMS(image)) or not fit(cnp.PyArray_DIMS(weights)):
        return 1
    channels = image_dims(&params.windows, cnp.PyArray_DIMS(image), spatial)
    if not _groups(channels, cnp.PyArray_DIMS(weights), &work):
        return 1
    for place in range(2):
        if not place_axis(&params.windows, place, spatial[place], cnp.PyArray_DIM(weights, place), &work.axes[place]):
            return 1
    dims[0], dims[1], dims[2] = cnp.PyArray_DIM(image, 0), work.axes[0].count, work.axes[1].count
    dims[3] = cnp.PyArray_DIM(weights, 3)
    if finish != NULL and not finish.fits(finish, params.computed, 4, dims):
        return 1
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)
    if cnp.PyArray_SIZE(result):
        _describe(params, &work, image, dims[0])
        work.filter = cnp.PyArray_BYTES(weights)
        for place in range(4):
            work.filter_steps[place] = cnp.PyArray_STRIDE(weights, place)
        work.filter_group_step = work.depth * work.filter_steps[3]
        work.out = cnp.PyArray_DATA(result)
        work.out_steps[2] = dims[3]
        work.out_steps[1] = dims[3] * dims[2]
        work.out_steps[0] = work.out_steps[1] * dims[1]
        if finish != NULL:
            finish.place(finish, <char *>work.out)
            work.finish = finish
        if trt_conv_multiplications(&work) >= LONG_WORK:
            with nogil:
                status = _windows(&work)
        else:
            status = _windows(&work)
    if status:
        return _gave_up(status)
    return _answer(params, call, in_layout(&params.windows, result), <object>call.inputs[0])


cdef int _gave_up(int status) except -1:
    if status > 0:
        return 1
    raise MemoryError("no scratch memory for a convolution")


cdef void _describe(Params *params, trt_conv *work, cnp.ndarray image, Py_ssize_t batch) noexcept:
    """Fill in what the windows move over."""
    work.is_double = params.computed == cnp.NPY_DOUBLE
    work.batch = batch
    work.finish, work.stop = NULL, stop_flag()
    work.image = cnp.PyArray_BYTES(image)
    image_steps(&params.windows, image, work.image_steps)


cdef int _backprop_filter(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_conv work
    cdef cnp.npy_intp spatial[2]
    cdef cnp.npy_intp dims[4]
    cdef Py_ssize_t channels, count
    cdef int place, status = 0
    cdef cnp.ndarray image = _operand(params, call.inputs[0])
    cdef cnp.ndarray gradient = _operand(params, call.inputs[2])
    cdef cnp.ndarray result
    if image is None or gradient is None or not asked_sizes(<object>call.inputs[1], dims, &count) or count != 4:
        return 1
    if not fit(cnp.PyArray_DIMS(image)):
        return 1
    channels = image_dims(&params.windows, cnp.PyArray_DIMS(image), spatial)
    if not _groups(channels, dims, &work):
        return 1
    for place in range(2):
        if not place_axis(&params.windows, place, spatial[place], dims[place], &work.axes[place]):
            return 1
    if not fits_gradient(&params.windows, gradient, cnp.PyArray_DIM(image, 0), work.axes, dims[3]):
        return 1
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)
    if not cnp.PyArray_SIZE(gradient):
        memset(cnp.PyArray_DATA(result), 0, cnp.PyArray_NBYTES(result))
    elif cnp.PyArray_SIZE(result):
        _describe(params, &work, image, cnp.PyArray_DIM(image, 0))
        work.filter = cnp.PyArray_BYTES(gradient)
        image_steps(&params.windows, gradient, work.filter_steps)
        work.filter_group_step = work.depth * work.filter_steps[3]
        work.out = cnp.PyArray_DATA(result)
        work.out_steps[2] = dims[3]
        work.out_steps[1] = dims[3] * dims[2]
        work.out_steps[0] = work.out_steps[1] * dims[1]
        if trt_conv_multiplications(&work) >= LONG_WORK:
            with nogil:
                status = _filter(&work)
        else:
            status = _filter(&work)
    if status:
        return _gave_up(status)
    return _answer(params, call, result, <object>call.inputs[2])


cdef int _backprop_input(KernelCall *call) except -1:
    return _finished_backprop_input(call, NULL)


cdef int _finished_backprop_input(KernelCall *call, trt_finish *finish) except -1:
    cdef Params *params = <Params *>call.params
    cdef trt_conv work
    cdef trt_conv_axis axes[2]
    cdef cnp.npy_intp spatial[2]
    cdef cnp.npy_intp dims[4]
    cdef cnp.npy_intp sizes[4]
    cdef Py_ssize_t channels, count
    cdef int place, status = 0
    cdef cnp.ndarray weights = _operand(params, call.inputs[1])
    cdef cnp.ndarray gradient = _operand(params, call.inputs[2])
    cdef cnp.ndarray result
    if weights is None or gradient is None or not asked_sizes(<object>call.inputs[0], sizes, &count):
        return 1
    if count == 4:
        channels = image_dims(&params.windows, sizes, spatial)
    else:
        spatial[0], spatial[1] = sizes[0], sizes[1]
        sizes[0], channels = cnp.PyArray_DIM(gradient, 0), cnp.PyArray_DIM(weights, 2)
    if not fit(cnp.PyArray_DIMS(weights)) or not _groups(channels, cnp.PyArray_DIMS(weights), &work):
        return 1
    for place in range(2):
        if not place_axis(&params.windows, place, spatial[place], cnp.PyArray_DIM(weights, place), &axes[place]):
            return 1
    if not fits_gradient(&params.windows, gradient, sizes[0], axes, cnp.PyArray_DIM(weights, 3)):
        return 1
    dims[0], dims[1], dims[2], dims[3] = sizes[0], spatial[0], spatial[1], channels
    if finish != NULL and not finish.fits(finish, params.computed, 4, dims):
        return 1
    result = cnp.PyArray_EMPTY(4, dims, params.computed, 0)
    if finish != NULL:
        finish.place(finish, cnp.PyArray_BYTES(result))
    if not cnp.PyArray_SIZE(gradient):
        memset(cnp.PyArray_DATA(result), 0, cnp.PyArray_NBYTES(result))
        if finish != NULL:
            finish.run(finish, 0, dims[0] * dims[1] * dims[2], 0, channels)
    elif cnp.PyArray_SIZE(result):
        _describe(params, &work, gradient, dims[0])
        work.finish = finish
        # the sums run over the outputs of a group, and give its inputs
        work.channels, work.depth = work.depth, work.channels
        work.filter = cnp.PyArray_BYTES(weights)
        for place in range(4):
            work.filter_steps[place] = cnp.PyArray_STRIDE(weights, place)
        work.filter_group_step = work.channels * work.filter_steps[3]
        work.filter_steps[2], work.filter_steps[3] = work.filter_steps[3], work.filter_steps[2]
        if <double>cnp.PyArray_SIZE(gradient) * cnp.PyArray_SIZE(weights) // work.groups >= LONG_WORK:
            with nogil:
                status = _offsets(&work, axes, dims, cnp.PyArray_BYTES(result))
        else:
            status = _offsets(&work, axes, dims, cnp.PyArray_BYTES(result))
    if status:
        return _gave_up(status)
    return _answer(params, call, in_layout(&params.windows, result), <object>call.inputs[2])


cdef int _offsets(trt_conv *work, const trt_conv_axis *axes, const cnp.npy_intp *dims, char *result) noexcept nogil:
    """Compute the gradient of the input, the cells of each offset within the strides in turn."""
    cdef Py_ssize_t element = 8 if work.is_double else 4
    cdef Py_ssize_t row_step = dims[2] * dims[3], i, j, n, y, x
    cdef int status
    for i in range(min(axes[0].stride, dims[1])):
        turn_axis(&axes[0], i, &work.axes[0])
        for j in range(min(axes[1].stride, dims[2])):
            turn_axis(&axes[1], j, &work.axes[1])
            work.out = result + (i * row_step + j * dims[3]) * element
            work.out_steps[0] = dims[1] * row_step
            work.out_steps[1] = axes[0].stride * row_step
            work.out_steps[2] = axes[1].stride * dims[3]
            if work.axes[0].taps and work.axes[1].taps:
                status = _windows(work)
                if status:
                    return status
                continue
            for n in range(dims[0]):  # no window covers these
                for y in range(work.axes[0].count):
                    for x in range(work.axes[1].count):
                        memset(<char *>work.out + (n * work.out_steps[0] + y * work.out_steps[1] +
                                                   x * work.out_steps[2]) * element, 0, dims[3] * element)
    return 0


if trt_conv_scratch_init():
    raise MemoryError("no key left for the scratch memory of threads")
