/* Formulas of several steps for a type of 16 bits, each step rounded to it; included once for each type and level.
 *
 * Their elements are floats with values of the type: TRT_R rounds to those, and the last rounding is the caller's. What
 * is one step, or is rounded once, needs no loop of its own: the loop for float serves.
 */
#define TRT_UNARY_KIND(KIND, NAME, FORMULA) TRT_UNARY(NAME, KIND, trt_mem_f32, float, trt_mem_f32, FORMULA)
#define TRT_BINARY_KIND(KIND, NAME, FORMULA) TRT_BINARY(NAME, KIND, trt_mem_f32, float, trt_mem_f32, FORMULA)
#define TRT_UNARY_HERE(NAME, FORMULA) TRT_UNARY_KIND(TRT_KIND, NAME, FORMULA)
#define TRT_BINARY_HERE(NAME, FORMULA) TRT_BINARY_KIND(TRT_KIND, NAME, FORMULA)
#define TRT_EXP_HERE(x) TRT_R(TRT_LEVEL(trt_exp_of_f32)(x))
#define TRT_SELU_SCALE TRT_R(1.0507009873554804934193349852946f)
#define TRT_SELU_SCALE_ALPHA TRT_R(1.7580993408473768599402175208123f)
#define TRT_BELOW(x) ((x) > 0 ? 0 : (x))

TRT_BINARY_HERE(squared_difference, TRT_R(a - b) * TRT_R(a - b))
TRT_UNARY_HERE(softsign, a / TRT_R(__builtin_fabsf(a) + 1))
TRT_UNARY_HERE(elu, a < 0 ? TRT_EXP_HERE(TRT_BELOW(a)) - 1 : a)
TRT_UNARY_HERE(selu, a < 0 ? TRT_SELU_SCALE_ALPHA * TRT_R(TRT_EXP_HERE(TRT_BELOW(a)) - 1) : TRT_SELU_SCALE * a)
/* The threshold is log(epsilon) + 2: beyond it exp(x), or x, is the result. */
TRT_UNARY_HERE(softplus, a > -TRT_SOFTPLUS_LOW ? a : a != a ? a
               : a < TRT_SOFTPLUS_LOW ? TRT_LEVEL(trt_exp_of_f32)(a) : TRT_LEVEL(trt_log1p_of_f32)(TRT_EXP_HERE(a)))
/* The incoming gradient on the left; on the right the outputs, or the features for softplus and softsign. */
TRT_BINARY_HERE(softsign_grad,
                a / TRT_R(TRT_R(__builtin_fabsf(b) + 1) * TRT_R(__builtin_fabsf(b) + 1)))
TRT_BINARY_HERE(elu_grad, b < 0 ? TRT_R(b + 1) * a : a)
TRT_BINARY_HERE(selu_grad, b < 0 ? a * TRT_R(b + TRT_SELU_SCALE_ALPHA) : a * TRT_SELU_SCALE)
TRT_BINARY_HERE(softplus_grad, a / TRT_R(TRT_EXP_HERE(-b) + 1))

#undef TRT_UNARY_KIND
#undef TRT_BINARY_KIND
#undef TRT_UNARY_HERE
#undef TRT_BINARY_HERE
#undef TRT_EXP_HERE
#undef TRT_SELU_SCALE
#undef TRT_SELU_SCALE_ALPHA
#undef TRT_BELOW
