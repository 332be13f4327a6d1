/* Loops of Cast, one per pair of types; see kernels/every_level.h. */

#define TRT_CAST(FROM, FROM_MEM, FROM_C, TO, TO_MEM, FORMULA) \
    TRT_UNARY(cast_to_##TO, FROM, FROM_MEM, FROM_C, TO_MEM, FORMULA)
/* What does not fit into an integer becomes what the processor's conversion says; into an unsigned byte go the low bits
 * of a whole number. */
#define TRT_CASTS_OF_FLOAT(FROM, FROM_MEM, FROM_C) \
    TRT_CAST(FROM, FROM_MEM, FROM_C, i32, trt_mem_i32, (int32_t)a) \
    TRT_CAST(FROM, FROM_MEM, FROM_C, i64, trt_mem_i64, (int64_t)a) \
    TRT_CAST(FROM, FROM_MEM, FROM_C, u8, trt_mem_u8, (uint8_t)(int64_t)a) \
    TRT_CAST(FROM, FROM_MEM, FROM_C, bool, trt_mem_u8, a != 0)
#define TRT_CASTS_TO_FLOAT(FROM, FROM_MEM, FROM_C, VALUE) \
    TRT_CAST(FROM, FROM_MEM, FROM_C, f32, trt_mem_f32, (float)(VALUE)) \
    TRT_CAST(FROM, FROM_MEM, FROM_C, f64, trt_mem_f64, (double)(VALUE))

TRT_CASTS_OF_FLOAT(f32, trt_mem_f32, float)
TRT_CAST(f32, trt_mem_f32, float, f64, trt_mem_f64, (double)a)
TRT_CASTS_OF_FLOAT(f64, trt_mem_f64, double)
TRT_CAST(f64, trt_mem_f64, double, f32, trt_mem_f32, (float)a)

TRT_CASTS_TO_FLOAT(i32, trt_mem_i32, int32_t, a)
TRT_CAST(i32, trt_mem_i32, int32_t, i64, trt_mem_i64, a)
TRT_CAST(i32, trt_mem_i32, int32_t, u8, trt_mem_u8, (uint8_t)a)
TRT_CAST(i32, trt_mem_i32, int32_t, bool, trt_mem_u8, a != 0)

TRT_CASTS_TO_FLOAT(i64, trt_mem_i64, int64_t, a)
TRT_CAST(i64, trt_mem_i64, int64_t, i32, trt_mem_i32, (int32_t)a)
TRT_CAST(i64, trt_mem_i64, int64_t, u8, trt_mem_u8, (uint8_t)a)
TRT_CAST(i64, trt_mem_i64, int64_t, bool, trt_mem_u8, a != 0)

TRT_CASTS_TO_FLOAT(u8, trt_mem_u8, uint8_t, a)
TRT_CAST(u8, trt_mem_u8, uint8_t, i32, trt_mem_i32, a)
TRT_CAST(u8, trt_mem_u8, uint8_t, i64, trt_mem_i64, a)
TRT_CAST(u8, trt_mem_u8, uint8_t, bool, trt_mem_u8, a != 0)

TRT_CASTS_TO_FLOAT(bool, trt_mem_u8, uint8_t, a != 0)
TRT_CAST(bool, trt_mem_u8, uint8_t, i32, trt_mem_i32, a != 0)
TRT_CAST(bool, trt_mem_u8, uint8_t, i64, trt_mem_i64, a != 0)
TRT_CAST(bool, trt_mem_u8, uint8_t, u8, trt_mem_u8, a != 0)

#define TRT_CAST_ROW(FROM, FROM_NUM, TO, TO_NUM) {"Cast", FROM_NUM, TO_NUM, TRT_LEVEL(trt_cast_to_##TO##_##FROM)},
#define TRT_CAST_ROWS(TO, TO_NUM, FROM1, NUM1, FROM2, NUM2, FROM3, NUM3, FROM4, NUM4, FROM5, NUM5) \
    TRT_CAST_ROW(FROM1, NUM1, TO, TO_NUM) TRT_CAST_ROW(FROM2, NUM2, TO, TO_NUM) TRT_CAST_ROW(FROM3, NUM3, TO, TO_NUM) \
    TRT_CAST_ROW(FROM4, NUM4, TO, TO_NUM) TRT_CAST_ROW(FROM5, NUM5, TO, TO_NUM)

static const trt_unary_entry TRT_LEVEL(trt_cast_table)[] = {
    TRT_CAST_ROWS(f32, NPY_FLOAT32, f64, NPY_FLOAT64, i32, NPY_INT32, i64, NPY_INT64, u8, NPY_UINT8, bool, NPY_BOOL)
    TRT_CAST_ROWS(f64, NPY_FLOAT64, f32, NPY_FLOAT32, i32, NPY_INT32, i64, NPY_INT64, u8, NPY_UINT8, bool, NPY_BOOL)
    TRT_CAST_ROWS(i32, NPY_INT32, f32, NPY_FLOAT32, f64, NPY_FLOAT64, i64, NPY_INT64, u8, NPY_UINT8, bool, NPY_BOOL)
    TRT_CAST_ROWS(i64, NPY_INT64, f32, NPY_FLOAT32, f64, NPY_FLOAT64, i32, NPY_INT32, u8, NPY_UINT8, bool, NPY_BOOL)
    TRT_CAST_ROWS(u8, NPY_UINT8, f32, NPY_FLOAT32, f64, NPY_FLOAT64, i32, NPY_INT32, i64, NPY_INT64, bool, NPY_BOOL)
    TRT_CAST_ROWS(bool, NPY_BOOL, f32, NPY_FLOAT32, f64, NPY_FLOAT64, i32, NPY_INT32, i64, NPY_INT64, u8, NPY_UINT8)
    {NULL, 0, 0, NULL}
};

#undef TRT_CAST
#undef TRT_CASTS_OF_FLOAT
#undef TRT_CASTS_TO_FLOAT
#undef TRT_CAST_ROW
#undef TRT_CAST_ROWS
