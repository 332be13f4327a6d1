/* A matrix product as the kernels that need one describe it. */
#ifndef TRT_KERNELS_GEMM_TYPES_H
#define TRT_KERNELS_GEMM_TYPES_H

#include <stddef.h>

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
} trt_product;

#endif
