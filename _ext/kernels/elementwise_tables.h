/* The tables of element-wise loops, by level. */
#ifndef TRT_KERNELS_ELEMENTWISE_TABLES_H
#define TRT_KERNELS_ELEMENTWISE_TABLES_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"

#define TRT_LOOPS "kernels/elementwise_loops.h"
#include "kernels/every_level.h"

static const trt_binary_entry *trt_binary_entries(int level)
{
#if TRT_HAS_LEVELS
    if (level == TRT_V4)
        return trt_binary_table_v4;
    if (level == TRT_V3)
        return trt_binary_table_v3;
#endif
    return trt_binary_table_baseline;
}

static const trt_unary_entry *trt_unary_entries(int level)
{
#if TRT_HAS_LEVELS
    if (level == TRT_V4)
        return trt_unary_table_v4;
    if (level == TRT_V3)
        return trt_unary_table_v3;
#endif
    return trt_unary_table_baseline;
}

#endif
