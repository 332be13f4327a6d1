/* The tables of exponentials, logarithms and what is made of them, by level. */
#ifndef TRT_KERNELS_TRANSCENDENTAL_H
#define TRT_KERNELS_TRANSCENDENTAL_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/loop_makers.h"

#define TRT_LOOPS "kernels/transcendental_loops.h"
#include "kernels/every_level.h"

static const trt_unary_entry *trt_function_entries(int level)
{
    TRT_OF_LEVEL(level, trt_function_table)
}

static const trt_binary_entry *trt_function_gradient_entries(int level)
{
    TRT_OF_LEVEL(level, trt_function_gradient_table)
}

#endif
