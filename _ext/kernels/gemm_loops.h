/* The inner part of a matrix product, for the type and level of the including file's macros.
 *
 * A tile of C is computed block by block along the inner dimension, a panel of up to TRT_MAX_ROWS rows of A after the
 * other, each with all panels of two vectors of columns of B. The kernel keeps a panel's rows times two vectors of C in
 * registers. There is one for every number of rows, so that panels can be of equal height and nothing is computed for
 * padding. It reads A in one of two orders, by rows (a_step from one row to the next) or by columns (the rows of a column
 * lie together, a_step from one column to the next), where it lies or from a copy of the panel in the first-level cache.
 * The first panel of rows reads B where it lies, if its rows are contiguous, and leaves a copy for the others, in panels
 * that follow each other in the second-level cache.
 */

#define TRT_PANEL (2 * TRT_LANES)
#define TRT_SIZE ((ptrdiff_t)sizeof(TRT_REAL))
#define TRT_LINE 64
#define TRT_FETCH(p) _mm_prefetch(p, _MM_HINT_T1)

/* sums += A[0:rows, turn] B[turn, ...], for a turn of the loop below that stands at a and b */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(tile_turn)(
    const int turn, const int rows, const int vectors, const int by_rows, const int packs, const char *a, const char *a7,
    ptrdiff_t a_step, ptrdiff_t a_step3, ptrdiff_t a_step5, const char *b, TRT_REAL *packed,
    TRT_VECTOR sums[TRT_MAX_ROWS][2])
{
    TRT_VECTOR left = TRT_LOAD((const TRT_REAL *)b);
    TRT_VECTOR right = vectors > 1 ? TRT_LOAD((const TRT_REAL *)b + TRT_LANES) : left;
    if (packs) {
        TRT_STORE(packed + turn * TRT_PANEL, left);
        TRT_STORE(packed + turn * TRT_PANEL + TRT_LANES, right);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        const char *half = i < 7 ? a : a7;
        const int j = i % 7;
        const char *at = !by_rows ? (turn == 3 ? a + a_step3 : a + turn * a_step) + i * TRT_SIZE
            : (j == 0 ? half : j == 3 ? half + a_step3 : j == 5 ? half + a_step5 : j == 6 ? half + 2 * a_step3
               : half + j * a_step) + turn * TRT_SIZE;
        TRT_VECTOR x = TRT_SPLAT(*(const TRT_MEM_REAL *)at);
        TRT_ACCUMULATE(sums[i][0], x, left);
        if (vectors > 1)
            TRT_ACCUMULATE(sums[i][1], x, right);
    }
}

/* C[0:rows, 0:vectors * lanes] = or += A[0:rows, 0:k] B[0:k, ...]; steps of A and B in bytes.
 *
 * Whatever the loop does beside multiplying takes time from that, so addresses are multiples of few steps, which the
 * processor adds itself, for four turns at a time. */
TRT_TARGET static inline __attribute__((always_inline)) void TRT_TYPED(tile)(
    const int rows, const int vectors, const int by_rows, const int packs, ptrdiff_t k, const char *a, ptrdiff_t a_step,
    const char *b, ptrdiff_t b_step, TRT_REAL *packed, TRT_REAL *c, ptrdiff_t c_step, int add, const trt_fetch *fetch)
{
    TRT_VECTOR sums[TRT_MAX_ROWS][2];
    const char *a7 = a + 7 * a_step, *next = fetch->data;
    ptrdiff_t a_step3 = 3 * a_step, a_step5 = 5 * a_step, b_step3 = 3 * b_step, next_step = fetch->step;
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        sums[i][0] = TRT_ZERO();
        sums[i][1] = TRT_ZERO();
        if (add) { /* what is read at the end */
            _mm_prefetch((const char *)(c + i * c_step), _MM_HINT_T0);
            if (vectors > 1)
                _mm_prefetch((const char *)(c + i * c_step + TRT_LANES), _MM_HINT_T0);
        }
    }
#define TRT_TURN(turn, b_at) \
    TRT_TYPED(tile_turn)(turn, rows, vectors, by_rows, packs, a, a7, a_step, a_step3, a_step5, b_at, packed, sums)
    for (ptrdiff_t rest = k / 4; rest > 0; next += fetch->advance) {
        ptrdiff_t turns = rest < TRT_FETCH_TURNS / 4 ? rest : TRT_FETCH_TURNS / 4;
        rest -= turns;
        do {
            /* no pointers made of these outside of the loop */
            __asm__("" : "+r"(a_step), "+r"(a_step3), "+r"(b_step), "+r"(b_step3), "+r"(next_step));
            if (by_rows)
                __asm__("" : "+r"(a_step5));
            TRT_FETCH(next);
            TRT_TURN(0, b);
            next += next_step;
            TRT_FETCH(next);
            TRT_TURN(1, b + b_step);
            next += next_step;
            TRT_FETCH(next);
            TRT_TURN(2, b + 2 * b_step);
            next += next_step;
            TRT_FETCH(next);
            TRT_TURN(3, b + b_step3);
            next += next_step;
            b += 4 * b_step;
            a += by_rows ? 4 * TRT_SIZE : 4 * a_step;
            a7 += 4 * TRT_SIZE;
            packed += 4 * TRT_PANEL;
        } while (--turns > 0);
    }
    for (k %= 4; k > 0; k--) {
        __asm__("" : "+r"(a_step), "+r"(a_step3));
        if (by_rows)
            __asm__("" : "+r"(a_step5));
        TRT_TURN(0, b);
        b += b_step;
        a += by_rows ? TRT_SIZE : a_step;
        a7 += TRT_SIZE;
        packed += TRT_PANEL;
    }
#undef TRT_TURN
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
        TRT_REAL *row = c + i * c_step;
        TRT_STORE(row, add ? TRT_ADD(TRT_LOAD(row), sums[i][0]) : sums[i][0]);
        if (vectors > 1)
            TRT_STORE(row + TRT_LANES, add ? TRT_ADD(TRT_LOAD(row + TRT_LANES), sums[i][1]) : sums[i][1]);
    }
}

typedef void (*TRT_TYPED(tile_fn))(ptrdiff_t k, const char *a, ptrdiff_t a_step, const char *b, ptrdiff_t b_step,
                                   TRT_REAL *packed, TRT_REAL *c, ptrdiff_t c_step, int add, const trt_fetch *fetch);

#define TRT_TILE(rows, name, vectors, by_rows, packs)                                                           \
    TRT_TARGET static void TRT_TYPED(tile_##rows##_##name##_##by_rows)(                                         \
        ptrdiff_t k, const char *a, ptrdiff_t a_step, const char *b, ptrdiff_t b_step, TRT_REAL *packed,        \
        TRT_REAL *c, ptrdiff_t c_step, int add, const trt_fetch *fetch)                                         \
    {                                                                                                           \
        TRT_TYPED(tile)(rows, vectors, by_rows, packs, k, a, a_step, b, b_step, packed, c, c_step, add, fetch); \
    }
#define TRT_TILES(rows)                                                                      \
    TRT_TILE(rows, one, 1, 0, 0) TRT_TILE(rows, two, 2, 0, 0) TRT_TILE(rows, packing, 2, 0, 1) \
    TRT_TILE(rows, one, 1, 1, 0) TRT_TILE(rows, two, 2, 1, 0) TRT_TILE(rows, packing, 2, 1, 1)
#define TRT_TILES_OF(rows)                                                                                             \
    {                                                                                                                  \
        {TRT_TYPED(tile_##rows##_one_0), TRT_TYPED(tile_##rows##_two_0), TRT_TYPED(tile_##rows##_packing_0)},          \
        {TRT_TYPED(tile_##rows##_one_1), TRT_TYPED(tile_##rows##_two_1), TRT_TYPED(tile_##rows##_packing_1)}           \
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

/* by rows - 1, by_rows, and what it does with B */
static const TRT_TYPED(tile_fn) TRT_TYPED(tiles)[TRT_MAX_ROWS][2][3] = {
    TRT_TILES_OF(1),  TRT_TILES_OF(2),  TRT_TILES_OF(3),  TRT_TILES_OF(4),  TRT_TILES_OF(5), TRT_TILES_OF(6),
#if TRT_MAX_ROWS > 6
    TRT_TILES_OF(7),  TRT_TILES_OF(8),  TRT_TILES_OF(9),  TRT_TILES_OF(10), TRT_TILES_OF(11), TRT_TILES_OF(12),
    TRT_TILES_OF(13), TRT_TILES_OF(14),
#endif
};

/* Pack B[0:k, 0:columns] of at most a panel's columns; what is written beyond them, up to whole vectors, is zero. */
TRT_TARGET static void TRT_TYPED(pack_panel)(const trt_matrix *b, const char *source, ptrdiff_t k, ptrdiff_t columns,
                                             TRT_REAL *out)
{
    const ptrdiff_t width = columns > TRT_LANES ? TRT_PANEL : TRT_LANES;
    ptrdiff_t done = 0;
    if (b->column_step == TRT_SIZE) {
        const TRT_MASK left = TRT_FEW(columns), right = TRT_FEW(columns - TRT_LANES);
        for (ptrdiff_t p = 0; p < k; p++, source += b->row_step, out += width) {
            TRT_STORE(out, TRT_LOAD_FEW((const TRT_REAL *)source, left));
            if (width > TRT_LANES)
                TRT_STORE(out + TRT_LANES, TRT_LOAD_FEW((const TRT_REAL *)source + TRT_LANES, right));
        }
        return;
    }
    if (columns < width)
        memset(out, 0, (size_t)(k * width * TRT_SIZE));
    if (b->row_step == TRT_SIZE)
        for (; done + TRT_LANES <= columns; done += TRT_LANES) {
            const char *block = source + done * b->column_step;
            ptrdiff_t p = 0;
            for (; p + TRT_BLOCK <= k; p += TRT_BLOCK)
                TRT_TYPED(transpose)(block + p * TRT_SIZE, b->column_step, out + p * width + done, width);
            for (; p < k; p++)
                for (ptrdiff_t i = 0; i < TRT_LANES; i++)
                    out[p * width + done + i] =
                        *(const TRT_MEM_REAL *)(block + i * b->column_step + p * TRT_SIZE);
        }
    for (; done < columns; done++)
        for (ptrdiff_t p = 0; p < k; p++)
            out[p * width + done] = *(const TRT_MEM_REAL *)(source + p * b->row_step + done * b->column_step);
}

typedef struct {
    const char *data;
    ptrdiff_t step;
    int by_rows;
} TRT_TYPED(panel_of_a);

/* A[0:rows, 0:k] as the kernel reads it: where it lies, or packed. What is packed by columns may be written to a vector
 * beyond its end. */
TRT_TARGET static TRT_TYPED(panel_of_a) TRT_TYPED(take_rows)(const trt_matrix *a, const char *source, ptrdiff_t rows,
                                                             ptrdiff_t k, ptrdiff_t uses, TRT_REAL *out)
{
    TRT_TYPED(panel_of_a) panel = {(const char *)out, TRT_ROW_STEP_BYTES, 1};
    if (a->column_step == TRT_SIZE) {
        /* rows about a multiple of 4 KB apart would share the places of a few lines in the first-level cache */
        if (rows <= 4 || ((a->row_step + 128) & 4095) >= 256) {
            panel.data = source;
            panel.step = a->row_step;
            return panel;
        }
        for (ptrdiff_t i = 0; i < rows; i++)
            memcpy((char *)out + i * TRT_ROW_STEP_BYTES, source + i * a->row_step, (size_t)(k * TRT_SIZE));
        return panel;
    }
    panel.by_rows = 0;
    if (a->row_step == TRT_SIZE) {
        /* a column of a few rows fills a part of one or two lines: it is worth copying when it is read again and again */
        if (uses <= 2) {
            panel.data = source;
            panel.step = a->column_step;
            return panel;
        }
        const TRT_MASK first = TRT_FEW(rows), second = TRT_FEW(rows - TRT_LANES);
        for (ptrdiff_t p = 0; p < k; p++, out += rows, source += a->column_step) {
            TRT_STORE(out, TRT_LOAD_FEW((const TRT_REAL *)source, first));
            if (TRT_MAX_ROWS > TRT_LANES)
                TRT_STORE(out + TRT_LANES, TRT_LOAD_FEW((const TRT_REAL *)source + TRT_LANES, second));
        }
    } else {
        for (ptrdiff_t p = 0; p < k; p++)
            for (ptrdiff_t i = 0; i < rows; i++)
                *out++ = *(const TRT_MEM_REAL *)(source + i * a->row_step + p * a->column_step);
    }
    panel.step = rows * TRT_SIZE;
    return panel;
}

/* C[0:rows, 0:columns] = or += edge, which has rows of a panel's width */
TRT_TARGET static void TRT_TYPED(take_edge)(const TRT_REAL *edge, ptrdiff_t rows, ptrdiff_t columns, TRT_REAL *c,
                                            ptrdiff_t c_step, int add)
{
    const TRT_MASK masks[2] = {TRT_FEW(columns), TRT_FEW(columns - TRT_LANES)};
    const int vectors = columns > TRT_LANES ? 2 : 1;
    for (ptrdiff_t i = 0; i < rows; i++, edge += TRT_PANEL, c += c_step)
        for (int v = 0; v < vectors; v++) {
            TRT_VECTOR sum = TRT_LOAD(edge + v * TRT_LANES);
            if (add)
                sum = TRT_ADD(TRT_LOAD_FEW(c + v * TRT_LANES, masks[v]), sum);
            TRT_STORE_FEW(c + v * TRT_LANES, masks[v], sum);
        }
}

/* How many kernels it takes to fetch what lies next: `width` rows of A or columns of B. */
static inline ptrdiff_t TRT_TYPED(fetches)(ptrdiff_t inner_step, ptrdiff_t other_step, ptrdiff_t width)
{
    if (inner_step == TRT_SIZE)
        return (width + TRT_FETCH_TURNS - 1) / TRT_FETCH_TURNS * (TRT_SIZE / 4);
    return other_step == TRT_SIZE ? (width * TRT_SIZE + TRT_LINE - 1) / TRT_LINE : 0;
}

/* Fetch number `index` of them, by a kernel of k turns: a line of each of TRT_FETCH_TURNS rows (columns, of B) and then the
 * next line of these, which is needed after 16 turns of float or 8 of double; or, where they lie side by side, a line in
 * each turn. */
static inline trt_fetch TRT_TYPED(fetch)(const char *data, ptrdiff_t inner_step, ptrdiff_t other_step, ptrdiff_t k,
                                         ptrdiff_t index)
{
    trt_fetch fetch = {data + index * TRT_LINE, inner_step, 0};
    if (inner_step == TRT_SIZE) {
        const ptrdiff_t parts = TRT_SIZE / 4;
        fetch.data = data + index / parts * TRT_FETCH_TURNS * other_step + index % parts * (k / TRT_FETCH_TURNS * TRT_LINE);
        fetch.step = other_step;
        fetch.advance = TRT_LINE - TRT_FETCH_TURNS * other_step;
    }
    return fetch;
}

/* C[first_row:+rows, first_column:+columns] = or += sum over inner [first_inner, first_inner + inner). */
TRT_TARGET static void TRT_TYPED(tile_task)(const trt_product *work, const trt_tile *at, char *scratch)
{
    enum { ONE, TWO, PACKING };
    const trt_matrix *a = &work->a, *b = &work->b;
    TRT_REAL *packed_b = (TRT_REAL *)scratch, *packed_a = (TRT_REAL *)(scratch + TRT_PACKED_B_BYTES);
    TRT_REAL edge[TRT_MAX_ROWS * TRT_PANEL];
    const ptrdiff_t max_inner = TRT_INNER_BYTES / TRT_SIZE;
    const ptrdiff_t panels = (at->rows + TRT_MAX_ROWS - 1) / TRT_MAX_ROWS;
    const ptrdiff_t blocks = (at->inner + max_inner - 1) / max_inner;
    const ptrdiff_t uses = (at->columns + TRT_PANEL - 1) / TRT_PANEL;
    const trt_fetch nothing = {scratch, 0, 0};
    for (ptrdiff_t block = 0; block < blocks && !trt_gemm_stopped(at->stop); block++) {
        const ptrdiff_t begin = at->inner * block / blocks, k = at->inner * (block + 1) / blocks - begin;
        const ptrdiff_t from = at->first_inner + begin;
        const char *b_at = b->data + from * b->row_step + at->first_column * b->column_step;
        const char *next_b = b_at + k * b->row_step;
        ptrdiff_t b_fetches = TRT_TYPED(fetches)(b->row_step, b->column_step, at->columns), b_fetched = 0, calls = 0;
        const int add = block > 0 || work->adds;
        if (block == blocks - 1) {
            next_b += at->next_column * b->column_step - at->inner * b->row_step;
            if (at->next_column == 0)
                b_fetches = 0;
        }
        for (ptrdiff_t panel = 0; panel < panels; panel++) {
            const ptrdiff_t row = at->rows * panel / panels, rows = at->rows * (panel + 1) / panels - row;
            const char *a_at = a->data + (at->first_row + row) * a->row_step + from * a->column_step;
            const ptrdiff_t a_fetches =
                panel < panels - 1 ? TRT_TYPED(fetches)(a->column_step, a->row_step, TRT_MAX_ROWS) : 0;
            ptrdiff_t a_fetched = 0;
            TRT_REAL *c = (TRT_REAL *)at->c + row * at->c_step;
            const TRT_TYPED(panel_of_a) taken = TRT_TYPED(take_rows)(a, a_at, rows, k, uses, packed_a);
            const TRT_TYPED(tile_fn) *run = TRT_TYPED(tiles)[rows - 1][taken.by_rows];
            for (ptrdiff_t column = 0; column < at->columns; column += TRT_PANEL, calls++) {
                const ptrdiff_t width = at->columns - column < TRT_PANEL ? at->columns - column : TRT_PANEL;
                const int vectors = width > TRT_LANES ? 2 : 1;
                TRT_REAL *packed = packed_b + column * k;
                trt_fetch fetch = nothing;
                /* A and B by turns, B after the pass that reads what is needed now */
                if (a_fetched < a_fetches && (calls % 2 == 0 || panel == 0 || b_fetched == b_fetches))
                    fetch = TRT_TYPED(fetch)(a_at + rows * a->row_step, a->column_step, a->row_step, k, a_fetched++);
                else if (panel > 0 && b_fetched < b_fetches)
                    fetch = TRT_TYPED(fetch)(next_b, b->row_step, b->column_step, k, b_fetched++);
                if (panel == 0 && b->column_step == TRT_SIZE && width == TRT_PANEL) {
                    run[panels > 1 ? PACKING : TWO](k, taken.data, taken.step, b_at + column * TRT_SIZE, b->row_step,
                                                    packed, c + column, at->c_step, add, &fetch);
                    continue;
                }
                if (panel == 0)
                    TRT_TYPED(pack_panel)(b, b_at + column * b->column_step, k, width, packed);
                if (width == vectors * TRT_LANES) {
                    run[vectors > 1 ? TWO : ONE](k, taken.data, taken.step, (const char *)packed,
                                                 vectors * TRT_LANES * TRT_SIZE, NULL, c + column, at->c_step, add, &fetch);
                } else {
                    run[vectors > 1 ? TWO : ONE](k, taken.data, taken.step, (const char *)packed,
                                                 vectors * TRT_LANES * TRT_SIZE, NULL, edge, TRT_PANEL, 0, &fetch);
                    TRT_TYPED(take_edge)(edge, rows, width, c + column, at->c_step, add);
                }
            }
            if (work->finish != NULL && at->is_sum && block == blocks - 1)
                work->finish->run(work->finish, work->finish_row + at->first_row + row, rows, at->first_column,
                                  at->columns);
        }
    }
}

#include "kernels/gemm_row_loops.h"

#undef TRT_PANEL
#undef TRT_SIZE
#undef TRT_TILE
#undef TRT_TILES
#undef TRT_TILES_OF
