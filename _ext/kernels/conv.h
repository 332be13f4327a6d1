/* Convolutions of images: the levels, the plan of one, its tasks.
 *
 * A task is a box of windows of one image, or of some of them one after the other when the gradient of the filter is
 * wanted. Sums do not depend on how many threads take part. Included by convolution.pyx alone.
 */
#ifndef TRT_KERNELS_CONV_H
#define TRT_KERNELS_CONV_H

#include <string.h>

#include "kernels/conv_scratch.h"
#include "kernels/conv_types.h"
#include "kernels/simd.h"

/* Sizes: a block of a packed panel of the filter stays within the first-level cache, the cells of a box within the
 * second. */
#define TRT_BLOCK_INNER 256
#define TRT_BLOCK_RUNS 64
#define TRT_NARROW_ROWS 8               /* half of them when there is more than one channel */
#define TRT_MAX_NARROW 3
#define TRT_CELLS_BYTES (192 << 10)
#define TRT_MAX_CELLS_BYTES ((ptrdiff_t)64 << 20)
#define TRT_BOX_WORK (4 << 20)          /* multiplications: some 80 us */
#define TRT_BOX_WINDOWS 256             /* whose gradients are packed at once */
#define TRT_SLICE_WORK (16 << 20)
#define TRT_SMALL_SLICE_WORK (4 << 20)  /* where the partial sums of all slices are next to nothing */
#define TRT_SMALL_FILTER (1 << 13)      /* elements */
#define TRT_MAX_CONV_SLICES 16
#define TRT_PARTIAL_BYTES (16 << 20)
#define TRT_WINOGRAD_BYTES (420 << 10)  /* of a box of tiles */
#define TRT_WINOGRAD_MAX_FILTER (1 << 15) /* channels times depth */
#define TRT_WINOGRAD_MIN_WORK (1 << 22) /* multiplications of the plain sum */

typedef struct {
    ptrdiff_t offset, length;           /* in bytes, in elements */
} trt_run;

/* Cells that lie one after the other: of channels, and of columns where taps are neighbours. */
typedef struct {
    ptrdiff_t row, column, channel, length;   /* the tap, the channel, elements */
} trt_cells;

/* Windows of one image, and the taps along the rows that are wanted of them. */
typedef struct {
    ptrdiff_t batch, row, rows, column, columns, first_tap, taps;
} trt_box;

typedef struct {
    const trt_conv *work;
    int level;
    int dense;                          /* cells of a row lie one after the other: no copy where padding is not seen */
    int narrow;                         /* the result has few channels, the operand many */
    ptrdiff_t inner;                    /* taps times channels */
    ptrdiff_t panels;                   /* of columns of the result */
    ptrdiff_t row_boxes, column_boxes;
    ptrdiff_t tap_parts, slices;        /* of the gradient of a filter */
    ptrdiff_t cells_bytes, scratch_bytes;
    ptrdiff_t packed_group;             /* elements */
    ptrdiff_t out_size;
    trt_cells *runs;
    ptrdiff_t num_runs;
    char *packed;
    char *partial;
    ptrdiff_t tile_outputs[2], tiles[2]; /* of Winograd's algorithm: outputs of a tile, tiles of an image */
    ptrdiff_t all_tiles, tile_boxes;
    int failed;                         /* atomic: a thread had no memory */
    int not_finite;                     /* atomic: a sum by Winograd's algorithm was not */
} trt_conv_plan;

static inline void trt_conv_not_finite(const trt_conv_plan *plan)
{
    __atomic_store_n(&((trt_conv_plan *)plan)->not_finite, 1, __ATOMIC_RELAXED);
}

static inline int trt_conv_stopped(const trt_conv *work)
{
    return work->stop != NULL && __atomic_load_n(work->stop, __ATOMIC_RELAXED);
}

/* Which of all windows one is, for a result that is dense. */
static inline ptrdiff_t trt_conv_place(const trt_conv *work, ptrdiff_t batch, ptrdiff_t row, ptrdiff_t column)
{
    return (batch * work->axes[0].count + row) * work->axes[1].count + column;
}

static inline trt_box trt_box_of(const trt_conv_plan *plan, ptrdiff_t index)
{
    const trt_conv_axis *axes = plan->work->axes;
    ptrdiff_t across = index % plan->column_boxes, down = index / plan->column_boxes % plan->row_boxes;
    trt_box box;
    box.batch = index / plan->column_boxes / plan->row_boxes;
    box.row = axes[0].count * down / plan->row_boxes;
    box.rows = axes[0].count * (down + 1) / plan->row_boxes - box.row;
    box.column = axes[1].count * across / plan->column_boxes;
    box.columns = axes[1].count * (across + 1) / plan->column_boxes - box.column;
    box.first_tap = box.taps = 0;
    return box;
}

#define TRT_LOOPS "kernels/conv_loops.h"
#include "kernels/conv_vectors.h"

typedef void (*trt_conv_task_fn)(const trt_conv_plan *plan, ptrdiff_t index, char *scratch);
typedef void (*trt_conv_pack_fn)(const trt_conv_plan *plan, ptrdiff_t index);

typedef struct {
    ptrdiff_t lanes, max_rows;
    trt_conv_pack_fn pack_filter;
    trt_conv_task_fn window_task, filter_task;
    trt_conv_pack_fn pack_points;
    trt_conv_task_fn winograd_task, winograd_filter_task;
    void (*winograd_add_slices)(const trt_conv_plan *plan, ptrdiff_t begin, ptrdiff_t end);
} trt_conv_level;

#define TRT_CONV_LEVEL(lanes, max_rows, suffix) \
    {lanes, max_rows, pack_filter_##suffix, window_task_##suffix, filter_task_##suffix, pack_points_##suffix, \
     winograd_task_##suffix, winograd_filter_task_##suffix, winograd_add_slices_##suffix}
/* by level and whether double */
static const trt_conv_level trt_conv_levels[TRT_NUM_LEVELS][2] = {
    {TRT_CONV_LEVEL(4, 6, f32_baseline), TRT_CONV_LEVEL(2, 6, f64_baseline)},
#if TRT_HAS_LEVELS
    {TRT_CONV_LEVEL(8, 6, f32_v3), TRT_CONV_LEVEL(4, 6, f64_v3)},
    {TRT_CONV_LEVEL(16, 14, f32_v4), TRT_CONV_LEVEL(8, 14, f64_v4)},
#endif
};

static inline const trt_conv_level *trt_conv_level_of(const trt_conv_plan *plan)
{
    return &trt_conv_levels[plan->level][plan->work->is_double != 0];
}

/* The plan */

static inline double trt_conv_multiplications(const trt_conv *work)
{
    return (double)work->batch * work->groups * work->axes[0].count * work->axes[1].count * work->axes[0].taps *
           work->axes[1].taps * work->channels * work->depth;
}

static inline ptrdiff_t trt_conv_extent(const trt_conv_axis *axis, ptrdiff_t windows)
{
    return (windows - 1) * axis->stride + (axis->taps - 1) * axis->step + 1;
}

static inline double trt_conv_cells(const trt_conv *work, ptrdiff_t rows, ptrdiff_t columns)
{
    return (double)trt_conv_extent(&work->axes[0], rows) * trt_conv_extent(&work->axes[1], columns) * work->channels *
           (work->is_double ? 8 : 4);
}

/* Fill in the sizes of the boxes; 0 when the cells of the smallest one would take too much memory. */
static inline int trt_conv_plan_boxes(trt_conv_plan *plan, int of_filter)
{
    const trt_conv *work = plan->work;
    const trt_conv_level *level = trt_conv_level_of(plan);
    ptrdiff_t element = work->is_double ? 8 : 4;
    ptrdiff_t rows = work->axes[0].count, columns = work->axes[1].count;
    double each = (double)plan->inner * work->depth;
    while (columns > level->max_rows && (trt_conv_cells(work, 1, columns) > TRT_CELLS_BYTES ||
                                         (of_filter && columns > TRT_BOX_WINDOWS)))
        columns = (columns + 1) / 2;
    while (rows > 1 && (trt_conv_cells(work, rows, columns) > TRT_CELLS_BYTES ||
                        (of_filter ? rows * columns > TRT_BOX_WINDOWS : rows * columns * each > TRT_BOX_WORK)))
        rows = (rows + 1) / 2;
    if (trt_conv_cells(work, rows, columns) > TRT_MAX_CELLS_BYTES)
        return 0;
    plan->row_boxes = (work->axes[0].count + rows - 1) / rows;
    plan->column_boxes = (work->axes[1].count + columns - 1) / columns;
    plan->cells_bytes = ((ptrdiff_t)trt_conv_cells(work, rows, columns) + 127) / 64 * 64;
    plan->scratch_bytes = plan->cells_bytes;
    plan->panels = (work->depth + 2 * level->lanes - 1) / (2 * level->lanes);
    plan->dense = work->groups == 1 && work->image_steps[3] == element &&
                  work->image_steps[2] == work->channels * element && work->image_steps[1] % element == 0;
    if (of_filter)
        plan->scratch_bytes += rows * columns * 2 * level->lanes * element;
    return 1;
}

/* Fill in the runs; 0 when there is no memory. */
static inline int trt_conv_plan_runs(trt_conv_plan *plan)
{
    const trt_conv *work = plan->work;
    int joined = work->axes[1].step == 1 || work->axes[1].taps == 1;
    ptrdiff_t whole = work->channels * (joined ? work->axes[1].taps : 1);
    ptrdiff_t columns = joined ? 1 : work->axes[1].taps;
    ptrdiff_t parts = (whole + TRT_BLOCK_INNER - 1) / TRT_BLOCK_INNER;
    trt_cells *run;
    plan->num_runs = work->axes[0].taps * columns * parts;
    plan->runs = run = malloc((size_t)plan->num_runs * sizeof(trt_cells));
    if (run == NULL)
        return 0;
    for (ptrdiff_t row = 0; row < work->axes[0].taps; row++)
        for (ptrdiff_t column = 0; column < columns; column++)
            for (ptrdiff_t part = 0; part < parts; part++, run++) {
                run->row = row;
                run->column = column;
                run->channel = whole * part / parts;
                run->length = whole * (part + 1) / parts - run->channel;
            }
    return 1;
}

static inline ptrdiff_t trt_conv_packed_size(trt_conv_plan *plan)
{
    const trt_conv *work = plan->work;
    ptrdiff_t lanes = trt_conv_level_of(plan)->lanes;
    plan->packed_group = (work->depth + lanes - 1) / lanes * lanes * plan->inner;
    plan->narrow = work->depth <= TRT_MAX_NARROW && work->channels >= 2 * lanes;
    if (plan->narrow) {
        plan->packed_group = 0;
        for (ptrdiff_t r = 0; r < plan->num_runs; r++)
            plan->packed_group += (plan->runs[r].length + lanes - 1) / lanes * lanes * work->depth;
    }
    return plan->packed_group * work->groups;
}

static inline void trt_conv_plan_slices(trt_conv_plan *plan)
{
    const trt_conv *work = plan->work;
    double total = trt_conv_multiplications(work);
    ptrdiff_t element = work->is_double ? 8 : 4;
    ptrdiff_t boxes = work->batch * plan->row_boxes * plan->column_boxes;
    plan->out_size = plan->inner * work->depth * work->groups;
    ptrdiff_t each = plan->out_size <= TRT_SMALL_FILTER ? TRT_SMALL_SLICE_WORK : TRT_SLICE_WORK;
    plan->slices = total / each > TRT_MAX_CONV_SLICES ? TRT_MAX_CONV_SLICES : (ptrdiff_t)(total / each);
    if (plan->slices > 1 + TRT_PARTIAL_BYTES / (plan->out_size * element))
        plan->slices = 1 + TRT_PARTIAL_BYTES / (plan->out_size * element);
    if (plan->slices > boxes)
        plan->slices = boxes;
    if (plan->slices < 1)
        plan->slices = 1;
    plan->tap_parts = total / plan->slices / work->groups > TRT_SLICE_WORK / 2 ? work->axes[0].taps : 1;
}

static inline void trt_conv_pack_task(void *context, ptrdiff_t index)
{
    trt_conv_plan *plan = context;
    trt_conv_level_of(plan)->pack_filter(plan, index);
}

static inline void trt_conv_run(trt_conv_plan *plan, trt_conv_task_fn run, ptrdiff_t index)
{
    char *scratch = trt_conv_scratch(plan->scratch_bytes);
    if (scratch == NULL) {
        __atomic_store_n(&plan->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    run(plan, index, scratch);
    trt_conv_scratch_done(scratch, plan->scratch_bytes);
}

static inline void trt_conv_window_task(void *context, ptrdiff_t index)
{
    trt_conv_plan *plan = context;
    trt_conv_run(plan, trt_conv_level_of(plan)->window_task, index);
}

static inline void trt_conv_filter_task(void *context, ptrdiff_t index)
{
    trt_conv_plan *plan = context;
    trt_conv_run(plan, trt_conv_level_of(plan)->filter_task, index);
}

/* Add the partial sums of entries [begin, end), slice by slice in order. */
static inline void trt_conv_add_slices(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_conv_plan *plan = context;
    for (ptrdiff_t slice = 0; slice < plan->slices - 1; slice++) {
        if (plan->work->is_double) {
            double *out = plan->work->out;
            const double *part = (const double *)plan->partial + slice * plan->out_size;
            for (ptrdiff_t i = begin; i < end; i++)
                out[i] += part[i];
        } else {
            float *out = plan->work->out;
            const float *part = (const float *)plan->partial + slice * plan->out_size;
            for (ptrdiff_t i = begin; i < end; i++)
                out[i] += part[i];
        }
    }
}

/* Winograd's algorithm */

/* Plan it; 0 where the plain sum is as fast, or where operands do not lie as it wants them. */
static inline int trt_conv_plan_winograd(trt_conv_plan *plan, int of_filter)
{
    const trt_conv *work = plan->work;
    ptrdiff_t element = work->is_double ? 8 : 4, lanes = trt_conv_level_of(plan)->lanes;
    ptrdiff_t other = work->channels > work->depth ? work->channels : work->depth, most;
    for (int i = 0; i < 2; i++) {
        const trt_conv_axis *axis = &work->axes[i];
        if (axis->stride != 1 || axis->step != 1 || (axis->taps != 3 && axis->taps != 5))
            return 0;
        plan->tile_outputs[i] = 7 - axis->taps;
        plan->tiles[i] = (axis->count + plan->tile_outputs[i] - 1) / plan->tile_outputs[i];
    }
    if (work->groups != 1 || work->channels % lanes || work->depth % lanes || work->image_steps[3] != element ||
        (of_filter && work->filter_steps[3] != element))
        return 0;
    plan->not_finite = 0;
    plan->all_tiles = work->batch * plan->tiles[0] * plan->tiles[1];
    if (work->channels * work->depth > TRT_WINOGRAD_MAX_FILTER ||
        trt_conv_multiplications(work) < TRT_WINOGRAD_MIN_WORK ||
        1.5 * 36 * plan->tiles[0] * plan->tiles[1] >
            (double)work->axes[0].count * work->axes[1].count * work->axes[0].taps * work->axes[1].taps)
        return 0;
    most = TRT_WINOGRAD_BYTES / (36 * element * (work->channels + work->depth));
    if (most > plan->all_tiles)
        most = plan->all_tiles;
    if (most > trt_conv_level_of(plan)->max_rows)
        most -= most % trt_conv_level_of(plan)->max_rows;
    if (most < 1)
        most = 1;
    plan->tile_boxes = (plan->all_tiles + most - 1) / most;
    plan->scratch_bytes = (other + most * (36 * (work->channels + work->depth) + 2 * lanes)) * element;
    plan->panels = (work->depth + 2 * lanes - 1) / (2 * lanes);
    if (of_filter) {
        ptrdiff_t size = 36 * work->channels * work->depth * element;
        plan->slices = TRT_PARTIAL_BYTES / size < TRT_MAX_CONV_SLICES ? TRT_PARTIAL_BYTES / size : TRT_MAX_CONV_SLICES;
        if (plan->slices > plan->tile_boxes)
            plan->slices = plan->tile_boxes;
        if (plan->slices < 1)
            plan->slices = 1;
    }
    return 1;
}

static inline void trt_conv_pack_points(void *context, ptrdiff_t index)
{
    trt_conv_plan *plan = context;
    trt_conv_level_of(plan)->pack_points(plan, index);
}

static inline void trt_conv_winograd_task(void *context, ptrdiff_t index)
{
    trt_conv_plan *plan = context;
    trt_conv_run(plan, trt_conv_level_of(plan)->winograd_task, index);
}

static inline void trt_conv_winograd_filter_task(void *context, ptrdiff_t index)
{
    trt_conv_plan *plan = context;
    trt_conv_run(plan, trt_conv_level_of(plan)->winograd_filter_task, index);
}

static inline void trt_conv_winograd_add_slices(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    trt_conv_plan *plan = context;
    trt_conv_level_of(plan)->winograd_add_slices(plan, begin, end);
}

#endif
