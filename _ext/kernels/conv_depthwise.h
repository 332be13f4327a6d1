/* Depthwise convolutions of images: the levels, the plan of one, its tasks.
 *
 * A task is a box of windows of one image and of some channels, or a share of all boxes when the gradient of the filter
 * is wanted. Sums do not depend on how many threads take part. Included by conv_depthwise.pyx alone.
 */
#ifndef TRT_KERNELS_CONV_DEPTHWISE_H
#define TRT_KERNELS_CONV_DEPTHWISE_H

#include <string.h>

#include "kernels/conv_scratch.h"
#include "kernels/conv_types.h"
#include "kernels/simd.h"

#define TRT_DEPTH_ROWS 8
#define TRT_DEPTH_TAPS 5
#define TRT_DEPTH_CHANNELS 64           /* of a box: whole vectors of every level */
#define TRT_DEPTH_CELLS_BYTES (96 << 10)
#define TRT_DEPTH_MAX_BYTES ((ptrdiff_t)64 << 20)
#define TRT_DEPTH_BOX_WORK (1 << 18)    /* multiplications: some 20 us */
#define TRT_DEPTH_SLICE_WORK (1 << 20)
#define TRT_DEPTH_SLICES 16

/* Steps are in bytes, of any sign, and addresses of any alignment, but for `out`. */
typedef struct {
    int is_double, level;
    ptrdiff_t batch;
    ptrdiff_t channels;                 /* of the result */
    ptrdiff_t multiplier;               /* channel k of the result sees channel k / multiplier of the image */
    ptrdiff_t filter_multiplier;        /* and entry k / this, k % this of the filter */
    trt_conv_axis axes[2];
    const char *image;
    ptrdiff_t image_steps[4];           /* batch, rows, columns, channels */
    const char *filter;                 /* the filter, or the gradient of the output when the filter's is wanted */
    ptrdiff_t filter_steps[4];          /* rows, columns, channels, multiplier; or batch, rows, columns, channels */
    void *out;                          /* aligned, channels contiguous; for a filter padded_channels of them */
    ptrdiff_t out_steps[3];             /* in elements: batch, rows, columns */
    /* the plan */
    ptrdiff_t row_boxes, column_boxes, channel_boxes, slices;
    ptrdiff_t cells_bytes, scratch_bytes, padded_channels;
    char *packed;                       /* the filter, its channels filled up with zeros: by taps, then channels */
    char *partial;                      /* of every slice */
    const int *stop;                    /* when this is not 0 any more, nobody wants the result; NULL: never */
    int failed;                         /* atomic: a thread had no memory */
} trt_depthwise;

typedef struct {
    ptrdiff_t batch, row, rows, column, columns, channel, channels;
} trt_depth_box;

/* The cells that a box sees of the image: of the first window, the first tap lies `first` from the first of them. */
typedef struct {
    const char *cells;
    ptrdiff_t size[2], first[2], steps[2];
    ptrdiff_t next_line, next_row, next_window, next_tap; /* in bytes: of windows, of taps */
} trt_depth_view;

typedef struct {
    ptrdiff_t begin, end;
} trt_range;

/* Return the numbers i below `count` for which 0 <= first + i * step < size. */
static inline trt_range trt_depth_inside(ptrdiff_t first, ptrdiff_t step, ptrdiff_t size, ptrdiff_t count)
{
    trt_range range;
    range.begin = first < 0 ? (step - 1 - first) / step : 0;
    range.end = first < size ? (size - 1 - first) / step + 1 : 0;
    range.begin = range.begin > count ? count : range.begin;
    range.end = range.end > count ? count : range.end;
    if (range.end < range.begin)
        range.end = range.begin;
    return range;
}

/* The taps of a window that lie inside, the windows whose tap does, and those all of whose taps do. */
static inline trt_range trt_depth_taps_inside(const trt_conv_axis *axis, ptrdiff_t first, ptrdiff_t size)
{
    return trt_depth_inside(first, axis->step, size, axis->taps);
}

static inline trt_range trt_depth_windows_inside(const trt_conv_axis *axis, ptrdiff_t first, ptrdiff_t size,
                                                 ptrdiff_t count)
{
    return trt_depth_inside(first, axis->stride, size, count);
}

static inline trt_range trt_depth_whole_windows(const trt_conv_axis *axis, ptrdiff_t first, ptrdiff_t size,
                                                ptrdiff_t count)
{
    return trt_depth_inside(first, axis->stride, size - (axis->taps - 1) * axis->step, count);
}

#define TRT_LOOPS "kernels/conv_depthwise_loops.h"
#include "kernels/conv_vectors.h"

typedef struct {
    ptrdiff_t lanes;
    void (*task)(const trt_depthwise *work, const trt_depth_box *box, char *scratch);
    void (*filter_task)(const trt_depthwise *work, const trt_depth_box *box, char *scratch, char *result, int add);
} trt_depth_level;

/* by level and whether double */
static const trt_depth_level trt_depth_levels[TRT_NUM_LEVELS][2] = {
    {{4, depth_task_f32_baseline, depth_filter_task_f32_baseline},
     {2, depth_task_f64_baseline, depth_filter_task_f64_baseline}},
#if TRT_HAS_LEVELS
    {{8, depth_task_f32_v3, depth_filter_task_f32_v3}, {4, depth_task_f64_v3, depth_filter_task_f64_v3}},
    {{16, depth_task_f32_v4, depth_filter_task_f32_v4}, {8, depth_task_f64_v4, depth_filter_task_f64_v4}},
#endif
};

static inline const trt_depth_level *trt_depth_level_of(const trt_depthwise *work)
{
    return &trt_depth_levels[work->level][work->is_double != 0];
}

static inline double trt_depth_multiplications(const trt_depthwise *work)
{
    return (double)work->batch * work->axes[0].count * work->axes[1].count * work->axes[0].taps * work->axes[1].taps *
           work->channels;
}

static inline double trt_depth_cells(const trt_depthwise *work, ptrdiff_t rows, ptrdiff_t columns)
{
    double height = (double)(rows - 1) * work->axes[0].stride + (double)(work->axes[0].taps - 1) * work->axes[0].step + 1;
    double width =
        (double)(columns - 1) * work->axes[1].stride + (double)(work->axes[1].taps - 1) * work->axes[1].step + 1;
    return height * width * TRT_DEPTH_CHANNELS * (work->is_double ? 8 : 4);
}

/* Fill in the plan; 0 when the smallest box would take too much memory. */
static inline int trt_depth_plan(trt_depthwise *work, int of_filter)
{
    ptrdiff_t element = work->is_double ? 8 : 4, lanes = trt_depth_level_of(work)->lanes;
    ptrdiff_t rows = work->axes[0].count, columns = work->axes[1].count;
    double taps = (double)work->axes[0].taps * work->axes[1].taps, total = trt_depth_multiplications(work);
    while (columns > TRT_DEPTH_ROWS && trt_depth_cells(work, 1, columns) > TRT_DEPTH_CELLS_BYTES)
        columns = (columns + 1) / 2;
    while (rows > 1 && (trt_depth_cells(work, rows, columns) > TRT_DEPTH_CELLS_BYTES ||
                        rows * columns * taps * TRT_DEPTH_CHANNELS > TRT_DEPTH_BOX_WORK))
        rows = (rows + 1) / 2;
    double packed = of_filter ? (double)rows * columns * TRT_DEPTH_CHANNELS * element : 0;
    if (trt_depth_cells(work, rows, columns) + packed > TRT_DEPTH_MAX_BYTES)
        return 0;
    work->row_boxes = (work->axes[0].count + rows - 1) / rows;
    work->column_boxes = (work->axes[1].count + columns - 1) / columns;
    work->channel_boxes = (work->channels + TRT_DEPTH_CHANNELS - 1) / TRT_DEPTH_CHANNELS;
    work->cells_bytes = ((ptrdiff_t)trt_depth_cells(work, rows, columns) + 63) / 64 * 64;
    work->scratch_bytes = work->cells_bytes + (ptrdiff_t)packed;
    work->padded_channels = (work->channels + lanes - 1) / lanes * lanes;
    work->slices = total > (double)TRT_DEPTH_SLICE_WORK * TRT_DEPTH_SLICES ? TRT_DEPTH_SLICES
                                                                           : (ptrdiff_t)(total / TRT_DEPTH_SLICE_WORK);
    if (work->slices > work->batch * work->row_boxes * work->column_boxes)
        work->slices = work->batch * work->row_boxes * work->column_boxes;
    if (work->slices < 1)
        work->slices = 1;
    work->failed = 0;
    return 1;
}

static inline trt_depth_box trt_depth_box_of(const trt_depthwise *work, ptrdiff_t index, ptrdiff_t block)
{
    ptrdiff_t across = index % work->column_boxes, down = index / work->column_boxes % work->row_boxes;
    trt_depth_box box;
    box.batch = index / work->column_boxes / work->row_boxes;
    box.row = work->axes[0].count * down / work->row_boxes;
    box.rows = work->axes[0].count * (down + 1) / work->row_boxes - box.row;
    box.column = work->axes[1].count * across / work->column_boxes;
    box.columns = work->axes[1].count * (across + 1) / work->column_boxes - box.column;
    box.channel = block * TRT_DEPTH_CHANNELS;
    box.channels = work->channels - box.channel < TRT_DEPTH_CHANNELS ? work->channels - box.channel : TRT_DEPTH_CHANNELS;
    return box;
}

/* Fill `packed`, which has room for it. */
static inline void trt_depth_pack(trt_depthwise *work)
{
    ptrdiff_t element = work->is_double ? 8 : 4;
    char *to = work->packed;
    memset(to, 0, (size_t)(work->axes[0].taps * work->axes[1].taps * work->padded_channels * element));
    for (ptrdiff_t y = 0; y < work->axes[0].taps; y++)
        for (ptrdiff_t x = 0; x < work->axes[1].taps; x++, to += work->padded_channels * element) {
            const char *tap = work->filter +
                (work->axes[0].first_tap + y * work->axes[0].tap_step) * work->filter_steps[0] +
                (work->axes[1].first_tap + x * work->axes[1].tap_step) * work->filter_steps[1];
            for (ptrdiff_t c = 0, k = 0; k < work->channels; c++)
                for (ptrdiff_t m = 0; m < work->filter_multiplier; m++, k++)
                    memcpy(to + k * element, tap + c * work->filter_steps[2] + m * work->filter_steps[3],
                           (size_t)element);
        }
}

static inline void trt_depth_task(void *context, ptrdiff_t index)
{
    trt_depthwise *work = context;
    trt_depth_box box = trt_depth_box_of(work, index / work->channel_boxes, index % work->channel_boxes);
    char *scratch = trt_conv_scratch(work->scratch_bytes);
    if (scratch == NULL) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    trt_depth_level_of(work)->task(work, &box, scratch);
    trt_conv_scratch_done(scratch, work->scratch_bytes);
}

static inline void trt_depth_filter_task(void *context, ptrdiff_t index)
{
    trt_depthwise *work = context;
    ptrdiff_t slice = index / work->channel_boxes, boxes = work->batch * work->row_boxes * work->column_boxes;
    ptrdiff_t begin = boxes * slice / work->slices, end = boxes * (slice + 1) / work->slices;
    ptrdiff_t size = work->axes[0].taps * work->axes[1].taps * work->padded_channels * (work->is_double ? 8 : 4);
    char *scratch = trt_conv_scratch(work->scratch_bytes);
    if (scratch == NULL) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    for (ptrdiff_t at = begin; at < end; at++) {
        if (work->stop != NULL && __atomic_load_n(work->stop, __ATOMIC_RELAXED))
            break;
        trt_depth_box box = trt_depth_box_of(work, at, index % work->channel_boxes);
        trt_depth_level_of(work)->filter_task(work, &box, scratch, work->partial + slice * size, at > begin);
    }
    trt_conv_scratch_done(scratch, work->scratch_bytes);
}

/* Add the slices of a filter's gradient in order, without what fills up the channels. */
static inline void trt_depth_add_slices(const trt_depthwise *work)
{
    ptrdiff_t taps = work->axes[0].taps * work->axes[1].taps, size = taps * work->padded_channels;
    for (ptrdiff_t tap = 0; tap < taps; tap++)
        for (ptrdiff_t k = 0; k < work->channels; k++) {
            ptrdiff_t from = tap * work->padded_channels + k, to = tap * work->channels + k;
            if (work->is_double) {
                const double *part = (const double *)work->partial + from;
                double sum = part[0];
                for (ptrdiff_t slice = 1; slice < work->slices; slice++)
                    sum += part[slice * size];
                ((double *)work->out)[to] = sum;
            } else {
                const float *part = (const float *)work->partial + from;
                float sum = part[0];
                for (ptrdiff_t slice = 1; slice < work->slices; slice++)
                    sum += part[slice * size];
                ((float *)work->out)[to] = sum;
            }
        }
}

#endif
