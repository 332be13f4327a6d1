/* One fused pass of each optimizer over [begin, end), for the type and level of the including file's macros.
 *
 * Included through kernels/every_level.h after optimizer_updates.h, once for float (TRT_REAL float) and once for double.
 * The operations and their order are those of the Python definitions in runtime/ops/optimizer_formulas.py and
 * regularized_formulas.py, so that both give
 * the same bits. A slot is read from `from` and written to `to`; the two are the same array unless somebody else holds
 * the former.
 */

#define TRT_FROM(i) const TRT_REAL *from##i = (const TRT_REAL *)update->from[i]
#define TRT_TO(i) TRT_REAL *to##i = (TRT_REAL *)update->to[i]
#define TRT_GRAD const TRT_MEM_REAL *grad = (const TRT_MEM_REAL *)update->grad
#define TRT_SCALAR(name, i) const TRT_REAL name = (TRT_REAL)update->scalars[i]
#define TRT_EACH \
    TRT_INDEPENDENT for (ptrdiff_t i = begin; i < end; i++)
#define TRT_LARGER(x, y) ((x) >= (y) || (x) != (x) ? (x) : (y))
#define TRT_SIGN(x) ((x) > 0 ? (TRT_REAL)1 : (x) < 0 ? (TRT_REAL)-1 : (x) == 0 ? (TRT_REAL)0 : (x))

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

TRT_TARGET static void TRT_TYPED(adagrad_v2)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_TO(0);
    TRT_TO(1);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    TRT_SCALAR(epsilon, 1);
    if (update->flag) {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL accum = from1[i] + slope * slope;
            to1[i] = accum;
            to0[i] = from0[i] - slope * lr / (TRT_SQRT(accum) + epsilon);
        }
    } else {
        TRT_EACH {
            TRT_REAL accum = from1[i];
            to1[i] = accum;
            to0[i] = from0[i] - grad[i] * lr / (TRT_SQRT(accum) + epsilon);
        }
    }
}

TRT_TARGET static void TRT_TYPED(adadelta)(void *context, ptrdiff_t begin, ptrdiff_t end)
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
    TRT_SCALAR(rho, 1);
    TRT_SCALAR(epsilon, 2);
    TRT_SCALAR(rest, 3);
    TRT_EACH {
        TRT_REAL slope = grad[i];
        TRT_REAL accum = from1[i] * rho + slope * slope * rest;
        TRT_REAL step = TRT_SQRT(from2[i] + epsilon) / TRT_SQRT(accum + epsilon) * slope;
        to1[i] = accum;
        to2[i] = from2[i] * rho + step * step * rest;
        to0[i] = from0[i] - step * lr;
    }
}

TRT_TARGET static void TRT_TYPED(centered_rms_prop)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_FROM(2);
    TRT_FROM(3);
    TRT_TO(0);
    TRT_TO(1);
    TRT_TO(2);
    TRT_TO(3);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    TRT_SCALAR(rest, 1);
    TRT_SCALAR(momentum, 2);
    TRT_SCALAR(epsilon, 3);
    TRT_EACH {
        TRT_REAL slope = grad[i];
        TRT_REAL ms = from2[i] + (slope * slope - from2[i]) * rest;
        TRT_REAL mg = from1[i] + (slope - from1[i]) * rest;
        TRT_REAL mom = from3[i] * momentum + slope * lr / TRT_SQRT(ms - mg * mg + epsilon);
        to1[i] = mg;
        to2[i] = ms;
        to3[i] = mom;
        to0[i] = from0[i] - mom;
    }
}

TRT_TARGET static void TRT_TYPED(ada_max)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_FROM(2);
    TRT_TO(0);
    TRT_TO(1);
    TRT_TO(2);
    TRT_GRAD;
    TRT_SCALAR(rate, 0);
    TRT_SCALAR(rest1, 1);
    TRT_SCALAR(beta2, 2);
    TRT_SCALAR(epsilon, 3);
    TRT_EACH {
        TRT_REAL slope = grad[i];
        TRT_REAL m = from1[i] + (slope - from1[i]) * rest1;
        TRT_REAL former = from2[i] * beta2, size = TRT_ABS(slope);
        TRT_REAL v = TRT_LARGER(former, size);
        to1[i] = m;
        to2[i] = v;
        to0[i] = from0[i] - m / (v + epsilon) * rate;
    }
}

TRT_TARGET static void TRT_TYPED(amsgrad)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_FROM(2);
    TRT_FROM(3);
    TRT_TO(0);
    TRT_TO(1);
    TRT_TO(2);
    TRT_TO(3);
    TRT_GRAD;
    TRT_SCALAR(alpha, 0);
    TRT_SCALAR(rest1, 2);
    TRT_SCALAR(rest2, 3);
    TRT_SCALAR(epsilon, 4);
    TRT_EACH {
        TRT_REAL slope = grad[i];
        TRT_REAL m = from1[i] + (slope - from1[i]) * rest1;
        TRT_REAL v = from2[i] + (slope * slope - from2[i]) * rest2;
        TRT_REAL former = from3[i];
        TRT_REAL vhat = TRT_LARGER(former, v);
        to1[i] = m;
        to2[i] = v;
        to3[i] = vhat;
        to0[i] = from0[i] - m * alpha / (TRT_SQRT(vhat) + epsilon);
    }
}

TRT_TARGET static void TRT_TYPED(add_sign)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_TO(0);
    TRT_TO(1);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    TRT_SCALAR(alpha, 1);
    TRT_SCALAR(sign_decay, 2);
    TRT_SCALAR(beta, 3);
    TRT_SCALAR(rest, 4);
    TRT_EACH {
        TRT_REAL slope = grad[i];
        TRT_REAL m = from1[i] * beta + slope * rest;
        TRT_REAL agreement = TRT_SIGN(slope) * TRT_SIGN(m);
        to1[i] = m;
        to0[i] = from0[i] - (agreement * sign_decay + alpha) * lr * slope;
    }
}

TRT_TARGET static void TRT_TYPED(proximal_gradient)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_TO(0);
    TRT_GRAD;
    TRT_SCALAR(alpha, 0);
    TRT_SCALAR(threshold, 1);
    TRT_SCALAR(scale, 2);
    if (update->flag) {
        TRT_EACH {
            TRT_REAL value = from0[i] - grad[i] * alpha;
            TRT_REAL rest = TRT_ABS(value) - threshold;
            to0[i] = TRT_SIGN(value) * TRT_LARGER(rest, (TRT_REAL)0) / scale;
        }
    } else {
        TRT_EACH
            to0[i] = (from0[i] - grad[i] * alpha) / scale;
    }
}

TRT_TARGET static void TRT_TYPED(proximal_adagrad)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_TO(0);
    TRT_TO(1);
    TRT_GRAD;
    TRT_SCALAR(lr, 0);
    TRT_SCALAR(l1, 1);
    TRT_SCALAR(l2, 2);
    if (update->flag) {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL accum = from1[i] + slope * slope;
            TRT_REAL rate = lr / TRT_SQRT(accum);
            TRT_REAL value = from0[i] - slope * rate;
            TRT_REAL rest = TRT_ABS(value) - rate * l1;
            to1[i] = accum;
            to0[i] = TRT_SIGN(value) * TRT_LARGER(rest, (TRT_REAL)0) / (rate * l2 + (TRT_REAL)1);
        }
    } else {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL accum = from1[i] + slope * slope;
            TRT_REAL rate = lr / TRT_SQRT(accum);
            to1[i] = accum;
            to0[i] = (from0[i] - slope * rate) / (rate * l2 + (TRT_REAL)1);
        }
    }
}

TRT_TARGET static void TRT_TYPED(adagrad_da)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_update *update = context;
    TRT_FROM(0);
    TRT_FROM(1);
    TRT_FROM(2);
    TRT_TO(0);
    TRT_TO(1);
    TRT_TO(2);
    TRT_GRAD;
    TRT_SCALAR(rate, 0);
    TRT_SCALAR(threshold, 1);
    TRT_SCALAR(offset, 2);
    (void)from0;
    if (update->flag) {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL total = from1[i] + slope;
            TRT_REAL squares = from2[i] + slope * slope;
            TRT_REAL rest = TRT_ABS(total) - threshold;
            to1[i] = total;
            to2[i] = squares;
            to0[i] = rate * (TRT_SIGN(total) * TRT_LARGER(rest, (TRT_REAL)0)) / (TRT_SQRT(squares) + offset);
        }
    } else {
        TRT_EACH {
            TRT_REAL slope = grad[i];
            TRT_REAL total = from1[i] + slope;
            TRT_REAL squares = from2[i] + slope * slope;
            to1[i] = total;
            to2[i] = squares;
            to0[i] = rate * total / (TRT_SQRT(squares) + offset);
        }
    }
}

/* Both forms of FTRL with a power of -1/2; `slope` is the gradient with what l2_shrinkage adds to it. */
#define TRT_FTRL_LOOPS(SLOPE)                                                             \
    if (update->flag) {                                                                   \
        TRT_EACH {                                                                        \
            TRT_REAL plain = grad[i], var = from0[i];                                     \
            TRT_REAL accum = from1[i] + plain * plain;                                    \
            TRT_REAL before = TRT_SQRT(from1[i]), after = TRT_SQRT(accum);                \
            TRT_REAL linear = from2[i] + ((SLOPE) * lr - (after - before) * var);         \
            TRT_REAL found = (TRT_SIGN(linear) * threshold - linear) / (after + penalty); \
            to1[i] = accum;                                                               \
            to2[i] = linear;                                                              \
            to0[i] = TRT_ABS(linear) > threshold ? found : (TRT_REAL)0;                   \
        }                                                                                 \
    } else {                                                                              \
        TRT_EACH {                                                                        \
            TRT_REAL plain = grad[i], var = from0[i];                                     \
            TRT_REAL accum = from1[i] + plain * plain;                                    \
            TRT_REAL before = TRT_SQRT(from1[i]), after = TRT_SQRT(accum);                \
            TRT_REAL linear = from2[i] + ((SLOPE) - (after - before) / lr * var);         \
            TRT_REAL found = (TRT_SIGN(linear) * threshold - linear) / (after / lr + penalty); \
            to1[i] = accum;                                                               \
            to2[i] = linear;                                                              \
            to0[i] = TRT_ABS(linear) > threshold ? found : (TRT_REAL)0;                   \
        }                                                                                 \
    }

TRT_TARGET static void TRT_TYPED(ftrl)(void *context, ptrdiff_t begin, ptrdiff_t end)
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
    TRT_SCALAR(threshold, 1);
    TRT_SCALAR(penalty, 2);
    TRT_FTRL_LOOPS(plain)
}

TRT_TARGET static void TRT_TYPED(ftrl_v2)(void *context, ptrdiff_t begin, ptrdiff_t end)
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
    TRT_SCALAR(threshold, 1);
    TRT_SCALAR(penalty, 2);
    TRT_SCALAR(shrinkage, 3);
    TRT_FTRL_LOOPS(plain + shrinkage * var)
}

static const trt_update_fn TRT_TYPED(updates)[TRT_NUM_OPTIMIZERS] = {
    TRT_TYPED(gradient_descent), TRT_TYPED(momentum), TRT_TYPED(keras_momentum), TRT_TYPED(adam),
    TRT_TYPED(adagrad), TRT_TYPED(rms_prop), TRT_TYPED(adagrad_v2), TRT_TYPED(adadelta),
    TRT_TYPED(centered_rms_prop), TRT_TYPED(ada_max), TRT_TYPED(amsgrad), TRT_TYPED(add_sign),
    TRT_TYPED(proximal_gradient), TRT_TYPED(proximal_adagrad), TRT_TYPED(adagrad_da), TRT_TYPED(ftrl),
    TRT_TYPED(ftrl_v2),
};

#undef TRT_FTRL_LOOPS
#undef TRT_LARGER
#undef TRT_SIGN
#undef TRT_FROM
#undef TRT_TO
#undef TRT_GRAD
#undef TRT_SCALAR
#undef TRT_EACH
