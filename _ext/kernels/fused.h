/* Several element-wise kernels as one: a program over blocks of elements that stay in the nearest cache.
 *
 * Every step runs the loop of the kernel that it stands for over a block, its operands inputs or results of earlier steps;
 * the last one writes the output. So the bits are those of the separate kernels. Inputs may be of the output's shape, a
 * single element, or a row: as long as the last axes of the output and the same for all others.
 */
#ifndef TRT_KERNELS_FUSED_H
#define TRT_KERNELS_FUSED_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/sharing.h"

enum { TRT_FUSED_STEPS = 64, TRT_FUSED_INPUTS = 48, TRT_FUSED_BUFFERS = 6, TRT_FUSED_ROWS = 4 };
enum { TRT_FUSED_BLOCK_BYTES = 4096 };

typedef struct {
    trt_unary_loop unary;    /* NULL for two operands */
    trt_binary_loop both, right, left;
    int same_shapes;         /* does not broadcast */
    int is_bias;             /* the right operand is a vector along the last axis */
    int a, b;                /* an input, or -1 - an earlier step */
    int buffer;              /* where the result lies; not used by the last step */
} trt_fused_step;

typedef struct {
    int type, size;
    int num_inputs, num_steps;
    trt_fused_step steps[TRT_FUSED_STEPS];
} trt_fused_params;

enum { TRT_ONE, TRT_ROW, TRT_FULL };

typedef struct {
    const trt_fused_params *params;
    char *out;
    const char *inputs[TRT_FUSED_INPUTS];
    char kinds[TRT_FUSED_INPUTS];
    char step_kinds[TRT_FUSED_STEPS];
    npy_intp count, period;  /* period: elements of a row; 0 without rows */
    npy_intp block;          /* elements; whole rows where several fit */
} trt_fused_work;

/* Fill kinds; 0 when the shapes are others than this is made for. */
static int trt_fused_classify(trt_fused_work *work, PyObject **inputs, const trt_fused_params *p, PyArrayObject **largest)
{
    PyArrayObject *full = NULL;
    for (int i = 0; i < p->num_inputs; i++) {
        PyArrayObject *array = (PyArrayObject *)inputs[i];
        if (!trt_is_plain(inputs[i], p->type))
            return 0;
        if (full == NULL || PyArray_SIZE(array) > PyArray_SIZE(full)
            || (PyArray_SIZE(array) == PyArray_SIZE(full) && PyArray_NDIM(array) > PyArray_NDIM(full)))
            full = array;
    }
    int rank = PyArray_NDIM(full);
    work->count = PyArray_SIZE(full);
    work->period = 0;
    for (int i = 0; i < p->num_inputs; i++) {
        PyArrayObject *array = (PyArrayObject *)inputs[i];
        int own = PyArray_NDIM(array);
        npy_intp size = PyArray_SIZE(array);
        work->inputs[i] = PyArray_BYTES(array);
        if (trt_same_shape(array, full)) {
            work->kinds[i] = TRT_FULL;
        } else if (size == 1 && own <= rank) {
            work->kinds[i] = TRT_ONE;
        } else {
            if (own > rank || (work->period && work->period != size))
                return 0;
            int leading = 1;
            for (int k = 0; k < own; k++) {
                npy_intp length = PyArray_DIM(array, k), there = PyArray_DIM(full, rank - own + k);
                leading = leading && length == 1;
                if (!leading && length != there)
                    return 0;
            }
            work->kinds[i] = TRT_ROW;
            work->period = size;
        }
    }
    for (int k = 0; k < p->num_steps; k++) {
        const trt_fused_step *step = &p->steps[k];
        int a = step->a >= 0 ? work->kinds[step->a] : work->step_kinds[-1 - step->a];
        int b = step->unary ? a : step->b >= 0 ? work->kinds[step->b] : work->step_kinds[-1 - step->b];
        if (step->same_shapes && (a != TRT_FULL || b != TRT_FULL))
            return 0;
        if (step->is_bias) {
            PyArrayObject *bias = step->b >= 0 ? (PyArrayObject *)inputs[step->b] : NULL;
            if (a != TRT_FULL || rank < 2 || bias == NULL || PyArray_NDIM(bias) != 1
                || PyArray_DIM(bias, 0) != PyArray_DIM(full, rank - 1))
                return 0;
        }
        work->step_kinds[k] = (char)(a > b ? a : b);
    }
    *largest = full;
    return work->step_kinds[p->num_steps - 1] == TRT_FULL && work->count > 0;
}

/* Elements [begin, end), which lie within a row or are whole rows, at most a block. */
static void trt_fused_block(const trt_fused_work *work, npy_intp begin, npy_intp end)
{
    char buffers[TRT_FUSED_BUFFERS][TRT_FUSED_BLOCK_BYTES] __attribute__((aligned(64)));
    const trt_fused_params *p = work->params;
    const npy_intp size = p->size, count = end - begin;
    const npy_intp row_offset = work->period > work->block ? begin % work->period * size : 0;
    for (int k = 0; k < p->num_steps; k++) {
        const trt_fused_step *step = &p->steps[k];
        const char *operands[2];
        char kinds[2];
        int codes[2] = {step->a, step->unary ? step->a : step->b};
        for (int side = 0; side < 2; side++) {
            int code = codes[side];
            if (code < 0) {
                operands[side] = buffers[p->steps[-1 - code].buffer];
                kinds[side] = work->step_kinds[-1 - code];
            } else {
                kinds[side] = work->kinds[code];
                operands[side] = work->inputs[code]
                    + (kinds[side] == TRT_FULL ? begin * size : kinds[side] == TRT_ROW ? row_offset : 0);
            }
        }
        char *out = k == p->num_steps - 1 ? work->out + begin * size : buffers[step->buffer];
        npy_intp length = work->step_kinds[k] == TRT_ONE ? 1 : count;
        if (step->unary)
            step->unary(out, operands[0], length);
        else if ((kinds[0] == TRT_ONE) == (kinds[1] == TRT_ONE))
            step->both(out, operands[0], operands[1], length);
        else if (kinds[1] == TRT_ONE)
            step->right(out, operands[0], operands[1], length);
        else
            step->left(out, operands[0], operands[1], length);
    }
}

/* Blocks [first, last). */
static void trt_fused_blocks(void *context, Py_ssize_t first, Py_ssize_t last)
{
    const trt_fused_work *work = (const trt_fused_work *)context;
    npy_intp end = last * work->block < work->count ? last * work->block : work->count;
    for (npy_intp begin = first * work->block; begin < end;) {
        npy_intp stop = end - begin < work->block ? end : begin + work->block;
        if (work->period > work->block) {
            npy_intp row_end = begin - begin % work->period + work->period;
            stop = row_end < stop ? row_end : stop;
        }
        trt_fused_block(work, begin, stop);
        begin = stop;
    }
}

static int trt_fused(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_fused_params *p)
{
    char rows[TRT_FUSED_ROWS][TRT_FUSED_BLOCK_BYTES];
    trt_fused_work work;
    PyArrayObject *full;
    PyObject *result = NULL;
    int num_rows = 0, num_full = 0;
    if (!trt_fused_classify(&work, inputs, p, &full))
        return 1;
    work.params = p;
    work.block = TRT_FUSED_BLOCK_BYTES / p->size;
    if (work.period && work.period <= work.block) {
        npy_intp bytes = work.period * p->size;
        npy_intp times = work.block / work.period;
        if (times > work.count / work.period)
            times = work.count / work.period;
        work.block = times * work.period;
        for (int i = 0; i < p->num_inputs; i++) {
            if (work.kinds[i] != TRT_ROW)
                continue;
            if (num_rows == TRT_FUSED_ROWS)
                return 1;
            for (npy_intp k = 0; k < times; k++)
                memcpy(rows[num_rows] + k * bytes, work.inputs[i], bytes);
            work.inputs[i] = rows[num_rows++];
        }
    }
    for (int i = 0; i < p->num_inputs; i++) {
        num_full += work.kinds[i] == TRT_FULL;
        if (result == NULL && reusable >> i & 1 && work.kinds[i] == TRT_FULL)
            result = trt_same((PyArrayObject *)inputs[i]);
    }
    if (result == NULL)
        result = trt_new_like(full, p->type);
    if (result == NULL)
        return -1;
    work.out = PyArray_BYTES((PyArrayObject *)result);
    npy_intp bytes = work.count * p->size * (num_full + 1);
    npy_intp blocks = (work.count + work.block - 1) / work.block;
    TRT_BEGIN_WORK(bytes)
    if (bytes < 2 * TRT_SHARED_BYTES)
        trt_fused_blocks(&work, 0, blocks);
    else
        trt_share(trt_fused_blocks, &work, blocks, TRT_SHARED_BYTES / (work.block * p->size * (num_full + 1)) + 1);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

#endif
