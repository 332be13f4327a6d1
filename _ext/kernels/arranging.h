/* Kernels that split, repeat, spread and pad arrays of plain bytes, and those that reckon with shapes for gradients. */
#ifndef TRT_KERNELS_ARRANGING_H
#define TRT_KERNELS_ARRANGING_H

#include "kernels/parts.h"

static int trt_split_at(PyArrayObject *array, int axis, const npy_intp *sizes, PyObject **outputs, int count)
{
    npy_intp dims[TRT_SHAPING_RANK];
    char *data = PyArray_BYTES(array);
    int rank = PyArray_NDIM(array);
    for (int i = 0; i < rank; i++)
        dims[i] = PyArray_DIM(array, i);
    for (int i = 0; i < count; i++) {
        dims[axis] = sizes[i];
        outputs[i] = trt_part(array, data, rank, dims, PyArray_STRIDES(array));
        if (outputs[i] == NULL)
            return -1;
        data += sizes[i] * PyArray_STRIDE(array, axis);
    }
    return 0;
}

enum { TRT_MAX_PARTS = 256 };

static int trt_split(PyObject **inputs, PyObject **outputs, int count)
{
    int64_t read[TRT_SHAPING_RANK];
    npy_intp sizes[TRT_MAX_PARTS];
    if (!trt_is_array(inputs[1]) || !PyArray_CheckExact(inputs[0]) || PyArray_NDIM((PyArrayObject *)inputs[0])
        || trt_read_ints(inputs[0], read) != 1 || count > TRT_MAX_PARTS)
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[1];
    int rank = PyArray_NDIM(array);
    int64_t axis = read[0] < 0 ? read[0] + rank : read[0];
    if (axis < 0 || axis >= rank || PyArray_DIM(array, axis) % count)
        return 1;
    for (int i = 0; i < count; i++)
        sizes[i] = PyArray_DIM(array, axis) / count;
    return trt_split_at(array, (int)axis, sizes, outputs, count);
}

static int trt_split_v(PyObject **inputs, PyObject **outputs, int count)
{
    int64_t wanted[TRT_SHAPING_RANK], read[TRT_SHAPING_RANK];
    npy_intp sizes[TRT_SHAPING_RANK];
    int unknown = -1;
    if (!trt_is_array(inputs[0]) || trt_read_vector(inputs[1], wanted) != count || trt_read_ints(inputs[2], read) != 1)
        return 1;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(array);
    int64_t axis = read[0] < 0 ? read[0] + rank : read[0];
    if (axis < 0 || axis >= rank)
        return 1;
    npy_intp left = PyArray_DIM(array, axis);
    for (int i = 0; i < count; i++) {
        sizes[i] = (npy_intp)wanted[i];
        if (wanted[i] == -1 && unknown < 0) {
            unknown = i;
        } else {
            if (wanted[i] < 0 || wanted[i] > left)
                return 1;
            left -= sizes[i];
        }
    }
    if (unknown >= 0)
        sizes[unknown] = left;
    else if (left)
        return 1;
    return trt_split_at(array, (int)axis, sizes, outputs, count);
}

static int trt_tile(PyObject **inputs, PyObject **outputs)
{
    int64_t multiples[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK], count = 1, step, size;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    trt_copy copy;
    if (!trt_is_array(inputs[0]) || !trt_holds_plain_bytes(array)
        || trt_read_vector(inputs[1], multiples) != PyArray_NDIM(array))
        return 1;
    int rank = PyArray_NDIM(array), same = 1;
    size = step = PyArray_ITEMSIZE(array);
    for (int i = 0; i < rank; i++) {
        npy_intp length = PyArray_DIM(array, i);
        if (multiples[i] < 0 || (length && multiples[i] > NPY_MAX_INTP / 16 / size / length))
            return 1;
        dims[i] = length * (npy_intp)multiples[i];
        if (dims[i] && count > NPY_MAX_INTP / 16 / size / dims[i])
            return 1;
        count *= dims[i];
        same &= multiples[i] == 1;
    }
    if (same) {
        outputs[0] = trt_same(array);
        return 0;
    }
    PyObject *result = trt_new_of(array, rank, dims);
    if (result == NULL)
        return -1;
    if (count) {
        npy_intp steps[TRT_SHAPING_RANK];
        for (int i = rank - 1; i >= 0; i--) {
            steps[i] = step;
            step *= dims[i];
        }
        trt_copy_begin(&copy, PyArray_BYTES((PyArrayObject *)result), PyArray_BYTES(array), size);
        for (int i = 0; i < rank; i++) {
            trt_copy_axis(&copy, (npy_intp)multiples[i], steps[i] * PyArray_DIM(array, i), 0);
            trt_copy_axis(&copy, PyArray_DIM(array, i), steps[i], PyArray_STRIDE(array, i));
        }
        TRT_BEGIN_WORK(2 * count * size)
        trt_copy_run(&copy);
        TRT_END_WORK
    }
    outputs[0] = result;
    return 0;
}

static int trt_broadcast_to(PyObject **inputs, PyObject **outputs)
{
    int64_t wanted[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK], steps[TRT_SHAPING_RANK], count = 1, step;
    PyArrayObject *array = (PyArrayObject *)inputs[0];
    trt_copy copy;
    if (!trt_is_array(inputs[0]) || !trt_holds_plain_bytes(array))
        return 1;
    int rank = trt_read_vector(inputs[1], wanted), own = PyArray_NDIM(array);
    npy_intp size = step = PyArray_ITEMSIZE(array);
    if (rank < own || rank == 0)
        return 1;
    for (int i = 0; i < rank; i++) {
        npy_intp length = i < rank - own ? 1 : PyArray_DIM(array, i - (rank - own));
        if (wanted[i] < 0 || (length != 1 && length != wanted[i])
            || (wanted[i] && count > NPY_MAX_INTP / 16 / size / wanted[i]))
            return 1;
        dims[i] = (npy_intp)wanted[i];
        count *= dims[i];
    }
    if (rank == own && memcmp(dims, PyArray_DIMS(array), rank * sizeof(npy_intp)) == 0) {
        outputs[0] = trt_same(array);
        return 0;
    }
    PyObject *result = trt_new_of(array, rank, dims);
    if (result == NULL)
        return -1;
    for (int i = rank - 1; i >= 0; i--) {
        steps[i] = step;
        step *= dims[i];
    }
    trt_copy_begin(&copy, PyArray_BYTES((PyArrayObject *)result), PyArray_BYTES(array), size);
    for (int i = 0; i < rank; i++) {
        int axis = i - (rank - own);
        trt_copy_axis(&copy, dims[i], steps[i],
                      axis < 0 || PyArray_DIM(array, axis) == 1 ? 0 : PyArray_STRIDE(array, axis));
    }
    TRT_BEGIN_WORK(2 * count * size)
    trt_copy_run(&copy);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

/* With zeros, or with the value of a third input. */
static int trt_pad(PyObject **inputs, PyObject **outputs, int num_inputs)
{
    npy_intp dims[TRT_SHAPING_RANK], before[TRT_SHAPING_RANK], count = 1, step, offset = 0;
    PyArrayObject *array = (PyArrayObject *)inputs[0], *pads = (PyArrayObject *)inputs[1];
    trt_copy copy;
    if (!trt_is_array(inputs[0]) || !trt_holds_plain_bytes(array))
        return 1;
    int rank = PyArray_NDIM(array), wide = trt_is_plain(inputs[1], NPY_INT64);
    if ((!wide && !trt_is_plain(inputs[1], NPY_INT32)) || PyArray_NDIM(pads) != 2 || PyArray_DIM(pads, 0) != rank
        || PyArray_DIM(pads, 1) != 2)
        return 1;
    if (num_inputs > 2 && (!trt_joinable(inputs[2], array) || PyArray_NDIM((PyArrayObject *)inputs[2])))
        return 1;
    npy_intp size = step = PyArray_ITEMSIZE(array);
    const char *read = PyArray_BYTES(pads);
    for (int i = 0; i < rank; i++) {
        int64_t left = wide ? ((const trt_mem_i64 *)read)[2 * i] : ((const trt_mem_i32 *)read)[2 * i];
        int64_t right = wide ? ((const trt_mem_i64 *)read)[2 * i + 1] : ((const trt_mem_i32 *)read)[2 * i + 1];
        npy_intp most = NPY_MAX_INTP / 64 / size;
        if (left < 0 || right < 0 || left > most || right > most || PyArray_DIM(array, i) > most)
            return 1;
        before[i] = (npy_intp)left;
        dims[i] = (npy_intp)(left + right) + PyArray_DIM(array, i);
        if (dims[i] && count > most / dims[i])
            return 1;
        count *= dims[i];
    }
    PyObject *result = trt_new_of(array, rank, dims);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    npy_intp steps[TRT_SHAPING_RANK];
    for (int i = rank - 1; i >= 0; i--) {
        steps[i] = step;
        offset += before[i] * step;
        step *= dims[i];
    }
    TRT_BEGIN_WORK(2 * count * size)
    if (num_inputs > 2)
        trt_repeat(out, PyArray_BYTES((PyArrayObject *)inputs[2]), size, count);
    else
        memset(out, 0, count * size);
    if (PyArray_SIZE(array)) {
        trt_copy_begin(&copy, out + offset, PyArray_BYTES(array), size);
        for (int i = 0; i < rank; i++)
            trt_copy_axis(&copy, PyArray_DIM(array, i), steps[i], PyArray_STRIDE(array, i));
        trt_copy_run(&copy);
    }
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

/* -- shapes of gradients -- */

static PyObject *trt_int_vector(const int64_t *values, npy_intp count, int type)
{
    PyObject *result = trt_new_array(type, 1, &count);
    if (result == NULL)
        return NULL;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    for (npy_intp i = 0; i < count; i++) {
        if (type == NPY_INT64)
            ((trt_mem_i64 *)out)[i] = values[i];
        else
            ((trt_mem_i32 *)out)[i] = (int32_t)values[i];
    }
    return result;
}

/* The axes along which a gradient is summed for each of two shapes that were broadcast together. */
static int trt_broadcast_gradient_args(PyObject **inputs, PyObject **outputs)
{
    int64_t dims[2][TRT_SHAPING_RANK], axes[2][TRT_SHAPING_RANK];
    int ranks[2], counts[2] = {0, 0};
    for (int k = 0; k < 2; k++)
        if ((ranks[k] = trt_read_vector(inputs[k], dims[k])) < 0)
            return 1;
    int type = PyArray_TYPE((PyArrayObject *)inputs[0]);
    if (PyArray_TYPE((PyArrayObject *)inputs[1]) != type)
        return 1;
    int rank = ranks[0] > ranks[1] ? ranks[0] : ranks[1];
    int same = ranks[0] == ranks[1] && memcmp(dims[0], dims[1], rank * sizeof(int64_t)) == 0;
    for (int i = 0; i < rank; i++) {
        int64_t x = i < rank - ranks[0] ? 1 : dims[0][i - (rank - ranks[0])];
        int64_t y = i < rank - ranks[1] ? 1 : dims[1][i - (rank - ranks[1])];
        if (x != y && x != 1 && y != 1)
            return 1;
        if (same)
            continue;
        if (x == 1)
            axes[0][counts[0]++] = i;
        if (y == 1)
            axes[1][counts[1]++] = i;
    }
    for (int k = 0; k < 2; k++) {
        outputs[k] = trt_int_vector(axes[k], counts[k], type);
        if (outputs[k] == NULL)
            return -1;
    }
    return 0;
}

/* Where each of the joined arrays begins. */
static int trt_concat_offset(PyObject **inputs, PyObject **outputs, int count)
{
    int64_t read[TRT_SHAPING_RANK], first[TRT_SHAPING_RANK], shape[TRT_SHAPING_RANK], offset = 0;
    if (!PyArray_CheckExact(inputs[0]) || PyArray_NDIM((PyArrayObject *)inputs[0])
        || trt_read_ints(inputs[0], read) != 1)
        return 1;
    int rank = trt_read_vector(inputs[1], first);
    int64_t axis = read[0] < 0 ? read[0] + rank : read[0];
    if (rank < 0 || axis < 0 || axis >= rank)
        return 1;
    int type = PyArray_TYPE((PyArrayObject *)inputs[1]);
    double total = (double)first[axis];
    for (int k = 1; k < count; k++) {
        if (trt_read_vector(inputs[k + 1], shape) != rank || PyArray_TYPE((PyArrayObject *)inputs[k + 1]) != type)
            return 1;
        for (int i = 0; i < rank; i++)
            if (i != axis && shape[i] != first[i])
                return 1;
        total += shape[axis];
    }
    if (total > (type == NPY_INT32 ? INT32_MAX : INT64_MAX / 2))
        return 1;
    for (int k = 0; k < count; k++) {
        int64_t place[TRT_SHAPING_RANK] = {0};
        place[axis] = offset;
        outputs[k] = trt_int_vector(place, rank, type);
        if (outputs[k] == NULL)
            return -1;
        trt_read_vector(inputs[k + 1], shape);
        offset += shape[axis];
    }
    return 0;
}

#endif
