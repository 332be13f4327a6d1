/* Exponentials and logarithms without branches, which a compiler turns into vector code; see kernels/every_level.h.
 *
 * Every level gives the same bits: no fused multiply-add. Within 2 units in the last place, those built
 * on others within 4. * Infinities, NaN, signed zeros and subnormal numbers come out as in the C library. Include in a file of loops, once.
 */

#define TRT_MATH(TYPE) static inline __attribute__((always_inline)) TRT_TARGET TYPE

TRT_MATH(int32_t) TRT_LEVEL(trt_bits_f32)(float x)
{
    union { float value; int32_t bits; } u = {x};
    return u.bits;
}

TRT_MATH(float) TRT_LEVEL(trt_of_bits_f32)(int32_t bits)
{
    union { int32_t bits; float value; } u = {bits};
    return u.value;
}

TRT_MATH(int64_t) TRT_LEVEL(trt_bits_f64)(double x)
{
    union { double value; int64_t bits; } u = {x};
    return u.bits;
}

TRT_MATH(double) TRT_LEVEL(trt_of_bits_f64)(int64_t bits)
{
    union { int64_t bits; double value; } u = {bits};
    return u.value;
}

/* x y + z */
TRT_MATH(float) TRT_LEVEL(trt_fma_f32)(float x, float y, float z)
{
#if TRT_FUSES
    return __builtin_fmaf(x, y, z);
#else
    return x * y + z;
#endif
}

TRT_MATH(double) TRT_LEVEL(trt_fma_f64)(double x, double y, double z)
{
#if TRT_FUSES
    return __builtin_fma(x, y, z);
#else
    return x * y + z;
#endif
}

#define TRT_FMA_F32 TRT_LEVEL(trt_fma_f32)
#define TRT_FMA_F64 TRT_LEVEL(trt_fma_f64)

TRT_MATH(float) TRT_LEVEL(trt_copysign_f32)(float x, float sign)
{
    return TRT_LEVEL(trt_of_bits_f32)((TRT_LEVEL(trt_bits_f32)(x) & INT32_MAX)
                                      | (TRT_LEVEL(trt_bits_f32)(sign) & INT32_MIN));
}

TRT_MATH(double) TRT_LEVEL(trt_copysign_f64)(double x, double sign)
{
    return TRT_LEVEL(trt_of_bits_f64)((TRT_LEVEL(trt_bits_f64)(x) & INT64_MAX)
                                      | (TRT_LEVEL(trt_bits_f64)(sign) & INT64_MIN));
}

/* x = n ln 2 + r with |r| <= ln 2 / 2: n is found by adding a number whose last place is one. exp(r) - 1 comes from the
 * series. `n` is kept with an offset of 2048, so that its halves are found by a logical shift; for NaN it is anything. */

#define TRT_REDUCED_F32(x) \
    const float shifted = TRT_FMA_F32(x, 0x1.715476p+0f, 0x1.8p23f); \
    const float whole = shifted - 0x1.8p23f; \
    const uint32_t n = (uint32_t)TRT_LEVEL(trt_bits_f32)(shifted) - 0x4b400000u + 2048; \
    const float r = TRT_FMA_F32(whole, -0x1.7f7d1cp-20f, TRT_FMA_F32(whole, -0x1.62e4p-1f, x)); \
    float sum = TRT_FMA_F32(r, 0x1.a01a02p-13f, 0x1.6c16c2p-10f); \
    sum = TRT_FMA_F32(r, sum, 0x1.111112p-7f); \
    sum = TRT_FMA_F32(r, sum, 0x1.555556p-5f); \
    sum = TRT_FMA_F32(r, sum, 0x1.555556p-3f); \
    sum = TRT_FMA_F32(r, sum, 0x1p-1f); \
    const float series = TRT_FMA_F32(r * r, sum, r);

#define TRT_REDUCED_F64(x) \
    const double shifted = TRT_FMA_F64(x, 0x1.71547652b82fep+0, 0x1.8p52); \
    const double whole = shifted - 0x1.8p52; \
    const uint64_t n = (uint64_t)TRT_LEVEL(trt_bits_f64)(shifted) - 0x4338000000000000u + 2048; \
    const double r = TRT_FMA_F64(whole, -0x1.a39ef35793c76p-33, TRT_FMA_F64(whole, -0x1.62e42feep-1, x)); \
    double sum = TRT_FMA_F64(r, 0x1.6124613a86d09p-33, 0x1.1eed8eff8d898p-29); \
    sum = TRT_FMA_F64(r, sum, 0x1.ae64567f544e4p-26); \
    sum = TRT_FMA_F64(r, sum, 0x1.27e4fb7789f5cp-22); \
    sum = TRT_FMA_F64(r, sum, 0x1.71de3a556c734p-19); \
    sum = TRT_FMA_F64(r, sum, 0x1.a01a01a01a01ap-16); \
    sum = TRT_FMA_F64(r, sum, 0x1.a01a01a01a01ap-13); \
    sum = TRT_FMA_F64(r, sum, 0x1.6c16c16c16c17p-10); \
    sum = TRT_FMA_F64(r, sum, 0x1.1111111111111p-7); \
    sum = TRT_FMA_F64(r, sum, 0x1.5555555555555p-5); \
    sum = TRT_FMA_F64(r, sum, 0x1.5555555555555p-3); \
    sum = TRT_FMA_F64(r, sum, 0x1p-1); \
    const double series = TRT_FMA_F64(r * r, sum, r);

TRT_MATH(float) TRT_LEVEL(trt_exp_of_f32)(float a)
{
    float x = a > 89 ? 89 : a;
    x = x < -104 ? -104 : x;
    TRT_REDUCED_F32(x)
    const uint32_t half = n >> 1;
    /* in two steps: 2^n alone may be too large or too small to be a number */
    const float first = TRT_LEVEL(trt_of_bits_f32)((int32_t)((half - 1024 + 127) << 23));
    const float second = TRT_LEVEL(trt_of_bits_f32)((int32_t)((n - half - 1024 + 127) << 23));
    return (1 + series) * first * second;
}

TRT_MATH(double) TRT_LEVEL(trt_exp_of_f64)(double a)
{
    double x = a > 710 ? 710 : a;
    x = x < -746 ? -746 : x;
    TRT_REDUCED_F64(x)
    const uint64_t half = n >> 1;
    const double first = TRT_LEVEL(trt_of_bits_f64)((int64_t)((half - 1024 + 1023) << 52));
    const double second = TRT_LEVEL(trt_of_bits_f64)((int64_t)((n - half - 1024 + 1023) << 52));
    return (1 + series) * first * second;
}

/* 2 (2^(n-1) series + (2^(n-1) - 1/2)): for n = 0 the series itself. */
TRT_MATH(float) TRT_LEVEL(trt_expm1_of_f32)(float a)
{
    float x = a > 89 ? 89 : a;
    x = x < -30 ? -30 : x;
    TRT_REDUCED_F32(x)
    const float scale = TRT_LEVEL(trt_of_bits_f32)((int32_t)((n - 2049 + 127) << 23));
    const float y = 2 * TRT_FMA_F32(scale, series, scale - 0.5f);
    return a == 0 ? a : y;
}

TRT_MATH(double) TRT_LEVEL(trt_expm1_of_f64)(double a)
{
    double x = a > 710 ? 710 : a;
    x = x < -50 ? -50 : x;
    TRT_REDUCED_F64(x)
    const double scale = TRT_LEVEL(trt_of_bits_f64)((int64_t)((n - 2049 + 1023) << 52));
    const double y = 2 * TRT_FMA_F64(scale, series, scale - 0.5);
    return a == 0 ? a : y;
}

TRT_MATH(float) TRT_LEVEL(trt_tanh_of_f32)(float a)
{
    float size = __builtin_fabsf(a);
    size = size > 10 ? 10 : size;
    const float t = TRT_LEVEL(trt_expm1_of_f32)(2 * size);
    return TRT_LEVEL(trt_copysign_f32)(t / (t + 2), a);
}

TRT_MATH(double) TRT_LEVEL(trt_tanh_of_f64)(double a)
{
    double size = __builtin_fabs(a);
    size = size > 22 ? 22 : size;
    const double t = TRT_LEVEL(trt_expm1_of_f64)(2 * size);
    return TRT_LEVEL(trt_copysign_f64)(t / (t + 2), a);
}

TRT_MATH(float) TRT_LEVEL(trt_sigmoid_of_f32)(float a)
{
    return 1 / (1 + TRT_LEVEL(trt_exp_of_f32)(-a));
}

TRT_MATH(double) TRT_LEVEL(trt_sigmoid_of_f64)(double a)
{
    return 1 / (1 + TRT_LEVEL(trt_exp_of_f64)(-a));
}

/* x = 2^k m with m between the roots of 1/2 and 2; f = m - 1, s = f / (2 + f), and log m = f - s (f - rest), where `rest`
 * is the series of 2 atanh(s) / s - 2. */
TRT_MATH(float) TRT_LEVEL(trt_log_of_f32)(float a)
{
    const int tiny = a < 0x1p-126f;
    const float x = tiny ? a * 0x1p23f : a;
    const int32_t bits = (int32_t)((uint32_t)TRT_LEVEL(trt_bits_f32)(x) - 0x3f3504f3u);
    const float k = (float)((bits >> 23) - (tiny ? 23 : 0));
    const float f = TRT_LEVEL(trt_of_bits_f32)((bits & 0x7fffff) + 0x3f3504f3) - 1;
    const float s = f / (2 + f), z = s * s, half_square = 0.5f * f * f;
    float rest = TRT_FMA_F32(z, 0x1.c71c72p-3f, 0x1.24924ap-2f);
    rest = TRT_FMA_F32(z, rest, 0x1.99999ap-2f);
    rest = z * TRT_FMA_F32(z, rest, 0x1.555556p-1f);
    const float low = TRT_FMA_F32(s, half_square + rest, k * 0x1.7f7d1cp-20f);
    const float y = TRT_FMA_F32(k, 0x1.62e4p-1f, f - (half_square - low));
    return a > 0 ? (a < __builtin_inff() ? y : a) : a == 0 ? -__builtin_inff() : __builtin_nanf("");
}

TRT_MATH(double) TRT_LEVEL(trt_log_of_f64)(double a)
{
    const int tiny = a < 0x1p-1022;
    const double x = tiny ? a * 0x1p54 : a;
    const uint64_t bits = (uint64_t)TRT_LEVEL(trt_bits_f64)(x) - 0x3fe6a09e667f3bcdu;
    /* the exponent, made positive, becomes a number by way of the bits of 2^52 */
    const int64_t exponent = (int64_t)((bits + ((uint64_t)2048 << 52)) >> 52);
    const double k = TRT_LEVEL(trt_of_bits_f64)(exponent | 0x4330000000000000) - (0x1p52 + 2048) - (tiny ? 54 : 0);
    const double f = TRT_LEVEL(trt_of_bits_f64)((int64_t)((bits & 0xfffffffffffff) + 0x3fe6a09e667f3bcd)) - 1;
    const double s = f / (2 + f), z = s * s, half_square = 0.5 * f * f;
    double rest = TRT_FMA_F64(z, 0x1.8618618618618p-4, 0x1.af286bca1af28p-4);
    rest = TRT_FMA_F64(z, rest, 0x1.e1e1e1e1e1e1ep-4);
    rest = TRT_FMA_F64(z, rest, 0x1.1111111111111p-3);
    rest = TRT_FMA_F64(z, rest, 0x1.3b13b13b13b14p-3);
    rest = TRT_FMA_F64(z, rest, 0x1.745d1745d1746p-3);
    rest = TRT_FMA_F64(z, rest, 0x1.c71c71c71c71cp-3);
    rest = TRT_FMA_F64(z, rest, 0x1.2492492492492p-2);
    rest = TRT_FMA_F64(z, rest, 0x1.999999999999ap-2);
    rest = z * TRT_FMA_F64(z, rest, 0x1.5555555555555p-1);
    const double low = TRT_FMA_F64(s, half_square + rest, k * 0x1.a39ef35793c76p-33);
    const double y = TRT_FMA_F64(k, 0x1.62e42feep-1, f - (half_square - low));
    return a > 0 ? (a < __builtin_inf() ? y : a) : a == 0 ? -__builtin_inf() : __builtin_nan("");
}

/* The logarithm of the rounded 1 + x, and what the rounding took away. */
TRT_MATH(float) TRT_LEVEL(trt_log1p_of_f32)(float a)
{
    const float u = 1 + a;
    const float lost = u > 0 ? (a - (u - 1)) / u : 0;
    const float y = TRT_LEVEL(trt_log_of_f32)(u) + (u < __builtin_inff() ? lost : 0);
    return a == 0 ? a : y;
}

TRT_MATH(double) TRT_LEVEL(trt_log1p_of_f64)(double a)
{
    const double u = 1 + a;
    const double lost = u > 0 ? (a - (u - 1)) / u : 0;
    const double y = TRT_LEVEL(trt_log_of_f64)(u) + (u < __builtin_inf() ? lost : 0);
    return a == 0 ? a : y;
}

#undef TRT_FMA_F32
#undef TRT_FMA_F64
#undef TRT_REDUCED_F32
#undef TRT_REDUCED_F64
#undef TRT_MATH
