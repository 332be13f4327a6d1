"""Optimizer updates for float and double: one pass over the variable, its slots and the gradient, or over the rows
that a gradient names, one after another.

The results are those of the Python definitions, bit for bit. An array that only its variable holds is changed in place;
another one is left to its readers and replaced. Large updates give up the GIL and share their work over the worker
pool. Whatever is unusual (wrong shapes, missing values, one variable named twice) is declined, so that the Python
definition answers it.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.string cimport memcpy

cimport numpy as cnp

from runtime._ext.kernel_abi cimport KernelCall, make_kernel
from runtime._ext.kernels cimport simd
from runtime._ext.kernels.variable_access cimport (
    MAX_HELD,
    TRT_DATA,
    TRT_NDIM,
    TRT_NEW_LIKE,
    TRT_SAME_SHAPE,
    TRT_SIZE,
    Held,
    changeable,
    find_variable,
    hold,
    let_go,
    plain_value,
    trt_is_plain,
)
from runtime._ext.variable cimport Variable
from runtime._ext.worker_pool cimport parallel_ranges_to_end, range_fn

cnp.import_array()

cdef extern from "kernels/array_access.h":
    enum:
        TRT_LONG_WORK_BYTES

cdef extern from "kernels/optimizer_updates.h" nogil:
    enum:
        TRT_MAX_SLOTS
        TRT_MAX_SCALARS
    ctypedef struct trt_update:
        const void *from_ "from"[TRT_MAX_SLOTS]
        void *to[TRT_MAX_SLOTS]
        const void *grad
        double scalars[TRT_MAX_SCALARS]
        int flag
    range_fn trt_update_of(int level, int optimizer, int is_double)
    bint trt_prepare(trt_update *update, int optimizer, int is_double)

cdef extern from *:
    """
    static inline double trt_load_scalar(const void *data, int type)
    {
        double wide;
        float narrow;
        npy_int64 count;
        if (type == NPY_DOUBLE) {
            memcpy(&wide, data, sizeof wide);
            return wide;
        }
        if (type == NPY_INT64) {
            memcpy(&count, data, sizeof count);
            return (double)count;
        }
        memcpy(&narrow, data, sizeof narrow);
        return narrow;
    }

    static inline npy_intp trt_row_number(const void *indices, npy_intp place, int wide)
    {
        npy_int64 number;
        npy_int32 narrow;
        if (wide) {
            memcpy(&number, (const char *)indices + place * sizeof number, sizeof number);
            return (npy_intp)number;
        }
        memcpy(&narrow, (const char *)indices + place * sizeof narrow, sizeof narrow);
        return narrow;
    }

    static inline int trt_same_rows(PyArrayObject *variable, PyArrayObject *grad)
    {
        int rank = PyArray_NDIM(variable);
        if (rank < 1 || rank != PyArray_NDIM(grad))
            return 0;
        for (int i = 1; i < rank; i++)
            if (PyArray_DIM(variable, i) != PyArray_DIM(grad, i))
                return 0;
        return 1;
    }
    #define TRT_DIM(array, axis) PyArray_DIM((PyArrayObject *)(array), axis)
    #define TRT_SAME_ROWS(x, y) trt_same_rows((PyArrayObject *)(x), (PyArrayObject *)(y))
    """
    double trt_load_scalar(const void *data, int type)
    Py_ssize_t trt_row_number(const void *indices, Py_ssize_t place, bint wide) nogil
    bint TRT_SAME_ROWS(PyObject *variable, PyObject *grad)
    Py_ssize_t TRT_DIM(PyObject *array, int axis)

# What a thread does at a time: some 30 microseconds from and to memory.
cdef enum:
    TASK_BYTES = 1 << 19
    TASK_MULTIPLE = 1024
    COLUMN_MULTIPLE = 16

cdef struct Params:
    range_fn update
    int optimizer
    int type_number
    int num_slots
    int num_scalars
    int scalars[TRT_MAX_SCALARS]   # positions of the scalar inputs
    int grad                       # and of the gradient
    int step                       # which of the scalars is the int64 step count; -1 for none
    int indices                    # position of the row numbers; -1 for a gradient of all rows
    bint by_handle
    int flag

# Optimizer to (number in optimizer_updates.h, slots, inputs after them with "grad" for the gradient, attr that is the
# flag). The names and their order are those of runtime/ops/optimizers.py.
cdef tuple _ADAM = ("beta1_power", "beta2_power", "lr", "beta1", "beta2", "epsilon", "grad")
cdef tuple _RMS = ("lr", "rho", "momentum", "epsilon", "grad")
cdef dict _OPTIMIZERS = {
    "GradientDescent": (0, 1, ("alpha", "grad"), ""),
    "Momentum": (1, 2, ("lr", "grad", "momentum"), "use_nesterov"),
    "KerasMomentum": (2, 2, ("lr", "grad", "momentum"), "use_nesterov"),
    "Adam": (3, 3, _ADAM, "use_nesterov"),
    "Adagrad": (4, 2, ("lr", "grad"), "update_slots"),
    "RMSProp": (5, 3, _RMS, ""),
    "AdagradV2": (6, 2, ("lr", "epsilon", "grad"), "update_slots"),
    "Adadelta": (7, 3, ("lr", "rho", "epsilon", "grad"), ""),
    "CenteredRMSProp": (8, 4, _RMS, ""),
    "AdaMax": (9, 3, ("beta1_power", "lr", "beta1", "beta2", "epsilon", "grad"), ""),
    "AdamWithAmsgrad": (10, 4, _ADAM, ""),
    "AddSign": (11, 2, ("lr", "alpha", "sign_decay", "beta", "grad"), ""),
    "ProximalGradientDescent": (12, 1, ("alpha", "l1", "l2", "grad"), ""),
    "ProximalAdagrad": (13, 2, ("lr", "l1", "l2", "grad"), ""),
    "AdagradDA": (14, 3, ("grad", "lr", "l1", "l2", "global_step"), ""),
    "Ftrl": (15, 3, ("grad", "lr", "l1", "l2", "lr_power"), "multiply_linear_by_lr"),
    "FtrlV2": (16, 3, ("grad", "lr", "l1", "l2", "l2_shrinkage", "lr_power"), "multiply_linear_by_lr"),
}

cdef tuple _OF_ROWS = ("Momentum", "KerasMomentum", "Adagrad", "RMSProp", "AdagradV2", "Adadelta", "CenteredRMSProp",
                       "ProximalGradientDescent", "ProximalAdagrad", "AdagradDA", "Ftrl", "FtrlV2")
cdef tuple _BY_HANDLE_ALONE = ("ApplyKerasMomentum", "ApplyAdamWithAmsgrad", "SparseApplyKerasMomentum",
                               "SparseApplyAdagradV2")

OPS = tuple([handle + prefix + name for prefix, names in (("Apply", tuple(_OPTIMIZERS)), ("SparseApply", _OF_ROWS))
             for name in names for handle in ("", "Resource") if handle or prefix + name not in _BY_HANDLE_ALONE])

cdef int _FLOAT = 1
cdef int _DOUBLE = 2


def select(str op, input_types, output_types, attr):
    """Return the kernel of an optimizer op whose variables are float or double; None for others."""
    cdef Params params
    cdef int place
    cdef int kind = attr("T")
    if kind != _FLOAT and kind != _DOUBLE:
        return None
    params.by_handle = op.startswith("Resource")
    form, _, optimizer = op.removeprefix("Resource").partition("Apply")
    number, params.num_slots, names, flag = _OPTIMIZERS[optimizer]
    params.optimizer = number
    params.type_number = cnp.NPY_FLOAT if kind == _FLOAT else cnp.NPY_DOUBLE
    params.flag = bool(attr(flag)) if flag else 0
    params.num_scalars = 0
    params.step = params.indices = -1
    place = params.num_slots
    for name in names:
        if name == "grad":
            params.grad = place
            if form == "Sparse":
                place += 1
                params.indices = place
        else:
            if name == "global_step":
                params.step = params.num_scalars
            params.scalars[params.num_scalars] = place
            params.num_scalars += 1
        place += 1
    params.update = trt_update_of(simd.level, params.optimizer, kind == _DOUBLE)
    return make_kernel(_apply, &params, sizeof(Params))


cdef int _apply(KernelCall *call) except -1:
    cdef Params *params = <Params *>call.params
    cdef PyObject *variables[TRT_MAX_SLOTS]
    cdef PyObject *value
    cdef PyObject *grad = call.inputs[params.grad]
    cdef Held held
    cdef trt_update update
    cdef int i, status, type_number
    cdef bint is_double = params.type_number == cnp.NPY_DOUBLE
    cdef bint long_work
    cdef Py_ssize_t element_bytes = (2 * params.num_slots + 1) * (8 if is_double else 4)
    if not trt_is_plain(grad, params.type_number):
        return 1
    for i in range(params.num_scalars, TRT_MAX_SCALARS):
        update.scalars[i] = 0.0
    for i in range(params.num_scalars):
        value = call.inputs[params.scalars[i]]
        type_number = cnp.NPY_INT64 if i == params.step else params.type_number
        if not trt_is_plain(value, type_number) or TRT_NDIM(value) != 0:
            return 1
        update.scalars[i] = trt_load_scalar(TRT_DATA(value), type_number)
    held.count = params.num_slots
    for i in range(params.num_slots):
        variables[i] = held.variables[i] = find_variable(call.inputs[i], params.by_handle)
        if variables[i] == NULL:
            return 1
    long_work = TRT_SIZE(grad) * element_bytes > TRT_LONG_WORK_BYTES
    if hold(&held, long_work):
        return 1
    try:
        if params.indices < 0:
            status = _update(params, variables, grad, &update, element_bytes, long_work)
        else:
            status = _update_rows(params, variables, grad, call.inputs[params.indices], &update, long_work)
    finally:
        let_go(&held)
    if status == 0 and not params.by_handle:
        Py_INCREF(<object>variables[0])
        call.outputs[0] = variables[0]
    return status


cdef int _update(Params *params, PyObject **variables, PyObject *grad, trt_update *update, Py_ssize_t element_bytes,
                 bint long_work) except -1:
    cdef PyObject *fresh[TRT_MAX_SLOTS]
    cdef PyObject *array
    cdef Py_ssize_t size = TRT_SIZE(grad)
    cdef Py_ssize_t grain
    cdef int i, made = 0
    for i in range(params.num_slots):
        array = plain_value(variables[i], params.type_number)
        if array == NULL or not TRT_SAME_SHAPE(array, grad):
            return 1
        update.from_[i] = update.to[i] = TRT_DATA(array)
    update.flag = params.flag
    update.grad = TRT_DATA(grad)
    if not trt_prepare(update, params.optimizer, params.type_number == cnp.NPY_DOUBLE):
        return 1
    try:
        while made < params.num_slots:
            array = <PyObject *>(<Variable>variables[made]).value
            fresh[made] = NULL
            if not changeable(array):
                fresh[made] = TRT_NEW_LIKE(array)
                update.to[made] = TRT_DATA(fresh[made])
            made += 1
        if long_work:
            for i in range(params.num_slots):
                (<Variable>variables[i]).writing = fresh[i] == NULL
            grain = max(TASK_BYTES // element_bytes // TASK_MULTIPLE * TASK_MULTIPLE, TASK_MULTIPLE)
            with nogil:
                parallel_ranges_to_end(params.update, update, size, grain)
            for i in range(params.num_slots):
                (<Variable>variables[i]).writing = False
        else:
            params.update(update, 0, size)
        for i in range(params.num_slots):
            if fresh[i] != NULL:
                (<Variable>variables[i]).value = <object>fresh[i]
    finally:
        for i in range(made):
            Py_XDECREF(fresh[i])
    return 0


# --- gradients of some rows --------------------------------------------------------------------------------------------

cdef struct Rows:
    trt_update update        # of the first row
    range_fn apply
    int num_slots
    Py_ssize_t row_bytes
    Py_ssize_t num_rows
    const void *indices
    bint wide


cdef void _apply_rows(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Update some columns of the rows in the order of the indices: a row that is named again is updated again."""
    cdef const Rows *rows = <const Rows *>context
    cdef trt_update one = rows.update
    cdef Py_ssize_t k, offset
    cdef int i
    for k in range(rows.num_rows):
        offset = trt_row_number(rows.indices, k, rows.wide) * rows.row_bytes
        for i in range(rows.num_slots):
            one.to[i] = <char *>rows.update.to[i] + offset
            one.from_[i] = one.to[i]
        one.grad = <const char *>rows.update.grad + k * rows.row_bytes
        rows.apply(&one, begin, end)


cdef int _update_rows(Params *params, PyObject **variables, PyObject *grad, PyObject *indices, trt_update *update,
                      bint long_work) except -1:
    cdef PyObject *fresh[TRT_MAX_SLOTS]
    cdef PyObject *array
    cdef PyObject *first = plain_value(variables[0], params.type_number)
    cdef Rows rows
    cdef Py_ssize_t k, number, limit, columns, grain, item_bytes = 8 if params.type_number == cnp.NPY_DOUBLE else 4
    cdef int i, made = 0
    rows.wide = trt_is_plain(indices, cnp.NPY_INT64)
    if not (rows.wide or trt_is_plain(indices, cnp.NPY_INT32)) or TRT_NDIM(indices) != 1:
        return 1
    rows.num_rows = TRT_SIZE(indices)
    if first == NULL or not TRT_SAME_ROWS(first, grad) or TRT_DIM(grad, 0) != rows.num_rows:
        return 1
    limit = TRT_DIM(first, 0)
    columns = TRT_SIZE(first) // limit if limit else 0
    rows.indices = TRT_DATA(indices)
    for k in range(rows.num_rows):
        number = trt_row_number(rows.indices, k, rows.wide)
        if number < 0 or number >= limit:
            return 1
    for i in range(params.num_slots):
        array = plain_value(variables[i], params.type_number)
        if array == NULL or not TRT_SAME_SHAPE(array, first):
            return 1
        update.to[i] = TRT_DATA(array)
    update.flag = params.flag
    update.grad = TRT_DATA(grad)
    if not trt_prepare(update, params.optimizer, params.type_number == cnp.NPY_DOUBLE):
        return 1
    rows.apply = params.update
    rows.num_slots = params.num_slots
    rows.row_bytes = columns * item_bytes
    try:
        while made < params.num_slots:
            array = <PyObject *>(<Variable>variables[made]).value
            fresh[made] = NULL
            if not changeable(array):
                fresh[made] = TRT_NEW_LIKE(array)
                memcpy(TRT_DATA(fresh[made]), TRT_DATA(array), TRT_SIZE(array) * item_bytes)
                update.to[made] = TRT_DATA(fresh[made])
            made += 1
        rows.update = update[0]
        if long_work:
            for i in range(params.num_slots):
                (<Variable>variables[i]).writing = fresh[i] == NULL
            # Threads share the columns, so that the rows keep their order.
            grain = TASK_BYTES // max((2 * params.num_slots + 1) * item_bytes * rows.num_rows, 1)
            grain = max(grain // COLUMN_MULTIPLE * COLUMN_MULTIPLE, COLUMN_MULTIPLE)
            with nogil:
                parallel_ranges_to_end(_apply_rows, &rows, columns, grain)
            for i in range(params.num_slots):
                (<Variable>variables[i]).writing = False
        else:
            _apply_rows(&rows, 0, columns)
        for i in range(params.num_slots):
            if fresh[i] != NULL:
                (<Variable>variables[i]).value = <object>fresh[i]
    finally:
        for i in range(made):
            Py_XDECREF(fresh[i])
    return 0
