# cython: cdivision=True
"""Tridiagonal systems by elimination, one after another; each step depends on the one before."""

cimport numpy as cnp
from libc.math cimport NAN, fabs
from libc.stdlib cimport free, malloc

import numpy as np

from runtime._ext.worker_pool cimport parallel_ranges

cnp.import_array()

cdef enum:
    TASK_VALUES = 1 << 13

ctypedef float complex floatcomplex
ctypedef double complex doublecomplex

ctypedef fused number:
    float
    double
    floatcomplex
    doublecomplex

cdef struct Job:
    const void *bands   # (systems, 3, size)
    void *values        # (systems, size, columns): the right sides, then the solutions
    Py_ssize_t size, columns
    bint pivoting
    bint failed


cdef inline double _size(number value) noexcept nogil:
    if number is float or number is double:
        return fabs(value)
    else:
        return fabs(value.real) + fabs(value.imag)


cdef bint _eliminate(const Job *job, const number *bands, number *values, number *upper) noexcept nogil:
    """Solve one system in place; `upper` is scratch for three numbers a row. Returns 0 for a pivot of zero."""
    cdef Py_ssize_t size = job.size, columns = job.columns, i, k
    cdef const number *above = bands
    cdef const number *diagonal = bands + size
    cdef const number *below = bands + 2 * size
    cdef number *first = upper
    cdef number *second = upper + size
    cdef number *third = upper + 2 * size
    cdef number factor, swap, zero = 0
    cdef number *here
    cdef number *there
    first[0] = diagonal[0]
    second[0] = above[0] if size > 1 else zero
    for i in range(size - 1):
        here, there = values + i * columns, values + (i + 1) * columns
        third[i] = zero
        first[i + 1] = diagonal[i + 1]
        second[i + 1] = above[i + 1] if i + 2 < size else zero
        if job.pivoting and _size(first[i]) < _size(below[i + 1]):
            factor = first[i] / below[i + 1]
            first[i], swap = below[i + 1], second[i]
            second[i], third[i] = first[i + 1], second[i + 1]
            first[i + 1] = swap - factor * second[i]
            second[i + 1] = -factor * third[i]
            for k in range(columns):
                swap = here[k]
                here[k] = there[k]
                there[k] = swap - factor * here[k]
        else:
            if first[i] == zero:
                return 0
            factor = below[i + 1] / first[i]
            first[i + 1] = first[i + 1] - factor * second[i]
            for k in range(columns):
                there[k] = there[k] - factor * here[k]
    if first[size - 1] == zero:
        return 0
    third[size - 1] = zero
    for i in range(size - 1, -1, -1):
        here = values + i * columns
        for k in range(columns):
            swap = here[k]
            if i + 1 < size:
                swap = swap - second[i] * here[columns + k]
            if i + 2 < size:
                swap = swap - third[i] * here[2 * columns + k]
            here[k] = swap / first[i]
    return 1


cdef void _solve(Job *job, const number *bands, number *values, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef number *upper = <number *>malloc(3 * job.size * sizeof(number))
    cdef Py_ssize_t i, k, length = job.size * job.columns
    cdef number missing
    if upper == NULL:
        job.failed = True
        return
    missing = NAN
    for i in range(begin, end):
        if not _eliminate(job, bands + 3 * i * job.size, values + i * length, upper):
            for k in range(length):
                values[i * length + k] = missing
    free(upper)


cdef void _floats(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Job *job = <Job *>context
    _solve[float](job, <const float *>job.bands, <float *>job.values, begin, end)


cdef void _doubles(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Job *job = <Job *>context
    _solve[double](job, <const double *>job.bands, <double *>job.values, begin, end)


cdef void _complex_floats(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Job *job = <Job *>context
    _solve[floatcomplex](job, <const floatcomplex *>job.bands, <floatcomplex *>job.values, begin, end)


cdef void _complex_doubles(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Job *job = <Job *>context
    _solve[doublecomplex](job, <const doublecomplex *>job.bands, <doublecomplex *>job.values, begin, end)


def solve(bands, rhs, bint pivoting):
    """Return the solutions of tridiagonal systems; those of a system with a pivot of zero are NaN.

    Parameters
    ----------
    bands : ndarray of a floating or complex type, shape (systems, 3, size)
        Above the diagonal (the last is not used), on it, and below it (the first is not used).
    rhs : ndarray of the same type, shape (systems, size, columns)
    pivoting : bool
        Whether a row is swapped with the next where that has the larger entry.
    """
    cdef cnp.ndarray left = np.ascontiguousarray(bands)
    cdef cnp.ndarray right = np.array(rhs, order="C", copy=True)
    cdef Job job
    cdef Py_ssize_t systems, grain
    if left.ndim != 3 or right.ndim != 3 or left.shape[1] != 3 or left.shape[0] != right.shape[0] \
            or left.shape[2] != right.shape[1] or left.dtype != right.dtype:
        raise ValueError("bands (systems, 3, size) and right sides (systems, size, columns) of one type are needed")
    job.bands, job.values = cnp.PyArray_DATA(left), cnp.PyArray_DATA(right)
    job.size, job.columns, job.pivoting, job.failed = right.shape[1], right.shape[2], pivoting, False
    systems = right.shape[0]
    if not cnp.PyArray_SIZE(right):
        return right
    grain = max(TASK_VALUES // (job.size * (job.columns + 3)), 1)
    if right.dtype == np.float32:
        with nogil:
            parallel_ranges(_floats, &job, systems, grain)
    elif right.dtype == np.float64:
        with nogil:
            parallel_ranges(_doubles, &job, systems, grain)
    elif right.dtype == np.complex64:
        with nogil:
            parallel_ranges(_complex_floats, &job, systems, grain)
    elif right.dtype == np.complex128:
        with nogil:
            parallel_ranges(_complex_doubles, &job, systems, grain)
    else:
        raise TypeError(f"a floating or complex type is needed, not {right.dtype}")
    if job.failed:
        raise MemoryError("no scratch memory for a tridiagonal system")
    return right
