/* Kernels that pick elements or rows: by number (gather), by a condition (select), or to set them apart (one-hot). */
#ifndef TRT_KERNELS_PICKING_H
#define TRT_KERNELS_PICKING_H

#include "kernels/parts.h"

/* -- gather -- */

typedef struct {
    char *out;
    const char *rows, *indices;
    npy_intp limit, count;   /* rows there, rows wanted of each block */
    npy_intp bytes;          /* of a row */
    int wide;
} trt_gather_work;

/* Whether every index is in range. */
static int trt_indices_fit(const char *indices, int wide, npy_intp count, npy_intp limit)
{
    int bad = 0;
    if (wide) {
        for (npy_intp i = 0; i < count; i++)
            bad |= (uint64_t)((const trt_mem_i64 *)indices)[i] >= (uint64_t)limit;
    } else {
        uint32_t most = limit > INT32_MAX ? (uint32_t)INT32_MAX + 1 : (uint32_t)limit;
        for (npy_intp i = 0; i < count; i++)
            bad |= (uint32_t)((const trt_mem_i32 *)indices)[i] >= most;
    }
    return !bad;
}

#define TRT_INDEX(work, i) \
    ((work)->wide ? (npy_intp)((const trt_mem_i64 *)(work)->indices)[i] \
                  : (npy_intp)((const trt_mem_i32 *)(work)->indices)[i])

/* Rows [begin, end) of all blocks. */
static void trt_gather_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_gather_work *work = (const trt_gather_work *)context;
    npy_intp block = begin / work->count, i = begin % work->count, bytes = work->bytes;
    char *out = work->out + begin * bytes;
    const char *rows = work->rows + block * work->limit * bytes;
    for (npy_intp turn = begin; turn < end; turn++, out += bytes) {
        const char *row = rows + TRT_INDEX(work, i) * bytes;
        if (bytes == 4)
            *(trt_mem_u32 *)out = *(const trt_mem_u32 *)row;
        else if (bytes == 8)
            *(trt_mem_u64 *)out = *(const trt_mem_u64 *)row;
        else
            memcpy(out, row, bytes);
        if (++i == work->count) {
            i = 0;
            rows += work->limit * bytes;
        }
    }
}

static int trt_gather_along(PyArrayObject *array, PyObject *indices_value, int64_t axis, PyObject **outputs)
{
    npy_intp dims[2 * TRT_SHAPING_RANK], blocks = 1, total;
    PyArrayObject *indices = (PyArrayObject *)indices_value;
    trt_gather_work work;
    int rank = PyArray_NDIM(array);
    axis = axis < 0 ? axis + rank : axis;
    work.wide = trt_is_plain(indices_value, NPY_INT64);
    if (!trt_holds_plain_bytes(array) || !PyArray_CHKFLAGS(array, NPY_ARRAY_C_CONTIGUOUS) || axis < 0 || axis >= rank
        || (!work.wide && !trt_is_plain(indices_value, NPY_INT32)))
        return 1;
    int picked = PyArray_NDIM(indices);
    if (rank - 1 + picked > TRT_SHAPING_RANK)
        return 1;
    work.limit = PyArray_DIM(array, axis);
    work.count = PyArray_SIZE(indices);
    work.indices = PyArray_BYTES(indices);
    if (!trt_indices_fit(work.indices, work.wide, work.count, work.limit))
        return 1;
    work.bytes = total = PyArray_ITEMSIZE(array);
    for (int i = 0; i < rank - 1 + picked; i++) {
        if (i < axis)
            blocks *= dims[i] = PyArray_DIM(array, i);
        else if (i < axis + picked)
            dims[i] = PyArray_DIM(indices, i - axis);
        else
            work.bytes *= dims[i] = PyArray_DIM(array, i - picked + 1);
        if (dims[i] && total > NPY_MAX_INTP / 16 / dims[i])
            return 1;
        total *= dims[i];
    }
    PyObject *result = trt_new_of(array, rank - 1 + picked, dims);
    if (result == NULL)
        return -1;
    if (total) {
        work.out = PyArray_BYTES((PyArrayObject *)result);
        work.rows = PyArray_BYTES(array);
        TRT_BEGIN_WORK(2 * total)
        trt_share(trt_gather_range, &work, blocks * work.count, TRT_SHARED_BYTES / work.bytes + 1);
        TRT_END_WORK
    }
    outputs[0] = result;
    return 0;
}

static int trt_gather(PyObject **inputs, PyObject **outputs, int num_inputs)
{
    int64_t axis[TRT_SHAPING_RANK] = {0};
    if (!trt_is_array(inputs[0]))
        return 1;
    if (num_inputs > 2 && (!PyArray_CheckExact(inputs[2]) || PyArray_NDIM((PyArrayObject *)inputs[2])
                           || trt_read_ints(inputs[2], axis) != 1))
        return 1;
    return trt_gather_along((PyArrayObject *)inputs[0], inputs[1], axis[0], outputs);
}

/* -- one-hot -- */

static int trt_one_hot(PyObject **inputs, PyObject **outputs, int axis)
{
    int64_t depth[TRT_SHAPING_RANK];
    npy_intp dims[TRT_SHAPING_RANK + 1], outer = 1, inner = 1, total;
    PyArrayObject *indices = (PyArrayObject *)inputs[0], *on = (PyArrayObject *)inputs[2];
    int bytes = trt_is_plain(inputs[0], NPY_UINT8), wide = trt_is_plain(inputs[0], NPY_INT64);
    if ((!bytes && !wide && !trt_is_plain(inputs[0], NPY_INT32)) || PyArray_NDIM(indices) >= TRT_SHAPING_RANK)
        return 1;
    int rank = PyArray_NDIM(indices);
    for (int k = 1; k < 4; k++)
        if (!PyArray_CheckExact(inputs[k]) || PyArray_NDIM((PyArrayObject *)inputs[k]))
            return 1;
    if (trt_read_ints(inputs[1], depth) != 1 || depth[0] < 0 || axis < -1 || axis > rank || !trt_joinable(inputs[2], on)
        || !trt_joinable(inputs[3], on))
        return 1;
    npy_intp size = total = PyArray_ITEMSIZE(on);
    axis = axis < 0 ? rank : axis;
    for (int i = 0; i <= rank; i++) {
        npy_intp length = i == axis ? (npy_intp)depth[0] : PyArray_DIM(indices, i < axis ? i : i - 1);
        if (length && total > NPY_MAX_INTP / 16 / length)
            return 1;
        total *= dims[i] = length;
        if (i < axis)
            outer *= length;
        else if (i > axis)
            inner *= length;
    }
    PyObject *result = trt_new_of(on, rank + 1, dims);
    if (result == NULL)
        return -1;
    char *out = PyArray_BYTES((PyArrayObject *)result);
    const char *read = PyArray_BYTES(indices), *hot = PyArray_BYTES(on);
    TRT_BEGIN_WORK(total)
    trt_repeat(out, PyArray_BYTES((PyArrayObject *)inputs[3]), size, total / size);
    for (npy_intp i = 0; total && i < outer * inner; i++) {
        int64_t index = bytes ? ((const trt_mem_u8 *)read)[i]
                              : wide ? ((const trt_mem_i64 *)read)[i] : ((const trt_mem_i32 *)read)[i];
        if (index >= 0 && index < depth[0])
            memcpy(out + ((i / inner * (npy_intp)depth[0] + (npy_intp)index) * inner + i % inner) * size, hot, size);
    }
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

/* -- select -- */

typedef void (*trt_choose_loop)(char *out, const trt_mem_u8 *condition, const char *x, const char *y, int x_moves,
                                int y_moves, npy_intp count);

#define TRT_LOOPS "kernels/picking_loops.h"
#include "kernels/every_level.h"

typedef trt_choose_loop (*trt_choose_by_size)(npy_intp size);

static trt_choose_by_size trt_choose_of(int level)
{
    TRT_OF_LEVEL(level, trt_choose)
}

typedef struct {
    trt_choose_by_size loops;
    int by_rows;             /* Select: a vector as the condition picks whole rows, nothing else broadcasts */
} trt_select_params;

/* The steps of an operand of `rank` dims within the result, in elements; 0 when it does not broadcast to it. */
static int trt_operand_steps(npy_intp *steps, int out_rank, const npy_intp *out_dims, int rank, const npy_intp *dims)
{
    npy_intp step = 1;
    for (int i = out_rank - 1; i >= 0; i--) {
        int axis = i - (out_rank - rank);
        npy_intp length = axis < 0 ? 1 : dims[axis];
        if (length != 1 && length != out_dims[i])
            return 0;
        steps[i] = length == 1 ? 0 : step;
        step *= length;
    }
    return 1;
}

/* Innermost first, neighbours that every operand goes through alike taken together; steps in elements. */
typedef struct {
    trt_choose_loop loop;
    npy_intp size;
    int axes;
    npy_intp lengths[TRT_SHAPING_RANK];
    npy_intp steps[3][TRT_SHAPING_RANK];
} trt_select_work;

static void trt_run_select(const trt_select_work *work, char *out, const trt_mem_u8 *condition, const char *x,
                           const char *y)
{
    npy_intp turns[TRT_SHAPING_RANK] = {0}, size = work->size;
    npy_intp inner = work->axes ? work->lengths[0] : 1;
    int moves[3];
    for (int k = 0; k < 3; k++)
        moves[k] = work->axes && work->steps[k][0];
    for (;;) {
        int axis = 1;
        if (moves[0]) {
            work->loop(out, condition, x, y, moves[1], moves[2], inner);
        } else {
            const char *chosen = *condition ? x : y;
            if (!moves[*condition ? 1 : 2])
                trt_repeat(out, chosen, size, inner);
            else if (chosen != out)
                memcpy(out, chosen, inner * size);
        }
        out += inner * size;
        for (; axis < work->axes; axis++) {
            condition += work->steps[0][axis];
            x += work->steps[1][axis] * size;
            y += work->steps[2][axis] * size;
            if (++turns[axis] < work->lengths[axis])
                break;
            condition -= work->steps[0][axis] * work->lengths[axis];
            x -= work->steps[1][axis] * work->lengths[axis] * size;
            y -= work->steps[2][axis] * work->lengths[axis] * size;
            turns[axis] = 0;
        }
        if (axis >= work->axes)
            return;
    }
}

static int trt_select(PyObject **inputs, PyObject **outputs, unsigned int reusable, const trt_select_params *p)
{
    npy_intp dims[TRT_SHAPING_RANK], steps[3][TRT_SHAPING_RANK], condition_dims[TRT_SHAPING_RANK], count = 1;
    const npy_intp *shapes[3];
    int ranks[3], rank = 0;
    PyArrayObject *operands[3];
    for (int k = 0; k < 3; k++) {
        operands[k] = (PyArrayObject *)inputs[k];
        if (!trt_is_array(inputs[k]) || !PyArray_CHKFLAGS(operands[k], NPY_ARRAY_C_CONTIGUOUS)
            || !trt_holds_plain_bytes(operands[k]))
            return 1;
        ranks[k] = PyArray_NDIM(operands[k]);
        shapes[k] = PyArray_DIMS(operands[k]);
    }
    PyArrayObject *x = operands[1], *y = operands[2];
    npy_intp size = PyArray_ITEMSIZE(x);
    trt_choose_loop loop = p->loops(size);
    if (PyArray_TYPE(operands[0]) != NPY_BOOL || PyArray_TYPE(x) != PyArray_TYPE(y) || loop == NULL)
        return 1;
    if (ranks[0] == 0 && trt_same_shape(x, y)) {
        outputs[0] = trt_same(*PyArray_BYTES(operands[0]) ? x : y);
        return 0;
    }
    if (p->by_rows) {
        if (!trt_same_shape(x, y))
            return 1;
        if (!trt_same_shape(operands[0], x)) {
            if (ranks[0] != 1 || ranks[1] < 1 || shapes[0][0] != shapes[1][0])
                return 1;
            for (int i = 0; i < ranks[1]; i++)
                condition_dims[i] = i ? 1 : shapes[0][0];
            shapes[0] = condition_dims;
            ranks[0] = ranks[1];
        }
    }
    for (int k = 0; k < 3; k++)
        rank = ranks[k] > rank ? ranks[k] : rank;
    for (int i = 0; i < rank; i++) {
        dims[i] = 1;
        for (int k = 0; k < 3; k++) {
            int axis = i - (rank - ranks[k]);
            if (axis >= 0 && shapes[k][axis] != 1)
                dims[i] = shapes[k][axis];
        }
        if (dims[i] && count > NPY_MAX_INTP / 16 / size / dims[i])
            return 1;
        count *= dims[i];
    }
    for (int k = 0; k < 3; k++)
        if (!trt_operand_steps(steps[k], rank, dims, ranks[k], shapes[k]))
            return 1;
    PyObject *result = NULL;
    for (int k = 1; k < 3 && result == NULL; k++)
        if (reusable >> k & 1 && PyArray_SIZE(operands[k]) == count && ranks[k] == rank)
            result = trt_same(operands[k]);
    if (result == NULL)
        result = trt_new_of(x, rank, dims);
    if (result == NULL)
        return -1;
    trt_select_work work = {loop, size, 0, {0}, {{0}}};
    for (int i = rank - 1; i >= 0; i--) {
        npy_intp *last = work.lengths + (work.axes ? work.axes - 1 : 0);
        int joins = work.axes > 0;
        if (dims[i] == 1)
            continue;
        for (int k = 0; k < 3; k++)
            joins = joins && steps[k][i] == work.steps[k][work.axes - 1] * *last;
        if (joins) {
            *last *= dims[i];
            continue;
        }
        for (int k = 0; k < 3; k++)
            work.steps[k][work.axes] = steps[k][i];
        work.lengths[work.axes++] = dims[i];
    }
    char *out = PyArray_BYTES((PyArrayObject *)result);
    TRT_BEGIN_WORK(3 * count * size)
    if (count)
        trt_run_select(&work, out, (const trt_mem_u8 *)PyArray_BYTES(operands[0]), PyArray_BYTES(x), PyArray_BYTES(y));
    TRT_END_WORK
    outputs[0] = result;
    return 0;
}

#endif
