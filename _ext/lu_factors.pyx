# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""LU factors of matrices, with rows exchanged: halves of columns in turn, so that nearly all work is matrix products.

After S. Toledo, "Locality of reference in LU decomposition with partial pivoting", SIAM Journal on Matrix Analysis 18
(1997). The products are those of `runtime._ext.kernels.gemm`, and plain loops where the processor lacks what they need.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np

from runtime._ext.kernels cimport gemm
from runtime._ext.running_step cimport stop_flag
from runtime._ext.worker_pool cimport parallel_for

cnp.import_array()

ctypedef fused real:
    float
    double

cdef enum:
    NARROW = 16  # columns that are factored, or solved for, one by one


cdef struct Job:
    void *matrices       # (count, size, size), overwritten
    int64_t *orders      # (count, size)
    Py_ssize_t size
    bint alone           # whether matrices are shared among threads, rather than products
    int failed           # 1: no memory


cdef struct Work:
    Py_ssize_t step      # elements from one row of the matrix to the next
    void *scratch        # for a product
    int64_t *order
    bint alone
    int failed
    const int *stop


cdef void _exchange(real *a, Py_ssize_t step, Py_ssize_t i, Py_ssize_t j, Py_ssize_t columns) noexcept nogil:
    cdef real *left = a + i * step
    cdef real *right = a + j * step
    cdef real kept
    cdef Py_ssize_t c
    for c in range(columns):
        kept = left[c]
        left[c] = right[c]
        right[c] = kept


cdef void _subtract_product(Work *work, const real *a, const real *b, real *c, Py_ssize_t rows, Py_ssize_t inner,
                            Py_ssize_t columns) noexcept nogil:
    """Subtract A B from C, all parts of the matrix."""
    cdef Py_ssize_t i, j, p, step = work.step
    cdef gemm.trt_product product
    cdef real *made = <real *>work.scratch
    cdef real factor
    if not rows or not columns:
        return
    if not gemm.available() or rows * columns * inner < 4096:
        for i in range(rows):
            for p in range(inner):
                factor = a[i * step + p]
                for j in range(columns):
                    c[i * step + j] -= factor * b[p * step + j]
        return
    memset(&product, 0, sizeof(product))
    product.is_double = sizeof(real) == 8
    product.rows, product.columns, product.inner = rows, columns, inner
    product.a.data = <const char *>a
    product.b.data = <const char *>b
    product.a.row_step = product.b.row_step = step * <Py_ssize_t>sizeof(real)
    product.a.column_step = product.b.column_step = sizeof(real)
    product.c = made
    product.c_step = columns
    product.alone = work.alone
    if gemm.multiply(&product):
        work.failed = 1
        return
    if work.stop != NULL and work.stop[0]:
        return
    for i in range(rows):
        for j in range(columns):
            c[i * step + j] -= made[i * columns + j]


cdef void _solve(Work *work, const real *unit, real *b, Py_ssize_t size, Py_ssize_t columns) noexcept nogil:
    """Replace B by the solution of L X = B, for L of `size` rows with a diagonal of ones."""
    cdef Py_ssize_t i, j, p, half, step = work.step
    cdef real factor
    if size <= NARROW:
        for i in range(1, size):
            for p in range(i):
                factor = unit[i * step + p]
                for j in range(columns):
                    b[i * step + j] -= factor * b[p * step + j]
        return
    half = size // 2
    _solve(work, unit, b, half, columns)
    _subtract_product(work, unit + half * step, <const real *>b, b + half * step, size - half, half, columns)
    _solve(work, unit + half * (step + 1), b + half * step, size - half, columns)


cdef void _factor(Work *work, real *a, real *matrix, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t columns,
                  Py_ssize_t size) noexcept nogil:
    """Factor `rows` by `columns` entries from `a` on, the diagonal entry `first` of the matrix; exchange whole rows."""
    cdef Py_ssize_t i, j, k, best, half, step = work.step
    cdef real largest, current, factor
    cdef int64_t kept
    if work.failed or (work.stop != NULL and work.stop[0]):
        return
    if columns > NARROW:
        half = columns // 2
        _factor(work, a, matrix, first, rows, half, size)
        _solve(work, <const real *>a, a + half, half, columns - half)
        _subtract_product(work, <const real *>(a + half * step), <const real *>(a + half), a + half * (step + 1),
                          rows - half, half, columns - half)
        _factor(work, a + half * (step + 1), matrix, first + half, rows - half, columns - half, size)
        return
    for k in range(columns):
        best = k
        largest = a[k * step + k]
        largest = -largest if largest < 0 else largest
        for i in range(k + 1, rows):
            current = a[i * step + k]
            current = -current if current < 0 else current
            if current > largest or (current != current and largest == largest):  # NaN first, as in numpy's argmax
                largest = current
                best = i
        if best != k:
            _exchange(matrix, step, first + k, first + best, size)
            kept = work.order[first + k]
            work.order[first + k] = work.order[first + best]
            work.order[first + best] = kept
        for i in range(k + 1, rows):
            factor = a[i * step + k] / a[k * step + k]
            a[i * step + k] = factor
            for j in range(k + 1, columns):
                a[i * step + j] -= factor * a[k * step + j]


cdef void _one(Job *job, Py_ssize_t index, real *matrices) noexcept nogil:
    cdef Work work
    cdef Py_ssize_t i, size = job.size
    cdef real *matrix = matrices + index * size * size
    work.step = size
    work.order = job.orders + index * size
    work.alone = job.alone
    work.failed = 0
    work.stop = stop_flag()
    # The largest product has half of the rows and of the columns, or nearly all rows and a quarter of the columns.
    work.scratch = malloc(((size + 1) // 2 + 1) * ((size + 1) // 2 + 1) * sizeof(real))
    if work.scratch == NULL:
        job.failed = 1
        return
    for i in range(size):
        work.order[i] = i
    _factor(&work, matrix, matrix, 0, size, size, size)
    free(work.scratch)
    if work.failed:
        job.failed = 1


cdef void _of_floats(void *context, Py_ssize_t index) noexcept nogil:
    _one(<Job *>context, index, <float *>(<Job *>context).matrices)


cdef void _of_doubles(void *context, Py_ssize_t index) noexcept nogil:
    _one(<Job *>context, index, <double *>(<Job *>context).matrices)


def factor(matrices):
    """Return the LU factors of a batch of matrices, in one array, and the order of their rows.

    Parameters
    ----------
    matrices : float32 or float64 (b, n, n)

    Returns
    -------
    factors : ndarray of the same type, (b, n, n)
        The unit lower factor below the diagonal, the upper one from it on. Zero pivots give infinities and NaN.
    order : int64 (b, n)
        Row i of the product is row ``order[i]`` of the matrix.

    Raises
    ------
    TypeError
        For another type.
    ValueError
        If the matrices are not square.
    MemoryError
    """
    cdef cnp.ndarray factors = np.array(matrices, order="C", copy=True)
    if factors.ndim != 3 or factors.shape[1] != factors.shape[2]:
        raise ValueError(f"square matrices are needed, not the shape {np.shape(matrices)}")
    cdef int kind = cnp.PyArray_TYPE(factors)
    if kind != cnp.NPY_FLOAT32 and kind != cnp.NPY_FLOAT64:
        raise TypeError(f"float32 or float64 is needed, not {factors.dtype}")
    cdef Py_ssize_t count = factors.shape[0]
    cdef cnp.ndarray orders = np.empty((count, factors.shape[1]), np.int64)
    cdef Job job
    job.matrices = cnp.PyArray_DATA(factors)
    job.orders = <int64_t *>cnp.PyArray_DATA(orders)
    job.size = factors.shape[1]
    job.alone = count > 1
    job.failed = 0
    if count and job.size:
        with nogil:
            parallel_for(_of_floats if kind == cnp.NPY_FLOAT32 else _of_doubles, &job, count)
    if job.failed:
        raise MemoryError
    return factors, orders
