/* Numbers of 16 bits: loops that widen and narrow them, by type and level, and kernels for float that take them so. */
#ifndef TRT_KERNELS_NARROW_H
#define TRT_KERNELS_NARROW_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/loop_makers.h"

#if TRT_HAS_LEVELS
#include <immintrin.h>
#endif

/* In tables, for a type whose number numpy gives out when it is registered. */
enum { TRT_BFLOAT16 = -1 };

#define TRT_LOOPS "kernels/narrow_loops.h"
#include "kernels/every_level.h"

static trt_widen_loop trt_widen_of_f16(int level)
{
    TRT_OF_LEVEL(level, trt_widen_f16)
}

static trt_widen_loop trt_widen_of_bf16(int level)
{
    TRT_OF_LEVEL(level, trt_widen_bf16)
}

static trt_narrow_loop trt_narrow_of_f16(int level)
{
    TRT_OF_LEVEL(level, trt_narrow_f16)
}

static trt_narrow_loop trt_narrow_of_bf16(int level)
{
    TRT_OF_LEVEL(level, trt_narrow_bf16)
}

static const trt_unary_entry *trt_narrow_unary_entries(int level)
{
    TRT_OF_LEVEL(level, trt_narrow_unary_table)
}

static const trt_binary_entry *trt_narrow_binary_entries(int level)
{
    TRT_OF_LEVEL(level, trt_narrow_binary_table)
}

/* --- whole arrays ------------------------------------------------------------------------------------------------ */

typedef struct {
    trt_widen_loop widen;
    trt_narrow_loop narrow;
    char *out;
    const char *x;
} trt_convert_work;

static void trt_widen_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_convert_work *work = (const trt_convert_work *)context;
    work->widen((float *)work->out + begin, work->x + 2 * begin, end - begin);
}

static void trt_narrow_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_convert_work *work = (const trt_convert_work *)context;
    work->narrow(work->out + 2 * begin, (const float *)work->x + begin, end - begin);
}

/* Return a new array of float with the values of one of 16 bits, or NULL with an exception set. */
static inline PyObject *trt_widened(PyObject *value, trt_widen_loop widen)
{
    PyArrayObject *x = (PyArrayObject *)value;
    PyObject *made = trt_new_like(x, NPY_FLOAT32);
    if (made == NULL)
        return NULL;
    trt_convert_work work = {widen, NULL, PyArray_BYTES((PyArrayObject *)made), PyArray_BYTES(x)};
    npy_intp count = PyArray_SIZE(x);
    TRT_BEGIN_WORK(6 * count)
    trt_share_bytes(trt_widen_range, &work, count, 6);
    TRT_END_WORK
    return made;
}

/* The other way; the array lies one element after the other. */
static inline PyObject *trt_narrowed(PyObject *value, trt_narrow_loop narrow, int type)
{
    PyArrayObject *x = (PyArrayObject *)value;
    PyObject *made = trt_new_like(x, type);
    if (made == NULL)
        return NULL;
    trt_convert_work work = {NULL, narrow, PyArray_BYTES((PyArrayObject *)made), PyArray_BYTES(x)};
    npy_intp count = PyArray_SIZE(x);
    TRT_BEGIN_WORK(6 * count)
    trt_share_bytes(trt_narrow_range, &work, count, 6);
    TRT_END_WORK
    return made;
}

#endif
