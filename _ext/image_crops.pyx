# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Crops of images, resized: each cell from one or from four cells of an image, shared over the worker pool.

Which cells these are is found by the caller, per row and column of a crop, and checked here.
"""

cimport numpy as cnp
from libc.stdint cimport int64_t

import numpy as np

from runtime._ext.worker_pool cimport parallel_ranges

cnp.import_array()

cdef extern from "kernels/simd.h":
    ctypedef float trt_mem_f32  # at any address: a fed value lies anywhere in a request

cdef enum:
    GRAIN = 1 << 14  # numbers of the result that a thread makes at a time, in whole rows


cdef struct Job:
    const trt_mem_f32 *images
    float *out
    const int64_t *which
    const int64_t *top
    const int64_t *bottom
    const int64_t *left
    const int64_t *right
    const float *down
    const float *across
    const char *row_inside
    const char *column_inside
    Py_ssize_t rows, columns, depth, height, width  # of a crop, of both, of an image
    float outside
    bint smooth


cdef void _make_rows(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef const Job *job = <const Job *>context
    cdef Py_ssize_t row, crop, x, c, place, depth = job.depth, line = job.width * job.depth
    cdef const trt_mem_f32 *image
    cdef const trt_mem_f32 *upper
    cdef const trt_mem_f32 *lower
    cdef float *out
    cdef float down, across, high, low
    cdef Py_ssize_t left, right
    for row in range(begin, end):
        crop = row // job.rows
        out = job.out + row * job.columns * depth
        if not job.row_inside[row]:
            for x in range(job.columns * depth):
                out[x] = job.outside
            continue
        image = job.images + job.which[crop] * job.height * line
        upper = image + job.top[row] * line
        lower = image + job.bottom[row] * line
        down = job.down[row]
        for x in range(job.columns):
            place = crop * job.columns + x
            if not job.column_inside[place]:
                for c in range(depth):
                    out[c] = job.outside
            else:
                left, right = job.left[place] * depth, job.right[place] * depth
                if job.smooth:
                    across = job.across[place]
                    for c in range(depth):
                        high = upper[left + c] + (upper[right + c] - upper[left + c]) * across
                        low = lower[left + c] + (lower[right + c] - lower[left + c]) * across
                        out[c] = high + (low - high) * down
                else:
                    for c in range(depth):
                        out[c] = upper[left + c]
            out += depth


def crops(const float[:, :, :, ::1] images, const int64_t[::1] which, const int64_t[:, ::1] top,
          const int64_t[:, ::1] bottom, const float[:, ::1] down, rows_inside, const int64_t[:, ::1] left,
          const int64_t[:, ::1] right, const float[:, ::1] across, columns_inside, float outside, bint smooth):
    """Return crops of images, resized to h by w cells.

    Parameters
    ----------
    images : float32 (b, height, width, depth)
        Aligned or not.
    which : int64 (n,)
        The image of each crop.
    top, bottom : int64 (n, h)
        Rows of the image that a crop's row lies between.
    down : float32 (n, h)
        How far it is from the upper of them: 0 to 1.
    rows_inside : bool (n, h)
        Whether it lies in the image at all.
    left, right, across, columns_inside
        The same for columns, (n, w).
    outside : float
        The value of cells that do not lie in the image.
    smooth : bool
        Whether four cells are mixed, or the upper left one is taken.

    Returns
    -------
    float32 (n, h, w, depth)

    Raises
    ------
    ValueError
        If shapes do not go together.
    IndexError
        If a cell is in no image.
    """
    cdef const cnp.npy_bool[:, ::1] row_inside = np.ascontiguousarray(rows_inside).view(np.uint8)
    cdef const cnp.npy_bool[:, ::1] column_inside = np.ascontiguousarray(columns_inside).view(np.uint8)
    cdef Py_ssize_t count = which.shape[0], h = top.shape[1], w = left.shape[1], i
    for name, places, wanted in (("top", top, h), ("bottom", bottom, h), ("down", down, h), ("rows_inside", row_inside, h),
                                 ("left", left, w), ("right", right, w), ("across", across, w),
                                 ("columns_inside", column_inside, w)):
        if np.shape(places) != (count, wanted):
            raise ValueError(f"{name} must be of shape {(count, wanted)}, not {np.shape(places)}")
    cdef cnp.ndarray result = np.empty((count, h, w, images.shape[3]), np.float32)
    if not result.size:
        return result
    for name, places, limit in (("which", which, images.shape[0]), ("top", top, images.shape[1]),
                                ("bottom", bottom, images.shape[1]), ("left", left, images.shape[2]),
                                ("right", right, images.shape[2])):
        if np.min(places) < 0 or np.max(places) >= limit:
            raise IndexError(f"{name} must be between 0 and {limit - 1}")
    cdef Job job
    job.images = <const trt_mem_f32 *>&images[0, 0, 0, 0]
    job.out = <float *>cnp.PyArray_DATA(result)
    job.which, job.top, job.bottom = &which[0], &top[0, 0], &bottom[0, 0]
    job.left, job.right = &left[0, 0], &right[0, 0]
    job.down, job.across = &down[0, 0], &across[0, 0]
    job.row_inside = <const char *>&row_inside[0, 0]
    job.column_inside = <const char *>&column_inside[0, 0]
    job.rows, job.columns, job.depth = h, w, images.shape[3]
    job.height, job.width = images.shape[1], images.shape[2]
    job.outside, job.smooth = outside, smooth
    with nogil:
        parallel_ranges(_make_rows, &job, count * h, max(1, GRAIN // max(1, w * images.shape[3])))
    return result
