/* The table of casts, by level. */
#ifndef TRT_KERNELS_CASTS_H
#define TRT_KERNELS_CASTS_H

#include "kernels/simd.h"
#include "kernels/elementwise.h"
#include "kernels/loop_makers.h"

#define TRT_LOOPS "kernels/cast_loops.h"
#include "kernels/every_level.h"

static const trt_unary_entry *trt_cast_entries(int level)
{
    TRT_OF_LEVEL(level, trt_cast_table)
}

#endif
