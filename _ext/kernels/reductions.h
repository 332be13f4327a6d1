/* Reductions: which axes, how they fall into rows and columns, and tables of the loops by level. */
#ifndef TRT_KERNELS_REDUCTIONS_H
#define TRT_KERNELS_REDUCTIONS_H

#include <math.h>
#include "kernels/simd.h"
#include "kernels/array_access.h"
#include "kernels/elementwise.h"
#include "kernels/sharing.h"

/* out[r] from x[r, :] */
typedef void (*trt_rows_loop)(char *out, const char *x, npy_intp rows, npy_intp count);
/* out[k] from x[:, k] for k < width; rows are `step` elements apart */
typedef void (*trt_columns_loop)(char *out, const char *x, npy_intp rows, npy_intp step, npy_intp width);
/* The same for where the best element is. */
typedef void (*trt_arg_loop)(trt_mem_i64 *out, const char *x, npy_intp count, npy_intp inner, npy_intp width);

typedef struct {
    const char *op;
    int type;
    trt_rows_loop rows;
    trt_columns_loop columns;
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
    trt_rows_loop rows;
    trt_columns_loop columns;
    trt_widen_loop widen;    /* what makes the floats that the loops take; NULL: nothing */
    trt_narrow_loop narrow;  /* what takes those that they make; with `widen` only */
    int type;
    int size;                /* bytes of an element */
    int keeps_axes;
    int is_mean;
    int channel_axis;        /* BiasAddGrad: the one axis that stays, counted from the end when negative; else 0 */
} trt_reduce_params;

#include "kernels/reduction_runs.h"

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

/* Reduce x, whose axes were grouped, into out; both hold what the loops take and give, or x what is widened to that.
 * Return 0 when there is no memory. */
static int trt_run_reduction(const trt_reduce_params *p, trt_groups *groups, char *out, const char *x)
{
    trt_reduce_work work = {p, p->widen != NULL, out, x};
    npy_intp *lengths = groups->lengths;
    char *space = NULL;
    int last = groups->groups - 1, done;
    if (last >= 2 && groups->reduced[last]) {
        npy_intp rows = 1;
        for (int i = 0; i < last; i++)
            rows *= lengths[i];
        space = (char *)PyMem_RawMalloc(rows * trt_wide_size(p) + 1);
        work.out = space;
        if (space == NULL || !trt_reduce_rows(&work, rows, lengths[last])) {
            PyMem_RawFree(space);
            return 0;
        }
        groups->groups--;
        work.out = out;
        work.x = space;
        work.narrow = 0;
    }
    if (groups->groups == 0)
        done = trt_reduce_rows(&work, 1, 1);
    else if (groups->groups == 1)
        done = trt_reduce_rows(&work, groups->reduced[0] ? 1 : lengths[0], groups->reduced[0] ? lengths[0] : 1);
    else if (groups->groups == 2)
        done = groups->reduced[0] ? trt_reduce_columns(&work, lengths[0], lengths[1])
                                  : trt_reduce_rows(&work, lengths[0], lengths[1]);
    else
        done = trt_reduce_middle(&work, lengths[0], lengths[1], lengths[2]);
    PyMem_RawFree(space);
    return done;
}

static int trt_reduce_axes(PyArrayObject *x, unsigned int axes, PyObject **outputs, const trt_reduce_params *p)
{
    int rank = PyArray_NDIM(x), out_rank = 0;
    npy_intp dims[TRT_REDUCE_RANK], count = 1, kept = 1;
    trt_groups groups;
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
    char *wide = p->narrow == NULL ? out : (char *)PyMem_RawMalloc(kept * sizeof(float) + 1);
    int done = wide != NULL;
    TRT_BEGIN_WORK(bytes)
    if (done && kept)
        done = trt_run_reduction(p, &groups, wide, PyArray_BYTES(x));
    if (done && p->is_mean)
        trt_divide(wide, kept, count, p->narrow == NULL ? p->type : NPY_FLOAT32);
    if (done && p->narrow != NULL)
        p->narrow(out, (const float *)wide, kept);
    TRT_END_WORK
    if (p->narrow != NULL)
        PyMem_RawFree(wide);
    if (!done) {
        Py_DECREF(result);
        PyErr_NoMemory();
        return -1;
    }
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

typedef struct {
    const trt_arg_params *params;
    trt_mem_i64 *out;
    const char *x;
    npy_intp count, inner;
    npy_intp width, strips;  /* of the columns that are done together; how many of them there are */
} trt_arg_work;

static void trt_arg_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_arg_work *work = (const trt_arg_work *)context;
    for (Py_ssize_t task = begin; task < end; task++) {
        npy_intp block = task / work->strips, start = task % work->strips * work->width;
        npy_intp width = work->inner - start < work->width ? work->inner - start : work->width;
        work->params->loop(work->out + block * work->inner + start,
                           work->x + (block * work->count * work->inner + start) * work->params->size, work->count,
                           work->inner, width);
    }
}

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
    if (count == 0 || count > INT32_MAX)
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
    trt_arg_work work = {p, out, PyArray_BYTES(x), count, inner, inner, 1};
    if (outer < 16 && inner > TRT_STRIP_WIDTH) {
        work.width = TRT_STRIP_WIDTH;
        work.strips = (inner + TRT_STRIP_WIDTH - 1) / TRT_STRIP_WIDTH;
    }
    TRT_BEGIN_WORK(PyArray_NBYTES(x))
    trt_share_bytes(trt_arg_range, &work, outer * work.strips, count * work.width * p->size);
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
