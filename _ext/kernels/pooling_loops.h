/* Poolings over windows of one level and type; see pooling.h. All channels of a cell lie one after the other. */

/* out = the largest cell of a window, that is not NaN */
static TRT_TARGET void TRT_TYPED(pool_maximum)(const trt_window *window, TRT_MEM_REAL *out, ptrdiff_t channels)
{
    const char *const *cells = window->cells;
    ptrdiff_t at = 0;
    const TRT_REAL lowest = TRT_LOWEST;
    if (window->count < 4) {
        TRT_INDEPENDENT
        for (ptrdiff_t c = 0; c < channels; c++)
            out[c] = lowest;
    } else {
        const TRT_MEM_REAL *p = (const TRT_MEM_REAL *)cells[0], *q = (const TRT_MEM_REAL *)cells[1];
        const TRT_MEM_REAL *r = (const TRT_MEM_REAL *)cells[2], *s = (const TRT_MEM_REAL *)cells[3];
        TRT_INDEPENDENT
        for (ptrdiff_t c = 0; c < channels; c++) {
            TRT_REAL best = lowest;
            best = p[c] > best ? p[c] : best;
            best = q[c] > best ? q[c] : best;
            best = r[c] > best ? r[c] : best;
            best = s[c] > best ? s[c] : best;
            out[c] = best;
        }
        at = 4;
    }
    for (; at + 2 <= window->count; at += 2) {
        const TRT_MEM_REAL *p = (const TRT_MEM_REAL *)cells[at], *q = (const TRT_MEM_REAL *)cells[at + 1];
        TRT_INDEPENDENT
        for (ptrdiff_t c = 0; c < channels; c++) {
            TRT_REAL best = out[c];
            best = p[c] > best ? p[c] : best;
            best = q[c] > best ? q[c] : best;
            out[c] = best;
        }
    }
    if (at < window->count) {
        const TRT_MEM_REAL *p = (const TRT_MEM_REAL *)cells[at];
        TRT_INDEPENDENT
        for (ptrdiff_t c = 0; c < channels; c++)
            out[c] = p[c] > out[c] ? p[c] : out[c];
    }
}

/* Add a gradient to the first of the largest cells; a NaN that stands first counts as the largest. */
static TRT_TARGET void TRT_TYPED(pool_maximum_gradient)(const trt_window *window, const TRT_MEM_REAL *gradient,
                                                        ptrdiff_t channels)
{
    for (ptrdiff_t begin = 0; begin < channels; begin += TRT_POOL_CHANNELS) {
        TRT_REAL best[TRT_POOL_CHANNELS];
        TRT_INDEX first[TRT_POOL_CHANNELS];
        ptrdiff_t few = channels - begin < TRT_POOL_CHANNELS ? channels - begin : TRT_POOL_CHANNELS;
        for (ptrdiff_t at = 0; at < window->count; at++) {
            const TRT_MEM_REAL *p = (const TRT_MEM_REAL *)window->cells[at] + begin;
            if (at == 0) {
                TRT_INDEPENDENT
                for (ptrdiff_t c = 0; c < few; c++) {
                    best[c] = p[c];
                    first[c] = 0;
                }
                continue;
            }
            TRT_INDEPENDENT
            for (ptrdiff_t c = 0; c < few; c++) {
                first[c] = p[c] > best[c] ? (TRT_INDEX)at : first[c];
                best[c] = p[c] > best[c] ? p[c] : best[c];
            }
        }
        for (ptrdiff_t at = 0; at < window->count; at++) {
            TRT_MEM_REAL *d = (TRT_MEM_REAL *)window->targets[at] + begin;
            const TRT_MEM_REAL *g = gradient + begin;
            TRT_INDEPENDENT
            for (ptrdiff_t c = 0; c < few; c++)
                d[c] += first[c] == (TRT_INDEX)at ? g[c] : 0;
        }
    }
}

/* out = the mean of the cells of a window that lie in the image */
static TRT_TARGET void TRT_TYPED(pool_average)(const trt_window *window, TRT_MEM_REAL *out, ptrdiff_t channels)
{
    const TRT_REAL count = (TRT_REAL)window->count;
    TRT_INDEPENDENT
    for (ptrdiff_t c = 0; c < channels; c++)
        out[c] = 0;
    for (ptrdiff_t at = 0; at < window->count; at++) {
        const TRT_MEM_REAL *p = (const TRT_MEM_REAL *)window->cells[at];
        TRT_INDEPENDENT
        for (ptrdiff_t c = 0; c < channels; c++)
            out[c] += p[c];
    }
    TRT_INDEPENDENT
    for (ptrdiff_t c = 0; c < channels; c++)
        out[c] /= count;
}

/* Add to each cell its share of a gradient. */
static TRT_TARGET void TRT_TYPED(pool_average_gradient)(const trt_window *window, const TRT_MEM_REAL *gradient,
                                                        ptrdiff_t channels)
{
    const TRT_REAL count = (TRT_REAL)window->count;
    for (ptrdiff_t begin = 0; begin < channels; begin += TRT_POOL_CHANNELS) {
        TRT_REAL share[TRT_POOL_CHANNELS];
        ptrdiff_t few = channels - begin < TRT_POOL_CHANNELS ? channels - begin : TRT_POOL_CHANNELS;
        TRT_INDEPENDENT
        for (ptrdiff_t c = 0; c < few; c++)
            share[c] = gradient[begin + c] / count;
        for (ptrdiff_t at = 0; at < window->count; at++) {
            TRT_MEM_REAL *d = (TRT_MEM_REAL *)window->targets[at] + begin;
            TRT_INDEPENDENT
            for (ptrdiff_t c = 0; c < few; c++)
                d[c] += share[c];
        }
    }
}

/* The windows of output rows [begin, end) of one image, all channels of them, or some. */
static TRT_TARGET void TRT_TYPED(pool_rows)(const trt_pooling *work, ptrdiff_t batch, ptrdiff_t begin, ptrdiff_t end,
                                            ptrdiff_t first_channel, ptrdiff_t channels, trt_window *window)
{
    ptrdiff_t element = sizeof(TRT_REAL);
    for (ptrdiff_t y = begin; y < end; y++) {
        ptrdiff_t top = y * work->stride[0] + work->origin[0], bottom = top + work->window[0];
        top = top < 0 ? 0 : top;
        bottom = bottom > work->size[0] ? work->size[0] : bottom;
        for (ptrdiff_t x = 0; x < work->count[1]; x++) {
            ptrdiff_t left = x * work->stride[1] + work->origin[1], right = left + work->window[1];
            ptrdiff_t place = ((batch * work->count[0] + y) * work->count[1] + x) * work->channels + first_channel;
            left = left < 0 ? 0 : left;
            right = right > work->size[1] ? work->size[1] : right;
            window->count = 0;
            for (ptrdiff_t i = top; i < bottom; i++)
                for (ptrdiff_t j = left; j < right; j++) {
                    ptrdiff_t cell = (((batch * work->size[0] + i) * work->size[1] + j) * work->channels +
                                      first_channel) * element;
                    if (work->image != NULL)
                        window->cells[window->count] = work->image + cell;
                    if (work->gradient != NULL)
                        window->targets[window->count] = work->out + cell;
                    window->count++;
                }
            if (work->gradient != NULL) {
                const TRT_MEM_REAL *gradient = (const TRT_MEM_REAL *)(work->gradient + place * element);
                if (work->is_average)
                    TRT_TYPED(pool_average_gradient)(window, gradient, channels);
                else
                    TRT_TYPED(pool_maximum_gradient)(window, gradient, channels);
            } else {
                TRT_MEM_REAL *out = (TRT_MEM_REAL *)(work->out + place * element);
                if (work->is_average)
                    TRT_TYPED(pool_average)(window, out, channels);
                else
                    TRT_TYPED(pool_maximum)(window, out, channels);
            }
        }
    }
}
