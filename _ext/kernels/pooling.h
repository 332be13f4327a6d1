/* Maximum and average poolings of images and their gradients: levels and tasks. Included by pooling.pyx alone. */
#ifndef TRT_KERNELS_POOLING_H
#define TRT_KERNELS_POOLING_H

#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/simd.h"

#define TRT_POOL_CHANNELS 256         /* looked at together where positions are noted down */
#define TRT_POOL_TASK_BYTES (1 << 17) /* read by a task: some 20 us */

/* Images have their channels last, one element after the other, at any address. */
typedef struct {
    int is_double, is_average;
    ptrdiff_t batch, channels;
    ptrdiff_t size[2], count[2], stride[2], origin[2], window[2];
    const char *image;      /* NULL for the gradient of an average */
    const char *gradient;   /* of the output; NULL: compute the output */
    char *out;              /* the output, or the gradient of the image */
    int level;
    ptrdiff_t parts;        /* into which an image is split: rows of the output, or channels of a gradient */
    int failed;             /* atomic: a thread had no memory */
} trt_pooling;

/* The cells of a window that lie in the image, row by row, and their places in the gradient of the image. */
typedef struct {
    ptrdiff_t count;
    const char **cells;
    char **targets;
} trt_window;

#define TRT_REAL float
#define TRT_MEM_REAL trt_mem_f32
#define TRT_INDEX int32_t
#define TRT_LOWEST (-FLT_MAX)
#define TRT_TYPED(name) TRT_LEVEL(name##_f32)
#define TRT_LOOPS "kernels/pooling_loops.h"
#include "kernels/every_level.h"
#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_INDEX
#undef TRT_LOWEST
#undef TRT_TYPED

#define TRT_REAL double
#define TRT_MEM_REAL trt_mem_f64
#define TRT_INDEX int64_t
#define TRT_LOWEST (-DBL_MAX)
#define TRT_TYPED(name) TRT_LEVEL(name##_f64)
#define TRT_LOOPS "kernels/pooling_loops.h"
#include "kernels/every_level.h"
#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_INDEX
#undef TRT_LOWEST
#undef TRT_TYPED

typedef void (*trt_pool_rows_fn)(const trt_pooling *work, ptrdiff_t batch, ptrdiff_t begin, ptrdiff_t end,
                                 ptrdiff_t first_channel, ptrdiff_t channels, trt_window *window);

static inline trt_pool_rows_fn trt_pool_rows(int level, int is_double)
{
    if (is_double)
        TRT_OF_LEVEL(level, pool_rows_f64)
    TRT_OF_LEVEL(level, pool_rows_f32)
}

/* Windows that overlap add to the same cells: so a gradient is not split along its rows, but along its channels. */
static inline void trt_pool_plan(trt_pooling *work)
{
    ptrdiff_t bytes = work->size[0] * work->size[1] * work->channels * (work->is_double ? 8 : 4);
    work->failed = 0;
    work->parts = bytes / TRT_POOL_TASK_BYTES + 1;
    if (work->gradient != NULL && work->parts > (work->channels + 31) / 32)
        work->parts = (work->channels + 31) / 32;
    else if (work->gradient == NULL && work->parts > work->count[0])
        work->parts = work->count[0];
}

static inline void trt_pool_task(void *context, ptrdiff_t index)
{
    trt_pooling *work = context;
    ptrdiff_t batch = index / work->parts, part = index % work->parts;
    ptrdiff_t from = 0, channels = work->channels, begin = 0, end = work->count[0];
    ptrdiff_t most = (work->window[0] < work->size[0] ? work->window[0] : work->size[0]) *
                     (work->window[1] < work->size[1] ? work->window[1] : work->size[1]);
    const char *few_cells[64];
    char *few_targets[64];
    trt_window window = {0, few_cells, few_targets};
    char *memory = NULL;
    if (most > 64) {
        memory = malloc((size_t)most * 2 * sizeof(char *));
        if (memory == NULL) {
            __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
            return;
        }
        window.cells = (const char **)memory;
        window.targets = (char **)memory + most;
    }
    if (work->gradient == NULL) {
        begin = work->count[0] * part / work->parts;
        end = work->count[0] * (part + 1) / work->parts;
    } else {
        ptrdiff_t element = work->is_double ? 8 : 4, cells = work->size[0] * work->size[1];
        ptrdiff_t blocks = (work->channels + 31) / 32;
        from = blocks * part / work->parts * 32;
        channels = blocks * (part + 1) / work->parts * 32;
        channels = (channels < work->channels ? channels : work->channels) - from;
        char *out = work->out + (batch * cells * work->channels + from) * element;
        if (channels == work->channels)
            memset(out, 0, (size_t)(cells * channels * element));
        else
            for (ptrdiff_t cell = 0; cell < cells; cell++)
                memset(out + cell * work->channels * element, 0, (size_t)(channels * element));
    }
    trt_pool_rows(work->level, work->is_double)(work, batch, begin, end, from, channels, &window);
    free(memory);
}

#endif
