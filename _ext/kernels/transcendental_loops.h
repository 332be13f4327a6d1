/* Loops of exponentials, logarithms and what is made of them; see kernels/every_level.h. */

#include "kernels/math_functions.h"

#define TRT_FUNCTION(NAME) \
    TRT_UNARY(NAME, f32, trt_mem_f32, float, trt_mem_f32, TRT_LEVEL(trt_##NAME##_of_f32)(a)) \
    TRT_UNARY(NAME, f64, trt_mem_f64, double, trt_mem_f64, TRT_LEVEL(trt_##NAME##_of_f64)(a))
#define TRT_FORMULAS(MACRO, NAME, F32, F64) \
    MACRO(NAME, f32, trt_mem_f32, float, trt_mem_f32, F32) \
    MACRO(NAME, f64, trt_mem_f64, double, trt_mem_f64, F64)

TRT_FUNCTION(exp)
TRT_FUNCTION(expm1)
TRT_FUNCTION(log)
TRT_FUNCTION(log1p)
TRT_FUNCTION(tanh)
TRT_FUNCTION(sigmoid)

static inline __attribute__((always_inline)) TRT_TARGET float TRT_LEVEL(trt_elu_of_f32)(float a)
{
    const float below = TRT_LEVEL(trt_exp_of_f32)(a) - 1;
    return a < 0 ? below : a;
}

static inline __attribute__((always_inline)) TRT_TARGET double TRT_LEVEL(trt_elu_of_f64)(double a)
{
    const double below = TRT_LEVEL(trt_exp_of_f64)(a) - 1;
    return a < 0 ? below : a;
}

/* The thresholds are log(epsilon) + 2: beyond them exp(x), or x, is the result to the last place. */
static inline __attribute__((always_inline)) TRT_TARGET float TRT_LEVEL(trt_softplus_of_f32)(float a)
{
    const float low = -13.942385f, exponential = TRT_LEVEL(trt_exp_of_f32)(a < -low ? a : -low);
    const float middle = TRT_LEVEL(trt_log1p_of_f32)(exponential);
    return a > -low ? a : a < low ? exponential : a != a ? a : middle;
}

static inline __attribute__((always_inline)) TRT_TARGET double TRT_LEVEL(trt_softplus_of_f64)(double a)
{
    const double low = -34.04365338911715, exponential = TRT_LEVEL(trt_exp_of_f64)(a < -low ? a : -low);
    const double middle = TRT_LEVEL(trt_log1p_of_f64)(exponential);
    return a > -low ? a : a < low ? exponential : a != a ? a : middle;
}

/* An odd polynomial up to 1, and from there 1 - exp of another, which is the logarithm of erfc; both are the best of
 * their degree. From 4 on it is 1 to the last place. */
static inline __attribute__((always_inline)) TRT_TARGET float TRT_LEVEL(trt_erf_of_f32)(float a)
{
    const float size = __builtin_fabsf(a), square = a * a, x = size < 4 ? size : 4;
    float near = TRT_LEVEL(trt_fma_f32)(square, 0x1.496a0ap-14f, -0x1.a3f6f0p-11f);
    near = TRT_LEVEL(trt_fma_f32)(square, near, 0x1.5405b0p-8f);
    near = TRT_LEVEL(trt_fma_f32)(square, near, -0x1.b7f90cp-6f);
    near = TRT_LEVEL(trt_fma_f32)(square, near, 0x1.ce2cf8p-4f);
    near = TRT_LEVEL(trt_fma_f32)(square, near, -0x1.81273ep-2f);
    near = a * TRT_LEVEL(trt_fma_f32)(square, near, 0x1.20dd74p+0f);
    float far = TRT_LEVEL(trt_fma_f32)(x, -0x1.5e77eap-25f, -0x1.623958p-16f);
    far = TRT_LEVEL(trt_fma_f32)(x, far, 0x1.cb28a4p-12f);
    far = TRT_LEVEL(trt_fma_f32)(x, far, -0x1.12ca5ep-8f);
    far = TRT_LEVEL(trt_fma_f32)(x, far, 0x1.9c9f26p-6f);
    far = TRT_LEVEL(trt_fma_f32)(x, far, -0x1.bbf4f0p-4f);
    far = TRT_LEVEL(trt_fma_f32)(x, far, -0x1.443892p-1f);
    far = TRT_LEVEL(trt_fma_f32)(x, far, -0x1.212b5ap+0f);
    far = TRT_LEVEL(trt_fma_f32)(x, far, 0x1.861992p-13f);
    far = TRT_LEVEL(trt_copysign_f32)(1 - TRT_LEVEL(trt_exp_of_f32)(far), a);
    return size < 1 ? near : a != a ? a : far;
}

TRT_UNARY(erf, f32, trt_mem_f32, float, trt_mem_f32, TRT_LEVEL(trt_erf_of_f32)(a))
TRT_FORMULAS(TRT_UNARY, elu, TRT_LEVEL(trt_elu_of_f32)(a), TRT_LEVEL(trt_elu_of_f64)(a))
TRT_FORMULAS(TRT_UNARY, selu,
             a < 0 ? 1.7580993408473768599402175208123f * TRT_LEVEL(trt_elu_of_f32)(a)
                   : 1.0507009873554804934193349852946f * a,
             a < 0 ? 1.7580993408473768599402175208123 * TRT_LEVEL(trt_elu_of_f64)(a)
                   : 1.0507009873554804934193349852946 * a)
TRT_FORMULAS(TRT_UNARY, softplus, TRT_LEVEL(trt_softplus_of_f32)(a), TRT_LEVEL(trt_softplus_of_f64)(a))
TRT_FORMULAS(TRT_UNARY, floor, __builtin_floorf(a), __builtin_floor(a))
TRT_FORMULAS(TRT_UNARY, ceil, __builtin_ceilf(a), __builtin_ceil(a))
TRT_FORMULAS(TRT_UNARY, rint, __builtin_rintf(a), __builtin_rint(a))
TRT_UNARY(is_nan, f32, trt_mem_f32, float, trt_mem_u8, a != a)
TRT_UNARY(is_nan, f64, trt_mem_f64, double, trt_mem_u8, a != a)
TRT_UNARY(is_inf, f32, trt_mem_f32, float, trt_mem_u8, __builtin_fabsf(a) == __builtin_inff())
TRT_UNARY(is_inf, f64, trt_mem_f64, double, trt_mem_u8, __builtin_fabs(a) == __builtin_inf())
TRT_UNARY(is_finite, f32, trt_mem_f32, float, trt_mem_u8, __builtin_fabsf(a) < __builtin_inff())
TRT_UNARY(is_finite, f64, trt_mem_f64, double, trt_mem_u8, __builtin_fabs(a) < __builtin_inf())

/* The incoming gradient on the left; on the right the outputs, or the features for softplus. */
TRT_FLOATS(TRT_BINARY, elu_grad, b < 0 ? (b + 1) * a : a)
TRT_FORMULAS(TRT_BINARY, selu_grad,
             b < 0 ? a * (b + 1.7580993408473768599402175208123f) : a * 1.0507009873554804934193349852946f,
             b < 0 ? a * (b + 1.7580993408473768599402175208123) : a * 1.0507009873554804934193349852946)
TRT_FORMULAS(TRT_BINARY, softplus_grad, a / (TRT_LEVEL(trt_exp_of_f32)(-b) + 1), a / (TRT_LEVEL(trt_exp_of_f64)(-b) + 1))

#define TRT_TEST_ROWS(OP, NAME) \
    {OP, NPY_FLOAT32, NPY_BOOL, TRT_LEVEL(trt_##NAME##_f32)}, {OP, NPY_FLOAT64, NPY_BOOL, TRT_LEVEL(trt_##NAME##_f64)},

static const trt_unary_entry TRT_LEVEL(trt_function_table)[] = {
    TRT_UNARY_FLOATS("Exp", exp)
    TRT_UNARY_FLOATS("Expm1", expm1)
    TRT_UNARY_FLOATS("Log", log)
    TRT_UNARY_FLOATS("Log1p", log1p)
    TRT_UNARY_FLOATS("Tanh", tanh)
    TRT_UNARY_FLOATS("Sigmoid", sigmoid)
    TRT_UNARY_FLOATS("Elu", elu)
    TRT_UNARY_FLOATS("Selu", selu)
    TRT_UNARY_FLOATS("Softplus", softplus)
    TRT_UNARY_ROW("Erf", erf, f32, NPY_FLOAT32)
    TRT_UNARY_FLOATS("Floor", floor)
    TRT_UNARY_FLOATS("Ceil", ceil)
    TRT_UNARY_FLOATS("Rint", rint)
    TRT_UNARY_FLOATS("Round", rint)
    TRT_TEST_ROWS("IsNan", is_nan)
    TRT_TEST_ROWS("IsInf", is_inf)
    TRT_TEST_ROWS("IsFinite", is_finite)
    {NULL, 0, 0, NULL}
};

static const trt_binary_entry TRT_LEVEL(trt_function_gradient_table)[] = {
    TRT_FLOAT_ROWS("EluGrad", elu_grad)
    TRT_FLOAT_ROWS("SeluGrad", selu_grad)
    TRT_FLOAT_ROWS("SoftplusGrad", softplus_grad)
    {NULL, 0, 0, NULL, NULL, NULL}
};

#undef TRT_FUNCTION
#undef TRT_FORMULAS
#undef TRT_TEST_ROWS
