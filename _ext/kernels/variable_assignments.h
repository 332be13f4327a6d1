/* Adding to and subtracting from a variable, for every type and level. */
#ifndef TRT_KERNELS_VARIABLE_ASSIGNMENTS_H
#define TRT_KERNELS_VARIABLE_ASSIGNMENTS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/simd.h"

typedef struct {
    const void *former; /* aligned */
    const void *delta;  /* at any address */
    void *target;       /* `former` itself, or memory of its own */
} trt_assignment;

typedef void (*trt_assignment_fn)(void *work, ptrdiff_t begin, ptrdiff_t end);

#define TRT_VALUE float
#define TRT_MEM_VALUE trt_mem_f32
#define TRT_TYPED(name) TRT_LEVEL(name##_f32)
#define TRT_LOOPS "kernels/variable_loops.h"
#include "kernels/every_level.h"
#undef TRT_VALUE
#undef TRT_MEM_VALUE
#undef TRT_TYPED

#define TRT_VALUE double
#define TRT_MEM_VALUE trt_mem_f64
#define TRT_TYPED(name) TRT_LEVEL(name##_f64)
#define TRT_LOOPS "kernels/variable_loops.h"
#include "kernels/every_level.h"
#undef TRT_VALUE
#undef TRT_MEM_VALUE
#undef TRT_TYPED

#define TRT_VALUE uint32_t
#define TRT_MEM_VALUE trt_mem_u32
#define TRT_TYPED(name) TRT_LEVEL(name##_i32)
#define TRT_LOOPS "kernels/variable_loops.h"
#include "kernels/every_level.h"
#undef TRT_VALUE
#undef TRT_MEM_VALUE
#undef TRT_TYPED

#define TRT_VALUE uint64_t
#define TRT_MEM_VALUE trt_mem_u64
#define TRT_TYPED(name) TRT_LEVEL(name##_i64)
#define TRT_LOOPS "kernels/variable_loops.h"
#include "kernels/every_level.h"
#undef TRT_VALUE
#undef TRT_MEM_VALUE
#undef TRT_TYPED

#define TRT_ASSIGNMENTS_OF(level)                                                            \
    {                                                                                        \
        {add_f32_##level, add_f64_##level, add_i32_##level, add_i64_##level},                \
        {subtract_f32_##level, subtract_f64_##level, subtract_i32_##level, subtract_i64_##level} \
    }

/* Type: 0 float, 1 double, 2 32-bit and 3 64-bit integers. */
static inline trt_assignment_fn trt_assignment_of(int level, int subtract, int type)
{
#if TRT_HAS_LEVELS
    static const trt_assignment_fn table[TRT_NUM_LEVELS][2][4] = {
        TRT_ASSIGNMENTS_OF(baseline), TRT_ASSIGNMENTS_OF(v3), TRT_ASSIGNMENTS_OF(v4)};
#else
    static const trt_assignment_fn table[1][2][4] = {TRT_ASSIGNMENTS_OF(baseline)};
#endif
    return table[level][subtract][type];
}

#endif
