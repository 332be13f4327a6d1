/* Convolutions of 3 or 5 taps by Winograd's algorithm, for the type and level of conv_loops.h, which includes this.
 *
 * Six cells of a line, and the taps of a window, are taken as polynomials and multiplied at the points 0, +-5/8, +-3/2 and
 * infinity: six products give 4 outputs of 3 taps, or 2 of 5. A tile of 6x6 cells so takes 36 products a channel instead
 * of 144 or 100, and the products of many tiles are 36 matrix products. With these points rounding errors are twice
 * those of a plain sum; with the usual 0, +-1, +-2 they would be four times. An infinity or NaN would spread over its
 * tile: where one comes out, the plain sum is computed after all.
 */

#define TRT_A ((TRT_REAL)0.625)
#define TRT_B ((TRT_REAL)1.5)
#define TRT_A2 (TRT_A * TRT_A)
#define TRT_B2 (TRT_B * TRT_B)
#define TRT_ALWAYS TRT_TARGET static inline __attribute__((always_inline))

/* Six cells, `step` vectors apart, at the six points. */
TRT_ALWAYS void TRT_TYPED(cells_at_points)(const TRT_VECTOR *d, int step, TRT_VECTOR *out)
{
    const TRT_VECTOR product = TRT_SPLAT(TRT_A2 * TRT_B2), sum = TRT_SPLAT(-(TRT_A2 + TRT_B2));
    TRT_VECTOR even, odd;
    out[0] = TRT_FMA(product, d[0], TRT_FMA(sum, d[2 * step], d[4 * step]));
    out[5] = TRT_FMA(product, d[step], TRT_FMA(sum, d[3 * step], d[5 * step]));
    even = TRT_FMA(TRT_SPLAT(-TRT_B2), d[2 * step], d[4 * step]);
    odd = TRT_FMA(TRT_SPLAT(-TRT_B2), d[step], d[3 * step]);
    out[1] = TRT_FMA(TRT_SPLAT(TRT_A), odd, even);
    out[2] = TRT_FMA(TRT_SPLAT(-TRT_A), odd, even);
    even = TRT_FMA(TRT_SPLAT(-TRT_A2), d[2 * step], d[4 * step]);
    odd = TRT_FMA(TRT_SPLAT(-TRT_A2), d[step], d[3 * step]);
    out[3] = TRT_FMA(TRT_SPLAT(TRT_B), odd, even);
    out[4] = TRT_FMA(TRT_SPLAT(-TRT_B), odd, even);
}

/* A polynomial of `taps` coefficients, `step` vectors apart, at the points, over what the other factor leaves there. */
TRT_ALWAYS void TRT_TYPED(taps_at_points)(const int taps, const TRT_VECTOR *g, int step, TRT_VECTOR *out)
{
    const TRT_REAL zero = 1 / (TRT_A2 * TRT_B2);
    const TRT_REAL points[2] = {TRT_A, TRT_B};
    const TRT_REAL others[2] = {1 / (2 * TRT_A2 * (TRT_A2 - TRT_B2)), 1 / (2 * TRT_B2 * (TRT_B2 - TRT_A2))};
    out[0] = TRT_FMA(TRT_SPLAT(zero), g[0], TRT_ZERO());
    out[5] = g[(taps - 1) * step];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
        TRT_REAL power = others[i];
        TRT_VECTOR even = TRT_ZERO(), odd = TRT_ZERO();
#pragma GCC unroll 5
        for (int j = 0; j < taps; j++, power *= points[i]) {
            if (j % 2)
                odd = TRT_FMA(TRT_SPLAT(power), g[j * step], odd);
            else
                even = TRT_FMA(TRT_SPLAT(power), g[j * step], even);
        }
        out[1 + 2 * i] = TRT_ADD(even, odd);
        out[2 + 2 * i] = TRT_FMA(TRT_SPLAT(-1), odd, even);
    }
}

/* `count` outputs of products at the points, `step` vectors apart. */
TRT_ALWAYS void TRT_TYPED(from_points)(const int count, const TRT_VECTOR *m, int step, TRT_VECTOR *out)
{
    const TRT_VECTOR minus = TRT_SPLAT(-1);
    TRT_VECTOR even_a = TRT_ADD(m[step], m[2 * step]), odd_a = TRT_FMA(minus, m[2 * step], m[step]);
    TRT_VECTOR even_b = TRT_ADD(m[3 * step], m[4 * step]), odd_b = TRT_FMA(minus, m[4 * step], m[3 * step]);
    TRT_REAL a = TRT_A, b = TRT_B;
    out[0] = TRT_ADD(m[0], TRT_ADD(even_a, even_b));
#pragma GCC unroll 4
    for (int i = 1; i < count; i++, a *= TRT_A, b *= TRT_B)
        out[i] = TRT_FMA(TRT_SPLAT(a), i % 2 ? odd_a : even_a,
                         TRT_FMA(TRT_SPLAT(b), i % 2 ? odd_b : even_b, TRT_ZERO()));
    out[count - 1] = TRT_ADD(out[count - 1], m[5 * step]);
}

/* Both dimensions: rows by columns of inputs, one vector at `offset` of each; 36 points in `out`, `step` elements apart. */
TRT_ALWAYS void TRT_TYPED(tile_taps_at_points)(const int rows, const int columns, const char *const *in,
                                               ptrdiff_t offset, TRT_REAL *out, ptrdiff_t step)
{
    TRT_VECTOR half[6 * 5];  /* by columns of the input */
    TRT_VECTOR line[6];
#pragma GCC unroll 5
    for (int x = 0; x < columns; x++) {
        TRT_VECTOR taps[5];
#pragma GCC unroll 5
        for (int y = 0; y < rows; y++)
            taps[y] = TRT_LOAD((const TRT_REAL *)in[y * columns + x] + offset);
        TRT_TYPED(taps_at_points)(rows, taps, 1, line);
#pragma GCC unroll 6
        for (int i = 0; i < 6; i++)
            half[i * columns + x] = line[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
        TRT_TYPED(taps_at_points)(columns, half + i * columns, 1, line);
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++)
            TRT_STORE(out + (6 * i + j) * step, line[j]);
    }
}

TRT_ALWAYS void TRT_TYPED(tile_from_points)(const int rows, const int columns, const TRT_REAL *in, ptrdiff_t step,
                                            TRT_VECTOR *out)
{
    TRT_VECTOR half[6 * 5];
    TRT_VECTOR line[6];
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
#pragma GCC unroll 6
        for (int j = 0; j < 6; j++)
            line[j] = TRT_LOAD(in + (6 * i + j) * step);
        TRT_TYPED(from_points)(columns, line, 1, half + i * columns);
    }
#pragma GCC unroll 5
    for (int x = 0; x < columns; x++) {
        TRT_TYPED(from_points)(rows, half + x, columns, line);
#pragma GCC unroll 5
        for (int y = 0; y < rows; y++)
            out[y * columns + x] = line[y];
    }
}

/* The same by sizes that are known only now. */
#define TRT_BY_SIZES(FUNCTION, SMALL, LARGE, ...)                              \
    do {                                                                       \
        if (rows == SMALL && columns == SMALL)                                 \
            TRT_TYPED(FUNCTION)(SMALL, SMALL, __VA_ARGS__);                    \
        else if (rows == SMALL)                                                \
            TRT_TYPED(FUNCTION)(SMALL, LARGE, __VA_ARGS__);                    \
        else if (columns == SMALL)                                             \
            TRT_TYPED(FUNCTION)(LARGE, SMALL, __VA_ARGS__);                    \
        else                                                                   \
            TRT_TYPED(FUNCTION)(LARGE, LARGE, __VA_ARGS__);                    \
    } while (0)
TRT_TARGET static void TRT_TYPED(filter_at_points)(ptrdiff_t rows, ptrdiff_t columns, const char *const *in,
                                                   ptrdiff_t offset, TRT_REAL *out, ptrdiff_t step)
{
    TRT_BY_SIZES(tile_taps_at_points, 3, 5, in, offset, out, step);
}
TRT_TARGET static void TRT_TYPED(gradient_at_points)(ptrdiff_t rows, ptrdiff_t columns, const char *const *in,
                                                     ptrdiff_t offset, TRT_REAL *out, ptrdiff_t step)
{
    TRT_BY_SIZES(tile_taps_at_points, 2, 4, in, offset, out, step);
}
TRT_TARGET static void TRT_TYPED(window_outputs)(ptrdiff_t rows, ptrdiff_t columns, const TRT_REAL *in, ptrdiff_t step,
                                                 TRT_VECTOR *out)
{
    TRT_BY_SIZES(tile_from_points, 2, 4, in, step, out);
}
TRT_TARGET static void TRT_TYPED(filter_outputs)(ptrdiff_t rows, ptrdiff_t columns, const TRT_REAL *in, ptrdiff_t step,
                                                 TRT_VECTOR *out)
{
    TRT_BY_SIZES(tile_from_points, 3, 5, in, step, out);
}
#undef TRT_BY_SIZES

/* Pack a panel of columns of the filter, at the points: for each point all channels, one after the other. */
TRT_TARGET static void TRT_TYPED(pack_points)(const trt_conv_plan *plan, ptrdiff_t panel)
{
    const trt_conv *work = plan->work;
    const trt_conv_axis *down = &work->axes[0], *across = &work->axes[1];
    ptrdiff_t column = panel * TRT_PANEL, width = work->depth - column < TRT_PANEL ? work->depth - column : TRT_PANEL;
    TRT_REAL *out = (TRT_REAL *)plan->packed + column * work->channels;
    for (ptrdiff_t c = 0; c < work->channels; c++)
        for (ptrdiff_t o = 0; o < width; o += TRT_LANES) {
            TRT_REAL few[25][TRT_LANES];
            const char *taps[25];
            const char *entry = work->filter + c * work->filter_steps[2] + (column + o) * work->filter_steps[3];
            for (ptrdiff_t y = 0; y < down->taps; y++)
                for (ptrdiff_t x = 0; x < across->taps; x++) {
                    ptrdiff_t tap = y * across->taps + x;
                    TRT_TYPED(gather)(few[tap], entry + (down->first_tap + y * down->tap_step) * work->filter_steps[0] +
                                               (across->first_tap + x * across->tap_step) * work->filter_steps[1],
                                      work->filter_steps[3], TRT_LANES);
                    taps[tap] = (const char *)few[tap];
                }
            TRT_TYPED(filter_at_points)(down->taps, across->taps, taps, 0, out + c * width + o,
                                        work->channels * work->depth);
        }
}

/* Where a tile stands. */
TRT_TARGET static inline void TRT_TYPED(tile_place)(const trt_conv_plan *plan, ptrdiff_t tile, ptrdiff_t *batch,
                                                    ptrdiff_t *row, ptrdiff_t *column)
{
    *column = tile % plan->tiles[1] * plan->tile_outputs[1];
    *row = tile / plan->tiles[1] % plan->tiles[0] * plan->tile_outputs[0];
    *batch = tile / plan->tiles[1] / plan->tiles[0];
}

/* The cells of tiles [first, + count) at the points: out[tile][point][channel]. Cells outside are read from `zeros`. */
TRT_TARGET static void TRT_TYPED(tiles_at_points)(const trt_conv_plan *plan, ptrdiff_t first, ptrdiff_t count,
                                                  const TRT_REAL *zeros, TRT_REAL *out, ptrdiff_t tile_step)
{
    const trt_conv *work = plan->work;
    for (ptrdiff_t t = 0; t < count; t++, out += tile_step) {
        const char *cells[36];
        ptrdiff_t batch, row, column;
        TRT_TYPED(tile_place)(plan, first + t, &batch, &row, &column);
        row += work->axes[0].origin;
        column += work->axes[1].origin;
        for (ptrdiff_t y = 0; y < 6; y++)
            for (ptrdiff_t x = 0; x < 6; x++) {
                int inside = row + y >= 0 && row + y < work->axes[0].size && column + x >= 0 &&
                             column + x < work->axes[1].size;
                cells[6 * y + x] = inside ? work->image + batch * work->image_steps[0] + (row + y) * work->image_steps[1] +
                                                (column + x) * work->image_steps[2]
                                          : (const char *)zeros;
            }
        for (ptrdiff_t c = 0; c < work->channels; c += TRT_LANES) {
            TRT_VECTOR half[36], line[6];
#pragma GCC unroll 6
            for (int y = 0; y < 6; y++) {
#pragma GCC unroll 6
                for (int x = 0; x < 6; x++)
                    line[x] = TRT_LOAD((const TRT_REAL *)cells[6 * y + x] + c);
                TRT_TYPED(cells_at_points)(line, 1, half + 6 * y);
            }
#pragma GCC unroll 6
            for (int x = 0; x < 6; x++) {
                TRT_TYPED(cells_at_points)(half + x, 6, line);
#pragma GCC unroll 6
                for (int y = 0; y < 6; y++)
                    TRT_STORE(out + (6 * y + x) * work->channels + c, line[y]);
            }
        }
    }
}

/* The convolution at some tiles. */
TRT_TARGET static void TRT_TYPED(winograd_task)(const trt_conv_plan *plan, ptrdiff_t index, char *scratch)
{
    const trt_conv *work = plan->work;
    ptrdiff_t first = plan->all_tiles * index / plan->tile_boxes;
    ptrdiff_t count = plan->all_tiles * (index + 1) / plan->tile_boxes - first;
    ptrdiff_t cell_step = 36 * work->channels + TRT_LANES, sum_step = 36 * work->depth + TRT_LANES; /* of tiles */
    TRT_REAL *zeros = (TRT_REAL *)scratch, *cells = zeros + work->channels, *sums = cells + count * cell_step;
    ptrdiff_t parts = (count + TRT_MAX_ROWS - 1) / TRT_MAX_ROWS;
    const trt_run whole = {0, work->channels};
    memset(zeros, 0, (size_t)work->channels * sizeof(TRT_REAL));
    TRT_TYPED(tiles_at_points)(plan, first, count, zeros, cells, cell_step);
    for (int i = 0; i < 36; i++)
        for (ptrdiff_t column = 0; column < work->depth; column += TRT_PANEL) {
            int vectors = work->depth - column > TRT_LANES ? 2 : 1;
            const TRT_REAL *b = (const TRT_REAL *)plan->packed + (i * work->depth + column) * work->channels;
            for (ptrdiff_t part = 0; part < parts; part++) {
                ptrdiff_t from = count * part / parts, rows = count * (part + 1) / parts - from;
                TRT_TYPED(window_tiles)[rows - 1][vectors - 1](
                    &whole, 1, (const char *)(cells + from * cell_step + i * work->channels),
                    cell_step * (ptrdiff_t)sizeof(TRT_REAL), b, sums + from * sum_step + i * work->depth + column,
                    sum_step, 0);
            }
        }
    for (ptrdiff_t t = 0; t < count; t++) {
        ptrdiff_t batch, row, column;
        TRT_TYPED(tile_place)(plan, first + t, &batch, &row, &column);
        ptrdiff_t rows = work->axes[0].count - row < plan->tile_outputs[0] ? work->axes[0].count - row
                                                                           : plan->tile_outputs[0];
        ptrdiff_t columns = work->axes[1].count - column < plan->tile_outputs[1] ? work->axes[1].count - column
                                                                                 : plan->tile_outputs[1];
        TRT_REAL *out = (TRT_REAL *)work->out + batch * work->out_steps[0] + row * work->out_steps[1] +
                        column * work->out_steps[2];
        TRT_VECTOR check = TRT_ZERO();
        for (ptrdiff_t o = 0; o < work->depth; o += TRT_LANES) {
            TRT_VECTOR outputs[16];
            TRT_TYPED(window_outputs)(plan->tile_outputs[0], plan->tile_outputs[1], sums + t * sum_step + o,
                                      work->depth, outputs);
            for (ptrdiff_t y = 0; y < rows; y++)
                for (ptrdiff_t x = 0; x < columns; x++) {
                    TRT_VECTOR output = outputs[y * plan->tile_outputs[1] + x];
                    check = TRT_FMA(output, TRT_ZERO(), check);
                    TRT_STORE(out + y * work->out_steps[1] + x * work->out_steps[2] + o, output);
                }
        }
        if (TRT_SUM(check) != 0)
            trt_conv_not_finite(plan);
        if (work->finish != NULL)
            for (ptrdiff_t y = 0; y < rows; y++)
                work->finish->run(work->finish, trt_conv_place(work, batch, row + y, column), columns, 0, work->depth);
    }
}

/* The gradient of a filter over one slice of the tiles, at the points: partial[slice][point][channel][depth]. */
TRT_TARGET static void TRT_TYPED(winograd_filter_task)(const trt_conv_plan *plan, ptrdiff_t slice, char *scratch)
{
    const trt_conv *work = plan->work;
    TRT_REAL *result = (TRT_REAL *)plan->partial + slice * 36 * work->channels * work->depth;
    ptrdiff_t begin = plan->tile_boxes * slice / plan->slices, end = plan->tile_boxes * (slice + 1) / plan->slices;
    ptrdiff_t parts = (work->channels + TRT_MAX_ROWS - 1) / TRT_MAX_ROWS;
    ptrdiff_t longest = work->channels > work->depth ? work->channels : work->depth;
    ptrdiff_t cell_step = 36 * work->channels + TRT_LANES, other_step = 36 * work->depth + TRT_LANES; /* of tiles */
    TRT_REAL *zeros = (TRT_REAL *)scratch, *cells = zeros + longest;
    memset(zeros, 0, (size_t)longest * sizeof(TRT_REAL));
    for (ptrdiff_t box = begin; box < end && !trt_conv_stopped(work); box++) {
        ptrdiff_t first = plan->all_tiles * box / plan->tile_boxes;
        ptrdiff_t count = plan->all_tiles * (box + 1) / plan->tile_boxes - first;
        TRT_REAL *gradients = cells + count * cell_step;
        TRT_TYPED(tiles_at_points)(plan, first, count, zeros, cells, cell_step);
        for (ptrdiff_t t = 0; t < count; t++) {
            const char *places[16];
            ptrdiff_t batch, row, column;
            TRT_TYPED(tile_place)(plan, first + t, &batch, &row, &column);
            for (ptrdiff_t y = 0; y < plan->tile_outputs[0]; y++)
                for (ptrdiff_t x = 0; x < plan->tile_outputs[1]; x++)
                    places[y * plan->tile_outputs[1] + x] =
                        row + y < work->axes[0].count && column + x < work->axes[1].count
                            ? work->filter + batch * work->filter_steps[0] + (row + y) * work->filter_steps[1] +
                                  (column + x) * work->filter_steps[2]
                            : (const char *)zeros;
            for (ptrdiff_t o = 0; o < work->depth; o += TRT_LANES)
                TRT_TYPED(gradient_at_points)(plan->tile_outputs[0], plan->tile_outputs[1], places, o,
                                              gradients + t * other_step + o, work->depth);
        }
        for (int i = 0; i < 36; i++)
            for (ptrdiff_t column = 0; column < work->depth; column += TRT_PANEL) {
                int vectors = work->depth - column > TRT_LANES ? 2 : 1;
                for (ptrdiff_t part = 0; part < parts; part++) {
                    ptrdiff_t from = work->channels * part / parts, rows = work->channels * (part + 1) / parts - from;
                    TRT_TYPED(filter_tiles)[rows - 1][vectors - 1](
                        1, 0, count, cell_step * (ptrdiff_t)sizeof(TRT_REAL),
                        (const char *)(cells + i * work->channels + from), gradients + i * work->depth + column,
                        other_step, result + (i * work->channels + from) * work->depth + column, work->depth,
                        box > begin);
                }
            }
    }
}

/* The gradient of channels [begin, end) of a filter from its slices. */
TRT_TARGET static void TRT_TYPED(winograd_add_slices)(const trt_conv_plan *plan, ptrdiff_t begin, ptrdiff_t end)
{
    const trt_conv *work = plan->work;
    TRT_VECTOR check = TRT_ZERO();
    for (ptrdiff_t c = begin; c < end; c++)
        for (ptrdiff_t o = 0; o < work->depth; o += TRT_LANES) {
            TRT_REAL points[36 * TRT_LANES];
            TRT_VECTOR taps[25];
            for (int i = 0; i < 36; i++) {
                const TRT_REAL *part = (const TRT_REAL *)plan->partial + (i * work->channels + c) * work->depth + o;
                TRT_VECTOR sum = TRT_LOAD(part);
                for (ptrdiff_t slice = 1; slice < plan->slices; slice++)
                    sum = TRT_ADD(sum, TRT_LOAD(part + slice * 36 * work->channels * work->depth));
                TRT_STORE(points + i * TRT_LANES, sum);
            }
            TRT_TYPED(filter_outputs)(work->axes[0].taps, work->axes[1].taps, points, TRT_LANES, taps);
            for (ptrdiff_t y = 0; y < work->axes[0].taps; y++)
                for (ptrdiff_t x = 0; x < work->axes[1].taps; x++) {
                    TRT_VECTOR sum = taps[y * work->axes[1].taps + x];
                    check = TRT_FMA(sum, TRT_ZERO(), check);
                    TRT_STORE((TRT_REAL *)work->out + y * work->out_steps[0] + x * work->out_steps[1] +
                                  c * work->out_steps[2] + o,
                              sum);
                }
        }
    if (TRT_SUM(check) != 0)
        trt_conv_not_finite(plan);
}

#undef TRT_A
#undef TRT_B
#undef TRT_A2
#undef TRT_B2
#undef TRT_ALWAYS
