/* Updates of optimizers: what one is, and the loops for every type and level. */
#ifndef TRT_KERNELS_OPTIMIZER_UPDATES_H
#define TRT_KERNELS_OPTIMIZER_UPDATES_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "kernels/simd.h"

enum {
    TRT_GRADIENT_DESCENT, TRT_MOMENTUM, TRT_KERAS_MOMENTUM, TRT_ADAM, TRT_ADAGRAD, TRT_RMS_PROP, TRT_ADAGRAD_V2,
    TRT_ADADELTA, TRT_CENTERED_RMS_PROP, TRT_ADA_MAX, TRT_AMSGRAD, TRT_ADD_SIGN, TRT_PROXIMAL_GRADIENT,
    TRT_PROXIMAL_ADAGRAD, TRT_ADAGRAD_DA, TRT_FTRL, TRT_FTRL_V2, TRT_NUM_OPTIMIZERS
};
enum { TRT_MAX_SLOTS = 4, TRT_MAX_SCALARS = 6 };

typedef struct {
    const void *from[TRT_MAX_SLOTS]; /* aligned; the variable first */
    void *to[TRT_MAX_SLOTS];
    const void *grad;                /* at any address */
    double scalars[TRT_MAX_SCALARS]; /* values of the slots' type; what a loop reads, see trt_prepare */
    int flag;                        /* use_nesterov, update_slots or multiply_linear_by_lr */
} trt_update;

typedef void (*trt_update_fn)(void *update, ptrdiff_t begin, ptrdiff_t end);

#define TRT_REAL float
#define TRT_MEM_REAL trt_mem_f32
#define TRT_SQRT sqrtf
#define TRT_ABS fabsf
#define TRT_TYPED(name) TRT_LEVEL(name##_f32)
#define TRT_LOOPS "kernels/optimizer_loops.h"
#include "kernels/every_level.h"
#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_SQRT
#undef TRT_ABS
#undef TRT_TYPED

#define TRT_REAL double
#define TRT_MEM_REAL trt_mem_f64
#define TRT_SQRT sqrt
#define TRT_ABS fabs
#define TRT_TYPED(name) TRT_LEVEL(name##_f64)
#define TRT_LOOPS "kernels/optimizer_loops.h"
#include "kernels/every_level.h"
#undef TRT_REAL
#undef TRT_MEM_REAL
#undef TRT_SQRT
#undef TRT_ABS
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
 * the slots, as the Python definitions do it. Returns whether the loop is made for these values. */
#define TRT_PREPARE(REAL, SQRT)                                                        \
    {                                                                                  \
        REAL s[TRT_MAX_SCALARS], to[TRT_MAX_SCALARS];                                  \
        for (int i = 0; i < TRT_MAX_SCALARS; i++)                                      \
            to[i] = s[i] = (REAL)update->scalars[i];                                   \
        switch (optimizer) {                                                           \
        case TRT_ADAM: /* beta1_power, beta2_power, lr, beta1, beta2, epsilon */       \
        case TRT_AMSGRAD:                                                              \
            to[0] = s[2] * SQRT((REAL)1 - s[1]);                                       \
            to[0] = to[0] / ((REAL)1 - s[0]);                                          \
            to[1] = s[3];                                                              \
            to[2] = (REAL)1 - s[3];                                                    \
            to[3] = (REAL)1 - s[4];                                                    \
            to[4] = s[5];                                                              \
            break;                                                                     \
        case TRT_RMS_PROP: /* lr, rho, momentum, epsilon */                            \
        case TRT_CENTERED_RMS_PROP:                                                    \
            to[1] = (REAL)1 - s[1];                                                    \
            break;                                                                     \
        case TRT_ADADELTA: /* lr, rho, epsilon */                                      \
            to[3] = (REAL)1 - s[1];                                                    \
            break;                                                                     \
        case TRT_ADA_MAX: /* beta1_power, lr, beta1, beta2, epsilon */                 \
            to[0] = s[1] / ((REAL)1 - s[0]);                                           \
            to[1] = (REAL)1 - s[2];                                                    \
            to[2] = s[3];                                                              \
            to[3] = s[4];                                                              \
            break;                                                                     \
        case TRT_ADD_SIGN: /* lr, alpha, sign_decay, beta */                           \
            to[4] = (REAL)1 - s[3];                                                    \
            break;                                                                     \
        case TRT_PROXIMAL_GRADIENT: /* alpha, l1, l2 */                                \
            update->flag = s[1] > 0;                                                   \
            to[1] = s[0] * s[1];                                                       \
            to[2] = s[0] * s[2];                                                       \
            to[2] = to[2] + (REAL)1;                                                   \
            break;                                                                     \
        case TRT_PROXIMAL_ADAGRAD: /* lr, l1, l2 */                                    \
            update->flag = s[1] > 0;                                                   \
            return s[0] > 0 && s[1] >= 0 && s[2] >= 0;                                 \
        case TRT_ADAGRAD_DA: /* lr, l1, l2, global_step */                             \
            update->flag = s[1] > 0;                                                   \
            to[0] = -s[0];                                                             \
            to[1] = s[1] * s[3];                                                       \
            to[2] = s[2] * s[3];                                                       \
            to[2] = to[2] * s[0];                                                      \
            break;                                                                     \
        case TRT_FTRL: /* lr, l1, l2, lr_power */                                      \
        case TRT_FTRL_V2: /* lr, l1, l2, l2_shrinkage, lr_power */                     \
            if (s[optimizer == TRT_FTRL ? 3 : 4] != (REAL)-0.5)                        \
                return 0; /* a power, not a root */                                    \
            if (!(s[0] > 0 && s[1] >= 0 && s[2] >= 0 && (optimizer == TRT_FTRL || s[3] >= 0))) \
                return 0; /* some forms of the op refuse these */                      \
            to[1] = update->flag ? s[1] * s[0] : s[1];                                 \
            to[2] = (REAL)2 * s[2];                                                    \
            to[2] = update->flag ? to[2] * s[0] : to[2];                               \
            to[3] = (REAL)2 * s[3];                                                    \
            break;                                                                     \
        }                                                                              \
        for (int i = 0; i < TRT_MAX_SCALARS; i++)                                      \
            update->scalars[i] = to[i];                                                \
        return 1;                                                                      \
    }

static inline int trt_prepare(trt_update *update, int optimizer, int is_double)
{
    if (is_double)
        TRT_PREPARE(double, sqrt)
    else
        TRT_PREPARE(float, sqrtf)
}

#endif
