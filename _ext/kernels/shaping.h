/* Kernels that change shapes, cut arrays or hand them on: of any type, because they look at no element.
 *
 * Permuted axes are copied, as parts are that do not lie together: what comes next then runs over plain memory.
 */
#ifndef TRT_KERNELS_SHAPING_H
#define TRT_KERNELS_SHAPING_H

#include "kernels/parts.h"

static int trt_hand_on(PyObject **inputs, PyObject **outputs, int count)
{
    for (int i = 0; i < count; i++)
        if (!PyArray_CheckExact(inputs[i]))
            return 1;
    for (int i = 0; i < count; i++)
        outputs[i] = trt_same((PyArrayObject *)inputs[i]);
    return 0;
}

/* -- shapes as values -- */

static PyObject *trt_shape_of(PyArrayObject *array, int type)
{
    npy_intp rank = PyArray_NDIM(array);
    PyObject *result = trt_new_array(type, 1, &rank);
    if (result == NULL)
        return NULL;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    for (npy_intp i = 0; i < rank; i++) {
        if (type == NPY_INT64)
            ((trt_mem_i64 *)out)[i] = PyArray_DIM(array, i);
        else
            ((trt_mem_i32 *)out)[i] = (int32_t)PyArray_DIM(array, i);
    }
    return result;
}

static int trt_shapes(PyObject **inputs, PyObject **outputs, int count, int type)
{
    for (int i = 0; i < count; i++) {
        if (!PyArray_CheckExact(inputs[i]))
            return 1;
        PyArrayObject *array = (PyArrayObject *)inputs[i];
        for (int k = 0; type == NPY_INT32 && k < PyArray_NDIM(array); k++)
            if (PyArray_DIM(array, k) > INT32_MAX)
                return 1;
    }
    for (int i = 0; i < count; i++) {
        outputs[i] = trt_shape_of((PyArrayObject *)inputs[i], type);
        if (outputs[i] == NULL)
            return -1;
    }
    return 0;
}

/* A scalar of int32 or int64. */
static int trt_scalar(int64_t value, PyObject **outputs, int type)
{
    if (type == NPY_INT32 && value > INT32_MAX)
        return 1;
    PyObject *result = trt_new_array(type, 0, NULL);
    if (result == NULL)
        return -1;
    if (type == NPY_INT64)
        *(trt_mem_i64 *)PyArray_DATA((PyArrayObject *)result) = value;
    else
        *(trt_mem_i32 *)PyArray_DATA((PyArrayObject *)result) = (int32_t)value;
    outputs[0] = result;
    return 0;
}

static int trt_size(PyObject **inputs, PyObject **outputs, int type)
{
    return PyArray_CheckExact(inputs[0]) ? trt_scalar(PyArray_SIZE((PyArrayObject *)inputs[0]), outputs, type) : 1;
}

static int trt_rank(PyObject **inputs, PyObject **outputs)
{
    return PyArray_CheckExact(inputs[0]) ? trt_scalar(PyArray_NDIM((PyArrayObject *)inputs[0]), outputs, NPY_INT32) : 1;
}

/* -- other shapes of the same elements -- */

static int trt_reshape(PyObject **inputs, PyObject **outputs)
{
    int64_t wanted[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK], known = 1;
    int rank, unknown = -1, empty = 0;
    if (!trt_is_array(inputs[0]) || (rank = trt_read_vector(inputs[1], wanted)) < 0)
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    if (!PyArray_CHKFLAGS(array, NPY_ARRAY_C_CONTIGUOUS))
        return 1;
    npy_intp size = PyArray_SIZE(array);
    for (int i = 0; i < rank; i++) {
        dims[i] = (npy_intp)wanted[i];
        if (wanted[i] == -1 && unknown < 0) {
            unknown = i;
        } else if (wanted[i] == 0) {
            empty = 1;
        } else {
            if (wanted[i] < 0 || known > (size ? size : NPY_MAX_INTP / 16) / wanted[i])
                return 1;
            known *= dims[i];
        }
    }
    if (unknown >= 0) { /* for an empty array there are rules of their own */
        if (size == 0 || empty || size % known)
            return 1;
        dims[unknown] = size / known;
    } else if (empty ? size != 0 : known != size) {
        return 1;
    }
    if (rank == PyArray_NDIM(array) && (rank == 0 || memcmp(dims, PyArray_DIMS(array), rank * sizeof(npy_intp)) == 0)) {
        outputs[0] = trt_same(array);
        return 0;
    }
    outputs[0] = trt_view(array, PyArray_BYTES(array), rank, dims, NULL);
    return outputs[0] == NULL ? -1 : 0;
}

static int trt_expand_dims(PyObject **inputs, PyObject **outputs)
{
    int64_t axis[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK + 1], strides[TRT_SHAPING_RANK + 1];
    if (!trt_is_array(inputs[0]) || trt_read_ints(inputs[1], axis) != 1)
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(array);
    int64_t at = axis[0] < 0 ? axis[0] + rank + 1 : axis[0];
    if (at < 0 || at > rank)
        return 1;
    for (int i = 0; i <= rank; i++) {
        int from = i > at ? i - 1 : i;
        dims[i] = i == at ? 1 : PyArray_DIM(array, from);
        strides[i] = i == at ? PyArray_ITEMSIZE(array) : PyArray_STRIDE(array, from);
    }
    outputs[0] = trt_view(array, PyArray_BYTES(array), rank + 1, dims, strides);
    return outputs[0] == NULL ? -1 : 0;
}

typedef struct {
    int count;               /* 0: every axis of length 1 */
    int axes[TRT_SHAPING_RANK];
} trt_squeeze_params;

static int trt_squeeze(PyObject **inputs, PyObject **outputs, const trt_squeeze_params *p)
{
    npy_intp dims[TRT_SHAPING_RANK], strides[TRT_SHAPING_RANK];
    unsigned int drop = 0;
    int kept = 0;
    if (!trt_is_array(inputs[0]))
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(array);
    for (int i = 0; i < p->count; i++) {
        int axis = p->axes[i] < 0 ? p->axes[i] + rank : p->axes[i];
        if (axis < 0 || axis >= rank || PyArray_DIM(array, axis) != 1)
            return 1;
        drop |= 1u << axis;
    }
    for (int i = 0; i < rank; i++) {
        if (p->count ? drop >> i & 1 : PyArray_DIM(array, i) == 1)
            continue;
        dims[kept] = PyArray_DIM(array, i);
        strides[kept++] = PyArray_STRIDE(array, i);
    }
    outputs[0] = kept == rank ? trt_same(array) : trt_view(array, PyArray_BYTES(array), kept, dims, strides);
    return outputs[0] == NULL ? -1 : 0;
}

static int trt_transpose(PyObject **inputs, PyObject **outputs)
{
    int64_t order[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK], strides[TRT_SHAPING_RANK];
    unsigned int seen = 0;
    if (!trt_is_array(inputs[0]))
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(array);
    if (trt_read_vector(inputs[1], order) != rank)
        return 1;
    for (int i = 0; i < rank; i++) {
        int64_t axis = order[i] < 0 ? order[i] + rank : order[i];
        if (axis < 0 || axis >= rank || seen >> axis & 1)
            return 1;
        seen |= 1u << axis;
        dims[i] = PyArray_DIM(array, axis);
        strides[i] = PyArray_STRIDE(array, axis);
    }
    outputs[0] = trt_part(array, PyArray_BYTES(array), rank, dims, strides);
    return outputs[0] == NULL ? -1 : 0;
}

/* -- parts -- */

static int trt_slice(PyObject **inputs, PyObject **outputs)
{
    int64_t begin[TRT_SHAPING_RANK], size[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK], strides[TRT_SHAPING_RANK];
    if (!trt_is_array(inputs[0]))
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(array);
    if (trt_read_vector(inputs[1], begin) != rank || trt_read_vector(inputs[2], size) != rank)
        return 1;
    char *data = PyArray_BYTES(array);
    for (int i = 0; i < rank; i++) {
        npy_intp length = PyArray_DIM(array, i);
        if (begin[i] < 0 || begin[i] > length)
            return 1;
        int64_t count = size[i] == -1 ? length - begin[i] : size[i];
        if (count < 0 || count > length - begin[i])
            return 1;
        dims[i] = (npy_intp)count;
        strides[i] = PyArray_STRIDE(array, i);
        if (count)
            data += begin[i] * strides[i];
    }
    outputs[0] = trt_part(array, data, rank, dims, strides);
    return outputs[0] == NULL ? -1 : 0;
}

typedef struct {
    int64_t begin, end, ellipsis, new_axis, shrink;
} trt_slice_masks;

static inline int64_t trt_clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static int trt_strided_slice(PyObject **inputs, PyObject **outputs, const trt_slice_masks *masks)
{
    int64_t begin[TRT_SHAPING_RANK], end[TRT_SHAPING_RANK], step[TRT_SHAPING_RANK];
    npy_intp dims[2 * TRT_SHAPING_RANK], strides[2 * TRT_SHAPING_RANK];
    int kept = 0, axis = 0, after_ellipsis = 0;
    if (!trt_is_array(inputs[0]))
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(array), count = trt_read_vector(inputs[1], begin);
    if (count < 0 || trt_read_vector(inputs[2], end) != count || trt_read_vector(inputs[3], step) != count)
        return 1;
    char *data = PyArray_BYTES(array);
    int empty = 0;
    for (int i = 0, seen = 0; i < count; i++) {
        if (masks->ellipsis >> i & 1)
            seen = 1;
        else if (seen && masks->new_axis >> i & 1)
            after_ellipsis++;
    }
    for (int i = 0; i < count; i++) {
        if (masks->ellipsis >> i & 1) {
            int stop = rank - (count - i) + 1 + after_ellipsis;
            for (; axis < stop && axis < rank; axis++) {
                dims[kept] = PyArray_DIM(array, axis);
                strides[kept++] = PyArray_STRIDE(array, axis);
            }
            continue;
        }
        if (masks->new_axis >> i & 1) {
            dims[kept] = 1;
            strides[kept++] = PyArray_ITEMSIZE(array);
            continue;
        }
        if (axis >= rank || step[i] == 0)
            return 1;
        int64_t length = PyArray_DIM(array, axis);
        npy_intp stride = PyArray_STRIDE(array, axis);
        axis++;
        if (masks->shrink >> i & 1) {
            int64_t at = begin[i] < 0 ? begin[i] + length : begin[i];
            if (step[i] < 0 || at < 0 || at >= length)
                return 1;
            data += at * stride;
            continue;
        }
        int64_t low = step[i] > 0 ? 0 : -1, high = step[i] > 0 ? length : length - 1;
        int64_t start = step[i] > 0 ? low : high, stop = step[i] > 0 ? high : low;
        if (!(masks->begin >> i & 1))
            start = trt_clamp(begin[i] < 0 ? begin[i] + length : begin[i], low, high);
        if (!(masks->end >> i & 1))
            stop = trt_clamp(end[i] < 0 ? end[i] + length : end[i], low, high);
        int64_t span = stop - start;
        if (span == 0 || (span < 0) != (step[i] < 0)) {
            dims[kept] = 0;
            strides[kept++] = stride;
            empty = 1;
            continue;
        }
        dims[kept] = (npy_intp)(step[i] > 0 ? (span - 1) / step[i] + 1 : (span + 1) / step[i] + 1);
        /* a step that is never taken may be too long to be multiplied */
        strides[kept] = dims[kept] == 1 ? stride : (npy_intp)(step[i] * stride);
        kept++;
        data += start * stride;
    }
    for (; axis < rank; axis++) {
        dims[kept] = PyArray_DIM(array, axis);
        strides[kept++] = PyArray_STRIDE(array, axis);
    }
    if (kept > TRT_SHAPING_RANK)
        return 1;
    outputs[0] = trt_part(array, empty ? PyArray_BYTES(array) : data, kept, dims, strides);
    return outputs[0] == NULL ? -1 : 0;
}

static int trt_unpack(PyObject **inputs, PyObject **outputs, int count, int axis)
{
    npy_intp dims[TRT_SHAPING_RANK], strides[TRT_SHAPING_RANK];
    int kept = 0;
    if (!trt_is_array(inputs[0]))
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(array);
    axis = axis < 0 ? axis + rank : axis;
    if (axis < 0 || axis >= rank || PyArray_DIM(array, axis) != count)
        return 1;
    for (int i = 0; i < rank; i++) {
        if (i == axis)
            continue;
        dims[kept] = PyArray_DIM(array, i);
        strides[kept++] = PyArray_STRIDE(array, i);
    }
    for (int i = 0; i < count; i++) {
        outputs[i] = trt_part(array, PyArray_BYTES(array) + i * PyArray_STRIDE(array, axis), kept, dims, strides);
        if (outputs[i] == NULL)
            return -1;
    }
    return 0;
}

#endif
