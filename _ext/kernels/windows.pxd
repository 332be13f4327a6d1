"""Windows over images for compiled convolutions and poolings: attrs, places, sizes."""

from cpython.object cimport PyObject

cimport numpy as cnp

cdef extern from *:
    """
    /* An array of a type in native byte order, of four dimensions, any strides and alignment. */
    static inline int trt_is_image(PyObject *value, int type)
    {
        return PyArray_CheckExact(value) && PyArray_TYPE((PyArrayObject *)value) == type
            && PyArray_ISNOTSWAPPED((PyArrayObject *)value) && PyArray_NDIM((PyArrayObject *)value) == 4;
    }
    """
    bint trt_is_image(PyObject *value, int type)

cdef extern from "kernels/conv_types.h" nogil:
    ctypedef struct trt_conv_axis:
        Py_ssize_t size, count, stride, origin, taps, step, first_tap, tap_step

cdef enum:
    # Strides, dilations and sizes below this: their products stay within 64 bits.
    LARGEST = 1 << 30

    VALID = 0
    SAME = 1
    EXPLICIT = 2

cdef struct WindowAttrs:
    int padding
    bint channels_first
    Py_ssize_t strides[2]
    Py_ssize_t dilations[2]
    Py_ssize_t before[2]        # EXPLICIT
    Py_ssize_t after[2]


cdef inline bint read_window_attrs(WindowAttrs *attrs, layout, padding, strides, dilations, explicit) except? False:
    """Read attrs, per dimension; False when the Python definition has something to say about them."""
    cdef int axis, place
    if layout not in (b"NHWC", b"NCHW") or padding not in (b"VALID", b"SAME", b"EXPLICIT"):
        return False
    if len(strides) != 4 or len(dilations) != 4 or len(explicit) != (8 if padding == b"EXPLICIT" else 0):
        return False
    attrs.channels_first = layout == b"NCHW"
    attrs.padding = (b"VALID", b"SAME", b"EXPLICIT").index(padding)
    for axis in (0, 1 if attrs.channels_first else 3):
        if strides[axis] != 1 or dilations[axis] != 1 or (explicit and (explicit[2 * axis] or explicit[2 * axis + 1])):
            return False
    for place in range(2):
        axis = place + (2 if attrs.channels_first else 1)
        if not (0 < strides[axis] < LARGEST and 0 < dilations[axis] < LARGEST):
            return False
        attrs.strides[place], attrs.dilations[place] = strides[axis], dilations[axis]
        attrs.before[place], attrs.after[place] = explicit[2 * axis:2 * axis + 2] if explicit else (0, 0)
        if not (0 <= attrs.before[place] < LARGEST and 0 <= attrs.after[place] < LARGEST):
            return False
    return True


cdef inline bint place_windows(const WindowAttrs *attrs, int place, Py_ssize_t size, Py_ssize_t window,
                               Py_ssize_t *count, Py_ssize_t *origin) noexcept nogil:
    """Tell where the windows lie along a dimension: how many, and the first one's first cell; False: an error."""
    cdef Py_ssize_t stride = attrs.strides[place], extent = (window - 1) * attrs.dilations[place] + 1
    cdef Py_ssize_t total
    if attrs.padding == SAME:
        count[0] = (size + stride - 1) // stride
        total = max((count[0] - 1) * stride + extent - size, 0)
        origin[0] = -(total // 2)
        return True
    total = size + attrs.before[place] + attrs.after[place] - extent + stride
    count[0] = total // stride if total > 0 else 0
    origin[0] = -attrs.before[place]
    return total >= 0


cdef inline Py_ssize_t image_dims(const WindowAttrs *attrs, const cnp.npy_intp *dims,
                                  cnp.npy_intp *spatial) noexcept nogil:
    """Return the channels of an image of these dimensions, and its height and width in `spatial`."""
    cdef int first = 2 if attrs.channels_first else 1
    spatial[0] = dims[first]
    spatial[1] = dims[first + 1]
    return dims[1] if attrs.channels_first else dims[3]


cdef inline void image_steps(const WindowAttrs *attrs, cnp.ndarray image, Py_ssize_t *steps) noexcept:
    """Give the strides of batch, rows, columns and channels."""
    cdef cnp.npy_intp *strides = cnp.PyArray_STRIDES(image)
    steps[0] = strides[0]
    steps[1] = strides[2 if attrs.channels_first else 1]
    steps[2] = strides[3 if attrs.channels_first else 2]
    steps[3] = strides[1 if attrs.channels_first else 3]


cdef inline bint fit(const cnp.npy_intp *dims) noexcept nogil:
    """Whether sizes are small enough to be multiplied."""
    return dims[0] < LARGEST and dims[1] < LARGEST and dims[2] < LARGEST and dims[3] < LARGEST


cdef inline object in_layout(const WindowAttrs *attrs, image):
    """Return a channels-last image in the layout that the attrs ask for, as a view."""
    return image.transpose(0, 3, 1, 2) if attrs.channels_first else image


cdef inline bint asked_sizes(object value, cnp.npy_intp *sizes, Py_ssize_t *count) noexcept:
    """Read a vector of two or four int32 sizes; False when it is not one."""
    cdef cnp.ndarray array
    cdef Py_ssize_t i
    if not cnp.PyArray_CheckExact(value):
        return False
    array = <cnp.ndarray>value
    if cnp.PyArray_TYPE(array) != cnp.NPY_INT32 or cnp.PyArray_NDIM(array) != 1:
        return False
    if not cnp.PyArray_ISBEHAVED_RO(array) or cnp.PyArray_DIM(array, 0) not in (2, 4):
        return False
    count[0] = cnp.PyArray_DIM(array, 0)
    for i in range(count[0]):
        sizes[i] = (<cnp.int32_t *>(cnp.PyArray_BYTES(array) + i * cnp.PyArray_STRIDE(array, 0)))[0]
        if not 0 <= sizes[i] < LARGEST:
            return False
    return True


cdef inline bint is_output(const WindowAttrs *attrs, cnp.ndarray array, Py_ssize_t batch, const Py_ssize_t *counts,
                           Py_ssize_t channels) noexcept:
    """Whether an image has the shape of what windows give."""
    cdef cnp.npy_intp spatial[2]
    return (image_dims(attrs, cnp.PyArray_DIMS(array), spatial) == channels and
            cnp.PyArray_DIM(array, 0) == batch and spatial[0] == counts[0] and spatial[1] == counts[1])


# Convolutions


cdef inline bint place_axis(const WindowAttrs *attrs, int place, Py_ssize_t size, Py_ssize_t window,
                            trt_conv_axis *axis) noexcept nogil:
    """Fill in where the windows lie along a dimension of the input; False when that is an error."""
    axis.size, axis.stride, axis.taps, axis.step = size, attrs.strides[place], window, attrs.dilations[place]
    axis.first_tap, axis.tap_step = 0, 1
    return place_windows(attrs, place, size, window, &axis.count, &axis.origin)


cdef inline bint fits_gradient(const WindowAttrs *attrs, cnp.ndarray gradient, Py_ssize_t batch,
                               const trt_conv_axis *axes, Py_ssize_t depth) noexcept:
    """Whether a gradient has the shape of the convolution's output."""
    cdef Py_ssize_t counts[2]
    counts[0], counts[1] = axes[0].count, axes[1].count
    return is_output(attrs, gradient, batch, counts, depth)


cdef inline void turn_axis(const trt_conv_axis *axis, Py_ssize_t offset, trt_conv_axis *out) noexcept nogil:
    """Fill in which windows cover the cells ``offset + i * stride`` of the input, and with which taps.

    Cell c lies under tap k of window o when o * stride + origin + k * dilation == c.
    """
    cdef Py_ssize_t every = axis.stride, rest = axis.step, k = 0, last = -1
    while rest:  # taps that share an offset are stride / gcd(stride, dilation) apart
        every, rest = rest, every % rest
    every = axis.stride // every
    while k < min(every, axis.taps):
        if (offset - axis.origin - k * axis.step) % axis.stride == 0:
            last = k + (axis.taps - 1 - k) // every * every
            break
        k += 1
    out.size = axis.count
    out.count = (axis.size - offset + axis.stride - 1) // axis.stride if axis.size > offset else 0
    out.stride = 1
    out.taps = 0 if last < 0 else (last - k) // every + 1
    out.origin = 0 if last < 0 else (offset - axis.origin - last * axis.step) // axis.stride
    out.step = every * axis.step // axis.stride
    out.first_tap, out.tap_step = last, -every
