/* Loops of reductions along rows and down columns; see kernels/every_level.h.
 *
 * Sums of floating-point numbers go into the same lanes, and these are added in the same order, at every level: the
 * levels agree bit for bit. Long sums are split into halves (pairwise summation), so that the error grows with the
 * logarithm of their length.
 */

#define TRT_PAIRWISE_SUM(TYPE, MEM, C) \
    static TRT_TARGET C TRT_LEVEL(trt_sum_##TYPE)(const MEM *x, npy_intp count) \
    { \
        enum { LANES = 64 / sizeof(C) }; \
        if (count > TRT_SUM_BLOCK) { \
            npy_intp half = (count / 2 + 2 * LANES - 1) / (2 * LANES) * (2 * LANES); \
            return TRT_LEVEL(trt_sum_##TYPE)(x, half) + TRT_LEVEL(trt_sum_##TYPE)(x + half, count - half); \
        } \
        C rest = 0; \
        npy_intp i = 0; \
        if (count >= 2 * LANES) { \
            trt_vector_##TYPE even = {0}, odd = {0}; \
            for (; i + 2 * LANES <= count; i += 2 * LANES) { \
                even += *(const trt_mem_vector_##TYPE *)(x + i); \
                odd += *(const trt_mem_vector_##TYPE *)(x + i + LANES); \
            } \
            even += odd; \
            C lanes[LANES]; \
            memcpy(lanes, &even, sizeof(lanes)); \
            for (int width = LANES / 2; width > 0; width /= 2) \
                for (int k = 0; k < width; k++) \
                    lanes[k] += lanes[k + width]; \
            rest = lanes[0]; \
        } \
        for (; i < count; i++) \
            rest += x[i]; \
        return rest; \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_sum_rows_##TYPE)(char *out_, const char *x_, npy_intp rows, npy_intp count) \
    { \
        MEM *out = (MEM *)out_; \
        const MEM *x = (const MEM *)x_; \
        for (npy_intp row = 0; row < rows; row++, x += count) \
            out[row] = TRT_LEVEL(trt_sum_##TYPE)(x, count); \
    } \
    /* Down a strip of columns. */ \
    static TRT_TARGET void TRT_LEVEL(trt_sum_strip_##TYPE)(MEM *out, const MEM *x, npy_intp rows, npy_intp step, \
                                                           npy_intp width) \
    { \
        if (rows > 2 * TRT_STRIP_ROWS) { \
            C second[TRT_STRIP_WIDTH]; \
            npy_intp half = rows / 2; \
            TRT_LEVEL(trt_sum_strip_##TYPE)(out, x, half, step, width); \
            TRT_LEVEL(trt_sum_strip_##TYPE)((MEM *)second, x + half * step, rows - half, step, width); \
            for (npy_intp k = 0; k < width; k++) \
                out[k] += second[k]; \
            return; \
        } \
        C total[TRT_STRIP_WIDTH]; \
        for (npy_intp k = 0; k < width; k++) \
            total[k] = x[k]; \
        npy_intp row = 1; \
        for (; row + 4 <= rows; row += 4) { \
            const MEM *at = x + row * step; \
            for (npy_intp k = 0; k < width; k++) \
                total[k] += (at[k] + at[step + k]) + (at[2 * step + k] + at[3 * step + k]); \
        } \
        for (; row < rows; row++) { \
            const MEM *at = x + row * step; \
            for (npy_intp k = 0; k < width; k++) \
                total[k] += at[k]; \
        } \
        for (npy_intp k = 0; k < width; k++) \
            out[k] = total[k]; \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_sum_columns_##TYPE)(char *out_, const char *x_, npy_intp rows, \
                                                             npy_intp step, npy_intp width) \
    { \
        MEM *out = (MEM *)out_; \
        const MEM *x = (const MEM *)x_; \
        if (rows == 0) { \
            memset(out_, 0, width * sizeof(C)); \
            return; \
        } \
        for (npy_intp start = 0; start < width; start += TRT_STRIP_WIDTH) { \
            npy_intp strip = width - start < TRT_STRIP_WIDTH ? width - start : TRT_STRIP_WIDTH; \
            TRT_LEVEL(trt_sum_strip_##TYPE)(out + start, x + start, rows, step, strip); \
        } \
    }

/* Reductions whose result does not depend on the order. `a` is the result so far, `b` the next element. */
#define TRT_FOLD(NAME, TYPE, MEM, C, FIRST, FORMULA) \
    static TRT_TARGET void TRT_LEVEL(trt_##NAME##_rows_##TYPE)(char *out_, const char *x_, npy_intp rows, \
                                                               npy_intp count) \
    { \
        enum { LANES = 256 / sizeof(C) }; \
        MEM *out = (MEM *)out_; \
        const MEM *x = (const MEM *)x_; \
        for (npy_intp row = 0; row < rows; row++, x += count) { \
            C a = FIRST; \
            npy_intp i = 0; \
            if (count >= 4 * LANES) { \
                C lanes[LANES]; \
                for (int k = 0; k < LANES; k++) \
                    lanes[k] = FIRST; \
                for (; i + LANES <= count; i += LANES) \
                    for (int k = 0; k < LANES; k++) { \
                        const C a = lanes[k], b = x[i + k]; \
                        lanes[k] = FORMULA; \
                    } \
                for (int k = 0; k < LANES; k++) { \
                    const C b = lanes[k]; \
                    a = FORMULA; \
                } \
            } \
            for (; i < count; i++) { \
                const C b = x[i]; \
                a = FORMULA; \
            } \
            out[row] = a; \
        } \
    } \
    static TRT_TARGET void TRT_LEVEL(trt_##NAME##_columns_##TYPE)(char *out_, const char *x_, npy_intp rows, \
                                                                  npy_intp step, npy_intp width) \
    { \
        MEM *out = (MEM *)out_; \
        const MEM *x = (const MEM *)x_; \
        for (npy_intp k = 0; k < width; k++) \
            out[k] = FIRST; \
        for (npy_intp row = 0; row < rows; row++, x += step) { \
            TRT_INDEPENDENT \
            for (npy_intp k = 0; k < width; k++) { \
                const C a = out[k], b = x[k]; \
                out[k] = FORMULA; \
            } \
        } \
    }

TRT_PAIRWISE_SUM(f32, trt_mem_f32, float)
TRT_PAIRWISE_SUM(f64, trt_mem_f64, double)
TRT_FOLD(sum, i32, trt_mem_u32, uint32_t, 0, a + b)
TRT_FOLD(sum, i64, trt_mem_u64, uint64_t, 0, a + b)
TRT_FOLD(prod, f32, trt_mem_f32, float, 1, a * b)
TRT_FOLD(prod, f64, trt_mem_f64, double, 1, a * b)
TRT_FOLD(prod, i32, trt_mem_u32, uint32_t, 1, a * b)
TRT_FOLD(prod, i64, trt_mem_u64, uint64_t, 1, a * b)
/* NaN wins. */
TRT_FOLD(max, f32, trt_mem_f32, float, -INFINITY, a > b ? a : a != a ? a : b)
TRT_FOLD(max, f64, trt_mem_f64, double, -INFINITY, a > b ? a : a != a ? a : b)
TRT_FOLD(max, i32, trt_mem_i32, int32_t, INT32_MIN, a > b ? a : b)
TRT_FOLD(max, i64, trt_mem_i64, int64_t, INT64_MIN, a > b ? a : b)
TRT_FOLD(min, f32, trt_mem_f32, float, INFINITY, a < b ? a : a != a ? a : b)
TRT_FOLD(min, f64, trt_mem_f64, double, INFINITY, a < b ? a : a != a ? a : b)
TRT_FOLD(min, i32, trt_mem_i32, int32_t, INT32_MAX, a < b ? a : b)
TRT_FOLD(min, i64, trt_mem_i64, int64_t, INT64_MAX, a < b ? a : b)
TRT_FOLD(all, bool, trt_mem_u8, uint8_t, 1, (a != 0) & (b != 0))
TRT_FOLD(any, bool, trt_mem_u8, uint8_t, 0, (a != 0) | (b != 0))

#define TRT_REDUCTION(OP, NAME, TYPE, NUM) \
    {OP, NUM, TRT_LEVEL(trt_##NAME##_rows_##TYPE), TRT_LEVEL(trt_##NAME##_columns_##TYPE)},
#define TRT_REDUCTIONS(OP, NAME) \
    TRT_REDUCTION(OP, NAME, f32, NPY_FLOAT32) TRT_REDUCTION(OP, NAME, f64, NPY_FLOAT64) \
    TRT_REDUCTION(OP, NAME, i32, NPY_INT32) TRT_REDUCTION(OP, NAME, i64, NPY_INT64)

static const trt_reduction_entry TRT_LEVEL(trt_reduction_table)[] = {
    TRT_REDUCTIONS("Sum", sum)
    TRT_REDUCTION("Mean", sum, f32, NPY_FLOAT32)
    TRT_REDUCTION("Mean", sum, f64, NPY_FLOAT64)
    TRT_REDUCTIONS("Max", max)
    TRT_REDUCTIONS("Min", min)
    TRT_REDUCTIONS("Prod", prod)
    TRT_REDUCTION("All", all, bool, NPY_BOOL)
    TRT_REDUCTION("Any", any, bool, NPY_BOOL)
    TRT_REDUCTION("BiasAddGrad", sum, f32, NPY_FLOAT32)
    TRT_REDUCTION("BiasAddGrad", sum, f64, NPY_FLOAT64)
    {NULL, 0, NULL, NULL}
};

/* Where the largest or smallest element of each column is: x is [count, inner], of which `width` columns are looked at;
 * the first of equals is taken, and what is NaN is not. */
#define TRT_ARG(NAME, TYPE, MEM, C, INDEX, LOWEST, BETTER) \
    static TRT_TARGET void TRT_LEVEL(trt_##NAME##_##TYPE)(trt_mem_i64 *out, const char *x_, npy_intp count, \
                                                          npy_intp inner, npy_intp width) \
    { \
        enum { LANES = 256 / sizeof(C) }; \
        const MEM *x = (const MEM *)x_; \
        if (inner == 1) { \
            C lanes[LANES], best = LOWEST; \
            npy_intp i = 0; \
            for (int k = 0; k < LANES; k++) \
                lanes[k] = LOWEST; \
            for (; i + LANES <= count; i += LANES) \
                for (int k = 0; k < LANES; k++) { \
                    const C a = x[i + k], b = lanes[k]; \
                    lanes[k] = BETTER ? a : b; \
                } \
            for (int k = 0; k < LANES; k++) { \
                const C a = lanes[k], b = best; \
                best = BETTER ? a : b; \
            } \
            for (; i < count; i++) { \
                const C a = x[i], b = best; \
                best = BETTER ? a : b; \
            } \
            out[0] = 0; \
            if (best == (C)LOWEST) \
                return; \
            for (i = 0; i + LANES <= count; i += LANES) { \
                int here = 0; \
                for (int k = 0; k < LANES; k++) \
                    here |= x[i + k] == best; \
                if (here) \
                    break; \
            } \
            while (i < count - 1 && x[i] != best) \
                i++; \
            out[0] = i; \
            return; \
        } \
        for (npy_intp start = 0; start < width; start += TRT_STRIP_WIDTH) { \
            C best[TRT_STRIP_WIDTH]; \
            INDEX found[TRT_STRIP_WIDTH]; \
            const npy_intp strip = width - start < TRT_STRIP_WIDTH ? width - start : TRT_STRIP_WIDTH; \
            for (npy_intp k = 0; k < strip; k++) { \
                best[k] = LOWEST; \
                found[k] = 0; \
            } \
            for (npy_intp i = 0; i < count; i++) { \
                const MEM *row = x + i * inner + start; \
                for (npy_intp k = 0; k < strip; k++) { \
                    const C a = row[k], b = best[k]; \
                    const int better = BETTER; \
                    best[k] = better ? a : b; \
                    found[k] = better ? (INDEX)i : found[k]; \
                } \
            } \
            for (npy_intp k = 0; k < strip; k++) \
                out[start + k] = found[k]; \
        } \
    }
#define TRT_ARG_BOTH(TYPE, MEM, C, INDEX, LOWEST, HIGHEST) \
    TRT_ARG(argmax, TYPE, MEM, C, INDEX, LOWEST, a > b) \
    TRT_ARG(argmin, TYPE, MEM, C, INDEX, HIGHEST, a < b)
/* An index as wide as the elements fits their vectors; 2^31 rows of 4 bytes are declined. */
TRT_ARG_BOTH(f32, trt_mem_f32, float, int32_t, -INFINITY, INFINITY)
TRT_ARG_BOTH(f64, trt_mem_f64, double, int64_t, -INFINITY, INFINITY)
TRT_ARG_BOTH(i32, trt_mem_i32, int32_t, int32_t, INT32_MIN, INT32_MAX)
TRT_ARG_BOTH(i64, trt_mem_i64, int64_t, int64_t, INT64_MIN, INT64_MAX)

#define TRT_ARG_ROWS(OP, NAME) \
    {OP, NPY_FLOAT32, TRT_LEVEL(trt_##NAME##_f32)}, {OP, NPY_FLOAT64, TRT_LEVEL(trt_##NAME##_f64)}, \
    {OP, NPY_INT32, TRT_LEVEL(trt_##NAME##_i32)}, {OP, NPY_INT64, TRT_LEVEL(trt_##NAME##_i64)},
static const trt_arg_entry TRT_LEVEL(trt_arg_table)[] = {
    TRT_ARG_ROWS("ArgMax", argmax)
    TRT_ARG_ROWS("ArgMin", argmin)
    {NULL, 0, NULL}
};

#undef TRT_PAIRWISE_SUM
#undef TRT_FOLD
#undef TRT_REDUCTION
#undef TRT_REDUCTIONS
#undef TRT_ARG
#undef TRT_ARG_BOTH
#undef TRT_ARG_ROWS
