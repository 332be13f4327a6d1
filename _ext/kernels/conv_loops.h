/* The inner part of convolutions, for the type and level of the including file's macros.
 *
 * Both kernels keep a few rows times two vectors of sums in registers and read the operand where it lies: in the image
 * itself, or in the thread's copy of the part that a task sees, with its padding around it. Windows that overlap read
 * the same cells again, so no matrix of patches is ever written.
 */

#define TRT_PANEL (2 * TRT_LANES)

/* Windows side by side: c[0:rows, ...] = or += their cells times the packed filter. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(window_tile)(
    const int rows, const int vectors, const trt_run *runs, ptrdiff_t num_runs, const char *a, ptrdiff_t a_step,
    const TRT_REAL *b, TRT_REAL *c, ptrdiff_t c_step, int add)
{
    TRT_VECTOR sums[TRT_MAX_ROWS][2];
    const char *lines[(TRT_MAX_ROWS + 2) / 3];  /* three rows by one register and the step's */
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        sums[i][0] = TRT_ZERO();
        sums[i][1] = TRT_ZERO();
    }
    for (ptrdiff_t r = 0; r < num_runs; r++) {
        const char *from = a + runs[r].offset;
#pragma GCC unroll 16
        for (int g = 0; 3 * g < rows; g++)
            lines[g] = from + 3 * g * a_step;
        for (ptrdiff_t p = runs[r].length; p > 0; p--) {
            TRT_VECTOR left = TRT_LOAD(b);
            TRT_VECTOR right = vectors > 1 ? TRT_LOAD(b + TRT_LANES) : left;
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                TRT_VECTOR x = TRT_SPLAT(*(const TRT_MEM_REAL *)(lines[i / 3] + i % 3 * a_step));
                sums[i][0] = TRT_FMA(x, left, sums[i][0]);
                if (vectors > 1)
                    sums[i][1] = TRT_FMA(x, right, sums[i][1]);
            }
            b += vectors * TRT_LANES;
#pragma GCC unroll 16
            for (int g = 0; 3 * g < rows; g++)
                lines[g] += sizeof(TRT_REAL);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        TRT_REAL *row = c + i * c_step;
        TRT_STORE(row, add ? TRT_ADD(TRT_LOAD(row), sums[i][0]) : sums[i][0]);
        if (vectors > 1)
            TRT_STORE(row + TRT_LANES, add ? TRT_ADD(TRT_LOAD(row + TRT_LANES), sums[i][1]) : sums[i][1]);
    }
}

/* Neighbouring entries of a filter: c[0:rows, ...] = or += the sums over windows of their cells times the packed
 * gradient. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(filter_tile)(
    const int rows, const int vectors, ptrdiff_t lines, ptrdiff_t line_step, ptrdiff_t count, ptrdiff_t a_step,
    const char *a, const TRT_REAL *b, ptrdiff_t b_step, TRT_REAL *c, ptrdiff_t c_step, int add)
{
    TRT_VECTOR sums[TRT_MAX_ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        sums[i][0] = TRT_ZERO();
        sums[i][1] = TRT_ZERO();
    }
    for (ptrdiff_t line = 0; line < lines; line++, a += line_step) {
        const TRT_MEM_REAL *cells = (const TRT_MEM_REAL *)a;
        for (ptrdiff_t p = count; p > 0; p--) {
            TRT_VECTOR left = TRT_LOAD(b);
            TRT_VECTOR right = vectors > 1 ? TRT_LOAD(b + TRT_LANES) : left;
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                TRT_VECTOR x = TRT_SPLAT(cells[i]);
                sums[i][0] = TRT_FMA(x, left, sums[i][0]);
                if (vectors > 1)
                    sums[i][1] = TRT_FMA(x, right, sums[i][1]);
            }
            b += b_step;
            cells = (const TRT_MEM_REAL *)((const char *)cells + a_step);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        TRT_REAL *row = c + i * c_step;
        TRT_STORE(row, add ? TRT_ADD(TRT_LOAD(row), sums[i][0]) : sums[i][0]);
        if (vectors > 1)
            TRT_STORE(row + TRT_LANES, add ? TRT_ADD(TRT_LOAD(row + TRT_LANES), sums[i][1]) : sums[i][1]);
    }
}

/* The same for a result of few channels: sums run along the operand's channels, and each vector of them is added up in
 * the end. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(narrow_tile)(
    const int rows, const int depth, const trt_run *runs, ptrdiff_t num_runs, const char *a, ptrdiff_t a_step,
    const TRT_REAL *b, TRT_REAL *c, ptrdiff_t c_step, int add)
{
    TRT_VECTOR sums[TRT_NARROW_ROWS * TRT_MAX_NARROW];
#pragma GCC unroll 16
    for (int i = 0; i < rows * depth; i++)
        sums[i] = TRT_ZERO();
    for (ptrdiff_t r = 0; r < num_runs; r++) {
        const char *from = a + runs[r].offset;
        ptrdiff_t p = 0, full = (runs[r].length + TRT_LANES - 1) / TRT_LANES * TRT_LANES;
        for (; p + TRT_LANES <= runs[r].length; p += TRT_LANES) {
            TRT_VECTOR weights[TRT_MAX_NARROW];
#pragma GCC unroll 4
            for (int d = 0; d < depth; d++)
                weights[d] = TRT_LOAD(b + d * full + p);
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) {
                TRT_VECTOR x = TRT_LOAD((const TRT_REAL *)(from + i * a_step) + p);
#pragma GCC unroll 4
                for (int d = 0; d < depth; d++)
                    sums[i * depth + d] = TRT_FMA(x, weights[d], sums[i * depth + d]);
            }
        }
        if (p < runs[r].length)
            for (int i = 0; i < rows; i++) {
                TRT_REAL few[TRT_LANES] = {0};
                memcpy(few, from + i * a_step + p * (ptrdiff_t)sizeof(TRT_REAL),
                       (size_t)(runs[r].length - p) * sizeof(TRT_REAL));
                TRT_VECTOR x = TRT_LOAD(few);
#pragma GCC unroll 4
                for (int d = 0; d < depth; d++)
                    sums[i * depth + d] = TRT_FMA(x, TRT_LOAD(b + d * full + p), sums[i * depth + d]);
            }
        b += depth * full;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows * depth; i++) {
        TRT_REAL sum = TRT_SUM(sums[i]), *to = c + i / depth * c_step + i % depth;
        *to = add ? *to + sum : sum;
    }
}

typedef void (*TRT_TYPED(window_fn))(const trt_run *runs, ptrdiff_t num_runs, const char *a, ptrdiff_t a_step,
                                     const TRT_REAL *b, TRT_REAL *c, ptrdiff_t c_step, int add);
typedef void (*TRT_TYPED(filter_fn))(ptrdiff_t lines, ptrdiff_t line_step, ptrdiff_t count, ptrdiff_t a_step,
                                     const char *a, const TRT_REAL *b, ptrdiff_t b_step, TRT_REAL *c,
                                     ptrdiff_t c_step, int add);

#define TRT_TILE(rows, vectors)                                                                                    \
    TRT_TARGET static void TRT_TYPED(window_##rows##_##vectors)(                                                   \
        const trt_run *runs, ptrdiff_t num_runs, const char *a, ptrdiff_t a_step, const TRT_REAL *b, TRT_REAL *c,  \
        ptrdiff_t c_step, int add)                                                                                 \
    {                                                                                                              \
        TRT_TYPED(window_tile)(rows, vectors, runs, num_runs, a, a_step, b, c, c_step, add);                       \
    }                                                                                                              \
    TRT_TARGET static void TRT_TYPED(filter_##rows##_##vectors)(                                                   \
        ptrdiff_t lines, ptrdiff_t line_step, ptrdiff_t count, ptrdiff_t a_step, const char *a, const TRT_REAL *b, \
        ptrdiff_t b_step, TRT_REAL *c, ptrdiff_t c_step, int add)                                                  \
    {                                                                                                              \
        TRT_TYPED(filter_tile)(rows, vectors, lines, line_step, count, a_step, a, b, b_step, c, c_step, add);      \
    }
#define TRT_TILES(rows) TRT_TILE(rows, 1) TRT_TILE(rows, 2)
#define TRT_WINDOWS(rows) {TRT_TYPED(window_##rows##_1), TRT_TYPED(window_##rows##_2)}
#define TRT_FILTERS(rows) {TRT_TYPED(filter_##rows##_1), TRT_TYPED(filter_##rows##_2)}

TRT_TILES(1)
TRT_TILES(2)
TRT_TILES(3)
TRT_TILES(4)
TRT_TILES(5)
TRT_TILES(6)
#if TRT_MAX_ROWS > 6
TRT_TILES(7)
TRT_TILES(8)
TRT_TILES(9)
TRT_TILES(10)
TRT_TILES(11)
TRT_TILES(12)
TRT_TILES(13)
TRT_TILES(14)
#endif

/* by rows - 1, vectors - 1 */
static const TRT_TYPED(window_fn) TRT_TYPED(window_tiles)[TRT_MAX_ROWS][2] = {
    TRT_WINDOWS(1), TRT_WINDOWS(2), TRT_WINDOWS(3), TRT_WINDOWS(4), TRT_WINDOWS(5), TRT_WINDOWS(6),
#if TRT_MAX_ROWS > 6
    TRT_WINDOWS(7), TRT_WINDOWS(8), TRT_WINDOWS(9), TRT_WINDOWS(10), TRT_WINDOWS(11), TRT_WINDOWS(12),
    TRT_WINDOWS(13), TRT_WINDOWS(14),
#endif
};
static const TRT_TYPED(filter_fn) TRT_TYPED(filter_tiles)[TRT_MAX_ROWS][2] = {
    TRT_FILTERS(1), TRT_FILTERS(2), TRT_FILTERS(3), TRT_FILTERS(4), TRT_FILTERS(5), TRT_FILTERS(6),
#if TRT_MAX_ROWS > 6
    TRT_FILTERS(7), TRT_FILTERS(8), TRT_FILTERS(9), TRT_FILTERS(10), TRT_FILTERS(11), TRT_FILTERS(12),
    TRT_FILTERS(13), TRT_FILTERS(14),
#endif
};

#define TRT_NARROW(rows, depth)                                                                                    \
    TRT_TARGET static void TRT_TYPED(narrow_##rows##_##depth)(                                                     \
        const trt_run *runs, ptrdiff_t num_runs, const char *a, ptrdiff_t a_step, const TRT_REAL *b, TRT_REAL *c,  \
        ptrdiff_t c_step, int add)                                                                                 \
    {                                                                                                              \
        TRT_TYPED(narrow_tile)(rows, depth, runs, num_runs, a, a_step, b, c, c_step, add);                         \
    }
#define TRT_NARROWS(rows) TRT_NARROW(rows, 1) TRT_NARROW(rows, 2) TRT_NARROW(rows, 3)
TRT_NARROWS(1)
TRT_NARROWS(2)
TRT_NARROWS(3)
TRT_NARROWS(4)
TRT_NARROW(5, 1)
TRT_NARROW(6, 1)
TRT_NARROW(7, 1)
TRT_NARROW(8, 1)

#define TRT_NARROW_OF(rows) {TRT_TYPED(narrow_##rows##_1), TRT_TYPED(narrow_##rows##_2), TRT_TYPED(narrow_##rows##_3)}
/* by rows - 1, depth - 1 */
static const TRT_TYPED(window_fn) TRT_TYPED(narrow_tiles)[TRT_NARROW_ROWS][TRT_MAX_NARROW] = {
    TRT_NARROW_OF(1), TRT_NARROW_OF(2), TRT_NARROW_OF(3), TRT_NARROW_OF(4), {TRT_TYPED(narrow_5_1)},
    {TRT_TYPED(narrow_6_1)}, {TRT_TYPED(narrow_7_1)}, {TRT_TYPED(narrow_8_1)},
};

/* Copy `count` elements from anywhere. */
TRT_TARGET static inline void TRT_TYPED(gather)(TRT_REAL *out, const char *source, ptrdiff_t step, ptrdiff_t count)
{
    if (step == sizeof(TRT_REAL)) {
        memcpy(out, source, (size_t)count * sizeof(TRT_REAL));
        return;
    }
    for (ptrdiff_t i = 0; i < count; i++)
        out[i] = *(const TRT_MEM_REAL *)(source + i * step);
}

/* Pack a filter of few columns: for each run of cells one column after the other, each filled up to whole vectors. */
TRT_TARGET static void TRT_TYPED(pack_narrow)(const trt_conv_plan *plan, ptrdiff_t group)
{
    const trt_conv *work = plan->work;
    TRT_REAL *out = (TRT_REAL *)plan->packed + group * plan->packed_group;
    const char *source = work->filter + group * work->filter_group_step;
    memset(out, 0, (size_t)plan->packed_group * sizeof(TRT_REAL));
    for (ptrdiff_t r = 0; r < plan->num_runs; r++) {
        const trt_cells *run = &plan->runs[r];
        for (ptrdiff_t o = 0; o < work->depth; o++) {
            for (ptrdiff_t p = 0; p < run->length; p++) {
                ptrdiff_t column = run->column + (run->channel + p) / work->channels;
                out[p] = *(const TRT_MEM_REAL *)(
                    source + (work->axes[0].first_tap + run->row * work->axes[0].tap_step) * work->filter_steps[0] +
                    (work->axes[1].first_tap + column * work->axes[1].tap_step) * work->filter_steps[1] +
                    (run->channel + p) % work->channels * work->filter_steps[2] + o * work->filter_steps[3]);
            }
            out += (run->length + TRT_LANES - 1) / TRT_LANES * TRT_LANES;
        }
    }
}

/* Pack a panel of columns of the filter, each tap and channel after the other, filled up with zeros. */
TRT_TARGET static void TRT_TYPED(pack_filter)(const trt_conv_plan *plan, ptrdiff_t index)
{
    const trt_conv *work = plan->work;
    if (plan->narrow) {
        TRT_TYPED(pack_narrow)(plan, index);
        return;
    }
    ptrdiff_t group = index / plan->panels, column = index % plan->panels * TRT_PANEL;
    ptrdiff_t width = work->depth - column < TRT_PANEL ? work->depth - column : TRT_PANEL;
    ptrdiff_t full = width > TRT_LANES ? TRT_PANEL : TRT_LANES;
    TRT_REAL *out = (TRT_REAL *)plan->packed + group * plan->packed_group + column * plan->inner;
    const char *source = work->filter + group * work->filter_group_step + column * work->filter_steps[3];
    if (width < full)
        memset(out, 0, (size_t)(plan->inner * full) * sizeof(TRT_REAL));
    for (ptrdiff_t y = 0; y < work->axes[0].taps; y++)
        for (ptrdiff_t x = 0; x < work->axes[1].taps; x++) {
            const char *tap = source +
                (work->axes[0].first_tap + y * work->axes[0].tap_step) * work->filter_steps[0] +
                (work->axes[1].first_tap + x * work->axes[1].tap_step) * work->filter_steps[1];
            if (work->filter_steps[3] == sizeof(TRT_REAL)) {
                for (ptrdiff_t c = 0; c < work->channels; c++)
                    memcpy(out + c * full, tap + c * work->filter_steps[2], (size_t)width * sizeof(TRT_REAL));
            } else {
                for (ptrdiff_t o = 0; o < width; o++) {
                    const char *row = tap + o * work->filter_steps[3];
                    for (ptrdiff_t c = 0; c < work->channels; c++)
                        out[c * full + o] = *(const TRT_MEM_REAL *)(row + c * work->filter_steps[2]);
                }
            }
            out += work->channels * full;
        }
}

/* Return where the first tap of a box of windows lies; row_step: elements from one row of cells to the next. */
TRT_TARGET static const char *TRT_TYPED(cells_of)(const trt_conv_plan *plan, const trt_box *box, ptrdiff_t group,
                                                  char *scratch, ptrdiff_t *row_step)
{
    const trt_conv *work = plan->work;
    const trt_conv_axis *down = &work->axes[0], *across = &work->axes[1];
    ptrdiff_t channels = work->channels;
    ptrdiff_t top = box->row * down->stride + down->origin + box->first_tap * down->step;
    ptrdiff_t left = box->column * across->stride + across->origin;
    ptrdiff_t height = (box->rows - 1) * down->stride + (box->taps - 1) * down->step + 1;
    ptrdiff_t width = (box->columns - 1) * across->stride + (across->taps - 1) * across->step + 1;
    const char *image = work->image + box->batch * work->image_steps[0] + group * channels * work->image_steps[3];
    if (plan->dense && top >= 0 && left >= 0 && top + height <= down->size && left + width <= across->size) {
        *row_step = work->image_steps[1] / (ptrdiff_t)sizeof(TRT_REAL);
        return image + top * work->image_steps[1] + left * work->image_steps[2];
    }
    *row_step = width * channels;
    /* cells of a row: zeros, some of the image, zeros */
    ptrdiff_t before = left < 0 ? (-left < width ? -left : width) : 0;
    ptrdiff_t end = across->size - left < width ? across->size - left : width;
    ptrdiff_t inside = end > before ? end - before : 0;
    TRT_REAL *out = (TRT_REAL *)scratch;
    for (ptrdiff_t y = 0; y < height; y++, out += width * channels) {
        if (top + y < 0 || top + y >= down->size || inside == 0) {
            memset(out, 0, (size_t)(width * channels) * sizeof(TRT_REAL));
            continue;
        }
        const char *row = image + (top + y) * work->image_steps[1] + (left + before) * work->image_steps[2];
        TRT_REAL *target = out + before * channels;
        memset(out, 0, (size_t)(before * channels) * sizeof(TRT_REAL));
        memset(target + inside * channels, 0, (size_t)((width - before - inside) * channels) * sizeof(TRT_REAL));
        if (work->image_steps[3] == sizeof(TRT_REAL) &&
            work->image_steps[2] == channels * (ptrdiff_t)sizeof(TRT_REAL)) {
            memcpy(target, row, (size_t)(inside * channels) * sizeof(TRT_REAL));
        } else if (work->image_steps[3] == sizeof(TRT_REAL)) {
            for (ptrdiff_t x = 0; x < inside; x++)
                memcpy(target + x * channels, row + x * work->image_steps[2], (size_t)channels * sizeof(TRT_REAL));
        } else {
            for (ptrdiff_t c = 0; c < channels; c++)
                for (ptrdiff_t x = 0; x < inside; x++)
                    target[x * channels + c] =
                        *(const TRT_MEM_REAL *)(row + x * work->image_steps[2] + c * work->image_steps[3]);
        }
    }
    return scratch;
}

/* The convolution at one box of windows of one group. */
TRT_TARGET static void TRT_TYPED(window_task)(const trt_conv_plan *plan, ptrdiff_t index, char *scratch)
{
    const trt_conv *work = plan->work;
    ptrdiff_t group = index % work->groups, row_step;
    trt_box box = trt_box_of(plan, index / work->groups);
    trt_run runs[TRT_BLOCK_RUNS];
    TRT_REAL edge[TRT_MAX_ROWS * TRT_PANEL];
    box.first_tap = 0;
    box.taps = work->axes[0].taps;
    const char *cells = TRT_TYPED(cells_of)(plan, &box, group, scratch, &row_step);
    const TRT_REAL *packed = (const TRT_REAL *)plan->packed + group * plan->packed_group;
    TRT_REAL *out = (TRT_REAL *)work->out + box.batch * work->out_steps[0] + box.row * work->out_steps[1] +
                    box.column * work->out_steps[2] + group * work->depth;
    ptrdiff_t most = !plan->narrow ? TRT_MAX_ROWS : work->depth > 1 ? TRT_NARROW_ROWS / 2 : TRT_NARROW_ROWS;
    ptrdiff_t parts = (box.columns + most - 1) / most;
    ptrdiff_t a_step = work->axes[1].stride * work->channels * (ptrdiff_t)sizeof(TRT_REAL);
    ptrdiff_t line_step = work->axes[0].stride * row_step * (ptrdiff_t)sizeof(TRT_REAL);
    ptrdiff_t before = 0; /* of the inner dimension */
    for (ptrdiff_t first = 0; first < plan->num_runs;) {
        ptrdiff_t count = 0, k = 0;
        for (; first + count < plan->num_runs && count < TRT_BLOCK_RUNS; count++) {
            const trt_cells *from = &plan->runs[first + count];
            if (count > 0 && !plan->narrow && k + from->length > TRT_BLOCK_INNER)
                break;
            runs[count].offset = (from->row * work->axes[0].step * row_step +
                                  from->column * work->axes[1].step * work->channels + from->channel) *
                                 (ptrdiff_t)sizeof(TRT_REAL);
            runs[count].length = from->length;
            k += plan->narrow ? (from->length + TRT_LANES - 1) / TRT_LANES * TRT_LANES : from->length;
        }
        for (ptrdiff_t panel = 0; panel < plan->panels; panel++) {
            ptrdiff_t column = panel * TRT_PANEL;
            ptrdiff_t width = work->depth - column < TRT_PANEL ? work->depth - column : TRT_PANEL;
            int vectors = width > TRT_LANES ? 2 : 1;
            const TRT_REAL *b = packed + column * plan->inner + before * (plan->narrow ? work->depth : vectors * TRT_LANES);
            for (ptrdiff_t line = 0; line < box.rows; line++)
                for (ptrdiff_t part = 0; part < parts; part++) {
                    ptrdiff_t from = box.columns * part / parts, rows = box.columns * (part + 1) / parts - from;
                    TRT_REAL *c = out + line * work->out_steps[1] + from * work->out_steps[2] + column;
                    const char *a = cells + line * line_step + from * a_step;
                    if (plan->narrow) {
                        TRT_TYPED(narrow_tiles)[rows - 1][width - 1](runs, count, a, a_step, b, c, work->out_steps[2],
                                                                     first > 0);
                        continue;
                    }
                    TRT_TYPED(window_fn) run = TRT_TYPED(window_tiles)[rows - 1][vectors - 1];
                    if (width == vectors * TRT_LANES) {
                        run(runs, count, a, a_step, b, c, work->out_steps[2], first > 0);
                        continue;
                    }
                    run(runs, count, a, a_step, b, edge, TRT_PANEL, 0);
                    for (ptrdiff_t i = 0; i < rows; i++)
                        for (ptrdiff_t j = 0; j < width; j++) {
                            TRT_REAL sum = edge[i * TRT_PANEL + j], *to = c + i * work->out_steps[2] + j;
                            *to = first > 0 ? *to + sum : sum;
                        }
                }
        }
        first += count;
        before += k;
    }
    if (work->finish != NULL)
        for (ptrdiff_t line = 0; line < box.rows; line++)
            work->finish->run(work->finish, trt_conv_place(work, box.batch, box.row + line, box.column), box.columns,
                              group * work->depth, work->depth);
}

/* The gradient of some rows of a filter over one slice of the boxes. */
TRT_TARGET static void TRT_TYPED(filter_task)(const trt_conv_plan *plan, ptrdiff_t index, char *scratch)
{
    const trt_conv *work = plan->work;
    ptrdiff_t group = index % work->groups, part = index / work->groups % plan->tap_parts;
    ptrdiff_t slice = index / work->groups / plan->tap_parts;
    ptrdiff_t boxes = work->batch * plan->row_boxes * plan->column_boxes;
    ptrdiff_t end = boxes * (slice + 1) / plan->slices;
    ptrdiff_t begin = boxes * slice / plan->slices;
    ptrdiff_t a_step = work->axes[1].stride * work->channels * (ptrdiff_t)sizeof(TRT_REAL);
    TRT_REAL *result = slice == 0 ? (TRT_REAL *)work->out : (TRT_REAL *)plan->partial + (slice - 1) * plan->out_size;
    TRT_REAL *packed = (TRT_REAL *)(scratch + plan->cells_bytes);
    TRT_REAL edge[TRT_MAX_ROWS * TRT_PANEL];
    result += group * work->depth;
    for (ptrdiff_t at = begin; at < end && !trt_conv_stopped(work); at++) {
        trt_box box = trt_box_of(plan, at);
        ptrdiff_t row_step;
        int add = at > begin;
        box.first_tap = work->axes[0].taps * part / plan->tap_parts;
        box.taps = work->axes[0].taps * (part + 1) / plan->tap_parts - box.first_tap;
        const char *cells = TRT_TYPED(cells_of)(plan, &box, group, scratch, &row_step);
        ptrdiff_t line_step = work->axes[0].stride * row_step * (ptrdiff_t)sizeof(TRT_REAL);
        for (ptrdiff_t panel = 0; panel < plan->panels; panel++) {
            ptrdiff_t column = panel * TRT_PANEL;
            ptrdiff_t width = work->depth - column < TRT_PANEL ? work->depth - column : TRT_PANEL;
            int vectors = width > TRT_LANES ? 2 : 1;
            const char *gradient = work->filter + box.batch * work->filter_steps[0] +
                box.row * work->filter_steps[1] + box.column * work->filter_steps[2] +
                group * work->filter_group_step + column * work->filter_steps[3];
            TRT_REAL *to = packed;
            if (width < vectors * TRT_LANES)
                memset(packed, 0, (size_t)(box.rows * box.columns * vectors * TRT_LANES) * sizeof(TRT_REAL));
            for (ptrdiff_t y = 0; y < box.rows; y++)
                for (ptrdiff_t x = 0; x < box.columns; x++, to += vectors * TRT_LANES) {
                    const char *from = gradient + y * work->filter_steps[1] + x * work->filter_steps[2];
                    if (width < vectors * TRT_LANES || work->filter_steps[3] != sizeof(TRT_REAL)) {
                        TRT_TYPED(gather)(to, from, work->filter_steps[3], width);
                        continue;
                    }
                    TRT_STORE(to, TRT_LOAD((const TRT_REAL *)from));
                    if (vectors > 1)
                        TRT_STORE(to + TRT_LANES, TRT_LOAD((const TRT_REAL *)from + TRT_LANES));
                }
            for (ptrdiff_t r = 0; r < plan->num_runs; r++) {
                const trt_cells *run = &plan->runs[r];
                if (run->row < box.first_tap || run->row >= box.first_tap + box.taps)
                    continue;
                const char *a = cells + ((run->row - box.first_tap) * work->axes[0].step * row_step +
                                         run->column * work->axes[1].step * work->channels + run->channel) *
                                            (ptrdiff_t)sizeof(TRT_REAL);
                TRT_REAL *c = result + run->row * work->out_steps[0] + run->column * work->out_steps[1] +
                              run->channel * work->out_steps[2] + column;
                ptrdiff_t parts = (run->length + TRT_MAX_ROWS - 1) / TRT_MAX_ROWS;
                for (ptrdiff_t few = 0; few < parts; few++) {
                    ptrdiff_t from = run->length * few / parts, rows = run->length * (few + 1) / parts - from;
                    TRT_REAL *target = c + from * work->out_steps[2];
                    const char *first = a + from * (ptrdiff_t)sizeof(TRT_REAL);
                    TRT_TYPED(filter_fn) sum = TRT_TYPED(filter_tiles)[rows - 1][vectors - 1];
                    if (width == vectors * TRT_LANES) {
                        sum(box.rows, line_step, box.columns, a_step, first, packed, vectors * TRT_LANES, target,
                            work->out_steps[2], add);
                        continue;
                    }
                    sum(box.rows, line_step, box.columns, a_step, first, packed, vectors * TRT_LANES, edge, TRT_PANEL,
                        0);
                    for (ptrdiff_t i = 0; i < rows; i++)
                        for (ptrdiff_t j = 0; j < width; j++) {
                            TRT_REAL total = edge[i * TRT_PANEL + j], *cell = target + i * work->out_steps[2] + j;
                            *cell = add ? *cell + total : total;
                        }
                }
            }
        }
    }
}

#include "kernels/conv_winograd_loops.h"

#undef TRT_PANEL
#undef TRT_TILE
#undef TRT_TILES
#undef TRT_WINDOWS
#undef TRT_FILTERS
#undef TRT_NARROW
#undef TRT_NARROWS
#undef TRT_NARROW_OF
