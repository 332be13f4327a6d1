/* What kernels over arrays of plain bytes share: parts of an array, new arrays, small vectors read, elements repeated.
 *
 * A part whose elements lie one after the other is a view: it keeps the array that it looks into alive, and is as
 * writable and as aligned as that. Other parts are copied: what comes next then runs over plain memory.
 */
#ifndef TRT_KERNELS_PARTS_H
#define TRT_KERNELS_PARTS_H

#include "kernels/simd.h"
#include "kernels/array_access.h"
#include "kernels/strided_copy.h"

enum { TRT_SHAPING_RANK = 16 };

/* Return a view of `base` with strides in bytes from `data` on, NULL strides for contiguous ones. */
static inline PyObject *trt_view(PyArrayObject *base, char *data, int rank, const npy_intp *dims,
                                 const npy_intp *strides)
{
    PyArray_Descr *type = PyArray_DESCR(base);
    Py_INCREF(type);
    PyObject *view = PyArray_NewFromDescr(&PyArray_Type, type, rank, dims, strides, data,
                                          PyArray_FLAGS(base) & (NPY_ARRAY_WRITEABLE | NPY_ARRAY_ALIGNED), NULL);
    if (view == NULL)
        return NULL;
    Py_INCREF((PyObject *)base);
    if (PyArray_SetBaseObject((PyArrayObject *)view, (PyObject *)base) < 0) {
        Py_DECREF(view);
        return NULL;
    }
    return view;
}

static inline int trt_is_packed(int rank, const npy_intp *dims, const npy_intp *strides, npy_intp size)
{
    for (int i = rank - 1; i >= 0; i--) {
        if (dims[i] == 0)
            return 1;
        if (dims[i] != 1 && strides[i] != size)
            return 0;
        size *= dims[i];
    }
    return 1;
}

static inline int trt_is_array(PyObject *value)
{
    return PyArray_CheckExact(value) && PyArray_NDIM((PyArrayObject *)value) <= TRT_SHAPING_RANK;
}

/* Whether elements can be copied as bytes. */
static inline int trt_holds_plain_bytes(PyArrayObject *array)
{
    return !PyDataType_REFCHK(PyArray_DESCR(array)) && PyArray_ISNOTSWAPPED(array);
}

/* Read a scalar or vector of int32 or int64; return how many there are, or -1 when it is something else or too long. */
static inline int trt_read_ints(PyObject *value, int64_t *out)
{
    PyArrayObject *array = (PyArrayObject *)value;
    int wide = trt_is_plain(value, NPY_INT64);
    if ((!wide && !trt_is_plain(value, NPY_INT32)) || PyArray_NDIM(array) > 1
        || PyArray_SIZE(array) > TRT_SHAPING_RANK)
        return -1;
    int count = (int)PyArray_SIZE(array);
    const char *data = PyArray_BYTES(array);
    for (int i = 0; i < count; i++)
        out[i] = wide ? ((const trt_mem_i64 *)data)[i] : ((const trt_mem_i32 *)data)[i];
    return count;
}

static inline int trt_read_vector(PyObject *value, int64_t *out)
{
    return PyArray_CheckExact(value) && PyArray_NDIM((PyArrayObject *)value) == 1 ? trt_read_ints(value, out) : -1;
}

/* Return the part of `base` with these strides: a view where that is plain memory, or where elements are objects. */
static inline PyObject *trt_part(PyArrayObject *base, char *data, int rank, const npy_intp *dims,
                                 const npy_intp *strides)
{
    npy_intp size = PyArray_ITEMSIZE(base), to_steps[TRT_COPY_AXES], step = size;
    PyArray_Descr *type = PyArray_DESCR(base);
    trt_copy copy;
    if (trt_is_packed(rank, dims, strides, size) || PyDataType_REFCHK(type))
        return trt_view(base, data, rank, dims, strides);
    Py_INCREF(type);
    PyObject *result = PyArray_NewFromDescr(&PyArray_Type, type, rank, dims, NULL, NULL, 0, NULL);
    if (result == NULL)
        return NULL;
    for (int i = rank - 1; i >= 0; i--) {
        to_steps[i] = step;
        step *= dims[i];
    }
    trt_copy_begin(&copy, PyArray_BYTES((PyArrayObject *)result), data, size);
    for (int i = 0; i < rank; i++)
        trt_copy_axis(&copy, dims[i], to_steps[i], strides[i]);
    TRT_BEGIN_WORK(2 * step)
    trt_copy_run(&copy);
    TRT_END_WORK
    return result;
}

static inline int trt_joinable(PyObject *value, PyArrayObject *first)
{
    PyArrayObject *array = (PyArrayObject *)value;
    return trt_is_array(value) && PyArray_TYPE(array) == PyArray_TYPE(first) && trt_holds_plain_bytes(array);
}

static inline PyObject *trt_new_of(PyArrayObject *array, int rank, const npy_intp *dims)
{
    PyArray_Descr *type = PyArray_DESCR(array);
    Py_INCREF(type);
    return PyArray_NewFromDescr(&PyArray_Type, type, rank, dims, NULL, NULL, 0, NULL);
}

/* Bytes after which it is looked whether the step is cancelled: some 10 ms, in memory that was never touched. */
#define TRT_PIECE_BYTES ((npy_intp)1 << 23)

static inline void trt_repeat_some(char *out, const char *item, npy_intp size, npy_intp count)
{
    if (size == 4) {
        const uint32_t value = *(const trt_mem_u32 *)item;
        for (npy_intp i = 0; i < count; i++)
            ((trt_mem_u32 *)out)[i] = value;
    } else if (size == 8) {
        const uint64_t value = *(const trt_mem_u64 *)item;
        for (npy_intp i = 0; i < count; i++)
            ((trt_mem_u64 *)out)[i] = value;
    } else if (size == 1) {
        memset(out, *item, count);
    } else {
        for (npy_intp i = 0; i < count; i++)
            memcpy(out + i * size, item, size);
    }
}

static inline void trt_repeat(char *out, const char *item, npy_intp size, npy_intp count)
{
    npy_intp piece = TRT_PIECE_BYTES / size;
    const int *stop = count > piece ? trt_find_stop() : NULL;
    for (npy_intp start = 0; start < count && !trt_stopped(stop); start += piece)
        trt_repeat_some(out + start * size, item, size, count - start < piece ? count - start : piece);
}

#endif
