/* Reductions: which axes, how they fall into rows and columns, and tables of the loops by level. */
#ifndef TRT_KERNELS_REDUCTIONS_H
#define TRT_KERNELS_REDUCTIONS_H

#include <math.h>
#include "kernels/simd.h"
#include "kernels/array_access.h"

/* rows: out[r] from x[r, :]; columns: out[k] from x[:, k]. */
typedef void (*trt_reduce_loop)(char *out, const char *x, npy_intp rows, npy_intp count);
typedef void (*trt_arg_loop)(trt_mem_i64 *out, const char *x, npy_intp count, npy_intp inner);

typedef struct {
    const char *op;
    int type;
    trt_reduce_loop rows, columns;
} trt_reduction_entry;

typedef struct {
    const char *op;
    int type;
    trt_arg_loop loop;
} trt_arg_entry;

typedef float trt_vector_f32 __attribute__((vector_size(64)));
typedef double trt_vector_f64 __attribute__((vector_size(64)));
typedef float trt_mem_vector_f32 __attribute__((vector_size(64), aligned(1), may_alias));
typedef double trt_mem_vector_f64 __attribute__((vector_size(64), aligned(1), may_alias));

enum { TRT_SUM_BLOCK = 1024, TRT_STRIP_WIDTH = 256, TRT_STRIP_ROWS = 32 };

#define TRT_LOOPS "kernels/reduction_loops.h"
#include "kernels/every_level.h"

static const trt_reduction_entry *trt_reduction_entries(int level)
{
    TRT_OF_LEVEL(level, trt_reduction_table)
}

static const trt_arg_entry *trt_arg_entries(int level)
{
    TRT_OF_LEVEL(level, trt_arg_table)
}

enum { TRT_REDUCE_RANK = 16 };

typedef struct {
    trt_reduce_loop rows, columns;
    int type;
    int size;
    int keeps_axes;
    int is_mean;
    int channel_axis;        /* BiasAddGrad: the one axis that stays, counted from the end when negative; else 0 */
} trt_reduce_params;

/* Neighbouring axes that are all reduced or all kept, outermost first. */
typedef struct {
    int groups;
    npy_intp lengths[TRT_REDUCE_RANK];
    char reduced[TRT_REDUCE_RANK];
} trt_groups;

static void trt_group_axes(trt_groups *groups, PyArrayObject *x, unsigned int axes)
{
    groups->groups = 0;
    for (int i = 0; i < PyArray_NDIM(x); i++) {
        npy_intp length = PyArray_DIM(x, i);
        char reduced = (axes >> i) & 1;
        if (length == 1)
            continue;
        if (groups->groups && groups->reduced[groups->groups - 1] == reduced) {
            groups->lengths[groups->groups - 1] *= length;
        } else {
            groups->lengths[groups->groups] = length;
            groups->reduced[groups->groups++] = reduced;
        }
    }
}

/* Read the axes of a reduction into bits; 0 when they are of another kind than expected or out of range. */
static inline int trt_read_axes(PyObject *value, int rank, unsigned int *bits)
{
    PyArrayObject *array = (PyArrayObject *)value;
    int wide = trt_is_plain(value, NPY_INT64);
    if (!wide && !trt_is_plain(value, NPY_INT32))
        return 0;
    npy_intp count = PyArray_SIZE(array);
    *bits = 0;
    for (npy_intp i = 0; i < count; i++) {
        const char *data = PyArray_BYTES(array);
        int64_t axis = wide ? ((const trt_mem_i64 *)data)[i] : ((const trt_mem_i32 *)data)[i];
        if (axis < -rank || axis >= rank)
            return 0;
        unsigned int bit = 1u << (axis < 0 ? axis + rank : axis);
        if (*bits & bit)
            return 0;
        *bits |= bit;
    }
    return 1;
}

static void trt_divide(char *out, npy_intp count, npy_intp divisor, int type)
{
    if (type == NPY_FLOAT32) {
        trt_mem_f32 *values = (trt_mem_f32 *)out;
        for (npy_intp i = 0; i < count; i++)
            values[i] /= (float)divisor;
    } else {
        trt_mem_f64 *values = (trt_mem_f64 *)out;
        for (npy_intp i = 0; i < count; i++)
            values[i] /= (double)divisor;
    }
}

/* Reduce x, whose axes were grouped, into out. `space` has room for the rows' results where the last of three or more
 * groups is reduced. */
static void trt_run_reduction(const trt_reduce_params *p, trt_groups *groups, char *out, const char *x, char *space)
{
    if (groups->groups > 2 && groups->reduced[groups->groups - 1]) {
        npy_intp rows = 1;
        for (int i = 0; i < groups->groups - 1; i++)
            rows *= groups->lengths[i];
        p->rows(space, x, rows, groups->lengths[groups->groups - 1]);
        groups->groups--;
        x = space;
    }
    npy_intp *lengths = groups->lengths;
    switch (groups->groups) {
    case 0:
        p->rows(out, x, 1, 1);
        break;
    case 1:
        if (groups->reduced[0])
            p->rows(out, x, 1, lengths[0]);
        else
            memcpy(out, x, lengths[0] * p->size);
        break;
    case 2:
        if (groups->reduced[0])
            p->columns(out, x, lengths[0], lengths[1]);
        else
            p->rows(out, x, lengths[0], lengths[1]);
        break;
    default:
        for (npy_intp i = 0; i < lengths[0]; i++) {
            npy_intp strip = i * lengths[2] * p->size;
            p->columns(out + strip, x + strip * lengths[1], lengths[1], lengths[2]);
        }
    }
}

static int trt_reduce_axes(PyArrayObject *x, unsigned int axes, PyObject **outputs, const trt_reduce_params *p)
{
    int rank = PyArray_NDIM(x), out_rank = 0;
    npy_intp dims[TRT_REDUCE_RANK], count = 1, kept = 1;
    trt_groups groups;
    char *space = NULL;
    for (int i = 0; i < rank; i++) {
        npy_intp length = PyArray_DIM(x, i);
        if (!(axes >> i & 1)) {
            dims[out_rank++] = length;
            kept *= length;
            continue;
        }
        count *= length;
        if (p->keeps_axes)
            dims[out_rank++] = 1;
    }
    trt_group_axes(&groups, x, axes);
    int last = groups.groups - 1;
    int folds_rows = last >= 2 && groups.reduced[last];
    if (last - folds_rows > 2 || (last - folds_rows == 2 && groups.reduced[0]))
        return 1;
    PyObject *result = trt_new_array(p->type, out_rank, dims);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    npy_intp bytes = PyArray_NBYTES(x);
    if (folds_rows && groups.lengths[last]) {
        space = (char *)PyMem_RawMalloc(bytes / groups.lengths[last] + 1);
    } else if (folds_rows) {
        npy_intp rows = 1;
        for (int i = 0; i < last; i++)
            rows *= groups.lengths[i];
        space = (char *)PyMem_RawMalloc(rows * p->size + 1);
    }
    if (folds_rows && space == NULL) {
        Py_DECREF(result);
        PyErr_NoMemory();
        return -1;
    }
    TRT_BEGIN_WORK(bytes)
    if (kept)
        trt_run_reduction(p, &groups, out, PyArray_BYTES(x), space);
    if (p->is_mean)
        trt_divide(out, kept, count, p->type);
    TRT_END_WORK
    PyMem_RawFree(space);
    outputs[0] = result;
    return 0;
}

static inline int trt_reduce(PyObject **inputs, PyObject **outputs, const trt_reduce_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    unsigned int axes;
    if (!trt_is_plain(inputs[0], p->type) || PyArray_NDIM(x) > TRT_REDUCE_RANK
        || !trt_read_axes(inputs[1], PyArray_NDIM(x), &axes))
        return 1;
    if (axes == 0) {
        outputs[0] = trt_same(x);
        return 0;
    }
    return trt_reduce_axes(x, axes, outputs, p);
}

static inline int trt_bias_grad(PyObject **inputs, PyObject **outputs, const trt_reduce_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    int rank = PyArray_NDIM(x);
    if (!trt_is_plain(inputs[0], p->type) || rank < 2 || rank > TRT_REDUCE_RANK)
        return 1;
    int channel = p->channel_axis < 0 ? rank + p->channel_axis : p->channel_axis;
    return trt_reduce_axes(x, ((1u << rank) - 1) & ~(1u << channel), outputs, p);
}

typedef struct {
    trt_arg_loop loop;
    int type, out_type;
    int size;
} trt_arg_params;

static inline int trt_arg_extremum(PyObject **inputs, PyObject **outputs, const trt_arg_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    unsigned int axes;
    npy_intp dims[TRT_REDUCE_RANK], outer = 1, inner = 1;
    int rank = PyArray_NDIM(x), axis = 0;
    if (!trt_is_plain(inputs[0], p->type) || rank > TRT_REDUCE_RANK || !PyArray_CheckExact(inputs[1])
        || PyArray_NDIM((PyArrayObject *)inputs[1]) || !trt_read_axes(inputs[1], rank, &axes))
        return 1;
    while (!(axes >> axis & 1))
        axis++;
    npy_intp count = PyArray_DIM(x, axis);
    if (count == 0)
        return 1;
    for (int i = 0; i < rank; i++) {
        if (i < axis)
            outer *= dims[i] = PyArray_DIM(x, i);
        else if (i > axis)
            inner *= dims[i - 1] = PyArray_DIM(x, i);
    }
    PyObject *wide = trt_new_array(NPY_INT64, rank - 1, dims), *result = wide;
    if (wide == NULL)
        return -1;
    trt_mem_i64 *out = (trt_mem_i64 *)PyArray_DATA((PyArrayObject *)wide);
    TRT_BEGIN_WORK(PyArray_NBYTES(x))
    for (npy_intp i = 0; i < outer; i++)
        p->loop(out + i * inner, PyArray_BYTES(x) + i * count * inner * p->size, count, inner);
    TRT_END_WORK
    if (p->out_type == NPY_INT32) {
        result = trt_new_array(NPY_INT32, rank - 1, dims);
        if (result != NULL) {
            trt_mem_i32 *narrow = (trt_mem_i32 *)PyArray_DATA((PyArrayObject *)result);
            for (npy_intp i = 0; i < outer * inner; i++)
                narrow[i] = (int32_t)out[i];
        }
        Py_DECREF(wide);
        if (result == NULL)
            return -1;
    }
    outputs[0] = result;
    return 0;
}

#endif
