/* Include the file that TRT_LOOPS names once for float and double at each level, with what a matrix product needs.
 *
 * In that file TRT_REAL is the type, TRT_MEM_REAL the type as it lies in memory, TRT_VECTOR a vector of TRT_LANES of them,
 * TRT_TYPED(name) makes a name, and TRT_TARGET stands before every function. TRT_MASK, TRT_FEW(count), TRT_LOAD_FEW and
 * TRT_STORE_FEW read and write the first elements of a vector. TRT_TYPED(transpose) writes TRT_BLOCK elements of each of
 * TRT_LANES rows as so many vectors. TRT_MAX_ROWS rows of two vectors fit in the registers, with two vectors of B and one
 * element of A.
 */
#ifndef TRT_KERNELS_GEMM_VECTORS_H
#define TRT_KERNELS_GEMM_VECTORS_H

#include "kernels/simd.h"

#if TRT_HAS_LEVELS
#include <immintrin.h>

#define TRT_LOOPS_TARGET_V3 __attribute__((target("arch=x86-64-v3")))
#define TRT_LOOPS_TARGET_V4 __attribute__((target("arch=x86-64-v4,prefer-vector-width=512")))

/* Transpositions: parts of 16 bytes of rows 4 apart (2 apart for double) go to the lanes of a vector, and are transposed
 * there. Steps of what is read are in bytes, of what is written in elements. */

#define TRT_PART(row, lane) (const float *)(from + ((lane) * 4 + (row)) * step)

TRT_LOOPS_TARGET_V3 static inline void transpose_f32_v3(const char *from, ptrdiff_t step, float *out, ptrdiff_t out_step)
{
#define TRT_LANES_OF(row) _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(TRT_PART(row, 0))), \
                                               _mm_loadu_ps(TRT_PART(row, 1)), 1)
    __m256 r0 = TRT_LANES_OF(0), r1 = TRT_LANES_OF(1), r2 = TRT_LANES_OF(2), r3 = TRT_LANES_OF(3);
    __m256 low01 = _mm256_unpacklo_ps(r0, r1), high01 = _mm256_unpackhi_ps(r0, r1);
    __m256 low23 = _mm256_unpacklo_ps(r2, r3), high23 = _mm256_unpackhi_ps(r2, r3);
    _mm256_storeu_ps(out, _mm256_shuffle_ps(low01, low23, 0x44));
    _mm256_storeu_ps(out + out_step, _mm256_shuffle_ps(low01, low23, 0xEE));
    _mm256_storeu_ps(out + 2 * out_step, _mm256_shuffle_ps(high01, high23, 0x44));
    _mm256_storeu_ps(out + 3 * out_step, _mm256_shuffle_ps(high01, high23, 0xEE));
#undef TRT_LANES_OF
}

TRT_LOOPS_TARGET_V4 static inline void transpose_f32_v4(const char *from, ptrdiff_t step, float *out, ptrdiff_t out_step)
{
#define TRT_ALL(row, lane) _mm512_broadcast_f32x4(_mm_loadu_ps(TRT_PART(row, lane)))
#define TRT_SET(into, mask, row, lane) \
    _mm512_mask_broadcast_f32x4(into, mask, _mm_loadu_ps(TRT_PART(row, lane)))
#define TRT_LANES_OF(row) TRT_SET(TRT_SET(TRT_SET(TRT_ALL(row, 0), 0x00F0, row, 1), 0x0F00, row, 2), 0xF000, row, 3)
    __m512 r0 = TRT_LANES_OF(0), r1 = TRT_LANES_OF(1), r2 = TRT_LANES_OF(2), r3 = TRT_LANES_OF(3);
    __m512 low01 = _mm512_unpacklo_ps(r0, r1), high01 = _mm512_unpackhi_ps(r0, r1);
    __m512 low23 = _mm512_unpacklo_ps(r2, r3), high23 = _mm512_unpackhi_ps(r2, r3);
    _mm512_storeu_ps(out, _mm512_shuffle_ps(low01, low23, 0x44));
    _mm512_storeu_ps(out + out_step, _mm512_shuffle_ps(low01, low23, 0xEE));
    _mm512_storeu_ps(out + 2 * out_step, _mm512_shuffle_ps(high01, high23, 0x44));
    _mm512_storeu_ps(out + 3 * out_step, _mm512_shuffle_ps(high01, high23, 0xEE));
#undef TRT_LANES_OF
#undef TRT_ALL
#undef TRT_SET
}

#undef TRT_PART
#define TRT_PART(row, lane) (const double *)(from + ((lane) * 2 + (row)) * step)

TRT_LOOPS_TARGET_V3 static inline void transpose_f64_v3(const char *from, ptrdiff_t step, double *out,
                                                        ptrdiff_t out_step)
{
#define TRT_LANES_OF(row) _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(TRT_PART(row, 0))), \
                                               _mm_loadu_pd(TRT_PART(row, 1)), 1)
    __m256d r0 = TRT_LANES_OF(0), r1 = TRT_LANES_OF(1);
    _mm256_storeu_pd(out, _mm256_unpacklo_pd(r0, r1));
    _mm256_storeu_pd(out + out_step, _mm256_unpackhi_pd(r0, r1));
#undef TRT_LANES_OF
}

TRT_LOOPS_TARGET_V4 static inline void transpose_f64_v4(const char *from, ptrdiff_t step, double *out,
                                                        ptrdiff_t out_step)
{
#define TRT_ALL(row, lane) _mm512_broadcast_f64x2(_mm_loadu_pd(TRT_PART(row, lane)))
#define TRT_SET(into, mask, row, lane) \
    _mm512_mask_broadcast_f64x2(into, mask, _mm_loadu_pd(TRT_PART(row, lane)))
#define TRT_LANES_OF(row) TRT_SET(TRT_SET(TRT_SET(TRT_ALL(row, 0), 0x0C, row, 1), 0x30, row, 2), 0xC0, row, 3)
    __m512d r0 = TRT_LANES_OF(0), r1 = TRT_LANES_OF(1);
    _mm512_storeu_pd(out, _mm512_unpacklo_pd(r0, r1));
    _mm512_storeu_pd(out + out_step, _mm512_unpackhi_pd(r0, r1));
#undef TRT_LANES_OF
#undef TRT_ALL
#undef TRT_SET
}

#undef TRT_PART

/* Masks of the first `count` elements of a vector, which may be none or more than all. */

TRT_LOOPS_TARGET_V3 static inline __m256i trt_few_f32_v3(ptrdiff_t count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

TRT_LOOPS_TARGET_V3 static inline __m256i trt_few_f64_v3(ptrdiff_t count)
{
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}

static inline unsigned trt_few_bits(ptrdiff_t count)
{
    return count <= 0 ? 0 : count >= 16 ? 0xFFFF : (1u << count) - 1;
}
#endif

#endif

#if TRT_HAS_LEVELS

/* float */
#define TRT_REAL float
#define TRT_MEM_REAL trt_mem_f32
#define TRT_BLOCK 4

#define TRT_TARGET TRT_LOOPS_TARGET_V3
#define TRT_MAX_ROWS 6
#define TRT_LANES 8
#define TRT_VECTOR __m256
#define TRT_ZERO _mm256_setzero_ps
#define TRT_LOAD _mm256_loadu_ps
#define TRT_STORE _mm256_storeu_ps
#define TRT_SPLAT _mm256_set1_ps
#define TRT_FMA _mm256_fmadd_ps
#define TRT_ACCUMULATE(sum, x, y) __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y))
#define TRT_ADD _mm256_add_ps
#define TRT_MASK __m256i
#define TRT_FEW trt_few_f32_v3
#define TRT_LOAD_FEW(p, mask) _mm256_maskload_ps(p, mask)
#define TRT_STORE_FEW(p, mask, v) _mm256_maskstore_ps(p, mask, v)
#define TRT_TYPED(name) name##_f32_v3
#include TRT_LOOPS
#include "kernels/gemm_undef.h"

#define TRT_TARGET TRT_LOOPS_TARGET_V4
#define TRT_MAX_ROWS 14
#define TRT_LANES 16
#define TRT_VECTOR __m512
#define TRT_ZERO _mm512_setzero_ps
#define TRT_LOAD _mm512_loadu_ps
#define TRT_STORE _mm512_storeu_ps
#define TRT_SPLAT _mm512_set1_ps
#define TRT_FMA _mm512_fmadd_ps
#define TRT_ACCUMULATE(sum, x, y) __asm__("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y))
#define TRT_ADD _mm512_add_ps
#define TRT_MASK __mmask16
#define TRT_FEW(count) ((__mmask16)trt_few_bits(count))
#define TRT_LOAD_FEW(p, mask) _mm512_maskz_loadu_ps(mask, p)
#define TRT_STORE_FEW(p, mask, v) _mm512_mask_storeu_ps(p, mask, v)
#define TRT_TYPED(name) name##_f32_v4
#include TRT_LOOPS
#include "kernels/gemm_undef.h"

#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_BLOCK

/* double */
#define TRT_REAL double
#define TRT_MEM_REAL trt_mem_f64
#define TRT_BLOCK 2

#define TRT_TARGET TRT_LOOPS_TARGET_V3
#define TRT_MAX_ROWS 6
#define TRT_LANES 4
#define TRT_VECTOR __m256d
#define TRT_ZERO _mm256_setzero_pd
#define TRT_LOAD _mm256_loadu_pd
#define TRT_STORE _mm256_storeu_pd
#define TRT_SPLAT _mm256_set1_pd
#define TRT_FMA _mm256_fmadd_pd
#define TRT_ACCUMULATE(sum, x, y) __asm__("vfmadd231pd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y))
#define TRT_ADD _mm256_add_pd
#define TRT_MASK __m256i
#define TRT_FEW trt_few_f64_v3
#define TRT_LOAD_FEW(p, mask) _mm256_maskload_pd(p, mask)
#define TRT_STORE_FEW(p, mask, v) _mm256_maskstore_pd(p, mask, v)
#define TRT_TYPED(name) name##_f64_v3
#include TRT_LOOPS
#include "kernels/gemm_undef.h"

#define TRT_TARGET TRT_LOOPS_TARGET_V4
#define TRT_MAX_ROWS 14
#define TRT_LANES 8
#define TRT_VECTOR __m512d
#define TRT_ZERO _mm512_setzero_pd
#define TRT_LOAD _mm512_loadu_pd
#define TRT_STORE _mm512_storeu_pd
#define TRT_SPLAT _mm512_set1_pd
#define TRT_FMA _mm512_fmadd_pd
#define TRT_ACCUMULATE(sum, x, y) __asm__("vfmadd231pd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(y))
#define TRT_ADD _mm512_add_pd
#define TRT_MASK __mmask8
#define TRT_FEW(count) ((__mmask8)trt_few_bits(count))
#define TRT_LOAD_FEW(p, mask) _mm512_maskz_loadu_pd(mask, p)
#define TRT_STORE_FEW(p, mask, v) _mm512_mask_storeu_pd(p, mask, v)
#define TRT_TYPED(name) name##_f64_v4
#include TRT_LOOPS
#include "kernels/gemm_undef.h"

#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_BLOCK

#endif /* TRT_HAS_LEVELS */

#undef TRT_LOOPS
