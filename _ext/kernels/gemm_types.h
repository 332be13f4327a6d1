/* A matrix product as the kernels that need one describe it. */
#ifndef TRT_KERNELS_GEMM_TYPES_H
#define TRT_KERNELS_GEMM_TYPES_H

#include <stddef.h>

typedef struct {
    const char *data;                  /* at any address */
    ptrdiff_t row_step, column_step;   /* in bytes, of any sign */
} trt_matrix;

/* Write rows [first_row, + rows) of columns [first_inner, + k) of the left factor. Return 1 when they were written by
 * rows, row_step elements apart, or 0 when by columns, the rows of a column one after the other. */
typedef int (*trt_pack_rows_fn)(const void *source, ptrdiff_t first_row, ptrdiff_t first_inner, ptrdiff_t rows,
                                ptrdiff_t k, ptrdiff_t row_step, void *out);

typedef struct {
    int is_double;
    ptrdiff_t rows, columns, inner;    /* C is rows x columns, A rows x inner, B inner x columns */
    trt_matrix a, b;
    trt_pack_rows_fn pack_rows;        /* makes A up out of a_source instead of `a`; NULL: not */
    const void *a_source;
    void *c;                           /* aligned */
    ptrdiff_t c_step;                  /* elements from one row of C to the next; columns are contiguous */
    int alone;                         /* do not share the work: the caller is one of many that do */
} trt_product;

#endif
