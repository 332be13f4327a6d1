/* Reductions in tasks whose number and bounds follow from the sizes alone: the bits do not depend on the threads.
 *
 * A long row, or many rows over the same columns, is reduced in parts, and then their results are.
 */
#ifndef TRT_KERNELS_REDUCTION_RUNS_H
#define TRT_KERNELS_REDUCTION_RUNS_H

/* Rows of a task down columns at least: the results of parts are then a small part of what is read. */
enum { TRT_COLUMN_ROWS = 16 };

typedef struct {
    const trt_reduce_params *params;
    int narrow;              /* whether x is still to be widened */
    char *out;               /* of the type that the loops work in */
    const char *x;
    npy_intp rows, count;
    npy_intp unit, units;    /* elements of a row, or columns, that are done together; how many of these there are */
    npy_intp height;         /* rows that are done together */
} trt_reduce_work;

static inline npy_intp trt_wide_size(const trt_reduce_params *p)
{
    return p->widen == NULL ? p->size : (npy_intp)sizeof(float);
}

static inline npy_intp trt_own_size(const trt_reduce_work *work)
{
    return work->narrow ? work->params->size : trt_wide_size(work->params);
}

static void trt_rows_here(const trt_reduce_work *work, char *out, const char *x, npy_intp rows, npy_intp count)
{
    const trt_reduce_params *p = work->params;
    float wide[TRT_NARROW_BLOCK], parts[TRT_NARROW_BLOCK];
    if (!work->narrow) {
        p->rows(out, x, rows, count);
        return;
    }
    if (count <= TRT_NARROW_BLOCK) {
        npy_intp together = count ? TRT_NARROW_BLOCK / count : rows;
        for (npy_intp row = 0; row < rows; row += together) {
            npy_intp some = rows - row < together ? rows - row : together;
            p->widen(wide, x + row * count * p->size, some * count);
            p->rows(out + row * sizeof(float), (const char *)wide, some, count);
        }
        return;
    }
    /* no row has more blocks than there is room for: longer ones are cut before */
    for (npy_intp row = 0; row < rows; row++, x += count * p->size) {
        npy_intp blocks = 0;
        for (npy_intp start = 0; start < count; start += TRT_NARROW_BLOCK) {
            npy_intp length = count - start < TRT_NARROW_BLOCK ? count - start : TRT_NARROW_BLOCK;
            p->widen(wide, x + start * p->size, length);
            p->rows((char *)(parts + blocks++), (const char *)wide, 1, length);
        }
        p->rows(out + row * sizeof(float), (const char *)parts, 1, blocks);
    }
}

static void trt_columns_here(const trt_reduce_work *work, char *out, const char *x, npy_intp rows, npy_intp step,
                             npy_intp width)
{
    const trt_reduce_params *p = work->params;
    float wide[(TRT_COLUMN_ROWS + 1) * TRT_STRIP_WIDTH], made[TRT_STRIP_WIDTH];
    if (!work->narrow || rows == 0) {
        p->columns(out, x, rows, step, width);
        return;
    }
    for (npy_intp start = 0; start < width; start += TRT_STRIP_WIDTH) {
        npy_intp columns = width - start < TRT_STRIP_WIDTH ? width - start : TRT_STRIP_WIDTH;
        for (npy_intp row = 0; row < rows; row += TRT_COLUMN_ROWS) {
            npy_intp some = rows - row < TRT_COLUMN_ROWS ? rows - row : TRT_COLUMN_ROWS, first = row > 0;
            if (first)
                memcpy(wide, made, columns * sizeof(float));
            for (npy_intp i = 0; i < some; i++)
                p->widen(wide + (first + i) * columns, x + ((row + i) * step + start) * p->size, columns);
            p->columns((char *)made, (const char *)wide, first + some, columns, columns);
        }
        memcpy(out + start * sizeof(float), made, columns * sizeof(float));
    }
}

static void trt_rows_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_reduce_work *work = (const trt_reduce_work *)context;
    npy_intp size = trt_own_size(work), wide = trt_wide_size(work->params);
    if (work->units == 1) {
        trt_rows_here(work, work->out + begin * wide, work->x + begin * work->count * size, end - begin, work->count);
        return;
    }
    for (Py_ssize_t task = begin; task < end; task++) {
        npy_intp row = task / work->units, start = task % work->units * work->unit;
        npy_intp length = work->count - start < work->unit ? work->count - start : work->unit;
        trt_rows_here(work, work->out + task * wide, work->x + (row * work->count + start) * size, 1, length);
    }
}

/* Each of these returns 0 when there is no memory. */
static int trt_reduce_rows(trt_reduce_work *work, npy_intp rows, npy_intp count)
{
    npy_intp size = trt_own_size(work), wide = trt_wide_size(work->params);
    char *out = work->out;
    work->rows = rows;
    work->count = count;
    work->unit = TRT_SHARED_BYTES / size;
    work->units = count <= 2 * work->unit ? 1 : (count + work->unit - 1) / work->unit;
    if (work->units == 1) {
        trt_share_bytes(trt_rows_range, work, rows, count * size);
        return 1;
    }
    work->out = (char *)PyMem_RawMalloc(rows * work->units * wide);
    if (work->out == NULL)
        return 0;
    trt_share_bytes(trt_rows_range, work, rows * work->units, work->unit * size);
    trt_reduce_work parts = {work->params, 0, out, work->out};
    int done = trt_reduce_rows(&parts, rows, work->units);
    PyMem_RawFree(work->out);
    work->out = out;
    return done;
}

static void trt_columns_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_reduce_work *work = (const trt_reduce_work *)context;
    npy_intp size = trt_own_size(work), wide = trt_wide_size(work->params);
    for (Py_ssize_t task = begin; task < end; task++) {
        npy_intp part = task / work->units, row = part * work->height, start = task % work->units * work->unit;
        npy_intp rows = work->rows - row < work->height ? work->rows - row : work->height;
        npy_intp width = work->count - start < work->unit ? work->count - start : work->unit;
        trt_columns_here(work, work->out + (part * work->count + start) * wide,
                         work->x + (row * work->count + start) * size, rows, work->count, width);
    }
}

static int trt_reduce_columns(trt_reduce_work *work, npy_intp rows, npy_intp count)
{
    npy_intp size = trt_own_size(work), wide = trt_wide_size(work->params);
    npy_intp strip = TRT_SHARED_BYTES / (TRT_COLUMN_ROWS * size) / TRT_STRIP_WIDTH * TRT_STRIP_WIDTH;
    if (count && rows <= 2 * TRT_SHARED_BYTES / size / count) {
        trt_columns_here(work, work->out, work->x, rows, count, count);
        return 1;
    }
    work->rows = rows;
    work->count = count;
    work->unit = count < strip ? count : strip;
    work->units = work->unit ? (count + work->unit - 1) / work->unit : 0;
    work->height = work->unit ? TRT_SHARED_BYTES / size / work->unit : 1;
    npy_intp parts = (rows + work->height - 1) / work->height;
    if (parts <= 2) {
        work->height = rows;
        trt_share_bytes(trt_columns_range, work, work->units, rows * work->unit * size);
        return 1;
    }
    char *out = work->out;
    work->out = (char *)PyMem_RawMalloc(parts * count * wide + 1);
    if (work->out == NULL)
        return 0;
    trt_share_bytes(trt_columns_range, work, parts * work->units, work->height * work->unit * size);
    trt_reduce_work second = {work->params, 0, out, work->out};
    int done = trt_reduce_columns(&second, parts, count);
    PyMem_RawFree(work->out);
    work->out = out;
    return done;
}

static void trt_middle_range(void *context, Py_ssize_t begin, Py_ssize_t end)
{
    const trt_reduce_work *work = (const trt_reduce_work *)context;
    for (Py_ssize_t i = begin; i < end; i++)
        trt_columns_here(work, work->out + i * work->count * trt_wide_size(work->params),
                         work->x + i * work->rows * work->count * trt_own_size(work), work->rows, work->count,
                         work->count);
}

/* x is [outer, rows, count]. */
static int trt_reduce_middle(trt_reduce_work *work, npy_intp outer, npy_intp rows, npy_intp count)
{
    npy_intp size = trt_own_size(work);
    if (count && rows > 2 * TRT_SHARED_BYTES / size / count) {
        trt_reduce_work one = *work;
        for (npy_intp i = 0; i < outer; i++) {
            one.out = work->out + i * count * trt_wide_size(work->params);
            one.x = work->x + i * rows * count * size;
            if (!trt_reduce_columns(&one, rows, count))
                return 0;
        }
        return 1;
    }
    work->rows = rows;
    work->count = count;
    trt_share_bytes(trt_middle_range, work, outer, rows * count * size);
    return 1;
}

#endif
