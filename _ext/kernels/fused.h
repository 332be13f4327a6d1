/* Several element-wise kernels as one: a program over blocks of elements that stay in the nearest cache.
 *
 * Every step runs the loop of the kernel that it stands for over a block, its operands inputs or results of earlier steps;
 * the last one writes an output, and so do others whose results are needed later. So the bits are those of the separate
 * kernels. Inputs may be of the outputs' shape, a single element, or a row: as long as the last axes of the outputs and the
 * same for all others.
 *
 * With a product as one of the inputs, the steps run over each part of it as soon as that is complete.
 */
#ifndef TRT_KERNELS_FUSED_H
#define TRT_KERNELS_FUSED_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/finish.h"
#include "kernels/sharing.h"

enum { TRT_FUSED_STEPS = 64, TRT_FUSED_INPUTS = 48, TRT_FUSED_BUFFERS = 6, TRT_FUSED_ROWS = 4, TRT_FUSED_OUTPUTS = 12 };
enum { TRT_FUSED_BLOCK_BYTES = 4096 };

typedef struct {
    trt_unary_loop unary;    /* NULL for two operands */
    trt_binary_loop both, right, left;
    int same_shapes;         /* does not broadcast */
    int is_bias;             /* the right operand is a vector along the last axis */
    int a, b;                /* an input, or -1 - an earlier step */
    int output;              /* which one the result is; -1: none */
    int buffer;              /* where the result lies when it is none */
} trt_fused_step;

typedef struct {
    int type, size;
    int num_inputs, num_steps, num_outputs;
    int last_read[TRT_FUSED_INPUTS]; /* the last step that takes it */
    int is_sum;              /* one step, which adds its two operands */
    trt_fused_step steps[TRT_FUSED_STEPS];
} trt_fused_params;

enum { TRT_ONE, TRT_ROW, TRT_FULL };

typedef struct {
    const trt_fused_params *params;
    char *outputs[TRT_FUSED_OUTPUTS];
    const char *inputs[TRT_FUSED_INPUTS];
    char kinds[TRT_FUSED_INPUTS];
    char step_kinds[TRT_FUSED_STEPS];
    npy_intp count, period;  /* period: elements of a row; 0 without rows */
    npy_intp block;          /* elements; whole rows where several fit */
} trt_fused_work;

static inline int trt_has_shape(PyArrayObject *array, int rank, const npy_intp *dims)
{
    if (PyArray_NDIM(array) != rank)
        return 0;
    for (int i = 0; i < rank; i++)
        if (PyArray_DIM(array, i) != dims[i])
            return 0;
    return 1;
}

/* Fill kinds for plain inputs and an output of a shape; 0 when the shapes are others than this is made for. An input that
 * is NULL is of the output's shape. */
static int trt_fused_classify(trt_fused_work *work, PyObject *const *inputs, const trt_fused_params *p, int rank,
                              const npy_intp *dims)
{
    work->params = p;
    work->block = TRT_FUSED_BLOCK_BYTES / p->size;
    work->count = 1;
    for (int k = 0; k < rank; k++)
        work->count *= dims[k];
    work->period = 0;
    for (int i = 0; i < p->num_inputs; i++) {
        PyArrayObject *array = (PyArrayObject *)inputs[i];
        if (array == NULL) {
            work->kinds[i] = TRT_FULL;
            continue;
        }
        int own = PyArray_NDIM(array);
        npy_intp size = PyArray_SIZE(array);
        work->inputs[i] = PyArray_BYTES(array);
        if (trt_has_shape(array, rank, dims)) {
            work->kinds[i] = TRT_FULL;
        } else if (size == 1 && own <= rank) {
            work->kinds[i] = TRT_ONE;
        } else {
            if (own > rank || (work->period && work->period != size))
                return 0;
            int leading = 1;
            for (int k = 0; k < own; k++) {
                npy_intp length = PyArray_DIM(array, k), there = dims[rank - own + k];
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
                || PyArray_DIM(bias, 0) != dims[rank - 1])
                return 0;
        }
        work->step_kinds[k] = (char)(a > b ? a : b);
    }
    for (int k = 0; k < p->num_steps; k++)
        if (p->steps[k].output >= 0 && work->step_kinds[k] != TRT_FULL)
            return 0;
    return work->count > 0;
}

/* Give every short row as many times as fit into a block, and make a block whole rows; 0 when there are too many. */
static int trt_fused_repeat_rows(trt_fused_work *work, char rows[TRT_FUSED_ROWS][TRT_FUSED_BLOCK_BYTES])
{
    const trt_fused_params *p = work->params;
    int num_rows = 0;
    if (!work->period || work->period > work->block)
        return 1;
    npy_intp bytes = work->period * p->size;
    npy_intp times = work->block / work->period;
    if (times > work->count / work->period)
        times = work->count / work->period;
    work->block = times * work->period;
    for (int i = 0; i < p->num_inputs; i++) {
        if (work->kinds[i] != TRT_ROW)
            continue;
        if (num_rows == TRT_FUSED_ROWS)
            return 0;
        for (npy_intp k = 0; k < times; k++)
            memcpy(rows[num_rows] + k * bytes, work->inputs[i], bytes);
        work->inputs[i] = rows[num_rows++];
    }
    return 1;
}

/* Elements [begin, end), at most a block, which lie within a row or are whole rows. */
static void trt_fused_block(const trt_fused_work *work, npy_intp begin, npy_intp end)
{
    char buffers[TRT_FUSED_BUFFERS][TRT_FUSED_BLOCK_BYTES] __attribute__((aligned(64)));
    const trt_fused_params *p = work->params;
    const npy_intp size = p->size, count = end - begin;
    const npy_intp row_offset = work->period ? begin % work->period * size : 0;
    for (int k = 0; k < p->num_steps; k++) {
        const trt_fused_step *step = &p->steps[k];
        const char *operands[2];
        char kinds[2];
        int codes[2] = {step->a, step->unary ? step->a : step->b};
        for (int side = 0; side < 2; side++) {
            int code = codes[side];
            if (code < 0) {
                const trt_fused_step *from = &p->steps[-1 - code];
                operands[side] = from->output < 0 ? buffers[from->buffer] : work->outputs[from->output] + begin * size;
                kinds[side] = work->step_kinds[-1 - code];
            } else {
                kinds[side] = work->kinds[code];
                operands[side] = work->inputs[code]
                    + (kinds[side] == TRT_FULL ? begin * size : kinds[side] == TRT_ROW ? row_offset : 0);
            }
        }
        char *out = step->output >= 0 ? work->outputs[step->output] + begin * size : buffers[step->buffer];
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

/* Elements [begin, end), from the start of a row where rows fit into a block. */
static void trt_fused_span(const trt_fused_work *work, npy_intp begin, npy_intp end)
{
    while (begin < end) {
        npy_intp stop = end - begin < work->block ? end : begin + work->block;
        if (work->period > work->block) {
            npy_intp row_end = begin - begin % work->period + work->period;
            stop = row_end < stop ? row_end : stop;
        }
        trt_fused_block(work, begin, stop);
        begin = stop;
    }
}

/* Blocks [first, last). */
static void trt_fused_blocks(void *context, Py_ssize_t first, Py_ssize_t last)
{
    const trt_fused_work *work = (const trt_fused_work *)context;
    trt_fused_span(work, first * work->block, last * work->block < work->count ? last * work->block : work->count);
}

static int trt_fused(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_fused_params *p)
{
    char rows[TRT_FUSED_ROWS][TRT_FUSED_BLOCK_BYTES];
    trt_fused_work work;
    PyArrayObject *full = NULL;
    unsigned int left = reusable;
    int num_moved = p->num_outputs;
    for (int i = 0; i < p->num_inputs; i++) {
        PyArrayObject *array = (PyArrayObject *)inputs[i];
        if (!trt_is_plain(inputs[i], p->type))
            return 1;
        if (full == NULL || PyArray_SIZE(array) > PyArray_SIZE(full)
            || (PyArray_SIZE(array) == PyArray_SIZE(full) && PyArray_NDIM(array) > PyArray_NDIM(full)))
            full = array;
    }
    if (!trt_fused_classify(&work, inputs, p, PyArray_NDIM(full), PyArray_DIMS(full))
        || !trt_fused_repeat_rows(&work, rows))
        return 1;
    for (int i = 0; i < p->num_inputs; i++)
        num_moved += work.kinds[i] == TRT_FULL;
    for (int k = 0; k < p->num_steps; k++) {
        int number = p->steps[k].output;
        PyObject *result = NULL;
        if (number < 0)
            continue;
        for (int i = 0; i < p->num_inputs && i < 32 && result == NULL; i++) {
            if (left >> i & 1 && work.kinds[i] == TRT_FULL && p->last_read[i] <= k) {
                result = trt_same((PyArrayObject *)inputs[i]);
                left &= ~(1u << i);
            }
        }
        if (result == NULL)
            result = trt_new_like(full, p->type);
        if (result == NULL)
            return -1;
        outputs[number] = result;
        work.outputs[number] = PyArray_BYTES((PyArrayObject *)result);
    }
    npy_intp bytes = work.count * p->size * num_moved;
    npy_intp blocks = (work.count + work.block - 1) / work.block;
    TRT_BEGIN_WORK(bytes)
    if (bytes < 2 * TRT_SHARED_BYTES)
        trt_fused_blocks(&work, 0, blocks);
    else
        trt_share(trt_fused_blocks, &work, blocks, TRT_SHARED_BYTES / (work.block * p->size * num_moved) + 1);
    TRT_END_WORK
    return 0;
}

/* Steps over a product, one of whose inputs it is, as its parts come. */
typedef struct {
    trt_finish base;
    const trt_fused_params *params;
    PyObject *inputs[TRT_FUSED_INPUTS]; /* borrowed; NULL for the product */
    int product;                        /* which one that is */
    unsigned long long reusable;        /* bit i: input i dies here */
    npy_intp width;
    trt_fused_work work;
    char rows[TRT_FUSED_ROWS][TRT_FUSED_BLOCK_BYTES];
} trt_fused_finish;

static int trt_fused_finish_fits(trt_finish *base, int type, int rank, const ptrdiff_t *dims)
{
    trt_fused_finish *finish = (trt_fused_finish *)base;
    const trt_fused_params *p = finish->params;
    trt_fused_work *work = &finish->work;
    if (type != p->type)
        return 0;
    for (int i = 0; i < p->num_inputs; i++)
        if (finish->inputs[i] != NULL && !trt_is_plain(finish->inputs[i], type))
            return 0;
    if (!trt_fused_classify(work, finish->inputs, p, rank, (const npy_intp *)dims))
        return 0;
    finish->width = dims[rank - 1];
    if ((work->period && work->period != finish->width) || !trt_fused_repeat_rows(work, finish->rows))
        return 0;
    if (p->is_sum) {
        int other = p->steps[0].a == finish->product ? p->steps[0].b : p->steps[0].a;
        if (other >= 0 && other != finish->product && work->kinds[other] == TRT_FULL && finish->reusable >> other & 1)
            base->addend = finish->inputs[other];
    }
    return 1;
}

static void trt_fused_finish_place(trt_finish *base, char *result)
{
    trt_fused_finish *finish = (trt_fused_finish *)base;
    finish->work.outputs[0] = result;
    finish->work.inputs[finish->product] = result;
}

/* `rows` times `columns` elements, at most a block, from element `begin` of the result. Each step looks up its operands
 * once for all rows. */
static void trt_fused_finish_rows(const trt_fused_finish *finish, npy_intp begin, npy_intp rows, npy_intp columns)
{
    char buffers[TRT_FUSED_BUFFERS][TRT_FUSED_BLOCK_BYTES] __attribute__((aligned(64)));
    const trt_fused_work *work = &finish->work;
    const trt_fused_params *p = work->params;
    const npy_intp size = p->size, wide = finish->width * size;
    for (int k = 0; k < p->num_steps; k++) {
        const trt_fused_step *step = &p->steps[k];
        const char *operands[2];
        npy_intp strides[2];
        char kinds[2];
        int codes[2] = {step->a, step->unary ? step->a : step->b};
        for (int side = 0; side < 2; side++) {
            int code = codes[side];
            kinds[side] = code < 0 ? work->step_kinds[-1 - code] : work->kinds[code];
            operands[side] = code < 0 ? buffers[p->steps[-1 - code].buffer] : work->inputs[code];
            strides[side] = kinds[side] != TRT_FULL ? 0 : code < 0 ? columns * size : wide;
            if (code >= 0 && kinds[side] != TRT_ONE)
                operands[side] += (kinds[side] == TRT_FULL ? begin : begin % finish->width) * size;
        }
        int last = k == p->num_steps - 1, kind = work->step_kinds[k];
        char *out = last ? work->outputs[0] + begin * size : buffers[step->buffer];
        npy_intp out_stride = last ? wide : columns * size, length = kind == TRT_ONE ? 1 : columns;
        trt_binary_loop loop = (kinds[0] == TRT_ONE) == (kinds[1] == TRT_ONE) ? step->both
            : kinds[1] == TRT_ONE ? step->right : step->left;
        for (npy_intp i = 0; i < (kind == TRT_FULL ? rows : 1); i++, out += out_stride) {
            if (step->unary)
                step->unary(out, operands[0], length);
            else
                loop(out, operands[0], operands[1], length);
            operands[0] += strides[0];
            operands[1] += strides[1];
        }
    }
}

static void trt_fused_finish_run(const trt_finish *base, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t column,
                                 ptrdiff_t columns)
{
    const trt_fused_finish *finish = (const trt_fused_finish *)base;
    const npy_intp block = TRT_FUSED_BLOCK_BYTES / finish->params->size;
    if (columns == finish->width) {
        trt_fused_span(&finish->work, row * columns, (row + rows) * columns);
        return;
    }
    for (npy_intp done = 0; done < columns; done += block) {
        npy_intp length = columns - done < block ? columns - done : block, most = block / length;
        for (npy_intp i = 0; i < rows; i += most)
            trt_fused_finish_rows(finish, (row + i) * finish->width + column + done, rows - i < most ? rows - i : most,
                                  length);
    }
}

static inline void trt_fused_finish_init(trt_fused_finish *finish, const trt_fused_params *params)
{
    finish->base.fits = trt_fused_finish_fits;
    finish->base.place = trt_fused_finish_place;
    finish->base.run = trt_fused_finish_run;
    finish->base.addend = NULL;
    finish->params = params;
}

#endif
