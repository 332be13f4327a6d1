"""Loops over pixels for the kernels of images on a CPU: resampling, colours, and boxes that overlap little.

Each releases the GIL and shares its work over the worker pool.
"""

cimport numpy as cnp
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from runtime._ext.worker_pool cimport parallel_ranges

cnp.import_array()

cdef extern from "pixels.h" nogil:
    ctypedef struct trt_taps:
        const int64_t *places
        const float *weights
        Py_ssize_t taps
        Py_ssize_t count
    void trt_gather_row(const trt_taps *taps, const float *source, float *target, Py_ssize_t channels) noexcept
    void trt_scatter_row(const trt_taps *taps, const float *source, float *target, Py_ssize_t channels) noexcept
    void trt_add_scaled(float *target, const float *source, float weight, Py_ssize_t size, bint first) noexcept
    enum:
        TRT_TO_HSV
        TRT_TO_RGB
        TRT_TURN_HUE
        TRT_SCALE_SATURATION
    void trt_colours(int what, float amount, const float *source, float *target, Py_ssize_t pixels) noexcept
    Py_ssize_t trt_suppress(const float *boxes, const int64_t *order, Py_ssize_t count, Py_ssize_t limit,
                            float threshold, int32_t *kept, Py_ssize_t found) noexcept
    void trt_contrast(const float *source, float *target, Py_ssize_t pixels, Py_ssize_t channels, float factor,
                      double *sums) noexcept

cdef enum:
    TASK_VALUES = 1 << 15  # values that a thread makes at a time


# --- resampling ----------------------------------------------------------------------------------------------------------

cdef struct Resampling:
    const float *source
    float *target
    trt_taps rows
    trt_taps columns
    Py_ssize_t height, width, channels  # of the input
    bint failed


cdef trt_taps _taps(const int64_t[:, ::1] places, const float[:, ::1] weights, Py_ssize_t size) except *:
    """Return the samples of one dimension, checked: they are read without another look."""
    cdef trt_taps taps
    cdef Py_ssize_t k, i
    if places.shape[0] != weights.shape[0] or places.shape[1] != weights.shape[1] or not places.shape[0] * places.shape[1]:
        raise ValueError("there must be as many weights as places, and some")
    for k in range(places.shape[0]):
        for i in range(places.shape[1]):
            if places[k, i] < 0 or places[k, i] >= size:
                raise ValueError(f"place {places[k, i]} is not in [0, {size})")
    taps.places, taps.weights = &places[0, 0], &weights[0, 0]
    taps.taps, taps.count = places.shape[0], places.shape[1]
    return taps


cdef void _gather(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Make rows [begin, end) of the result, counted over all images, each across when its rows are summed."""
    cdef Resampling *job = <Resampling *>context
    cdef Py_ssize_t line = job.columns.count * job.channels, from_line = job.width * job.channels
    cdef float *summed = <float *>malloc(from_line * sizeof(float))
    cdef Py_ssize_t i, k, image, row
    cdef float weight
    if summed == NULL:
        job.failed = True
        return
    for i in range(begin, end):
        image, row = i // job.rows.count, i % job.rows.count
        for k in range(job.rows.taps):
            weight = job.rows.weights[k * job.rows.count + row]
            if weight != 0 or k == 0:
                trt_add_scaled(summed, job.source + (image * job.height + job.rows.places[k * job.rows.count + row])
                               * from_line, weight, from_line, k == 0)
        trt_gather_row(&job.columns, summed, job.target + i * line, job.channels)
    free(summed)


cdef void _gather_across(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """The same for results of more rows than the input: rows of the input are resampled across first.

    They are kept in a ring as long as later rows may need them: the places of neighbouring rows lie close together.
    """
    cdef Resampling *job = <Resampling *>context
    cdef Py_ssize_t line = job.columns.count * job.channels
    cdef Py_ssize_t keep = job.rows.taps + 1
    cdef float *ring = <float *>malloc(keep * line * sizeof(float))
    cdef Py_ssize_t *held = <Py_ssize_t *>malloc(keep * sizeof(Py_ssize_t))
    cdef Py_ssize_t i, k, image, row, place, slot
    cdef float weight
    if ring == NULL or held == NULL:
        job.failed = True
        free(ring)
        free(held)
        return
    for slot in range(keep):
        held[slot] = -1
    for i in range(begin, end):
        image, row = i // job.rows.count, i % job.rows.count
        for k in range(job.rows.taps):
            weight = job.rows.weights[k * job.rows.count + row]
            if weight == 0 and k:
                continue
            place = image * job.height + job.rows.places[k * job.rows.count + row]
            slot = place % keep
            if held[slot] != place:
                trt_gather_row(&job.columns, job.source + place * job.width * job.channels, ring + slot * line,
                               job.channels)
                held[slot] = place
            trt_add_scaled(job.target + i * line, ring + slot * line, weight, line, k == 0)
    free(ring)
    free(held)


cdef void _scatter(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    """Make the gradients of images [begin, end)."""
    cdef Resampling *job = <Resampling *>context
    cdef Py_ssize_t line = job.width * job.channels
    cdef Py_ssize_t from_line = job.columns.count * job.channels
    cdef float *spread = <float *>malloc(line * sizeof(float))
    cdef Py_ssize_t image, row, k
    cdef float *target
    if spread == NULL:
        job.failed = True
        return
    for image in range(begin, end):
        target = job.target + image * job.height * line
        memset(target, 0, job.height * line * sizeof(float))
        for row in range(job.rows.count):
            memset(spread, 0, line * sizeof(float))
            trt_scatter_row(&job.columns, job.source + (image * job.rows.count + row) * from_line, spread,
                            job.channels)
            for k in range(job.rows.taps):
                trt_add_scaled(target + job.rows.places[k * job.rows.count + row] * line, spread,
                               job.rows.weights[k * job.rows.count + row], line, False)
    free(spread)


cdef cnp.ndarray _floats(array, int rank):
    cdef cnp.ndarray source = cnp.PyArray_FROM_OF(array, cnp.NPY_ARRAY_CARRAY_RO | cnp.NPY_ARRAY_NOTSWAPPED)
    if cnp.PyArray_TYPE(source) != cnp.NPY_FLOAT32 or (rank and cnp.PyArray_NDIM(source) != rank):
        raise TypeError(f"float32 of rank {rank or 'any'} is needed, not {source.dtype}")
    return source


def gather(images, row_places, row_weights, column_places, column_weights):
    """Return images resampled in both dimensions.

    Parameters
    ----------
    images : ndarray of float32, shape (batch, height, width, channels)
    row_places, row_weights : ndarray of int64 and of float32, shape (samples, rows)
        For each row of the result the rows of the input that it is a weighted sum of.
    column_places, column_weights : ndarray, shape (samples, columns)
        The same for columns.

    Returns
    -------
    ndarray of float32, shape (batch, rows, columns, channels)
    """
    cdef cnp.ndarray source = _floats(images, 4)
    cdef Resampling job
    cdef cnp.npy_intp dims[4]
    cdef cnp.ndarray target
    job.height, job.width, job.channels = source.shape[1], source.shape[2], source.shape[3]
    job.rows = _taps(row_places, row_weights, job.height)
    job.columns = _taps(column_places, column_weights, job.width)
    dims[0], dims[1], dims[2], dims[3] = source.shape[0], job.rows.count, job.columns.count, job.channels
    target = cnp.PyArray_EMPTY(4, dims, cnp.NPY_FLOAT32, 0)
    job.source, job.target, job.failed = <const float *>cnp.PyArray_DATA(source), <float *>cnp.PyArray_DATA(target), False
    cdef Py_ssize_t grain = max(TASK_VALUES // max(dims[2] * dims[3], 1), 8)
    if cnp.PyArray_SIZE(target):
        with nogil:
            parallel_ranges(_gather if job.rows.count <= job.height else _gather_across, &job, dims[0] * dims[1], grain)
        if job.failed:
            raise MemoryError("no scratch memory for resampling")
    return target


def scatter(grads, row_places, row_weights, column_places, column_weights, Py_ssize_t height, Py_ssize_t width):
    """Return the gradient of `gather` by its images, of the height and width given.

    Parameters
    ----------
    grads : ndarray of float32, shape (batch, rows, columns, channels)
    """
    cdef cnp.ndarray source = _floats(grads, 4)
    cdef Resampling job
    cdef cnp.npy_intp dims[4]
    cdef cnp.ndarray target
    if height < 0 or width < 0:
        raise ValueError("an image must have a size")
    job.height, job.width, job.channels = height, width, source.shape[3]
    job.rows = _taps(row_places, row_weights, height)
    job.columns = _taps(column_places, column_weights, width)
    if job.rows.count != source.shape[1] or job.columns.count != source.shape[2]:
        raise ValueError("there must be places for each row and column of the gradient")
    dims[0], dims[1], dims[2], dims[3] = source.shape[0], height, width, job.channels
    target = cnp.PyArray_EMPTY(4, dims, cnp.NPY_FLOAT32, 0)
    job.source, job.target, job.failed = <const float *>cnp.PyArray_DATA(source), <float *>cnp.PyArray_DATA(target), False
    if cnp.PyArray_SIZE(target):
        with nogil:
            parallel_ranges(_scatter, &job, dims[0], 1)
        if job.failed:
            raise MemoryError("no scratch memory for resampling")
    return target


# --- colours -------------------------------------------------------------------------------------------------------------

cdef struct Colours:
    const float *source
    float *target
    int what
    float amount


cdef void _colour(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef const Colours *job = <const Colours *>context
    trt_colours(job.what, job.amount, job.source + 3 * begin, job.target + 3 * begin, end - begin)


cdef object _map(images, int what, float amount):
    cdef cnp.ndarray source = _floats(images, 0)
    cdef Colours job
    cdef cnp.ndarray target
    cdef int rank = cnp.PyArray_NDIM(source)
    cdef Py_ssize_t pixels
    if rank < 1 or cnp.PyArray_DIM(source, rank - 1) != 3:
        raise ValueError("the last dimension must be the three channels")
    target = cnp.PyArray_EMPTY(rank, cnp.PyArray_DIMS(source), cnp.NPY_FLOAT32, 0)
    job.source, job.target = <const float *>cnp.PyArray_DATA(source), <float *>cnp.PyArray_DATA(target)
    job.what, job.amount = what, amount
    pixels = cnp.PyArray_SIZE(source) // 3
    with nogil:
        parallel_ranges(_colour, &job, pixels, TASK_VALUES // 4)
    return target


def to_hsv(images):
    """Return the hue, saturation and value of RGB pixels, float32 (..., 3)."""
    return _map(images, TRT_TO_HSV, 0)


def to_rgb(images):
    """Return RGB pixels of hue, saturation and value, float32 (..., 3)."""
    return _map(images, TRT_TO_RGB, 0)


def turn_hue(images, float amount):
    """Return RGB pixels with `amount`, in turns, added to their hue."""
    return _map(images, TRT_TURN_HUE, amount)


def scale_saturation(images, float amount):
    """Return RGB pixels with their saturation multiplied by `amount`."""
    return _map(images, TRT_SCALE_SATURATION, amount)


cdef struct Contrast:
    const float *source
    float *target
    Py_ssize_t pixels, channels
    float factor
    bint failed


cdef void _contrast(void *context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    cdef Contrast *job = <Contrast *>context
    cdef Py_ssize_t image, size = job.pixels * job.channels
    cdef double *sums = <double *>malloc(job.channels * sizeof(double))
    if sums == NULL:
        job.failed = True
        return
    for image in range(begin, end):
        trt_contrast(job.source + image * size, job.target + image * size, job.pixels, job.channels, job.factor, sums)
    free(sums)


def scale_contrast(images, float factor):
    """Return images, float32 (batch, height, width, channels), with their distance from the mean of an image's channel
    multiplied by `factor`."""
    cdef cnp.ndarray source = _floats(images, 4)
    cdef Contrast job
    cdef cnp.ndarray target = cnp.PyArray_EMPTY(4, cnp.PyArray_DIMS(source), cnp.NPY_FLOAT32, 0)
    cdef Py_ssize_t count = source.shape[0]
    job.source, job.target = <const float *>cnp.PyArray_DATA(source), <float *>cnp.PyArray_DATA(target)
    job.pixels, job.channels = source.shape[1] * source.shape[2], source.shape[3]
    job.factor, job.failed = factor, False
    if cnp.PyArray_SIZE(source):
        with nogil:
            parallel_ranges(_contrast, &job, count, max(TASK_VALUES // (job.pixels * job.channels), 1))
        if job.failed:
            raise MemoryError("no scratch memory for the means of channels")
    return target


# --- boxes -----------------------------------------------------------------------------------------------------------------


def suppress(boxes, const int64_t[::1] order not None, int32_t[::1] kept not None, Py_ssize_t found, float threshold):
    """Add to the boxes that are kept those that overlap none of them by more than a threshold.

    Parameters
    ----------
    boxes : ndarray of float32, shape (n, 5)
        Top, left, bottom, right and area.
    order : ndarray of int64, shape (m,)
        The boxes to be looked at, best first.
    kept : ndarray of int32, shape (limit,)
        Its first `found` entries are the boxes that are kept already; written.

    Returns
    -------
    int
        How many are kept now.
    """
    cdef cnp.ndarray source = _floats(boxes, 2)
    cdef Py_ssize_t i, count = order.shape[0], limit = kept.shape[0], most = source.shape[0]
    if source.shape[1] != 5:
        raise ValueError("a box has five numbers")
    if found < 0 or found > limit:
        raise ValueError(f"{found} boxes do not fit {limit} places")
    for i in range(count):
        if order[i] < 0 or order[i] >= most:
            raise ValueError(f"there is no box {order[i]}")
    for i in range(found):
        if kept[i] < 0 or kept[i] >= most:
            raise ValueError(f"there is no box {kept[i]}")
    cdef const float *read = <const float *>cnp.PyArray_DATA(source)
    if count and found < limit:
        with nogil:
            found = trt_suppress(read, &order[0], count, limit, threshold, &kept[0], found)
    return found
