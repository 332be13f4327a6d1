/* What tables of loops are written with: macros that make the loops of a formula for several types, and their rows.
 *
 * A formula is over `a` and `b`, elements of the left and the right side. TRT_LEVEL and TRT_TARGET are those of the
 * level that is being compiled; see kernels/every_level.h.
 */
#ifndef TRT_KERNELS_LOOP_MAKERS_H
#define TRT_KERNELS_LOOP_MAKERS_H

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

#define TRT_UNARY_ROW(OP, NAME, TYPE, NUM) {OP, NUM, NUM, TRT_LEVEL(trt_##NAME##_##TYPE)},
#define TRT_UNARY_FLOATS(OP, NAME) TRT_UNARY_ROW(OP, NAME, f32, NPY_FLOAT32) TRT_UNARY_ROW(OP, NAME, f64, NPY_FLOAT64)
#define TRT_UNARY_NUMBERS(OP, NAME) \
    TRT_UNARY_FLOATS(OP, NAME) TRT_UNARY_ROW(OP, NAME, i32, NPY_INT32) TRT_UNARY_ROW(OP, NAME, i64, NPY_INT64)

#endif
