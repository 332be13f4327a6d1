/* Matrix products of float and double for x86-64 with AVX2 or AVX-512: the levels, the plan of a product, its tasks.
 *
 * Every task computes a tile of C and packs what it needs of A and B for itself: packing a thing twice costs less than
 * waiting for each other. The sums do not depend on how many threads take part. Included by gemm.pyx alone.
 */
#ifndef TRT_KERNELS_GEMM_H
#define TRT_KERNELS_GEMM_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gemm_types.h"
#include "kernels/simd.h"

/* Sizes: the scratch of a thread stays within the second-level cache, a panel of A within the first. */
#define TRT_INNER_BYTES 1536
#define TRT_TILE_COLUMNS_BYTES 1024
#define TRT_TILE_ROWS 252
#define TRT_ROW_STEP_BYTES (TRT_INNER_BYTES + 64)
#define TRT_MAX_PANEL_ROWS 14
#define TRT_SLICE_INNER 1024
#define TRT_MAX_SLICES 8
/* the last panel may be filled up to its width, and the panel of A written a vector beyond its end */
#define TRT_PACKED_B_BYTES (TRT_INNER_BYTES * (TRT_TILE_COLUMNS_BYTES / 4))
#define TRT_PACKED_A_BYTES (TRT_MAX_PANEL_ROWS * TRT_ROW_STEP_BYTES + 128)

typedef struct {
    void *c;
    ptrdiff_t c_step;
    ptrdiff_t first_row, first_column, first_inner;
    ptrdiff_t rows, columns, inner;
    ptrdiff_t next_column; /* where the tile begins that this thread probably does next; 0: nowhere else */
    int is_sum;            /* not one slice of it */
    const int *stop;       /* when this is not 0 any more, nobody wants the tile; NULL: never */
} trt_tile;

/* What is fetched into the second-level cache while a kernel runs: a line each turn, `step` apart, and after so many turns
 * `advance` further. */
#define TRT_FETCH_TURNS 16
typedef struct {
    const char *data;
    ptrdiff_t step, advance;
} trt_fetch;

static inline int trt_gemm_stopped(const int *stop)
{
    return stop != NULL && __atomic_load_n(stop, __ATOMIC_RELAXED);
}

#define TRT_LOOPS "kernels/gemm_loops.h"
#include "kernels/gemm_vectors.h"

/* Scratch memory of a thread, made when it first needs it and freed when it ends. */

#define TRT_SCRATCH_BYTES (TRT_PACKED_B_BYTES + TRT_PACKED_A_BYTES)

static pthread_key_t trt_scratch_key;

static inline int trt_scratch_init(void) { return pthread_key_create(&trt_scratch_key, free); }

static inline char *trt_scratch(void)
{
    void *memory = pthread_getspecific(trt_scratch_key);
    if (memory == NULL && posix_memalign(&memory, 64, TRT_SCRATCH_BYTES) == 0 &&
        pthread_setspecific(trt_scratch_key, memory) != 0) {
        free(memory);
        memory = NULL;
    }
    return memory;
}

/* The plan of a product and its tasks. */

typedef struct {
    const trt_product *work;
    int level;
    ptrdiff_t row_tiles, column_tiles, slices; /* of rows, columns and the inner dimension */
    ptrdiff_t columns_per_tile;
    ptrdiff_t workers;                         /* threads that probably take part */
    int turned;                                /* C is a column that is computed as a row */
    const int *stop;                           /* of the step that this is a part of, or NULL */
    char *partial;                             /* the sums of all slices but the first, each as large as C */
    int failed;                                /* atomic: a thread had no memory */
} trt_plan;

static inline void trt_plan_product(trt_plan *plan)
{
    const trt_product *work = plan->work;
    const ptrdiff_t element = work->is_double ? 8 : 4;
    const ptrdiff_t panel_rows = plan->level == TRT_V4 ? 14 : 6, panel = (plan->level == TRT_V4 ? 128 : 64) / element;
    const ptrdiff_t least_rows = 2 * panel_rows, least_columns = 2 * panel;
    /* What has to be copied for each tile tells which way they should be long: B for each tile of rows, unless it lies by
     * rows, A for each tile of columns, unless it does. */
    const int keep_rows = work->b.column_step != element, keep_columns = work->a.column_step != element;
    ptrdiff_t columns = TRT_TILE_COLUMNS_BYTES / element, rows = TRT_TILE_ROWS;
    ptrdiff_t tiles;
    if (rows > work->rows)
        rows = work->rows;
    if (columns > work->columns)
        columns = work->columns;
    /* small enough that there are some for each thread and that none takes long, large enough to be worth packing */
    for (;;) {
        plan->row_tiles = (work->rows + rows - 1) / rows;
        plan->column_tiles = (work->columns + columns - 1) / columns;
        tiles = plan->row_tiles * plan->column_tiles;
        if (tiles >= 8 || work->alone)
            break;
        int by_columns = columns > least_columns, by_rows = rows > least_rows;
        if (by_columns && by_rows)
            by_columns = keep_columns == keep_rows ? rows <= 2 * columns : keep_rows;
        if (by_columns)
            columns = (columns / 2 + panel - 1) / panel * panel;
        else if (by_rows)
            rows = (rows / 2 + panel_rows - 1) / panel_rows * panel_rows;
        else
            break;
    }
    /* tiles of equal width, in whole panels */
    columns = (work->columns + plan->column_tiles - 1) / plan->column_tiles;
    plan->columns_per_tile = (columns + panel - 1) / panel * panel;
    plan->column_tiles = (work->columns + plan->columns_per_tile - 1) / plan->columns_per_tile;
    plan->slices = 1;
    if (tiles < 8 && work->inner >= 2 * TRT_SLICE_INNER) {
        plan->slices = work->inner / TRT_SLICE_INNER;
        if (plan->slices > TRT_MAX_SLICES)
            plan->slices = TRT_MAX_SLICES;
    }
}

static inline void trt_run_tile(void *context, ptrdiff_t index)
{
    trt_plan *plan = context;
    const trt_product *work = plan->work;
    ptrdiff_t element = work->is_double ? 8 : 4;
    ptrdiff_t tiles = plan->row_tiles * plan->column_tiles;
    ptrdiff_t slice = index / tiles, row_tile = index % tiles / plan->column_tiles;
    ptrdiff_t column_tile = index % plan->column_tiles;
    trt_tile at;
    char *scratch = trt_scratch();
    char *c;
    if (scratch == NULL) {
        __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    at.first_row = work->rows * row_tile / plan->row_tiles;
    at.rows = work->rows * (row_tile + 1) / plan->row_tiles - at.first_row;
    at.first_column = column_tile * plan->columns_per_tile;
    at.columns = work->columns - at.first_column < plan->columns_per_tile ? work->columns - at.first_column
                                                                           : plan->columns_per_tile;
    at.next_column =
        column_tile + plan->workers < plan->column_tiles ? at.first_column + plan->workers * plan->columns_per_tile : 0;
    at.is_sum = plan->slices == 1;
    at.stop = plan->stop;
    at.first_inner = work->inner * slice / plan->slices;
    at.inner = work->inner * (slice + 1) / plan->slices - at.first_inner;
    if (slice == 0) {
        c = work->c;
        at.c_step = work->c_step;
    } else {
        c = plan->partial + (slice - 1) * work->rows * work->columns * element;
        at.c_step = work->columns;
    }
    at.c = c + (at.first_row * at.c_step + at.first_column) * element;
#if TRT_HAS_LEVELS
    if (plan->level == TRT_V4) {
        if (work->is_double)
            tile_task_f64_v4(work, &at, scratch);
        else
            tile_task_f32_v4(work, &at, scratch);
    } else {
        if (work->is_double)
            tile_task_f64_v3(work, &at, scratch);
        else
            tile_task_f32_v3(work, &at, scratch);
    }
#endif
}

/* Whether a product is one row times a matrix that lies by rows or by columns. */
static inline int trt_is_row_product(const trt_product *work)
{
    ptrdiff_t element = work->is_double ? 8 : 4;
    return work->rows == 1 && (work->b.column_step == element || work->b.row_step == element);
}

/* See gemm.pxd. */
static inline int trt_can_add(const trt_product *work)
{
    return work->rows > 1 && work->columns > 1 && work->inner > 0 &&
           work->inner <= TRT_INNER_BYTES / (work->is_double ? 8 : 4);
}

/* A product of one column is one of one row, the other way round; 1: it was one. */
static inline int trt_turn_column(trt_product *work)
{
    const trt_product from = *work;
    if (work->columns != 1 || work->c_step != 1)
        return 0;
    work->rows = 1;
    work->columns = work->c_step = from.rows;
    work->a.row_step = from.b.column_step;
    work->a.column_step = from.b.row_step;
    work->a.data = from.b.data;
    work->b.row_step = from.a.column_step;
    work->b.column_step = from.a.row_step;
    work->b.data = from.a.data;
    return 1;
}

static inline void trt_finish_row(const trt_plan *plan, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_product *work = plan->work;
    if (work->finish == NULL)
        return;
    if (plan->turned)
        work->finish->run(work->finish, work->finish_row + begin, end - begin, 0, 1);
    else
        work->finish->run(work->finish, work->finish_row, 1, begin, end - begin);
}

/* Columns [begin, end) of such a product. */
static inline void trt_run_row(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_plan *plan = context;
#if TRT_HAS_LEVELS
    if (plan->level == TRT_V4) {
        if (plan->work->is_double)
            row_task_f64_v4(plan->work, begin, end - begin, plan->stop);
        else
            row_task_f32_v4(plan->work, begin, end - begin, plan->stop);
    } else {
        if (plan->work->is_double)
            row_task_f64_v3(plan->work, begin, end - begin, plan->stop);
        else
            row_task_f32_v3(plan->work, begin, end - begin, plan->stop);
    }
#endif
    trt_finish_row(plan, begin, end);
}

/* Add the partial sums of rows [begin, end), slice by slice in order. */
static inline void trt_add_slices(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_plan *plan = context;
    const trt_product *work = plan->work;
    for (ptrdiff_t slice = 0; slice < plan->slices - 1; slice++)
        for (ptrdiff_t i = begin; i < end; i++) {
            ptrdiff_t from = (slice * work->rows + i) * work->columns;
            if (work->is_double) {
                double *c = (double *)work->c + i * work->c_step;
                const double *part = (const double *)plan->partial + from;
                for (ptrdiff_t j = 0; j < work->columns; j++)
                    c[j] += part[j];
            } else {
                float *c = (float *)work->c + i * work->c_step;
                const float *part = (const float *)plan->partial + from;
                for (ptrdiff_t j = 0; j < work->columns; j++)
                    c[j] += part[j];
            }
        }
    if (work->finish != NULL)
        work->finish->run(work->finish, work->finish_row + begin, end - begin, 0, work->columns);
}

#endif
