"""MatMul and BatchMatMul of floats and doubles.

Factors may be transposed, strided or misaligned. Wrong ranks and shapes are declined, so that the Python definition
answers them.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cimport numpy as cnp

from runtime._ext.kernel_abi cimport CompiledKernel, KernelCall, make_kernel
from runtime._ext.kernels.finish cimport finishing_fn, trt_finish
from runtime._ext.kernels.gemm cimport available, can_add, multiply, trt_matrix, trt_product
from runtime._ext.worker_pool cimport num_workers, parallel_for

cnp.import_array()

cdef extern from "kernels/array_access.h":
    pass

cdef extern from *:
    """
    /* An array of a type in native byte order, of any strides and alignment. */
    static inline int trt_is_native(PyObject *value, int type)
    {
        return PyArray_CheckExact(value) && PyArray_TYPE((PyArrayObject *)value) == type
            && PyArray_ISNOTSWAPPED((PyArrayObject *)value);
    }
    #define TRT_RANK(array) PyArray_NDIM((PyArrayObject *)(array))
    #define TRT_DIM(array, axis) PyArray_DIM((PyArrayObject *)(array), axis)
    #define TRT_STRIDE(array, axis) PyArray_STRIDE((PyArrayObject *)(array), axis)
    #define TRT_BYTES(array) PyArray_BYTES((PyArrayObject *)(array))
    """
    bint trt_is_native(PyObject *value, int type)
    int TRT_RANK(PyObject *array)
    Py_ssize_t TRT_DIM(PyObject *array, int axis)
    Py_ssize_t TRT_STRIDE(PyObject *array, int axis)
    char *TRT_BYTES(PyObject *array)
    PyObject *trt_new_array(int type, int rank, const cnp.npy_intp *dims) except NULL

cdef enum:
    MAX_RANK = 8
    # Multiplications from which on the GIL is given up: some 20 microseconds.
    LONG_WORK = 1 << 20

cdef struct Params:
    int type_number
    bint transpose_a
    bint transpose_b
    bint broadcasts

cdef struct Batch:
    trt_product product         # of one pair
    int rank                    # of the batch
    cnp.npy_intp dims[MAX_RANK]
    Py_ssize_t a_steps[MAX_RANK]
    Py_ssize_t b_steps[MAX_RANK]
    Py_ssize_t c_bytes          # of one product
    int failed

OPS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")

cdef int _FLOAT = 1
cdef int _DOUBLE = 2


def select(str op, input_types, output_types, attr):
    """Return the kernel of a product of floats or doubles; None for other types and older processors."""
    cdef Params params
    cdef int kind = output_types[0]
    if not available() or kind not in (_FLOAT, _DOUBLE) or any([other != kind for other in input_types]):
        return None
    params.type_number = cnp.NPY_FLOAT if kind == _FLOAT else cnp.NPY_DOUBLE
    single = op == "MatMul"
    params.transpose_a = bool(attr("transpose_a" if single else "adj_x"))
    params.transpose_b = bool(attr("transpose_b" if single else "adj_y"))
    params.broadcasts = op != "BatchMatMul"
    return make_kernel(_mat_mul if single else _batch_mat_mul, &params, sizeof(Params))


cdef inline void _describe(trt_matrix *matrix, PyObject *array, bint transposed) noexcept:
    cdef int rank = TRT_RANK(array)
    matrix.data = TRT_BYTES(array)
    matrix.row_step = TRT_STRIDE(array, rank - 1 if transposed else rank - 2)
    matrix.column_step = TRT_STRIDE(array, rank - 2 if transposed else rank - 1)


cdef bint _fill(Params *params, trt_product *work, PyObject *a, PyObject *b) noexcept:
    """Describe the product of the last two dimensions; False when they do not fit."""
    cdef int rank_a = TRT_RANK(a), rank_b = TRT_RANK(b)
    work.is_double = params.type_number == cnp.NPY_DOUBLE
    work.rows = TRT_DIM(a, rank_a - 1 if params.transpose_a else rank_a - 2)
    work.inner = TRT_DIM(a, rank_a - 2 if params.transpose_a else rank_a - 1)
    work.columns = TRT_DIM(b, rank_b - 2 if params.transpose_b else rank_b - 1)
    if work.inner != TRT_DIM(b, rank_b - 1 if params.transpose_b else rank_b - 2):
        return False
    _describe(&work.a, a, params.transpose_a)
    _describe(&work.b, b, params.transpose_b)
    work.c_step = work.columns
    work.alone = work.adds = False
    work.finish, work.finish_row = NULL, 0
    return True


cdef finishing_fn finishing(CompiledKernel kernel) noexcept:
    if kernel.fn == _mat_mul:
        return _finished_mat_mul
    if kernel.fn == _batch_mat_mul:
        return _finished_batch_mat_mul
    return NULL


cdef int _mat_mul(KernelCall *call) except -1:
    return _finished_mat_mul(call, NULL)


cdef int _batch_mat_mul(KernelCall *call) except -1:
    return _finished_batch_mat_mul(call, NULL)


cdef int _finished_mat_mul(KernelCall *call, trt_finish *finish) except -1:
    cdef Params *params = <Params *>call.params
    cdef PyObject *a = call.inputs[0]
    cdef PyObject *b = call.inputs[1]
    cdef PyObject *c
    cdef trt_product work
    cdef cnp.npy_intp dims[2]
    cdef int status
    if not trt_is_native(a, params.type_number) or not trt_is_native(b, params.type_number):
        return 1
    if TRT_RANK(a) != 2 or TRT_RANK(b) != 2 or not _fill(params, &work, a, b):
        return 1
    dims[0], dims[1] = work.rows, work.columns
    if finish != NULL and not finish.fits(finish, params.type_number, 2, dims):
        return 1
    if finish != NULL and finish.addend != NULL and can_add(&work):
        c = <PyObject *>finish.addend
        Py_INCREF(<object>c)
        work.adds = True
        work.c = TRT_BYTES(c)
    else:
        c = trt_new_array(params.type_number, 2, dims)
        work.c = TRT_BYTES(c)
        if finish != NULL:
            finish.place(finish, <char *>work.c)
            work.finish = finish
    if <double>work.rows * work.columns * work.inner >= LONG_WORK:
        with nogil:
            status = multiply(&work)
    else:
        status = multiply(&work)
    if status:
        Py_DECREF(<object>c)
        raise MemoryError("no scratch memory for a matrix product")
    call.outputs[0] = c
    return 0


cdef int _finished_batch_mat_mul(KernelCall *call, trt_finish *finish) except -1:
    cdef Params *params = <Params *>call.params
    cdef PyObject *a = call.inputs[0]
    cdef PyObject *b = call.inputs[1]
    cdef PyObject *c
    cdef Batch batch
    cdef int rank_a, rank_b, axis, place
    cdef Py_ssize_t count = 1, i
    cdef Py_ssize_t size_a, size_b
    cdef double work_each
    if not trt_is_native(a, params.type_number) or not trt_is_native(b, params.type_number):
        return 1
    rank_a, rank_b = TRT_RANK(a), TRT_RANK(b)
    if not (2 <= rank_a <= MAX_RANK and 2 <= rank_b <= MAX_RANK) or (rank_a != rank_b and not params.broadcasts):
        return 1
    if not _fill(params, &batch.product, a, b):
        return 1
    batch.rank = max(rank_a, rank_b) - 2
    for axis in range(batch.rank):
        place = axis - batch.rank + rank_a - 2
        size_a = TRT_DIM(a, place) if place >= 0 else 1
        batch.a_steps[axis] = TRT_STRIDE(a, place) if place >= 0 and size_a != 1 else 0
        place = axis - batch.rank + rank_b - 2
        size_b = TRT_DIM(b, place) if place >= 0 else 1
        batch.b_steps[axis] = TRT_STRIDE(b, place) if place >= 0 and size_b != 1 else 0
        if size_a != size_b and not (params.broadcasts and (size_a == 1 or size_b == 1)):
            return 1
        batch.dims[axis] = size_b if size_a == 1 else size_a
        count *= batch.dims[axis]
    batch.dims[batch.rank], batch.dims[batch.rank + 1] = batch.product.rows, batch.product.columns
    if finish != NULL and not finish.fits(finish, params.type_number, batch.rank + 2, batch.dims):
        return 1
    c = trt_new_array(params.type_number, batch.rank + 2, batch.dims)
    batch.product.c = TRT_BYTES(c)
    if finish != NULL:
        finish.place(finish, <char *>batch.product.c)
        batch.product.finish = finish
    batch.c_bytes = batch.product.rows * batch.product.columns * (8 if batch.product.is_double else 4)
    batch.failed = 0
    work_each = <double>batch.product.rows * batch.product.columns * batch.product.inner
    if work_each * count >= LONG_WORK:
        with nogil:
            if count >= 2 * num_workers():  # whole products are shared out
                batch.product.alone = True
                parallel_for(_one_of_batch, &batch, count)
            else:
                for i in range(count):
                    _one_of_batch(&batch, i)
    else:
        for i in range(count):
            _one_of_batch(&batch, i)
    if batch.failed:
        Py_DECREF(<object>c)
        raise MemoryError("no scratch memory for a matrix product")
    call.outputs[0] = c
    return 0


cdef void _one_of_batch(void *context, Py_ssize_t index) noexcept nogil:
    cdef Batch *batch = <Batch *>context
    cdef trt_product work = batch.product
    cdef Py_ssize_t rest = index, place
    cdef int axis
    for axis in range(batch.rank - 1, -1, -1):
        place = rest % batch.dims[axis]
        rest //= batch.dims[axis]
        work.a.data += place * batch.a_steps[axis]
        work.b.data += place * batch.b_steps[axis]
    work.c = <char *>work.c + index * batch.c_bytes
    work.finish_row = index * work.rows
    if multiply(&work):
        batch.failed = 1
