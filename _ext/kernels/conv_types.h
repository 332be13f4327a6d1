/* A convolution of images as its kernels see it. */
#ifndef TRT_KERNELS_CONV_TYPES_H
#define TRT_KERNELS_CONV_TYPES_H

#include <stddef.h>

#include "kernels/finish.h"

/* One spatial dimension: window o has its tap j over cell o * stride + origin + j * step of the operand; cells outside
 * are zeros. Tap j is entry first_tap + j * tap_step of the filter. */
typedef struct {
    ptrdiff_t size;                  /* cells of the operand */
    ptrdiff_t count;                 /* windows */
    ptrdiff_t stride, origin;
    ptrdiff_t taps, step;
    ptrdiff_t first_tap, tap_step;
} trt_conv_axis;

/* Steps are in bytes, of any sign, and addresses of any alignment, but for `out`. */
typedef struct {
    int is_double;
    ptrdiff_t batch, groups;
    ptrdiff_t channels, depth;       /* of a group: of the operand, and of the result or, for the filter, its gradient */
    trt_conv_axis axes[2];
    const char *image;
    ptrdiff_t image_steps[4];        /* batch, rows, columns, channels */
    const char *filter;              /* the filter, or the gradient of the output when the filter's is wanted */
    ptrdiff_t filter_steps[4];       /* rows, columns, channels, depth; or batch, rows, columns, depth */
    ptrdiff_t filter_group_step;
    void *out;                       /* aligned, the innermost dimension contiguous */
    ptrdiff_t out_steps[3];          /* in elements: batch, rows, columns; or rows, columns, channels of a filter */
    const trt_finish *finish;        /* for what is complete of a dense `out`; NULL: nothing */
    const int *stop;                 /* when this is not 0 any more, nobody wants the result; NULL: never */
} trt_conv;

#endif
