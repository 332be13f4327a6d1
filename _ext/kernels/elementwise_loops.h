/* Loops of element-wise ops, one per op and type, and the tables of them; see kernels/every_level.h.
 *
 * Each gives what the definition written over numpy gives, bit by bit. The sums, differences and products of signed
 * integers are those of unsigned ones: they wrap around, which C promises for unsigned types only.
 */

#define TRT_BINARY(NAME, TYPE, MEM, C, OUT_MEM, FORMULA) \
    static TRT_TARGET void TRT_LEVEL(trt_##NAME##_##TYPE##_both)(char *out_, const char *x_, const char *y_, \
                                                                npy_intp count) \
    { \
        OUT_MEM *out = (OUT_MEM *)out_; \
        const MEM *x = (const MEM *)x_, *y = (const MEM *)y_; \
        TRT_INDEPENDENT \
        for (npy_intp i = 0; i < count; i++) { \
            const C a = x[i], b = y[i]; \
            out[i] = FORMULA; \
        } \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_##NAME##_##TYPE##_right)(char *out_, const char *x_, const char *y_, \
                                                                 npy_intp count) \
    { \
        OUT_MEM *out = (OUT_MEM *)out_; \
        const MEM *x = (const MEM *)x_; \
        const C b = *(const MEM *)y_; \
        TRT_INDEPENDENT \
        for (npy_intp i = 0; i < count; i++) { \
            const C a = x[i]; \
            out[i] = FORMULA; \
        } \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_##NAME##_##TYPE##_left)(char *out_, const char *x_, const char *y_, \
                                                                npy_intp count) \
    { \
        OUT_MEM *out = (OUT_MEM *)out_; \
        const MEM *y = (const MEM *)y_; \
        const C a = *(const MEM *)x_; \
        TRT_INDEPENDENT \
        for (npy_intp i = 0; i < count; i++) { \
            const C b = y[i]; \
            out[i] = FORMULA; \
        } \
    }

#define TRT_UNARY(NAME, TYPE, MEM, C, OUT_MEM, FORMULA) \
    static TRT_TARGET void TRT_LEVEL(trt_##NAME##_##TYPE)(char *out_, const char *x_, npy_intp count) \
    { \
        OUT_MEM *out = (OUT_MEM *)out_; \
        const MEM *x = (const MEM *)x_; \
        TRT_INDEPENDENT \
        for (npy_intp i = 0; i < count; i++) { \
            const C a = x[i]; \
            out[i] = FORMULA; \
        } \
    }

#define TRT_FLOATS(MACRO, NAME, FORMULA) \
    MACRO(NAME, f32, trt_mem_f32, float, trt_mem_f32, FORMULA) \
    MACRO(NAME, f64, trt_mem_f64, double, trt_mem_f64, FORMULA)
#define TRT_WRAPPING(MACRO, NAME, FORMULA) \
    MACRO(NAME, i32, trt_mem_u32, uint32_t, trt_mem_u32, FORMULA) \
    MACRO(NAME, i64, trt_mem_u64, uint64_t, trt_mem_u64, FORMULA)
#define TRT_SIGNED(MACRO, NAME, FORMULA) \
    MACRO(NAME, i32, trt_mem_i32, int32_t, trt_mem_i32, FORMULA) \
    MACRO(NAME, i64, trt_mem_i64, int64_t, trt_mem_i64, FORMULA)
#define TRT_COMPARE(NAME, FORMULA) \
    TRT_BINARY(NAME, f32, trt_mem_f32, float, trt_mem_u8, FORMULA) \
    TRT_BINARY(NAME, f64, trt_mem_f64, double, trt_mem_u8, FORMULA) \
    TRT_BINARY(NAME, i32, trt_mem_i32, int32_t, trt_mem_u8, FORMULA) \
    TRT_BINARY(NAME, i64, trt_mem_i64, int64_t, trt_mem_u8, FORMULA)
#define TRT_LOGIC(MACRO, NAME, FORMULA) MACRO(NAME, bool, trt_mem_u8, uint8_t, trt_mem_u8, FORMULA)

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

#define TRT_ROW(OP, NAME, TYPE, NUM, OUT_NUM) \
    {OP, NUM, OUT_NUM, TRT_LEVEL(trt_##NAME##_##TYPE##_both), TRT_LEVEL(trt_##NAME##_##TYPE##_right), \
     TRT_LEVEL(trt_##NAME##_##TYPE##_left)},
#define TRT_FLOAT_ROWS(OP, NAME) \
    TRT_ROW(OP, NAME, f32, NPY_FLOAT32, NPY_FLOAT32) TRT_ROW(OP, NAME, f64, NPY_FLOAT64, NPY_FLOAT64)
#define TRT_NUMBER_ROWS(OP, NAME) \
    TRT_FLOAT_ROWS(OP, NAME) \
    TRT_ROW(OP, NAME, i32, NPY_INT32, NPY_INT32) TRT_ROW(OP, NAME, i64, NPY_INT64, NPY_INT64)
#define TRT_COMPARE_ROWS(OP, NAME) \
    TRT_ROW(OP, NAME, f32, NPY_FLOAT32, NPY_BOOL) TRT_ROW(OP, NAME, f64, NPY_FLOAT64, NPY_BOOL) \
    TRT_ROW(OP, NAME, i32, NPY_INT32, NPY_BOOL) TRT_ROW(OP, NAME, i64, NPY_INT64, NPY_BOOL)

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
    TRT_ROW("LogicalAnd", logical_and, bool, NPY_BOOL, NPY_BOOL)
    TRT_ROW("LogicalOr", logical_or, bool, NPY_BOOL, NPY_BOOL)
    {NULL, 0, 0, NULL, NULL, NULL}
};

#define TRT_UNARY_ROW(OP, NAME, TYPE, NUM) {OP, NUM, NUM, TRT_LEVEL(trt_##NAME##_##TYPE)},
#define TRT_UNARY_FLOATS(OP, NAME) TRT_UNARY_ROW(OP, NAME, f32, NPY_FLOAT32) TRT_UNARY_ROW(OP, NAME, f64, NPY_FLOAT64)
#define TRT_UNARY_NUMBERS(OP, NAME) \
    TRT_UNARY_FLOATS(OP, NAME) TRT_UNARY_ROW(OP, NAME, i32, NPY_INT32) TRT_UNARY_ROW(OP, NAME, i64, NPY_INT64)

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

#undef TRT_BINARY
#undef TRT_UNARY
#undef TRT_FLOATS
#undef TRT_WRAPPING
#undef TRT_SIGNED
#undef TRT_COMPARE
#undef TRT_LOGIC
#undef TRT_ROW
#undef TRT_FLOAT_ROWS
#undef TRT_NUMBER_ROWS
#undef TRT_COMPARE_ROWS
#undef TRT_UNARY_ROW
#undef TRT_UNARY_FLOATS
#undef TRT_UNARY_NUMBERS
