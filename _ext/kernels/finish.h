/* What becomes of a product, or a convolution, while its parts still lie in the cache.
 *
 * The kernel that computes it asks `fits` before it does anything, calls `place` with the memory of the result, and `run`
 * for every part of the result that is complete: exactly once for each element unless it is computed anew.
 */
#ifndef TRT_KERNELS_FINISH_H
#define TRT_KERNELS_FINISH_H

#include <stddef.h>

typedef struct trt_finish {
    /* Whether it can be done to a result of this type (numpy's number) and shape; with the GIL. */
    int (*fits)(struct trt_finish *finish, int type, int rank, const ptrdiff_t *dims);
    void (*place)(struct trt_finish *finish, char *result);
    /* Columns [column, + columns) of rows [row, + rows): the result is a matrix, as wide as its last dimension. From any
     * thread, several at a time. */
    void (*run)(const struct trt_finish *finish, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t column, ptrdiff_t columns);
    /* Set by `fits` when all that is done is to add the result to this array, whose memory may be used for the sum;
     * borrowed, else NULL. A kernel that adds there itself calls neither `place` nor `run`. */
    void *addend;
} trt_finish;

#endif
