/* The inner part of a matrix product, for the type and level of the including file's macros.
 *
 * A tile of C, a few panels of rows high and a few panels of columns wide, is computed block by block along the inner
 * dimension. For each block the tile's part of A and of B is packed into the thread's scratch memory: B in panels of
 * two vectors of columns, A in panels of up to TRT_MAX_ROWS rows. The kernel then keeps a panel's rows times two vectors
 * of C in registers. There is a kernel for every number of rows, so that panels can be of equal height and nothing is
 * computed for padding.
 *
 * A panel of A is kept in one of two orders, whichever its source has already: by rows (a row of A is contiguous,
 * TRT_ROW_STEP from one row to the next) or by columns (all rows of a column together).
 */

#define TRT_PANEL (2 * TRT_LANES)

/* C[0:rows, 0:vectors * lanes] = or += A[0:rows, 0:k] B[0:k, ...] */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(tile)(
    const int rows, const int vectors, const int by_rows, ptrdiff_t k, const TRT_REAL *a, const TRT_REAL *b,
    ptrdiff_t b_step, TRT_REAL *c, ptrdiff_t c_step, int add)
{
    TRT_VECTOR sums[TRT_MAX_ROWS][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        sums[i][0] = TRT_ZERO();
        sums[i][1] = TRT_ZERO();
    }
    for (ptrdiff_t p = 0; p < k; p++) {
        TRT_VECTOR left = TRT_LOAD(b);
        TRT_VECTOR right = vectors > 1 ? TRT_LOAD(b + TRT_LANES) : left;
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            TRT_VECTOR x = TRT_SPLAT(by_rows ? a[i * TRT_ROW_STEP] : a[i]);
            sums[i][0] = TRT_FMA(x, left, sums[i][0]);
            if (vectors > 1)
                sums[i][1] = TRT_FMA(x, right, sums[i][1]);
        }
        b += b_step;
        a += by_rows ? 1 : rows;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        TRT_REAL *row = c + i * c_step;
        TRT_STORE(row, add ? TRT_ADD(TRT_LOAD(row), sums[i][0]) : sums[i][0]);
        if (vectors > 1)
            TRT_STORE(row + TRT_LANES, add ? TRT_ADD(TRT_LOAD(row + TRT_LANES), sums[i][1]) : sums[i][1]);
    }
}

typedef void (*TRT_TYPED(tile_fn))(ptrdiff_t k, const TRT_REAL *a, const TRT_REAL *b, ptrdiff_t b_step, TRT_REAL *c,
                                   ptrdiff_t c_step, int add);

#define TRT_TILE(rows, vectors, by_rows)                                                                          \
    TRT_TARGET static void TRT_TYPED(tile_##rows##_##vectors##_##by_rows)(                                        \
        ptrdiff_t k, const TRT_REAL *a, const TRT_REAL *b, ptrdiff_t b_step, TRT_REAL *c, ptrdiff_t c_step, int add) \
    {                                                                                                             \
        TRT_TYPED(tile)(rows, vectors, by_rows, k, a, b, b_step, c, c_step, add);                                 \
    }
#define TRT_TILES(rows) TRT_TILE(rows, 1, 0) TRT_TILE(rows, 1, 1) TRT_TILE(rows, 2, 0) TRT_TILE(rows, 2, 1)
#define TRT_TILES_OF(rows)                                                                              \
    {                                                                                                   \
        {TRT_TYPED(tile_##rows##_1_0), TRT_TYPED(tile_##rows##_1_1)},                                   \
        {TRT_TYPED(tile_##rows##_2_0), TRT_TYPED(tile_##rows##_2_1)}                                    \
    }

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

/* by rows - 1, vectors - 1, by_rows */
static const TRT_TYPED(tile_fn) TRT_TYPED(tiles)[TRT_MAX_ROWS][2][2] = {
    TRT_TILES_OF(1),  TRT_TILES_OF(2),  TRT_TILES_OF(3),  TRT_TILES_OF(4),  TRT_TILES_OF(5), TRT_TILES_OF(6),
#if TRT_MAX_ROWS > 6
    TRT_TILES_OF(7),  TRT_TILES_OF(8),  TRT_TILES_OF(9),  TRT_TILES_OF(10), TRT_TILES_OF(11), TRT_TILES_OF(12),
    TRT_TILES_OF(13), TRT_TILES_OF(14),
#endif
};

/* Pack B[0:k, 0:columns] in panels; the last one is filled up with zeros. */
TRT_TARGET static void TRT_TYPED(pack_columns)(const trt_matrix *b, ptrdiff_t first_row, ptrdiff_t first_column,
                                               ptrdiff_t k, ptrdiff_t columns, TRT_REAL *out)
{
    const char *source = b->data + first_row * b->row_step + first_column * b->column_step;
    for (ptrdiff_t j = 0; j < columns; j += TRT_PANEL, out += k * TRT_PANEL, source += TRT_PANEL * b->column_step) {
        ptrdiff_t width = columns - j < TRT_PANEL ? columns - j : TRT_PANEL;
        ptrdiff_t done = 0;
        if (width < TRT_PANEL)
            memset(out, 0, (size_t)(k * TRT_PANEL) * sizeof(TRT_REAL));
        if (b->column_step == sizeof(TRT_REAL)) {
            if (width == TRT_PANEL)
                for (ptrdiff_t p = 0; p < k; p++) {
                    const TRT_MEM_REAL *row = (const TRT_MEM_REAL *)(source + p * b->row_step);
                    TRT_STORE(out + p * TRT_PANEL, TRT_LOAD((const TRT_REAL *)row));
                    TRT_STORE(out + p * TRT_PANEL + TRT_LANES, TRT_LOAD((const TRT_REAL *)(row + TRT_LANES)));
                }
            else
                for (ptrdiff_t p = 0; p < k; p++)
                    memcpy(out + p * TRT_PANEL, source + p * b->row_step, (size_t)width * sizeof(TRT_REAL));
            continue;
        }
        if (b->row_step == sizeof(TRT_REAL))
            for (; done + TRT_BLOCK <= width; done += TRT_BLOCK) {
                const char *block = source + done * b->column_step;
                ptrdiff_t p = 0;
                for (; p + TRT_BLOCK <= k; p += TRT_BLOCK)
                    TRT_TYPED(transpose)(block + p * (ptrdiff_t)sizeof(TRT_REAL), b->column_step,
                                         out + p * TRT_PANEL + done, TRT_PANEL);
                for (; p < k; p++)
                    for (ptrdiff_t i = 0; i < TRT_BLOCK; i++)
                        out[p * TRT_PANEL + done + i] =
                            *(const TRT_MEM_REAL *)(block + i * b->column_step + p * (ptrdiff_t)sizeof(TRT_REAL));
            }
        for (; done < width; done++)
            for (ptrdiff_t p = 0; p < k; p++)
                out[p * TRT_PANEL + done] =
                    *(const TRT_MEM_REAL *)(source + p * b->row_step + done * b->column_step);
    }
}

/* Pack A[0:rows, 0:k], one panel; return whether it is by rows. A panel by columns may be written to a vector beyond
 * its end. */
TRT_TARGET static int TRT_TYPED(pack_rows)(const trt_matrix *a, ptrdiff_t first_row, ptrdiff_t first_column,
                                           ptrdiff_t rows, ptrdiff_t k, TRT_REAL *out)
{
    const char *source = a->data + first_row * a->row_step + first_column * a->column_step;
    if (a->column_step == sizeof(TRT_REAL)) {
        for (ptrdiff_t i = 0; i < rows; i++)
            memcpy(out + i * TRT_ROW_STEP, source + i * a->row_step, (size_t)k * sizeof(TRT_REAL));
        return 1;
    }
    if (a->row_step == sizeof(TRT_REAL)) {
        for (ptrdiff_t p = 0; p < k; p++, out += rows)
            TRT_TYPED(copy_few)(out, source + p * a->column_step, (int)rows);
        return 0;
    }
    for (ptrdiff_t p = 0; p < k; p++)
        for (ptrdiff_t i = 0; i < rows; i++)
            *out++ = *(const TRT_MEM_REAL *)(source + i * a->row_step + p * a->column_step);
    return 0;
}

/* C[first_row:+rows, first_column:+columns] = or += sum over inner [first_inner, first_inner + k). */
TRT_TARGET static void TRT_TYPED(tile_task)(const trt_product *work, const trt_tile *at, char *scratch)
{
    TRT_REAL *packed_b = (TRT_REAL *)scratch;
    TRT_REAL *packed_a = (TRT_REAL *)(scratch + TRT_PACKED_B_BYTES);
    TRT_REAL edge[TRT_MAX_ROWS * TRT_PANEL];
    ptrdiff_t panels = (at->rows + TRT_MAX_ROWS - 1) / TRT_MAX_ROWS;
    ptrdiff_t blocks = (at->inner + TRT_MAX_INNER - 1) / TRT_MAX_INNER;
    TRT_REAL *c = (TRT_REAL *)at->c;
    /* with one panel of rows each element of B is used once: it is read where it lies */
    int direct = panels == 1 && work->b.column_step == sizeof(TRT_REAL) &&
                 work->b.row_step % (ptrdiff_t)sizeof(TRT_REAL) == 0;
    for (ptrdiff_t block = 0; block < blocks; block++) {
        ptrdiff_t from = at->inner * block / blocks, k = at->inner * (block + 1) / blocks - from;
        int add = block > 0;
        ptrdiff_t packed_from = direct ? at->columns / TRT_PANEL * TRT_PANEL : 0;
        from += at->first_inner;
        if (packed_from < at->columns)
            TRT_TYPED(pack_columns)(&work->b, from, at->first_column + packed_from, k, at->columns - packed_from,
                                    packed_b);
        for (ptrdiff_t panel = 0; panel < panels; panel++) {
            ptrdiff_t row = at->rows * panel / panels, rows = at->rows * (panel + 1) / panels - row;
            int by_rows;
            if (work->pack_rows != NULL)
                by_rows = work->pack_rows(work->a_source, at->first_row + row, from, rows, k, TRT_ROW_STEP, packed_a);
            else
                by_rows = TRT_TYPED(pack_rows)(&work->a, at->first_row + row, from, rows, k, packed_a);
            for (ptrdiff_t column = 0; column < at->columns; column += TRT_PANEL) {
                ptrdiff_t width = at->columns - column < TRT_PANEL ? at->columns - column : TRT_PANEL;
                int vectors = width > TRT_LANES ? 2 : 1;
                const TRT_REAL *b = packed_b + (column - packed_from) * k;
                ptrdiff_t b_step = TRT_PANEL;
                TRT_REAL *target = c + row * at->c_step + column;
                TRT_TYPED(tile_fn) run = TRT_TYPED(tiles)[rows - 1][vectors - 1][by_rows];
                if (column < packed_from) {
                    b = (const TRT_REAL *)(work->b.data + from * work->b.row_step) + at->first_column + column;
                    b_step = work->b.row_step / (ptrdiff_t)sizeof(TRT_REAL);
                }
                if (width == vectors * TRT_LANES) {
                    run(k, packed_a, b, b_step, target, at->c_step, add);
                } else {
                    run(k, packed_a, b, b_step, edge, TRT_PANEL, 0);
                    for (ptrdiff_t i = 0; i < rows; i++)
                        for (ptrdiff_t j = 0; j < width; j++) {
                            TRT_REAL sum = edge[i * TRT_PANEL + j];
                            target[i * at->c_step + j] = add ? target[i * at->c_step + j] + sum : sum;
                        }
                }
            }
        }
    }
}

/* Columns [first, + columns) of a product of one row. Each element of B is used once, so what counts is to read it in
 * the order in which it lies: eight rows of it side by side, or, where it lies by columns, eight of those. */
TRT_TARGET static void TRT_TYPED(row_task)(const trt_product *work, ptrdiff_t first, ptrdiff_t columns)
{
    enum { WIDE = 8, MOST = 2048 };
    TRT_REAL x[MOST];
    TRT_REAL *c = (TRT_REAL *)work->c + first;
    const ptrdiff_t size = sizeof(TRT_REAL);
    for (ptrdiff_t from = 0; from < work->inner; from += MOST) {
        const ptrdiff_t k = work->inner - from < MOST ? work->inner - from : MOST;
        const char *b = work->b.data + from * work->b.row_step + first * work->b.column_step;
        for (ptrdiff_t p = 0; p < k; p++)
            x[p] = *(const TRT_MEM_REAL *)(work->a.data + (from + p) * work->a.column_step);
        if (work->b.column_step == size) {
            if (from == 0)
                memset(c, 0, (size_t)(columns * size));
            for (ptrdiff_t p = 0; p < k; p += WIDE, b += WIDE * work->b.row_step) {
                const ptrdiff_t rows = k - p < WIDE ? k - p : WIDE;
                ptrdiff_t j = 0;
                if (rows == WIDE) {
                    TRT_VECTOR factors[WIDE];
                    for (int i = 0; i < WIDE; i++)
                        factors[i] = TRT_SPLAT(x[p + i]);
                    for (; j + TRT_LANES <= columns; j += TRT_LANES) {
                        TRT_VECTOR even = TRT_LOAD(c + j), odd = TRT_ZERO();
                        for (int i = 0; i < WIDE; i += 2) {
                            even = TRT_FMA(factors[i], TRT_LOAD((const TRT_REAL *)(b + i * work->b.row_step) + j), even);
                            odd = TRT_FMA(factors[i + 1],
                                          TRT_LOAD((const TRT_REAL *)(b + (i + 1) * work->b.row_step) + j), odd);
                        }
                        TRT_STORE(c + j, TRT_ADD(even, odd));
                    }
                }
                for (; j < columns; j++)
                    for (ptrdiff_t i = 0; i < rows; i++)
                        c[j] += x[p + i] * ((const TRT_MEM_REAL *)(b + i * work->b.row_step))[j];
            }
            continue;
        }
        for (ptrdiff_t j = 0; j < columns; j += WIDE, b += WIDE * work->b.column_step) {
            const ptrdiff_t width = columns - j < WIDE ? columns - j : WIDE;
            TRT_VECTOR sums[WIDE];
            ptrdiff_t p = 0;
            for (int i = 0; i < WIDE; i++)
                sums[i] = TRT_ZERO();
            if (width == WIDE)
                for (; p + TRT_LANES <= k; p += TRT_LANES) {
                    const TRT_VECTOR factor = TRT_LOAD(x + p);
                    for (int i = 0; i < WIDE; i++)
                        sums[i] = TRT_FMA(factor, TRT_LOAD((const TRT_REAL *)(b + i * work->b.column_step) + p),
                                          sums[i]);
                }
            for (ptrdiff_t i = 0; i < width; i++) {
                TRT_REAL lanes[TRT_LANES], sum = 0;
                TRT_STORE(lanes, sums[i]);
                for (int lane = 0; lane < TRT_LANES; lane++)
                    sum += lanes[lane];
                for (ptrdiff_t q = p; q < k; q++)
                    sum += x[q] * ((const TRT_MEM_REAL *)(b + i * work->b.column_step))[q];
                c[j + i] = from ? c[j + i] + sum : sum;
            }
        }
    }
}

#undef TRT_PANEL
#undef TRT_TILE
#undef TRT_TILES
#undef TRT_TILES_OF
