/* The tables of element-wise loops, by level. */
#ifndef TRT_KERNELS_ELEMENTWISE_TABLES_H
#define TRT_KERNELS_ELEMENTWISE_TABLES_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/loop_makers.h"

#define TRT_LOOPS "kernels/elementwise_loops.h"
#include "kernels/every_level.h"

static const trt_binary_entry *trt_binary_entries(int level)
{
    TRT_OF_LEVEL(level, trt_binary_table)
}

static const trt_unary_entry *trt_unary_entries(int level)
{
    TRT_OF_LEVEL(level, trt_unary_table)
}

#endif
