/* Include the file that TRT_LOOPS names once for float and double at each level, with a few operations on vectors.
 *
 * In that file TRT_REAL is the type, TRT_MEM_REAL the type as it lies in memory, TRT_VECTOR a vector of TRT_LANES of them,
 * TRT_TYPED(name) makes a name, and TRT_TARGET stands before every function. TRT_MAX_ROWS rows of two vectors fit in the
 * registers, with what it takes to sum products in them.
 */
#ifndef TRT_KERNELS_CONV_VECTORS_H
#define TRT_KERNELS_CONV_VECTORS_H

#include "kernels/simd.h"

typedef float trt_four_f32 __attribute__((vector_size(16)));
typedef float trt_four_mem_f32 __attribute__((vector_size(16), aligned(1), may_alias));
typedef double trt_two_f64 __attribute__((vector_size(16)));
typedef double trt_two_mem_f64 __attribute__((vector_size(16), aligned(1), may_alias));

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
#endif

#endif

#define TRT_REAL float
#define TRT_MEM_REAL trt_mem_f32

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
#include TRT_LOOPS
#include "kernels/conv_undef.h"

#if TRT_HAS_LEVELS
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
#include TRT_LOOPS
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
#include TRT_LOOPS
#include "kernels/conv_undef.h"
#endif

#undef TRT_REAL
#undef TRT_MEM_REAL
#define TRT_REAL double
#define TRT_MEM_REAL trt_mem_f64

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
#include TRT_LOOPS
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
#include TRT_LOOPS
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
#include TRT_LOOPS
#include "kernels/conv_undef.h"
#endif

#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_LOOPS
