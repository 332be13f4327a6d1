/* Numbers of 16 bits to float and back, rounded to the nearest, to even between two; see kernels/every_level.h.
 *
 * f16 is IEEE half precision; bf16 is the upper half of a float. All levels give the same bits.
 */

#define TRT_NARROW(TYPE) static inline __attribute__((always_inline)) TRT_TARGET TYPE

TRT_NARROW(uint32_t) TRT_LEVEL(trt_float_bits)(float x)
{
    union { float value; uint32_t bits; } u = {x};
    return u.bits;
}

TRT_NARROW(float) TRT_LEVEL(trt_float_of)(uint32_t bits)
{
    union { uint32_t bits; float value; } u = {bits};
    return u.value;
}

TRT_NARROW(float) TRT_LEVEL(trt_from_f16)(uint16_t x)
{
    const uint32_t size = (uint32_t)(x & 0x7fff) << 13, sign = (uint32_t)(x & 0x8000) << 16;
    /* as a float this is too small by 2^112, subnormal numbers too */
    const float scaled = TRT_LEVEL(trt_float_of)(size) * 0x1p112f;
    const uint32_t bits = size < 0x0f800000u ? TRT_LEVEL(trt_float_bits)(scaled)
        : size | 0x7f800000u | (size > 0x0f800000u ? 0x400000u : 0);
    return TRT_LEVEL(trt_float_of)(bits | sign);
}

TRT_NARROW(uint16_t) TRT_LEVEL(trt_to_f16)(float x)
{
    const uint32_t all = TRT_LEVEL(trt_float_bits)(x), size = all & 0x7fffffffu;
    /* below 2^-14 the last place is worth 2^-24, that of a float beside 1/2 */
    const float beside = TRT_LEVEL(trt_float_of)(size) + 0.5f;
    const uint32_t small = TRT_LEVEL(trt_float_bits)(beside) - 0x3f000000u;
    const uint32_t plain = ((size + 0xfff + (size >> 13 & 1)) >> 13) - (112u << 10);
    const uint32_t nan = 0x7e00u | (size >> 13 & 0x1ff);
    const uint32_t found = size < 0x38800000u ? small : size < 0x477ff000u ? plain : size > 0x7f800000u ? nan : 0x7c00u;
    return (uint16_t)(found | (all >> 16 & 0x8000u));
}

TRT_NARROW(float) TRT_LEVEL(trt_from_bf16)(uint16_t x)
{
    return TRT_LEVEL(trt_float_of)((uint32_t)x << 16);
}

TRT_NARROW(uint16_t) TRT_LEVEL(trt_to_bf16)(float x)
{
    const uint32_t all = TRT_LEVEL(trt_float_bits)(x);
    const uint32_t plain = (all + 0x7fff + (all >> 16 & 1)) >> 16;
    return (uint16_t)((all & 0x7fffffffu) > 0x7f800000u ? (all >> 16) | 0x40u : plain);
}

/* The float that is left of one when it is narrowed and widened again. */
TRT_NARROW(float) TRT_LEVEL(trt_round_f16)(float x)
{
    const uint32_t all = TRT_LEVEL(trt_float_bits)(x), size = all & 0x7fffffffu;
    const float beside = TRT_LEVEL(trt_float_of)(size) + 0.5f;
    const float small = beside - 0.5f;
    const uint32_t plain = (size + 0xfff + (size >> 13 & 1)) & ~0x1fffu;
    const uint32_t found = size < 0x38800000u ? TRT_LEVEL(trt_float_bits)(small)
        : size < 0x477ff000u ? plain : size > 0x7f800000u ? size : 0x7f800000u;
    return TRT_LEVEL(trt_float_of)(found | (all & 0x80000000u));
}

TRT_NARROW(float) TRT_LEVEL(trt_round_bf16)(float x)
{
    const uint32_t all = TRT_LEVEL(trt_float_bits)(x);
    const uint32_t plain = (all + 0x7fff + (all >> 16 & 1)) & ~0xffffu;
    return TRT_LEVEL(trt_float_of)((all & 0x7fffffffu) > 0x7f800000u ? all : plain);
}

static TRT_TARGET void TRT_LEVEL(trt_widen_f16)(float *out_, const char *x_, npy_intp count)
{
    trt_mem_f32 *out = (trt_mem_f32 *)out_;
    const trt_mem_u16 *x = (const trt_mem_u16 *)x_;
    npy_intp i = 0;
#if TRT_VECTOR_BYTES == 64
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps((float *)(out + i), _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + i))));
#elif TRT_VECTOR_BYTES == 32
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps((float *)(out + i), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + i))));
#endif
    TRT_INDEPENDENT
    for (npy_intp k = i; k < count; k++)
        out[k] = TRT_LEVEL(trt_from_f16)(x[k]);
}

static TRT_TARGET void TRT_LEVEL(trt_narrow_f16)(char *out_, const float *x_, npy_intp count)
{
    trt_mem_u16 *out = (trt_mem_u16 *)out_;
    const trt_mem_f32 *x = (const trt_mem_f32 *)x_;
    npy_intp i = 0;
#if TRT_VECTOR_BYTES == 64
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(out + i), _mm512_cvtps_ph(_mm512_loadu_ps((const float *)(x + i)),
                                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif TRT_VECTOR_BYTES == 32
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps((const float *)(x + i)),
                                                              _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
    TRT_INDEPENDENT
    for (npy_intp k = i; k < count; k++)
        out[k] = TRT_LEVEL(trt_to_f16)(x[k]);
}

static TRT_TARGET void TRT_LEVEL(trt_widen_bf16)(float *out_, const char *x_, npy_intp count)
{
    trt_mem_f32 *out = (trt_mem_f32 *)out_;
    const trt_mem_u16 *x = (const trt_mem_u16 *)x_;
    TRT_INDEPENDENT
    for (npy_intp i = 0; i < count; i++)
        out[i] = TRT_LEVEL(trt_from_bf16)(x[i]);
}

static TRT_TARGET void TRT_LEVEL(trt_narrow_bf16)(char *out_, const float *x_, npy_intp count)
{
    trt_mem_u16 *out = (trt_mem_u16 *)out_;
    const trt_mem_f32 *x = (const trt_mem_f32 *)x_;
    TRT_INDEPENDENT
    for (npy_intp i = 0; i < count; i++)
        out[i] = TRT_LEVEL(trt_to_bf16)(x[i]);
}

#include "kernels/math_functions.h"

#define TRT_KIND f16
#define TRT_R(x) TRT_LEVEL(trt_round_f16)(x)
#define TRT_SOFTPLUS_LOW -4.9296875f
#include "kernels/narrow_formulas.h"
#undef TRT_KIND
#undef TRT_R
#undef TRT_SOFTPLUS_LOW

#define TRT_KIND bf16
#define TRT_R(x) TRT_LEVEL(trt_round_bf16)(x)
#define TRT_SOFTPLUS_LOW -2.859375f
#include "kernels/narrow_formulas.h"
#undef TRT_KIND
#undef TRT_R
#undef TRT_SOFTPLUS_LOW

#define TRT_BOTH_ROWS(ROW, OP, NAME) ROW(OP, NAME, f16, NPY_HALF) ROW(OP, NAME, bf16, TRT_BFLOAT16)
#define TRT_SAME_ROW(OP, NAME, TYPE, NUM) TRT_ROW(OP, NAME, TYPE, NUM, NUM)

static const trt_unary_entry TRT_LEVEL(trt_narrow_unary_table)[] = {
    TRT_BOTH_ROWS(TRT_UNARY_ROW, "Softsign", softsign)
    TRT_BOTH_ROWS(TRT_UNARY_ROW, "Elu", elu)
    TRT_BOTH_ROWS(TRT_UNARY_ROW, "Selu", selu)
    TRT_BOTH_ROWS(TRT_UNARY_ROW, "Softplus", softplus)
    {NULL, 0, 0, NULL}
};

static const trt_binary_entry TRT_LEVEL(trt_narrow_binary_table)[] = {
    TRT_BOTH_ROWS(TRT_SAME_ROW, "SquaredDifference", squared_difference)
    TRT_BOTH_ROWS(TRT_SAME_ROW, "SoftsignGrad", softsign_grad)
    TRT_BOTH_ROWS(TRT_SAME_ROW, "EluGrad", elu_grad)
    TRT_BOTH_ROWS(TRT_SAME_ROW, "SeluGrad", selu_grad)
    TRT_BOTH_ROWS(TRT_SAME_ROW, "SoftplusGrad", softplus_grad)
    {NULL, 0, 0, NULL, NULL, NULL}
};

#undef TRT_NARROW
#undef TRT_BOTH_ROWS
#undef TRT_SAME_ROW
