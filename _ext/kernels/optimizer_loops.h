/* One fused pass of each optimizer over [begin, end), for the type and level of the including file's macros.
 *
 * Included through kernels/every_level.h after optimizer_updates.h, once for float (TRT_REAL float) and once for double.
 * The operations and their order are those of the Python definitions in runtime/ops/optimizers.py, so that both give
 * the same bits. A slot is read from `from` and written to `to`; the two are the same array unless somebody else holds
 * the former.
 */

#define TRT_FROM(i) const TRT_REAL *from##i = (const TRT_REAL *)update->from[i]
#define TRT_TO(i) TRT_REAL *to##i = (TRT_REAL *)update->to[i]
#define TRT_GRAD const TRT_MEM_REAL *grad = (const TRT_MEM_REAL *)update->grad
#define TRT_SCALAR(name, i) const TRT_REAL name = (TRT_REAL)update->scalars[i]
#define TRT_EACH \
    TRT_INDEPENDENT for (ptrdiff_t i = begin; i < end; i++)

TRT_TARGET static void TRT_TYPED(gradient_descent)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_TO(0);
    TRT_GRAD;
    TRT_SCALAR(alpha, 0);
    TRT_EACH
        to0[i] = from0[i] - grad[i] * alpha;
}

TRT_TARGET static void TRT_TYPED(momentum)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_TO(0);
    TRT_TO(1);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    TRT_SCALAR(momentum, 1);
    if (update->flag) {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL accum = from1[i] * momentum + slope;
            to1[i] = accum;
            to0[i] = (from0[i] - slope * lr) - accum * momentum * lr;
        }
    } else {
        TRT_EACH {
            TRT_REAL accum = from1[i] * momentum + grad[i];
            to1[i] = accum;
            to0[i] = from0[i] - accum * lr;
        }
    }
}

TRT_TARGET static void TRT_TYPED(keras_momentum)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_TO(0);
    TRT_TO(1);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    TRT_SCALAR(momentum, 1);
    if (update->flag) {
        TRT_EACH {
            TRT_REAL step = grad[i] * lr;
            TRT_REAL accum = from1[i] * momentum - step;
            to1[i] = accum;
            to0[i] = (from0[i] - step) + accum * momentum;
        }
    } else {
        TRT_EACH {
            TRT_REAL accum = from1[i] * momentum - grad[i] * lr;
            to1[i] = accum;
            to0[i] = from0[i] + accum;
        }
    }
}

TRT_TARGET static void TRT_TYPED(adam)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_FROM(2);
    TRT_TO(0);
    TRT_TO(1);
    TRT_TO(2);
    TRT_GRAD;
    TRT_SCALAR(alpha, 0);
    TRT_SCALAR(beta1, 1);
    TRT_SCALAR(rest1, 2);
    TRT_SCALAR(rest2, 3);
    TRT_SCALAR(epsilon, 4);
    if (update->flag) {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL m = from1[i] + (slope - from1[i]) * rest1;
            TRT_REAL v = from2[i] + (slope * slope - from2[i]) * rest2;
            to1[i] = m;
            to2[i] = v;
            to0[i] = from0[i] - (slope * rest1 + m * beta1) * alpha / (TRT_SQRT(v) + epsilon);
        }
    } else {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL m = from1[i] + (slope - from1[i]) * rest1;
            TRT_REAL v = from2[i] + (slope * slope - from2[i]) * rest2;
            to1[i] = m;
            to2[i] = v;
            to0[i] = from0[i] - m * alpha / (TRT_SQRT(v) + epsilon);
        }
    }
}

TRT_TARGET static void TRT_TYPED(adagrad)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_TO(0);
    TRT_TO(1);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    if (update->flag) {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL accum = from1[i] + slope * slope;
            to1[i] = accum;
            to0[i] = from0[i] - slope * lr / TRT_SQRT(accum);
        }
    } else {
        TRT_EACH {
            TRT_REAL accum = from1[i];
            to1[i] = accum;
            to0[i] = from0[i] - grad[i] * lr / TRT_SQRT(accum);
        }
    }
}

TRT_TARGET static void TRT_TYPED(rms_prop)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_FROM(2);
    TRT_TO(0);
    TRT_TO(1);
    TRT_TO(2);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    TRT_SCALAR(rest, 1);
    TRT_SCALAR(momentum, 2);
    TRT_SCALAR(epsilon, 3);
    TRT_EACH {
        TRT_REAL slope = grad[i];
        TRT_REAL ms = from1[i] + (slope * slope - from1[i]) * rest;
        TRT_REAL mom = from2[i] * momentum + slope * lr / TRT_SQRT(ms + epsilon);
        to1[i] = ms;
        to2[i] = mom;
        to0[i] = from0[i] - mom;
    }
}

static const trt_update_fn TRT_TYPED(updates)[TRT_NUM_OPTIMIZERS] = {
    TRT_TYPED(gradient_descent), TRT_TYPED(momentum), TRT_TYPED(keras_momentum),
    TRT_TYPED(adam), TRT_TYPED(adagrad), TRT_TYPED(rms_prop),
};

#undef TRT_FROM
#undef TRT_TO
#undef TRT_GRAD
#undef TRT_SCALAR
#undef TRT_EACH
