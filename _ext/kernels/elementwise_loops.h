/* Loops of element-wise ops, one per op and type, and the tables of them; see kernels/every_level.h.
 *
 * Each gives what the definition written over numpy gives, bit by bit. The sums, differences and products of signed
 * integers are those of unsigned ones: they wrap around, which C promises for unsigned types only.
 */

TRT_FLOATS(TRT_BINARY, add, a + b)
TRT_FLOATS(TRT_BINARY, sub, a - b)
TRT_FLOATS(TRT_BINARY, mul, a * b)
TRT_FLOATS(TRT_BINARY, div, a / b)
TRT_FLOATS(TRT_BINARY, div_no_nan, b == 0 ? 0 : a / b)
TRT_FLOATS(TRT_BINARY, mul_no_nan, b == 0 ? 0 : a * b)
TRT_FLOATS(TRT_BINARY, squared_difference, (a - b) * (a - b))
/* NaN wins, the left one first; of two zeros the right one is taken. */
TRT_FLOATS(TRT_BINARY, maximum, a > b ? a : a != a ? a : b)
TRT_FLOATS(TRT_BINARY, minimum, a < b ? a : a != a ? a : b)
TRT_WRAPPING(TRT_BINARY, add, a + b)
TRT_WRAPPING(TRT_BINARY, sub, a - b)
TRT_WRAPPING(TRT_BINARY, mul, a * b)
TRT_WRAPPING(TRT_BINARY, squared_difference, (a - b) * (a - b))
TRT_SIGNED(TRT_BINARY, maximum, a > b ? a : b)
TRT_SIGNED(TRT_BINARY, minimum, a < b ? a : b)
TRT_COMPARE(less, a < b)
TRT_COMPARE(less_equal, a <= b)
TRT_COMPARE(greater, a > b)
TRT_COMPARE(greater_equal, a >= b)
TRT_COMPARE(equal, a == b)
TRT_COMPARE(not_equal, a != b)
/* A fed truth value is true whatever its byte is, unless that is zero. */
TRT_LOGIC(TRT_BINARY, logical_and, (a != 0) & (b != 0))
TRT_LOGIC(TRT_BINARY, logical_or, (a != 0) | (b != 0))
TRT_LOGIC(TRT_BINARY, equal, (a != 0) == (b != 0))
TRT_LOGIC(TRT_BINARY, not_equal, (a != 0) != (b != 0))

TRT_FLOATS(TRT_UNARY, neg, -a)
TRT_WRAPPING(TRT_UNARY, neg, 0 - a)
TRT_FLOATS(TRT_UNARY, square, a * a)
TRT_WRAPPING(TRT_UNARY, square, a * a)
TRT_UNARY(abs, f32, trt_mem_f32, float, trt_mem_f32, __builtin_fabsf(a))
TRT_UNARY(abs, f64, trt_mem_f64, double, trt_mem_f64, __builtin_fabs(a))
TRT_UNARY(abs, i32, trt_mem_i32, int32_t, trt_mem_u32, a < 0 ? 0 - (uint32_t)a : (uint32_t)a)
TRT_UNARY(abs, i64, trt_mem_i64, int64_t, trt_mem_u64, a < 0 ? 0 - (uint64_t)a : (uint64_t)a)
TRT_FLOATS(TRT_UNARY, sign, a > 0 ? 1 : a < 0 ? -1 : a == 0 ? 0 : a)
TRT_SIGNED(TRT_UNARY, sign, (a > 0) - (a < 0))
TRT_UNARY(sqrt, f32, trt_mem_f32, float, trt_mem_f32, __builtin_sqrtf(a))
TRT_UNARY(sqrt, f64, trt_mem_f64, double, trt_mem_f64, __builtin_sqrt(a))
TRT_UNARY(rsqrt, f32, trt_mem_f32, float, trt_mem_f32, 1 / __builtin_sqrtf(a))
TRT_UNARY(rsqrt, f64, trt_mem_f64, double, trt_mem_f64, 1 / __builtin_sqrt(a))
TRT_FLOATS(TRT_UNARY, reciprocal, 1 / a)
TRT_LOGIC(TRT_UNARY, logical_not, a == 0)

static const trt_binary_entry TRT_LEVEL(trt_binary_table)[] = {
    TRT_NUMBER_ROWS("Add", add)
    TRT_NUMBER_ROWS("AddV2", add)
    TRT_NUMBER_ROWS("AddN", add)
    TRT_NUMBER_ROWS("Sub", sub)
    TRT_NUMBER_ROWS("Mul", mul)
    TRT_FLOAT_ROWS("RealDiv", div)
    TRT_FLOAT_ROWS("Div", div)
    TRT_FLOAT_ROWS("DivNoNan", div_no_nan)
    TRT_FLOAT_ROWS("MulNoNan", mul_no_nan)
    TRT_NUMBER_ROWS("SquaredDifference", squared_difference)
    TRT_NUMBER_ROWS("Maximum", maximum)
    TRT_NUMBER_ROWS("Minimum", minimum)
    TRT_COMPARE_ROWS("Less", less)
    TRT_COMPARE_ROWS("LessEqual", less_equal)
    TRT_COMPARE_ROWS("Greater", greater)
    TRT_COMPARE_ROWS("GreaterEqual", greater_equal)
    TRT_COMPARE_ROWS("Equal", equal)
    TRT_COMPARE_ROWS("NotEqual", not_equal)
    TRT_ROW("Equal", equal, bool, NPY_BOOL, NPY_BOOL)
    TRT_ROW("NotEqual", not_equal, bool, NPY_BOOL, NPY_BOOL)
    TRT_ROW("LogicalAnd", logical_and, bool, NPY_BOOL, NPY_BOOL)
    TRT_ROW("LogicalOr", logical_or, bool, NPY_BOOL, NPY_BOOL)
    {NULL, 0, 0, NULL, NULL, NULL}
};

static const trt_unary_entry TRT_LEVEL(trt_unary_table)[] = {
    TRT_UNARY_NUMBERS("Neg", neg)
    TRT_UNARY_NUMBERS("Abs", abs)
    TRT_UNARY_NUMBERS("Sign", sign)
    TRT_UNARY_NUMBERS("Square", square)
    TRT_UNARY_FLOATS("Sqrt", sqrt)
    TRT_UNARY_FLOATS("Rsqrt", rsqrt)
    TRT_UNARY_FLOATS("Reciprocal", reciprocal)
    TRT_UNARY_FLOATS("Inv", reciprocal)
    TRT_UNARY_ROW("LogicalNot", logical_not, bool, NPY_BOOL)
    {NULL, 0, 0, NULL}
};
