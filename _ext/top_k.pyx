# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The largest entries of rows, without sorting the rest.

A row is read once; the k best so far are a heap whose root is the worst of them, and what does not beat the root is
passed over in blocks. Rows are shared over the worker pool, without the GIL.
"""

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t, uint64_t

import numpy as np

from runtime._ext.worker_pool cimport parallel_ranges

cnp.import_array()

ctypedef fused number:
    float
    double
    int32_t
    int64_t
    uint64_t

cdef enum:
    BLOCK = 32           # entries that are compared with the root at a time
    GRAIN = 1 << 16      # entries that a thread takes at a time, in whole rows


cdef struct Job:
    const void *rows
    void *values         # (count, k): the heaps, then what they hold in order
    int64_t *indices     # (count, k)
    Py_ssize_t columns, k


cdef inline bint _is_below(number a, int64_t i, number b, int64_t j) noexcept nogil:
    """Whether entry a at i comes after b at j: smaller, or as large and later. NaN is larger than any number."""
    if a != a or b != b:
        return (a == a or i > j) if b != b else False
    return a < b or (a == b and i > j)


cdef inline void _sift(number *values, int64_t *indices, Py_ssize_t place, Py_ssize_t size) noexcept nogil:
    """Let the entry at a place sink until none below it is worse."""
    cdef number value = values[place]
    cdef int64_t index = indices[place]
    cdef Py_ssize_t child
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _is_below(values[child + 1], indices[child + 1], values[child], indices[child]):
            child += 1
        if not _is_below(values[child], indices[child], value, index):
            break
        values[place] = values[child]
        indices[place] = indices[child]
        place = child
    values[place] = value
    indices[place] = index


cdef void _row(const number *row, Py_ssize_t columns, Py_ssize_t k, number *values, int64_t *indices) noexcept nogil:
    cdef Py_ssize_t i, j, place, end
    cdef number root, value
    cdef int64_t index
    cdef bint some
    for i in range(k):
        values[i] = row[i]
        indices[i] = i
    for i in range(k // 2 - 1, -1, -1):
        _sift(values, indices, i, k)
    i = k
    while i < columns:
        end = min(i + BLOCK, columns)
        root = values[0]
        if root != root:  # the k largest are NaN already, and later ones come after them
            break
        some = False
        for j in range(i, end):
            some |= not (row[j] <= root)
        if some:
            for j in range(i, end):
                value = row[j]
                if not (value <= values[0]) and values[0] == values[0]:
                    values[0] = value
                    indices[0] = j
                    _sift(values, indices, 0, k)
        i = end
    for place in range(k - 1, 0, -1):
        value, index = values[0], indices[0]
        values[0], indices[0] = values[place], indices[place]
        values[place], indices[place] = value, index
        _sift(values, indices, 0, place)


cdef void _rows(const Job *job, Py_ssize_t begin, Py_ssize_t end, const number *rows) noexcept nogil:
    cdef number *values = <number *>job.values
    cdef Py_ssize_t i
    for i in range(begin, end):
        _row(rows + i * job.columns, job.columns, job.k, values + i * job.k, job.indices + i * job.k)


cdef void _of_floats(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    _rows(<const Job *>context, begin, end, <const float *>(<Job *>context).rows)


cdef void _of_doubles(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    _rows(<const Job *>context, begin, end, <const double *>(<Job *>context).rows)


cdef void _of_int32(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    _rows(<const Job *>context, begin, end, <const int32_t *>(<Job *>context).rows)


cdef void _of_int64(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    _rows(<const Job *>context, begin, end, <const int64_t *>(<Job *>context).rows)


cdef void _of_uint64(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    _rows(<const Job *>context, begin, end, <const uint64_t *>(<Job *>context).rows)


def largest(rows, Py_ssize_t k):
    """Return the k largest entries of every row and where they are, the largest first, among equals the first.

    Parameters
    ----------
    rows : float32, float64, int32, int64 or uint64 (n, m)
        NaN counts as larger than any number.
    k : int
        At most m.

    Returns
    -------
    values : ndarray of the same type, (n, k)
    indices : int64 (n, k)

    Raises
    ------
    TypeError
        For another type.
    ValueError
        If the array has not two dimensions, or k does not fit.
    """
    cdef cnp.ndarray source = cnp.PyArray_FROM_OF(rows, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_NOTSWAPPED)
    if cnp.PyArray_NDIM(source) != 2:
        raise ValueError(f"rows must have two dimensions, not {cnp.PyArray_NDIM(source)}")
    cdef Py_ssize_t count = cnp.PyArray_DIM(source, 0), columns = cnp.PyArray_DIM(source, 1)
    if not 0 <= k <= columns:
        raise ValueError(f"k is {k}: it must be between 0 and the {columns} columns")
    cdef cnp.ndarray values = np.empty((count, k), source.dtype)
    cdef cnp.ndarray indices = np.empty((count, k), np.int64)
    cdef Job job
    job.rows = cnp.PyArray_DATA(source)
    job.values = cnp.PyArray_DATA(values)
    job.indices = <int64_t *>cnp.PyArray_DATA(indices)
    job.columns, job.k = columns, k
    cdef Py_ssize_t grain = max(1, GRAIN // max(1, columns))
    cdef int kind = cnp.PyArray_TYPE(source)
    if kind not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64, cnp.NPY_INT32, cnp.NPY_INT64, cnp.NPY_UINT64):
        raise TypeError(f"float32, float64, int32, int64 or uint64 is needed, not {source.dtype}")
    if count and k:
        with nogil:
            if kind == cnp.NPY_FLOAT32:
                parallel_ranges(_of_floats, &job, count, grain)
            elif kind == cnp.NPY_FLOAT64:
                parallel_ranges(_of_doubles, &job, count, grain)
            elif kind == cnp.NPY_INT32:
                parallel_ranges(_of_int32, &job, count, grain)
            elif kind == cnp.NPY_INT64:
                parallel_ranges(_of_int64, &job, count, grain)
            else:
                parallel_ranges(_of_uint64, &job, count, grain)
    return values, indices
