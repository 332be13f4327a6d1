/* Updates of optimizers: what one is, and the loops for every type and level. */
#ifndef TRT_KERNELS_OPTIMIZER_UPDATES_H
#define TRT_KERNELS_OPTIMIZER_UPDATES_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "kernels/simd.h"

enum { TRT_GRADIENT_DESCENT, TRT_MOMENTUM, TRT_KERAS_MOMENTUM, TRT_ADAM, TRT_ADAGRAD, TRT_RMS_PROP, TRT_NUM_OPTIMIZERS };
enum { TRT_MAX_SLOTS = 3, TRT_MAX_SCALARS = 6 };

typedef struct {
    const void *from[TRT_MAX_SLOTS]; /* aligned; the variable first */
    void *to[TRT_MAX_SLOTS];
    const void *grad;                /* at any address */
    double scalars[TRT_MAX_SCALARS]; /* values of the slots' type; what a loop reads, see trt_prepare */
    int flag;                        /* use_nesterov or update_slots */
} trt_update;

typedef void (*trt_update_fn)(void *update, ptrdiff_t begin, ptrdiff_t end);

#define TRT_REAL float
#define TRT_MEM_REAL trt_mem_f32
#define TRT_SQRT sqrtf
#define TRT_TYPED(name) TRT_LEVEL(name##_f32)
#define TRT_LOOPS "kernels/optimizer_loops.h"
#include "kernels/every_level.h"
#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_SQRT
#undef TRT_TYPED

#define TRT_REAL double
#define TRT_MEM_REAL trt_mem_f64
#define TRT_SQRT sqrt
#define TRT_TYPED(name) TRT_LEVEL(name##_f64)
#define TRT_LOOPS "kernels/optimizer_loops.h"
#include "kernels/every_level.h"
#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_SQRT
#undef TRT_TYPED

static inline trt_update_fn trt_update_of(int level, int optimizer, int is_double)
{
#if TRT_HAS_LEVELS
    if (level == TRT_V4)
        return is_double ? updates_f64_v4[optimizer] : updates_f32_v4[optimizer];
    if (level == TRT_V3)
        return is_double ? updates_f64_v3[optimizer] : updates_f32_v3[optimizer];
#endif
    (void)level;
    return is_double ? updates_f64_baseline[optimizer] : updates_f32_baseline[optimizer];
}

/* Turn the scalar inputs of an op, in the op's order, into what the loop reads. The arithmetic is done in the type of
 * the slots, as the Python definitions do it. */
#define TRT_PREPARE(REAL, SQRT)                                                        \
    {                                                                                  \
        REAL s[TRT_MAX_SCALARS];                                                       \
        for (int i = 0; i < TRT_MAX_SCALARS; i++)                                      \
            s[i] = (REAL)update->scalars[i];                                           \
        if (optimizer == TRT_ADAM) { /* beta1_power, beta2_power, lr, beta1, beta2, epsilon */ \
            REAL scaled = s[2] * SQRT((REAL)1 - s[1]);                                 \
            REAL alpha = scaled / ((REAL)1 - s[0]);                                    \
            REAL rest1 = (REAL)1 - s[3], rest2 = (REAL)1 - s[4];                       \
            update->scalars[0] = alpha;                                                \
            update->scalars[1] = s[3];                                                 \
            update->scalars[2] = rest1;                                                \
            update->scalars[3] = rest2;                                                \
            update->scalars[4] = s[5];                                                 \
        } else if (optimizer == TRT_RMS_PROP) { /* lr, rho, momentum, epsilon */       \
            REAL rest = (REAL)1 - s[1];                                                \
            update->scalars[1] = rest;                                                 \
        }                                                                              \
    }

static inline void trt_prepare(trt_update *update, int optimizer, int is_double)
{
    if (is_double)
        TRT_PREPARE(double, sqrt)
    else
        TRT_PREPARE(float, sqrtf)
}

#endif
