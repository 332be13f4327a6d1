/* A matrix product as the kernels that need one describe it. */
#ifndef TRT_KERNELS_GEMM_TYPES_H
#define TRT_KERNELS_GEMM_TYPES_H

#include <stddef.h>

#include "kernels/finish.h"

typedef struct {
    const char *data;                  /* at any address */
    ptrdiff_t row_step, column_step;   /* in bytes, of any sign */
} trt_matrix;

typedef struct {
    int is_double;
    ptrdiff_t rows, columns, inner;    /* C is rows x columns, A rows x inner, B inner x columns */
    trt_matrix a, b;
    void *c;                           /* aligned */
    ptrdiff_t c_step;                  /* elements from one row of C to the next; columns are contiguous */
    int alone;                         /* do not share the work: the caller is one of many that do */
    int adds;                          /* to what C holds; only where trt_can_add tells that it is possible */
    const trt_finish *finish;          /* for what is complete of C; NULL: nothing */
    ptrdiff_t finish_row;              /* which row of the whole result the first one of C is */
} trt_product;

#endif
