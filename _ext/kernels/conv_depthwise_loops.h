/* Depthwise convolutions, for the type and level of the including file's macros; see conv_depthwise.h. Every channel of
 * the result has cells of its own: where the multiplier is not one, the copy of the cells repeats them. */

/* Windows side by side, one vector of channels: `rows` by `columns` taps, from the first one's cell and entry. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(depth_tile)(
    const int windows, const trt_depth_view *view, ptrdiff_t rows, ptrdiff_t columns, const char *a, const TRT_REAL *b,
    ptrdiff_t row_step, ptrdiff_t tap_step, TRT_VECTOR *sums)
{
    ptrdiff_t next = view->next_window, across = view->next_tap;
#pragma GCC unroll 8
    for (int i = 0; i < windows; i++)
        sums[i] = TRT_ZERO();
    for (ptrdiff_t y = 0; y < rows; y++, a += view->next_row, b += row_step) {
        const char *cell = a;
        const TRT_REAL *entry = b;
        for (ptrdiff_t x = 0; x < columns; x++, cell += across, entry += tap_step) {
            TRT_VECTOR weights = TRT_LOAD(entry);
#pragma GCC unroll 8
            for (int i = 0; i < windows; i++)
                sums[i] = TRT_FMA(TRT_LOAD((const TRT_REAL *)(cell + i * next)), weights, sums[i]);
        }
    }
}

/* Neighbouring taps of a filter, one or two vectors of channels: add to each its sums over lines of windows. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(depth_filter_tile)(
    const int taps, const int vectors, const trt_depth_view *view, ptrdiff_t lines, ptrdiff_t windows, const char *a,
    const char *g, ptrdiff_t g_line_step, ptrdiff_t g_step, TRT_REAL *to, ptrdiff_t tap_step)
{
    TRT_VECTOR sums[TRT_DEPTH_TAPS][2];
    ptrdiff_t across = view->next_tap;
#pragma GCC unroll 8
    for (int i = 0; i < taps; i++)
        sums[i][0] = sums[i][1] = TRT_ZERO();
    for (ptrdiff_t line = 0; line < lines; line++, a += view->next_line, g += g_line_step) {
        const char *cell = a, *gradient = g;
        for (ptrdiff_t p = 0; p < windows; p++, cell += view->next_window, gradient += g_step) {
            TRT_VECTOR left = TRT_LOAD((const TRT_REAL *)gradient);
            TRT_VECTOR right = vectors > 1 ? TRT_LOAD((const TRT_REAL *)gradient + TRT_LANES) : left;
#pragma GCC unroll 8
            for (int i = 0; i < taps; i++) {
                sums[i][0] = TRT_FMA(TRT_LOAD((const TRT_REAL *)(cell + i * across)), left, sums[i][0]);
                if (vectors > 1)
                    sums[i][1] = TRT_FMA(TRT_LOAD((const TRT_REAL *)(cell + i * across) + TRT_LANES), right, sums[i][1]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < taps; i++)
        for (int v = 0; v < vectors; v++) {
            TRT_REAL *entry = to + i * tap_step + v * TRT_LANES;
            TRT_STORE(entry, TRT_ADD(TRT_LOAD(entry), sums[i][v]));
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

/* Tell where the cells of a box of windows are: in the image itself, or in a copy that repeats channels and fills them up
 * to whole vectors; cells outside the image are left out of either. */
TRT_TARGET static trt_depth_view TRT_TYPED(depth_view)(const trt_depthwise *work, const trt_depth_box *box, char *scratch)
{
    const trt_conv_axis *down = &work->axes[0], *across = &work->axes[1];
    ptrdiff_t top = box->row * down->stride + down->origin, left = box->column * across->stride + across->origin;
    ptrdiff_t bottom = top + (box->rows - 1) * down->stride + (down->taps - 1) * down->step + 1;
    ptrdiff_t right = left + (box->columns - 1) * across->stride + (across->taps - 1) * across->step + 1;
    ptrdiff_t full = (box->channels + TRT_LANES - 1) / TRT_LANES * TRT_LANES;
    ptrdiff_t first_row = top < 0 ? 0 : top, first_column = left < 0 ? 0 : left;
    trt_depth_view view;
    bottom = bottom > down->size ? down->size : bottom;
    right = right > across->size ? across->size : right;
    view.size[0] = bottom > first_row ? bottom - first_row : 0;
    view.size[1] = right > first_column ? right - first_column : 0;
    view.first[0] = top - first_row;
    view.first[1] = left - first_column;
    if (view.size[0] == 0 || view.size[1] == 0)
        view.size[0] = view.size[1] = first_row = first_column = 0;
    view.cells = work->image + box->batch * work->image_steps[0] + first_row * work->image_steps[1] +
                 first_column * work->image_steps[2];
    if (work->multiplier == 1 && work->image_steps[3] == sizeof(TRT_REAL) && box->channels == full) {
        view.cells += box->channel * (ptrdiff_t)sizeof(TRT_REAL);
        view.steps[0] = work->image_steps[1];
        view.steps[1] = work->image_steps[2];
    } else {
        TRT_REAL *out = (TRT_REAL *)scratch;
        for (ptrdiff_t y = 0; y < view.size[0]; y++)
            for (ptrdiff_t x = 0; x < view.size[1]; x++, out += full)
                TRT_TYPED(repeat)(work, out, view.cells + y * work->image_steps[1] + x * work->image_steps[2],
                                  work->image_steps[3], box->channel, box->channels, full);
        view.cells = scratch;
        view.steps[1] = full * (ptrdiff_t)sizeof(TRT_REAL);
        view.steps[0] = view.size[1] * view.steps[1];
    }
    view.next_line = down->stride * view.steps[0];
    view.next_row = down->step * view.steps[0];
    view.next_window = across->stride * view.steps[1];
    view.next_tap = across->step * view.steps[1];
    return view;
}

/* The convolution at one box of windows and channels. */
TRT_TARGET static void TRT_TYPED(depth_task)(const trt_depthwise *work, const trt_depth_box *box, char *scratch)
{
    const trt_depth_view view = TRT_TYPED(depth_view)(work, box, scratch);
    const trt_conv_axis *across = &work->axes[1];
    const TRT_REAL *packed = (const TRT_REAL *)work->packed + box->channel;
    ptrdiff_t tap_step = work->padded_channels, row_step = across->taps * tap_step;
    TRT_REAL *out = (TRT_REAL *)work->out + box->batch * work->out_steps[0] + box->row * work->out_steps[1] +
                    box->column * work->out_steps[2] + box->channel;
    trt_range inner = trt_depth_whole_windows(across, view.first[1], view.size[1], box->columns);
    for (ptrdiff_t line = 0; line < box->rows; line++) {
        ptrdiff_t top = view.first[0] + line * work->axes[0].stride;
        trt_range rows = trt_depth_taps_inside(&work->axes[0], top, view.size[0]);
        for (ptrdiff_t column = 0, windows; column < box->columns; column += windows) {
            ptrdiff_t left = view.first[1] + column * across->stride;
            trt_range taps = {0, across->taps};
            windows = 1;
            if (column < inner.begin || column >= inner.end)
                taps = trt_depth_taps_inside(across, left, view.size[1]);
            else
                windows = inner.end - column < TRT_DEPTH_ROWS ? inner.end - column : TRT_DEPTH_ROWS;
            ptrdiff_t height = rows.end - rows.begin, width = taps.end - taps.begin;
            const char *a = view.cells;
            const TRT_REAL *b = packed;
            if (width == 0)
                height = 0;
            if (height > 0) {
                a += (top + rows.begin * work->axes[0].step) * view.steps[0] +
                     (left + taps.begin * across->step) * view.steps[1];
                b += rows.begin * row_step + taps.begin * tap_step;
            }
            TRT_REAL *to = out + line * work->out_steps[1] + column * work->out_steps[2];
            for (ptrdiff_t k = 0; k < box->channels; k += TRT_LANES) {
                ptrdiff_t count = box->channels - k < TRT_LANES ? box->channels - k : TRT_LANES;
                TRT_VECTOR sums[TRT_DEPTH_ROWS];
                switch (windows) {
#define TRT_DEPTH_CASE(n)                                                                                   \
    case n:                                                                                                 \
        TRT_TYPED(depth_tile)(n, &view, height, width, a + k * (ptrdiff_t)sizeof(TRT_REAL), b + k, row_step, \
                              tap_step, sums);                                                              \
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
                for (ptrdiff_t i = 0; i < windows; i++) {
                    if (count == TRT_LANES) {
                        TRT_STORE(to + i * work->out_steps[2] + k, sums[i]);
                        continue;
                    }
                    TRT_REAL few[TRT_LANES];
                    TRT_STORE(few, sums[i]);
                    memcpy(to + i * work->out_steps[2] + k, few, (size_t)count * sizeof(TRT_REAL));
                }
            }
        }
    }
}

/* Add one box's share of the gradient of a filter, its channels filled up to whole vectors, to `result`. */
TRT_TARGET static void TRT_TYPED(depth_filter_task)(const trt_depthwise *work, const trt_depth_box *box, char *scratch,
                                                    char *result, int add)
{
    const trt_depth_view view = TRT_TYPED(depth_view)(work, box, scratch);
    const trt_conv_axis *down = &work->axes[0], *across = &work->axes[1];
    ptrdiff_t g_line_step = work->filter_steps[1], g_step = work->filter_steps[2], tap_step = work->padded_channels;
    ptrdiff_t full = (box->channels + TRT_LANES - 1) / TRT_LANES * TRT_LANES;
    TRT_REAL *sums = (TRT_REAL *)result + box->channel;
    const char *gradient = work->filter + box->batch * work->filter_steps[0] + box->row * work->filter_steps[1] +
                           box->column * work->filter_steps[2] + box->channel * work->filter_steps[3];
    if (!add)
        for (ptrdiff_t tap = 0; tap < down->taps * across->taps; tap++)
            memset(sums + tap * tap_step, 0, (size_t)full * sizeof(TRT_REAL));
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
    trt_range inner = trt_depth_whole_windows(across, view.first[1], view.size[1], box->columns);
    for (ptrdiff_t y = 0; y < down->taps; y++) {
        /* the lines of windows whose tap lies inside, and there the columns of windows that see the same taps */
        trt_range lines = trt_depth_windows_inside(down, view.first[0] + y * down->step, view.size[0], box->rows);
        for (ptrdiff_t column = 0, windows; column < box->columns && lines.begin < lines.end; column += windows) {
            ptrdiff_t left = view.first[1] + column * across->stride;
            trt_range taps = {0, across->taps};
            windows = 1;
            if (column < inner.begin || column >= inner.end)
                taps = trt_depth_taps_inside(across, left, view.size[1]);
            else
                windows = inner.end - column;
            for (ptrdiff_t x = taps.begin, some; x < taps.end; x += some) {
                some = taps.end - x < TRT_DEPTH_TAPS ? taps.end - x : TRT_DEPTH_TAPS;
                const char *a = view.cells +
                    (view.first[0] + lines.begin * down->stride + y * down->step) * view.steps[0] +
                    (left + x * across->step) * view.steps[1];
                const char *g = gradient + lines.begin * g_line_step + column * g_step;
                TRT_REAL *to = sums + (y * across->taps + x) * tap_step;
                for (ptrdiff_t k = 0; k < full;) {
                    int vectors = full - k > TRT_LANES ? 2 : 1;
                    ptrdiff_t skip = k * (ptrdiff_t)sizeof(TRT_REAL);
                    switch (2 * (int)some + vectors - 1) {
#define TRT_DEPTH_CASE(n, v)                                                                                       \
    case 2 * n + v - 1:                                                                                            \
        TRT_TYPED(depth_filter_tile)(n, v, &view, lines.end - lines.begin, windows, a + skip, g + skip,            \
                                     g_line_step, g_step, to + k, tap_step);                                       \
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
                    k += vectors * TRT_LANES;
                }
            }
        }
    }
}
