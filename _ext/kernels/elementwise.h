/* Element-wise kernels of one and two arrays around loops of one type each: shapes, memory of the result, broadcasting.
 *
 * They return what a kernel returns: 0 done, 1 declined, -1 failed with an exception set.
 */
#ifndef TRT_KERNELS_ELEMENTWISE_H
#define TRT_KERNELS_ELEMENTWISE_H

#include "kernels/array_access.h"

typedef void (*trt_unary_loop)(char *out, const char *x, npy_intp count);
typedef void (*trt_binary_loop)(char *out, const char *x, const char *y, npy_intp count);

typedef struct {
    trt_unary_loop loop;
    int type, out_type;
    int size, out_size;      /* bytes of an element */
} trt_unary_params;

typedef struct {
    trt_binary_loop both;    /* two arrays */
    trt_binary_loop right;   /* the right side is one element */
    trt_binary_loop left;    /* the left side is one element */
    int type, out_type;
    int size, out_size;
    int broadcasts;          /* 0: both shapes must be the same */
} trt_binary_params;

typedef struct {
    const char *op;
    int type, out_type;
    trt_unary_loop loop;
} trt_unary_entry;

typedef struct {
    const char *op;
    int type, out_type;
    trt_binary_loop both, right, left;
} trt_binary_entry;

/* Elements after which a loop looks whether its step is cancelled: some 10 ms, in memory that was never touched. */
enum { TRT_PIECE = 1 << 21 };

static inline void trt_run_unary(const trt_unary_params *p, char *out, const char *x, npy_intp count)
{
    const int *stop = count > TRT_PIECE ? trt_find_stop() : NULL;
    for (npy_intp start = 0; start < count && !trt_stopped(stop); start += TRT_PIECE)
        p->loop(out + start * p->out_size, x + start * p->size, count - start < TRT_PIECE ? count - start : TRT_PIECE);
}

/* A side of one element has a step of 0. */
static inline void trt_run_binary(trt_binary_loop loop, const trt_binary_params *p, char *out, const char *x, int x_step,
                                  const char *y, int y_step, npy_intp count)
{
    const int *stop = count > TRT_PIECE ? trt_find_stop() : NULL;
    for (npy_intp start = 0; start < count && !trt_stopped(stop); start += TRT_PIECE)
        loop(out + start * p->out_size, x + start * x_step, y + start * y_step,
             count - start < TRT_PIECE ? count - start : TRT_PIECE);
}

static inline int trt_unary(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_unary_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    if (!trt_is_plain(inputs[0], p->type))
        return 1;
    PyObject *result = reusable & 1 && p->type == p->out_type ? trt_same(x) : trt_new_like(x, p->out_type);
    if (result == NULL)
        return -1;
    npy_intp count = PyArray_SIZE(x);
    char *out = PyArray_BYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(count * (p->size + p->out_size))
    trt_run_unary(p, out, PyArray_BYTES(x), count);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

/* The axes of two shapes that broadcast, innermost first, with neighbours of one kind taken together. */
enum { TRT_BOTH = 0, TRT_RIGHT_ONE = 1, TRT_LEFT_ONE = 2 };
enum { TRT_MAX_RANK = 16 };

typedef struct {
    int rank;                          /* of the result */
    npy_intp dims[TRT_MAX_RANK];       /* of the result, outermost first */
    npy_intp count;                    /* elements of the result */
    int axes;
    npy_intp lengths[TRT_MAX_RANK];
    int kinds[TRT_MAX_RANK];
} trt_broadcast;

/* Fill `plan`; 0 when the shapes do not broadcast or have too many axes. */
static int trt_plan_broadcast(trt_broadcast *plan, int x_rank, const npy_intp *x_dims, int y_rank,
                              const npy_intp *y_dims)
{
    int rank = x_rank > y_rank ? x_rank : y_rank;
    if (rank > TRT_MAX_RANK)
        return 0;
    plan->rank = rank;
    plan->count = 1;
    plan->axes = 0;
    for (int i = 1; i <= rank; i++) {
        npy_intp x = i <= x_rank ? x_dims[x_rank - i] : 1;
        npy_intp y = i <= y_rank ? y_dims[y_rank - i] : 1;
        int kind = x == y ? TRT_BOTH : y == 1 ? TRT_RIGHT_ONE : TRT_LEFT_ONE;
        if (kind == TRT_LEFT_ONE && x != 1)
            return 0;
        npy_intp length = kind == TRT_LEFT_ONE ? y : x;
        plan->dims[rank - i] = length;
        if (length != 0 && plan->count > NPY_MAX_INTP / 16 / length)
            return 0; /* numpy says that this is too large */
        plan->count *= length;
        if (length == 1)
            continue;
        if (plan->axes && plan->kinds[plan->axes - 1] == kind) {
            plan->lengths[plan->axes - 1] *= length;
        } else {
            plan->lengths[plan->axes] = length;
            plan->kinds[plan->axes] = kind;
            plan->axes++;
        }
    }
    return 1;
}

static void trt_run_broadcast(const trt_broadcast *plan, const trt_binary_params *p, char *out, const char *x,
                              const char *y)
{
    npy_intp x_steps[TRT_MAX_RANK], y_steps[TRT_MAX_RANK], turns[TRT_MAX_RANK] = {0};
    npy_intp x_extent = p->size, y_extent = p->size;
    if (plan->count == 0)
        return;
    if (plan->axes == 0) {
        p->both(out, x, y, 1);
        return;
    }
    for (int i = 0; i < plan->axes; i++) {
        x_steps[i] = plan->kinds[i] == TRT_LEFT_ONE ? 0 : x_extent;
        y_steps[i] = plan->kinds[i] == TRT_RIGHT_ONE ? 0 : y_extent;
        x_extent *= plan->kinds[i] == TRT_LEFT_ONE ? 1 : plan->lengths[i];
        y_extent *= plan->kinds[i] == TRT_RIGHT_ONE ? 1 : plan->lengths[i];
    }
    trt_binary_loop loop = plan->kinds[0] == TRT_BOTH ? p->both : plan->kinds[0] == TRT_RIGHT_ONE ? p->right : p->left;
    npy_intp inner = plan->lengths[0], since_look = 0;
    npy_intp out_step = inner * p->out_size;
    const int *stop = plan->count > TRT_PIECE ? trt_find_stop() : NULL;
    int x_step = plan->kinds[0] == TRT_LEFT_ONE ? 0 : p->size, y_step = plan->kinds[0] == TRT_RIGHT_ONE ? 0 : p->size;
    for (;;) {
        int axis = 1;
        if (inner > TRT_PIECE)
            trt_run_binary(loop, p, out, x, x_step, y, y_step, inner);
        else
            loop(out, x, y, inner);
        if ((since_look += inner) > TRT_PIECE) {
            since_look = 0;
            if (trt_stopped(stop))
                return;
        }
        out += out_step;
        while (axis < plan->axes) {
            x += x_steps[axis];
            y += y_steps[axis];
            if (++turns[axis] < plan->lengths[axis])
                break;
            x -= x_steps[axis] * plan->lengths[axis];
            y -= y_steps[axis] * plan->lengths[axis];
            turns[axis++] = 0;
        }
        if (axis == plan->axes)
            return;
    }
}

/* Shapes that are neither the same nor one of a single element; x_dims and y_dims may differ from the arrays' own. */
static int trt_binary_broadcast(PyArrayObject *x, int x_rank, const npy_intp *x_dims, PyArrayObject *y, int y_rank,
                                const npy_intp *y_dims, PyObject **outputs, unsigned int reusable,
                                const trt_binary_params *p)
{
    trt_broadcast plan;
    PyObject *result = NULL;
    if (!trt_plan_broadcast(&plan, x_rank, x_dims, y_rank, y_dims))
        return 1;
    if (p->type == p->out_type && reusable) {
        if (reusable & 1 && x_rank == plan.rank && memcmp(x_dims, plan.dims, plan.rank * sizeof(npy_intp)) == 0)
            result = trt_same(x);
        else if (reusable & 2 && y_rank == plan.rank && memcmp(y_dims, plan.dims, plan.rank * sizeof(npy_intp)) == 0)
            result = trt_same(y);
    }
    if (result == NULL)
        result = trt_new_array(p->out_type, plan.rank, plan.dims);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(plan.count * (2 * p->size + p->out_size))
    trt_run_broadcast(&plan, p, out, PyArray_BYTES(x), PyArray_BYTES(y));
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

static inline int trt_binary(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_binary_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0], *y = (PyArrayObject *)inputs[1], *shape;
    trt_binary_loop loop;
    int x_step = p->size, y_step = p->size;
    if (!trt_is_plain(inputs[0], p->type) || !trt_is_plain(inputs[1], p->type))
        return 1;
    if (trt_same_shape(x, y)) {
        loop = p->both;
        shape = x;
    } else if (!p->broadcasts) {
        return 1;
    } else if (PyArray_SIZE(y) == 1 && PyArray_NDIM(y) <= PyArray_NDIM(x)) {
        loop = p->right;
        y_step = 0;
        shape = x;
        reusable &= 1;
    } else if (PyArray_SIZE(x) == 1 && PyArray_NDIM(x) <= PyArray_NDIM(y)) {
        loop = p->left;
        x_step = 0;
        shape = y;
        reusable &= 2;
    } else {
        return trt_binary_broadcast(x, PyArray_NDIM(x), PyArray_DIMS(x), y, PyArray_NDIM(y), PyArray_DIMS(y), outputs,
                                    reusable, p);
    }
    PyObject *result;
    if (reusable && p->type == p->out_type)
        result = trt_same(reusable & 1 ? x : y);
    else
        result = trt_new_like(shape, p->out_type);
    if (result == NULL)
        return -1;
    npy_intp count = PyArray_SIZE(shape);
    char *out = PyArray_BYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(count * (2 * p->size + p->out_size))
    trt_run_binary(loop, p, out, PyArray_BYTES(x), x_step, PyArray_BYTES(y), y_step, count);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

/* x[n...] + x[n...] + ..., all of one shape. */
static inline int trt_add_n(PyObject **inputs, PyObject **outputs, int num_inputs, unsigned int reusable,
                            const trt_binary_params *p)
{
    PyArrayObject *x = (PyArrayObject *)inputs[0];
    for (int i = 0; i < num_inputs; i++)
        if (!trt_is_plain(inputs[i], p->type) || !trt_same_shape(x, (PyArrayObject *)inputs[i]))
            return 1;
    if (num_inputs == 1) {
        outputs[0] = trt_same(x);
        return 0;
    }
    PyObject *result;
    /* Only the first two may be written: later ones are read after the first sum is stored. */
    if (reusable & 3)
        result = trt_same((PyArrayObject *)inputs[reusable & 1 ? 0 : 1]);
    else
        result = trt_new_like(x, p->out_type);
    if (result == NULL)
        return -1;
    npy_intp count = PyArray_SIZE(x);
    char *out = PyArray_BYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(count * p->size * num_inputs)
    /* A block at a time, so that the sum stays in the nearest cache. */
    npy_intp block = 4096 / p->size;
    const int *stop = count > TRT_PIECE ? trt_find_stop() : NULL;
    for (npy_intp start = 0; start < count && !trt_stopped(stop); start += block) {
        npy_intp length = count - start < block ? count - start : block;
        npy_intp offset = start * p->size;
        p->both(out + offset, PyArray_BYTES(x) + offset, PyArray_BYTES((PyArrayObject *)inputs[1]) + offset, length);
        for (int i = 2; i < num_inputs; i++)
            p->both(out + offset, out + offset, PyArray_BYTES((PyArrayObject *)inputs[i]) + offset, length);
    }
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

#endif
