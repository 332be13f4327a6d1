# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Sums of rows that indices pick: what embeddings, their gradients and sparse products come to on a CPU.

One loop over the indices, in their order, without a copy of the rows. It works without the GIL, and ends early once the
calling thread's step is cancelled.
"""

from libc.stdint cimport int64_t

from runtime._ext.running_step cimport stop_flag

ctypedef fused real:
    float
    double


cdef void _add(real *out, const int64_t *targets, const real *rows, const int64_t *sources, const real *factors,
               Py_ssize_t count, Py_ssize_t width, const int *stop) noexcept nogil:
    cdef Py_ssize_t place, column
    cdef real *into
    cdef const real *row
    cdef real factor
    for place in range(count):
        if stop != NULL and stop[0]:
            return
        into = out + targets[place] * width
        row = rows + sources[place] * width
        if factors == NULL:
            for column in range(width):
                into[column] += row[column]
        else:
            factor = factors[place]
            for column in range(width):
                into[column] += factor * row[column]


def add_rows(real[:, ::1] out, const int64_t[::1] targets, const real[:, ::1] rows, const int64_t[::1] sources,
             const real[::1] factors=None):
    """Add ``factors[i] * rows[sources[i]]`` to ``out[targets[i]]`` for every i, one after another.

    Parameters
    ----------
    out : float32 or float64 (m, width), changed
        It must not overlap `rows`.
    targets, sources : int64 (n,)
    rows : ndarray of the same type, (k, width)
    factors : ndarray of the same type, (n,), optional
        1 when left out.

    Raises
    ------
    ValueError
        If sizes do not fit.
    IndexError
        If a number of a row is not one.
    """
    cdef Py_ssize_t count = targets.shape[0], width = out.shape[1], place
    if sources.shape[0] != count or (factors is not None and factors.shape[0] != count):
        raise ValueError(f"{count} targets need as many sources and factors")
    if rows.shape[1] != width:
        raise ValueError(f"rows of {rows.shape[1]} cannot be added to rows of {width}")
    for place in range(count):
        if not (0 <= targets[place] < out.shape[0] and 0 <= sources[place] < rows.shape[0]):
            raise IndexError(f"place {place} is from row {sources[place]} of {rows.shape[0]} to row {targets[place]} of "
                             f"{out.shape[0]}")
    if count == 0 or width == 0:
        return
    cdef const real *scale = NULL
    if factors is not None:
        scale = &factors[0]
    with nogil:
        _add[real](&out[0, 0], &targets[0], &rows[0, 0], &sources[0], scale, count, width, stop_flag())
