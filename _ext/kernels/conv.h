/* Convolutions of images: the levels, the plan of one, its tasks.
 *
 * A task is a box of windows of one image, or of some of them one after the other when the gradient of the filter is
 * wanted. Sums do not depend on how many threads take part. Included by convolution.pyx alone.
 */
#ifndef TRT_KERNELS_CONV_H
#define TRT_KERNELS_CONV_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

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
#define TRT_KEPT_SCRATCH_BYTES (1 << 20)
#define TRT_BOX_WORK (4 << 20)          /* multiplications: some 80 us */
#define TRT_BOX_WINDOWS 256             /* whose gradients are packed at once */
#define TRT_SLICE_WORK (16 << 20)
#define TRT_MAX_CONV_SLICES 16
#define TRT_PARTIAL_BYTES (16 << 20)

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
    int failed;                         /* atomic: a thread had no memory */
} trt_conv_plan;

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

/* float, then double, for each level */
#define TRT_REAL float
#define TRT_MEM_REAL trt_mem_f32

typedef float trt_four_f32 __attribute__((vector_size(16)));
typedef float trt_four_mem_f32 __attribute__((vector_size(16), aligned(4), may_alias));
#define TRT_TARGET
#define TRT_MAX_ROWS 6
#define TRT_LANES 4
#define TRT_VECTOR trt_four_f32
#define TRT_ZERO() ((trt_four_f32){0, 0, 0, 0})
#define TRT_LOAD(p) ((trt_four_f32)*(const trt_four_mem_f32 *)(p))
#define TRT_STORE(p, v) (*(trt_four_mem_f32 *)(p) = (v))
#define TRT_SPLAT(x) ({ const float trt_x = (x); (trt_four_f32){trt_x, trt_x, trt_x, trt_x}; })
#define TRT_FMA(a, b, c) ((a) * (b) + (c))
#define TRT_ADD(a, b) ((a) + (b))
#define TRT_SUM(v) ((v)[0] + (v)[2] + ((v)[1] + (v)[3]))
#define TRT_TYPED(name) name##_f32_baseline
#include "kernels/conv_loops.h"
#include "kernels/conv_undef.h"

#if TRT_HAS_LEVELS
#include <immintrin.h>

#define TRT_LOOPS_TARGET_V3 __attribute__((target("arch=x86-64-v3")))
#define TRT_LOOPS_TARGET_V4 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))

TRT_LOOPS_TARGET_V3 static inline float trt_sum_f32_v3(__m256 v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

TRT_LOOPS_TARGET_V3 static inline double trt_sum_f64_v3(__m256d v)
{
    __m128d two = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

#define TRT_TARGET TRT_LOOPS_TARGET_V3
#define TRT_MAX_ROWS 6
#define TRT_LANES 8
#define TRT_VECTOR __m256
#define TRT_ZERO _mm256_setzero_ps
#define TRT_LOAD _mm256_loadu_ps
#define TRT_STORE _mm256_storeu_ps
#define TRT_SPLAT _mm256_set1_ps
#define TRT_FMA _mm256_fmadd_ps
#define TRT_ADD _mm256_add_ps
#define TRT_SUM trt_sum_f32_v3
#define TRT_TYPED(name) name##_f32_v3
#include "kernels/conv_loops.h"
#include "kernels/conv_undef.h"

#define TRT_TARGET TRT_LOOPS_TARGET_V4
#define TRT_MAX_ROWS 14
#define TRT_LANES 16
#define TRT_VECTOR __m512
#define TRT_ZERO _mm512_setzero_ps
#define TRT_LOAD _mm512_loadu_ps
#define TRT_STORE _mm512_storeu_ps
#define TRT_SPLAT _mm512_set1_ps
#define TRT_FMA _mm512_fmadd_ps
#define TRT_ADD _mm512_add_ps
#define TRT_SUM _mm512_reduce_add_ps
#define TRT_TYPED(name) name##_f32_v4
#include "kernels/conv_loops.h"
#include "kernels/conv_undef.h"
#endif

#undef TRT_REAL
#undef TRT_MEM_REAL
#define TRT_REAL double
#define TRT_MEM_REAL trt_mem_f64

typedef double trt_two_f64 __attribute__((vector_size(16)));
typedef double trt_two_mem_f64 __attribute__((vector_size(16), aligned(8), may_alias));
#define TRT_TARGET
#define TRT_MAX_ROWS 6
#define TRT_LANES 2
#define TRT_VECTOR trt_two_f64
#define TRT_ZERO() ((trt_two_f64){0, 0})
#define TRT_LOAD(p) ((trt_two_f64)*(const trt_two_mem_f64 *)(p))
#define TRT_STORE(p, v) (*(trt_two_mem_f64 *)(p) = (v))
#define TRT_SPLAT(x) ({ const double trt_x = (x); (trt_two_f64){trt_x, trt_x}; })
#define TRT_FMA(a, b, c) ((a) * (b) + (c))
#define TRT_ADD(a, b) ((a) + (b))
#define TRT_SUM(v) ((v)[0] + (v)[1])
#define TRT_TYPED(name) name##_f64_baseline
#include "kernels/conv_loops.h"
#include "kernels/conv_undef.h"

#if TRT_HAS_LEVELS
#define TRT_TARGET TRT_LOOPS_TARGET_V3
#define TRT_MAX_ROWS 6
#define TRT_LANES 4
#define TRT_VECTOR __m256d
#define TRT_ZERO _mm256_setzero_pd
#define TRT_LOAD _mm256_loadu_pd
#define TRT_STORE _mm256_storeu_pd
#define TRT_SPLAT _mm256_set1_pd
#define TRT_FMA _mm256_fmadd_pd
#define TRT_ADD _mm256_add_pd
#define TRT_SUM trt_sum_f64_v3
#define TRT_TYPED(name) name##_f64_v3
#include "kernels/conv_loops.h"
#include "kernels/conv_undef.h"

#define TRT_TARGET TRT_LOOPS_TARGET_V4
#define TRT_MAX_ROWS 14
#define TRT_LANES 8
#define TRT_VECTOR __m512d
#define TRT_ZERO _mm512_setzero_pd
#define TRT_LOAD _mm512_loadu_pd
#define TRT_STORE _mm512_storeu_pd
#define TRT_SPLAT _mm512_set1_pd
#define TRT_FMA _mm512_fmadd_pd
#define TRT_ADD _mm512_add_pd
#define TRT_SUM _mm512_reduce_add_pd
#define TRT_TYPED(name) name##_f64_v4
#include "kernels/conv_loops.h"
#include "kernels/conv_undef.h"
#endif

#undef TRT_REAL
#undef TRT_MEM_REAL

typedef void (*trt_conv_task_fn)(const trt_conv_plan *plan, ptrdiff_t index, char *scratch);
typedef void (*trt_conv_pack_fn)(const trt_conv_plan *plan, ptrdiff_t index);

typedef struct {
    ptrdiff_t lanes, max_rows;
    trt_conv_pack_fn pack_filter;
    trt_conv_task_fn window_task, filter_task;
} trt_conv_level;

#define TRT_CONV_LEVEL(lanes, max_rows, suffix) \
    {lanes, max_rows, pack_filter_##suffix, window_task_##suffix, filter_task_##suffix}
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

/* Memory that vectors do not straddle lines of; NULL when there is none. */
static inline char *trt_conv_memory(ptrdiff_t bytes)
{
    void *memory;
    return posix_memalign(&memory, 64, bytes > 0 ? (size_t)bytes : 64) == 0 ? memory : NULL;
}

/* Scratch memory of a thread, made when it first needs it and freed when it ends. */

static pthread_key_t trt_conv_scratch_key;

static inline int trt_conv_scratch_init(void) { return pthread_key_create(&trt_conv_scratch_key, free); }

static inline char *trt_conv_scratch(ptrdiff_t bytes)
{
    void *memory;
    if (bytes > TRT_KEPT_SCRATCH_BYTES)
        return trt_conv_memory(bytes);
    memory = pthread_getspecific(trt_conv_scratch_key);
    if (memory == NULL && (memory = trt_conv_memory(TRT_KEPT_SCRATCH_BYTES)) != NULL &&
        pthread_setspecific(trt_conv_scratch_key, memory) != 0) {
        free(memory);
        memory = NULL;
    }
    return memory;
}

static inline void trt_conv_scratch_done(char *memory, ptrdiff_t bytes)
{
    if (bytes > TRT_KEPT_SCRATCH_BYTES)
        free(memory);
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
    plan->slices = total / TRT_SLICE_WORK > TRT_MAX_CONV_SLICES ? TRT_MAX_CONV_SLICES
                                                                : (ptrdiff_t)(total / TRT_SLICE_WORK);
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

#endif
