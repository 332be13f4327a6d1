/* The tables of the error function's relatives and of Bessel functions, by level. */
#ifndef TRT_KERNELS_SPECIAL_FUNCTIONS_H
#define TRT_KERNELS_SPECIAL_FUNCTIONS_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/loop_makers.h"

#define TRT_LOOPS "kernels/special_loops.h"
#include "kernels/every_level.h"

static const trt_unary_entry *trt_special_entries(int level)
{
    TRT_OF_LEVEL(level, trt_special_table)
}

#endif
