/* Loops of activations, of gradients that are formulas of two arrays, and of casts; see kernels/every_level.h.
 *
 * A gradient of an activation takes the incoming gradient on the left and the features on the right; one of a function
 * takes the function's value on the left and the incoming gradient on the right.
 */

#define TRT_MAX(x, y) ((x) > (y) ? (x) : (x) != (x) ? (x) : (y))
#define TRT_MIN(x, y) ((x) < (y) ? (x) : (x) != (x) ? (x) : (y))

TRT_FLOATS(TRT_UNARY, relu, TRT_MAX(a, 0))
TRT_FLOATS(TRT_UNARY, relu6, a > 0 ? (a < 6 ? a : 6) : a != a ? a : 0)
TRT_UNARY(softsign, f32, trt_mem_f32, float, trt_mem_f32, a / (__builtin_fabsf(a) + 1))
TRT_UNARY(softsign, f64, trt_mem_f64, double, trt_mem_f64, a / (__builtin_fabs(a) + 1))
/* Products, not selections: an infinite gradient at a negative feature gives NaN. */
TRT_FLOATS(TRT_BINARY, relu_grad, a * (b > 0 ? 1 : 0))
TRT_FLOATS(TRT_BINARY, relu6_grad, a * (((b > 0) & (b < 6)) ? 1 : 0))
TRT_BINARY(softsign_grad, f32, trt_mem_f32, float, trt_mem_f32,
           a / ((__builtin_fabsf(b) + 1) * (__builtin_fabsf(b) + 1)))
TRT_BINARY(softsign_grad, f64, trt_mem_f64, double, trt_mem_f64,
           a / ((__builtin_fabs(b) + 1) * (__builtin_fabs(b) + 1)))
TRT_FLOATS(TRT_BINARY, tanh_grad, b * (1 - a * a))
TRT_FLOATS(TRT_BINARY, sigmoid_grad, b * a * (1 - a))
TRT_BINARY(sqrt_grad, f32, trt_mem_f32, float, trt_mem_f32, b * 0.5f / a)
TRT_BINARY(sqrt_grad, f64, trt_mem_f64, double, trt_mem_f64, b * 0.5 / a)
TRT_BINARY(rsqrt_grad, f32, trt_mem_f32, float, trt_mem_f32, b * -0.5f * a * (a * a))
TRT_BINARY(rsqrt_grad, f64, trt_mem_f64, double, trt_mem_f64, b * -0.5 * a * (a * a))
TRT_FLOATS(TRT_BINARY, reciprocal_grad, -b * (a * a))
TRT_FLOATS(TRT_BINARY, bias, a + b)
/* With the slope as the right side. */
TRT_FLOATS(TRT_BINARY, leaky_relu, TRT_MAX(a, a * b))
TRT_FLOATS(TRT_BINARY, leaky_relu_steep, TRT_MIN(a, a * b))

#undef TRT_MAX
#undef TRT_MIN

static const trt_unary_entry TRT_LEVEL(trt_activation_table)[] = {
    TRT_UNARY_FLOATS("Relu", relu)
    TRT_UNARY_FLOATS("Relu6", relu6)
    TRT_UNARY_FLOATS("Softsign", softsign)
    {NULL, 0, 0, NULL}
};

static const trt_binary_entry TRT_LEVEL(trt_gradient_table)[] = {
    TRT_FLOAT_ROWS("ReluGrad", relu_grad)
    TRT_FLOAT_ROWS("Relu6Grad", relu6_grad)
    TRT_FLOAT_ROWS("SoftsignGrad", softsign_grad)
    TRT_FLOAT_ROWS("TanhGrad", tanh_grad)
    TRT_FLOAT_ROWS("SigmoidGrad", sigmoid_grad)
    TRT_FLOAT_ROWS("SqrtGrad", sqrt_grad)
    TRT_FLOAT_ROWS("RsqrtGrad", rsqrt_grad)
    TRT_FLOAT_ROWS("ReciprocalGrad", reciprocal_grad)
    TRT_FLOAT_ROWS("InvGrad", reciprocal_grad)
    {NULL, 0, 0, NULL, NULL, NULL}
};

static const trt_binary_entry TRT_LEVEL(trt_slope_table)[] = {
    TRT_FLOAT_ROWS("LeakyRelu", leaky_relu)
    TRT_FLOAT_ROWS("steep LeakyRelu", leaky_relu_steep)
    {NULL, 0, 0, NULL, NULL, NULL}
};

static const trt_binary_entry TRT_LEVEL(trt_bias_table)[] = {
    TRT_FLOAT_ROWS("BiasAdd", bias)
    {NULL, 0, 0, NULL, NULL, NULL}
};

#define TRT_LEAKY_GRAD(TYPE, MEM, C) \
    static TRT_TARGET void TRT_LEVEL(trt_leaky_grad_##TYPE)(char *out_, const char *g_, const char *x_, double slope, \
                                                            npy_intp count) \
    { \
        MEM *out = (MEM *)out_; \
        const MEM *g = (const MEM *)g_, *x = (const MEM *)x_; \
        const C alpha = (C)slope; \
        TRT_INDEPENDENT \
        for (npy_intp i = 0; i < count; i++) { \
            const C a = g[i], b = x[i]; \
            out[i] = b > 0 ? a : a * alpha; \
        } \
    }
TRT_LEAKY_GRAD(f32, trt_mem_f32, float)
TRT_LEAKY_GRAD(f64, trt_mem_f64, double)
#undef TRT_LEAKY_GRAD
