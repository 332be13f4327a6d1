/* Element-wise kernels of one and two arrays around loops of one type each: shapes, memory of the result, broadcasting.
 *
 * They return what a kernel returns: 0 done, 1 declined, -1 failed with an exception set.
 */
#ifndef TRT_KERNELS_ELEMENTWISE_H
#define TRT_KERNELS_ELEMENTWISE_H

#include "kernels/array_access.h"
#include "kernels/sharing.h"

typedef void (*trt_unary_loop)(char *out, const char *x, npy_intp count);
typedef void (*trt_binary_loop)(char *out, const char *x, const char *y, npy_intp count);

/* Elements of a type of 16 bits to float and back. */
typedef void (*trt_widen_loop)(float *out, const char *x, npy_intp count);
typedef void (*trt_narrow_loop)(char *out, const float *x, npy_intp count);

typedef struct {
    trt_unary_loop loop;     /* NULL: the elements stay as they are, widened or narrowed */
    trt_widen_loop widen;    /* what makes the elements that `loop` takes; NULL: nothing */
    trt_narrow_loop narrow;  /* what takes the elements that `loop` makes */
    int type, out_type;
    int size, out_size;      /* bytes of an element */
} trt_unary_params;

typedef struct {
    trt_binary_loop both;    /* two arrays */
    trt_binary_loop right;   /* the right side is one element */
    trt_binary_loop left;    /* the left side is one element */
    trt_widen_loop widen;    /* as above */
    trt_narrow_loop narrow;
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

/* Elements that are widened at a time: they and the results stay in the nearest cache. */
enum { TRT_NARROW_BLOCK = 1024 };

static void trt_narrow_unary(const trt_unary_params *p, char *out, const char *x, npy_intp count)
{
    float wide[TRT_NARROW_BLOCK], made[TRT_NARROW_BLOCK];
    for (npy_intp start = 0; start < count; start += TRT_NARROW_BLOCK) {
        npy_intp length = count - start < TRT_NARROW_BLOCK ? count - start : TRT_NARROW_BLOCK;
        char *to = out + start * p->out_size;
        const char *from = x + start * p->size;
        if (p->loop == NULL && p->narrow == NULL) {
            p->widen((float *)to, from, length);
            continue;
        }
        if (p->widen != NULL) {
            p->widen(wide, from, length);
            from = (const char *)wide;
        }
        if (p->loop != NULL) {
            p->loop(p->narrow != NULL ? (char *)made : to, from, length);
            from = (const char *)made;
        }
        if (p->narrow != NULL)
            p->narrow(to, (const float *)from, length);
    }
}

typedef struct {
    const trt_unary_params *params;
    char *out;
    const char *x;
} trt_unary_work;

static void trt_unary_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_unary_work *work = (const trt_unary_work *)context;
    const trt_unary_params *p = work->params;
    if (p->widen == NULL && p->narrow == NULL)
        p->loop(work->out + begin * p->out_size, work->x + begin * p->size, end - begin);
    else
        trt_narrow_unary(p, work->out + begin * p->out_size, work->x + begin * p->size, end - begin);
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
    trt_unary_work work = {p, PyArray_BYTES((PyArrayObject *)result), PyArray_BYTES(x)};
    TRT_BEGIN_WORK(count * (p->size + p->out_size))
    trt_share_bytes(trt_unary_range, &work, count, p->size + p->out_size);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

static void trt_narrow_binary(trt_binary_loop loop, const trt_binary_params *p, char *out, const char *x, int x_step,
                              const char *y, int y_step, npy_intp count)
{
    float left[TRT_NARROW_BLOCK], right[TRT_NARROW_BLOCK], made[TRT_NARROW_BLOCK];
    if (x_step == 0)
        p->widen(left, x, 1);
    if (y_step == 0)
        p->widen(right, y, 1);
    for (npy_intp start = 0; start < count; start += TRT_NARROW_BLOCK) {
        npy_intp length = count - start < TRT_NARROW_BLOCK ? count - start : TRT_NARROW_BLOCK;
        char *to = out + start * p->out_size;
        if (x_step)
            p->widen(left, x + start * x_step, length);
        if (y_step)
            p->widen(right, y + start * y_step, length);
        loop(p->narrow != NULL ? (char *)made : to, (const char *)left, (const char *)right, length);
        if (p->narrow != NULL)
            p->narrow(to, made, length);
    }
}

/* Run a loop of `p`; a side of one element has a step of 0. */
static inline void trt_run_binary(trt_binary_loop loop, const trt_binary_params *p, char *out, const char *x, int x_step,
                                  const char *y, int y_step, npy_intp count)
{
    if (p->widen == NULL)
        loop(out, x, y, count);
    else
        trt_narrow_binary(loop, p, out, x, x_step, y, y_step, count);
}

typedef struct {
    const trt_binary_params *params;
    trt_binary_loop loop;
    char *out;
    const char *x, *y;
    int x_step, y_step;
} trt_binary_work;

static void trt_binary_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_binary_work *work = (const trt_binary_work *)context;
    trt_run_binary(work->loop, work->params, work->out + begin * work->params->out_size,
                   work->x + begin * work->x_step, work->x_step, work->y + begin * work->y_step, work->y_step,
                   end - begin);
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

/* A broadcast in units: a row along the innermost axis, or a part of a long one. */
typedef struct {
    const trt_broadcast *plan;
    const trt_binary_params *params;
    trt_binary_loop loop;
    char *out;
    const char *x, *y;
    npy_intp x_steps[TRT_MAX_RANK], y_steps[TRT_MAX_RANK];
    int x_step, y_step;      /* bytes from one element of a row to the next */
    npy_intp unit;           /* elements */
    npy_intp units;          /* of a row */
} trt_broadcast_work;

static void trt_broadcast_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_broadcast_work *work = (const trt_broadcast_work *)context;
    const trt_broadcast *plan = work->plan;
    const trt_binary_params *p = work->params;
    npy_intp turns[TRT_MAX_RANK], row = begin / work->units, inner = plan->lengths[0], rest = row;
    npy_intp part = begin % work->units;
    const char *x = work->x, *y = work->y;
    for (int axis = 1; axis < plan->axes; axis++) {
        turns[axis] = rest % plan->lengths[axis];
        rest /= plan->lengths[axis];
        x += turns[axis] * work->x_steps[axis];
        y += turns[axis] * work->y_steps[axis];
    }
    for (npy_intp left = end - begin; left > 0; left--) {
        npy_intp start = part * work->unit;
        npy_intp length = inner - start < work->unit ? inner - start : work->unit;
        trt_run_binary(work->loop, p, work->out + (row * inner + start) * p->out_size, x + start * work->x_step,
                       work->x_step, y + start * work->y_step, work->y_step, length);
        if (++part < work->units)
            continue;
        part = 0;
        row++;
        for (int axis = 1; axis < plan->axes; axis++) {
            x += work->x_steps[axis];
            y += work->y_steps[axis];
            if (++turns[axis] < plan->lengths[axis])
                break;
            x -= work->x_steps[axis] * plan->lengths[axis];
            y -= work->y_steps[axis] * plan->lengths[axis];
            turns[axis] = 0;
        }
    }
}

static void trt_run_broadcast(const trt_broadcast *plan, const trt_binary_params *p, char *out, const char *x,
                              const char *y)
{
    trt_broadcast_work work = {plan, p, p->both, out, x, y, {0}, {0}, p->size, p->size, 0, 1};
    npy_intp x_extent = p->size, y_extent = p->size, each = 2 * p->size + p->out_size;
    if (plan->count == 0)
        return;
    if (plan->axes == 0) {
        trt_run_binary(p->both, p, out, x, p->size, y, p->size, 1);
        return;
    }
    for (int i = 0; i < plan->axes; i++) {
        work.x_steps[i] = plan->kinds[i] == TRT_LEFT_ONE ? 0 : x_extent;
        work.y_steps[i] = plan->kinds[i] == TRT_RIGHT_ONE ? 0 : y_extent;
        x_extent *= plan->kinds[i] == TRT_LEFT_ONE ? 1 : plan->lengths[i];
        y_extent *= plan->kinds[i] == TRT_RIGHT_ONE ? 1 : plan->lengths[i];
    }
    if (plan->kinds[0] == TRT_RIGHT_ONE) {
        work.loop = p->right;
        work.y_step = 0;
    } else if (plan->kinds[0] == TRT_LEFT_ONE) {
        work.loop = p->left;
        work.x_step = 0;
    }
    work.unit = plan->lengths[0];
    if (work.unit > TRT_SHARED_BYTES / each) {
        work.unit = TRT_SHARED_BYTES / each;
        work.units = (plan->lengths[0] + work.unit - 1) / work.unit;
    }
    trt_share_bytes(trt_broadcast_range, &work, plan->count / plan->lengths[0] * work.units, work.unit * each);
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
    npy_intp count = PyArray_SIZE(shape), each = 2 * p->size + p->out_size;
    trt_binary_work work = {p, loop, PyArray_BYTES((PyArrayObject *)result), PyArray_BYTES(x), PyArray_BYTES(y),
                            x_step, y_step};
    TRT_BEGIN_WORK(count * each)
    trt_share_bytes(trt_binary_range, &work, count, each);
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

typedef struct {
    const trt_binary_params *params;
    char *out;
    PyObject **inputs;
    int num_inputs;
} trt_add_n_work;

static void trt_add_n_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_add_n_work *work = (const trt_add_n_work *)context;
    const trt_binary_params *p = work->params;
    /* A block at a time, so that the sum stays in the nearest cache. */
    npy_intp block = 4096 / p->size;
    for (npy_intp start = begin; start < end; start += block) {
        npy_intp length = end - start < block ? end - start : block, offset = start * p->size;
        const char *sum = PyArray_BYTES((PyArrayObject *)work->inputs[0]) + offset;
        for (int i = 1; i < work->num_inputs; i++) {
            trt_run_binary(p->both, p, work->out + offset, sum, p->size,
                           PyArray_BYTES((PyArrayObject *)work->inputs[i]) + offset, p->size, length);
            sum = work->out + offset;
        }
    }
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
    trt_add_n_work work = {p, PyArray_BYTES((PyArrayObject *)result), inputs, num_inputs};
    TRT_BEGIN_WORK(count * p->size * (num_inputs + 1))
    trt_share_bytes(trt_add_n_range, &work, count, p->size * (num_inputs + 1));
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

#endif
