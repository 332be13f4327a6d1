/* Loops of the error function's relatives and of Bessel functions; see kernels/every_level.h.
 *
 * The polynomials interpolate at Chebyshev's points, in 60 digits; their relative error is below 6e-8 of floats and 2e-16
 * of doubles. Results are within 6 units in the last place, of doubles within 24.
 */

#include "kernels/math_functions.h"

#define TRT_SPECIAL(TYPE) static inline __attribute__((always_inline)) TRT_TARGET TYPE
#define TRT_FMA_F32 TRT_LEVEL(trt_fma_f32)
#define TRT_FMA_F64 TRT_LEVEL(trt_fma_f64)

/* erfc |x| = exp(-x^2) p((|x| - k) / (|x| + k)) / (1 + 2 |x|). The square is split, since the exponential magnifies what
 * its rounding loses: x = head + rest, and head^2 has no more digits than a number has. Results below the smallest
 * normal number have their scale taken out of the exponential. Close to 0 the first term is enough, and exact at 0. */
TRT_SPECIAL(float) TRT_LEVEL(trt_erfc_of_f32)(float a)
{
    const float size = __builtin_fabsf(a), x = size < 10.25f ? size : 10.25f;
    const float q = (x - 3) / (x + 3);
    float scaled = TRT_FMA_F32(q, -0x1.1b8f18p-12f, -0x1.99f438p-11f);
    scaled = TRT_FMA_F32(q, scaled, 0x1.0667b4p-9f);
    scaled = TRT_FMA_F32(q, scaled, 0x1.510bcp-9f);
    scaled = TRT_FMA_F32(q, scaled, -0x1.85e15cp-6f);
    scaled = TRT_FMA_F32(q, scaled, 0x1.17bc08p-4f);
    scaled = TRT_FMA_F32(q, scaled, -0x1.e88916p-4f);
    scaled = TRT_FMA_F32(q, scaled, 0x1.098422p-3f);
    scaled = TRT_FMA_F32(q, scaled, -0x1.85a182p-5f);
    scaled = TRT_FMA_F32(q, scaled, -0x1.15c08ap-3f);
    scaled = TRT_FMA_F32(q, scaled, 0x1.40c522p+0f);
    const float head = TRT_LEVEL(trt_of_bits_f32)(TRT_LEVEL(trt_bits_f32)(x) & ~0xfff);
    const float square = x * x, lost = (head * head - square) + (x - head) * (x + head);
    const int small = square > 64;
    const float power = TRT_LEVEL(trt_exp_of_f32)(small ? 32 - square : -square);
    const float tail = (power - power * lost) * (scaled / (1 + 2 * x)) * (small ? 0x1.c8465p-47f : 1);
    const float far = a < 0 ? 2 - tail : tail;
    return size < 0x1p-12f ? 1 - a * 0x1.20dd76p+0f : a != a ? a : far;
}

TRT_SPECIAL(double) TRT_LEVEL(trt_erfc_tail_f64)(double size)
{
    const double x = size < 28 ? size : 28;
    const double q = (x - 4) / (x + 4);
    double scaled = TRT_FMA_F64(q, -0x1.e5a7a6bf3d511p-30, -0x1.d0dd923dc265ap-27);
    scaled = TRT_FMA_F64(q, scaled, -0x1.0acc0f9e568a8p-27);
    scaled = TRT_FMA_F64(q, scaled, 0x1.edb35b5514360p-24);
    scaled = TRT_FMA_F64(q, scaled, 0x1.0ccf5eb8d36b3p-24);
    scaled = TRT_FMA_F64(q, scaled, -0x1.c01d66c1b4567p-21);
    scaled = TRT_FMA_F64(q, scaled, 0x1.43da24642ab79p-22);
    scaled = TRT_FMA_F64(q, scaled, 0x1.7fb2fec2a8166p-18);
    scaled = TRT_FMA_F64(q, scaled, -0x1.78a6174bd4dc1p-17);
    scaled = TRT_FMA_F64(q, scaled, -0x1.996a3eeef3338p-16);
    scaled = TRT_FMA_F64(q, scaled, 0x1.3be0c1b4c33b7p-13);
    scaled = TRT_FMA_F64(q, scaled, -0x1.a1de811cfd284p-13);
    scaled = TRT_FMA_F64(q, scaled, -0x1.8d4a9ebeb70f4p-11);
    scaled = TRT_FMA_F64(q, scaled, 0x1.49c6718f4fe0bp-8);
    scaled = TRT_FMA_F64(q, scaled, -0x1.0962388210d01p-6);
    scaled = TRT_FMA_F64(q, scaled, 0x1.3079edf9fcb2dp-5);
    scaled = TRT_FMA_F64(q, scaled, -0x1.0fb06dfe4ede1p-4);
    scaled = TRT_FMA_F64(q, scaled, 0x1.7fee004df6b70p-4);
    scaled = TRT_FMA_F64(q, scaled, -0x1.9ddb23c3e922dp-4);
    scaled = TRT_FMA_F64(q, scaled, 0x1.16ecefcfa6034p-4);
    scaled = TRT_FMA_F64(q, scaled, 0x1.f7f5df66fd856p-7);
    scaled = TRT_FMA_F64(q, scaled, -0x1.1df1ad154a29cp-3);
    scaled = TRT_FMA_F64(q, scaled, 0x1.3ba5916e9fd7fp+0);
    const double head = TRT_LEVEL(trt_of_bits_f64)(TRT_LEVEL(trt_bits_f64)(x) & ~0x7ffffff);
    const double square = x * x, lost = (head * head - square) + (x - head) * (x + head);
    const int small = square > 600;
    const double power = TRT_LEVEL(trt_exp_of_f64)(small ? 128 - square : -square);
    return (power - power * lost) * (scaled / (1 + 2 * x)) * (small ? 0x1.42eb9f39afb0bp-185 : 1);
}

TRT_SPECIAL(double) TRT_LEVEL(trt_erfc_of_f64)(double a)
{
    const double size = __builtin_fabs(a), tail = TRT_LEVEL(trt_erfc_tail_f64)(size);
    const double far = a < 0 ? 2 - tail : tail;
    return size < 0x1p-26 ? 1 - a * 0x1.20dd750429b6dp+0 : a != a ? a : far;
}

/* An odd polynomial up to 1, one minus the complement from there. */
TRT_SPECIAL(double) TRT_LEVEL(trt_erf_of_f64)(double a)
{
    const double size = __builtin_fabs(a), square = size < 1 ? a * a : 1;
    double near = TRT_FMA_F64(square, 0x1.0613987edce0dp-34, -0x1.38a4b8db8a7c5p-30);
    near = TRT_FMA_F64(square, near, 0x1.f7b72e5bcd4ffp-27);
    near = TRT_FMA_F64(square, near, -0x1.5f1f0634fb062p-23);
    near = TRT_FMA_F64(square, near, 0x1.b9df2954a9147p-20);
    near = TRT_FMA_F64(square, near, -0x1.f4d1e3a67dc3ep-17);
    near = TRT_FMA_F64(square, near, 0x1.f9a321dd3898cp-14);
    near = TRT_FMA_F64(square, near, -0x1.c02db3db06d60p-11);
    near = TRT_FMA_F64(square, near, 0x1.565bcd0dbc1adp-8);
    near = TRT_FMA_F64(square, near, -0x1.b82ce31284e9cp-6);
    near = TRT_FMA_F64(square, near, 0x1.ce2f21a042b32p-4);
    near = TRT_FMA_F64(square, near, -0x1.812746b0379e6p-2);
    near = TRT_FMA_F64(square, near, 0x1.20dd750429b6dp+0);
    const double far = TRT_LEVEL(trt_copysign_f64)(1 - TRT_LEVEL(trt_erfc_tail_f64)(size), a);
    return size < 1 ? a * near : a != a ? a : far;
}

/* The inverse of erf over its argument x, by w = -log(1 - x^2): a polynomial in w up to 6.25, from there the square root
 * of w times one in its reciprocal. 1 - x^2 comes as a product without cancellation; inf and NaN come out of the
 * logarithm. */
TRT_SPECIAL(float) TRT_LEVEL(trt_inverse_ratio_f32)(float complement)
{
    const float w = -TRT_LEVEL(trt_log_of_f32)(complement);
    const float z = w - 3.125f, root = __builtin_sqrtf(w > 1 ? w : 1), v = 1 / root - 0.25f;
    float near = TRT_FMA_F32(z, 0x1.6f4f8p-31f, -0x1.3c1b9ap-28f);
    near = TRT_FMA_F32(z, near, -0x1.ac0348p-26f);
    near = TRT_FMA_F32(z, near, 0x1.c8dea6p-22f);
    near = TRT_FMA_F32(z, near, -0x1.742208p-20f);
    near = TRT_FMA_F32(z, near, -0x1.d1edd2p-17f);
    near = TRT_FMA_F32(z, near, 0x1.87b592p-13f);
    near = TRT_FMA_F32(z, near, -0x1.84575cp-11f);
    near = TRT_FMA_F32(z, near, -0x1.8b6cdcp-8f);
    near = TRT_FMA_F32(z, near, 0x1.ebd80ep-3f);
    near = TRT_FMA_F32(z, near, 0x1.a755e8p+0f);
    float far = TRT_FMA_F32(v, 0x1.668f74p+12f, -0x1.b76024p+9f);
    far = TRT_FMA_F32(v, far, -0x1.790424p+9f);
    far = TRT_FMA_F32(v, far, 0x1.50c6b2p+4f);
    far = TRT_FMA_F32(v, far, 0x1.1bdb04p+5f);
    far = TRT_FMA_F32(v, far, 0x1.95ab04p+2f);
    far = TRT_FMA_F32(v, far, -0x1.1f67eap-1f);
    far = TRT_FMA_F32(v, far, 0x1.20ae5ep-1f);
    far = TRT_FMA_F32(v, far, 0x1.4a2e2ap-4f);
    far = TRT_FMA_F32(v, far, -0x1.95e252p-3f);
    far = TRT_FMA_F32(v, far, 0x1.eb7e0ap-1f);
    return w < 6.25f ? near : w < __builtin_inff() ? root * far : w;
}

TRT_SPECIAL(float) TRT_LEVEL(trt_erfinv_of_f32)(float a)
{
    return a * TRT_LEVEL(trt_inverse_ratio_f32)((1 - a) * (1 + a));
}

/* sqrt(2) erfinv(2 a - 1), and 1 - (2 a - 1)^2 = 4 a (1 - a) */
TRT_SPECIAL(float) TRT_LEVEL(trt_ndtri_of_f32)(float a)
{
    return (a - 0.5f) * 0x1.6a09e6p+1f * TRT_LEVEL(trt_inverse_ratio_f32)(4 * a * (1 - a));
}

/* Up to 8 the series in x^2, whose terms are all positive; from there exp(x) / sqrt(x) times a polynomial in 1 / x. What
 * an `i`-function lacks of its scaled form is exp |x|, in two halves, which do not overflow before it does. */
TRT_SPECIAL(float) TRT_LEVEL(trt_i0_near_f32)(float y)
{
    float near = TRT_FMA_F32(y, 0x1.5e233ap-63f, 0x1.297e2cp-56f);
    near = TRT_FMA_F32(y, near, 0x1.7c114ap-47f);
    near = TRT_FMA_F32(y, near, 0x1.49275ap-39f);
    near = TRT_FMA_F32(y, near, 0x1.0423b6p-31f);
    near = TRT_FMA_F32(y, near, 0x1.230e6p-24f);
    near = TRT_FMA_F32(y, near, 0x1.c7286p-18f);
    near = TRT_FMA_F32(y, near, 0x1.c71afp-12f);
    near = TRT_FMA_F32(y, near, 0x1.000018p-6f);
    near = TRT_FMA_F32(y, near, 0x1.fffffap-3f);
    near = TRT_FMA_F32(y, near, 0x1.0p+0f);
    return near;
}

TRT_SPECIAL(float) TRT_LEVEL(trt_i0_far_f32)(float u)
{
    float far = TRT_FMA_F32(u, 0x1.856a5ep-2f, -0x1.7624f2p-7f);
    far = TRT_FMA_F32(u, far, 0x1.128da8p-5f);
    far = TRT_FMA_F32(u, far, 0x1.c94b96p-6f);
    far = TRT_FMA_F32(u, far, 0x1.9887b2p-5f);
    far = TRT_FMA_F32(u, far, 0x1.988454p-2f);
    return far;
}

TRT_SPECIAL(float) TRT_LEVEL(trt_i1_near_f32)(float y)
{
    float near = TRT_FMA_F32(y, 0x1.e0ce3ep-68f, 0x1.13341p-60f);
    near = TRT_FMA_F32(y, near, 0x1.476f18p-51f);
    near = TRT_FMA_F32(y, near, 0x1.4c67a8p-43f);
    near = TRT_FMA_F32(y, near, 0x1.28ae44p-35f);
    near = TRT_FMA_F32(y, near, 0x1.843974p-28f);
    near = TRT_FMA_F32(y, near, 0x1.6c1a8ep-21f);
    near = TRT_FMA_F32(y, near, 0x1.c71bf8p-15f);
    near = TRT_FMA_F32(y, near, 0x1.55555ep-9f);
    near = TRT_FMA_F32(y, near, 0x1.0p-4f);
    near = TRT_FMA_F32(y, near, 0x1.0p-1f);
    return near;
}

TRT_SPECIAL(float) TRT_LEVEL(trt_i1_far_f32)(float u)
{
    float far = TRT_FMA_F32(u, -0x1.c41698p-2f, 0x1.99cc3p-8f);
    far = TRT_FMA_F32(u, far, -0x1.76fa5cp-5f);
    far = TRT_FMA_F32(u, far, -0x1.7db0fp-5f);
    far = TRT_FMA_F32(u, far, -0x1.326432p-3f);
    far = TRT_FMA_F32(u, far, 0x1.988454p-2f);
    return far;
}

TRT_SPECIAL(double) TRT_LEVEL(trt_i0_near_f64)(double y)
{
    double near = TRT_FMA_F64(y, 0x1.20de50ee937a2p-120, 0x1.31c4039a69bf6p-111);
    near = TRT_FMA_F64(y, near, 0x1.46a6fe00cd6ffp-101);
    near = TRT_FMA_F64(y, near, 0x1.e56ec2a042a81p-92);
    near = TRT_FMA_F64(y, near, 0x1.41b6d2a3ef29ep-82);
    near = TRT_FMA_F64(y, near, 0x1.69c761327b691p-73);
    near = TRT_FMA_F64(y, near, 0x1.5601c817fb294p-64);
    near = TRT_FMA_F64(y, near, 0x1.0b312ee0b62c8p-55);
    near = TRT_FMA_F64(y, near, 0x1.522a44465db87p-47);
    near = TRT_FMA_F64(y, near, 0x1.522a43f14ed5bp-39);
    near = TRT_FMA_F64(y, near, 0x1.02e85c08d2b69p-31);
    near = TRT_FMA_F64(y, near, 0x1.23456789a82b6p-24);
    near = TRT_FMA_F64(y, near, 0x1.c71c71c71cbebp-18);
    near = TRT_FMA_F64(y, near, 0x1.c71c71c71c6dfp-12);
    near = TRT_FMA_F64(y, near, 0x1.0000000000002p-6);
    near = TRT_FMA_F64(y, near, 0x1.0000000000000p-2);
    near = TRT_FMA_F64(y, near, 0x1.0000000000000p+0);
    return near;
}

TRT_SPECIAL(double) TRT_LEVEL(trt_i0_far_f64)(double u)
{
    double far = TRT_FMA_F64(u, -0x1.4601ac412552cp+47, 0x1.8b2aaaf157780p+47);
    far = TRT_FMA_F64(u, far, -0x1.b5e0fa563ee8cp+46);
    far = TRT_FMA_F64(u, far, 0x1.25c7e0e8f1bf9p+45);
    far = TRT_FMA_F64(u, far, -0x1.0aaeabab1280ap+43);
    far = TRT_FMA_F64(u, far, 0x1.5ae6beb1972aep+40);
    far = TRT_FMA_F64(u, far, -0x1.4e4c571cac9e8p+37);
    far = TRT_FMA_F64(u, far, 0x1.e709afbbd9d2ap+33);
    far = TRT_FMA_F64(u, far, -0x1.0f4b3b79856fdp+30);
    far = TRT_FMA_F64(u, far, 0x1.d09082052b53fp+25);
    far = TRT_FMA_F64(u, far, -0x1.31841be87b9ebp+21);
    far = TRT_FMA_F64(u, far, 0x1.32ddf56fa8266p+16);
    far = TRT_FMA_F64(u, far, -0x1.d06c4b1802f30p+10);
    far = TRT_FMA_F64(u, far, 0x1.0a7de73397264p+5);
    far = TRT_FMA_F64(u, far, -0x1.78554c425ba4cp-3);
    far = TRT_FMA_F64(u, far, 0x1.81ded51f12f15p-4);
    far = TRT_FMA_F64(u, far, 0x1.6e5c1f3acea6fp-5);
    far = TRT_FMA_F64(u, far, 0x1.debb5c7a3e8bcp-6);
    far = TRT_FMA_F64(u, far, 0x1.cb94dd83a98a5p-6);
    far = TRT_FMA_F64(u, far, 0x1.9884533d462dbp-5);
    far = TRT_FMA_F64(u, far, 0x1.9884533d43650p-2);
    return far;
}

TRT_SPECIAL(double) TRT_LEVEL(trt_i1_near_f64)(double y)
{
    double near = TRT_FMA_F64(y, 0x1.0905b50606da0p-125, 0x1.38d2022dd4905p-116);
    near = TRT_FMA_F64(y, near, 0x1.5ac77d1a1cda6p-106);
    near = TRT_FMA_F64(y, near, 0x1.159f423cb61adp-96);
    near = TRT_FMA_F64(y, near, 0x1.8be98119a4ea8p-87);
    near = TRT_FMA_F64(y, near, 0x1.e260ab01ca34bp-78);
    near = TRT_FMA_F64(y, near, 0x1.f176cf49e5e49p-69);
    near = TRT_FMA_F64(y, near, 0x1.ab81e746719c9p-60);
    near = TRT_FMA_F64(y, near, 0x1.2c9758fdc8070p-51);
    near = TRT_FMA_F64(y, near, 0x1.522a43f425458p-43);
    near = TRT_FMA_F64(y, near, 0x1.27e4fb77a32f2p-35);
    near = TRT_FMA_F64(y, near, 0x1.845c8a0ce37dfp-28);
    near = TRT_FMA_F64(y, near, 0x1.6c16c16c16d22p-21);
    near = TRT_FMA_F64(y, near, 0x1.c71c71c71c70fp-15);
    near = TRT_FMA_F64(y, near, 0x1.5555555555556p-9);
    near = TRT_FMA_F64(y, near, 0x1.0000000000000p-4);
    near = TRT_FMA_F64(y, near, 0x1.0000000000000p-1);
    return near;
}

TRT_SPECIAL(double) TRT_LEVEL(trt_i1_far_f64)(double u)
{
    double far = TRT_FMA_F64(u, 0x1.5592b169c6de5p+47, -0x1.9f0c2121faa74p+47);
    far = TRT_FMA_F64(u, far, 0x1.cd2361af77cd7p+46);
    far = TRT_FMA_F64(u, far, -0x1.364b65f9fb38ep+45);
    far = TRT_FMA_F64(u, far, 0x1.1a95ca965fab6p+43);
    far = TRT_FMA_F64(u, far, -0x1.70e84068d14d9p+40);
    far = TRT_FMA_F64(u, far, 0x1.64ed4d1275427p+37);
    far = TRT_FMA_F64(u, far, -0x1.052b8be9e3945p+34);
    far = TRT_FMA_F64(u, far, 0x1.246f765e833d9p+30);
    far = TRT_FMA_F64(u, far, -0x1.f7aac56e59430p+25);
    far = TRT_FMA_F64(u, far, 0x1.4d70d939df0f7p+21);
    far = TRT_FMA_F64(u, far, -0x1.5184c3b7b1f70p+16);
    far = TRT_FMA_F64(u, far, 0x1.01bdb917fbf21p+11);
    far = TRT_FMA_F64(u, far, -0x1.2b3995da060e5p+5);
    far = TRT_FMA_F64(u, far, 0x1.97208f52c4d6cp-3);
    far = TRT_FMA_F64(u, far, -0x1.d6a579275e4efp-4);
    far = TRT_FMA_F64(u, far, -0x1.d70d3ba22497cp-5);
    far = TRT_FMA_F64(u, far, -0x1.4f1cb9ceafebap-5);
    far = TRT_FMA_F64(u, far, -0x1.7efc0df46a302p-5);
    far = TRT_FMA_F64(u, far, -0x1.32633e6df37aap-3);
    far = TRT_FMA_F64(u, far, 0x1.9884533d43651p-2);
    return far;
}

/* Each range's formula gets an argument of its range, so that it is finite where the other one's result is taken. */
#define TRT_BESSEL(ORDER, TYPE, C, ABS, ROOT, NEAR_FACTOR, SIGNED) \
    TRT_SPECIAL(C) TRT_LEVEL(trt_i##ORDER##e_of_##TYPE)(C a) \
    { \
        const C x = ABS(a), low = x < 8 ? x : 8, u = 1 / (x > 8 ? x : 8); \
        const C near = TRT_LEVEL(trt_i##ORDER##_near_##TYPE)(low * low) * TRT_LEVEL(trt_exp_of_##TYPE)(-low); \
        const C far = TRT_LEVEL(trt_i##ORDER##_far_##TYPE)(u) * ROOT(u); \
        const C value = x <= 8 ? NEAR_FACTOR(low) * near : far; \
        return a != a ? a : SIGNED(value, a); \
    } \
    TRT_SPECIAL(C) TRT_LEVEL(trt_i##ORDER##_of_##TYPE)(C a) \
    { \
        const C x = ABS(a), low = x < 8 ? x : 8, u = 1 / (x > 8 ? x : 8); \
        const C half = TRT_LEVEL(trt_exp_of_##TYPE)(x / 2); \
        const C near = TRT_LEVEL(trt_i##ORDER##_near_##TYPE)(low * low); \
        const C far = TRT_LEVEL(trt_i##ORDER##_far_##TYPE)(u) * ROOT(u) * half * half; \
        const C value = x <= 8 ? NEAR_FACTOR(low) * near : x < __builtin_inf() ? far : x; \
        return a != a ? a : SIGNED(value, a); \
    }
#define TRT_ONE(x) 1
#define TRT_SAME(x) x
#define TRT_EVEN(value, a) value

TRT_BESSEL(0, f32, float, __builtin_fabsf, __builtin_sqrtf, TRT_ONE, TRT_EVEN)
TRT_BESSEL(1, f32, float, __builtin_fabsf, __builtin_sqrtf, TRT_SAME, TRT_LEVEL(trt_copysign_f32))
TRT_BESSEL(0, f64, double, __builtin_fabs, __builtin_sqrt, TRT_ONE, TRT_EVEN)
TRT_BESSEL(1, f64, double, __builtin_fabs, __builtin_sqrt, TRT_SAME, TRT_LEVEL(trt_copysign_f64))

#define TRT_FLOAT_FUNCTION(NAME) TRT_UNARY(NAME, f32, trt_mem_f32, float, trt_mem_f32, TRT_LEVEL(trt_##NAME##_of_f32)(a))
#define TRT_DOUBLE_FUNCTION(NAME) \
    TRT_UNARY(NAME, f64, trt_mem_f64, double, trt_mem_f64, TRT_LEVEL(trt_##NAME##_of_f64)(a))

TRT_FLOAT_FUNCTION(erfc)
TRT_FLOAT_FUNCTION(erfinv)
TRT_FLOAT_FUNCTION(ndtri)
TRT_FLOAT_FUNCTION(i0)
TRT_FLOAT_FUNCTION(i1)
TRT_FLOAT_FUNCTION(i0e)
TRT_FLOAT_FUNCTION(i1e)
TRT_DOUBLE_FUNCTION(erf)
TRT_DOUBLE_FUNCTION(erfc)
TRT_DOUBLE_FUNCTION(i0)
TRT_DOUBLE_FUNCTION(i1)
TRT_DOUBLE_FUNCTION(i0e)
TRT_DOUBLE_FUNCTION(i1e)

static const trt_unary_entry TRT_LEVEL(trt_special_table)[] = {
    TRT_UNARY_ROW("Erf", erf, f64, NPY_FLOAT64)
    TRT_UNARY_FLOATS("Erfc", erfc)
    TRT_UNARY_ROW("Erfinv", erfinv, f32, NPY_FLOAT32)
    TRT_UNARY_ROW("Ndtri", ndtri, f32, NPY_FLOAT32)
    TRT_UNARY_FLOATS("BesselI0", i0)
    TRT_UNARY_FLOATS("BesselI1", i1)
    TRT_UNARY_FLOATS("BesselI0e", i0e)
    TRT_UNARY_FLOATS("BesselI1e", i1e)
    {NULL, 0, 0, NULL}
};

#undef TRT_SPECIAL
#undef TRT_BESSEL
#undef TRT_ONE
#undef TRT_SAME
#undef TRT_EVEN
#undef TRT_FLOAT_FUNCTION
#undef TRT_DOUBLE_FUNCTION
#undef TRT_FMA_F32
#undef TRT_FMA_F64
