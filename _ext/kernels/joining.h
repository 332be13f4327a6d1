/* Kernels that put arrays together or fill new ones. */
#ifndef TRT_KERNELS_JOINING_H
#define TRT_KERNELS_JOINING_H

#include "kernels/parts.h"

/* Put `count` arrays of plain bytes side by side in `out`: of each in turn a block, which is what lies behind its first
 * `outer` axes. A block of the result is `step` bytes. */
static void trt_interleave(char *out, PyObject **values, int count, int outer, npy_intp turns, npy_intp step)
{
    for (int i = 0; i < count; i++) {
        PyArrayObject *array = (PyArrayObject *)values[i];
        npy_intp size = PyArray_ITEMSIZE(array), inside = size, outside = step, to_steps[TRT_SHAPING_RANK];
        int rank = PyArray_NDIM(array);
        trt_copy copy;
        for (int axis = rank - 1; axis >= outer; axis--) {
            to_steps[axis] = inside;
            inside *= PyArray_DIM(array, axis);
        }
        if (turns == 1 && PyArray_CHKFLAGS(array, NPY_ARRAY_C_CONTIGUOUS) && inside < TRT_SHARED_BYTES) {
            memcpy(out, PyArray_BYTES(array), inside);
            out += inside;
            continue;
        }
        for (int axis = outer - 1; axis >= 0; axis--) {
            to_steps[axis] = outside;
            outside *= PyArray_DIM(array, axis);
        }
        trt_copy_begin(&copy, out, PyArray_BYTES(array), size);
        for (int axis = 0; axis < rank; axis++)
            trt_copy_axis(&copy, PyArray_DIM(array, axis), to_steps[axis], PyArray_STRIDE(array, axis));
        trt_copy_run(&copy);
        out += inside;
    }
}

static int trt_pack(PyObject **inputs, PyObject **outputs, int count, int axis)
{
    npy_intp dims[TRT_SHAPING_RANK + 1], turns = 1;
    PyArrayObject *first = (PyArrayObject *)inputs[0];
    for (int i = 0; i < count; i++)
        if (!trt_joinable(inputs[i], first) || !trt_same_shape((PyArrayObject *)inputs[i], first))
            return 1;
    int rank = PyArray_NDIM(first) + 1;
    axis = axis < 0 ? axis + rank : axis;
    if (axis < 0 || axis >= rank)
        return 1;
    for (int i = 0; i < rank; i++) {
        dims[i] = i < axis ? PyArray_DIM(first, i) : i == axis ? count : PyArray_DIM(first, i - 1);
        if (i < axis)
            turns *= dims[i];
    }
    PyObject *result = trt_new_of(first, rank, dims);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    npy_intp bytes = PyArray_NBYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(2 * bytes)
    trt_interleave(out, inputs, count, axis, turns, turns ? bytes / turns : 0);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

static int trt_concat(PyObject **values, int count, PyObject *axis_value, PyObject **outputs)
{
    int64_t axis_read[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK], turns = 1;
    PyArrayObject *first = (PyArrayObject *)values[0];
    if (trt_read_ints(axis_value, axis_read) != 1 || !trt_joinable(values[0], first))
        return 1;
    int rank = PyArray_NDIM(first);
    int64_t axis = axis_read[0] < 0 ? axis_read[0] + rank : axis_read[0];
    if (axis < 0 || axis >= rank)
        return 1;
    for (int i = 0; i < rank; i++) {
        dims[i] = PyArray_DIM(first, i);
        if (i < axis)
            turns *= dims[i];
    }
    for (int k = 1; k < count; k++) {
        PyArrayObject *array = (PyArrayObject *)values[k];
        if (!trt_joinable(values[k], first) || PyArray_NDIM(array) != rank)
            return 1;
        for (int i = 0; i < rank; i++) {
            if (i == axis)
                dims[i] += PyArray_DIM(array, i);
            else if (PyArray_DIM(array, i) != dims[i])
                return 1;
        }
    }
    PyObject *result = trt_new_of(first, rank, dims);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    npy_intp bytes = PyArray_NBYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(2 * bytes)
    trt_interleave(out, values, count, (int)axis, turns, turns ? bytes / turns : 0);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

static int trt_fill(PyObject **inputs, PyObject **outputs)
{
    int64_t wanted[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK], count = 1;
    PyArrayObject *value = (PyArrayObject *)inputs[1];
    int rank = trt_read_ints(inputs[0], wanted);
    if (rank < 0 || !trt_joinable(inputs[1], value) || PyArray_SIZE(value) != 1)
        return 1;
    npy_intp size = PyArray_ITEMSIZE(value);
    for (int i = 0; i < rank; i++) {
        if (wanted[i] < 0 || (wanted[i] && count > NPY_MAX_INTP / 16 / size / wanted[i]))
            return 1;
        dims[i] = (npy_intp)wanted[i];
        count *= dims[i];
    }
    PyObject *result = trt_new_of(value, rank, dims);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(count * size)
    trt_repeat(out, PyArray_BYTES(value), size, count);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

typedef struct {
    int type;
    int size;
    char item[16];           /* what the elements become */
} trt_like_params;

static int trt_like(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_like_params *p)
{
    if (!PyArray_CheckExact(inputs[0]) || PyArray_TYPE((PyArrayObject *)inputs[0]) != p->type)
        return 1;
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    PyObject *result = reusable & 1 && trt_is_plain(inputs[0], p->type) ? trt_same(x) : trt_new_like(x, p->type);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    npy_intp count = PyArray_SIZE(x);
    TRT_BEGIN_WORK(count * p->size)
    trt_repeat(out, p->item, p->size, count);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

#endif
