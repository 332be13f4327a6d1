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
#define TRT_ROW_STEP_BYTES (TRT_INNER_BYTES + 64)
#define TRT_MAX_PANEL_ROWS 14
#define TRT_TILE_PANELS 7
#define TRT_SLICE_INNER 1024
#define TRT_MAX_SLICES 8
/* the last panel may be filled up to its width, a panel by columns is written a vector too far */
#define TRT_PACKED_A_BYTES (TRT_MAX_PANEL_ROWS * TRT_ROW_STEP_BYTES + 128)

typedef struct {
    void *c;
    ptrdiff_t c_step;
    ptrdiff_t first_row, first_column, first_inner;
    ptrdiff_t rows, columns, inner;
} trt_tile;

#if TRT_HAS_LEVELS
#include <immintrin.h>

#define TRT_LOOPS_TARGET_V3 __attribute__((target("arch=x86-64-v3")))
#define TRT_LOOPS_TARGET_V4 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))

/* float */
#define TRT_REAL float
#define TRT_MEM_REAL trt_mem_f32
#define TRT_BLOCK 8
#define TRT_MAX_INNER (TRT_INNER_BYTES / 4)
#define TRT_ROW_STEP (TRT_ROW_STEP_BYTES / 4)
#define TRT_PACKED_B_BYTES (TRT_INNER_BYTES * (TRT_TILE_COLUMNS_BYTES / 4))

#define TRT_TRANSPOSE_F32(TARGET, NAME)                                                                      \
    /* out[j, i] = block[i, j] for an 8x8 block; steps in bytes there, in elements here */                   \
    TARGET static inline void NAME(const char *block, ptrdiff_t step, float *out, ptrdiff_t out_step)        \
    {                                                                                                        \
        __m256 r0 = _mm256_loadu_ps((const float *)block);                                                   \
        __m256 r1 = _mm256_loadu_ps((const float *)(block + step));                                          \
        __m256 r2 = _mm256_loadu_ps((const float *)(block + 2 * step));                                      \
        __m256 r3 = _mm256_loadu_ps((const float *)(block + 3 * step));                                      \
        __m256 r4 = _mm256_loadu_ps((const float *)(block + 4 * step));                                      \
        __m256 r5 = _mm256_loadu_ps((const float *)(block + 5 * step));                                      \
        __m256 r6 = _mm256_loadu_ps((const float *)(block + 6 * step));                                      \
        __m256 r7 = _mm256_loadu_ps((const float *)(block + 7 * step));                                      \
        __m256 a0 = _mm256_unpacklo_ps(r0, r1), a1 = _mm256_unpackhi_ps(r0, r1);                             \
        __m256 a2 = _mm256_unpacklo_ps(r2, r3), a3 = _mm256_unpackhi_ps(r2, r3);                             \
        __m256 a4 = _mm256_unpacklo_ps(r4, r5), a5 = _mm256_unpackhi_ps(r4, r5);                             \
        __m256 a6 = _mm256_unpacklo_ps(r6, r7), a7 = _mm256_unpackhi_ps(r6, r7);                             \
        __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xEE);                   \
        __m256 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xEE);                   \
        __m256 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xEE);                   \
        __m256 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xEE);                   \
        _mm256_storeu_ps(out, _mm256_permute2f128_ps(b0, b4, 0x20));                                         \
        _mm256_storeu_ps(out + out_step, _mm256_permute2f128_ps(b1, b5, 0x20));                              \
        _mm256_storeu_ps(out + 2 * out_step, _mm256_permute2f128_ps(b2, b6, 0x20));                          \
        _mm256_storeu_ps(out + 3 * out_step, _mm256_permute2f128_ps(b3, b7, 0x20));                          \
        _mm256_storeu_ps(out + 4 * out_step, _mm256_permute2f128_ps(b0, b4, 0x31));                          \
        _mm256_storeu_ps(out + 5 * out_step, _mm256_permute2f128_ps(b1, b5, 0x31));                          \
        _mm256_storeu_ps(out + 6 * out_step, _mm256_permute2f128_ps(b2, b6, 0x31));                          \
        _mm256_storeu_ps(out + 7 * out_step, _mm256_permute2f128_ps(b3, b7, 0x31));                          \
    }

#define TRT_TRANSPOSE_F64(TARGET, NAME)                                                                      \
    TARGET static inline void NAME(const char *block, ptrdiff_t step, double *out, ptrdiff_t out_step)       \
    {                                                                                                        \
        __m256d r0 = _mm256_loadu_pd((const double *)block);                                                 \
        __m256d r1 = _mm256_loadu_pd((const double *)(block + step));                                        \
        __m256d r2 = _mm256_loadu_pd((const double *)(block + 2 * step));                                    \
        __m256d r3 = _mm256_loadu_pd((const double *)(block + 3 * step));                                    \
        __m256d a0 = _mm256_unpacklo_pd(r0, r1), a1 = _mm256_unpackhi_pd(r0, r1);                            \
        __m256d a2 = _mm256_unpacklo_pd(r2, r3), a3 = _mm256_unpackhi_pd(r2, r3);                            \
        _mm256_storeu_pd(out, _mm256_permute2f128_pd(a0, a2, 0x20));                                         \
        _mm256_storeu_pd(out + out_step, _mm256_permute2f128_pd(a1, a3, 0x20));                              \
        _mm256_storeu_pd(out + 2 * out_step, _mm256_permute2f128_pd(a0, a2, 0x31));                          \
        _mm256_storeu_pd(out + 3 * out_step, _mm256_permute2f128_pd(a1, a3, 0x31));                          \
    }

/* Copy `count` elements; reads no more, writes up to whole vectors. */
TRT_LOOPS_TARGET_V3 static inline void copy_few_f32_v3(float *out, const char *source, int count)
{
    __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    _mm256_storeu_ps(out, _mm256_maskload_ps((const float *)source, mask));
}

TRT_LOOPS_TARGET_V3 static inline void copy_few_f64_v3(double *out, const char *source, int count)
{
    __m256i left = _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
    __m256i right = _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(4, 5, 6, 7));
    _mm256_storeu_pd(out, _mm256_maskload_pd((const double *)source, left));
    _mm256_storeu_pd(out + 4, _mm256_maskload_pd((const double *)source + 4, right));
}

TRT_LOOPS_TARGET_V4 static inline void copy_few_f32_v4(float *out, const char *source, int count)
{
    _mm512_storeu_ps(out, _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), source));
}

TRT_LOOPS_TARGET_V4 static inline void copy_few_f64_v4(double *out, const char *source, int count)
{
    unsigned mask = (1u << count) - 1;
    _mm512_storeu_pd(out, _mm512_maskz_loadu_pd((__mmask8)mask, source));
    _mm512_storeu_pd(out + 8, _mm512_maskz_loadu_pd((__mmask8)(mask >> 8), source + 64));
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
#define TRT_TYPED(name) name##_f32_v3
TRT_TRANSPOSE_F32(TRT_TARGET, transpose_f32_v3)
#include "kernels/gemm_loops.h"
#undef TRT_TARGET
#undef TRT_MAX_ROWS
#undef TRT_LANES
#undef TRT_VECTOR
#undef TRT_ZERO
#undef TRT_LOAD
#undef TRT_STORE
#undef TRT_SPLAT
#undef TRT_FMA
#undef TRT_ADD
#undef TRT_TYPED

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
#define TRT_TYPED(name) name##_f32_v4
TRT_TRANSPOSE_F32(TRT_TARGET, transpose_f32_v4)
#include "kernels/gemm_loops.h"
#undef TRT_TARGET
#undef TRT_MAX_ROWS
#undef TRT_LANES
#undef TRT_VECTOR
#undef TRT_ZERO
#undef TRT_LOAD
#undef TRT_STORE
#undef TRT_SPLAT
#undef TRT_FMA
#undef TRT_ADD
#undef TRT_TYPED

#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_BLOCK
#undef TRT_MAX_INNER
#undef TRT_ROW_STEP
#undef TRT_PACKED_B_BYTES

/* double */
#define TRT_REAL double
#define TRT_MEM_REAL trt_mem_f64
#define TRT_BLOCK 4
#define TRT_MAX_INNER (TRT_INNER_BYTES / 8)
#define TRT_ROW_STEP (TRT_ROW_STEP_BYTES / 8)
#define TRT_PACKED_B_BYTES (TRT_INNER_BYTES * (TRT_TILE_COLUMNS_BYTES / 8))

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
#define TRT_TYPED(name) name##_f64_v3
TRT_TRANSPOSE_F64(TRT_TARGET, transpose_f64_v3)
#include "kernels/gemm_loops.h"
#undef TRT_TARGET
#undef TRT_MAX_ROWS
#undef TRT_LANES
#undef TRT_VECTOR
#undef TRT_ZERO
#undef TRT_LOAD
#undef TRT_STORE
#undef TRT_SPLAT
#undef TRT_FMA
#undef TRT_ADD
#undef TRT_TYPED

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
#define TRT_TYPED(name) name##_f64_v4
TRT_TRANSPOSE_F64(TRT_TARGET, transpose_f64_v4)
#include "kernels/gemm_loops.h"
#undef TRT_TARGET
#undef TRT_MAX_ROWS
#undef TRT_LANES
#undef TRT_VECTOR
#undef TRT_ZERO
#undef TRT_LOAD
#undef TRT_STORE
#undef TRT_SPLAT
#undef TRT_FMA
#undef TRT_ADD
#undef TRT_TYPED

#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_BLOCK
#undef TRT_MAX_INNER
#undef TRT_ROW_STEP
#undef TRT_PACKED_B_BYTES

#endif /* TRT_HAS_LEVELS */

/* Scratch memory of a thread, made when it first needs it and freed when it ends. */

#define TRT_SCRATCH_BYTES (TRT_INNER_BYTES * (TRT_TILE_COLUMNS_BYTES / 4) + TRT_PACKED_A_BYTES)

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
    char *partial;                             /* the sums of all slices but the first, each as large as C */
    int failed;                                /* atomic: a thread had no memory */
} trt_plan;

static inline void trt_plan_product(trt_plan *plan)
{
    const trt_product *work = plan->work;
    ptrdiff_t element = work->is_double ? 8 : 4;
    ptrdiff_t panel_rows = plan->level == TRT_V4 ? 14 : 6;
    ptrdiff_t columns = TRT_TILE_COLUMNS_BYTES / element, rows = TRT_TILE_PANELS * panel_rows;
    ptrdiff_t panel = (plan->level == TRT_V4 ? 128 : 64) / element;
    ptrdiff_t tiles;
    /* small enough that there are some for each thread and that none takes long, large enough to be worth packing */
    for (;;) {
        plan->row_tiles = (work->rows + rows - 1) / rows;
        plan->column_tiles = (work->columns + columns - 1) / columns;
        tiles = plan->row_tiles * plan->column_tiles;
        if (tiles >= 8 || work->alone)
            break;
        if (columns > 4 * panel && work->columns > columns / 2)
            columns /= 2;
        else if (rows > 4 * panel_rows && work->rows > rows / 2)
            rows = rows / panel_rows / 2 * panel_rows;
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
    return work->rows == 1 && work->pack_rows == NULL &&
           (work->b.column_step == element || work->b.row_step == element);
}

/* Columns [begin, end) of such a product. */
static inline void trt_run_row(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_plan *plan = context;
#if TRT_HAS_LEVELS
    if (plan->level == TRT_V4) {
        if (plan->work->is_double)
            row_task_f64_v4(plan->work, begin, end - begin);
        else
            row_task_f32_v4(plan->work, begin, end - begin);
    } else {
        if (plan->work->is_double)
            row_task_f64_v3(plan->work, begin, end - begin);
        else
            row_task_f32_v3(plan->work, begin, end - begin);
    }
#endif
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
}

#endif
