/* target = former + delta and former - delta over [begin, end), for the type of the including file's macros. Integers
 * are unsigned: they wrap, as numpy's do. */
TRT_TARGET static void TRT_TYPED(add)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_assignment *work = context;
    const TRT_VALUE *former = (const TRT_VALUE *)work->former;
    const TRT_MEM_VALUE *delta = (const TRT_MEM_VALUE *)work->delta;
    TRT_VALUE *target = (TRT_VALUE *)work->target;
    TRT_INDEPENDENT
    for (ptrdiff_t i = begin; i < end; i++)
        target[i] = former[i] + delta[i];
}

TRT_TARGET static void TRT_TYPED(subtract)(void *context, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_assignment *work = context;
    const TRT_VALUE *former = (const TRT_VALUE *)work->former;
    const TRT_MEM_VALUE *delta = (const TRT_MEM_VALUE *)work->delta;
    TRT_VALUE *target = (TRT_VALUE *)work->target;
    TRT_INDEPENDENT
    for (ptrdiff_t i = begin; i < end; i++)
        target[i] = former[i] - delta[i];
}
