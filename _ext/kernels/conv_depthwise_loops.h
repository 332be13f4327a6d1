/* Depthwise convolutions, for the type and level of the including file's macros; see conv_depthwise.h. Every channel of
 * the result has cells of its own: where the multiplier is not one, the copy of the cells repeats them. */

/* Windows side by side, one vector of channels. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(depth_tile)(
    const int rows, const trt_depthwise *work, const char *a, ptrdiff_t line_step, ptrdiff_t cell_step,
    const TRT_REAL *b, ptrdiff_t tap_step, TRT_VECTOR *sums)
{
    ptrdiff_t a_step = work->axes[1].stride * cell_step;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        sums[i] = TRT_ZERO();
    for (ptrdiff_t y = 0; y < work->axes[0].taps; y++) {
        const char *cell = a + y * work->axes[0].step * line_step;
        for (ptrdiff_t x = 0; x < work->axes[1].taps; x++) {
            TRT_VECTOR weights = TRT_LOAD(b);
#pragma GCC unroll 8
            for (int i = 0; i < rows; i++)
                sums[i] = TRT_FMA(TRT_LOAD((const TRT_REAL *)(cell + i * a_step)), weights, sums[i]);
            cell += work->axes[1].step * cell_step;
            b += tap_step;
        }
    }
}

/* Neighbouring taps of a filter, one or two vectors of channels: to[tap] = or += sums over lines of windows. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(depth_filter_tile)(
    const int taps, const int vectors, const trt_depthwise *work, const trt_depth_box *box, const char *a,
    ptrdiff_t line_step, ptrdiff_t cell_step, const char *g, ptrdiff_t g_line_step, ptrdiff_t g_step, TRT_REAL *to,
    ptrdiff_t tap_step, int add)
{
    TRT_VECTOR sums[TRT_DEPTH_TAPS][2];
    ptrdiff_t next = work->axes[1].step * cell_step;
#pragma GCC unroll 8
    for (int i = 0; i < taps; i++)
        sums[i][0] = sums[i][1] = TRT_ZERO();
    for (ptrdiff_t line = 0; line < box->rows; line++) {
        const char *cell = a + line * work->axes[0].stride * line_step, *gradient = g + line * g_line_step;
        for (ptrdiff_t p = 0; p < box->columns; p++) {
            TRT_VECTOR left = TRT_LOAD((const TRT_REAL *)gradient);
            TRT_VECTOR right = vectors > 1 ? TRT_LOAD((const TRT_REAL *)gradient + TRT_LANES) : left;
#pragma GCC unroll 8
            for (int i = 0; i < taps; i++) {
                sums[i][0] = TRT_FMA(TRT_LOAD((const TRT_REAL *)(cell + i * next)), left, sums[i][0]);
                if (vectors > 1)
                    sums[i][1] = TRT_FMA(TRT_LOAD((const TRT_REAL *)(cell + i * next) + TRT_LANES), right, sums[i][1]);
            }
            cell += work->axes[1].stride * cell_step;
            gradient += g_step;
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < taps; i++)
        for (int v = 0; v < vectors; v++) {
            TRT_REAL *entry = to + i * tap_step + v * TRT_LANES;
            TRT_STORE(entry, add ? TRT_ADD(TRT_LOAD(entry), sums[i][v]) : sums[i][v]);
        }
}

/* Copy `count` channels of the result from those of a cell, each as often as the multiplier says; zeros up to `full`. */
TRT_TARGET static inline void TRT_TYPED(repeat)(const trt_depthwise *work, TRT_REAL *out, const char *cell,
                                                ptrdiff_t step, ptrdiff_t from, ptrdiff_t count, ptrdiff_t full)
{
    ptrdiff_t c = from / work->multiplier, m = from % work->multiplier;
    if (work->multiplier == 1 && step == sizeof(TRT_REAL)) {
        memcpy(out, cell + from * step, (size_t)count * sizeof(TRT_REAL));
    } else {
        for (ptrdiff_t i = 0; i < count; i++) {
            out[i] = *(const TRT_MEM_REAL *)(cell + c * step);
            if (++m == work->multiplier) {
                m = 0;
                c++;
            }
        }
    }
    if (count < full)
        memset(out + count, 0, (size_t)(full - count) * sizeof(TRT_REAL));
}

/* Return where the first tap of a box of windows lies, and the steps from there in bytes. */
TRT_TARGET static const char *TRT_TYPED(depth_cells)(const trt_depthwise *work, const trt_depth_box *box, char *scratch,
                                                     ptrdiff_t *line_step, ptrdiff_t *cell_step)
{
    const trt_conv_axis *down = &work->axes[0], *across = &work->axes[1];
    ptrdiff_t top = box->row * down->stride + down->origin, left = box->column * across->stride + across->origin;
    ptrdiff_t height = (box->rows - 1) * down->stride + (down->taps - 1) * down->step + 1;
    ptrdiff_t width = (box->columns - 1) * across->stride + (across->taps - 1) * across->step + 1;
    ptrdiff_t full = (box->channels + TRT_LANES - 1) / TRT_LANES * TRT_LANES;
    const char *image = work->image + box->batch * work->image_steps[0];
    if (work->multiplier == 1 && work->image_steps[3] == sizeof(TRT_REAL) && box->channels == full && top >= 0 &&
        left >= 0 && top + height <= down->size && left + width <= across->size) {
        *line_step = work->image_steps[1];
        *cell_step = work->image_steps[2];
        return image + top * work->image_steps[1] + left * work->image_steps[2] +
               box->channel * (ptrdiff_t)sizeof(TRT_REAL);
    }
    TRT_REAL *out = (TRT_REAL *)scratch;
    for (ptrdiff_t y = top; y < top + height; y++)
        for (ptrdiff_t x = left; x < left + width; x++, out += full) {
            if (y < 0 || y >= down->size || x < 0 || x >= across->size)
                memset(out, 0, (size_t)full * sizeof(TRT_REAL));
            else
                TRT_TYPED(repeat)(work, out, image + y * work->image_steps[1] + x * work->image_steps[2],
                                  work->image_steps[3], box->channel, box->channels, full);
        }
    *cell_step = full * (ptrdiff_t)sizeof(TRT_REAL);
    *line_step = width * *cell_step;
    return scratch;
}

/* The convolution at one box of windows and channels. */
TRT_TARGET static void TRT_TYPED(depth_task)(const trt_depthwise *work, const trt_depth_box *box, char *scratch)
{
    ptrdiff_t line_step, cell_step;
    const char *cells = TRT_TYPED(depth_cells)(work, box, scratch, &line_step, &cell_step);
    ptrdiff_t full = (box->channels + TRT_LANES - 1) / TRT_LANES * TRT_LANES;
    TRT_REAL *packed = (TRT_REAL *)(scratch + work->cells_bytes);
    for (ptrdiff_t y = 0; y < work->axes[0].taps; y++)
        for (ptrdiff_t x = 0; x < work->axes[1].taps; x++) {
            TRT_REAL *to = packed + (y * work->axes[1].taps + x) * full;
            const char *tap = work->filter +
                (work->axes[0].first_tap + y * work->axes[0].tap_step) * work->filter_steps[0] +
                (work->axes[1].first_tap + x * work->axes[1].tap_step) * work->filter_steps[1];
            for (ptrdiff_t k = 0; k < full; k++)
                to[k] = k < box->channels
                    ? *(const TRT_MEM_REAL *)(tap + (box->channel + k) / work->filter_multiplier * work->filter_steps[2] +
                                              (box->channel + k) % work->filter_multiplier * work->filter_steps[3])
                    : 0;
        }
    TRT_REAL *out = (TRT_REAL *)work->out + box->batch * work->out_steps[0] + box->row * work->out_steps[1] +
                    box->column * work->out_steps[2] + box->channel;
    for (ptrdiff_t line = 0; line < box->rows; line++)
        for (ptrdiff_t k = 0; k < full; k += TRT_LANES) {
            ptrdiff_t count = box->channels - k < TRT_LANES ? box->channels - k : TRT_LANES;
            for (ptrdiff_t column = 0; column < box->columns; column += TRT_DEPTH_ROWS) {
                TRT_VECTOR sums[TRT_DEPTH_ROWS];
                ptrdiff_t rows = box->columns - column < TRT_DEPTH_ROWS ? box->columns - column : TRT_DEPTH_ROWS;
                const char *a = cells + line * work->axes[0].stride * line_step +
                                column * work->axes[1].stride * cell_step + k * (ptrdiff_t)sizeof(TRT_REAL);
                TRT_REAL *to = out + line * work->out_steps[1] + column * work->out_steps[2] + k;
                switch (rows) {
#define TRT_DEPTH_CASE(n)                                                                            \
    case n:                                                                                          \
        TRT_TYPED(depth_tile)(n, work, a, line_step, cell_step, packed + k, full, sums);             \
        break;
                    TRT_DEPTH_CASE(1)
                    TRT_DEPTH_CASE(2)
                    TRT_DEPTH_CASE(3)
                    TRT_DEPTH_CASE(4)
                    TRT_DEPTH_CASE(5)
                    TRT_DEPTH_CASE(6)
                    TRT_DEPTH_CASE(7)
                    TRT_DEPTH_CASE(8)
#undef TRT_DEPTH_CASE
                }
                for (ptrdiff_t i = 0; i < rows; i++) {
                    if (count == TRT_LANES) {
                        TRT_STORE(to + i * work->out_steps[2], sums[i]);
                        continue;
                    }
                    TRT_REAL few[TRT_LANES];
                    TRT_STORE(few, sums[i]);
                    memcpy(to + i * work->out_steps[2], few, (size_t)count * sizeof(TRT_REAL));
                }
            }
        }
}

/* Add one box's share of the gradient of a filter, its channels filled up to whole vectors, to `result`. */
TRT_TARGET static void TRT_TYPED(depth_filter_task)(const trt_depthwise *work, const trt_depth_box *box, char *scratch,
                                                    char *result, int add)
{
    ptrdiff_t line_step, cell_step, g_line_step = work->filter_steps[1], g_step = work->filter_steps[2];
    ptrdiff_t tap_step = work->padded_channels;
    const char *cells = TRT_TYPED(depth_cells)(work, box, scratch, &line_step, &cell_step);
    ptrdiff_t full = (box->channels + TRT_LANES - 1) / TRT_LANES * TRT_LANES;
    const char *gradient = work->filter + box->batch * work->filter_steps[0] + box->row * work->filter_steps[1] +
                           box->column * work->filter_steps[2] + box->channel * work->filter_steps[3];
    if (box->channels < full || work->filter_steps[3] != sizeof(TRT_REAL)) {
        TRT_REAL *packed = (TRT_REAL *)(scratch + work->cells_bytes), *to = packed;
        for (ptrdiff_t y = 0; y < box->rows; y++)
            for (ptrdiff_t x = 0; x < box->columns; x++, to += full)
                for (ptrdiff_t k = 0; k < full; k++)
                    to[k] = k < box->channels ? *(const TRT_MEM_REAL *)(gradient + y * work->filter_steps[1] +
                                                                        x * work->filter_steps[2] +
                                                                        k * work->filter_steps[3])
                                              : 0;
        gradient = (const char *)packed;
        g_step = full * (ptrdiff_t)sizeof(TRT_REAL);
        g_line_step = box->columns * g_step;
    }
    for (ptrdiff_t k = 0; k < full;) {
        int vectors = full - k > TRT_LANES ? 2 : 1;
        ptrdiff_t skip = k * (ptrdiff_t)sizeof(TRT_REAL);
        for (ptrdiff_t y = 0; y < work->axes[0].taps; y++)
            for (ptrdiff_t x = 0; x < work->axes[1].taps; x += TRT_DEPTH_TAPS) {
                ptrdiff_t taps = work->axes[1].taps - x < TRT_DEPTH_TAPS ? work->axes[1].taps - x : TRT_DEPTH_TAPS;
                const char *a = cells + y * work->axes[0].step * line_step + x * work->axes[1].step * cell_step + skip;
                TRT_REAL *to = (TRT_REAL *)result + (y * work->axes[1].taps + x) * tap_step + box->channel + k;
                switch (2 * (int)taps + vectors - 1) {
#define TRT_DEPTH_CASE(n, v)                                                                                       \
    case 2 * n + v - 1:                                                                                            \
        TRT_TYPED(depth_filter_tile)(n, v, work, box, a, line_step, cell_step, gradient + skip, g_line_step, g_step, \
                                     to, tap_step, add);                                                           \
        break;
                    TRT_DEPTH_CASE(1, 1)
                    TRT_DEPTH_CASE(1, 2)
                    TRT_DEPTH_CASE(2, 1)
                    TRT_DEPTH_CASE(2, 2)
                    TRT_DEPTH_CASE(3, 1)
                    TRT_DEPTH_CASE(3, 2)
                    TRT_DEPTH_CASE(4, 1)
                    TRT_DEPTH_CASE(4, 2)
                    TRT_DEPTH_CASE(5, 1)
                    TRT_DEPTH_CASE(5, 2)
#undef TRT_DEPTH_CASE
                }
            }
        k += vectors * TRT_LANES;
    }
}
